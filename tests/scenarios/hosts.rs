//! Two hosts on one PostgreSQL database: whoever is asked answers, and what one of
//! them leaves when it dies, or is only believed dead, has one end.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::streams;
use crate::harness::pair::assert_whole;
use crate::harness::postgres::postgres;
use crate::harness::redis::{REDIS_PASSWORD, RedisServer};
use crate::harness::{Answer, Client, Options, Server};

/// Short, so that the tests are; long enough for a loaded machine.
const LEASE_MS: u64 = 4_000;

pub(super) fn options(database: &str, port: u16) -> Options {
    let options = Options::default().with("DATABASE_URL", postgres().url(port, database));
    options.with("BULKHEAD_CLUSTER__LEASE_MS", LEASE_MS).with("BULKHEAD_CLUSTER__FOLLOW_MS", 50)
}

/// Two hosts on a new database.
fn two() -> (Server, Server) {
    let database = postgres().database(None);
    let a = Server::start(options(&database, postgres().port()));
    let b = Server::beside(&a, options(&database, postgres().port()));
    (a, b)
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

pub(super) fn whole_log(client: &Client, task: &str, last: &str) -> Vec<Value> {
    let events = client.follow(task, &[], "").until(|event| event["call"] == last && event["type"] == "call.ended");
    assert_eq!(seqs(&events), (1..=events.len() as u64).collect::<Vec<_>>(), "in order, without gaps");
    events
}

pub(super) fn id(call: &Value) -> &str {
    call["id"].as_str().unwrap()
}

/// Begins a call that goes on for a minute; by its host.
pub(super) fn sleeper(client: &Client, task: &str) -> Value {
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    let call = client.post(&path, &json!({"tool": "sleeper", "arguments": {"ms": 60_000}})).expect(202);
    client.follow(task, &[], "").until(|event| event["type"] == "call.started" && event["call"] == call["id"]);
    call
}

/// Asks until the answer is another one than that the host can't be reached.
pub(super) fn eventually(mut ask: impl FnMut() -> Answer) -> Answer {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask();
        if answer.status != 503 {
            return answer;
        }
        assert!(Instant::now() < until, "{:?}", answer.json());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn whoever_is_asked_answers() {
    let (a, b) = two();
    let (near, far) = (a.client(), b.client());
    // Registered at one, called at both.
    for guest in ["fixtures/echo", "fixtures/ticker", "fixtures/sleeper"] {
        near.register(guest);
    }
    let (task, theirs) = (near.task(), far.task());
    assert_eq!(Client::text_of(&far.call(&theirs, "echo", json!({"text": "by itself"}))), "by itself");
    assert_eq!(Client::text_of(&far.call(&task, "echo", json!({"text": "passed on"}))), "passed on");
    assert_eq!(far.get(&format!("/v1/tasks/{task}")).expect(200)["id"], task);

    far.put(&format!("/v1/tasks/{task}/files/x"), b"written by way of the other").expect(201);
    assert!(
        std::fs::read_dir(b.data().join("workspaces"))
            .unwrap()
            .all(|tenant| { !tenant.unwrap().path().join(&task).exists() })
    );
    assert_eq!(far.get(&format!("/v1/tasks/{task}/files/x")).body, b"written by way of the other");
    assert_eq!(far.get(&format!("/v1/tasks/{task}/files/none")).status, 404);
    let large = vec![b'x'; 9 << 20];
    far.put(&format!("/v1/tasks/{task}/files/large"), &large).expect(201);
    assert_eq!(far.get(&format!("/v1/tasks/{task}/files/large")).body, large);

    // Followed at one, while it runs at the other; resumed there and here.
    let body = json!({"tool": "ticker", "arguments": {"count": 30, "interval_ms": 20}});
    let ticker = near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    let ends = |event: &Value| event["call"] == ticker["id"] && event["type"] == "call.ended";
    let first = far.follow(&task, &[], "").until(|event| event["seq"] == 15);
    let last = first.last().unwrap()["seq"].to_string();
    let rest = near.follow(&task, &[("last-event-id", last.as_str())], "").until(ends);
    assert_eq!(whole_log(&far, &task, id(&ticker)), [first, rest].concat());

    // A call is read, waited for and cancelled by way of either.
    let running = sleeper(&far, &task);
    let path = format!("/v1/calls/{}", id(&running));
    assert_eq!(far.get(&format!("{path}?wait=0.1")).expect(200)["state"], "running");
    assert!(matches!(far.post(&format!("{path}/cancel"), &json!({})).status, 200..=202));
    assert_eq!(far.get(&format!("{path}?wait=30")).expect(200)["state"], "cancelled");
    assert_eq!(near.get(&path).expect(200)["state"], "cancelled");

    // A replay by way of the other is the same call.
    let (calls, key) = (format!("/v1/tasks/{task}/calls"), [("idempotency-key", "once")]);
    let body = json!({"tool": "echo", "arguments": {"text": "once"}});
    let once = near.post_with(&calls, &body, &key).expect(200);
    assert_eq!(far.post_with(&calls, &body, &key).expect(200)["id"], once["id"]);

    // What was passed on once is not passed on again.
    let again = [("bulkhead-forwarded", "1")];
    far.post_with(&calls, &body, &again).problem(503, "host_unreachable");

    // Whose it is not, to them it is not there: by way of either.
    let stranger = ["--tenant", "ten_01hzzzzzzzzzzzzzzzzzzzzzzz", "--user", "usr_01hzzzzzzzzzzzzzzzzzzzzzzz"];
    let strange = a.client_with(&stranger);
    let strange_far = far.with_key(Some(strange.key()));
    for path in [calls.clone(), format!("/v1/tasks/{task}/archive"), format!("{path}/cancel")] {
        let (here, there) = (strange.post(&path, &body), strange_far.post(&path, &body));
        assert_eq!((here.status, there.status), (404, 404));
        assert_eq!(here.json()["detail"], there.json()["detail"]);
    }
    strange_far.get(&format!("/v1/tasks/{task}/files/x")).problem(404, "not_found");

    // An administrator reaches it by way of either, with a reason.
    let scopes = ["--scopes", "admin tasks:read calls:run", "--user", "usr_01hzzzzzzzzzzzzzzzzzzzzzzz"];
    let tenant = near.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
    let admin = far.with_key(Some(a.client_with(&[&scopes[..], &["--tenant", &tenant]].concat()).key()));
    let theirs = sleeper(&near, &task);
    let cancel = format!("/v1/calls/{}/cancel", id(&theirs));
    admin.post(&cancel, &json!({})).problem(404, "not_found");
    let done = admin.post_with(&cancel, &json!({}), &[("bulkhead-reason", "it spins")]);
    assert!(matches!(done.status, 200..=202), "{done:?}");
    assert_eq!(near.get(&format!("/v1/calls/{}?wait=30", id(&theirs))).expect(200)["state"], "cancelled");

    // And one of another tenant finds out nothing, whatever it says of who passed it on.
    let scopes = [&["--scopes", "admin tasks:read calls:run"], &stranger[..]].concat();
    let foreign = far.with_key(Some(a.client_with(&scopes).key()));
    let made_up = "task_01hzzzzzzzzzzzzzzzzzzzzzzz";
    for fields in [&[("bulkhead-reason", "x"), again[0]][..], &[("bulkhead-reason", "x")], &again] {
        let asked = |task: &str| foreign.post_with(&format!("/v1/tasks/{task}/calls"), &body, fields);
        let (real, none) = (asked(&task), asked(made_up));
        assert_eq!((real.status, none.status), (404, 404));
        let text = |answer: &Answer| String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(text(&real).replace(&task, made_up), text(&none));
    }

    let metrics = String::from_utf8(far.get("/metrics").body).unwrap();
    assert!(metrics.contains("bulkhead_forwarded_requests_total{reason=\"answered\"}"), "{metrics}");
    assert!(matches!(far.delete(&format!("/v1/tasks/{task}")).status, 200..=204));
    assert_eq!(near.get(&format!("/v1/tasks/{task}")).expect(200)["state"], "deleted");
}

#[test]
fn a_socket_goes_on_at_another_host_where_it_was() {
    let (a, b) = two();
    let near = a.client();
    near.register("fixtures/echo");
    let task = near.task();
    let path = |after: u64| format!("/v1/tasks/{task}/events/ws?after={after}");
    let mut here = streams::open(&a, &path(0), Some(near.key()), None).unwrap();
    near.call(&task, "echo", json!({"text": "one"}));
    let mut events = streams::until(&mut here, "call.ended");
    drop(here);
    // What is missed meanwhile, and what comes while the other host is listened to.
    near.call(&task, "echo", json!({"text": "two"}));
    for text in ["three", "four"] {
        let last = events.last().unwrap()["seq"].as_u64().unwrap();
        let mut there = streams::open(&b, &path(last), Some(near.key()), None).unwrap();
        near.call(&task, "echo", json!({"text": text}));
        events.extend(streams::until(&mut there, "call.ended"));
        there.send(tungstenite::Message::Ping("still there?".into())).unwrap();
        while !there.read().unwrap().is_pong() {}
    }
    let last = near.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].as_u64().unwrap();
    let mut rest = streams::open(&b, &path(seqs(&events).last().copied().unwrap()), Some(near.key()), None).unwrap();
    while seqs(&events).last() != Some(&last) {
        events.extend(streams::until(&mut rest, "call.ended"));
    }
    assert_eq!(seqs(&events), (1..=last).collect::<Vec<_>>());
}

#[test]
fn what_a_dead_host_ran_is_interrupted_by_another() {
    let (mut a, b) = two();
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/echo");
    near.register("fixtures/sleeper");
    let task = near.task();
    near.put(&format!("/v1/tasks/{task}/files/x"), b"kept").expect(201);
    let running = sleeper(&near, &task);
    let waiting = std::thread::scope(|scope| {
        let stream = far.follow(&task, &[], "");
        // Waits at one host for a call of the other.
        let waiter = scope.spawn(|| far.get(&format!("/v1/calls/{}?wait=60", id(&running))));
        std::thread::sleep(Duration::from_millis(300));
        a.kill();
        let events = stream.until(|event| event["call"] == running["id"] && event["type"] == "call.ended");
        assert_eq!(events.last().unwrap()["data"]["fault"]["code"], "host_lost");
        waiter.join().unwrap()
    });
    assert!(waiting.status == 503 || waiting.json()["state"] == "interrupted");
    let ended = far.get(&format!("/v1/calls/{}", id(&running))).expect(200);
    assert_eq!((&ended["state"], &ended["outcome"]["fault"]["code"]), (&json!("interrupted"), &json!("host_lost")));
    // Its workspace is gone with it: the task can be read, and waits.
    let calls = format!("/v1/tasks/{task}/calls");
    let body = json!({"tool": "echo", "arguments": {"text": "again"}});
    assert_eq!(far.get(&format!("/v1/tasks/{task}")).expect(200)["state"], "ready");
    assert_eq!(far.post(&calls, &body).problem(503, "host_unreachable")["retryable"], true);
    let other = far.task();
    assert_eq!(Client::text_of(&far.call(&other, "echo", json!({"text": "others go on"}))), "others go on");

    let a = a.start_again();
    let again = eventually(|| far.post(&calls, &body)).expect(200);
    assert_eq!(Client::text_of(&again), "again");
    assert_eq!(far.get(&format!("/v1/tasks/{task}/files/x")).body, b"kept");
    let log = whole_log(&a.client(), &task, id(&again));
    assert_eq!(log.iter().filter(|event| event["type"] == "call.ended").count(), 2);
}

#[test]
fn a_host_that_comes_back_late_changes_nothing() {
    let (a, b) = two();
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/echo");
    near.register("fixtures/sleeper");
    let task = near.task();
    let body = json!({"tool": "sleeper", "arguments": {"ms": 1_000}});
    let running = near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    // The server alone; its workers end by themselves.
    a.signal(Signal::STOP);
    let ends = |event: &Value| event["call"] == running["id"] && event["type"] == "call.ended";
    far.follow(&task, &[], "").until(ends);
    far.get(&format!("/v1/tasks/{task}/files/x")).problem(503, "host_unreachable");
    a.signal(Signal::CONT);
    let calls = format!("/v1/tasks/{task}/calls");
    let again = eventually(|| far.post(&calls, &json!({"tool": "echo", "arguments": {"text": "again"}}))).expect(200);
    let log = whole_log(&near, &task, id(&again));
    let mut of_first = log.iter().filter(|event| ends(event));
    assert_eq!(of_first.next().unwrap()["data"]["state"], "interrupted");
    assert_eq!(of_first.next(), None, "it has one end");
    let ended = near.get(&format!("/v1/calls/{}", id(&running))).expect(200);
    assert_eq!(ended["outcome"]["fault"]["code"], "host_lost");
    let said = a.log();
    assert!(said.contains("this host has joined again"), "{said}");
}

#[test]
fn a_shared_volume_is_taken_over_with_what_waits_in_it() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || options(&database, postgres().port()).with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
    let mut a = Server::start(on());
    let b = Server::beside(&a, on());
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/echo");
    near.register("fixtures/sleeper_rw");
    near.register("fixtures/ticker");
    let task = near.task();
    near.put(&format!("/v1/tasks/{task}/files/x"), b"kept").expect(201);
    let ticks = json!({"count": 40, "interval_ms": 50, "channels": ["stdout"]});
    let other = near.task();
    let ticking = near.post(&format!("/v1/tasks/{other}/calls?wait=0"), &json!({"tool": "ticker", "arguments": ticks}));
    let ticking = ticking.expect(202);
    near.follow(&other, &[], "").until(|event| event["type"] == "call.output");
    let calls = format!("/v1/tasks/{task}/calls");
    // Both change the workspace: the second waits for the first.
    let call = |ms: u64| near.post(&format!("{calls}?wait=0"), &json!({"tool": "sleeper_rw", "arguments": {"ms": ms}}));
    let (running, queued) = (call(60_000).expect(202), call(10).expect(202));
    assert_eq!(queued["state"], "queued");
    let stream = far.follow(&task, &[], "");
    a.kill();
    let events = stream.until(|event| event["call"] == queued["id"] && event["type"] == "call.ended");
    assert_eq!(events.last().unwrap()["data"]["state"], "succeeded", "it is run by the other host");
    let ended = far.get(&format!("/v1/calls/{}", id(&running))).expect(200);
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("interrupted"), &json!(1)));
    assert_eq!(far.get(&format!("/v1/tasks/{task}/files/x")).body, b"kept");
    // What may be started twice is, there.
    let ended = far.get(&format!("/v1/calls/{}?wait=60", id(&ticking))).expect(200);
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(2)), "{ended}");
    assert_whole(&far.follow(&other, &[], "").until(|event| event["type"] == "call.ended"), [id(&ticking)]);
    // Who comes back finds that the task has moved.
    let a = a.start_again();
    let again = a.client().call(&task, "echo", json!({"text": "passed on"}));
    assert_eq!(Client::text_of(&again), "passed on");
    whole_log(&a.client(), &task, id(&again));
}

/// Whoever is asked while nobody runs it: what a client gave up is not started again.
#[test]
fn a_call_of_a_dead_host_that_was_cancelled_is_not_started_again() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || options(&database, postgres().port()).with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
    let mut a = Server::start(on());
    let b = Server::beside(&a, on());
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/ticker");
    let task = near.task();
    let body = json!({"tool": "ticker", "arguments": {"count": 600, "interval_ms": 100, "channels": ["stdout"]}});
    let call = near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    near.follow(&task, &[], "").until(|event| event["type"] == "call.output");
    a.kill();
    eventually(|| far.post(&format!("/v1/calls/{}/cancel", id(&call)), &json!({}))).expect(202);
    let log = far.follow(&task, &[], "").until(|event| event["type"] == "call.ended");
    let ended = &log[log.len() - 1]["data"];
    assert!(["cancelled", "interrupted"].contains(&ended["state"].as_str().unwrap()), "{ended}");
}

/// With Redis between them, two hosts that look into the store as good as never.
fn two_with(redis: &RedisServer, follow_ms: u64) -> (Server, Server) {
    let database = postgres().database(None);
    let options = || {
        options(&database, postgres().port())
            .with("REDIS_URL", redis.url(redis.port()))
            .with("BULKHEAD_CLUSTER__FOLLOW_MS", follow_ms)
            .with("BULKHEAD_HTTP__STREAMS_PER_USER", 4)
    };
    let a = Server::start(options());
    let b = Server::beside(&a, options());
    for server in [&a, &b] {
        until("Redis is used", || metric(&server.client(), "redis_up") == 1);
    }
    (a, b)
}

fn metric(client: &Client, name: &str) -> u64 {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("bulkhead_{name} "))).unwrap();
    line.parse().unwrap()
}

pub(super) fn until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn redis_tells_at_once_what_the_other_host_stored() {
    let redis = RedisServer::start();
    let (a, b) = two_with(&redis, 60_000);
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/ticker");
    let task = near.task();
    let stream = far.follow(&task, &[], "");
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    let body = json!({"tool": "ticker", "arguments": {"count": 20, "interval_ms": 20}});
    let ticker = near.post(&format!("/v1/tasks/{task}/calls"), &body).expect(200);
    let events = stream.until(|event| event["call"] == ticker["id"] && event["type"] == "call.ended");
    assert!(begun.elapsed() < Duration::from_secs(20), "it did not wait for a look at the store");
    assert_eq!(seqs(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    // Streams are counted on both hosts together, and given back.
    let streams: Vec<_> = [&near, &far, &near, &far].map(|client| client.follow(&task, &[], "")).into();
    far.get(&format!("/v1/tasks/{task}/events")).problem(429, "too_many_streams");
    drop(streams);
    until("they are given back", || redis.cli(&["KEYS", "*streams*"]).is_empty());
    for said in [a.log(), b.log()] {
        assert!(said.contains("Redis is beside the store") && !said.contains(REDIS_PASSWORD), "{said}");
    }
}

#[test]
fn redis_may_go_and_come_in_the_middle_of_a_stream() {
    let mut redis = RedisServer::start();
    let (a, b) = two_with(&redis, 50);
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/ticker");
    let task = near.task();
    let body = json!({"tool": "ticker", "arguments": {"count": 150, "interval_ms": 20}});
    let ticker = near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    let ends = |event: &Value| event["call"] == ticker["id"] && event["type"] == "call.ended";
    let follow = |client: &Client| client.follow(&task, &[], "").until(ends);
    let (streams, log) = std::thread::scope(|scope| {
        let following = [scope.spawn(|| follow(&near)), scope.spawn(|| follow(&far))];
        std::thread::sleep(Duration::from_millis(500));
        redis.cli(&["FLUSHALL"]);
        std::thread::sleep(Duration::from_millis(500));
        redis.kill();
        std::thread::sleep(Duration::from_millis(700));
        redis.start_again();
        let streams = following.map(|follow| follow.join().unwrap());
        (streams, whole_log(&far, &task, id(&ticker)))
    });
    assert_eq!(streams, [log.clone(), log]);
    for server in [&a, &b] {
        until("Redis is used again", || metric(&server.client(), "redis_up") == 1);
        assert!(metric(&server.client(), "redis_lost_total") >= 1);
    }
}

#[test]
fn a_host_that_stops_finishes_what_runs_and_gives_away_what_waits() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || {
        options(&database, postgres().port())
            .with("BULKHEAD_CLUSTER__VOLUME", volume.path().display())
            .with("BULKHEAD_CLUSTER__LEASE_MS", 60_000)
            .with("BULKHEAD_DISPATCH__RUNNING", 1)
            .with("BULKHEAD_DISPATCH__DRAIN_MS", 60_000)
    };
    let a = Server::start(on());
    let b = Server::beside(&a, on());
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/sleeper_rw");
    let (busy, waits) = (near.task(), near.task());
    let call = |task: &str, ms: u64| {
        let body = json!({"tool": "sleeper_rw", "arguments": {"ms": ms}});
        near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)
    };
    let running = call(&busy, 15_000);
    near.follow(&busy, &[], "").until(|event| event["type"] == "call.started");
    let behind = call(&busy, 10);
    let others: Vec<_> = (0..5).map(|_| call(&waits, 10)).collect();
    for call in [&behind, &others[4]] {
        assert_eq!(near.get(&format!("/v1/calls/{}", id(call))).expect(200)["state"], "queued");
    }
    let begun = Instant::now();
    a.terminate();
    // Those of another task are run by the other host while this one still drains.
    let ended = |call: &Value| {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let now = eventually(|| far.get(&format!("/v1/calls/{}?wait=1", id(call)))).expect(200);
            if now["outcome"].is_object() {
                assert_eq!((&now["state"], &now["attempts"]), (&json!("succeeded"), &json!(1)), "{now}");
                return;
            }
            assert!(Instant::now() < until, "{now}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    others.iter().for_each(ended);
    let calls = far.get(&format!("/v1/tasks/{busy}/calls")).expect(200);
    let of_busy: Vec<_> = calls["items"].as_array().unwrap().iter().map(|call| call["state"].clone()).collect();
    assert_eq!(of_busy, ["queued", "running"]);
    // What ran ends as if nothing were; what waited for it goes on elsewhere, long before a lease is over.
    [&running, &behind].into_iter().for_each(ended);
    assert!(begun.elapsed() < Duration::from_secs(50), "nobody waited for the lease");
    for task in [&busy, &waits] {
        let log = far.follow(task, &[], "").until(|event| {
            event["type"] == "call.ended" && (event["call"] == behind["id"] || event["call"] == others[4]["id"])
        });
        let starts: Vec<_> = log.iter().filter(|event| event["type"] == "call.started").map(|e| &e["call"]).collect();
        let distinct: std::collections::HashSet<_> = starts.iter().map(|call| call.as_str().unwrap()).collect();
        assert_eq!(starts.len(), distinct.len(), "none starts twice");
    }
    assert!(a.log().contains("calls that waited were given to other hosts"), "{}", a.log());
}

#[test]
fn a_host_that_is_leaving_says_so_while_it_still_answers() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__DRAIN_NOTICE_MS", 5_000));
    let client = server.client();
    let task = client.task();
    client.get("/readyz").expect(200);
    server.terminate();
    until("it says that it is leaving", || client.get("/readyz").status == 503);
    client.get("/readyz").problem(503, "stopping");
    client.get("/healthz").expect(200);
    assert_eq!(client.get(&format!("/v1/tasks/{task}")).expect(200)["state"], "ready");
}
