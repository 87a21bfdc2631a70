//! Parts of the workspace that a call is granted: opened by the host, once, at
//! the start of its guest, and written down with what they were.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Inner;
use super::drive::chain;
use super::sink::CallSink;
use crate::audit::{AuditBody, OpenedPart};
use crate::call::Call;
use crate::event::{ChangeKind, FileChange};
use crate::grants::{WorkspaceAccess, WorkspacePart};
use crate::outcome::{Fault, code};
use crate::ports::sandbox::{Emission, RunPart, Sink as _};
use crate::ports::workspace::{OpenDir, WorkspaceError};
use crate::quota::Room;

impl Inner {
    /// Opens the parts of its workspace that a call is granted. One that is
    /// missing is made if the call may write in it, and counts as made by the
    /// call; else it is left out. What may be made comes off `room`.
    ///
    /// # Errors
    /// The fault that ends the call: one is no directory, there is no room for
    /// it, or it can't be written down.
    pub(super) async fn open_parts(
        &self,
        call: &Call,
        root: &Arc<OwnedFd>,
        sink: &Arc<CallSink>,
        room: &mut Room,
    ) -> Result<Vec<RunPart>, Fault> {
        let (mut parts, mut opened) = (Vec::new(), Vec::new());
        for part in &call.grants.paths {
            let make = (part.access == WorkspaceAccess::ReadWrite).then_some(room.extent.entries);
            let found = self.parts.workspaces.open_dir(root.clone(), &part.path.to_path(), make).await;
            let found = found.map_err(|error| refused(call, part, room, error))?;
            opened.push(OpenedPart {
                path: part.path.clone(),
                access: part.access,
                object: found.as_ref().map(|found| found.id.to_string()),
            });
            let Some(OpenDir { directory, made, .. }) = found else { continue };
            room.extent.entries = room.extent.entries.saturating_sub(made);
            for path in made_of(part, made) {
                sink.emit(Emission::Changed(FileChange { path, change: ChangeKind::Created })).await;
            }
            parts.push(RunPart { path: part.path.clone(), access: part.access, directory });
        }
        if !opened.is_empty() {
            let body = AuditBody::WorkspaceOpened { tool: call.tool_name.clone(), paths: opened };
            self.record(call, body).await.map_err(|error| host_fault(call, &error))?;
        }
        Ok(parts)
    }
}

fn host_fault(call: &Call, error: &dyn std::error::Error) -> Fault {
    let what = "a sub-path of the workspace could not be opened";
    tracing::error!(call = %call.id, task = %call.task, error = %chain(error), "{what}");
    Fault::new(code::HOST_ERROR, format!("{what}; the server's log says why")).retryable()
}

fn refused(call: &Call, part: &WorkspacePart, room: &Room, error: WorkspaceError) -> Fault {
    let path = &part.path;
    match error {
        WorkspaceError::Io(_) | WorkspaceError::DiskFull => host_fault(call, &error),
        WorkspaceError::OverLimit { .. } => {
            let text = format!(
                "the directory `{path}`, which the call may write in, is missing, and the workspace has no room for \
                 it: {}",
                room.entries_bound.in_words()
            );
            Fault::new(code::WORKSPACE_PATH, text)
        }
        error => {
            let text = format!(
                "the call is granted the sub-path `{path}` of the workspace, which must be a directory and lie behind \
                 no symbolic link: {error}"
            );
            Fault::new(code::WORKSPACE_PATH, text)
        }
    }
}

/// The names of the directories that were made for a part: the last of its path.
fn made_of(part: &WorkspacePart, made: u64) -> Vec<String> {
    let mut paths = Vec::new();
    let mut at = Some(part.path.to_path());
    while let Some(path) = at.filter(|path| !path.is_root() && (paths.len() as u64) < made) {
        paths.push(path.to_text());
        at = path.parent();
    }
    paths.reverse();
    paths
}
