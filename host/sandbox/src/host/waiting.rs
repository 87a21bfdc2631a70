//! Worker processes that wait to be told whom they serve, so that the first call of a
//! tenant needs not wait for a process to come up. Such a process has one thread and
//! has opened nothing; it takes the first message, puts its walls up, and serves that
//! tenant until it ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::process::Child;

use super::apart::OwnUser;
use super::pool::Pool;

/// A worker process.
pub(super) struct Process {
    /// The host's end of its socket.
    pub(super) socket: OwnedFd,
    pub(super) child: Child,
    /// Its own, unless that is the server's.
    pub(super) user: Option<OwnUser>,
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    ready: VecDeque<Process>,
    /// How many are on their way.
    coming: usize,
    /// No more are taken in.
    closed: bool,
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has waited longest and is still there.
    fn take(&self) -> Option<Process> {
        let mut state = self.state();
        while let Some(mut process) = state.ready.pop_front() {
            // Somebody may have killed it meanwhile.
            if matches!(process.child.try_wait(), Ok(None)) {
                return Some(process);
            }
        }
        None
    }

    /// Whether another is to be started; then it is counted as coming.
    fn wants(&self, most: usize) -> bool {
        let mut state = self.state();
        let wants = !state.closed && state.ready.len() + state.coming < most;
        state.coming += usize::from(wants);
        wants
    }

    /// Takes one in that was coming, or notes that it does not come. Dropped, it is killed.
    fn came(&self, process: io::Result<Process>) {
        let mut state = self.state();
        state.coming -= 1;
        match process {
            Ok(process) if !state.closed => state.ready.push_back(process),
            Ok(_) => {}
            // The next call that needs one fails for the same reason, and says so.
            Err(error) => tracing::debug!(%error, "no worker could be started ahead"),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.state().ready.len()
    }

    /// Lets all go; they end when their sockets close.
    pub(super) async fn close(&self) {
        let all = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        for Process { socket, mut child, .. } in all {
            drop(socket);
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
    }
}

impl Pool {
    /// A worker process: one that waits, or a new one. Others are started in its place.
    pub(super) async fn process(self: &Arc<Self>) -> io::Result<Process> {
        let waiting = self.waiting.take();
        self.start_ahead();
        match waiting {
            Some(process) => Ok(process),
            None => self.spawn_process(self.apart.is_wanted()).await,
        }
    }

    /// Starts processes until as many wait as should.
    pub(super) fn start_ahead(self: &Arc<Self>) {
        while self.waiting.wants(self.config.waiting_workers) {
            let pool = self.clone();
            self.tasks.spawn(async move { pool.waiting.came(pool.spawn_process(pool.apart.is_wanted()).await) });
        }
    }
}
