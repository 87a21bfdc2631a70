//! A content that a client of the same owner has sent before need not be sent again.
//!
//! There is no store of contents beside the workspaces: where a content was put is in
//! the histories of paths, and a file that still has the tag of that moment is copied,
//! its blocks shared where the filesystem can. The copy is hashed before it takes its
//! place, so it does not matter what a guest did to the file meanwhile.

use super::Files;
use super::counted::not_withdrawn;
use crate::access::OwnedTask;
use crate::conditions::Conditions;
use crate::digest::Digest;
use crate::error::Error;
use crate::files::media_type;
use crate::path::WorkspacePath;
use crate::ports::files::{ContentPlace, FileStep};
use crate::ports::workspace::{WorkspaceError, WriteOptions, Written};
use crate::quota::Extent;

/// Places that are looked at for one content: the newest. Each costs a look at a file.
const PLACES: u32 = 16;

impl Files {
    /// Puts a content into a file that the owner's clients have sent before.
    ///
    /// # Errors
    /// If no file of this owner that can be reached here has this content, or as for a
    /// write.
    pub async fn put_content(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        content: Digest,
        conditions: Conditions,
        (executable, said): (Option<bool>, Option<&str>),
    ) -> Result<Written, Error> {
        let owner = task.task().owner;
        let root = self.root(task).await?;
        let room = self.room(task, &root).await?;
        let (max_bytes, meaning) = self.bounded(&room);
        let options = WriteOptions { max_bytes, conditions, executable, digest: Some(content) };
        let lease = self.lease(task.task(), &room);
        for place in self.parts.ports.store.contents(owner, content, PLACES).await? {
            lease.took(Extent { bytes: place.facts.size, entries: 1 });
            not_withdrawn(&lease, &room)?;
            let Some(written) = self.copied(task, &place, (root.dir(), path), &options).await else { continue };
            let written = written.map_err(&meaning)?;
            // From here on it counts as what it is.
            drop(lease);
            let kind = said.map_or_else(|| place.facts.media_type.clone(), |said| media_type(Some(said), path.name()));
            self.written(task, path, &written, Some(&kind), FileStep::Alone).await?;
            return Ok(written);
        }
        Err(Error::UnknownContent(content))
    }

    /// The copy of a file, if that has the content still.
    async fn copied(
        &self,
        task: &OwnedTask,
        place: &ContentPlace,
        (root, path): (std::sync::Arc<std::os::fd::OwnedFd>, &WorkspacePath),
        options: &WriteOptions,
    ) -> Option<Result<Written, WorkspaceError>> {
        let workspaces = &self.parts.ports.workspaces;
        let from_root = workspaces.open(task.task().owner.tenant, place.task).await.ok()?;
        let from = WorkspacePath::from_text(&place.path).ok()?;
        let entry = workspaces.stat(from_root.clone(), &from).await.ok()?;
        if entry.etag.as_ref() != Some(&place.facts.etag) {
            return None;
        }
        match workspaces.write_copy(root, path, (from_root, &from), options.clone()).await {
            Err(WorkspaceError::DigestMismatch { .. }) => None,
            Err(WorkspaceError::NotFound(at) | WorkspaceError::NotRegular(at)) if at == place.path => None,
            done => Some(done),
        }
    }
}
