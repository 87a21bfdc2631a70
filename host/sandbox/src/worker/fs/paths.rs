//! Which path of the workspace each descriptor is, for the names in events.
//! Paths are as the guest gave them, joined; one with `..` has no name here,
//! because only the kernel knows where it leads past a symbolic link. Neither
//! has one that is too long for events: a guest that goes down by descriptors
//! may be deeper than that, and each level would take the whole length again.

use std::collections::HashMap;

use bulkhead_core::path::MAX_PATH;

/// Paths by descriptor.
#[derive(Default)]
pub(in crate::worker) struct Paths(HashMap<u32, Option<String>>);

impl Paths {
    /// Notes the path of a new descriptor.
    pub(super) fn insert(&mut self, descriptor: u32, path: Option<String>) {
        self.0.insert(descriptor, path);
    }

    /// How many descriptors are open.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets a closed one.
    pub(super) fn remove(&mut self, descriptor: u32) {
        self.0.remove(&descriptor);
    }

    /// The path of a descriptor, if it has a name.
    pub(super) fn get(&self, descriptor: u32) -> Option<&str> {
        self.0.get(&descriptor)?.as_deref()
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

/// Whether a symbolic link at `link` may point to `target`: only to what is,
/// read as text, inside the workspace. The guest could not follow any other,
/// but git, tar or a person could.
pub(super) fn link_stays_inside(link: Option<&str>, target: &str) -> bool {
    let Some(link) = link else { return false };
    if target.starts_with('/') {
        return false;
    }
    let mut depth = link.split('/').filter(|name| !name.is_empty()).count().saturating_sub(1);
    for name in target.split('/').filter(|name| !name.is_empty() && *name != ".") {
        if name != ".." {
            depth += 1;
        } else if depth == 0 {
            return false;
        } else {
            depth -= 1;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_or_have_no_name() {
        let mut paths = Paths::default();
        paths.insert(1, Some(String::new()));
        paths.insert(2, Some("a/b".into()));
        assert_eq!(paths.join(1, "x").as_deref(), Some("x"));
        assert_eq!(paths.join(2, "./c//d/").as_deref(), Some("a/b/c/d"));
        assert_eq!(paths.join(2, "../c"), None);
        assert_eq!(paths.join(3, "c"), None);
        assert_eq!(paths.join(2, &"d/".repeat(3_000)), None);
    }

    #[test]
    fn links_out_are_refused() {
        assert!(link_stays_inside(Some("a/l"), "b"));
        assert!(link_stays_inside(Some("a/l"), "../b"));
        assert!(link_stays_inside(Some("a/b/l"), "../../c"));
        for (link, target) in
            [(Some("l"), "../x"), (Some("a/l"), "../../x"), (Some("l"), "/etc"), (None, "x"), (Some("l"), "a/../../x")]
        {
            assert!(!link_stays_inside(link, target), "{link:?} {target}");
        }
    }
}
