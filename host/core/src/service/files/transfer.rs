//! From one task to another of the same owner. Both are proved; what arrives counts in
//! the quota of the one that it comes into.

use std::collections::HashSet;
use std::sync::{MutexGuard, PoisonError};

use super::{Files, Root, Told, full};
use crate::access::OwnedTask;
use crate::conditions::{Conditions, Tags};
use crate::error::Error;
use crate::event::ChangeKind;
use crate::path::WorkspacePath;
use crate::ports::cluster::Holder;
use crate::ports::workspace::{Arriving, ByteStream, Copied, Copy, Removal, WorkspaceError};
use crate::principal::Owner;
use crate::quota::{Extent, Room};
use crate::steps;
use crate::task::Task;

/// What is to be transferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its path in the task that it comes from.
    pub from: WorkspacePath,
    /// Its path in the task that it comes into.
    pub to: WorkspacePath,
    /// Whether it is removed there.
    pub remove: bool,
    /// Whether a file that is in its place may be replaced.
    pub replace: bool,
}

impl Files {
    /// Copies an entry from another task of the same owner, with all it holds, and
    /// removes it there if that is asked for. It is whole or not there at all; if the
    /// host dies between the copy and the removal, it is in both.
    ///
    /// # Errors
    /// If one of the tasks is not ready or not held here, nothing is there, something is
    /// in the way, or there is no room.
    pub async fn transfer(&self, into: &OwnedTask, out_of: &OwnedTask, what: Transfer) -> Result<Copied, Error> {
        if into.task().id == out_of.task().id {
            return Err(Error::invalid("from_task", "is the task itself; use `moves`"));
        }
        // Both proofs are of one principal; this says so where it matters.
        if into.task().owner != out_of.task().owner {
            return Err(Error::not_found("task", out_of.task().id));
        }
        let to_root = self.root(into).await?;
        let source = out_of.ready()?.clone();
        if self.parts.ports.cluster.hold(source.id).await? != Some(Holder::Here) {
            return Err(Error::HeldElsewhere(source.id));
        }
        let from_root = self.root(out_of).await?;
        // One at a time: what is being copied counts once it is.
        let alone = self.parts.quotas.alone(into.task().owner).await;
        let room = self.room(into, &to_root).await?;
        let (this, target) = (self.clone(), into.task().clone());
        let transfer = async move {
            let _alone = alone;
            let workspaces = &this.parts.ports.workspaces;
            let Transfer { from, to, remove, replace } = what;
            let copy = Copy {
                from_root: from_root.dir(),
                from: from.clone(),
                to_root: to_root.dir(),
                to: to.clone(),
                replace,
                room: room.extent,
            };
            let copied = workspaces.copy(copy).await.map_err(meaning(room))?;
            steps::reach("transfer.copied");
            this.told_of_copy(&target, &to, &copied).await?;
            if remove {
                let conditions = Conditions { if_match: copied.source.clone().map(Tags::one), if_none_match: None };
                let how = Removal { conditions, ..Removal::recursive() };
                let count = workspaces.delete(from_root.dir(), &from, how).await.map_err(|error| match error {
                    WorkspaceError::Precondition(path) => Error::WrongState {
                        what: format!("the file `{path}` of `from_task`"),
                        state: "changed while it was moved".into(),
                        remedy: "it was copied as it was before, and is in both tasks".into(),
                    },
                    error => error.into(),
                })?;
                steps::reach("transfer.removed");
                this.parts.quotas.forget(source.id);
                let counted = Some((ChangeKind::Deleted, count));
                this.changed(&source, Told { counted, ..Told::of(&from, ChangeKind::Deleted) }).await?;
            }
            Ok(copied)
        };
        self.surely(transfer).await
    }

    /// Begins a directory that comes from a task of the same owner which another host
    /// holds, entry by entry. What is on its way counts in no quota yet, so an owner has
    /// one at a time.
    ///
    /// # Errors
    /// If the task is not ready, there is no room, or another one is on its way.
    pub async fn arrive(&self, into: &OwnedTask) -> Result<Arrival, Error> {
        let turn = Turn::of(self, into.task().owner)?;
        let root = self.root(into).await?;
        let room = self.room(into, &root).await?;
        let tree = self.parts.ports.workspaces.arrive(root.dir(), room.extent).await.map_err(meaning(room))?;
        Ok(Arrival { files: self.clone(), task: into.task().clone(), root, room, tree, turn })
    }

    fn arriving(&self) -> MutexGuard<'_, HashSet<Owner>> {
        // No code panics while it holds the lock.
        self.parts.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and tells what was copied.
    async fn told_of_copy(&self, into: &Task, to: &WorkspacePath, copied: &Copied) -> Result<(), Error> {
        let extent = self.parts.quotas.added(into.owner, into.id, copied.extent);
        let change = if copied.created { ChangeKind::Created } else { ChangeKind::Modified };
        let counted = Some((change, copied.extent.entries));
        self.changed(into, Told { extent, counted, ..Told::of(to, change) }).await?;
        Ok(())
    }
}

/// What it means that something could not be copied into this room.
fn meaning(room: Room) -> impl Fn(WorkspaceError) -> Error {
    move |error| match error {
        WorkspaceError::OverLimit { what: "the bytes of the copy" | "the file", .. } => full(room.bytes_bound, &room),
        WorkspaceError::OverLimit { what: "the entries of the copy", .. } => full(room.entries_bound, &room),
        error => error.into(),
    }
}

/// An owner's turn to have something arrive.
struct Turn {
    files: Files,
    owner: Owner,
}

impl Turn {
    fn of(files: &Files, owner: Owner) -> Result<Self, Error> {
        let is_first = files.arriving().insert(owner);
        let this = || Self { files: files.clone(), owner };
        is_first.then(this).ok_or(Error::Busy {
            what: "another directory of yours is on its way from another host".into(),
            retry_after_s: 5,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.files.arriving().remove(&self.owner);
    }
}

/// A directory on its way into a task. Nothing of it is there before all is; dropped,
/// it is gone.
pub struct Arrival {
    files: Files,
    task: Task,
    root: Root,
    room: Room,
    tree: Box<dyn Arriving>,
    turn: Turn,
}

impl Arrival {
    /// What it may take.
    pub fn room(&self) -> Extent {
        self.room.extent
    }

    /// Makes a directory below it, whose parent is there.
    ///
    /// # Errors
    /// If it can't be made, or there is no room.
    pub async fn directory(&mut self, path: &WorkspacePath) -> Result<(), Error> {
        self.tree.directory(path).await.map_err(meaning(self.room))
    }

    /// Makes a symbolic link below it.
    ///
    /// # Errors
    /// If it can't be made, or there is no room.
    pub async fn link(&mut self, path: &WorkspacePath, target: Vec<u8>) -> Result<(), Error> {
        self.tree.link(path, target).await.map_err(meaning(self.room))
    }

    /// Makes a file below it.
    ///
    /// # Errors
    /// If it can't be made, there is no room, or the body breaks off.
    pub async fn file(&mut self, path: &WorkspacePath, executable: bool, body: ByteStream) -> Result<(), Error> {
        self.tree.file(path, executable, body).await.map_err(meaning(self.room))
    }

    /// Puts it in its place, where nothing is.
    ///
    /// # Errors
    /// If something is there, or it can't be written down.
    pub async fn put(self, to: &WorkspacePath, left_out: u64) -> Result<Copied, Error> {
        let Self { files, task, root, room: _, tree, turn } = self;
        let (this, to) = (files.clone(), to.clone());
        let put = async move {
            // Others may have taken the room meanwhile.
            let room = this.parts.quotas.room(task.owner, task.id, &root.dir, &task.limits).await?;
            let Extent { bytes, entries } = tree.extent();
            if bytes > room.extent.bytes {
                return Err(full(room.bytes_bound, &room));
            }
            if entries > room.extent.entries {
                return Err(full(room.entries_bound, &room));
            }
            let copied = tree.put(&to, left_out).await.map_err(meaning(room))?;
            this.told_of_copy(&task, &to, &copied).await?;
            drop((root, turn));
            Ok(copied)
        };
        files.surely(put).await
    }
}
