//! The executable that the tests of this package start as worker, as compiler,
//! and as a worker that was taken over.

#[cfg(feature = "probe")]
mod pwned;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, _)) if first == "worker" => bulkhead_sandbox::worker_main(),
        Some((first, rest)) if first == "compile" => bulkhead_sandbox::compile_main(rest),
        Some((first, rest)) if first == "stuck-compile" => match rest.last() {
            Some(last) if last == "namespaces" => ExitCode::from(77),
            _ => bulkhead_sandbox::compile_main(rest),
        },
        Some((first, rest)) if first == "false-worker" => match false_worker(&rest.join(" ")) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        #[cfg(feature = "probe")]
        Some((first, rest)) if first == "pwned-worker" => pwned::worker(rest),
        #[cfg(feature = "probe")]
        Some((first, rest)) if first == "pwned" => match pwned::main(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::FAILURE,
    }
}

/// A frame: `len u32 | call u32 | kind u8 | body`.
fn frame(call: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    frame.extend_from_slice(&call.to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The end of a call that returned nothing, having used nothing.
const DONE: [u8; 10] = [10, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Kinds of the host's messages that matter here.
const BIND: u8 = 1;
const LEAVE: u8 = 16;
const LOAD: u8 = 2;
const START: u8 = 6;

/// Behaves until a call is started, and then as `how` says.
fn false_worker(how: &str) -> std::io::Result<()> {
    let mut socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        let mut head = [0; 8];
        socket.read_exact(&mut head)?;
        let [a, b, c, d, call @ ..] = head;
        let mut body = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
        socket.read_exact(&mut body)?;
        let call = u32::from_le_bytes(call);
        match body.split_first() {
            // It says that it left the server's user, and did not; or that it can't.
            Some((&LEAVE, _)) => socket.write_all(&frame(0, &[16, u8::from(how == "says-it-left")]))?,
            // Told to leave the network, it can't work where that leads.
            Some((&BIND, [_, 1, ..])) if how == "no-namespace" => std::process::exit(77),
            // Ready, behind all walls, or without Landlock.
            Some((&BIND, _)) => {
                socket.write_all(&frame(0, &[0, 1, 1, 1, u8::from(how != "unwalled"), 1, 1, 1, 1, 1, 1, 0, 0]))?
            }
            Some((&LOAD, component)) => socket.write_all(&frame(0, &[&[1], component].concat()))?,
            Some((&START, _)) => misbehave(&mut socket, call, how)?,
            _ => {}
        }
    }
}

fn output(size: u32) -> Vec<u8> {
    let mut body = vec![3, 0];
    let mut left = size;
    while left > 0x7f {
        body.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    body.push(left as u8);
    body.resize(body.len() + size as usize, b'x');
    body
}

/// `HttpRequest`: `GET https://a/`, or another method, with fields as they go over the wire.
fn request(exchange: u8, method: &str, fields: &[u8], has_body: bool) -> Vec<u8> {
    let body = u8::from(has_body);
    let method = [&[method.len() as u8], method.as_bytes()].concat();
    [&[11, exchange], &*method, &[1, 1, b'a', 1, b'/'], fields, &[body, 0, 0, 0]].concat()
}

/// `HttpBody`.
fn piece(exchange: u8, size: u32, last: bool) -> Vec<u8> {
    // As output, which has its stream where this has its exchange.
    let mut body = output(size);
    (body[0], body[1]) = (12, exchange);
    body.push(u8::from(last));
    body
}

/// Lies about exchanges.
fn http(socket: &mut UnixStream, call: u32, how: &str) -> std::io::Result<()> {
    let get = |exchange| request(exchange, "GET", &[0], false);
    let post = || request(1, "POST", &[0], true);
    let says = match how {
        "http-behave" => {
            let sent = request(2, "POST", b"\x01\x0econtent-length\x013", true);
            let ended = [vec![13, 3], vec![15, 2], vec![15, 3], vec![15, 1], DONE.to_vec()];
            let begun =
                [get(1), sent, piece(2, 3, false), piece(2, 0, true), request(3, "PUT", b"\x01\x01a\x01b", true)];
            begun.into_iter().chain(ended).collect()
        }
        "http-other-number" => vec![get(2)],
        "http-number-again" => vec![get(1), get(1)],
        "http-too-many" => (1..=17).map(get).collect(),
        "http-forbidden-field" => vec![request(1, "GET", b"\x01\x04host\x01b", false)],
        "http-no-method" => vec![request(1, "G T", &[0], false)],
        "http-piece-of-none" => vec![piece(1, 3, false)],
        "http-piece-without-body" => vec![get(1), piece(1, 3, false)],
        "http-piece-after-last" => vec![post(), piece(1, 0, true), piece(1, 3, false)],
        "http-piece-too-large" => vec![post(), piece(1, 32 * 1024 + 1, false)],
        "http-failed-of-none" => vec![vec![13, 1]],
        "http-took-too-much" => vec![get(1), vec![14, 1, 5]],
        "http-dropped-twice" => vec![get(1), vec![15, 1], vec![15, 1]],
        "http-over-credit" => std::iter::once(post()).chain((0..64).map(|_| piece(1, 32 * 1024, false))).collect(),
        _ => Vec::new(),
    };
    says.iter().try_for_each(|body| socket.write_all(&frame(call, body)))
}

fn misbehave(socket: &mut UnixStream, call: u32, how: &str) -> std::io::Result<()> {
    match how {
        "behave" | "unwalled" | "no-namespace" | "says-it-left" => socket.write_all(&frame(call, &DONE)),
        // Goes on where nobody hears it.
        "hang-up" => {
            socket.shutdown(std::net::Shutdown::Both)?;
            loop {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
        }
        "other-call" => socket.write_all(&frame(call + 7, &output(3))),
        "done-twice" => socket.write_all(&[frame(call, &DONE), frame(call, &DONE)].concat()),
        "after-done" => socket.write_all(&[frame(call, &DONE), frame(call, &output(1))].concat()),
        "huge-frame" => socket.write_all(&[0xff, 0xff, 0xff, 0x7f, call as u8, 0, 0, 0, 3]),
        "unknown-kind" => socket.write_all(&frame(call, &[77, 1, 2, 3])),
        "empty-frame" => socket.write_all(&frame(call, &[])),
        "left-over" => socket.write_all(&frame(call, &[DONE.as_slice(), &[1]].concat())),
        "over-credit" => (0..64).try_for_each(|_| socket.write_all(&frame(call, &output(32 * 1024)))),
        "false-timeout" => socket.write_all(&frame(call, &[10, 4, 0, 0, 0, 0, 0, 0, 0, 0])),
        "false-cancel" => socket.write_all(&frame(call, &[10, 4, 2, 0, 0, 0, 0, 0, 0, 0])),
        // `Returned` one `json` part: `{`.
        "bad-json" => socket.write_all(&frame(call, &[10, 0, 1, 1, 1, b'{', 0, 0, 0, 0, 0, 0, 0])),
        // `Took`: a byte, which this call may not.
        "false-take" => socket.write_all(&frame(call, &[17, 1, 0])),
        // `Changed`: created `a`, which this call may not.
        "false-change" => socket.write_all(&frame(call, &[8, 1, 0, 1, b'a'])),
        "control-as-call" => socket.write_all(&frame(call, &[0, 1, 1, 1, 1, 1, 1, 1, 1])),
        "call-as-control" => socket.write_all(&frame(0, &output(1))),
        // Has credit given back for as long as it is let, and reads none of it: what nobody
        // wants of a body costs nothing.
        "http-never-reads" => {
            socket.write_all(&frame(call, &request(1, "POST", &[0], true)))?;
            let pieces = frame(call, &piece(1, 1, false)).repeat(4096);
            loop {
                socket.write_all(&pieces)?;
            }
        }
        _ if how.starts_with("http-") => http(socket, call, how),
        // Ends well if it was kept from making a hundred, once it is in its group.
        "threads" => {
            let rest = || std::thread::sleep(std::time::Duration::from_secs(60));
            std::thread::sleep(std::time::Duration::from_secs(1));
            let small = || std::thread::Builder::new().stack_size(64 << 10);
            match (0..100).any(|_| small().spawn(rest).is_err()) {
                true => socket.write_all(&frame(call, &DONE)),
                false => std::process::exit(1),
            }
        }
        // Takes 300 MiB, once it is in its group, and holds it for a while.
        "memory" => {
            std::thread::sleep(std::time::Duration::from_secs(1));
            let taken = vec![0xA5u8; 300 << 20];
            std::thread::sleep(std::time::Duration::from_secs(2));
            socket.write_all(&frame(std::hint::black_box(&taken).first().map_or(0, |_| call), &DONE))
        }
        "die" => std::process::abort(),
        "leave" => std::process::exit(0),
        "late-no-namespace" => std::process::exit(77),
        // Says nothing, for ever.
        _ => Ok(()),
    }
}
