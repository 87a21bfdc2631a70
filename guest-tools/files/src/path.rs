//! Paths of the workspace. A caller may write `src/a.rs`, `./src/a.rs` or
//! `/src/a.rs`; all name the same file. `..` is resolved on the text alone, so
//! that a symbolic link cannot change what it means.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bulkhead_tool::ToolError;

use crate::fault::io_fault;

/// The longest path taken; Linux takes no longer one either.
const MAX_PATH: usize = 4096;

/// How many symbolic links are followed, as on Linux.
const MAX_LINKS: usize = 40;

/// The directory that a tool works in.
pub struct Workspace {
    root: PathBuf,
}

/// A path inside the workspace, whether or not something is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    shown: String,
    real: PathBuf,
}

impl Workspace {
    /// The workspace of a call.
    pub fn of_call() -> Self {
        Self::at("/")
    }

    /// A workspace in a directory, for native tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Workspace { root: root.into() }
    }

    /// The workspace's own directory.
    pub fn root(&self) -> Place {
        Place { shown: ".".into(), real: self.root.clone() }
    }

    /// The place that `path` names. `field` is the argument it came in.
    pub fn place(&self, field: &str, path: &str) -> Result<Place, ToolError> {
        if path.contains('\0') {
            return Err(ToolError::invalid(field, "a path cannot contain a NUL character"));
        }
        if path.len() > MAX_PATH {
            return Err(ToolError::invalid(field, "a path is at most 4096 bytes long"));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return Err(outside(path));
                    }
                }
                name => parts.push(name),
            }
        }
        Ok(self.of_parts(&parts))
    }

    /// The same for a path that must not be the workspace itself.
    pub fn place_below(&self, field: &str, path: &str) -> Result<Place, ToolError> {
        match self.place(field, path)? {
            place if place.is_root() => {
                Err(ToolError::invalid(field, format!("`{path}` is the workspace itself; name something in it")))
            }
            place => Ok(place),
        }
    }

    /// Where writing to `place` ends up: the target, if it is a symbolic link.
    /// Replacing a file by renaming would else replace the link.
    pub fn follow(&self, place: &Place) -> Result<Place, ToolError> {
        let mut at = place.clone();
        for _ in 0..MAX_LINKS {
            match fs::symlink_metadata(&at.real) {
                Ok(found) if found.file_type().is_symlink() => {
                    let target = fs::read_link(&at.real).map_err(|e| io_fault(self, &at, e))?;
                    let target = target.to_string_lossy();
                    let path = match target.starts_with('/') {
                        true => target.into_owned(),
                        false => format!("{}/{target}", at.parent_shown()),
                    };
                    at = self.place("path", &path)?;
                }
                _ => return Ok(at),
            }
        }
        let message = format!("`{place}` is a chain of more than {MAX_LINKS} symbolic links.");
        Err(ToolError::new("too_many_links", message))
    }

    /// What is at `place`, symbolic links followed.
    pub fn metadata(&self, place: &Place) -> Result<Metadata, ToolError> {
        fs::metadata(&place.real).map_err(|error| io_fault(self, place, error))
    }

    /// Whether anything is at `place`, a dangling symbolic link included.
    pub fn exists(&self, place: &Place) -> Result<bool, ToolError> {
        match fs::symlink_metadata(&place.real) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(io_fault(self, place, error)),
        }
    }

    /// Fails unless a file is at `place`; its metadata otherwise.
    pub fn file(&self, place: &Place) -> Result<Metadata, ToolError> {
        let found = self.metadata(place)?;
        if found.is_dir() {
            let message = format!("`{place}` is a directory, not a file. Use list_dir to see what is in it.");
            return Err(ToolError::new("is_a_directory", message));
        }
        Ok(found)
    }

    /// Fails unless a directory is at `place`.
    pub fn directory(&self, place: &Place) -> Result<(), ToolError> {
        if self.metadata(place)?.is_dir() {
            return Ok(());
        }
        Err(ToolError::new("not_a_directory", format!("`{place}` is a file, not a directory.")))
    }

    /// Makes the directories that `place` lies in.
    pub fn make_parents(&self, place: &Place) -> Result<(), ToolError> {
        let parent = self.of_shown(place.parent_shown());
        fs::create_dir_all(&parent.real).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                let message = format!("`{place}` cannot be made: a file is where a directory of its path should be.");
                ToolError::new("not_a_directory", message)
            }
            _ => io_fault(self, &parent, error),
        })
    }

    /// The place at a path that this type has shown before.
    pub fn of_shown(&self, shown: &str) -> Place {
        let parts: Vec<&str> = shown.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        self.of_parts(&parts)
    }

    /// The place of a path below the root, as a directory walk gives it.
    pub fn of_real(&self, real: &Path) -> Place {
        let inner = real.strip_prefix(&self.root).unwrap_or(real);
        self.of_shown(&inner.to_string_lossy())
    }

    fn of_parts(&self, parts: &[&str]) -> Place {
        if parts.is_empty() {
            return self.root();
        }
        let shown = parts.join("/");
        Place { real: self.root.join(&shown), shown }
    }
}

impl Place {
    /// The path to open.
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// Relative to the workspace; `.` for the workspace itself.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it is the workspace itself.
    pub fn is_root(&self) -> bool {
        self.shown == "."
    }

    /// The last part of the path.
    pub fn name(&self) -> &str {
        self.shown.rsplit('/').next().unwrap_or(&self.shown)
    }

    /// Whether `self` lies in `directory`, or is it.
    pub fn is_within(&self, directory: &Place) -> bool {
        directory.is_root()
            || self.shown == directory.shown
            || self.shown.strip_prefix(&directory.shown).is_some_and(|rest| rest.starts_with('/'))
    }

    /// What [`Place::shown`] would be of the directory it lies in.
    pub fn parent_shown(&self) -> &str {
        self.shown.rsplit_once('/').map_or(".", |(parent, _)| parent)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

fn outside(path: &str) -> ToolError {
    let message = format!(
        "`{path}` leads out of the workspace. Paths are relative to the workspace's root, and `..` cannot go above it."
    );
    ToolError::new("path_outside_workspace", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str) -> Result<String, String> {
        Workspace::at("/w").place("path", path).map(|p| p.shown).map_err(|e| e.code)
    }

    #[test]
    fn one_file_has_many_names() {
        for name in ["src/a.rs", "/src/a.rs", "./src//a.rs", "src/x/../a.rs", "src/a.rs/"] {
            assert_eq!(shown(name).as_deref(), Ok("src/a.rs"), "{name}");
        }
        for root in ["", ".", "/", "a/.."] {
            assert_eq!(shown(root).as_deref(), Ok("."), "{root}");
        }
    }

    #[test]
    fn no_way_out() {
        for name in ["..", "../x", "a/../../x", "/..", "/a/../../w/x"] {
            assert_eq!(shown(name), Err("path_outside_workspace".into()), "{name}");
        }
        assert_eq!(shown("a\0b"), Err("invalid_arguments".into()));
        assert_eq!(shown(&"a".repeat(5000)), Err("invalid_arguments".into()));
    }

    #[test]
    fn within() {
        let ws = Workspace::at("/w");
        let at = |path| ws.of_shown(path);
        assert!(at("a/b").is_within(&at("a")) && at("a").is_within(&at("a")) && at("a").is_within(&ws.root()));
        assert!(!at("ab").is_within(&at("a")) && !at("a").is_within(&at("a/b")));
    }
}
