//! A gate before the blocking threads. Tokio has one pool for everybody; a
//! flood of file requests on a slow disk must not take all of it.

use std::sync::Arc;

use bulkhead_core::ports::workspace::WorkspaceError;
use tokio::sync::Semaphore;

/// Lets so many blocking jobs run at once; the others wait.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(at_once)) }
    }

    /// Runs `job` on a blocking thread. The permit goes with the job, so that a
    /// caller who gives up doesn't make room before there is room.
    pub(crate) async fn run<T, F>(&self, job: F) -> Result<T, WorkspaceError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(broken)?;
        tokio::task::spawn_blocking(move || {
            let result = job();
            drop(permit);
            result
        })
        .await
        .map_err(broken)?
    }
}

/// The semaphore is never closed and the jobs don't panic; if they do, or the
/// runtime goes away, it is the host's fault.
fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WorkspaceError {
    WorkspaceError::Io(std::io::Error::other(error))
}
