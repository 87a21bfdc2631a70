//! What is refused before anything is opened: paths that are too long or too
//! deep, and a file too many.

use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::super::call::Call;
use super::super::tally::Held;
use super::View;
use super::paths::depths;
use crate::wire::StreamLimit;

/// A place among the open files of a call.
pub(super) fn place(call: &Call) -> Result<Held, ErrorCode> {
    call.files.take().ok_or_else(|| {
        call.truncated(StreamLimit::OpenFiles);
        ErrorCode::InsufficientMemory
    })
}

impl View<'_> {
    /// Refuses a path below `fd` that is too long or goes too deep; else how
    /// deep it ends.
    pub(super) fn checked(&self, fd: &Resource<Descriptor>, path: &str) -> FsResult<u64> {
        self.checked_from(self.paths.depth(fd.rep()), path)
    }

    /// The same for the target of a link at `link`.
    pub(super) fn checked_target(&self, fd: &Resource<Descriptor>, link: &str, target: &str) -> FsResult<()> {
        let beside = self.checked(fd, link)?.saturating_sub(1);
        self.checked_from(beside, target).map(|_| ())
    }

    fn checked_from(&self, from: u64, path: &str) -> FsResult<u64> {
        let limits = &self.call.limits;
        let bytes = path.len() as u64;
        if bytes > limits.path_bytes {
            return Err(self.too_long(StreamLimit::PathBytes, bytes).into());
        }
        let (most, end) = depths(from, path);
        if most > limits.path_depth { Err(self.too_long(StreamLimit::PathDepth, most).into()) } else { Ok(end) }
    }

    fn too_long(&self, limit: StreamLimit, wanted: u64) -> ErrorCode {
        self.call.refused(limit, Some(wanted));
        ErrorCode::NameTooLong
    }

    /// The places of a stream of `fd`. The file stays open as long as it.
    pub(super) fn stream_places(&self, fd: &Resource<Descriptor>) -> FsResult<(Held, Option<Arc<Held>>)> {
        let stream = self.call.stream().map_err(wasmtime_wasi::p2::FsError::trap)?;
        Ok((stream, self.paths.file(fd.rep())))
    }
}
