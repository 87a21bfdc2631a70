//! Events per second to many readers of one task.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::client::Connection;
use super::host::Host;

/// Events that each reader must get.
const EVENTS: usize = 400;

pub fn report() {
    println!("\n== event streams: {EVENTS} events of one task to each reader");
    let host = Host::start(&[]);
    host.register("fixtures/echo");
    for readers in [1_usize, 100, 1_000] {
        let task = host.task();
        let mut streams: Vec<TcpStream> = (0..readers).map(|_| follow(&host, &task)).collect();
        let call = host.call_request(&task, "echo", r#"{"text":"hello"}"#);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut connection = Connection::open(&host.address);
                // Two events a call, after the two of the task.
                for _ in 0..(EVENTS - 2) / 2 {
                    connection.send(&call);
                }
            });
            for chunk in streams.chunks_mut(readers.div_ceil(4)) {
                scope.spawn(move || drain(chunk));
            }
        });
        let took = begun.elapsed();
        println!(
            "{readers:>5} readers: {:>9.0} events/s delivered, {:.2} s in all",
            (EVENTS * readers) as f64 / took.as_secs_f64(),
            took.as_secs_f64()
        );
    }
}

fn follow(host: &Host, task: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&host.address).unwrap();
    stream.write_all(&host.request("GET", &format!("/v1/tasks/{task}/events"), "text/plain", b"")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    stream
}

/// Reads all streams in turn until each has every event.
fn drain(streams: &mut [TcpStream]) {
    let mut left: Vec<(usize, &mut TcpStream)> = streams.iter_mut().map(|stream| (EVENTS, stream)).collect();
    let mut buffer = vec![0; 64 * 1024];
    while !left.is_empty() {
        left.retain_mut(|(wanted, stream)| {
            let read = stream.read(&mut buffer).unwrap_or(0);
            let seen = buffer[..read].windows(5).filter(|window| *window == b"\nid: ").count();
            *wanted = wanted.saturating_sub(seen);
            *wanted > 0
        });
    }
}
