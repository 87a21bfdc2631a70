//! The host's side of an import: starts the child, feeds it, waits for it, and
//! ends it and everything it started when it is done, late, or not wanted any
//! more. Nothing that the child or git wrote is interpreted but its one line.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use bulkhead_core::ports::import::{ImportError, Imported};
use bulkhead_core::ports::workspace::ByteStream;
use bulkhead_core::reached::words;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::protocol::{Kind, Report, Request, clean};
use super::{ImportConfig, code, over_bytes, refused};

/// Longest answer; the true ones are some hundred bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// How much of the child's standard error is kept for the log.
const STDERR_TAIL: usize = 8 * 1024;
const CHUNK: usize = 128 * 1024;

/// The child's process group. Killed when dropped, unless it is known to be gone.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // Its leader isn't waited for yet, so the number still is the group's.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is left when a child ended.
pub(super) struct Ended {
    pub(super) answer: Vec<u8>,
    pub(super) said: Vec<u8>,
    pub(super) status: ExitStatus,
}

/// What the child's standard input is.
pub(crate) enum Feed {
    /// An archive, as a client sends it.
    Body(ByteStream),
    /// A pipe that is held open, which tells the child that the host is alive.
    Nothing,
    /// An open file.
    File(Stdio),
}

/// Runs one import in a child process.
pub(crate) async fn run(
    config: &ImportConfig,
    kind: Kind,
    request: &Request,
    root: Arc<OwnedFd>,
    feed: Feed,
) -> Result<Imported, ImportError> {
    let (stdin, body) = match feed {
        Feed::Body(body) => (Stdio::piped(), Some(body)),
        Feed::Nothing => (Stdio::piped(), None),
        Feed::File(file) => (file, None),
    };
    let mut child = command(config, kind, request, &root)?.stdin(stdin).spawn().map_err(ImportError::Io)?;
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    // Dropped before `child`, which is reaped only after that.
    let mut group = Group(pid);
    let stdin = child.stdin.take();
    let work = async {
        tokio::select! {
            ended = end(&mut child, &mut group) => ended.map_err(ImportError::Io),
            error = send(stdin, body) => Err(error),
        }
    };
    let ended = tokio::time::timeout(config.timeout, work).await.unwrap_or_else(|_| {
        let limit = u64::try_from(config.timeout.as_millis()).unwrap_or(u64::MAX);
        Err(refused(code::LIMIT_TIME, words("import.timeout_ms", limit, "")))
    });
    if ended.is_err() {
        group.kill();
        // Killed, so this is short; it leaves no zombie behind.
        let _ = child.wait().await;
    }
    judge(config, ended?)
}

fn command(config: &ImportConfig, kind: Kind, request: &Request, root: &OwnedFd) -> Result<Command, ImportError> {
    let json = serde_json::to_string(request).map_err(|error| ImportError::Io(error.into()))?;
    let mut command = Command::new(&config.exe);
    command.args(&config.args_prefix).arg(kind.name()).arg(json);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH").filter(|_| request.git.is_some()) {
        command.env("PATH", path);
    }
    // Between fork and exec the descriptor is still there, so its name in /proc
    // leads the child to the very directory, wherever it lies by now.
    command.current_dir(format!("/proc/self/fd/{}", root.as_raw_fd()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// Reads what the child says until it ended, and everything it started with it.
async fn end(child: &mut Child, group: &mut Group) -> io::Result<Ended> {
    let pid = group.0.ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Told by the pidfd, the child isn't reaped yet: its number can't be
    // another's when its group is killed, which closes the pipes as well.
    let exit = async {
        let exited = tokio::task::spawn_blocking(move || wait(&pidfd)).await;
        group.kill();
        exited
    };
    let (exited, answer, said) = tokio::join!(exit, keep(stdout, Keep::Head), keep(stderr, Keep::Tail));
    exited.map_err(io::Error::other)??;
    let status = child.wait().await?;
    Ok(Ended { answer, said, status })
}

/// Waits until a process ended, without reaping it. One blocking thread for
/// each import, of which there are few; it ends with the process, which is
/// killed in any case.
fn wait(pidfd: &OwnedFd) -> rustix::io::Result<()> {
    loop {
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

#[derive(Clone, Copy)]
enum Keep {
    Head,
    Tail,
}

/// Reads a stream to its end and keeps a bounded part of it.
async fn keep(stream: Option<impl AsyncRead + Unpin>, part: Keep) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 4096]);
    let Some(mut stream) = stream else { return kept };
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
        match part {
            Keep::Head => kept.truncate(MAX_ANSWER),
            Keep::Tail => drop(kept.drain(..kept.len().saturating_sub(STDERR_TAIL))),
        }
    }
    kept
}

/// Sends the archive. Returns only if it breaks off: else the child's end is
/// what counts. Without an archive the pipe is held open, which tells the child
/// that the host is alive.
async fn send(stdin: Option<ChildStdin>, body: Option<ByteStream>) -> ImportError {
    let held = match (stdin, body) {
        (Some(mut stdin), Some(mut body)) => {
            let mut buffer = vec![0; CHUNK];
            loop {
                match body.read(&mut buffer).await {
                    Ok(0) => break None,
                    // A child that doesn't read on has its answer already.
                    Ok(read) => {
                        if stdin.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
                            break None;
                        }
                    }
                    Err(_) => return refused(code::NOT_AN_ARCHIVE, "the upload broke off"),
                }
            }
        }
        (stdin, _) => stdin,
    };
    std::future::pending::<()>().await;
    drop(held);
    refused(code::LIMIT_TIME, "the import did not end")
}

/// What it means that a child ended like this.
pub(super) fn judge(config: &ImportConfig, ended: Ended) -> Result<Imported, ImportError> {
    let line = ended.answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if let Ok(report) = serde_json::from_slice::<Report>(line) {
        if !report.confined() {
            tracing::warn!("an import ran without Landlock, which this kernel lacks or refused");
        }
        return report.into_result();
    }
    match ended.status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU) => Err(refused(code::LIMIT_TIME, "the import took too much processor time")),
        Some(Signal::XFSZ) => Err(over_bytes(config.limits.max_bytes)),
        _ => {
            let said = clean(&String::from_utf8_lossy(&ended.said));
            Err(ImportError::Io(io::Error::other(format!("the import process ended with {}: {said}", ended.status))))
        }
    }
}
