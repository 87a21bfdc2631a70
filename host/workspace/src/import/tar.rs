//! Reading tar: entries one after the other, nothing kept. The `tar` crate
//! parses the header blocks; the framing is our own, because the crate reads
//! long names and pax records whole, however long an archive claims they are,
//! and expands sparse files.

use std::io::{self, Read};

use ::tar::{EntryType, Header};
use bulkhead_core::ports::import::ImportError;

use super::archive::broken;
use super::{code, over_entries, refused};

const BLOCK: usize = 512;
/// Longest name or set of pax records, in bytes. The kernel takes paths of
/// 4,096 bytes; the rest is room for records that are ignored.
const MAX_META: u64 = 64 * 1024;
/// Headers for one entry: long name, long link, pax records, itself.
const HEADERS_PER_ENTRY: u64 = 4;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// Anything that is left out: devices, pipes, sparse files, unknown types.
    Other,
}

/// One entry; its content is read from the [`Tar`].
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    /// Where a link points.
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// Long values for the entry that follows.
#[derive(Default)]
struct Meta {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// The entry can't be represented, so it is left out.
    unusable: bool,
}

/// The entries of an archive.
pub(super) struct Tar<R> {
    reader: R,
    /// What is left of the current entry's content, and its padding.
    left: u64,
    padding: u64,
    headers: u64,
    max_entries: u64,
}

impl<R: Read> Tar<R> {
    pub(super) fn new(reader: R, max_entries: u64) -> Self {
        Self { reader, left: 0, padding: 0, headers: 0, max_entries }
    }

    /// The next entry; what is left of the current one is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ImportError> {
        let mut meta = Meta::default();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| malformed("the size of an entry is not a number"))?;
            let kind = header.entry_type();
            self.enter(size);
            match kind {
                EntryType::GNULongName => meta.path = self.meta(size, &mut meta.unusable)?.map(without_nul),
                EntryType::GNULongLink => meta.link = self.meta(size, &mut meta.unusable)?.map(without_nul),
                EntryType::XHeader => {
                    if let Some(records) = self.meta(size, &mut meta.unusable)? {
                        pax(&records, &mut meta)?;
                    }
                }
                // Defaults for all entries; git writes its commit id so.
                EntryType::XGlobalHeader => {}
                _ => return self.entry(&header, kind, meta).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header, kind: EntryType, meta: Meta) -> Result<Entry, ImportError> {
        let path = meta.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = meta.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let kind = match kind {
            _ if meta.unusable => Kind::Other,
            // Before there were types, a directory was a name that ends with `/`.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::GNUSparse => {
                self.pass_over_sparse_map(header)?;
                Kind::Other
            }
            _ => Kind::Other,
        };
        if let Some(size) = meta.size {
            self.enter(size);
        }
        // These have no content, whatever they claim.
        if matches!(header.entry_type(), EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Fifo) {
            self.enter(0);
        }
        let executable = header.mode().is_ok_and(|mode| mode & 0o111 != 0);
        Ok(Entry { kind, path, link, size: self.left, executable })
    }

    /// The next header block; none at the end.
    fn header(&mut self) -> Result<Option<Header>, ImportError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let read = fill(&mut self.reader, block).map_err(|error| broken(&error))?;
        // The end is two blocks of zeros, but one or none is common.
        if (read == 0 && self.headers > 0) || (read == BLOCK && block.iter().all(|byte| *byte == 0)) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        if read < BLOCK || header.cksum().ok() != Some(sum) {
            let reason = match self.headers {
                0 => "it is neither a tar archive nor one compressed with gzip",
                _ if read < BLOCK => "the archive breaks off",
                _ => "the archive is damaged",
            };
            return Err(malformed(reason));
        }
        self.headers += 1;
        if self.headers > self.max_entries.saturating_mul(HEADERS_PER_ENTRY) {
            return Err(over_entries(self.max_entries));
        }
        Ok(Some(header))
    }

    fn enter(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn pass_over(&mut self) -> Result<(), ImportError> {
        let rest = self.left.saturating_add(self.padding);
        let passed = io::copy(&mut self.reader.by_ref().take(rest), &mut io::sink()).map_err(|error| broken(&error))?;
        self.enter(0);
        // Some writers leave out the padding of the last entry.
        if passed < rest { Err(malformed("the archive breaks off")) } else { Ok(()) }
    }

    /// An old sparse file has more of its map between header and content.
    fn pass_over_sparse_map(&mut self, header: &Header) -> Result<(), ImportError> {
        const MORE_IN_HEADER: usize = 482;
        const MORE_IN_BLOCK: usize = 504;
        let mut more = header.as_bytes().get(MORE_IN_HEADER).is_some_and(|more| *more != 0);
        while more {
            let mut block = [0; BLOCK];
            self.reader.read_exact(&mut block).map_err(|error| broken(&error))?;
            more = block.get(MORE_IN_BLOCK).is_some_and(|more| *more != 0);
        }
        Ok(())
    }

    /// The content of a header that describes another; none if it is too long.
    fn meta(&mut self, size: u64, unusable: &mut bool) -> Result<Option<Vec<u8>>, ImportError> {
        if size > MAX_META {
            *unusable = true;
            return Ok(None);
        }
        let mut content = vec![0; size as usize];
        self.read_exact(&mut content).map_err(|error| broken(&error))?;
        Ok(Some(content))
    }
}

/// The content of the current entry.
impl<R: Read> Read for Tar<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let room = to.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(to) = to.get_mut(..room).filter(|to| !to.is_empty()) else { return Ok(0) };
        let read = self.reader.read(to)?;
        self.left -= read as u64;
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}

fn malformed(reason: &str) -> ImportError {
    refused(code::NOT_AN_ARCHIVE, reason)
}

/// Reads until `to` is full or there is no more.
pub(super) fn fill(reader: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = to.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    while name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// Records of the form `<length> <key>=<value>\n`, the length its own included.
fn pax(mut records: &[u8], meta: &mut Meta) -> Result<(), ImportError> {
    let damaged = || malformed("a pax header is damaged");
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
        let length: usize = std::str::from_utf8(records.get(..space).unwrap_or_default())
            .ok()
            .and_then(|length| length.parse().ok())
            .ok_or_else(damaged)?;
        let record =
            records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(damaged)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
        let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
        match key {
            b"path" => meta.path = Some(value.to_vec()),
            b"linkpath" => meta.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|size| size.parse().ok());
                meta.size = Some(size.ok_or_else(damaged)?);
            }
            // Newer sparse files: the content is a map and pieces.
            key if key.starts_with(b"GNU.sparse.") => meta.unusable = true,
            _ => {}
        }
        records = records.get(length..).unwrap_or_default();
    }
    Ok(())
}
