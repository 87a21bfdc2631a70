//! What waits: an idle host, an idle worker, a sleeping guest. And a large
//! interpreter, called fresh.

use std::time::{Duration, Instant};

use super::client::Connection;
use super::host::Host;

const SLEEPERS: u64 = 1_000;
const MIB: f64 = 1_048_576.0;

pub fn report() {
    println!("\n== what waits");
    let most = SLEEPERS.to_string();
    let host = Host::start(&[
        ("BULKHEAD_DISPATCH__RUNNING", &most),
        ("BULKHEAD_DISPATCH__RUNNING_PER_OWNER", &most),
        ("BULKHEAD_DISPATCH__RUNNING_PER_TENANT", &most),
        ("BULKHEAD_WORKERS__CALLS_PER_WORKER", &most),
        ("BULKHEAD_WORKERS__PER_TENANT", "1"),
        ("BULKHEAD_LIMITS__WALL_TIME_MS", "120000"),
    ]);
    let idle = host.memory();
    println!("host without a worker: {:.1} MiB", idle as f64 / MIB);
    host.register("fixtures/sleeper");
    let task = host.task();
    Connection::open(&host.address).send(&host.call_request(&task, "sleeper", r#"{"ms":1}"#));
    let with_worker = host.memory();
    println!("with one idle worker:  {:.1} MiB", with_worker as f64 / MIB);
    let body = br#"{"tool":"sleeper","arguments":{"ms":100000}}"#;
    let request = host.request("POST", &format!("/v1/tasks/{task}/calls?wait=0"), "application/json", body);
    let mut connection = Connection::open(&host.address);
    for _ in 0..SLEEPERS {
        connection.send(&request);
    }
    std::thread::sleep(Duration::from_secs(2));
    let asleep = host.memory();
    let threads: usize = host
        .processes()
        .iter()
        .map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count))
        .sum();
    println!(
        "{SLEEPERS} sleeping guests: {:.1} MiB, {:.0} KiB each, {threads} threads in all",
        asleep as f64 / MIB,
        asleep.saturating_sub(with_worker) as f64 / 1024.0 / SLEEPERS as f64
    );
    interpreter();
}

/// `BENCH_INTERPRETER` names a component that takes `{}`. One of 18 MB, of Python, is made
/// by componentize-py 0.25 (`componentize-py -d wit -w tool componentize app -o py.wasm`) of
///
/// ```python
/// import wit_world.exports
/// from wit_world.imports.types import Content_Text, Description
///
/// class Guest(wit_world.exports.Guest):
///     def describe(self):
///         return Description("py", "1.0.0", "Answers.", '{"type": "object"}', None, [], False)
///     def call(self, arguments):
///         return [Content_Text("hello " + arguments)]
/// ```
fn interpreter() {
    let Ok(path) = std::env::var("BENCH_INTERPRETER") else {
        println!("an interpreter: not measured (BENCH_INTERPRETER names no component)");
        return;
    };
    // What the disk takes for two commits would hide what the call takes.
    let host = Host::start(&[("BULKHEAD_STORE__SYNCHRONOUS", "off")]);
    let wasm = std::fs::read(&path).unwrap();
    let begun = Instant::now();
    let name = host.register_bytes(&wasm);
    let registered = begun.elapsed();
    let request = host.call_request(&host.task(), &name, "{}");
    let mut connection = Connection::open(&host.address);
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let begun = Instant::now();
            connection.send(&request);
            begun.elapsed()
        })
        .collect();
    let first = times[0];
    times.sort_unstable();
    println!(
        "a component of {:.1} MB, fresh each time, sync off: p50 {:.2} ms, p99 {:.2} ms (first {:.1} ms; registered in {:.1} s)",
        wasm.len() as f64 / 1e6,
        times[100].as_secs_f64() * 1e3,
        times[198].as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3,
        registered.as_secs_f64(),
    );
}
