//! Ten thousand idle tasks and a thousand open streams on one host: what they take,
//! and what a client feels who works beside them, and beside readers that read nothing.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::client::{Connection, load};
use super::host::Host;

const TASKS: usize = 10_000;
const STREAMS: usize = 1_000;
/// Of these streams nobody reads anything.
const STALLED: usize = 100;
const MIB: f64 = 1_048_576.0;

pub fn report(span: Duration) {
    println!("\n== a crowd: {TASKS} idle tasks, each called once, and {STREAMS} open streams");
    let host = Host::start(&[("BULKHEAD_QUOTA__TASKS_PER_USER", "20000"), ("BULKHEAD_HTTP__STREAMS_PER_USER", "2000")]);
    host.register("fixtures/echo");
    let own = host.task();
    let request = host.call_request(&own, "echo", r#"{"text":"hello"}"#);
    load(&host.address, &request, 1, Duration::from_millis(500), None);
    let empty = host.memory();
    let alone = load(&host.address, &request, 1, span, None);
    println!("empty: {:.1} MiB; a client alone: {}", empty as f64 / MIB, alone.line());
    let begun = Instant::now();
    let tasks: Vec<String> = (0..TASKS).map(|_| host.task()).collect();
    let mut connection = Connection::open(&host.address);
    for task in &tasks {
        connection.send(&host.call_request(task, "echo", r#"{"text":"hello"}"#));
    }
    let with_tasks = tell(&host, "tasks", empty, TASKS);
    println!("    made and called in {:.0} s", begun.elapsed().as_secs_f64());
    let mut streams: Vec<TcpStream> = tasks.iter().take(STREAMS).map(|task| follow(&host, task)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let all = tell(&host, "streams", with_tasks, STREAMS);
    println!("all: {:.1} MiB of 1024", all as f64 / MIB);
    // What is watched and not read has something to say.
    streams.truncate(STALLED);
    for task in tasks.iter().take(STALLED) {
        for _ in 0..50 {
            connection.send(&host.call_request(task, "echo", r#"{"text":"hello"}"#));
        }
    }
    tell(&host, "streams that nobody reads", all, STALLED);
    let beside = load(&host.address, &request, 1, span, None);
    println!(
        "a client beside them: {}; p99 is {:.2}x alone",
        beside.line(),
        beside.p99.as_secs_f64() / alone.p99.as_secs_f64()
    );
}

fn tell(host: &Host, what: &str, before: u64, count: usize) -> u64 {
    let now = host.memory();
    let each = now.saturating_sub(before) as f64 / 1024.0 / count as f64;
    println!("{count} {what}: {:.1} MiB in all processes, {each:.2} KiB each", now as f64 / MIB);
    now
}

fn follow(host: &Host, task: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&host.address).unwrap();
    stream.write_all(&host.request("GET", &format!("/v1/tasks/{task}/events"), "text/plain", b"")).unwrap();
    stream
}
