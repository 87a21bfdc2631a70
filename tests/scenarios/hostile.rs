//! Hostile guests: every entry of the table of attacks, against a whole server
//! with small limits. Each ends in bounded time, in the way the table wants,
//! and the server works as before.

use std::time::Duration;

use serde_json::json;

use crate::harness::attacks;

/// No attack may take longer, on a loaded machine with a debug build.
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn every_attack_ends_as_the_table_wants() {
    let table = attacks::table();
    assert!(table.len() >= 160);
    let server = attacks::server();
    let client = server.client();
    client.register("fixtures/echo");
    let mut failures = Vec::new();
    eprintln!("{}", attacks::heading());
    for attack in &table {
        let ended = attack.run(&server, &client);
        eprintln!("{}", ended.line(&attack.name));
        if ended.fault.is_some() || ended.took > BOUND {
            failures.push(ended.line(&attack.name));
        }
    }
    let task = client.task();
    assert_eq!(client.call(&task, "echo", json!({"text": "alive"}))["state"], "succeeded");
    // A worker may die of an attack; none may ever make it say what it must not.
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("bulkhead_worker_protocol_errors_total 0\n"), "{metrics}");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), table.len(), failures.join("\n"));
}
