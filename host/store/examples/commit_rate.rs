//! What a call costs in the store: accepted as running in one commit, ended in
//! another. Prints time and processor time of such a pair for several numbers
//! of clients, with and without waiting for the disk: in SQLite, in PostgreSQL on
//! the same machine, and how many times as many the first does. The round trips
//! of a pair are counted by a proxy, in a run of their own.
//!
//! `cargo run --release -p bulkhead-store --example commit_rate [directory [off|full [clients]]]`
//!
//! A PostgreSQL server is started for it, with its data in /tmp.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a person at a terminal")]
#![allow(dead_code, unreachable_pub, reason = "the harness is shared with the tests")]

#[path = "../../../tests/harness/proxy.rs"]
mod proxy;
#[path = "../../../tests/harness/postgres.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_core::audit::{AuditBody, NewAudit};
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{EventBody, NewEvent};
use bulkhead_core::grants::{Ceiling, Grants, WorkspaceAccess};
use bulkhead_core::id::{CallId, TaskId, TenantId, ToolId, UserId};
use bulkhead_core::limits::{Limits, Usage};
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::store::{AcceptCall, Accepted, EndCall, Store};
use bulkhead_core::principal::{By, Owner};
use bulkhead_core::task::{Source, Task, TaskState};
use bulkhead_core::tool::ToolSet;
use bulkhead_store::{PostgresConfig, PostgresStore, PostgresUrl, SqliteConfig, SqliteStore, Synchronous};

use proxy::Proxy;
use server::Postgres;

const FOR: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let home = wanted.first().map_or_else(std::env::temp_dir, Into::into);
    let wants = |index: usize, text: String| wanted.get(index).is_none_or(|wanted| *wanted == text);
    let server = Postgres::start(true);
    println!("store     sync  clients   pairs/s   us/pair (each client)   cpu us/pair here");
    for synchronous in [Synchronous::Off, Synchronous::Full] {
        for clients in [1, 16, 64] {
            if !wants(1, name(synchronous)) || !wants(2, clients.to_string()) {
                continue;
            }
            let directory = tempfile::tempdir_in(&home).unwrap();
            let sqlite = measure("sqlite", sqlite(directory.path(), synchronous).await, synchronous, clients).await;
            let url = server.socket_url(&server.database(None));
            let postgres = measure("postgres", postgres(&url, synchronous).await, synchronous, clients).await;
            println!("          sqlite does {:.2} times as many", sqlite / postgres);
        }
    }
    let proxy = Proxy::before(server.port());
    let store = postgres(&server.url(proxy.port(), &server.database(None)), Synchronous::Off).await;
    println!("round trips of a pair, by a proxy: {:.3}", round_trips(store, &proxy).await);
}

fn name(synchronous: Synchronous) -> String {
    format!("{synchronous:?}").to_lowercase()
}

async fn sqlite(directory: &Path, synchronous: Synchronous) -> Arc<dyn Store> {
    let config = SqliteConfig { synchronous, ..SqliteConfig::new(directory.join("rate.db")) };
    Arc::new(SqliteStore::open(config).await.unwrap())
}

async fn postgres(url: &str, synchronous: Synchronous) -> Arc<dyn Store> {
    let config = PostgresConfig { synchronous, ..PostgresConfig::new(PostgresUrl::parse(url).unwrap()) };
    Arc::new(PostgresStore::open(config).await.unwrap())
}

/// Pairs a second.
async fn measure(engine: &str, store: Arc<dyn Store>, synchronous: Synchronous, clients: u64) -> f64 {
    for client in 0..clients {
        store.create_task(&task(client), &ToolSet::new([]), vec![], audit()).await.unwrap();
    }
    let (processor, started) = (processor_time(), Instant::now());
    // As the server does it: commands come from tasks of the runtime.
    let tasks: Vec<_> = (0..clients).map(|client| tokio::spawn(calls(store.clone(), client, FOR))).collect();
    let mut pairs = 0;
    for task in tasks {
        pairs += task.await.unwrap();
    }
    let (seconds, pairs) = (started.elapsed().as_secs_f64(), pairs as f64);
    println!(
        "{engine:<9} {:<5} {clients:>7} {:>9.0} {:>23.0} {:>18.1}",
        name(synchronous),
        pairs / seconds,
        seconds * 1e6 * clients as f64 / pairs,
        (processor_time() - processor) * 1e6 / pairs,
    );
    store.close().await;
    pairs / seconds
}

/// Counted once the statements are prepared.
async fn round_trips(store: Arc<dyn Store>, proxy: &Proxy) -> f64 {
    store.create_task(&task(0), &ToolSet::new([]), vec![], audit()).await.unwrap();
    store.create_task(&task(1), &ToolSet::new([]), vec![], audit()).await.unwrap();
    calls(store.clone(), 0, Duration::from_millis(200)).await;
    let before = proxy.round_trips();
    let pairs = calls(store.clone(), 1, Duration::from_millis(500)).await;
    let trips = proxy.round_trips() - before;
    store.close().await;
    trips as f64 / pairs as f64
}

/// Pairs done by one client, one after the other.
async fn calls(store: Arc<dyn Store>, client: u64, time: Duration) -> u64 {
    let started = Instant::now();
    let mut pairs = 0;
    while started.elapsed() < time {
        let call = call(client, pairs);
        let (id, at, ending) = (call.id, call.created_at, call.clone());
        let begun = NewEvent::new(at, Some(id), &EventBody::CallStarted { tool: "read_file".into() });
        let accept = AcceptCall { call: Arc::new(call), idempotency: None, own_limits: false, events: vec![begun] };
        assert!(matches!(store.accept_call(accept).await.unwrap(), Accepted::New(_)));
        let content = vec![Content::Text { text: "fn main() {\n    println!(\"hello\");\n}\n".repeat(8) }];
        let body = EventBody::CallEnded {
            state: "succeeded".into(),
            content: Some(content.clone()),
            fault: None,
            usage: Usage::default(),
        };
        let ended = NewEvent::new(at, Some(id), &body);
        let outcome = Arc::new(Outcome::without_use(Ending::Succeeded { content: Some(content) }));
        let body = AuditBody::call_ended(&ending, &outcome, Some(&ending.limits), None, None);
        let audit = NewAudit::new(at, owner(), task_id(client), id, &body);
        let end = EndCall { task: task_id(client), call: id, at, outcome, events: vec![ended], extent: None, audit };
        assert!(store.end_call(end).await.unwrap().is_some());
        pairs += 1;
    }
    pairs
}

fn audit() -> NewAudit {
    NewAudit::of_operator(Timestamp::from_millis(1), &AuditBody::TaskArchived { reason: None })
}

fn owner() -> Owner {
    Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) }
}

fn task_id(client: u64) -> TaskId {
    TaskId::from_parts(1_800_000_000_000 + client, u128::from(client))
}

fn task(client: u64) -> Task {
    Task {
        id: task_id(client),
        owner: owner(),
        session: None,
        label: "rate".into(),
        state: TaskState::Ready,
        failure: None,
        source: Source::Empty,
        tool_set: ToolSet::new([]).digest,
        limits: Limits::default(),
        ceiling: Ceiling::OPEN,
        created_at: Timestamp::from_millis(1),
        updated_at: Timestamp::from_millis(1),
        lifetimes: Default::default(),
        kept_until: None,
        last_seq: 0,
        first_seq: 1,
    }
}

fn call(client: u64, number: u64) -> Call {
    let at = Timestamp::from_millis(1_800_000_000_000 + number as i64);
    Call {
        id: CallId::from_parts(1_800_000_000_000 + number, u128::from(client) << 32 | u128::from(number)),
        task: task_id(client),
        owner: owner(),
        by: By(Some("key:0123456789ab".into())),
        tool_name: "read_file".into(),
        tool: ToolId::from_parts(1, 1),
        tool_digest: Digest::of(b"tool"),
        arguments: r#"{"path":"src/main.rs","offset":0,"limit":200}"#.into(),
        state: CallState::Running { since: at },
        limits: Limits::default(),
        grants: Grants::workspace(WorkspaceAccess::ReadWrite),
        attempts: 1,
        created_at: at,
    }
}

/// Processor time of this process in seconds, all threads, as the kernel counts it.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
