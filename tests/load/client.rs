//! A client that costs little: one keep-alive connection per thread, requests
//! made beforehand, responses read by their length.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub struct Connection {
    stream: BufReader<TcpStream>,
    body: Vec<u8>,
}

impl Connection {
    pub fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), body: Vec::new() }
    }

    /// Sends a request and reads the response; its body stays readable.
    pub fn send(&mut self, request: &[u8]) -> &[u8] {
        self.stream.get_mut().write_all(request).unwrap();
        let (mut line, mut length, mut status) = (String::new(), 0, String::new());
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if status.is_empty() {
                status.clone_from(&line);
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            assert!(!line.is_empty(), "the server hung up");
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).unwrap();
        assert!(
            status.contains(" 200 ") || status.contains(" 201 ") || status.contains(" 202 "),
            "{status}{}",
            String::from_utf8_lossy(&self.body)
        );
        &self.body
    }
}

/// What a load measured.
pub struct Figures {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub per_second: f64,
}

impl Figures {
    /// From the times of all requests and the time they took together.
    pub fn of(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        Self { count: times.len(), p50: at(0.5), p99: at(0.99), per_second: times.len() as f64 / took.as_secs_f64() }
    }

    pub fn line(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        format!("{:>7.0}/s, p50 {:.3} ms, p99 {:.3} ms", self.per_second, ms(self.p50), ms(self.p99))
    }
}

/// Sends the request from `clients` connections for a while.
pub fn load(address: &str, request: &[u8], clients: usize, span: Duration, check: Option<fn(&[u8])>) -> Figures {
    let begun = Instant::now();
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(move || {
                    let mut connection = Connection::open(address);
                    let mut times = Vec::new();
                    while begun.elapsed() < span {
                        let sent = Instant::now();
                        let body = connection.send(request);
                        times.push(sent.elapsed());
                        if let Some(check) = check {
                            check(body);
                        }
                    }
                    times
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    Figures::of(times, begun.elapsed())
}
