//! The child process of an import: the same executable, started with the
//! workspace as its working directory. It gives up its rights, does the work,
//! and prints one line of JSON.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use bulkhead_core::ports::import::{ImportError, Imported};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::protocol::{Kind, Report, Request};
use super::{confine, extract_archive, git};
use crate::{archive, beneath};

/// The `import` subcommand. `args` are those after `import`: what is to
/// be done, and the request. Call it first thing in `main`: threads that run
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
    let (kind, request) = parse(args).ok_or_else(|| failed("this command is for the server's own use"))?;
    let here = rustix::fs::open(".", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).map_err(io)?;
    let root = beneath::open_dir(here.as_fd(), b"").map_err(io)?;
    // Git looks for repositories and settings where it is started.
    rustix::process::chdir("/").map_err(io)?;
    confine::limit(kind, &request).map_err(io)?;
    *confined = confine::confine(root.as_fd(), kind, request.git.as_ref());
    let imported = match (kind, &request.git) {
        (_, Some(job)) => {
            die_with_host(copy(io::stdin().as_fd())?, PollFlags::IN);
            git::clone_into(job, root.as_fd(), request.limits)?
        }
        (Kind::Pack | Kind::Unpack, None) => {
            // The host reads the other end of it for as long as it lives.
            die_with_host(copy(io::stdout().as_fd())?, PollFlags::empty());
            let file = copy(io::stdin().as_fd())?;
            match kind {
                Kind::Pack => return archive::pack(root.as_fd(), File::from(file), request.limits),
                _ => archive::unpack(File::from(file), root.as_fd(), request.limits)?,
            }
        }
        (Kind::Archive | Kind::Git, None) => extract_archive(io::stdin().lock(), root.as_fd(), request.limits)?,
    };
    // A task that is said to be ready is still so after a crash.
    sync(root.as_fd())?;
    Ok(imported)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Option<(Kind, Request)> {
    let mut args = args.into_iter();
    let (kind, request) = (args.next()?, args.next()?);
    let request: Request = serde_json::from_str(request.to_str()?).ok()?;
    let kind = Kind::ALL.into_iter().find(|known| kind == known.name())?;
    let fits = (kind == Kind::Git) == request.git.is_some();
    (fits && args.next().is_none()).then_some((kind, request))
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, ImportError> {
    fd.try_clone_to_owned().map_err(ImportError::Io)
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
/// of `pipe` and does nothing to it of which `wait` tells. (The kernel's own
/// signal for this follows the thread that started us, and the host's threads
/// come and go.)
fn die_with_host(pipe: OwnedFd, wait: PollFlags) {
    std::thread::spawn(move || {
        loop {
            let mut fds = [PollFd::new(&pipe, wait)];
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
