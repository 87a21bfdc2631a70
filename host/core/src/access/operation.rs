//! What may be asked of the door: each operation once, with the scope that it
//! demands, and whether an administrator may ask it about another's thing.

use std::fmt;

use crate::principal::Scope;

/// Whose things an operation may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The caller's own.
    Own,
    /// The caller's own, and for an administrator with a reason another's:
    /// reading, and ending what goes on. Nobody acts as somebody else.
    Others,
}

macro_rules! operations {
    ($($variant:ident = $name:literal, $scope:ident, $reach:ident;)*) => {
        /// An operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each is the text beside it")]
        pub enum Operation { $($variant,)* }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Operation] = &[$(Operation::$variant),*];

            /// The name, as audit records have it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The scope that it demands.
            pub fn scope(self) -> Scope {
                match self { $(Self::$variant => Scope::$scope,)* }
            }

            /// Whose things it may be about.
            pub fn reach(self) -> Reach {
                match self { $(Self::$variant => Reach::$reach,)* }
            }
        }
    };
}

operations! {
    SessionsCreate = "sessions.create", TasksWrite, Own;
    SessionsList = "sessions.list", TasksRead, Own;
    SessionsGet = "sessions.get", TasksRead, Others;
    SessionsDelete = "sessions.delete", TasksWrite, Others;
    SessionsJoin = "sessions.join", TasksWrite, Own;
    TasksCreate = "tasks.create", TasksWrite, Own;
    TasksList = "tasks.list", TasksRead, Own;
    TasksGet = "tasks.get", TasksRead, Others;
    TasksDelete = "tasks.delete", TasksWrite, Others;
    TasksArchive = "tasks.archive", TasksWrite, Others;
    TasksRestore = "tasks.restore", TasksWrite, Own;
    TasksTools = "tasks.tools", TasksRead, Others;
    EventsFollow = "events.follow", TasksRead, Others;
    TicketsCreate = "tickets.create", TasksRead, Own;
    CallsCreate = "calls.create", CallsRun, Own;
    CallsList = "calls.list", TasksRead, Others;
    CallsGet = "calls.get", TasksRead, Others;
    CallsCancel = "calls.cancel", CallsRun, Others;
    GrantsGive = "grants.give", GrantsWrite, Own;
    GrantsList = "grants.list", TasksRead, Others;
    GrantsRevoke = "grants.revoke", GrantsWrite, Own;
    GrantsAnswer = "grants.answer", GrantsWrite, Own;
    PolicyExplain = "policy.explain", TasksRead, Others;
    AuditList = "audit.list", TasksRead, Others;
    AuditListOwn = "audit.list_own", TasksRead, Own;
    FilesList = "files.list", FilesRead, Others;
    FilesRead = "files.read", FilesRead, Others;
    FilesWrite = "files.write", FilesWrite, Own;
    FilesMakeDirectory = "files.make_directory", FilesWrite, Own;
    FilesMove = "files.move", FilesWrite, Own;
    FilesDelete = "files.delete", FilesWrite, Own;
    FilesHistory = "files.history", FilesRead, Others;
    FilesAccesses = "files.accesses", FilesRead, Others;
    FilesPreview = "files.preview", FilesRead, Others;
    FilesListDeleted = "files.list_deleted", FilesRead, Others;
    FilesRestore = "files.restore", FilesWrite, Own;
    FilesPurge = "files.purge", FilesWrite, Own;
    FilesTransfer = "files.transfer", FilesWrite, Own;
    FilesTransferFrom = "files.transfer_from", FilesRead, Own;
    FilesPutContent = "files.put_content", FilesWrite, Own;
    FilesUpload = "files.upload", FilesWrite, Own;
    ToolsRegister = "tools.register", ToolsWrite, Own;
    ToolsList = "tools.list", ToolsRead, Own;
    ToolsGet = "tools.get", ToolsRead, Own;
    ToolsFollow = "tools.follow", ToolsRead, Own;
    ToolsDelete = "tools.delete", ToolsWrite, Own;
    VolumesList = "volumes.list", OperatorAdmin, Own;
    VolumesRetire = "volumes.retire", OperatorAdmin, Own;
    MetricsGet = "metrics.get", MetricsRead, Own;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_acts_as_somebody_else() {
        for operation in Operation::ALL.iter().filter(|operation| operation.reach() == Reach::Others) {
            let ends = matches!(
                operation,
                Operation::SessionsDelete | Operation::TasksDelete | Operation::TasksArchive | Operation::CallsCancel
            );
            let reads = matches!(operation.scope(), Scope::TasksRead | Scope::FilesRead);
            assert!(ends || reads, "{operation}");
        }
    }

    #[test]
    fn names_are_their_own() {
        let mut names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
