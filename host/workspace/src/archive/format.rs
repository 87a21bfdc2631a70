//! What an archive is: a tar that `tar` reads too (POSIX.1-2001, with GNU's
//! sparse files 1.0), compressed with gzip. What we write and nothing else is
//! read back.
//!
//! A directory has two entries: the first makes it, the second, after all that
//! is in it, says its rights and times. So nothing need be kept in memory for
//! the end, however many there are. The last entry is the workspace's own.

use std::io::{self, Read, Write};

use rustix::fs::Stat;
use tar::{EntryType, Header};

/// A block.
pub(super) const BLOCK: usize = 512;
/// Longest set of records: two paths, and what else there is.
const MAX_RECORDS: u64 = 64 * 1024;
/// Rights that are kept: none of those that change who a program runs as.
const RIGHTS: u32 = 0o777;

/// An entry's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryType,
    /// Below the workspace; empty: itself.
    pub(super) path: Vec<u8>,
    /// Where a link points; for a hard link the path of an earlier entry.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    /// Bytes of content that follow.
    pub(super) size: u64,
    /// The size of a file with holes, whose content is a map and what is between them.
    pub(super) sparse: Option<u64>,
}

impl Entry {
    /// One without content.
    pub(super) fn of(kind: EntryType, path: &[u8], stat: &Stat) -> Self {
        Self {
            kind,
            path: path.to_vec(),
            link: Vec::new(),
            mode: stat.st_mode & RIGHTS,
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            size: 0,
            sparse: None,
        }
    }

    /// Writes the header, and the records before it.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut records = Vec::new();
        let path: &[u8] = if self.path.is_empty() { b"." } else { &self.path };
        match self.sparse {
            Some(real) => {
                record(&mut records, "GNU.sparse.major", b"1");
                record(&mut records, "GNU.sparse.minor", b"0");
                record(&mut records, "GNU.sparse.name", path);
                record(&mut records, "GNU.sparse.realsize", real.to_string().as_bytes());
            }
            None => record(&mut records, "path", path),
        }
        if !self.link.is_empty() {
            record(&mut records, "linkpath", &self.link);
        }
        record(&mut records, "mtime", time(self.seconds, self.nanoseconds).as_bytes());
        record(&mut records, "size", self.size.to_string().as_bytes());
        let described = Self { kind: EntryType::XHeader, size: records.len() as u64, link: Vec::new(), ..self.clone() };
        to.write_all(described.block(b"PaxHeaders/entry").as_bytes())?;
        to.write_all(&records)?;
        pad(to, records.len() as u64)?;
        to.write_all(self.block(path).as_bytes())
    }

    /// The block of a reader that knows no records sees the beginning of names.
    fn block(&self, path: &[u8]) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(u64::try_from(self.seconds).unwrap_or(0));
        header.set_size(self.size);
        if let Some(ustar) = header.as_ustar_mut() {
            copy(&mut ustar.name, path);
            copy(&mut ustar.linkname, &self.link);
        }
        header.set_cksum();
        header
    }

    /// Reads the next header; none at the end of the archive.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let Some(described) = block(from)? else { return Ok(None) };
        let length = described.entry_size().map_err(|_| damaged())?;
        if described.entry_type() != EntryType::XHeader || length > MAX_RECORDS {
            return Err(damaged());
        }
        let mut records = vec![0; usize::try_from(length).map_err(|_| damaged())?];
        from.read_exact(&mut records)?;
        skip(from, padding(length))?;
        let header = block(from)?.ok_or_else(damaged)?;
        let mut entry = Self {
            kind: header.entry_type(),
            path: Vec::new(),
            link: Vec::new(),
            mode: header.mode().map_err(|_| damaged())? & RIGHTS,
            seconds: 0,
            nanoseconds: 0,
            size: 0,
            sparse: None,
        };
        entry.records(&records)?;
        if entry.path.is_empty() {
            return Err(damaged());
        }
        if entry.path == b"." {
            entry.path.clear();
        }
        Ok(Some(entry))
    }

    /// Records of the form `<length> <key>=<value>\n`, the length its own included.
    fn records(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length = number(records.get(..space).unwrap_or_default())?;
            let length = usize::try_from(length).map_err(|_| damaged())?;
            let record = records.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let record = record.ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            match key {
                b"path" | b"GNU.sparse.name" => self.path = value.to_vec(),
                b"linkpath" => self.link = value.to_vec(),
                b"mtime" => (self.seconds, self.nanoseconds) = parse_time(value)?,
                b"size" => self.size = number(value)?,
                b"GNU.sparse.realsize" => self.sparse = Some(number(value)?),
                b"GNU.sparse.major" if value == b"1" => {}
                b"GNU.sparse.minor" if value == b"0" => {}
                _ => return Err(damaged()),
            }
            records = records.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

/// What is read is not what we wrote.
pub(super) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the archive is damaged")
}

/// The end: two blocks of zeros.
pub(super) fn end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// Zeros up to the next block.
pub(super) fn pad(to: &mut impl Write, length: u64) -> io::Result<()> {
    to.write_all([0; BLOCK].get(..padding(length)).unwrap_or_default())
}

/// How many zeros follow so much content.
pub(super) fn padding(length: u64) -> usize {
    (length.wrapping_neg() % BLOCK as u64) as usize
}

/// Reads over some bytes.
pub(super) fn skip(from: &mut impl Read, length: usize) -> io::Result<()> {
    let mut block = [0; BLOCK];
    from.read_exact(block.get_mut(..length).ok_or_else(damaged)?)
}

fn block(from: &mut impl Read) -> io::Result<Option<Header>> {
    let mut header = Header::new_ustar();
    from.read_exact(header.as_mut_bytes())?;
    if header.as_bytes().iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum = header.as_bytes().iter().enumerate();
    let sum: u32 = sum.map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
    if header.cksum().ok() == Some(sum) { Ok(Some(header)) } else { Err(damaged()) }
}

fn copy(to: &mut [u8; 100], from: &[u8]) {
    let length = from.len().min(to.len());
    to.iter_mut().zip(from.iter().take(length)).for_each(|(to, from)| *to = *from);
}

/// A record says its own length, which depends on how many digits that has.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds as a decimal number, before 1970 a negative one.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        return format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}

fn parse_time(text: &[u8]) -> io::Result<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |text| (true, text));
    let point = text.iter().position(|byte| *byte == b'.').ok_or_else(damaged)?;
    let (seconds, fraction) = (text.get(..point).unwrap_or_default(), text.get(point + 1..).unwrap_or_default());
    if fraction.len() != 9 {
        return Err(damaged());
    }
    let seconds = i64::try_from(number(seconds)?).map_err(|_| damaged())?;
    let fraction = u32::try_from(number(fraction)?).map_err(|_| damaged())?;
    Ok(match (negative, fraction) {
        (false, _) => (seconds, fraction),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - fraction),
    })
}

/// A decimal number without a sign.
pub(super) fn number(text: &[u8]) -> io::Result<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were() {
        for (seconds, nanoseconds) in [(0, 0), (1_700_000_000, 123_456_789), (-1, 0), (-2, 999_999_999), (-1, 1)] {
            for sparse in [None, Some(1 << 40)] {
                let entry = Entry {
                    kind: EntryType::Regular,
                    path: [b"a/\xff \n=".as_slice(), &[b'x'; 3_000]].concat(),
                    link: b"../\xfe".to_vec(),
                    mode: 0o751,
                    seconds,
                    nanoseconds,
                    size: 9 << 33,
                    sparse,
                };
                let mut bytes = Vec::new();
                entry.write(&mut bytes).expect("writes");
                assert_eq!(bytes.len() % BLOCK, 0);
                assert_eq!(Entry::read(&mut bytes.as_slice()).expect("reads"), Some(entry));
                // No byte of it is of no account, but those that only other readers look at.
                bytes[BLOCK + 4] ^= 1;
                Entry::read(&mut bytes.as_slice()).expect_err("is damaged");
            }
        }
    }
}
