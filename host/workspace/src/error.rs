//! System errors as the port's errors. What a guest can bring about by what it
//! puts into its workspace is never the host's fault.

use bulkhead_core::path::{WorkspacePath, display};
use bulkhead_core::ports::workspace::WorkspaceError;
use rustix::io::Errno;

use crate::beneath::MakeError;

/// What `errno` means for `path`.
pub(crate) fn at(path: &WorkspacePath) -> impl Fn(Errno) -> WorkspaceError {
    let bytes = path.as_bytes().to_vec();
    move |errno| meaning(&bytes, errno)
}

/// What it means that a directory on the way to `path` could not be made.
pub(crate) fn making(path: &WorkspacePath) -> impl Fn(MakeError) -> WorkspaceError {
    let bytes = path.as_bytes().to_vec();
    move |error| meaning(bytes.get(..error.at).unwrap_or(&bytes), error.errno)
}

/// An error that concerns no path of the client.
pub(crate) fn host(errno: Errno) -> WorkspaceError {
    match errno {
        Errno::NOSPC | Errno::DQUOT => WorkspaceError::DiskFull,
        errno => WorkspaceError::Io(errno.into()),
    }
}

/// As `at`, for a directory that is to be read: a file in its place is said so.
pub(crate) fn at_directory(path: &WorkspacePath) -> impl Fn(Errno) -> WorkspaceError {
    let at = at(path);
    let text = path.to_text();
    move |errno| match errno {
        Errno::NOTDIR => WorkspaceError::NotADirectory(text.clone()),
        errno => at(errno),
    }
}

/// As `at`, for an entry that is looked up: nothing can lie below a file.
pub(crate) fn at_entry(path: &WorkspacePath) -> impl Fn(Errno) -> WorkspaceError {
    let at = at(path);
    let text = path.to_text();
    move |errno| match errno {
        Errno::NOTDIR => WorkspaceError::NotFound(text.clone()),
        errno => at(errno),
    }
}

fn meaning(path: &[u8], errno: Errno) -> WorkspaceError {
    let text = || display(path);
    let bad = |reason| WorkspaceError::BadPath { path: display(path), reason };
    match errno {
        Errno::NOENT => WorkspaceError::NotFound(text()),
        Errno::EXIST => WorkspaceError::Exists(text()),
        Errno::NOTDIR => WorkspaceError::NotADirectory(text()),
        Errno::ISDIR => WorkspaceError::IsADirectory(text()),
        Errno::NOTEMPTY => WorkspaceError::NotEmpty(text()),
        // A link, a mount, or something that can't be opened (socket: ENXIO).
        Errno::LOOP | Errno::XDEV | Errno::NXIO => WorkspaceError::NotRegular(text()),
        // A guest took the rights from its own file.
        Errno::ACCESS | Errno::PERM => bad("its permissions don't allow it"),
        Errno::NAMETOOLONG => bad("it is too long for the filesystem"),
        Errno::ILSEQ => bad("the filesystem doesn't take such names"),
        Errno::BUSY => bad("it is in use by the system"),
        errno => host(errno),
    }
}
