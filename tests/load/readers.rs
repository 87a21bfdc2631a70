//! Events per second to many readers of one task.

use std::io::{ErrorKind, Read as _, Write as _};
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

/// What starts an event.
const ID: &[u8] = b"\nid: ";

/// Reads all streams in turn until each has every event.
fn drain(streams: &mut [TcpStream]) {
    struct Reader<'a> {
        stream: &'a mut TcpStream,
        wanted: usize,
        /// How much of `ID` the last read ended with.
        matched: usize,
    }
    let mut readers: Vec<_> = streams.iter_mut().map(|stream| Reader { stream, wanted: EVENTS, matched: 0 }).collect();
    let mut buffer = vec![0; 64 * 1024];
    while !readers.is_empty() {
        readers.retain_mut(|reader| {
            let read = match reader.stream.read(&mut buffer) {
                Ok(0) => panic!("a stream ended with {} events to come", reader.wanted),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(error) => panic!("{error}"),
            };
            for byte in &buffer[..read] {
                reader.matched =
                    if *byte == ID[reader.matched] { reader.matched + 1 } else { usize::from(*byte == ID[0]) };
                if reader.matched == ID.len() {
                    (reader.matched, reader.wanted) = (0, reader.wanted.saturating_sub(1));
                }
            }
            reader.wanted > 0
        });
    }
}
