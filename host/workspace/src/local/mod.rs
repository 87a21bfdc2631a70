//! Workspaces as directories of this machine.
//!
//! ```text
//! <root>/workspaces/<tenant>/<task>/   what guests see
//! <root>/archives/<tenant>/<task>.tar.gz  what one was packed into, see `crate::archive`
//! <root>/staging/<process>/            uploads that are not complete yet
//! <root>/trash/<process>/              what is on its way out
//! <root>/deleted/<tenant>/<task>/<id>  what a client deleted, and is kept for a while
//! <root>/uploads/<tenant>/<task>/<id>  uploads that go on over several requests
//! ```
//!
//! All of them lie on one filesystem, so that things come and go by rename: a
//! guest never sees half a file, and a removed workspace is gone at once, also
//! if the removal of what it held takes minutes or the server crashes.

mod arriving;
mod aside;
mod change;
mod copy;
mod layout;
mod list;
mod measure;
mod part;
mod project;
mod read;
mod upload;
mod walk;
mod write;

pub(crate) use write::write_all;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::id::{DeletedId, TaskId, TenantId, UploadId};
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::workspace::{
    Added, Arriving, ByteRange, ByteStream, Copied, Copy, Domains, Entry, FileId, Listing, OpenDir, OpenFile, PutAside,
    Removal, Walked, WorkspaceError, Workspaces, WriteOptions, Written,
};
use bulkhead_core::quota::Extent;

use crate::archive::ChildArchiver;
use crate::gate::Gate;
use crate::import::ImportConfig;
pub(crate) use layout::Layout;
pub use project::{KernelQuota, kernel_quota_of};

/// Short operations on blocking threads at once. More don't make one disk
/// faster, and tokio's pool of 512 has other users.
const AT_ONCE: usize = 32;
/// Long operations (removal and walks of whole trees) at once, counted apart so
/// that a few big trees don't hold up everybody's small files.
const LONG_AT_ONCE: usize = 8;

/// The [`Workspaces`] below a data directory.
#[derive(Debug)]
pub struct LocalWorkspaces {
    layout: Arc<Layout>,
    gate: Gate,
    long: Gate,
}

impl LocalWorkspaces {
    /// Opens the data directory `root`, makes what is missing in it, and
    /// removes what a crash left behind. Blocks: call it while starting.
    ///
    /// # Errors
    /// If the directory can't be made or opened, the kernel lacks `openat2`, or its quota
    /// is required and can't be had.
    pub fn new(root: &Path, kernel_quota: KernelQuota) -> std::io::Result<Self> {
        let layout = Arc::new(Layout::open(root, kernel_quota)?);
        Ok(Self { layout, gate: Gate::new(AT_ONCE), long: Gate::new(LONG_AT_ONCE) })
    }

    /// Whether the kernel bounds what a workspace may have.
    pub fn has_kernel_quota(&self) -> bool {
        self.layout.has_kernel_quota()
    }

    /// Packs and unpacks what lies here; `config` as in [`ImportConfig`].
    pub fn archiver(&self, config: ImportConfig) -> ChildArchiver {
        ChildArchiver::new(Arc::clone(&self.layout), self.long.clone(), config)
    }

    async fn run<T, F>(&self, job: F) -> Result<T, WorkspaceError>
    where
        T: Send + 'static,
        F: FnOnce(&Layout) -> Result<T, WorkspaceError> + Send + 'static,
    {
        let layout = Arc::clone(&self.layout);
        self.gate.run(move || job(&layout)).await
    }

    async fn run_long<T, F>(&self, job: F) -> Result<T, WorkspaceError>
    where
        T: Send + 'static,
        F: FnOnce(&Layout) -> Result<T, WorkspaceError> + Send + 'static,
    {
        let layout = Arc::clone(&self.layout);
        self.long.run(move || job(&layout)).await
    }
}

#[async_trait]
impl Domains for LocalWorkspaces {
    async fn domain(&self, tenant: TenantId, task: Option<TaskId>) -> Result<Arc<OwnedFd>, WorkspaceError> {
        let open = move |layout: &Layout| match task {
            Some(task) => layout.open_workspace(tenant, task),
            None => layout.domain(tenant),
        };
        self.run(open).await.map(Arc::new)
    }
}

#[async_trait]
impl Workspaces for LocalWorkspaces {
    async fn create(&self, tenant: TenantId, task: TaskId, most: Extent) -> Result<(), WorkspaceError> {
        self.run(move |layout| layout.create(tenant, task, most)).await
    }

    async fn open(&self, tenant: TenantId, task: TaskId) -> Result<Arc<OwnedFd>, WorkspaceError> {
        self.run(move |layout| layout.open_workspace(tenant, task)).await.map(Arc::new)
    }

    fn identity(&self, root: &OwnedFd) -> Result<FileId, WorkspaceError> {
        part::identity(root.as_fd())
    }

    async fn remove(&self, tenant: TenantId, task: TaskId) -> Result<(), WorkspaceError> {
        self.run_long(move |layout| layout.remove(tenant, task)).await
    }

    async fn list(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<Listing, WorkspaceError> {
        let path = path.clone();
        self.run(move |_| list::list(root.as_fd(), &path, after.as_deref(), limit)).await
    }

    async fn stat(&self, root: Arc<OwnedFd>, path: &WorkspacePath) -> Result<Entry, WorkspaceError> {
        let path = path.clone();
        self.run(move |_| list::stat(root.as_fd(), &path)).await
    }

    async fn read(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        range: Option<ByteRange>,
    ) -> Result<OpenFile, WorkspaceError> {
        let path = path.clone();
        let found = self.run(move |_| read::open(root.as_fd(), &path, range)).await?;
        Ok(found.stream(self.gate.clone()))
    }

    async fn write(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        body: ByteStream,
        options: WriteOptions,
    ) -> Result<Written, WorkspaceError> {
        let max_bytes = options.max_bytes;
        let to = Arc::new(write::Target { root, path: path.clone(), options });
        let check = Arc::clone(&to);
        let upload = self.run(move |layout| check.begin(&layout.staging)).await?;
        let upload = upload.fill(&self.gate, body, max_bytes).await?;
        self.run(move |layout| upload.finish(&to, layout)).await
    }

    async fn write_copy(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        (from_root, from): (Arc<OwnedFd>, &WorkspacePath),
        options: WriteOptions,
    ) -> Result<Written, WorkspaceError> {
        let (max_bytes, from) = (options.max_bytes, from.clone());
        let to = write::Target { root, path: path.clone(), options };
        let copy = move |layout: &Layout| {
            let upload = to.begin(&layout.staging)?.fill_from((from_root.as_fd(), &from), max_bytes)?;
            upload.finish(&to, layout)
        };
        self.run_long(copy).await
    }

    async fn open_dir(
        &self,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        make: Option<u64>,
    ) -> Result<Option<OpenDir>, WorkspaceError> {
        let path = path.clone();
        self.run(move |_| part::open(root.as_fd(), &path, make)).await
    }

    async fn make_dir(&self, root: Arc<OwnedFd>, path: &WorkspacePath) -> Result<bool, WorkspaceError> {
        let path = path.clone();
        self.run(move |_| change::make_dir(root.as_fd(), &path)).await
    }

    async fn delete(&self, root: Arc<OwnedFd>, path: &WorkspacePath, how: Removal) -> Result<u64, WorkspaceError> {
        let path = path.clone();
        if !how.recursive {
            return self.run(move |layout| change::delete(layout, root.as_fd(), &path, &how.conditions)).await;
        }
        self.run_long(move |layout| change::delete_tree(layout, root.as_fd(), &path, &how.conditions)).await
    }

    async fn rename(
        &self,
        root: Arc<OwnedFd>,
        from: &WorkspacePath,
        to: &WorkspacePath,
        replace: bool,
    ) -> Result<(), WorkspaceError> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |layout| change::rename(layout, root.as_fd(), &from, &to, replace)).await
    }

    async fn put_aside(
        &self,
        task: (TenantId, TaskId),
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        id: DeletedId,
        how: Removal,
    ) -> Result<PutAside, WorkspaceError> {
        let path = path.clone();
        self.run_long(move |layout| aside::put(layout, task, root.as_fd(), &path, id, &how)).await
    }

    async fn aside(&self, task: (TenantId, TaskId), id: DeletedId) -> Result<Option<PutAside>, WorkspaceError> {
        self.run_long(move |layout| aside::get(layout, task, id)).await
    }

    async fn bring_back(
        &self,
        task: (TenantId, TaskId),
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        id: DeletedId,
        replace: bool,
    ) -> Result<(), WorkspaceError> {
        let path = path.clone();
        self.run(move |layout| aside::bring_back(layout, task, root.as_fd(), &path, id, replace)).await
    }

    async fn purge(&self, task: (TenantId, TaskId), id: DeletedId) -> Result<(), WorkspaceError> {
        self.run_long(move |layout| aside::purge(layout, task, id)).await
    }

    async fn copy(&self, copy: Copy) -> Result<Copied, WorkspaceError> {
        self.run_long(move |layout| copy::copy(layout, &copy)).await
    }

    async fn arrive(&self, root: Arc<OwnedFd>, room: Extent) -> Result<Box<dyn Arriving>, WorkspaceError> {
        let tree =
            arriving::Tree::begin(Arc::clone(&self.layout), (self.gate.clone(), self.long.clone()), root, room).await?;
        Ok(Box::new(tree))
    }

    async fn begin_upload(&self, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError> {
        self.run(move |layout| upload::begin(layout, task, id)).await
    }

    async fn upload_size(&self, task: (TenantId, TaskId), id: UploadId) -> Result<Option<u64>, WorkspaceError> {
        self.run(move |layout| upload::size(layout, task, id)).await
    }

    async fn add_to_upload(
        &self,
        task: (TenantId, TaskId),
        id: UploadId,
        offset: u64,
        max_bytes: u64,
        body: ByteStream,
    ) -> Result<Added, WorkspaceError> {
        upload::add(Arc::clone(&self.layout), &self.gate, (task, id), offset, max_bytes, body).await
    }

    async fn finish_upload(
        &self,
        task: (TenantId, TaskId),
        id: UploadId,
        root: Arc<OwnedFd>,
        path: &WorkspacePath,
        options: WriteOptions,
    ) -> Result<Written, WorkspaceError> {
        let to = write::Target { root, path: path.clone(), options };
        self.run_long(move |layout| upload::finish(layout, task, id, &to)).await
    }

    async fn drop_upload(&self, task: (TenantId, TaskId), id: UploadId) -> Result<(), WorkspaceError> {
        self.run(move |layout| upload::remove(layout, task, id)).await
    }

    async fn measure_aside(&self, task: (TenantId, TaskId)) -> Result<Extent, WorkspaceError> {
        self.run_long(move |layout| aside::measure(layout, task)).await
    }

    async fn measure(&self, root: Arc<OwnedFd>) -> Result<Extent, WorkspaceError> {
        self.run_long(move |_| measure::measure(root.as_fd())).await
    }

    async fn changed_since(&self, root: Arc<OwnedFd>, since: Timestamp, max: u32) -> Result<Walked, WorkspaceError> {
        self.run_long(move |_| walk::changed_since(root.as_fd(), since, max)).await
    }
}

#[cfg(test)]
mod arriving_tests;
#[cfg(test)]
mod beside_tests;
#[cfg(test)]
mod project_tests;
#[cfg(test)]
mod tests;
