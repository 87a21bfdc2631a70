//! What a client sees, as files in git: a change is seen in review.

use bulkhead::http::problem::TABLE;

#[test]
fn the_openapi_document() {
    // Clients that are generated name their functions by them.
    let document = serde_json::to_value(bulkhead::http::openapi()).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let ids: Vec<_> =
        operations.filter_map(|operation| operation.get("responses").map(|_| &operation["operationId"])).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().map(|id| id.as_str().expect("an id")).collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
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
