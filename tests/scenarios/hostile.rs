//! Hostile guests: every entry of the table of attacks, against a whole server
//! with small limits. Each ends in bounded time, in the way the table wants,
//! and the server works as before.
//!
//! `BULKHEAD_ATTACKS` names the ones to run, with commas between them; without
//! it all are. `BULKHEAD_ATTACKS_REPORT` is a file that gets a line of JSON when
//! each begins, and one as soon as it ended. Both are for `tests/barriers/run`.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::attacks::{self, Attack, Ended};

/// No attack may take longer, on a loaded machine with a debug build.
const BOUND: Duration = Duration::from_secs(60);

/// The attacks that are asked for.
fn wanted() -> Vec<Attack> {
    let mut table = attacks::table();
    assert!(table.len() >= 180);
    if let Ok(names) = std::env::var("BULKHEAD_ATTACKS") {
        let names: Vec<_> = names.split(',').collect();
        let unknown = names.iter().find(|name| table.iter().all(|attack| attack.name != **name));
        assert_eq!(unknown, None, "there is no such attack");
        table.retain(|attack| names.contains(&attack.name.as_str()));
    }
    table
}

/// Tells a program of an attack.
fn report(line: &Value) {
    let Ok(path) = std::env::var("BULKHEAD_ATTACKS_REPORT") else { return };
    let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

/// How one ended.
fn ended_as(name: &str, ended: &Ended) -> Value {
    let (wanted, got, fault) = (&ended.wanted, &ended.got, &ended.fault);
    json!({"attack": name, "wanted": wanted, "got": got, "fault": fault, "ms": ended.took.as_millis() as u64})
}

#[test]
fn every_attack_ends_as_the_table_wants() {
    let table = wanted();
    let server = attacks::server();
    let client = server.client();
    client.register("fixtures/echo");
    let mut failures = Vec::new();
    eprintln!("{}", attacks::heading());
    for attack in &table {
        report(&json!({"begun": attack.name}));
        let mut ended = attack.run(&server, &client);
        if ended.took > BOUND {
            ended.fault.get_or_insert(format!("it took longer than {BOUND:?}"));
        }
        eprintln!("{}", ended.line(&attack.name));
        report(&ended_as(&attack.name, &ended));
        if ended.fault.is_some() {
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
