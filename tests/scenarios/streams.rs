//! Streams over a WebSocket, tickets for browsers, and what bounds streams,
//! requests and calls.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::harness::{Client, Options, Server};

pub(super) type Socket = WebSocket<TcpStream>;

/// Opens a WebSocket: as a browser with a ticket, as another client with a key.
pub(super) fn open(server: &Server, path: &str, key: Option<&str>, protocol: Option<&str>) -> Result<Socket, u16> {
    let address = server.url().strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    let headers = request.headers_mut();
    if let Some(key) = key {
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    if let Some(protocol) = protocol {
        headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            Err(response.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

/// The events up to and including the first of a type.
pub(super) fn until(socket: &mut Socket, kind: &str) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            let event: Value = serde_json::from_str(&text).unwrap();
            let last = event["type"] == kind;
            events.push(event);
            if last {
                return events;
            }
        }
    }
}

/// Code and reason of the close that comes next but events and pings.
fn closed(socket: &mut Socket) -> (u16, String) {
    loop {
        if let Message::Close(frame) = socket.read().unwrap() {
            let frame = frame.unwrap();
            return (frame.code.into(), frame.reason.to_string());
        }
    }
}

/// The status alone; what follows is not waited for.
fn status(server: &Server, client: &Client, path: &str) -> u16 {
    let address = server.url().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\r\n", client.key()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8_lossy(&line[9..]).parse().unwrap()
}

fn ticket(client: &Client, task: &str) -> String {
    let given = client.post(&format!("/v1/tasks/{task}/tickets"), &json!({})).expect(201);
    given["ticket"].as_str().unwrap().to_owned()
}

#[test]
fn a_socket_gives_what_the_event_stream_gives_and_goes_on_after_a_number() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events/ws");
    let mut live = open(&server, &path, Some(client.key()), Some("bulkhead.events.v1")).unwrap();
    client.call(&task, "ticker", json!({"count": 20, "interval_ms": 5}));
    let live = until(&mut live, "call.ended");
    assert_eq!(live, client.events_until(&task, "call.ended"), "live, and as it was stored");
    let mut rest = open(&server, &format!("{path}?after=7"), Some(client.key()), None).unwrap();
    assert_eq!(until(&mut rest, "call.ended")[..], live[7..]);
    client.delete(&format!("/v1/tasks/{task}")).expect(204);
    assert_eq!(closed(&mut rest).0, u16::from(CloseCode::Normal), "everything was read");
}

#[test]
fn a_socket_says_why_it_is_not_opened_or_closed() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events/ws");
    assert_eq!(open(&server, &path, None, None).err(), Some(401));
    assert_eq!(open(&server, &path, Some(client.key()), Some("other.v1")).err(), Some(426));
    let plain = client.get(&path);
    assert_eq!(plain.header("upgrade"), "websocket");
    plain.problem(426, "websocket_expected");
    let mut talks = open(&server, &path, Some(client.key()), None).unwrap();
    talks.send(Message::text("hello")).unwrap();
    assert_eq!(closed(&mut talks).0, u16::from(CloseCode::Unsupported));
    let mut leaves = open(&server, &path, Some(client.key()), None).unwrap();
    leaves.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).unwrap();
    assert_eq!(closed(&mut leaves).0, u16::from(CloseCode::Normal), "a client's close is answered");
    assert!(matches!(leaves.read(), Err(tungstenite::Error::ConnectionClosed)), "and the connection ended");
    let mut open_one = open(&server, &path, Some(client.key()), None).unwrap();
    let _server = server.stop_and_restart();
    assert_eq!(closed(&mut open_one).0, u16::from(CloseCode::Away));
}

#[test]
fn a_socket_lasts_so_long_and_who_is_silent_is_shed() {
    let options = Options::default().with("BULKHEAD_HTTP__STREAM_AGE_MS", 2_000);
    let server = Server::start(options.with("BULKHEAD_HTTP__HEARTBEAT_MS", 300));
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events/ws");
    // Who answers pings stays, as long as a stream lasts; and goes on where it was.
    let mut answers = open(&server, &path, Some(client.key()), None).unwrap();
    let seen = until(&mut answers, "task.ready");
    assert_eq!(closed(&mut answers).0, 4401);
    // A stream of events says so, too, and its number stays what it was.
    let mut stream = client.follow(&task, &[], "");
    while stream.next().is_some() {}
    let ended = stream.ended.unwrap();
    assert_eq!(ended["reason"], "age", "{ended}");
    client.put(&format!("/v1/tasks/{task}/files/a"), b"x").expect(201);
    let last = seen.last().unwrap()["seq"].as_u64().unwrap();
    let mut again = open(&server, &format!("{path}?after={last}"), Some(client.key()), None).unwrap();
    assert_eq!(until(&mut again, "files.changed")[0]["seq"], last + 1);
    // Nothing is answered as long as nothing is read: two pings, and it is over.
    let mut silent = open(&server, &path, Some(client.key()), None).unwrap();
    std::thread::sleep(Duration::from_millis(1_000));
    let (code, reason) = closed(&mut silent);
    assert_eq!(code, 4408, "{reason}");
    assert!(reason.contains("after the last event"), "{reason}");
}

/// Whatever it was opened with, and also one on which something always comes.
#[test]
fn a_stream_ends_with_the_key_that_opened_it() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/ticker");
    let me = client.get("/v1/whoami").expect(200);
    let (tenant, user) = (me["tenant"].as_str().unwrap(), me["user"].as_str().unwrap());
    let output = server.cli(&["keys", "create", "--json", "--tenant", tenant, "--user", user]);
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (other, key) = (client.with_key(made["key"].as_str()), made["key"].as_str().unwrap());
    let (quiet, busy) = (client.task(), client.task());
    let ticks = json!({"tool": "ticker", "arguments": {"count": 3_000, "interval_ms": 10, "channels": ["stdout"]}});
    client.post(&format!("/v1/tasks/{busy}/calls?wait=0"), &ticks).expect(202);
    let shown = ticket(&other, &quiet);
    let mut streams = [
        other.follow(&quiet, &[], ""),
        other.follow(&busy, &[], ""),
        client.with_key(None).follow(&quiet, &[], &format!("?ticket={shown}")),
    ];
    let path = |task: &str| format!("/v1/tasks/{task}/events/ws");
    let mut sockets = [&quiet, &busy].map(|task| open(&server, &path(task), Some(key), None).unwrap());
    let mut stays = client.follow(&quiet, &[], "");
    assert!(server.cli(&["keys", "revoke", made["id"].as_str().unwrap()]).status.success());
    let begun = Instant::now();
    for stream in &mut streams {
        while stream.next().is_some() {}
        assert_eq!(stream.ended.as_ref().unwrap()["reason"], "unauthenticated");
    }
    for socket in &mut sockets {
        assert_eq!(closed(socket).0, 4403);
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "long before they are as old as they may be");
    // Those of another key go on.
    client.put(&format!("/v1/tasks/{quiet}/files/a"), b"x").expect(201);
    while stays.next().unwrap()["type"] != "files.changed" {}
}

#[test]
fn a_cursor_that_is_too_old_is_told_with_where_to_go_on() {
    let server = Server::start(
        Options::default().with("BULKHEAD_KEEP__EVENTS_BYTES_PER_TASK", 65_536).with("BULKHEAD_KEEP__EVERY_S", 1),
    );
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    for _ in 0..40 {
        client.call(&task, "echo", json!({"text": "x".repeat(4_000)}));
    }
    let begun = Instant::now();
    let path = format!("/v1/tasks/{task}/events");
    // Until then it is a stream, which does not end.
    while status(&server, &client, &format!("{path}?after=1")) != 410 {
        assert!(begun.elapsed() < Duration::from_secs(60), "retention did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
    let problem = client.get(&format!("{path}?after=1")).problem(410, "events_expired");
    let mut socket = open(&server, &format!("{path}/ws?after=1"), Some(client.key()), None).unwrap();
    let (code, reason) = closed(&mut socket);
    let reason: Value = serde_json::from_str(&reason).unwrap();
    assert_eq!((code, &reason["code"]), (4410, &json!("events_expired")));
    // The snapshot is the task and its calls; the tail begins before the oldest that is kept.
    let first = reason["first"].as_u64().unwrap().max(problem["first"].as_u64().unwrap());
    let tail = client.follow(&task, &[], &format!("?after={}", first - 1)).next().unwrap();
    assert!(tail["seq"].as_u64().unwrap() >= first);
}

#[test]
fn a_cursor_beyond_the_end_is_told_with_where_the_log_ends() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events");
    let last = client.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].as_u64().unwrap();
    for after in [last + 1, u64::from(u32::MAX) + 1, u64::MAX] {
        let problem = client.get(&format!("{path}?after={after}")).problem(409, "events_ahead");
        assert_eq!((&problem["after"], &problem["last"]), (&json!(after), &json!(last)));
        let mut socket = open(&server, &format!("{path}/ws?after={after}"), Some(client.key()), None).unwrap();
        let (code, reason) = closed(&mut socket);
        let reason: Value = serde_json::from_str(&reason).unwrap();
        assert_eq!((code, reason), (4409, json!({"code": "events_ahead", "last": last})));
    }
    // The end itself is where one waits for more.
    let mut socket = open(&server, &format!("{path}/ws?after={last}"), Some(client.key()), None).unwrap();
    client.put(&format!("/v1/tasks/{task}/files/a"), b"x").expect(201);
    assert_eq!(until(&mut socket, "files.changed")[0]["seq"], last + 1);
    client.delete(&format!("/v1/tasks/{task}")).expect(204);
    assert_eq!(client.get(&format!("{path}?after={}", last + 9)).status, 204);
}

#[test]
fn a_ticket_opens_one_stream_of_its_task_once() {
    let server = Server::start(Options::default());
    let client = server.client();
    let (task, other) = (client.task(), client.task());
    let nobody = client.with_key(None);
    let first = ticket(&client, &task);
    let path = format!("/v1/tasks/{task}/events");
    nobody.get(&format!("/v1/tasks/{other}/events?ticket={first}")).problem(401, "invalid_ticket");
    let mut stream = nobody.follow(&task, &[], &format!("?ticket={first}"));
    assert_eq!(stream.next().unwrap()["seq"], 1);
    nobody.get(&format!("{path}?ticket={first}")).problem(401, "invalid_ticket");
    nobody.get(&format!("{path}?ticket=bht_{}", "0".repeat(39))).problem(401, "invalid_ticket");
    nobody.get(&format!("{path}?ticket=x")).problem(401, "invalid_ticket");
    // It is good for nothing but events.
    let second = ticket(&client, &task);
    nobody.get(&format!("/v1/tasks/{task}?ticket={second}")).problem(401, "unauthenticated");
    let mut socket = open(&server, &format!("{path}/ws?ticket={second}"), None, None).unwrap();
    assert!(matches!(socket.read().unwrap(), Message::Text(_)));
    // And a stranger gets none.
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    stranger.post(&format!("/v1/tasks/{task}/tickets"), &json!({})).problem(404, "not_found");
}

fn metric(client: &Client, name: &str) -> i64 {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let line = text.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(' '));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

#[test]
fn a_user_has_so_many_streams_and_gauges_return_to_zero() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__STREAMS_PER_USER", 3));
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events");
    let events: Vec<_> = (0..2).map(|_| client.follow(&task, &[], "")).collect();
    let socket = open(&server, &format!("{path}/ws"), Some(client.key()), None).unwrap();
    let problem = client.get(&path).problem(429, "too_many_streams");
    assert_eq!(problem["limit"], 3);
    assert_eq!(open(&server, &format!("{path}/ws"), Some(client.key()), None).err(), Some(429));
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    let theirs = stranger.task();
    drop(stranger.follow(&theirs, &[], ""));
    assert!(metric(&client, "bulkhead_event_streams") >= 3);
    drop((events, socket));
    let begun = Instant::now();
    while metric(&client, "bulkhead_event_streams") > 0 || metric(&client, "bulkhead_tasks_watched") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "streams leak");
        // What a dropped connection leaves is noticed when something is sent.
        client.put(&format!("/v1/tasks/{task}/files/a"), b"1");
    }
}

/// Bytes that the kernel holds for a connection from one port of this machine to another.
fn queued_for((from, to): (u16, u16)) -> u64 {
    let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let queued = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let ports = (port(fields.next()?)?, port(fields.next()?)?);
        let (unsent, _) = fields.nth(1)?.split_once(':')?;
        (ports == (from, to)).then(|| u64::from_str_radix(unsent, 16).unwrap())
    };
    connections.lines().filter_map(queued).sum()
}

#[test]
fn a_reader_that_takes_nothing_is_shed_and_costs_others_nothing() {
    let server = Server::start(
        Options::default()
            .with("BULKHEAD_HTTP__STALL_MS", 1_000)
            .with("BULKHEAD_HTTP__HEARTBEAT_MS", 500)
            .with("BULKHEAD_LIMITS__STDOUT_BYTES", 64 << 20),
    );
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    let address = server.url().strip_prefix("http://").unwrap();
    // Both ask, read their heads, and then nothing more.
    let mut readers: Vec<TcpStream> = ["events", "events/ws"]
        .iter()
        .map(|kind| {
            let mut stream = TcpStream::connect(address).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
            let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let head = format!("GET /v1/tasks/{task}/{kind} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n", client.key());
            write!(stream, "{head}{}\r\n", if *kind == "events" { "" } else { upgrade }).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream
        })
        .collect();
    let limits = json!({"wall_time_ms": 60_000, "stdout_bytes": 64 << 20});
    let arguments = json!({"count": 20_000, "interval_ms": 0, "channels": ["stdout"], "bytes": 1_000});
    let body = json!({"tool": "ticker", "arguments": arguments, "limits": limits});
    client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    // Another reader gets everything meanwhile, and the kernel holds little for these.
    let ports = |reader: &TcpStream| (reader.peer_addr().unwrap().port(), reader.local_addr().unwrap().port());
    let peers: Vec<(u16, u16)> = readers.iter().map(ports).collect();
    let over = AtomicBool::new(false);
    let (all, unsent) = std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            let until = Instant::now() + Duration::from_secs(60);
            while !over.load(Ordering::Relaxed) && Instant::now() < until {
                most = peers.iter().map(|peer| queued_for(*peer)).fold(most, u64::max);
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let all = client.events_until(&task, "call.ended");
        over.store(true, Ordering::Relaxed);
        (all, most.join().unwrap())
    });
    assert!((64 << 10..512 << 10).contains(&unsent), "{unsent} bytes wait in the kernel");
    assert_eq!(all.last().unwrap()["data"]["state"], "succeeded", "{:?}", all.last());
    let begun = Instant::now();
    while metric(&client, "bulkhead_event_streams") > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "readers that take nothing stay");
        std::thread::sleep(Duration::from_millis(100));
    }
    readers.clear();
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let ended: Vec<_> = text.lines().filter(|line| line.contains("event_streams_ended_total{")).collect();
    let stalled = metric(&client, "bulkhead_event_streams_ended_total{reason=\"stalled\"}");
    assert_eq!(stalled, 2, "of either kind: {ended:?}");
}

#[test]
fn rates_are_told_and_hold_for_each_user_but_not_for_cancelling() {
    let server = Server::start(
        Options::default()
            .with("BULKHEAD_RATE__REQUESTS_PER_USER", 60)
            .with("BULKHEAD_RATE__BURST_PERCENT", 50)
            .with("BULKHEAD_RATE__CALLS_PER_TENANT", 4),
    );
    let client = server.client();
    let tenant = client.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
    // Asks again and again until the tool is compiled.
    let colleague = server.client_with(&["--tenant", &tenant, "--user", "usr_01jd8n2m4v0000000000000001"]);
    colleague.register("fixtures/echo");
    let task = client.task();
    let answer = client.get("/v1/whoami");
    assert_eq!(answer.header("ratelimit-policy"), "\"requests-per-user\";q=60;w=60");
    assert!(answer.header("ratelimit").starts_with("\"requests-per-user\";r="), "{}", answer.header("ratelimit"));
    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
    let path = format!("/v1/tasks/{task}/calls");
    let call = client.post(&path, &body).expect(200);
    client.post(&path, &body).expect(200);
    let third = client.post(&path, &body);
    assert_eq!(third.header("ratelimit-policy"), "\"calls-per-tenant\";q=4;w=60");
    assert!(third.header("retry-after").parse::<u64>().unwrap() <= 15);
    assert_eq!(third.problem(429, "rate_limited")["limit"], "rate.calls_per_tenant");
    let refused = (0..60).map(|_| client.get("/v1/whoami")).find(|answer| answer.status == 429);
    let refused = refused.expect("sixty at once are more than thirty");
    assert!(refused.header("ratelimit").contains(";r=0;"), "{}", refused.header("ratelimit"));
    assert_eq!(refused.problem(429, "rate_limited")["limit"], "rate.requests_per_user");
    // Ending something always has room, and health is nobody's.
    let cancel = format!("/v1/calls/{}/cancel", call["id"].as_str().unwrap());
    for _ in 0..20 {
        assert!(client.post(&cancel, &json!({})).status < 300);
        assert_eq!(client.get("/healthz").status, 200);
    }
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    assert_eq!(stranger.get("/v1/whoami").status, 200, "another user");
}
