//! Reads the policy again when one of its files changes. By looking, not by
//! being told: that works on every filesystem, and for files that are swapped
//! in by a link, as cluster managers do it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bulkhead_core::service::Services;
use tokio_util::sync::CancellationToken;

use super::{Loaded, PolicyError, load};

/// What tells that a file is another one: device, inode, size, time of change.
type Mark = Option<(u64, u64, u64, i64, i64)>;

fn mark(path: &Path) -> Mark {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// A policy's file, and what it was made of when it was last read.
#[derive(Debug)]
pub struct Loader {
    path: PathBuf,
    marks: Vec<(PathBuf, Mark)>,
    /// What was read last could not be put in force: it is tried again.
    failed: bool,
}

impl Loader {
    /// Reads the policy for the first time.
    ///
    /// # Errors
    /// If it can't be used; then the server does not start.
    pub fn first(path: &Path) -> Result<(Self, Loaded), PolicyError> {
        let mut loader = Self { path: path.to_owned(), marks: Vec::new(), failed: false };
        let loaded = loader.read()?;
        Ok((loader, loaded))
    }

    /// Marks are taken before the files are read: a change in between is seen
    /// at the next look.
    fn read(&mut self) -> Result<Loaded, PolicyError> {
        let mut paths: Vec<PathBuf> = self.marks.drain(..).map(|(path, _)| path).collect();
        if paths.is_empty() {
            paths.push(self.path.clone());
        }
        self.marks = paths.into_iter().map(|path| (path.clone(), mark(&path))).collect();
        let loaded = load(&self.path, &|name| std::env::var(name).ok())?;
        let known = std::mem::take(&mut self.marks);
        let known = |path: &PathBuf| known.iter().find(|(known, _)| known == path).map(|(_, mark)| *mark);
        self.marks =
            loaded.files.iter().map(|path| (path.clone(), known(path).unwrap_or_else(|| mark(path)))).collect();
        Ok(loaded)
    }

    fn changed(&self) -> bool {
        self.failed || self.marks.iter().any(|(path, known)| mark(path) != *known)
    }
}

/// Looks again and again until it is stopped. A policy that can't be used is
/// logged and counted, and the one before stays in force.
pub async fn watch(
    mut loader: Loader,
    services: Arc<crate::http::Api>,
    every: Duration,
    failures: Arc<AtomicU64>,
    stop: CancellationToken,
) {
    let mut last = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        // Files are small and local; still, a hung filesystem must not hold the runtime.
        let looked = tokio::task::spawn_blocking(move || {
            let read = loader.changed().then(|| loader.read());
            (loader, read)
        });
        // A filesystem that hangs must not hold up the stop.
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = looked => looked,
        };
        let Ok((back, read)) = looked else { return };
        loader = back;
        let installed = match read {
            None => continue,
            Some(Ok(loaded)) => install(&services.services, loaded).await.map_err(|error| error.to_string()),
            Some(Err(error)) => Err(error.to_string()),
        };
        loader.failed = installed.is_err();
        let error = installed.err().unwrap_or_default();
        // Tried again at each look; told once.
        if !error.is_empty() && error != last {
            failures.fetch_add(1, Relaxed);
            tracing::error!(error, "the changed policy can't be used; the one before stays in force");
        }
        last = error;
    }
}

/// Puts a policy in force.
///
/// # Errors
/// If its text can't be stored.
pub(crate) async fn install(services: &Services, loaded: Loaded) -> Result<(), bulkhead_core::Error> {
    for warning in loaded.warnings {
        tracing::warn!(warning, "about the policy");
    }
    services.grants.install(loaded.policy, &loaded.text).await.map(drop)
}
