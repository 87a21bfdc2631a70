//! Starts processes from one thread that lives as long as the sandbox. The
//! kernel ends a worker when the *thread* that started it ends; a thread of the
//! runtime's pool may end at any time.

use std::io;
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Request {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The thread that starts processes.
pub(super) struct Spawner {
    thread: Mutex<Option<(mpsc::Sender<Request>, JoinHandle<()>)>>,
}

impl Spawner {
    /// Starts the thread. Must be called within a runtime.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, requests) = mpsc::channel::<Request>();
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let work = move || {
            let _entered = runtime.enter();
            for Request { mut command, reply } in requests {
                // If nobody waits any more, dropping the child kills it.
                let _ = reply.send(command.spawn());
            }
        };
        let thread = std::thread::Builder::new().name("spawner".into()).spawn(work)?;
        Ok(Self { thread: Mutex::new(Some((sender, thread))) })
    }

    /// Starts a process.
    pub(super) async fn spawn(&self, mut command: Command) -> io::Result<Child> {
        command.kill_on_drop(true);
        let (reply, child) = oneshot::channel();
        let request = Request { command, reply };
        let sender =
            self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(sender, _)| sender.clone());
        let gone = || io::Error::other("the sandbox is shut down");
        sender.ok_or_else(gone)?.send(request).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((sender, thread)) = thread {
            drop(sender);
            if thread.join().is_err() {
                tracing::error!("the thread that starts workers panicked");
            }
        }
    }
}

/// A command that inherits nothing.
pub(super) fn command(exe: &std::path::Path, args: &[String]) -> Command {
    let mut command = Command::new(exe);
    command.args(args).env_clear().current_dir("/");
    command
}
