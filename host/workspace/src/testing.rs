//! What the tests of this package share.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{ByteStream, Entry, WorkspaceError, Workspaces, WriteOptions, Written};
use bulkhead_core::quota::Extent;
use rustix::fs::{FileType, Mode};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

use crate::{KernelQuota, LocalWorkspaces};

/// A directory that goes with the test, open.
pub(crate) struct Tree {
    dir: TempDir,
    fd: OwnedFd,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::of(TempDir::new().expect("a temporary directory"))
    }

    /// One in memory where there is room for it: for what takes long to make on a disk.
    pub(crate) fn in_memory() -> Self {
        TempDir::new_in("/dev/shm").map_or_else(|_| Self::new(), Self::of)
    }

    fn of(dir: TempDir) -> Self {
        let fd = File::open(dir.path()).expect("opens").into();
        Self { dir, fd }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Every path below, sorted, with a mark of its kind, as `ls -F` has them.
    pub(crate) fn listing(&self) -> Vec<String> {
        let mut all = Vec::new();
        collect(self.dir.path(), self.dir.path(), &mut all);
        all.sort();
        all
    }
}

fn collect(root: &Path, dir: &Path, all: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("reads") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
        let meta = path.symlink_metadata().expect("stat");
        if meta.is_dir() {
            all.push(format!("{name}/"));
            collect(root, &path, all);
        } else if meta.is_symlink() {
            all.push(format!("{name}@"));
        } else {
            all.push(name);
        }
    }
}

/// A workspace of its own, in a data directory of its own.
pub(crate) struct Space {
    pub(crate) data: TempDir,
    pub(crate) all: LocalWorkspaces,
    pub(crate) root: Arc<OwnedFd>,
    pub(crate) dir: PathBuf,
}

/// A quota that no test meets.
pub(crate) const ROOMY: Extent = Extent { bytes: 1 << 40, entries: 1 << 30 };

pub(crate) fn tenant() -> TenantId {
    TenantId::from_parts(1, 1)
}

pub(crate) fn task() -> TaskId {
    TaskId::from_parts(1, 2)
}

impl Space {
    pub(crate) async fn new() -> Self {
        let data = TempDir::new().expect("a temporary directory");
        let all = LocalWorkspaces::new(data.path(), KernelQuota::Off).expect("opens");
        all.create(tenant(), task(), ROOMY).await.expect("makes");
        let root = all.open(tenant(), task()).await.expect("opens");
        let dir = data.path().join(format!("workspaces/{}/{}", tenant(), task()));
        Self { data, all, root, dir }
    }

    pub(crate) fn root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    pub(crate) async fn write(&self, to: &str, content: &[u8]) -> Result<Written, WorkspaceError> {
        self.all.write(self.root(), &path(to), body(content), options(1 << 20)).await
    }

    pub(crate) async fn read(&self, from: &str) -> Result<Vec<u8>, WorkspaceError> {
        let mut open = self.all.read(self.root(), &path(from), None).await?;
        let mut content = Vec::new();
        open.stream.read_to_end(&mut content).await.map_err(WorkspaceError::Io)?;
        Ok(content)
    }

    pub(crate) async fn stat(&self, at: &str) -> Result<Entry, WorkspaceError> {
        self.all.stat(self.root(), &path(at)).await
    }

    /// What the host keeps beside the workspaces: nothing, between operations.
    /// Waits until nothing is half made or half removed: what is dropped is
    /// removed on another thread.
    pub(crate) async fn nothing_is_left(&self) {
        for _ in 0..500 {
            if self.leftovers() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{} are left over", self.leftovers());
    }

    pub(crate) fn leftovers(&self) -> usize {
        ["staging", "trash"]
            .iter()
            .flat_map(|name| std::fs::read_dir(self.data.path().join(name)).expect("reads"))
            .flat_map(|own| std::fs::read_dir(own.expect("an entry").path()).expect("reads"))
            .count()
    }
}

pub(crate) fn path(text: &str) -> WorkspacePath {
    WorkspacePath::parse(text.as_bytes()).expect("a path")
}

/// At most so many bytes, whatever is there.
pub(crate) fn options(max_bytes: u64) -> WriteOptions {
    WriteOptions { max_bytes, ..WriteOptions::default() }
}

pub(crate) fn body(content: &[u8]) -> ByteStream {
    Box::pin(std::io::Cursor::new(content.to_vec()))
}

pub(crate) fn fifo(at: &Path) {
    special(at, FileType::Fifo, 0).expect("makes a pipe");
}

/// A device like /dev/null; false if the test may not make one.
pub(crate) fn device(at: &Path) -> bool {
    special(at, FileType::CharacterDevice, rustix::fs::makedev(1, 3)).is_ok()
}

fn special(at: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    rustix::fs::mknodat(rustix::fs::CWD, at.as_os_str().as_bytes(), kind, Mode::RUSR | Mode::WUSR, device)
}
