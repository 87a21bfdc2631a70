//! Walking the workspace by the rules of `.gitignore`, sorted by path, on one
//! thread: guests have no other.
//!
//! The walk begins at the workspace's root even if only a directory further
//! down is asked for, because the rules of the directories above hold there
//! too, and goes down only towards it. (The `ignore` crate can look at the
//! directories above by itself, but needs `canonicalize` for it, which WASI
//! does not have.)
#![deny(missing_docs)]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_files::{Place, Workspace};
use bulkhead_tool::ToolError;
use ignore::overrides::OverrideBuilder;
use ignore::types::TypesBuilder;
use ignore::{DirEntry, WalkBuilder};

/// What to walk.
pub struct Walk<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// The directory, or one file.
    pub from: Place,
    /// Whether names that begin with a dot are visited.
    pub hidden: bool,
    /// Whether `.gitignore` and `.ignore` hold.
    pub ignore_rules: bool,
    /// Globs of paths to visit, or with `!` before not to; as in ripgrep.
    pub globs: &'a [String],
    /// Names of file types to visit, such as `rust`.
    pub types: &'a [String],
}

/// One thing found.
pub struct Found {
    /// Where.
    pub place: Place,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a file, not a link.
    pub is_file: bool,
}

/// How a walk went.
#[derive(Default)]
pub struct Walked {
    /// The directory asked for is ignored itself, and was walked all the same.
    pub was_ignored: bool,
    /// How many entries could not be read.
    pub unreadable: usize,
}

impl Walk<'_> {
    /// Visits everything below `from`, but not `from` itself unless it is a
    /// file, until `visit` breaks.
    pub fn visit(&self, mut visit: impl FnMut(Found) -> ControlFlow<()>) -> Result<Walked, ToolError> {
        let is_directory = self.workspace.metadata(&self.from)?.is_dir();
        if !is_directory {
            let _ = visit(Found { place: self.from.clone(), is_directory: false, is_file: true });
            return Ok(Walked::default());
        }
        let mut walked = Walked::default();
        let reached = self.walk(&self.workspace.root(), &mut walked, &mut visit)?;
        if !reached {
            // Asked for by name: then it counts.
            walked.was_ignored = true;
            self.walk(&self.from, &mut walked, &mut visit)?;
        }
        Ok(walked)
    }

    /// Whether `from` was reached.
    fn walk(
        &self,
        root: &Place,
        walked: &mut Walked,
        visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
    ) -> Result<bool, ToolError> {
        let reached = Arc::new(AtomicBool::new(*root == self.from));
        for entry in self.builder(root, reached.clone())?.build() {
            let Ok(entry) = entry else {
                walked.unreadable += 1;
                continue;
            };
            let place = self.workspace.of_real(entry.path());
            if place == self.from || !place.is_within(&self.from) {
                continue;
            }
            let kind = entry.file_type();
            let is = |is: fn(&std::fs::FileType) -> bool| kind.as_ref().is_some_and(is);
            let found = Found { place, is_directory: is(|kind| kind.is_dir()), is_file: is(|kind| kind.is_file()) };
            if visit(found).is_break() {
                return Ok(true);
            }
        }
        Ok(reached.load(Ordering::Relaxed))
    }

    fn builder(&self, root: &Place, reached: Arc<AtomicBool>) -> Result<WalkBuilder, ToolError> {
        let mut builder = WalkBuilder::new(root.real());
        builder
            .hidden(false)
            .parents(false)
            .ignore(self.ignore_rules)
            .git_ignore(self.ignore_rules)
            .git_exclude(self.ignore_rules)
            .git_global(false)
            .require_git(false)
            .follow_links(false)
            .threads(1)
            .sort_by_file_name(|a, b| a.cmp(b))
            .overrides(self.overrides()?)
            .types(self.file_types()?);
        let filter = Towards {
            workspace: Workspace::at(self.workspace.root().real()),
            from: self.from.clone(),
            hidden: self.hidden,
            reached,
        };
        builder.filter_entry(move |entry| filter.enters(entry));
        Ok(builder)
    }

    fn overrides(&self) -> Result<ignore::overrides::Override, ToolError> {
        let mut overrides = OverrideBuilder::new(self.from.real());
        for glob in self.globs {
            overrides.add(glob).map_err(|fault| ToolError::invalid("globs", fault))?;
        }
        overrides.build().map_err(|fault| ToolError::invalid("globs", fault))
    }

    fn file_types(&self) -> Result<ignore::types::Types, ToolError> {
        let mut types = TypesBuilder::new();
        if !self.types.is_empty() {
            types.add_defaults();
            for name in self.types {
                types.select(name);
            }
        }
        types.build().map_err(|_| {
            let why = format!("no such type among `{}`; use names such as rust, py, js, ts, go, c, cpp, java, md, json, yaml, toml, html, css, sh, or `globs`", self.types.join("`, `"));
            ToolError::invalid("types", why)
        })
    }
}

/// Which entries are entered: the directories above `from`, and below it all
/// but hidden ones.
struct Towards {
    workspace: Workspace,
    from: Place,
    hidden: bool,
    reached: Arc<AtomicBool>,
}

impl Towards {
    fn enters(&self, entry: &DirEntry) -> bool {
        let place = self.workspace.of_real(entry.path());
        if self.from.is_within(&place) {
            if place == self.from {
                self.reached.store(true, Ordering::Relaxed);
            }
            return true;
        }
        let name = entry.file_name().as_encoded_bytes();
        place.is_within(&self.from) && name != b".git" && (self.hidden || !name.starts_with(b"."))
    }
}

#[cfg(test)]
mod tests;
