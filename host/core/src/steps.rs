//! Steps between a store and what is done beside it, at which tests end the host
//! (feature `probe`): what was stored, and what was done, must then be taken up by who
//! comes after. Without the feature they are nothing.
//!
//! `FAILPOINTS=call.accepted=2*off->return` ends it as the step is reached for the third
//! time (the crate `fail`).

/// Every step, in the order of a call's life, then of others.
pub const ALL: [&str; 19] = [
    "call.accepting",
    "call.accepted",
    "call.starting",
    "call.started",
    "call.output",
    "call.ran",
    "call.ending",
    "call.ended",
    "calls.taken",
    "task.placed",
    "task.created",
    "file.placed",
    "file.told",
    "delete.noted",
    "delete.moved",
    "archive.noted",
    "archive.packed",
    "restore.unpacked",
    "tool.prepared",
];

/// A step is reached.
#[cfg(feature = "probe")]
pub fn reach(step: &str) {
    debug_assert!(ALL.contains(&step), "{step} is no step");
    // As sudden as `kill -9`: nothing is unwound, flushed or told.
    fail::fail_point!(step, |_| std::process::abort());
}

/// A step is reached.
#[cfg(not(feature = "probe"))]
#[inline]
pub fn reach(_step: &str) {}

/// What `FAILPOINTS` asks for, while this lives.
#[cfg(feature = "probe")]
pub fn asked_for() -> impl Drop {
    fail::FailScenario::setup()
}
