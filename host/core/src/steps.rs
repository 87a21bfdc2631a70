//! Steps between a store and what is done beside it, at which tests end the host
//! (feature `probe`): what was stored, and what was done, must then be taken up by who
//! comes after. Without the feature they are nothing.
//! What then happens is set by name, by the crate `fail`: core ends no process.

/// Every step, in the order of a call's life, then of others.
pub const ALL: [&str; 29] = [
    "call.accepting",
    "call.accepted",
    "call.starting",
    "call.started",
    "call.output",
    "call.ran",
    "call.ending",
    "call.ended",
    "call.requeueing",
    "call.requeued",
    "calls.taken",
    "task.placed",
    "task.created",
    "file.placed",
    "file.told",
    "delete.noted",
    "delete.moved",
    "undelete.noted",
    "undelete.moved",
    "purge.noted",
    "purge.removed",
    "upload.noted",
    "upload.placed",
    "transfer.copied",
    "transfer.removed",
    "archive.noted",
    "archive.packed",
    "restore.unpacked",
    "tool.prepared",
];

/// A step is reached.
#[cfg(feature = "probe")]
pub fn reach(step: &str) {
    debug_assert!(ALL.contains(&step), "{step} is no step");
    fail::fail_point!(step);
}

/// A step is reached.
#[cfg(not(feature = "probe"))]
#[inline]
pub fn reach(_step: &str) {}
