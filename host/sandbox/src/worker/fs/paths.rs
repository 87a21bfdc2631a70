//! Which path of the workspace each descriptor is, for the names in events.
//! Paths are as the guest gave them, joined; one with `..` has no name here,
//! because only the kernel knows where it leads past a symbolic link. Neither
//! has one that is too long for events: a guest that goes down by descriptors
//! may be deeper than that, and each level would take the whole length again.

use std::collections::HashMap;
use std::sync::Arc;

use bulkhead_core::path::MAX_PATH;

use super::super::tally::Held;

/// What is known of the descriptors that are open.
#[derive(Default)]
pub(in crate::worker) struct Paths(HashMap<u32, Known>);

/// What is known of a descriptor.
#[derive(Default)]
pub(super) struct Known {
    /// Its path, if it has a name.
    pub(super) path: Option<String>,
    /// How deep below the workspace it was opened, as text; a link on the way
    /// may have led elsewhere.
    pub(super) depth: u64,
    /// Its place among the open files. The workspace itself has none: it is open
    /// anyway.
    pub(super) file: Option<Arc<Held>>,
}

impl Paths {
    /// Notes a new descriptor.
    pub(super) fn insert(&mut self, descriptor: u32, known: Known) {
        self.0.insert(descriptor, known);
    }

    /// How deep below the workspace a descriptor is.
    pub(super) fn depth(&self, descriptor: u32) -> u64 {
        self.0.get(&descriptor).map_or(0, |known| known.depth)
    }

    /// The place of a descriptor, for a stream that keeps its file open.
    pub(super) fn file(&self, descriptor: u32) -> Option<Arc<Held>> {
        self.0.get(&descriptor)?.file.clone()
    }

    /// Forgets a closed one.
    pub(super) fn remove(&mut self, descriptor: u32) {
        self.0.remove(&descriptor);
    }

    /// The path of a descriptor, if it has a name.
    pub(super) fn get(&self, descriptor: u32) -> Option<&str> {
        self.0.get(&descriptor)?.path.as_deref()
    }

    /// The path of `path` in the directory `descriptor`, if it has a name.
    pub(super) fn join(&self, descriptor: u32, path: &str) -> Option<String> {
        let mut joined = self.get(descriptor)?.to_owned();
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if name == ".." {
                return None;
            }
            if !joined.is_empty() {
                joined.push('/');
            }
            joined.push_str(name);
        }
        (joined.len() <= MAX_PATH).then_some(joined)
    }
}

/// How deep `path` goes from a directory that is `from` deep itself: at its
/// deepest, and at its end.
pub(super) fn depths(from: u64, path: &str) -> (u64, u64) {
    let (mut most, mut now) = (from, from);
    for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
        now = if name == ".." { now.saturating_sub(1) } else { now + 1 };
        most = most.max(now);
    }
    (most, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_or_have_no_name() {
        let mut paths = Paths::default();
        let known = |path: &str| Known { path: Some(path.into()), ..Known::default() };
        paths.insert(1, known(""));
        paths.insert(2, known("a/b"));
        assert_eq!(paths.join(1, "x").as_deref(), Some("x"));
        assert_eq!(paths.join(2, "./c//d/").as_deref(), Some("a/b/c/d"));
        assert_eq!(paths.join(2, "../c"), None);
        assert_eq!(paths.join(3, "c"), None);
        assert_eq!(paths.join(2, &"d/".repeat(3_000)), None);
    }

    #[test]
    fn the_deepest_part_of_a_path_counts() {
        for (path, depths_of_it) in
            [("", (2, 2)), ("./a//b/", (4, 4)), ("a/b/../..", (4, 2)), ("../../../x", (2, 1)), ("/a", (3, 3))]
        {
            assert_eq!(depths(2, path), depths_of_it, "{path}");
        }
    }
}
