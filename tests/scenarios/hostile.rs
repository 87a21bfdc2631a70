//! Hostile guests: every entry of the table of attacks, against a whole server
//! with small limits, of either isolation and store. Each ends in bounded time, in the
//! way the table wants, and the server works as before.
//!
//! `BULKHEAD_ATTACKS` names the ones to run, with commas between them; without
//! it all are. `BULKHEAD_ATTACKS_REPORT` is a file that gets a line of JSON when
//! each begins, and one as soon as it ended. Both are for `tests/barriers/run`.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::harness::attacks::{self, Attack, Ended};
use crate::harness::postgres::postgres;

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
    run(&wanted(), &attacks::server());
}

/// The same with the other isolation and the other store. What comes of a registration
/// depends on neither.
#[test]
fn so_it_does_in_a_worker_for_each_task_and_with_postgresql() {
    let mut table = wanted();
    table.retain(|attack| attack.phase != "register");
    let database = postgres().database(None);
    let options = attacks::options().with("BULKHEAD_WORKERS__ISOLATION", "strict");
    run(&table, &Server::start(options.with("DATABASE_URL", postgres().url(postgres().port(), &database))));
}

fn run(table: &[Attack], server: &Server) {
    let client = server.client();
    client.register("fixtures/echo");
    let mut failures = Vec::new();
    eprintln!("{}", attacks::heading());
    for attack in table {
        report(&json!({"begun": attack.name}));
        let mut ended = attack.run(server, &client);
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
