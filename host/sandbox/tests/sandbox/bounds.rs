//! What a worker takes of the machine.

use bulkhead_sandbox::Part;

use crate::walls::attack;

#[test]
fn it_takes_no_more_than_a_worker_needs() {
    let reached = attack(&[Part::Bounds], None);
    reached.assert(&["bounds.descriptors", "bounds.memory", "bounds.file_size", "bounds.sparse_write"]);
    assert_eq!(reached.0["missing"], serde_json::json!(["resource limits"]));
}

/// The limits alone do not keep it from memory that they don't count.
#[test]
fn memory_that_no_limit_counts_is_refused() {
    let uncounted = ["bounds.shared_memory", "bounds.shared_file", "bounds.stack"];
    let behind_all = attack(&[], None);
    assert!(uncounted.iter().all(|name| !behind_all.names().contains(name)), "{:?}", behind_all.names());
    attack(&[Part::Seccomp], None).assert(&uncounted);
}
