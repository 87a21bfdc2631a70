//! Tests of the kernel's quota, on a file system that is made and mounted for them.
//! Not every kernel can: `tests/kernel/run` runs them on one that does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bulkhead_core::id::{DeletedId, TaskId};
use bulkhead_core::ports::workspace::{Copy, Removal, Workspaces};
use bulkhead_core::quota::Extent;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::CapabilitySet;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::project::{Bound, KernelQuota, adopt};
use super::{Layout, LocalWorkspaces};
use crate::testing::{body, options, path, task, tenant};

const QUOTA: Extent = Extent { bytes: 1 << 20, entries: 100 };

/// Set where there must be a file system with project quotas: of this kind.
const KIND: &str = "BULKHEAD_KERNEL_QUOTA";

/// A small file system with project quotas.
struct Volume {
    directory: TempDir,
}

impl Volume {
    /// None where none can be mounted, unless it must be.
    fn new() -> Option<Self> {
        let this = Self { directory: TempDir::new().expect("a directory") };
        let wanted = std::env::var(KIND).ok();
        let is_xfs = match wanted.as_deref() {
            None | Some("ext4") => false,
            Some("xfs") => true,
            Some(other) => panic!("{KIND} is `{other}`: neither `ext4` nor `xfs`"),
        };
        let image = this.directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(320 << 20)).expect("an image");
        std::fs::create_dir(this.root()).expect("a directory");
        let run = |command: &mut Command| {
            let output = command.output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        let made = if is_xfs {
            run(Command::new("mkfs.xfs").arg("-q").arg(&image))
        } else {
            run(Command::new("mkfs.ext4").args(["-q", "-O", "quota,project", "-E", "quotatype=prjquota"]).arg(&image))
        };
        let mounted =
            made.and_then(|()| run(Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(this.root())));
        match mounted {
            Ok(()) => Some(this),
            Err(why) => {
                assert!(wanted.is_none(), "no file system with project quotas: {why}");
                tracing::warn!(%why, "no file system with project quotas can be mounted here");
                None
            }
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.root(), UnmountFlags::DETACH);
    }
}

/// As a worker does: without the right to go over quotas, and saying nothing of it.
fn as_worker<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let none = CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).expect("none are given up");
            job()
        });
        worker.join().expect("it ends")
    })
}

/// Writes until the kernel refuses. How many bytes there were, and why no more.
fn fill(directory: &Path) -> (u64, Option<Errno>) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(directory.join("fill")).expect("made");
    let mut written = 0;
    while written < QUOTA.bytes * 8 {
        match file.write(&[b'x'; 4_096]).and_then(|count| file.sync_data().map(|()| count)) {
            Ok(count) => written += count as u64,
            Err(error) => return (written, Errno::from_io_error(&error)),
        }
    }
    (written, None)
}

struct Bench {
    volume: Volume,
    all: LocalWorkspaces,
}

impl Bench {
    fn new() -> Option<Self> {
        let volume = Volume::new()?;
        let all = LocalWorkspaces::new(&volume.root(), KernelQuota::Required).expect("opens");
        assert!(all.has_kernel_quota());
        Some(Self { volume, all })
    }

    async fn workspace(&self, task: TaskId) -> (Arc<OwnedFd>, PathBuf) {
        self.all.create(tenant(), task, QUOTA).await.expect("makes");
        let root = self.all.open(tenant(), task).await.expect("opens");
        (root, self.volume.root().join(format!("workspaces/{}/{task}", tenant())))
    }

    fn layout(&self) -> &Layout {
        &self.all.layout
    }

    fn bound(&self, root: &OwnedFd) -> Bound {
        self.layout().bound(root.as_fd()).expect("a project")
    }
}

#[tokio::test]
async fn who_says_nothing_of_what_it_writes_is_stopped_by_the_kernel() {
    let Some(bench) = Bench::new() else { return };
    let (first, directory) = bench.workspace(task()).await;
    let most = bench.bound(&first).most;
    assert_eq!(most, Extent { bytes: QUOTA.bytes + QUOTA.entries * 4_096, entries: QUOTA.entries + 64 });
    let (written, why) = as_worker(|| fill(&directory));
    // XFS says of a project that the disk is full.
    assert!(matches!(why, Some(Errno::DQUOT | Errno::NOSPC)), "{why:?}");
    assert!((QUOTA.bytes..=most.bytes).contains(&written), "{written}");
    let made = as_worker(|| (0..1_000).find(|at| std::fs::create_dir(directory.join(at.to_string())).is_err()));
    assert!(made.is_some_and(|made| made <= most.entries), "{made:?}");
    // Nor beside its workspace, where workers of its tenant reach too.
    let beside = directory.parent().expect("the tenant's").to_owned();
    let made = as_worker(|| (0..2_000).find(|at| std::fs::create_dir(beside.join(format!("x{at}"))).is_err()));
    assert!(made.is_some_and(|made| made <= 1_024 + 128), "{made:?}");
    for at in 0..2_000 {
        let _ = std::fs::remove_dir(beside.join(format!("x{at}")));
    }
    // Nor does it give its files away.
    let other = TaskId::from_parts(9, 9);
    let (_, beside) = bench.workspace(other).await;
    let moved = as_worker(|| std::fs::rename(directory.join("fill"), beside.join("fill")));
    assert_eq!(moved.map_err(|error| Errno::from_io_error(&error)), Err(Some(Errno::XDEV)));
    // Others feel nothing of it.
    assert_eq!(
        as_worker(|| std::fs::write(beside.join("a"), vec![b'x'; 1 << 19]).map_err(|error| error.kind())),
        Ok(())
    );
    // What goes makes room, and who goes leaves no bound behind.
    std::fs::remove_file(directory.join("fill")).expect("removed");
    assert!(as_worker(|| fill(&directory)).0 >= QUOTA.bytes / 2);
    bench.all.remove(tenant(), task()).await.expect("removes");
    let none = Extent::default();
    for _ in 0..100 {
        if bench.bound(&first).used.entries <= 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(bench.bound(&first).most, none);
}

#[tokio::test]
async fn what_the_host_moves_in_belongs_to_the_workspace() {
    let Some(bench) = Bench::new() else { return };
    let (first, directory) = bench.workspace(task()).await;
    let (second, _) = bench.workspace(TaskId::from_parts(9, 9)).await;
    let all = &bench.all;
    let used = |root: &OwnedFd| bench.bound(root).used.entries;
    let before = used(&first);
    all.write(first.clone(), &path("a/b"), body(b"content"), options(1 << 20)).await.expect("written");
    assert_eq!(used(&first), before + 2, "a directory and a file");
    // Written over, from another task, deleted and had back.
    all.write(first.clone(), &path("a/b"), body(b"other"), options(1 << 20)).await.expect("written");
    for from in ["a", "a/b"] {
        let copy = Copy {
            from_root: first.clone(),
            from: path(from),
            to_root: second.clone(),
            to: path(&format!("copy/of/{from}")),
            replace: false,
            room: QUOTA,
        };
        // The second is in the first already.
        let copied = all.copy(copy).await;
        assert_eq!(copied.is_ok(), from == "a", "{copied:?}");
    }
    let taken = used(&second);
    assert!(taken >= 5, "{taken}");
    let (place, id) = ((tenant(), task()), DeletedId::from_parts(1, 1));
    all.put_aside(place, first.clone(), &path("a"), id, Removal::recursive()).await.expect("put aside");
    assert!(!directory.join("a").exists());
    assert_eq!(used(&first), before + 2, "it counts where it lies");
    // Packed and unpacked in between: it is another project.
    let layout = bench.layout();
    let (file, temporary) = layout.staging.file().expect("a file");
    let stop = CancellationToken::new();
    layout.keep_archive(tenant(), task(), file.as_fd(), temporary, &stop).expect("kept").expect("nothing stopped it");
    let archive = layout.open_archive(tenant(), task()).expect("there");
    drop(archive);
    let (_, bin) = layout.nursery(QUOTA).expect("made");
    layout.move_in(tenant(), task(), &bin).expect("moved in");
    layout.remove_archive(tenant(), task()).expect("removed");
    let again = all.open(tenant(), task()).await.expect("opens");
    assert!(bench.bound(&again).most.bytes > 0 && bench.bound(&first).most == Extent::default());
    all.bring_back(place, again.clone(), &path("a"), id, false).await.expect("brought back");
    assert_eq!(std::fs::read(directory.join("a/b")).expect("there"), b"other");
    // What is in it, too.
    as_worker(|| std::fs::rename(directory.join("a/b"), directory.join("b"))).expect("moved within the workspace");
    // XFS gives what was removed back a little later, beside other work.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while used(&again) != 3 && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(used(&again), 3);
    assert_eq!(all.aside(place, id).await.expect("looked at"), None);
}

#[tokio::test]
async fn a_workspace_whose_host_died_as_it_moved_in_is_bounded_again() {
    let Some(bench) = Bench::new() else { return };
    let (root, directory) = bench.workspace(task()).await;
    std::fs::create_dir(directory.join("a")).expect("made");
    let most = bench.bound(&root).most;
    let domain = bench.layout().domain(tenant()).expect("opens");
    adopt(domain.as_fd(), root.as_fd()).expect("adopted");
    assert_ne!(bench.bound(&root).most, most, "it is as the tenant's other things are");
    let (again, _) = bench.workspace(task()).await;
    assert_eq!(bench.bound(&again).most, most);
    std::fs::write(directory.join("b"), b"x").expect("written");
    as_worker(|| std::fs::rename(directory.join("b"), directory.join("a/b"))).expect("it is one project");
    // And one that goes in that state takes nobody's bound along.
    adopt(domain.as_fd(), root.as_fd()).expect("adopted");
    bench.all.remove(tenant(), task()).await.expect("removes");
    assert_ne!(bench.bound(&domain).most, Extent::default());
}

#[test]
fn where_there_is_none_it_is_said_why() {
    // Memory, on which nobody has quotas of projects.
    let directory = TempDir::new_in("/dev/shm").expect("a directory");
    let why = super::kernel_quota_of(directory.path()).expect_err("none");
    assert!(why.contains("prjquota") || why.contains("CAP_SYS_ADMIN"), "{why}");
    assert!(!LocalWorkspaces::new(directory.path(), KernelQuota::Auto).expect("opens").has_kernel_quota());
    let error = LocalWorkspaces::new(directory.path(), KernelQuota::Required).expect_err("refused");
    assert!(error.to_string().contains("`quota.kernel` is `required`"), "{error}");
}
