//! One view of the entries of all three formats.

use std::fs::File;
use std::io::{self, BufReader, Read};

use bulkhead_files::{Place, Workspace, io_fault};
use bulkhead_tool::ToolError;
use flate2::bufread::MultiGzDecoder;

use crate::{Format, broken};

/// The most entries of an archive.
const MAX_ENTRIES: usize = 10_000;

/// The most bytes that come out of a compressed tar, headers included: what is
/// between the entries costs time, too.
const MAX_UNPACKED: u64 = 600 << 20;

/// The longest target of a symbolic link in a zip, where it is content.
const MAX_TARGET: u64 = 4096;

/// One entry, as the archive has it: nothing of it is checked.
pub struct Entry {
    pub name: String,
    pub kind: Kind,
    /// As the header says; the content may be shorter, but is never longer.
    pub size: u64,
}

#[derive(Debug, PartialEq)]
pub enum Kind {
    File,
    Directory,
    Symlink(String),
    HardLink(String),
    Special,
}

type Visit<'a> = &'a mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), ToolError>;

/// Visits every entry with its content.
pub fn each(workspace: &Workspace, place: &Place, format: Format, visit: Visit) -> Result<(), ToolError> {
    let fault = |error| io_fault(workspace, place, error);
    workspace.file(place)?;
    let file = BufReader::with_capacity(64 * 1024, File::open(place.real()).map_err(fault)?);
    match format {
        Format::Tar => tar(workspace, place, file, visit),
        Format::TarGz => tar(workspace, place, MultiGzDecoder::new(file).take(MAX_UNPACKED), visit),
        Format::Zip => zip(workspace, place, file, visit),
    }
}

fn tar(workspace: &Workspace, place: &Place, reader: impl Read, visit: Visit) -> Result<(), ToolError> {
    let fault = |error| broken(workspace, place, error);
    let mut archive = tar::Archive::new(reader);
    let mut count = 0;
    for entry in archive.entries().map_err(fault)? {
        let mut entry = entry.map_err(fault)?;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File,
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link_name(place, &entry)?),
            tar::EntryType::Link => Kind::HardLink(link_name(place, &entry)?),
            // Facts about the whole archive, such as the commit it was made of.
            tar::EntryType::XGlobalHeader => continue,
            _ => Kind::Special,
        };
        let name = utf8(place, entry.path_bytes().into_owned())?;
        // Without this check of `tar`'s, a name like `file/` is a directory to some.
        let kind = if kind == Kind::File && name.ends_with('/') { Kind::Directory } else { kind };
        let size = if kind == Kind::File { entry.size() } else { 0 };
        count += 1;
        check_count(place, count)?;
        visit(Entry { name, kind, size }, &mut entry)?;
    }
    match count {
        0 => check_not_empty(workspace, place),
        _ => Ok(()),
    }
}

/// A tar without entries is a run of zeros; anything else was no tar.
fn check_not_empty(workspace: &Workspace, place: &Place) -> Result<(), ToolError> {
    match workspace.metadata(place)?.len() {
        0 => Err(ToolError::new("invalid_archive", format!("`{place}` is empty."))),
        _ => Ok(()),
    }
}

fn link_name<R: Read>(place: &Place, entry: &tar::Entry<R>) -> Result<String, ToolError> {
    utf8(place, entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default())
}

fn zip(workspace: &Workspace, place: &Place, file: BufReader<File>, visit: Visit) -> Result<(), ToolError> {
    let fault = |error: zip::result::ZipError| broken(workspace, place, io::Error::other(error.to_string()));
    let mut archive = zip::ZipArchive::new(file).map_err(fault)?;
    check_count(place, archive.len())?;
    for n in 0..archive.len() {
        let mut entry = archive.by_index(n).map_err(fault)?;
        let name = utf8(place, entry.name_raw().to_vec())?;
        let kind = if entry.is_symlink() {
            let mut target = Vec::new();
            (&mut entry).take(MAX_TARGET).read_to_end(&mut target).map_err(|error| broken(workspace, place, error))?;
            Kind::Symlink(utf8(place, target)?)
        } else if entry.is_dir() || name.ends_with('/') {
            Kind::Directory
        } else if entry.unix_mode().is_none_or(|mode| mode & 0o170_000 == 0 || mode & 0o170_000 == 0o100_000) {
            Kind::File
        } else {
            Kind::Special
        };
        let size = if kind == Kind::File { entry.size() } else { 0 };
        // The header's word is not to be trusted with the disk.
        visit(Entry { name, kind, size }, &mut entry.by_ref().take(size))?;
    }
    Ok(())
}

fn check_count(place: &Place, count: usize) -> Result<(), ToolError> {
    if count <= MAX_ENTRIES {
        return Ok(());
    }
    Err(ToolError::new("too_large", format!("`{place}` has more than {MAX_ENTRIES} entries.")))
}

fn utf8(place: &Place, name: Vec<u8>) -> Result<String, ToolError> {
    String::from_utf8(name).map_err(|fault| {
        let name = String::from_utf8_lossy(fault.as_bytes()).into_owned();
        ToolError::new("invalid_archive", format!("`{place}` has an entry whose name is not UTF-8: `{name}`."))
    })
}
