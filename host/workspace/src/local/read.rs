//! Reading files: the size is fixed when the file is opened, and each chunk is
//! read on a blocking thread of its own turn, so that a slow client holds a
//! descriptor but no thread.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{ByteRange, ByteStream, Entry, OpenFile, WorkspaceError};
use bytes::Bytes;
use futures::stream;
use rustix::io::Errno;
use tokio_util::io::StreamReader;

use super::list::describe;
use crate::gate::Gate;
use crate::{beneath, error};

/// Bytes of one read: large enough that the hop to a blocking thread (some
/// 50 µs) costs little, small enough for a thousand readers at once.
const CHUNK: u64 = 256 * 1024;

/// An open file and the part of it that is wanted.
pub(super) struct Found {
    file: OwnedFd,
    entry: Entry,
    offset: u64,
    length: u64,
}

/// Opens a regular file.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &WorkspacePath,
    range: Option<ByteRange>,
) -> Result<Found, WorkspaceError> {
    let found = beneath::open_file(root, path.as_bytes()).map_err(error::at_entry(path))?;
    let entry = describe(&found.stat, path.clone());
    let (offset, length) = part(entry.size, range)?;
    Ok(Found { file: found.file, entry, offset, length })
}

/// First byte and length of a range of a file with `size` bytes (RFC 9110 §14.1.2).
fn part(size: u64, range: Option<ByteRange>) -> Result<(u64, u64), WorkspaceError> {
    let outside = Err(WorkspaceError::BadRange { size });
    match range {
        None => Ok((0, size)),
        Some(ByteRange::From(first, last)) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            if first >= size || first >= end { outside } else { Ok((first, end - first)) }
        }
        Some(ByteRange::Last(count)) => {
            let count = count.min(size);
            if count == 0 { outside } else { Ok((size - count, count)) }
        }
    }
}

impl Found {
    /// Its bytes, as a stream that reads when it is asked.
    pub(super) fn stream(self, gate: Gate) -> OpenFile {
        let (offset, length) = (self.offset, self.length);
        let file = Arc::new(self.file);
        let chunks = stream::try_unfold((offset, length), move |(at, left)| {
            let (gate, file) = (gate.clone(), Arc::clone(&file));
            async move {
                if left == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let chunk = gate.run(move || chunk(&file, at, left)).await.map_err(as_io)?;
                let read = chunk.len() as u64;
                Ok(Some((chunk, (at + read, left - read))))
            }
        });
        let stream: ByteStream = Box::pin(StreamReader::new(Box::pin(chunks)));
        OpenFile { entry: self.entry, offset, length, stream }
    }
}

fn as_io(error: WorkspaceError) -> io::Error {
    match error {
        WorkspaceError::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn chunk(file: &OwnedFd, at: u64, left: u64) -> Result<Bytes, WorkspaceError> {
    let mut buffer = vec![0; left.min(CHUNK) as usize];
    let read = loop {
        match rustix::io::pread(file, buffer.as_mut_slice(), at) {
            Err(Errno::INTR) => {}
            result => break result.map_err(error::host)?,
        }
    };
    if read == 0 {
        // A guest cut it short while it was read. The length is promised
        // already, so the stream can only break off.
        return Err(WorkspaceError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    buffer.truncate(read);
    Ok(buffer.into())
}
