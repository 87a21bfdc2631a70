//! Ten thousand idle tasks and a thousand open streams on one host: what they take,
//! and what a client feels who works beside them, and beside readers that read nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use super::client::{Connection, Figures, load};
use super::host::Host;

const TASKS: usize = 10_000;
const STREAMS: usize = 1_000;
/// Of these streams nobody reads anything, ...
const STALLED: usize = 100;
/// ... each is of one of these tasks: what they say is stored once for ten readers.
const TALKERS: usize = 10;
/// Lines of 4 KiB that each of them says: 8 MiB are twice what the kernel sends ahead
/// to somebody who reads nothing.
const LINES: usize = 2_048;
/// How long they may stay: the server and the kernel together are done in a minute.
const SHED: Duration = Duration::from_secs(180);
const MIB: f64 = 1_048_576.0;

pub fn report(span: Duration) {
    println!("\n== a crowd: {TASKS} idle tasks, each called once, and {STREAMS} open streams");
    let host = Host::start(&[
        ("BULKHEAD_QUOTA__TASKS_PER_USER", "20000"),
        ("BULKHEAD_HTTP__STREAMS_PER_USER", "2000"),
        ("BULKHEAD_LIMITS__STDOUT_BYTES", "16777216"),
    ]);
    host.register("fixtures/echo");
    host.register("fixtures/ticker");
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
    let streams: Vec<TcpStream> = tasks.iter().take(STREAMS).map(|task| follow(&host, task)).collect();
    std::thread::sleep(Duration::from_secs(2));
    let all = tell(&host, "streams", with_tasks, STREAMS);
    println!("all: {:.1} MiB of 1024", all as f64 / MIB);
    assert!(all < 1 << 30, "more than a crowd may take");
    let beside = load(&host.address, &request, 1, span, None);
    compare("a client beside them", &beside, &alone);
    drop(streams);
    stalled(&host, &tasks[..TALKERS], &request, span, &alone);
}

/// Readers that take nothing of megabytes: what they hold, until when, and what a client
/// feels meanwhile.
fn stalled(host: &Host, tasks: &[String], request: &[u8], span: Duration, alone: &Figures) {
    until_none_is_open(host);
    let (before, kernel) = (host.memory(), kernel_memory());
    let mut streams: Vec<TcpStream> = tasks.iter().cycle().take(STALLED).map(|task| follow(host, task)).collect();
    for stream in &streams {
        set_socket_recv_buffer_size(stream, 4_096).unwrap();
    }
    let begun = Instant::now();
    let mut connection = Connection::open(&host.address);
    for task in tasks {
        let arguments = format!(r#"{{"count":{LINES},"bytes":4096,"channels":["stdout"]}}"#);
        let body = format!(r#"{{"tool":"ticker","arguments":{arguments},"limits":{{"stdout_bytes":16777216}}}}"#);
        let path = format!("/v1/tasks/{task}/calls?wait=60");
        let call = connection.send(&host.request("POST", &path, "application/json", body.as_bytes()));
        assert!(String::from_utf8_lossy(call).contains(r#""state":"succeeded""#), "{}", String::from_utf8_lossy(call));
    }
    println!("{} MiB said to each of them in {:.0} s", LINES / 256, begun.elapsed().as_secs_f64());
    tell(host, "streams that nobody reads", before, STALLED);
    let sent = kernel_memory().saturating_sub(kernel) as f64;
    println!("    the kernel holds {:.0} KiB of each for both ends", sent / 1024.0 / STALLED as f64);
    let beside = load(&host.address, request, 1, span, None);
    println!("    {} are open still, after {:.0} s", open(host), begun.elapsed().as_secs_f64());
    compare("a client beside them", &beside, alone);
    let left = until_none_is_open(host);
    let shed = host.metric(r#"bulkhead_event_streams_ended_total{reason="stalled"}"#);
    println!("    after {:.0} s {left} are open and {shed} were shed as stalled", begun.elapsed().as_secs_f64());
    let most = streams.iter_mut().map(taken).max().unwrap_or_default();
    println!("    what reached one of them, at most: {:.0} KiB", most as f64 / 1024.0);
    let after = load(&host.address, request, 1, span, None);
    compare("a client after them", &after, alone);
}

fn open(host: &Host) -> u64 {
    host.metric("bulkhead_event_streams")
}

/// How many streams stay, if they do not end in time.
fn until_none_is_open(host: &Host) -> u64 {
    let until = Instant::now() + SHED;
    loop {
        let open = open(host);
        if open == 0 || Instant::now() > until {
            return open;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// How many bytes a stream brought until it ended or broke.
fn taken(stream: &mut TcpStream) -> usize {
    let (mut buffer, mut taken) = ([0; 65_536], 0);
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        taken += read;
    }
    taken
}

/// What all connections of this machine hold in the kernel, in bytes.
fn kernel_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages =
        text.lines().find(|line| line.starts_with("TCP:")).and_then(|line| line.rsplit(' ').next()?.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn compare(who: &str, figures: &Figures, alone: &Figures) {
    println!("{who}: {}; p99 is {:.2}x alone", figures.line(), figures.p99.as_secs_f64() / alone.p99.as_secs_f64());
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
