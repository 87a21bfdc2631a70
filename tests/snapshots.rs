//! What a client sees, as files in git: a change is seen in review.

use bulkhead::http::problem::TABLE;

#[test]
fn the_openapi_document() {
    insta::assert_snapshot!("openapi", bulkhead::http::openapi().to_pretty_json().unwrap());
}

#[test]
fn the_table_of_problems() {
    let rows: Vec<_> = TABLE
        .iter()
        .map(|row| {
            format!("{:<26} {} {:<5} {}", row.code, row.status, if row.retryable { "retry" } else { "" }, row.title)
        })
        .collect();
    insta::assert_snapshot!("problems", rows.join("\n"));
}

#[test]
fn the_table_of_limits() {
    let rows: Vec<_> = bulkhead_core::limits::Limits::SPECS
        .iter()
        .map(|spec| {
            format!("{:<18} {:<12} {:>10} {:>12} {}", spec.name, spec.unit, spec.default, spec.max, spec.reason)
        })
        .collect();
    insta::assert_snapshot!("limits", rows.join("\n"));
}

/// What each operation demands, and which an administrator may ask about
/// another's thing: the other tests compare the edges with this table.
#[test]
fn the_table_of_operations() {
    use bulkhead_core::access::{Operation, Reach};
    let rows: Vec<_> = Operation::ALL
        .iter()
        .map(|operation| {
            let reach = if operation.reach() == Reach::Others { "own, others' with a reason" } else { "own" };
            format!("{:<22} {:<13} {reach}", operation.name(), operation.scope().as_str())
        })
        .collect();
    insta::assert_snapshot!("operations", rows.join("\n"));
}
