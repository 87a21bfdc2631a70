//! A directory that comes from elsewhere, entry by entry: made where no guest sees it,
//! and put in its place by one rename. What it is made of is named by another host,
//! which is trusted in nothing: each path is resolved beneath the new directory and
//! through no link, and everything counts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{Arriving, ByteStream, Copied, EntryKind, WorkspaceError};
use bulkhead_core::quota::Extent;
use rustix::io::Errno;

use super::copy::{Counted, NAME, open_parent_is_possible, put};
use super::layout::Layout;
use super::project::adopt;
use super::write::{pour, set_executable};
use crate::gate::Gate;
use crate::scratch::Temporary;
use crate::{beneath, error};

/// Longest target of a link, in bytes: the kernel's PATH_MAX, less its NUL.
const MAX_TARGET: usize = 4_095;

/// See [`Arriving`].
pub(super) struct Tree {
    layout: Arc<Layout>,
    gate: Gate,
    /// Of what takes long.
    long: Gate,
    root: Arc<OwnedFd>,
    /// Removed with what is in it when this is dropped.
    staged: Temporary,
    /// The new directory.
    tree: Arc<OwnedFd>,
    counted: Counted,
}

impl Tree {
    /// Begins one, which may take `room`, and come into `root`.
    pub(super) async fn begin(
        layout: Arc<Layout>,
        (gate, long): (Gate, Gate),
        root: Arc<OwnedFd>,
        room: Extent,
    ) -> Result<Self, WorkspaceError> {
        let mut counted = Counted::within(room);
        counted.entries(1)?;
        let (staging, into) = (Arc::clone(&layout), Arc::clone(&root));
        let begin = move || {
            let staged = staging.staging.bin().map_err(error::host)?;
            let bin = beneath::open_dir(staged.directory(), staged.name().as_bytes()).map_err(error::host)?;
            adopt(into.as_fd(), bin.as_fd()).map_err(error::host)?;
            rustix::fs::mkdirat(&bin, NAME, beneath::DIRECTORY_MODE).map_err(error::host)?;
            let tree = beneath::open_dir(bin.as_fd(), NAME.as_bytes()).map_err(error::host)?;
            Ok((staged, tree))
        };
        let (staged, tree) = gate.run(begin).await?;
        Ok(Self { layout, gate, long, root, staged, tree: Arc::new(tree), counted })
    }

    async fn make<T: Send + 'static>(
        &self,
        path: &WorkspacePath,
        job: impl FnOnce(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T> + Send + 'static,
    ) -> Result<T, WorkspaceError> {
        let (tree, path) = (Arc::clone(&self.tree), path.clone());
        let make = move || {
            let parent = path.parent().ok_or_else(|| refuse(&path))?;
            let dir = beneath::open_dir(tree.as_fd(), parent.as_bytes()).map_err(error::at_entry(&path))?;
            job(dir.as_fd(), path.name()).map_err(|errno| match errno {
                Errno::EXIST => WorkspaceError::Exists(path.to_text()),
                errno => error::at(&path)(errno),
            })
        };
        self.gate.run(make).await
    }
}

fn refuse(path: &WorkspacePath) -> WorkspaceError {
    WorkspaceError::BadPath { path: path.to_text(), reason: "it is the directory itself" }
}

#[async_trait]
impl Arriving for Tree {
    async fn directory(&mut self, path: &WorkspacePath) -> Result<(), WorkspaceError> {
        self.counted.entries(1)?;
        self.make(path, |dir, name| rustix::fs::mkdirat(dir, name, beneath::DIRECTORY_MODE)).await
    }

    async fn link(&mut self, path: &WorkspacePath, target: Vec<u8>) -> Result<(), WorkspaceError> {
        if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
            return Err(WorkspaceError::BadPath { path: path.to_text(), reason: "it is a link to nothing" });
        }
        self.counted.entries(1)?;
        self.make(path, move |dir, name| rustix::fs::symlinkat(&*target, dir, name)).await
    }

    async fn file(&mut self, path: &WorkspacePath, executable: bool, body: ByteStream) -> Result<(), WorkspaceError> {
        self.counted.entries(1)?;
        let file = Arc::new(self.make(path, beneath::create_file).await?);
        let (size, _) =
            pour(&self.gate, &file, body, self.counted.bytes_left()).await.map_err(|error| match error {
                WorkspaceError::OverLimit { .. } => self.counted.over_bytes(),
                error => error,
            })?;
        self.counted.add_bytes(size);
        self.gate.run(move || set_executable(file.as_fd(), executable)).await
    }

    fn extent(&self) -> Extent {
        self.counted.extent()
    }

    async fn put(self: Box<Self>, to: &WorkspacePath, left_out: u64) -> Result<Copied, WorkspaceError> {
        let Self { layout, gate: _, long, root, staged, tree, counted } = *self;
        let to = to.clone();
        let job = move || {
            open_parent_is_possible(&to)?;
            // One call for all that was made, and not one for each of perhaps many small files.
            rustix::fs::syncfs(&tree).map_err(error::host)?;
            let bin = beneath::open_dir(staged.directory(), staged.name().as_bytes()).map_err(error::host)?;
            let created = put(&layout, (root.as_fd(), &to, false), bin.as_fd(), EntryKind::Directory)?;
            let extent = counted.extent();
            Ok(Copied { kind: EntryKind::Directory, extent, created, left_out, source: None })
        };
        long.run(job).await
    }
}
