//! The child process of an import: the same executable, started with the
//! workspace as its working directory. It gives up its rights, does the work,
//! and prints one line of JSON.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use bulkhead_core::ports::import::{ImportError, Imported};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::protocol::{Report, Request};
use super::{confine, extract_archive, git};
use crate::beneath;

/// The `import` subcommand. `args` are those after `import`: `archive` or
/// `git`, and the request. Call it first thing in `main`: threads that run
/// already would not be confined.
///
/// Succeeds if it printed a report, whatever that says.
pub fn import_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut confined = false;
    let result = run(args, &mut confined);
    let Ok(mut line) = serde_json::to_vec(&Report::new(result, confined)) else { return ExitCode::FAILURE };
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&line).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(args: impl IntoIterator<Item = OsString>, confined: &mut bool) -> Result<Imported, ImportError> {
    let request = parse(args).ok_or_else(|| failed("this command is for the server's own use"))?;
    let here = rustix::fs::open(".", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).map_err(io)?;
    let root = beneath::open_dir(here.as_fd(), b"").map_err(io)?;
    // Git looks for repositories and settings where it is started.
    rustix::process::chdir("/").map_err(io)?;
    confine::limit(&request).map_err(io)?;
    *confined = confine::confine(root.as_fd(), request.git.as_ref());
    let imported = match &request.git {
        None => extract_archive(io::stdin().lock(), root.as_fd(), request.limits)?,
        Some(job) => {
            die_with_host();
            git::clone_into(job, root.as_fd(), request.limits)?
        }
    };
    // A task that is said to be ready is still so after a crash.
    sync(root.as_fd())?;
    Ok(imported)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Request> {
    let mut args = args.into_iter();
    let (kind, request) = (args.next()?, args.next()?);
    let request: Request = serde_json::from_str(request.to_str()?).ok()?;
    let fits = kind == if request.git.is_some() { "git" } else { "archive" };
    (fits && args.next().is_none()).then_some(request)
}

fn sync(root: BorrowedFd<'_>) -> Result<(), ImportError> {
    rustix::fs::syncfs(root).map_err(io)
}

fn io(errno: rustix::io::Errno) -> ImportError {
    ImportError::Io(errno.into())
}

fn failed(message: &'static str) -> ImportError {
    ImportError::Io(io::Error::other(message))
}

/// Ends this process and git's when the host is gone, which holds the other end
/// of standard input and never writes to it. (The kernel's own signal for this
/// follows the thread that started us, and the host's threads come and go.)
fn die_with_host() {
    std::thread::spawn(|| {
        let stdin = io::stdin();
        loop {
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
        let group = rustix::process::getpgrp();
        // Only a group that was made for us; else it is the caller's own.
        if group == rustix::process::getpid() {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        std::process::abort();
    });
}
