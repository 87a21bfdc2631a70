//! Judging an archive before any of it is unpacked.
//!
//! A symbolic link may lead anywhere below the directory that is unpacked
//! into, and `..` may stand only at the beginning of its target. Nothing may
//! be unpacked through a link, neither one of the archive nor one that lies in
//! the workspace. So each link alone leads inside, and so do chains of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use bulkhead_files::{Place, Workspace, size};
use bulkhead_tool::ToolError;
use bulkhead_tool::serde_json::json;

use crate::read::{self, Entry, Kind};
use crate::{Args, Format};

/// The most that is unpacked.
const MAX_SIZE: u64 = 512 << 20;

/// The deepest path.
const MAX_DEPTH: usize = 64;

/// Where each entry goes, by its number in the archive.
pub struct Checked {
    pub to: Place,
    pub targets: BTreeMap<usize, Target>,
    pub size: u64,
}

/// What becomes of an entry.
pub struct Target {
    pub place: Place,
    pub what: What,
}

/// An entry that is fit to be unpacked.
pub enum What {
    File,
    Directory,
    /// With its target as the archive has it.
    Symlink(String),
    /// A copy of an entry before it.
    Copy(Place),
}

impl Checked {
    pub fn count(&self) -> usize {
        self.targets.len()
    }
}

/// The plan of an extraction, or why there is none.
pub fn check(
    workspace: &Workspace,
    place: &Place,
    format: Format,
    to: &Place,
    args: &Args,
) -> Result<Checked, ToolError> {
    let mut checked = Checked { to: to.clone(), targets: BTreeMap::new(), size: 0 };
    let mut number = 0;
    read::each(workspace, place, format, &mut |entry, _| {
        checked.size = checked.size.saturating_add(entry.size);
        if checked.size > MAX_SIZE {
            return Err(ToolError::new("too_large", format!("`{place}` unpacks to more than {}.", size(MAX_SIZE))));
        }
        if let Some(target) = target(workspace, to, entry, args.strip_components)? {
            checked.targets.insert(number, target);
        }
        number += 1;
        Ok(())
    })?;
    check_links(&checked)?;
    check_collisions(workspace, &checked, args.overwrite)?;
    Ok(checked)
}

/// Where an entry goes; nowhere, if stripping leaves nothing of its path.
fn target(workspace: &Workspace, to: &Place, entry: Entry, strip: usize) -> Result<Option<Target>, ToolError> {
    let place = |name: &str| -> Result<Option<Place>, ToolError> {
        let parts = parts(name)?;
        let Some(parts) = parts.get(strip..).filter(|parts| !parts.is_empty()) else { return Ok(None) };
        workspace.place("archive", &format!("{to}/{}", parts.join("/"))).map(Some)
    };
    let Some(at) = place(&entry.name)? else { return Ok(None) };
    let what = match entry.kind {
        Kind::File => What::File,
        Kind::Directory => What::Directory,
        Kind::Symlink(target) => {
            check_symlink(to, &at, &entry.name, &target)?;
            What::Symlink(target)
        }
        Kind::HardLink(target) => match place(&target)? {
            Some(of) => What::Copy(of),
            None => return Err(unsafe_entry(&entry.name, "it is a link to something that is not unpacked")),
        },
        Kind::Special => return Err(unsafe_entry(&entry.name, "it is a device or another special file")),
    };
    Ok(Some(Target { place: at, what }))
}

/// The parts of an entry's path, if it is a plain one.
fn parts(name: &str) -> Result<Vec<&str>, ToolError> {
    let why = match name {
        _ if name.starts_with('/') => "its path is absolute",
        _ if name.split('/').any(|part| part == "..") => "its path has `..` in it",
        _ if name.contains('\\') => "its path has a backslash in it, which some systems take for `/`",
        _ if name.contains('\0') => "its path has a NUL character in it",
        _ => "",
    };
    if !why.is_empty() {
        return Err(unsafe_entry(name, why));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match parts.len() > MAX_DEPTH {
        true => Err(unsafe_entry(name, "its path is more than 64 deep")),
        false => Ok(parts),
    }
}

fn check_symlink(to: &Place, at: &Place, name: &str, target: &str) -> Result<(), ToolError> {
    let mut parts = target.split('/').filter(|part| !matches!(*part, "" | ".")).peekable();
    let depth = |place: &Place| if place.is_root() { 0 } else { place.shown().split('/').count() };
    // The link lies in a directory so many levels below `to`.
    let mut above = depth(at) - depth(to) - 1;
    while parts.next_if_eq(&"..").is_some() {
        above = match above.checked_sub(1) {
            Some(above) => above,
            None => {
                return Err(unsafe_entry(
                    name,
                    &format!("it is a link to `{target}`, out of the directory to unpack into"),
                ));
            }
        };
    }
    if target.is_empty() || target.starts_with('/') || target.contains('\0') || parts.any(|part| part == "..") {
        return Err(unsafe_entry(
            name,
            &format!("it is a link to `{target}`; only plain relative targets are unpacked"),
        ));
    }
    Ok(())
}

/// Nothing goes through a link of the archive, and no two entries are in each
/// other's way.
fn check_links(checked: &Checked) -> Result<(), ToolError> {
    let leaves = checked.targets.values().filter(|target| !matches!(target.what, What::Directory));
    let leaves: BTreeSet<&str> = leaves.map(|target| target.place.shown()).collect();
    let mut seen = BTreeSet::new();
    for Target { place, what } in checked.targets.values() {
        let shown = place.shown();
        let above = shown.match_indices('/').map(|(at, _)| &shown[..at]);
        if let Some(leaf) = above.into_iter().find(|above| leaves.contains(above)) {
            return Err(unsafe_entry(shown, &format!("`{leaf}`, a link or file of the same archive, is in its path")));
        }
        if matches!(what, What::Directory) && leaves.contains(shown) {
            return Err(unsafe_entry(shown, "it is both a directory and something else"));
        }
        if let What::Copy(of) = what
            && !seen.contains(of.shown())
        {
            return Err(unsafe_entry(shown, &format!("it is a link to `{of}`, which is not a file before it")));
        }
        if matches!(what, What::File | What::Copy(_)) {
            seen.insert(shown);
        }
    }
    Ok(())
}

/// What lies in the workspace already: nothing may be unpacked through a link,
/// and files are replaced only if that is wanted.
fn check_collisions(workspace: &Workspace, checked: &Checked, overwrite: bool) -> Result<(), ToolError> {
    let mut existing = Vec::new();
    let mut looked_at = BTreeSet::new();
    for Target { place, what } in checked.targets.values() {
        let mut above = workspace.of_shown(place.parent_shown());
        while !above.is_root() && looked_at.insert(above.clone()) {
            if fs::symlink_metadata(above.real()).is_ok_and(|found| !found.is_dir()) {
                return Err(unsafe_entry(
                    place.shown(),
                    &format!("`{above}` in the workspace is a link or file in its path"),
                ));
            }
            above = workspace.of_shown(above.parent_shown());
        }
        let Ok(found) = fs::symlink_metadata(place.real()) else { continue };
        match (found.is_dir(), matches!(what, What::Directory)) {
            (true, true) => {}
            (false, false) => existing.push(place.shown()),
            _ => {
                let message = format!("`{place}` is in the way: one of the two is a directory. Nothing was unpacked.");
                return Err(ToolError::new("already_exists", message));
            }
        }
    }
    if existing.is_empty() || overwrite {
        return Ok(());
    }
    let shown = existing[..existing.len().min(10)].join("`, `");
    let message = format!(
        "{} would be replaced: `{shown}`. Set `overwrite`, or unpack into another directory. Nothing was unpacked.",
        crate::plural(existing.len(), "file")
    );
    Err(ToolError::new("already_exists", message))
}

fn unsafe_entry(name: &str, why: &str) -> ToolError {
    let message = format!("The archive is refused because of its entry `{name}`: {why}. Nothing was unpacked.");
    ToolError::new("unsafe_archive", message).details(&json!({ "entry": name }))
}
