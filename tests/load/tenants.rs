//! Many tenants in turn, each with workers of its own that have to be started,
//! and ended for the next ones.

use std::time::{Duration, Instant};

use super::client::Connection;
use super::host::Host;

const TENANTS: u64 = 200;
const ROUNDS: usize = 2;
/// Fewer workers than tenants: most calls find none of their own.
const WORKERS: usize = 32;

pub fn report() {
    println!("\n== {TENANTS} tenants in turn, at most {WORKERS} workers, {ROUNDS} rounds of one `echo` each");
    for waiting in ["0", "1", "4"] {
        with(waiting);
    }
}

/// With so many processes that wait to become workers.
fn with(waiting: &str) {
    let most = WORKERS.to_string();
    let host = Host::start(&[("BULKHEAD_WORKERS__MAX", &most), ("BULKHEAD_WORKERS__WAITING", waiting)]);
    let requests: Vec<Vec<u8>> = (0..TENANTS)
        .map(|number| {
            let tenant = host.tenant(number + 2);
            tenant.register("fixtures/echo");
            tenant.call_request(&tenant.task(), "echo", r#"{"text":"hello"}"#)
        })
        .collect();
    let before = host.memory();
    let mut connection = Connection::open(&host.address);
    let mut times: Vec<Duration> = Vec::new();
    let (mut most_memory, mut most_processes) = (before, 0);
    for _ in 0..ROUNDS {
        for (number, request) in requests.iter().enumerate() {
            let begun = Instant::now();
            connection.send(request);
            times.push(begun.elapsed());
            if number % 20 == 0 {
                most_memory = most_memory.max(host.memory());
                most_processes = most_processes.max(host.processes().len());
            }
        }
    }
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{waiting} waiting: first call of a tenant p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms; at most {most_processes} processes, {:.1} MiB in all (before: {:.1})",
        at(0.5),
        at(0.99),
        at(1.0),
        most_memory as f64 / f64::from(1 << 20),
        before as f64 / f64::from(1 << 20),
    );
}
