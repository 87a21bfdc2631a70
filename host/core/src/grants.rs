//! Capabilities a tool wants, and grants a call gets. Nothing is granted by
//! default; what is granted is within what the tool wants.

use serde::{Deserialize, Serialize};

/// How much of the workspace a call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceAccess {
    /// No directory at all.
    None,
    /// Read only; such calls run in parallel within a task.
    Read,
    /// Read and write; one such call at a time within a task.
    ReadWrite,
}

/// Something a tool wants beside pure computation (`capability` in `wit/tool.wit`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum Capability {
    /// The task's workspace.
    Workspace(WorkspaceAccess),
    /// Outgoing HTTP to one host.
    Http(String),
    /// One environment variable, by name.
    Environment(String),
    /// One secret, by name.
    Secret(String),
}

/// What a call is granted: frozen before the guest starts and recorded with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// The task's workspace, mounted at `/`.
    pub workspace: WorkspaceAccess,
}

impl Grants {
    /// What a task allows at most: its own workspace, nothing else.
    pub const TASK_CEILING: Grants = Grants { workspace: WorkspaceAccess::ReadWrite };

    /// The grants of a call: what the tool wants, within `self`.
    pub fn for_tool(&self, wanted: &[Capability]) -> Grants {
        let workspace = wanted.iter().fold(WorkspaceAccess::None, |most, capability| match capability {
            Capability::Workspace(access) => most.max(*access),
            // Wanted, but nothing grants them yet: the guest runs without.
            Capability::Http(_) | Capability::Environment(_) | Capability::Secret(_) => most,
        });
        Grants { workspace: workspace.min(self.workspace) }
    }

    /// Whether a call with these grants can change the workspace.
    pub fn mutating(&self) -> bool {
        self.workspace == WorkspaceAccess::ReadWrite
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_no_more_than_the_tool_wants_or_the_task_allows() {
        let all = Grants::TASK_CEILING;
        assert_eq!(all.for_tool(&[]).workspace, WorkspaceAccess::None);
        let wanted = [Capability::Workspace(WorkspaceAccess::Read), Capability::Http("a".into())];
        assert_eq!(all.for_tool(&wanted).workspace, WorkspaceAccess::Read);
        let read_only = Grants { workspace: WorkspaceAccess::Read };
        let wanted = [Capability::Workspace(WorkspaceAccess::ReadWrite)];
        assert!(!read_only.for_tool(&wanted).mutating());
    }
}
