//! Packing. The archive is written beside its place and renamed, so that one
//! that exists is replaced by a whole one. Times, owners and permissions are
//! left out: the same files give the same archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};

use bulkhead_files::{Place, Workspace, create_beside, io_fault};
use bulkhead_tool::{ToolError, host};
use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::SimpleFileOptions;

use crate::Format;

/// As many as are unpacked again.
const MAX_ENTRIES: usize = 10_000;
const MAX_SIZE: u64 = 512 << 20;

/// What was packed.
pub struct Packed {
    pub entries: usize,
    pub size: u64,
}

enum Kind {
    Directory,
    File(u64),
    Symlink(String),
}

/// Packs `paths`.
pub fn create(workspace: &Workspace, place: &Place, format: Format, paths: &[String]) -> Result<Packed, ToolError> {
    let items = collect(workspace, place, paths)?;
    let size = items.iter().map(|(_, kind)| if let Kind::File(size) = kind { *size } else { 0 }).sum();
    if size > MAX_SIZE {
        let message = format!(
            "That is {}; at most {} can be packed.",
            bulkhead_files::size(size),
            bulkhead_files::size(MAX_SIZE)
        );
        return Err(ToolError::new("too_large", message));
    }
    workspace.make_parents(place)?;
    let target = workspace.follow(place)?;
    let (new, file) = create_beside(workspace, &target)?;
    let packed = pack(workspace, &new, file, format, &items)
        .and_then(|()| fs::rename(new.real(), target.real()).map_err(|error| io_fault(workspace, place, error)));
    if let Err(error) = packed {
        let _ = fs::remove_file(new.real());
        return Err(error);
    }
    Ok(Packed { entries: items.len(), size })
}

/// Everything below `paths`, each once and sorted, the archive itself left out.
fn collect(workspace: &Workspace, archive: &Place, paths: &[String]) -> Result<Vec<(Place, Kind)>, ToolError> {
    let mut open = paths.iter().map(|path| workspace.place("paths", path)).collect::<Result<Vec<_>, _>>()?;
    let mut items = std::collections::BTreeMap::new();
    while let Some(place) = open.pop() {
        let fault = |error| io_fault(workspace, &place, error);
        let found = fs::symlink_metadata(place.real()).map_err(fault)?;
        if place == *archive || items.contains_key(&place) {
            continue;
        }
        let kind = if found.is_dir() {
            for entry in fs::read_dir(place.real()).map_err(fault)? {
                open.push(workspace.of_real(&entry.map_err(fault)?.path()));
            }
            Kind::Directory
        } else if found.is_symlink() {
            Kind::Symlink(fs::read_link(place.real()).map_err(fault)?.to_string_lossy().into_owned())
        } else if found.is_file() {
            Kind::File(found.len())
        } else {
            let message = format!("`{place}` is neither file nor directory nor link; it cannot be packed.");
            return Err(ToolError::new("unsupported", message));
        };
        if !place.is_root() {
            items.insert(place, kind);
        }
        if items.len() > MAX_ENTRIES {
            return Err(ToolError::new("too_large", format!("More than {MAX_ENTRIES} entries; pack fewer at once.")));
        }
    }
    Ok(items.into_iter().collect())
}

fn pack(
    workspace: &Workspace,
    new: &Place,
    file: File,
    format: Format,
    items: &[(Place, Kind)],
) -> Result<(), ToolError> {
    let out = BufWriter::with_capacity(64 * 1024, file);
    let fault = |error| io_fault(workspace, new, error);
    let finished = match format {
        Format::Tar => tar(workspace, out, items)?.flush(),
        Format::TarGz => {
            tar(workspace, GzEncoder::new(out, Compression::default()), items)?.finish().and_then(|mut out| out.flush())
        }
        Format::Zip => zip(workspace, out, items)?.flush(),
    };
    finished.map_err(fault)
}

fn tar<W: Write>(workspace: &Workspace, out: W, items: &[(Place, Kind)]) -> Result<W, ToolError> {
    let mut archive = tar::Builder::new(out);
    for (n, (place, kind)) in items.iter().enumerate() {
        report(n, items.len(), place)?;
        let mut header = tar::Header::new_gnu();
        let name = place.shown();
        let added = match kind {
            Kind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, format!("{name}/"), io::empty())
            }
            Kind::Symlink(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                archive.append_link(&mut header, name, target)
            }
            Kind::File(size) => {
                header.set_mode(0o644);
                header.set_size(*size);
                File::open(place.real())
                    .and_then(|file| archive.append_data(&mut header, name, io::Read::take(file, *size)))
            }
        };
        added.map_err(|error| io_fault(workspace, place, error))?;
    }
    archive.into_inner().map_err(|error| io_fault(workspace, &workspace.root(), error))
}

fn zip<W: Write + Seek>(workspace: &Workspace, out: W, items: &[(Place, Kind)]) -> Result<W, ToolError> {
    let mut archive = zip::ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (n, (place, kind)) in items.iter().enumerate() {
        report(n, items.len(), place)?;
        let name = place.shown();
        let added = match kind {
            Kind::Directory => archive.add_directory(name, options).map_err(io::Error::from),
            Kind::Symlink(target) => archive.add_symlink(name, target, options).map_err(io::Error::from),
            Kind::File(_) => archive
                .start_file(name, options)
                .map_err(io::Error::from)
                .and_then(|()| io::copy(&mut File::open(place.real())?, &mut archive).map(drop)),
        };
        added.map_err(|error| io_fault(workspace, place, error))?;
    }
    archive.finish().map_err(|error| io_fault(workspace, &workspace.root(), error.into()))
}

fn report(done: usize, total: usize, place: &Place) -> Result<(), ToolError> {
    host::progress(done as u64, Some(total as u64), Some(place.name()));
    if host::is_cancelled() { Err(host::cancelled()) } else { Ok(()) }
}
