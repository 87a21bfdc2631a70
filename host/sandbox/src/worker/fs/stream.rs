//! Streams of files, inline: a `pread` or `pwrite` where the stock ones hop to
//! another thread, with counters.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bulkhead_core::event::ChangeKind;
use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::super::call::Call;
use super::super::tally::Held;
use crate::wire::StreamLimit;

/// Most bytes per host call.
pub(super) const CHUNK: usize = 64 * 1024;

/// Reads a file from a position. It holds the places of a stream and, beyond
/// the life of the descriptor that it was made from, of an open file.
pub(super) struct Reader {
    pub(super) file: Arc<std::fs::File>,
    pub(super) position: u64,
    pub(super) call: Arc<Call>,
    pub(super) _held: (Held, Option<Arc<Held>>),
}

#[async_trait::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {}
}

impl Reader {
    /// Reads what comes next; nothing at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            match self.file.read_at(buffer, self.position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.position += read as u64;
        self.call.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = vec![0; size.min(CHUNK)];
        let read = self.fill(&mut buffer).map_err(|error| StreamError::LastOperationFailed(error.into()))?;
        if read == 0 {
            return Err(StreamError::Closed);
        }
        buffer.truncate(read);
        Ok(buffer.into())
    }
}

/// Where a writer writes.
#[derive(Clone, Copy)]
pub(super) enum Place {
    At(u64),
    End,
}

/// Writes a file from a position or at its end.
pub(super) struct Writer {
    pub(super) file: Arc<std::fs::File>,
    pub(super) place: Place,
    pub(super) call: Arc<Call>,
    pub(super) path: Option<String>,
    pub(super) recorded: bool,
    pub(super) _held: (Held, Option<Arc<Held>>),
}

impl Writer {
    /// Writes, and notes at the first time that the file changes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.recorded {
            self.recorded = true;
            self.call.changed(ChangeKind::Modified, self.path.as_deref());
        }
        self.write_all(bytes)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let start = match self.place {
            Place::At(position) => position,
            Place::End => size,
        };
        let end = start.saturating_add(bytes.len() as u64);
        check_size(&self.call, end, size)?;
        self.call.take_bytes(end.saturating_sub(size))?;
        while !bytes.is_empty() {
            let wrote = match self.place {
                Place::At(position) => self.file.write_at(bytes, position),
                Place::End => {
                    let slices = [io::IoSlice::new(bytes)];
                    rustix::io::pwritev2(&self.file, &slices, 0, ReadWriteFlags::APPEND).map_err(io::Error::from)
                }
            };
            let wrote = match wrote {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => other?,
            };
            if let Place::At(position) = &mut self.place {
                *position += wrote as u64;
            }
            self.call.written.fetch_add(wrote as u64, Relaxed);
            bytes = &bytes[wrote..];
        }
        Ok(())
    }
}

/// Refuses to make a file larger than the call may.
pub(super) fn check_size(call: &Call, end: u64, size: u64) -> io::Result<()> {
    if end > call.limits.file_bytes && end > size {
        call.refused(StreamLimit::FileBytes, Some(end));
        return Err(rustix::io::Errno::FBIG.into());
    }
    Ok(())
}

#[async_trait::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}
