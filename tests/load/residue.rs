//! What ten thousand calls leave behind: descriptors, threads, processes,
//! memory, directories.

use std::path::Path;
use std::time::Duration;

use super::client::Connection;
use super::host::Host;

const CALLS: usize = 10_000;
/// Until the page cache of the database is full, which is bounded.
const WARM_UP: usize = 20_000;

/// What a server holds.
struct Held {
    processes: usize,
    threads: usize,
    descriptors: usize,
    entries: usize,
    kib: u64,
}

pub fn report() {
    println!("\n== left behind by {CALLS} calls (after {WARM_UP} to warm up; workers idle)");
    for (tool, guest, arguments) in [
        ("echo", "fixtures/echo", r#"{"text":"hello"}"#),
        ("hostile_crash", "hostile/crash", r#"{"attack":"unreachable"}"#),
    ] {
        let host = Host::start(&[]);
        host.register(guest);
        let request = host.call_request(&host.task(), tool, arguments);
        let mut connection = Connection::open(&host.address);
        let mut calls = |count| {
            for _ in 0..count {
                connection.send(&request);
            }
        };
        calls(WARM_UP);
        let before = Held::by(&host);
        calls(CALLS);
        let after = Held::by(&host);
        println!(
            "{tool:<14} {}: processes {} to {}, threads {} to {}, descriptors {} to {}, entries of the data directory {} to {}, memory {} to {} KiB",
            if after.is_as(&before) { "as before" } else { "GREW" },
            before.processes,
            after.processes,
            before.threads,
            after.threads,
            before.descriptors,
            after.descriptors,
            before.entries,
            after.entries,
            before.kib,
            after.kib,
        );
    }
}

impl Held {
    /// Whether nothing but memory differs, and that by less than a MiB.
    fn is_as(&self, before: &Self) -> bool {
        let of = |held: &Self| (held.processes, held.threads, held.descriptors, held.entries);
        of(self) == of(before) && self.kib.saturating_sub(before.kib) < 1_024
    }

    fn by(host: &Host) -> Self {
        // What ends with a call ends a moment after its answer.
        std::thread::sleep(Duration::from_millis(500));
        let processes = host.processes();
        let count = |what: &str| {
            let of = |pid: &u32| std::fs::read_dir(format!("/proc/{pid}/{what}")).map_or(0, Iterator::count);
            processes.iter().map(of).sum()
        };
        Self {
            processes: processes.len(),
            threads: count("task"),
            descriptors: count("fd"),
            entries: entries(&host.data()),
            kib: host.memory() / 1024,
        }
    }
}

fn entries(directory: &Path) -> usize {
    let below = |path: std::path::PathBuf| if path.is_dir() { entries(&path) } else { 0 };
    std::fs::read_dir(directory).unwrap().map(|entry| 1 + below(entry.unwrap().path())).sum()
}
