//! Sends requests that nobody has granted. Wanted: `succeeded`, with `escaped`
//! false: every one refused, and the host none the worse for their number. The
//! attack's name is followed by the port of a server of the tests on loopback,
//! which would answer each of them.
#![cfg(target_arch = "wasm32")]

use bulkhead_client::{Failure, Sending, Url, start};
use bulkhead_tool::Outcome;
use hostile::Attempts;
use wasip2::clocks::monotonic_clock;

hostile::attacks!("http", run);

/// As many at once as a call has handles for, nearly.
const AT_ONCE: usize = 250;

/// More than anybody should take.
const UPLOAD: usize = 256 << 20;

fn run(attack: &str) -> Outcome {
    let mut attempts = Attempts::default();
    let (attack, port) = attack.split_once(' ').unwrap_or((attack, "80"));
    let near = &format!("http://127.0.0.1:{port}/");
    match attack {
        "reach" => {
            for url in [
                near,
                "http://127.0.0.1/",
                "http://localhost:7300/v1/tasks",
                "http://169.254.169.254/latest/meta-data/",
                "https://example.com/",
                "http://[::1]/",
                "http://2130706433/",
            ] {
                attempts.must_fail(url, send(url, false).and_then(Sending::response).map(drop));
            }
        }
        // A thousand, none of which is ever read.
        "many" => {
            for round in 0..4 {
                let sent: Vec<_> = (0..AT_ONCE).map(|_| send(near, false)).collect();
                let answered = sent.into_iter().filter(|sent| sent.as_ref().is_ok_and(|sent| sent.wait().is_ok()));
                let none = if answered.count() == 0 { Err("none was answered") } else { Ok(()) };
                attempts.must_fail(&format!("round {round}"), none);
            }
        }
        "dropped" => {
            // Opened and let go without waiting for anything.
            for _ in 0..5_000 {
                drop(send(near, true));
            }
            // More than once: those before may hold every connection for a moment, which is no barrier.
            let ask = || send(near, false).and_then(Sending::response).map(drop);
            let mut last = ask();
            for _ in 0..20 {
                if last.is_ok() {
                    break;
                }
                monotonic_clock::subscribe_duration(50_000_000).block();
                last = ask();
            }
            attempts.must_fail("one at the end", last);
        }
        "upload" => attempts.must_fail("upload", upload(near)),
        _ => return hostile::unknown(attack),
    }
    attempts.finish()
}

fn send(url: &str, has_body: bool) -> Result<Sending, Failure> {
    let url = Url::parse(url).map_err(|code| Failure { code })?;
    start(if has_body { "POST" } else { "GET" }, &url, &Vec::new(), has_body)
}

/// Sends a body that does not end.
fn upload(url: &str) -> Result<(), Failure> {
    let mut sending = send(url, true)?;
    let piece = [0; 64 * 1024];
    for _ in 0..UPLOAD / piece.len() {
        sending.write(&piece)?;
    }
    sending.finish()
}
