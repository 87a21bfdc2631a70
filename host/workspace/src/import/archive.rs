//! Unpacking archives: tar, plain or compressed with gzip, told apart by their
//! first bytes.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use bulkhead_core::ports::import::{ImportError, Imported};
use flate2::read::MultiGzDecoder;

use super::fill::Filler;
use super::tar::{Tar, fill};
use super::{ImportLimits, code, over_bytes, refused};

/// How much an archive may hold besides its files' bytes: a header, long names
/// and padding for each entry. A bomb of what is left out stops here.
const OVERHEAD_PER_ENTRY: u64 = 4096;
/// And the blocks at its end.
const OVERHEAD: u64 = 1 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Unpacks `archive` into the directory `root`, within the limits. What can't
/// be had safely is left out and counted.
///
/// # Errors
/// `not_an_archive`, `limit_entries`, `limit_bytes`; then a part is there.
pub fn extract_archive(
    archive: impl Read,
    root: BorrowedFd<'_>,
    limits: ImportLimits,
) -> Result<Imported, ImportError> {
    // Compressed bytes are counted as well: empty members of gzip make none.
    let mut archive = Limited::new(archive, limits);
    let mut magic = [0; 2];
    let read = fill(&mut archive, &mut magic).map_err(|error| broken(&error))?;
    let head = io::Cursor::new(magic).take(read as u64);
    let whole = head.chain(archive);
    if magic == GZIP {
        unpack(Limited::new(MultiGzDecoder::new(whole), limits), root, limits)
    } else {
        unpack(whole, root, limits)
    }
    .map_err(|error| with_limit(error, limits))
}

fn unpack(mut archive: impl Read, root: BorrowedFd<'_>, limits: ImportLimits) -> Result<Imported, ImportError> {
    let mut tar = Tar::new(&mut archive, limits.max_entries);
    let mut filler = Filler::new(root, limits);
    while let Some(entry) = tar.next()? {
        filler.add(&entry, &mut tar)?;
    }
    // To the end, so that gzip's checksum is checked.
    io::copy(&mut archive, &mut io::sink()).map_err(|error| broken(&error))?;
    Ok(filler.finish())
}

/// What it means that an archive can't be read on.
pub(super) fn broken(error: &io::Error) -> ImportError {
    match error.kind() {
        // `Limited` says so; the limit is filled in by the caller, who knows it.
        io::ErrorKind::QuotaExceeded => over_bytes(0),
        io::ErrorKind::UnexpectedEof => refused(code::NOT_AN_ARCHIVE, "the archive breaks off"),
        _ => refused(code::NOT_AN_ARCHIVE, "the archive is damaged"),
    }
}

fn with_limit(error: ImportError, limits: ImportLimits) -> ImportError {
    match error {
        ImportError::Refused { code: code::LIMIT_BYTES, .. } => over_bytes(limits.max_bytes),
        error => error,
    }
}

/// A reader that fails once more was read than an archive within the limits has.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R> Limited<R> {
    fn new(inner: R, limits: ImportLimits) -> Self {
        let overhead = limits.max_entries.saturating_mul(OVERHEAD_PER_ENTRY).saturating_add(OVERHEAD);
        Self { inner, left: limits.max_bytes.saturating_add(overhead) }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !to.is_empty() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let room = to.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.inner.read(to.get_mut(..room).unwrap_or_default())?;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
