//! What goes on without a client: finishing what a crash left half done, purging what
//! was kept for long enough, forgetting uploads and records.

use std::time::Duration;

use tokio::time::Instant;

use super::Files;
use super::deleted::Busy;
use crate::dispatch::chain;
use crate::error::Error;
use crate::files::{DeletedFile, DeletedState};
use crate::ports::cluster::Holder;
use crate::ports::files::{FileRetention, FilesRetained};
use crate::service::steady::Steady;

/// Rows looked at at once.
const PAGE: u32 = 200;
/// Bounded removals of one round of retention.
const ROUNDS: u32 = 50;

impl Files {
    /// Finishes what an earlier run left half done, then tends what is kept. To be
    /// called once, before any client is served.
    ///
    /// # Errors
    /// If the store fails; then the host must not start.
    pub(in crate::service) async fn start(&self, every: Duration) -> Result<(), Error> {
        self.tend_deleted(false).await?;
        let this = self.clone();
        self.parts.tracker.spawn(async move {
            let stop = this.parts.stop.clone();
            let mut steady = Steady::new(this.parts.ports.ids.now(), Instant::now());
            while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                let believed = steady.believes(&this.parts.ports).await;
                this.tend(believed).await;
            }
        });
        self.parts.accesses.start(&self.parts.tracker);
        Ok(())
    }

    /// Waits for what is going on, and stores what is left of the access log.
    pub(in crate::service) async fn shutdown(&self) {
        self.parts.stop.cancel();
        self.parts.accesses.close();
        self.parts.tracker.close();
        self.parts.tracker.wait().await;
    }

    /// Removes nothing for its age unless the clock is `believed`.
    async fn tend(&self, believed: bool) {
        let tended = async {
            self.tend_deleted(believed).await?;
            if !believed {
                return Ok(());
            }
            self.tend_uploads().await?;
            self.retain().await
        };
        if let Err(error) = tended.await {
            tracing::warn!(error = %chain(&error), "deleted files and uploads could not be tended; it is tried again");
        }
    }

    /// Finishes what is half done, and purges what was kept for long enough, which may
    /// take a while.
    async fn tend_deleted(&self, purge: bool) -> Result<(), Error> {
        let ports = &self.parts.ports;
        let before = ports.ids.now().plus_millis(-self.parts.config.keep_deleted_ms);
        let mut after = None;
        loop {
            let page = ports.store.deleted_to_tend(before, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for file in page.into_iter().filter(|file| purge || file.state != DeletedState::Kept) {
                if let Err(error) = self.tend_one(&file).await {
                    tracing::warn!(id = %file.id, task = %file.task, error = %chain(&error), "a deleted file could not be tended");
                }
            }
        }
    }

    /// What another host holds is that one's to tend.
    async fn tend_one(&self, file: &DeletedFile) -> Result<(), Error> {
        let ports = &self.parts.ports;
        if ports.cluster.hold(file.task).await? != Some(Holder::Here) {
            return Ok(());
        }
        if file.state == DeletedState::Kept {
            self.purge_one(file.owner, file.task, file.id).await?;
            return Ok(());
        }
        let Some(_busy) = Busy::with(self, file.id) else { return Ok(()) };
        // It may have come further since it was read.
        let now = ports.store.deleted(file.task, file.id).await?;
        let task = ports.store.task(file.owner, file.task).await?;
        if let (Some(file), Some(task)) = (now, task) {
            self.settle(&task, &file).await?;
        }
        Ok(())
    }

    async fn tend_uploads(&self) -> Result<(), Error> {
        let ports = &self.parts.ports;
        let (now, mut after) = (ports.ids.now(), None);
        loop {
            let page = ports.store.expired_uploads(now, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for upload in page {
                if ports.cluster.hold(upload.task).await? != Some(Holder::Here) {
                    continue;
                }
                ports.workspaces.drop_upload((upload.owner.tenant, upload.task), upload.id).await?;
                ports.store.remove_upload(upload.task, upload.id).await?;
                self.parts.quotas.forget(upload.task);
            }
        }
    }

    async fn retain(&self) -> Result<(), Error> {
        let (ports, config) = (&self.parts.ports, &self.parts.config);
        let now = ports.ids.now();
        let retention = FileRetention {
            history_before: now.plus_millis(-config.history_ms),
            history_per_task: config.history_per_task,
            accesses_before: now.plus_millis(-config.accesses_ms),
        };
        for _ in 0..ROUNDS {
            let FilesRetained { history, accesses } = ports.store.retain_files(retention).await?;
            if (history, accesses) == (0, 0) {
                break;
            }
            tracing::info!(history, accesses, "removed what need not be kept of files");
        }
        Ok(())
    }
}
