//! What users hold: how much of it, how long, and what becomes of it.

use serde::{Deserialize, Serialize};

use super::{DECADE_MS, GIB, HOUR_MS, KIB, KernelQuota, Key, number};

section! {
    /// What one user may hold, and one tenant.
    Quota = "quota" {
        /// Bytes of all workspaces of a user together, by their files' sizes. A disk that one user fills stops everybody.
        workspace_bytes_per_user: u64 = 64 * GIB, number("bytes", KIB, 1024 * 1024 * GIB);
        /// Files, directories and links of all workspaces of a user together. Each takes an inode.
        workspace_entries_per_user: u64 = 5_000_000, number("entries", 1, 10_000_000_000);
        /// Tasks of a user that are not deleted. Each is a directory and a log.
        tasks_per_user: u64 = 10_000, number("tasks", 1, 10_000_000);
        /// Tasks of all users of a tenant together that are not deleted. Counted every two seconds.
        tasks_per_tenant: u64 = 100_000, number("tasks", 1, 100_000_000);
        /// Tools that a tenant has registered, refused ones too, until they are deleted. They are compiled one after the other, tenants in turn.
        tools_per_tenant: u64 = 1_000, number("tools", 1, 1_000_000);
        /// Bytes of the components of a tenant's tools together. What is compiled of them takes some three times as much.
        tool_bytes_per_tenant: u64 = 4 * GIB, number("bytes", KIB, 1024 * GIB);
        /// Whether the kernel bounds each workspace too, so that a worker that was taken over fills no disk: at its task's `workspace_bytes` and 4 KiB for each of its `workspace_entries`, so that who keeps to these never meets it. Workspaces that were made before have no such bound. Takes ext4 or XFS mounted with `prjquota`, and a server with CAP_SYS_ADMIN; `bulkhead doctor` tells. `auto`: where it can. `required`: the server does not start without it.
        kernel: KernelQuota = KernelQuota::Auto, KernelQuota::KIND;
    }
}

section! {
    /// Files of workspaces, and what is known of them.
    FileRules = "files" {
        /// How long what clients delete is kept, so that they can have it back. It takes room in the quota until then, or until it is purged. 0: nothing is kept.
        keep_deleted_ms: u64 = 24 * HOUR_MS, number("milliseconds", 0, 366 * 24 * HOUR_MS);
        /// How long an upload that goes on over several requests may take; what came of it takes room in the quota.
        upload_ms: u64 = 24 * HOUR_MS, number("milliseconds", 1_000, 366 * 24 * HOUR_MS);
        /// Such uploads of one task at once. Each is a file and a row.
        uploads_per_task: u64 = 32, number("uploads", 1, 10_000);
        /// Age after which an entry of the history of files is removed. Events go sooner.
        history_hours: u64 = 90 * 24, number("hours", 1, 10 * 365 * 24);
        /// Entries of a task's history of files; the oldest go. Each is a row.
        history_per_task: u64 = 100_000, number("entries", 100, 100_000_000);
        /// Age after which an entry of the access log is removed.
        access_hours: u64 = 30 * 24, number("hours", 1, 10 * 365 * 24);
        /// Entries of the access log that may wait to be stored, which happens four times a second; a request that finds so many waits. A server that is killed loses them.
        access_queue: u64 = 4_096, number("entries", 64, 1_000_000);
    }
}

section! {
    /// The life of tasks: when they are archived and deleted by the server itself.
    Lifecycle = "lifecycle" {
        /// Time without a call, a file operation or an open event stream after which a task is archived: its workspace is packed, and it takes calls again once it is restored. 0: never. A task may ask for less, as of the next two.
        archive_idle_ms: u64 = 7 * 24 * HOUR_MS, number("milliseconds", 0, DECADE_MS);
        /// Time after which a task that is archived, or has failed, is deleted. 0: never; nothing is deleted that nobody asked for.
        delete_archived_ms: u64 = 0, number("milliseconds", 0, DECADE_MS);
        /// Age at which a task is deleted, whatever it does: its calls are cancelled. 0: never.
        max_age_ms: u64 = 0, number("milliseconds", 0, DECADE_MS);
        /// How long a deleted task can be restored. What is kept of it counts in its user's quota; `DELETE …?purge=true` removes it at once. 0: it is gone at once.
        keep_deleted_ms: u64 = 24 * HOUR_MS, number("milliseconds", 0, DECADE_MS);
        /// Time between two looks for tasks whose time is over. Each look does a bounded number of things, and only what the look before found too.
        every_ms: u64 = 30_000, number("milliseconds", 50, HOUR_MS);
        /// Time between two looks for workspaces and archives that belong to no task, as after a crash or of a restored database. 0: never.
        sweep_ms: u64 = HOUR_MS, number("milliseconds", 0, 30 * 24 * HOUR_MS);
        /// How long something must belong to no task before it is removed. Another host may be just making it.
        sweep_grace_ms: u64 = HOUR_MS, number("milliseconds", 0, 30 * 24 * HOUR_MS);
        /// Workspaces packed or unpacked at once; each takes a process and a core.
        at_once: u64 = 2, number("workspaces", 1, 64);
        /// How long packing a workspace may take; then its directory stays. Unpacking may take four times as long.
        timeout_ms: u64 = 600_000, number("milliseconds", 1_000, 24 * HOUR_MS);
    }
}
