//! Parts of a workspace: a directory with all that it holds, and how much of it
//! may be used. What is granted of a workspace is its whole and such parts; a
//! part means everything beneath it, because that is what a descriptor means.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::WorkspaceAccess;
use crate::path::WorkspacePath;

/// Most parts of a workspace that a task allows or a call gets: each is an open
/// directory on both sides of a worker's socket.
pub const MAX_PARTS: usize = 16;
/// Longest path of a part, in bytes.
pub const MAX_PART_PATH: usize = 1_024;

/// A directory of a workspace, as a path without `/` at either end. Empty: the
/// workspace itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubPath(String);

impl SubPath {
    /// The whole workspace.
    pub fn whole() -> Self {
        Self::default()
    }

    /// Whether it is the workspace itself.
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// The path, without a leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as a guest names it.
    pub fn as_guest(&self) -> String {
        format!("/{}", self.0)
    }

    /// Whether `path`, a path without `/` at either end, is this directory or
    /// lies beneath it.
    pub fn holds(&self, path: &str) -> bool {
        match path.strip_prefix(self.0.as_str()) {
            Some(rest) => self.is_whole() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether `other` is this directory or lies beneath it.
    pub fn contains(&self, other: &Self) -> bool {
        self.holds(&other.0)
    }

    /// The path of `path`, which it holds, within it.
    pub fn within<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.holds(path).then(|| path[self.0.len()..].trim_start_matches('/'))
    }

    /// The same, for the file layer.
    pub fn to_path(&self) -> WorkspacePath {
        // It was made from one.
        WorkspacePath::parse(self.0.as_bytes()).unwrap_or_default()
    }
}

impl FromStr for SubPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PART_PATH {
            return Err(format!("a sub-path has at most {MAX_PART_PATH} bytes, not {}", text.len()));
        }
        if text.contains('*') {
            return Err(format!("`{text}` has a `*`: a sub-path is a directory with all that it holds, `out`"));
        }
        if text.chars().any(char::is_control) {
            return Err("a sub-path has no control characters".into());
        }
        let path = WorkspacePath::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        // Only whole names were taken out of what was UTF-8.
        Ok(Self(String::from_utf8_lossy(path.as_bytes()).into_owned()))
    }
}

impl fmt::Display for SubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SubPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SubPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A part of a workspace and how much of it: `read-write:out` as text, `read`
/// for the whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspacePart {
    /// Which directory.
    pub path: SubPath,
    /// What may be done in it.
    pub access: WorkspaceAccess,
}

impl WorkspacePart {
    /// Whether whoever has `self` needs no more for `other`.
    pub fn covers(&self, other: &Self) -> bool {
        other.access == WorkspaceAccess::None || (self.access >= other.access && self.path.contains(&other.path))
    }

    /// What both give; nothing if neither holds the other.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let path = if self.path.contains(&other.path) {
            &other.path
        } else if other.path.contains(&self.path) {
            &self.path
        } else {
            return None;
        };
        let access = self.access.min(other.access);
        (access != WorkspaceAccess::None).then(|| Self { path: path.clone(), access })
    }
}

impl From<WorkspaceAccess> for WorkspacePart {
    fn from(access: WorkspaceAccess) -> Self {
        Self { path: SubPath::whole(), access }
    }
}

impl fmt::Display for WorkspacePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.access.as_str())?;
        if self.path.is_whole() { Ok(()) } else { write!(f, ":{}", self.path) }
    }
}

impl FromStr for WorkspacePart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (access, path) = text.split_once(':').map_or((text, None), |(access, path)| (access, Some(path)));
        let access = match access {
            "none" => WorkspaceAccess::None,
            "read" => WorkspaceAccess::Read,
            "read-write" => WorkspaceAccess::ReadWrite,
            other => return Err(format!("`{other}` is not `none`, `read` or `read-write`")),
        };
        Ok(Self { path: path.map_or(Ok(SubPath::whole()), sub_path)?, access })
    }
}

/// What stands behind `read:`: not nothing, which would mean everything.
pub(crate) fn sub_path(text: &str) -> Result<SubPath, String> {
    let path: SubPath = text.parse()?;
    if path.is_whole() {
        return Err("behind `:` stands a directory; without one, leave out the `:`".into());
    }
    Ok(path)
}

/// Writes a part as text, within a capability.
pub(super) mod text {
    use super::WorkspacePart;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in super::super) fn serialize<S: Serializer>(part: &WorkspacePart, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(part)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WorkspacePart, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What is granted of a workspace: the access to its whole, and to parts.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// To the whole.
    pub whole: WorkspaceAccess,
    /// To parts, where that is more.
    pub parts: &'a [WorkspacePart],
}

impl Reach<'_> {
    /// The access to a directory with all that it holds.
    pub fn at(&self, path: &SubPath) -> WorkspaceAccess {
        let parts = self.parts.iter().filter(|part| part.path.contains(path));
        parts.fold(self.whole, |most, part| most.max(part.access))
    }

    /// The most that is granted anywhere.
    pub fn most(&self) -> WorkspaceAccess {
        self.parts.iter().fold(self.whole, |most, part| most.max(part.access))
    }

    /// Whether nothing of `self` is less in `other`.
    pub fn within(&self, other: &Reach<'_>) -> bool {
        self.whole <= other.whole && self.parts.iter().all(|part| part.access <= other.at(&part.path))
    }

    /// Whether it gives all of this.
    pub fn covers(&self, part: &WorkspacePart) -> bool {
        part.access <= self.at(&part.path)
    }
}

/// Adds a part, and drops what is contained in it. False if there are too many.
pub(super) fn add(whole: &mut WorkspaceAccess, parts: &mut Vec<WorkspacePart>, part: &WorkspacePart) -> bool {
    if (Reach { whole: *whole, parts }).covers(part) {
        return true;
    }
    if !part.path.is_whole() && parts.len() >= MAX_PARTS && !parts.iter().any(|known| part.covers(known)) {
        return false;
    }
    parts.retain(|known| !part.covers(known));
    match part.path.is_whole() {
        true => *whole = part.access,
        false => {
            parts.push(part.clone());
            parts.sort_unstable();
        }
    }
    true
}

#[cfg(test)]
#[path = "part_tests.rs"]
mod tests;
