//! Which control groups this server may make groups of its own in.
//!
//! Writing there is not enough: a service manager keeps its own order in its
//! groups, and root may write to all of them. A group is used if it is the
//! topmost that this process sees, if it is marked as handed over (`Delegate=yes`
//! of systemd), or if the operator names it.

use std::path::{Component, Path, PathBuf};

/// Where a server goes that may not be in the group that it divides.
pub(super) const SERVER: &str = "bulkhead-server";

/// What a group limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// As the kernel calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// A group in which others may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) version: Version,
    pub(super) controllers: Vec<Controller>,
    pub(super) directory: PathBuf,
    /// Whether this process is in it, so that it may have to move out of it.
    pub(super) own: bool,
}

/// Where groups are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupParent {
    /// In the server's own group, if that was handed to it.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In the group of this path, as `/proc/self/cgroup` writes it.
    Named(PathBuf),
}

/// What the kernel says of this process: `/proc/self/cgroup` and `mountinfo`.
pub(super) struct Seen<'a> {
    pub(super) groups: &'a str,
    pub(super) mounts: &'a str,
}

struct Mount<'a> {
    root: &'a Path,
    point: &'a Path,
    version: Version,
    options: &'a str,
}

impl<'a> Seen<'a> {
    fn mounts(&self) -> impl Iterator<Item = Mount<'a>> {
        self.mounts.lines().filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut place = place.split(' ').skip(3);
            let (root, point) = (Path::new(place.next()?), Path::new(place.next()?));
            let mut kind = kind.split(' ');
            let version = match kind.next()? {
                "cgroup" => Version::One,
                "cgroup2" => Version::Two,
                _ => return None,
            };
            Some(Mount { root, point, version, options: kind.nth(1).unwrap_or_default() })
        })
    }

    /// The group of this process for a controller, and the hierarchy's version.
    fn group(&self, controller: Option<Controller>) -> Option<&'a Path> {
        self.groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let found = match controller {
                Some(controller) => names.split(',').any(|name| name == controller.name()),
                None => names.is_empty(),
            };
            found.then(|| Path::new(path))
        })
    }

    /// The group for a controller, or why there is none. `marked` says whether a
    /// group was handed over, `offers` whether one of version 2 has a controller.
    pub(super) fn parent(
        &self,
        controller: Controller,
        wanted: &CgroupParent,
        marked: impl Fn(&Path) -> bool,
        offers: impl Fn(&Path, Controller) -> bool,
    ) -> Result<Parent, String> {
        let one = self.group(Some(controller));
        let (version, own) = match one {
            Some(own) => (Version::One, own),
            None => (Version::Two, self.group(None).ok_or("this kernel has no such groups")?),
        };
        let mount = self.mounts().find(|mount| {
            mount.version == version
                && (version == Version::Two || mount.options.split(',').any(|name| name == controller.name()))
        });
        let mount = mount.ok_or("its file system is not mounted")?;
        let plain =
            |group: &Path| group.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let within = |group: &Path| {
            plain(group).then_some(group)?.strip_prefix(mount.root).ok().map(|below| mount.point.join(below))
        };
        let (directory, own) = match wanted {
            CgroupParent::Named(group) => {
                (within(group).ok_or_else(|| format!("{} is not to be seen here", group.display()))?, false)
            }
            _ => {
                let directory = within(own).ok_or("the server's own group is not to be seen here")?;
                let topmost = own == mount.root;
                // Some managers put the service into a group below the one they hand over.
                let above = directory.parent().filter(|_| !topmost && version == Version::Two);
                // This one may have moved there, for an earlier sandbox.
                let moved = own.ends_with(SERVER) && own.parent() == Some(mount.root);
                match above.filter(|above| !marked(&directory) && (moved || marked(above))) {
                    Some(above) => (above.to_owned(), false),
                    None if topmost || marked(&directory) => (directory, true),
                    None => return Err(format!("the server's group {} was not handed to it", own.display())),
                }
            }
        };
        if version == Version::Two && !offers(&directory, controller) {
            return Err(format!("{} does not offer it", directory.display()));
        }
        Ok(Parent { version, controllers: vec![controller], directory, own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(groups: &str, mounts: &str, wanted: &CgroupParent, marked: &str) -> Result<Parent, String> {
        let seen = Seen { groups, mounts };
        seen.parent(Controller::Memory, wanted, |path| path == Path::new(marked), |_, _| true)
    }

    const TWO: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
    const ONE: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn a_group_is_used_only_if_it_was_handed_over() {
        let unit = "0::/system.slice/bulkhead.service\n";
        let own = "/sys/fs/cgroup/system.slice/bulkhead.service";
        let found = parent(unit, TWO, &CgroupParent::Auto, own).expect("found");
        assert_eq!((found.version, found.own, found.directory.as_path()), (Version::Two, true, Path::new(own)));
        let refused = parent(unit, TWO, &CgroupParent::Auto, "").expect_err("refused");
        assert!(refused.contains("bulkhead.service was not handed to it"), "{refused}");
        // A group below the one that was handed over.
        let found = parent("0::/system.slice/bulkhead.service/main\n", TWO, &CgroupParent::Auto, own).expect("found");
        assert_eq!((found.own, found.directory.as_path()), (false, Path::new(own)));
        // Where this server moved before, out of the topmost.
        let found = parent("0::/bulkhead-server\n", TWO, &CgroupParent::Auto, "").expect("found");
        assert_eq!((found.own, found.directory.as_path()), (false, Path::new("/sys/fs/cgroup")));
        // Of version 1 nothing is handed over by a mark above.
        let refused = parent("4:memory:/some/group\n0::/\n", ONE, &CgroupParent::Auto, "/sys/fs/cgroup/memory/some");
        assert!(refused.expect_err("refused").contains("was not handed to it"));
    }

    #[test]
    fn the_topmost_group_and_a_named_one_are_used() {
        let found = parent("4:memory:/\n0::/\n", ONE, &CgroupParent::Auto, "").expect("found");
        assert_eq!((found.version, found.directory.as_path()), (Version::One, Path::new("/sys/fs/cgroup/memory")));
        // In a container the topmost is where the mount begins.
        let inside = "32 31 0:29 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = parent("4:memory:/docker/abc\n", inside, &CgroupParent::Auto, "").expect("found");
        assert_eq!(found.directory, Path::new("/sys/fs/cgroup/memory"));
        let named = CgroupParent::Named("/docker/abc/tools".into());
        assert_eq!(
            parent("4:memory:/docker/abc\n", inside, &named, "").expect("found").directory,
            Path::new("/sys/fs/cgroup/memory/tools")
        );
        for outside in ["/docker/other", "docker/abc", "/docker/abc/../../other", ""] {
            let outside = CgroupParent::Named(outside.into());
            assert!(
                parent("4:memory:/docker/abc\n", inside, &outside, "").expect_err("refused").contains("not to be seen")
            );
        }
        let unmounted = parent("4:memory:/\n", "", &CgroupParent::Auto, "");
        assert!(unmounted.expect_err("refused").contains("not mounted"));
    }
}
