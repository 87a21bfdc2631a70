//! From the system's errors to ones that a model can act on.

use std::io::{Error, ErrorKind};

use bulkhead_tool::ToolError;

use crate::path::{Place, Workspace};
use crate::suggest;

/// The C library's error for a path below no directory that it was given:
/// `ENOTCAPABLE` of WASI.
const NOT_CAPABLE: i32 = 76;

/// What an error at `place` means to the caller.
pub fn io_fault(workspace: &Workspace, place: &Place, error: Error) -> ToolError {
    if error.raw_os_error() == Some(NOT_CAPABLE) {
        return ToolError::new(
            "not_granted",
            format!(
                "`{place}` is in no part of the workspace that this call was granted. Use a path in one that it was, \
                 or ask the task's owner for a grant."
            ),
        );
    }
    match error.kind() {
        ErrorKind::NotFound => suggest::not_found(workspace, place),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ToolError::new(
            "permission_denied",
            format!(
                "`{place}` may not be used in this way: either the workspace may not be written to, or a symbolic \
                 link leads out of it."
            ),
        ),
        ErrorKind::AlreadyExists => ToolError::new("already_exists", format!("`{place}` exists already.")),
        ErrorKind::IsADirectory => ToolError::new("is_a_directory", format!("`{place}` is a directory.")),
        ErrorKind::NotADirectory => {
            ToolError::new("not_a_directory", format!("A part of the path `{place}` is a file, not a directory."))
        }
        ErrorKind::DirectoryNotEmpty => {
            ToolError::new("directory_not_empty", format!("The directory `{place}` is not empty."))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ToolError::new(
            "no_space",
            format!(
                "`{place}` could not be written: the workspace's space or number of files is used up. Delete something first."
            ),
        ),
        ErrorKind::FileTooLarge => {
            ToolError::new("too_large", format!("`{place}` would become larger than a file may be."))
        }
        ErrorKind::InvalidFilename => {
            ToolError::new("invalid_arguments", format!("`{place}` is not a possible file name: a part is too long."))
        }
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            ToolError::new("io_error", format!("`{place}`: {error}. Try again.")).retryable()
        }
        _ => ToolError::new("io_error", format!("`{place}`: {error}.")),
    }
}
