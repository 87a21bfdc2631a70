//! Symbolic links that a guest makes or moves. The guest can follow none that
//! leads out of its workspace, but git, tar or a person could.
//!
//! A target is relative, and `..` stands only at its beginning, at most as often
//! as the directory of the link lies deep: the real one, asked of the kernel,
//! because a path may have passed another link. By induction no chain of such
//! links leads out. (With `..` after a name that breaks: `a/b/l -> ../..` and
//! `m -> a/b/l/..` both look harmless.) Imports have the same rule.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{
    AtFlags, Dir, DirEntry, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::{Errno, Result};
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::super::call::Call;
use super::View;

/// Entries below a directory that is moved to where it lies less deep: each
/// link among them is looked at, in the guest's time.
const MAX_MOVED: u32 = 100_000;
/// Entries between two looks at the guest's time.
const PAUSE: u32 = 512;
/// As in `bulkhead_workspace::beneath`: then it would be a loop.
const TRIES: u32 = 64;
/// Deeper than any path that a guest may name (`limits.path_depth`).
const MAX_DEPTH: usize = 4_096;

/// Directories within each other in such a tree: a descriptor and a buffer each.
const MAX_LEVELS: usize = 64;

const READ: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// How often a target goes up, if that is all at its beginning.
fn ups(target: &[u8]) -> Option<usize> {
    if target.starts_with(b"/") {
        return None;
    }
    let names = || target.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let ups = names().take_while(|name| *name == b"..").count();
    names().skip(ups).all(|name| name != b"..").then_some(ups)
}

/// The directory that a path names something in, and that name.
fn parent(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None => (".", path),
    }
}

fn open_parent(from: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(from, parent(path).0, DIRECTORY, Mode::empty(), beneath) {
            // `..` was passed while something was renamed somewhere.
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            // What leads out is refused as everywhere else.
            Err(Errno::XDEV) => return Err(Errno::PERM),
            result => return result,
        }
    }
}

/// How deep a directory really lies below the first of `roots` above it.
fn depth(directory: OwnedFd, roots: &[BorrowedFd<'_>]) -> Result<usize> {
    let identity = |fd: BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let roots = roots.iter().map(|root| identity(*root)).collect::<Result<Vec<_>>>()?;
    let (mut here, mut last) = (directory, None);
    for depth in 0..MAX_DEPTH {
        let this = identity(here.as_fd())?;
        if roots.contains(&this) {
            return Ok(depth);
        }
        if last == Some(this) {
            // The root of everything: it is below none of them.
            return Err(Errno::PERM);
        }
        last = Some(this);
        here = openat(&here, c"..", DIRECTORY, Mode::empty())?;
    }
    Err(Errno::NAMETOOLONG)
}

/// A directory that is to lie less deep than it does: every link in it is to be
/// looked at.
pub(super) struct Tree {
    directory: OwnedFd,
    /// How deep it will lie.
    at: usize,
}

impl Tree {
    /// The same once more.
    pub(super) fn again(&self) -> FsResult<Self> {
        Ok(Self { directory: self.directory.try_clone()?, at: self.at })
    }

    /// Whether what was seen of another says that this may be moved: it is the same
    /// directory, and will not lie less deep.
    pub(super) fn is_covered_by(&self, seen: &Self) -> FsResult<bool> {
        let identity = |tree: &Self| fstat(&tree.directory).map(|stat| (stat.st_dev, stat.st_ino));
        let same = identity(self).and_then(|own| Ok(own == identity(seen)?)).map_err(std::io::Error::from)?;
        Ok(same && self.at >= seen.at)
    }
}

/// That a tree of links is being looked at, and no link is made or moved while
/// it is: with WASI 0.3 the guest goes on meanwhile.
pub(super) struct Looking(Arc<Call>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.looks_at_links.store(false, Relaxed);
    }
}

impl View<'_> {
    /// Has every other link wait. Whoever asks holds the only one: [`Self::alone`]
    /// is asked before each.
    pub(super) fn looking(&self) -> Looking {
        self.call.looks_at_links.store(true, Relaxed);
        Looking(self.call.clone())
    }

    /// Refuses what makes or moves links while a tree of them is being looked at.
    fn alone(&self) -> FsResult<()> {
        if self.call.looks_at_links.load(Relaxed) { Err(ErrorCode::Busy.into()) } else { Ok(()) }
    }

    fn real_depth(&self, fd: &Resource<Descriptor>, path: &str) -> FsResult<usize> {
        let roots: Vec<_> =
            self.mounts.iter().filter(|mount| mount.is_writable()).map(|mount| mount.dir.dir.as_fd()).collect();
        let parent = open_parent(self.directory(fd)?, path).map_err(std::io::Error::from)?;
        Ok(depth(parent, &roots).map_err(std::io::Error::from)?)
    }

    fn directory(&self, fd: &Resource<Descriptor>) -> FsResult<BorrowedFd<'_>> {
        match self.stock.table.get(fd)? {
            // Said here, because what is not writable is below no root of the search.
            Descriptor::Dir(directory) if directory.perms.write_not_permitted() => Err(ErrorCode::NotPermitted.into()),
            Descriptor::Dir(directory) => Ok(directory.dir.as_fd()),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// Refuses a link at `path` to `target` that could lead out.
    pub(super) fn check_link(&self, fd: &Resource<Descriptor>, path: &str, target: &str) -> FsResult<()> {
        self.alone()?;
        let ups = ups(target.as_bytes()).ok_or(ErrorCode::NotPermitted)?;
        if ups > 0 && ups > self.real_depth(fd, path)? { Err(ErrorCode::NotPermitted.into()) } else { Ok(()) }
    }

    /// Refuses to give a link a second place from which it could lead out. A
    /// directory that will lie less deep is to be looked through, too.
    pub(super) fn check_moved(
        &self,
        (fd, old): (&Resource<Descriptor>, &str),
        (new_fd, new): (&Resource<Descriptor>, &str),
    ) -> FsResult<Option<Tree>> {
        self.alone()?;
        let from = open_parent(self.directory(fd)?, old).map_err(std::io::Error::from)?;
        // What can't be looked at can't be moved either; the move says why.
        let Ok(stat) = statat(&from, parent(old).1, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(None) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(&from, parent(old).1, Vec::new()).map_err(std::io::Error::from)?;
                let ups = ups(target.as_bytes()).ok_or(ErrorCode::NotPermitted)?;
                if ups > self.real_depth(new_fd, new)? { Err(ErrorCode::NotPermitted.into()) } else { Ok(None) }
            }
            FileType::Directory => {
                let to = self.real_depth(new_fd, new)?;
                if to >= self.real_depth(fd, old)? {
                    return Ok(None);
                }
                let directory = openat(&from, parent(old).1, READ, Mode::empty()).map_err(std::io::Error::from)?;
                Ok(Some(Tree { directory, at: to + 1 }))
            }
            _ => Ok(None),
        }
    }
}

/// Refuses a tree with a link that could lead out from where it will lie.
pub(super) async fn stay_inside(Tree { directory, at }: Tree) -> FsResult<()> {
    let mut seen = 0;
    let mut levels = vec![Dir::new(directory).map_err(std::io::Error::from)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.read() else {
            levels.pop();
            continue;
        };
        let entry = entry.map_err(std::io::Error::from)?;
        seen += 1;
        if seen % PAUSE == 0 {
            tokio::task::yield_now().await;
        }
        let deep = at + levels.len() - 1;
        let below = fits(&levels, &entry, deep).map_err(std::io::Error::from)?;
        match below {
            Fits::No => return Err(ErrorCode::NotPermitted.into()),
            _ if seen > MAX_MOVED || levels.len() > MAX_LEVELS => return Err(ErrorCode::NotPermitted.into()),
            Fits::Yes => {}
            Fits::Below(level) => levels.push(level),
        }
    }
    Ok(())
}

/// What an entry of a tree is to links.
enum Fits {
    Yes,
    No,
    /// A directory: what is in it is to be looked at.
    Below(Dir),
}

fn fits(levels: &[Dir], entry: &DirEntry, deep: usize) -> Result<Fits> {
    let (Some(level), name) = (levels.last(), entry.file_name()) else { return Ok(Fits::Yes) };
    if [c".", c".."].contains(&name) {
        return Ok(Fits::Yes);
    }
    let kind = match entry.file_type() {
        FileType::Unknown => FileType::from_raw_mode(statat(level.fd()?, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode),
        kind => kind,
    };
    Ok(match kind {
        FileType::Symlink => {
            let target = readlinkat(level.fd()?, name, Vec::new())?;
            if ups(target.as_bytes()).is_some_and(|ups| ups <= deep) { Fits::Yes } else { Fits::No }
        }
        FileType::Directory => Fits::Below(Dir::new(openat(level.fd()?, name, READ, Mode::empty())?)?),
        _ => Fits::Yes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_up_at_their_beginning_only() {
        for (target, wanted) in [
            ("b", Some(0)),
            ("./b/c", Some(0)),
            ("../b", Some(1)),
            (".././../b//c", Some(2)),
            ("..", Some(1)),
            ("b/..", None),
            ("../b/../c", None),
            ("/etc", None),
            ("/", None),
        ] {
            assert_eq!(ups(target.as_bytes()), wanted, "{target}");
        }
    }

    #[test]
    fn paths_have_a_parent() {
        for (path, wanted) in [("a", (".", "a")), ("a/b/c", ("a/b", "c")), ("a//b/", ("a/", "b")), ("/a", ("/", "a"))] {
            assert_eq!(parent(path), wanted, "{path}");
        }
    }

    #[test]
    fn depth_is_what_the_kernel_says() {
        let root = tempfile::tempdir().expect("a tree");
        std::fs::create_dir_all(root.path().join("a/b")).expect("a tree");
        std::os::unix::fs::symlink("../..", root.path().join("a/b/up")).expect("a tree");
        let open = |path: &str| std::fs::File::open(root.path().join(path)).expect("a tree");
        let (top, inner) = (open("."), open("a"));
        let at = |path: &str, roots: &[BorrowedFd<'_>]| {
            depth(open_parent(top.as_fd(), path).expect("a tree"), roots).expect("a tree")
        };
        assert_eq!([at("x", &[top.as_fd()]), at("a/b/x", &[top.as_fd()])], [0, 2]);
        // The path is longer, the place is the root.
        assert_eq!(at("a/b/up/x", &[top.as_fd()]), 0);
        assert_eq!(at("a/b/x", &[top.as_fd(), inner.as_fd()]), 1);
    }

    #[tokio::test]
    async fn a_tree_may_not_move_to_where_its_links_lead_out() {
        let root = tempfile::tempdir().expect("a tree");
        std::fs::create_dir_all(root.path().join("a/b/c")).expect("a tree");
        std::os::unix::fs::symlink("../../x", root.path().join("a/b/c/link")).expect("a tree");
        let tree = |path, at| {
            let directory = std::fs::File::open(root.path().join(path)).expect("a tree").into();
            Tree { directory, at }
        };
        // It is below `a`, `b` and `c`: with `a` at the top it is three deep.
        assert!(stay_inside(tree("a", 1)).await.is_ok());
        assert!(stay_inside(tree("a/b/c", 2)).await.is_ok());
        assert!(stay_inside(tree("a/b/c", 1)).await.is_err());
        // What was seen says nothing about another, or about where it lies less deep.
        let covered = |tree: Tree, seen| tree.is_covered_by(&seen).expect("a tree");
        assert!(covered(tree("a", 2), tree("a", 2)) && covered(tree("a", 3), tree("a", 2)));
        assert!(!covered(tree("a", 1), tree("a", 2)) && !covered(tree("a/b", 2), tree("a", 2)));
    }
}
