//! A whole server on PostgreSQL: the same as on SQLite, through the death of the
//! server and the absence of the database.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::postgres::{PASSWORD, postgres};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::{Client, Options, Server};

/// A server on a new database, which it reaches by this port.
fn server(port: u16) -> (Server, String) {
    let database = postgres().database(None);
    let options = Options::default().with("DATABASE_URL", postgres().url(port, &database));
    (Server::start(options), database)
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// However many guess keys, and however slow the store is to say that there are none.
#[test]
fn who_guesses_keys_does_not_take_the_database_from_others() {
    // A key that has the form of one, and is another server's.
    let guessed = Server::start(Options::default()).key().to_owned();
    let (server, database) = server(postgres().port());
    let client = server.client();
    let stranger = client.with_key(Some(&guessed));
    client.register("fixtures/sleeper");
    let task = client.task();
    let sleeps = json!({"tool": "sleeper", "arguments": {"ms": 60_000}});
    let sleeps = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &sleeps).expect(202);
    let cancel = format!("/v1/calls/{}/cancel", sleeps["id"].as_str().unwrap());
    let turned_away = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Each look for a key waits for this.
        let locked = postgres().locked(&database, "bulkhead.api_keys");
        for _ in 0..40 {
            scope.spawn(|| stranger.get("/v1/tasks").problem(401, "invalid_key"));
        }
        // More than there are places for those who cancel.
        for _ in 0..80 {
            scope.spawn(|| {
                let answer = stranger.post(&cancel, &json!({}));
                turned_away.fetch_add(usize::from(answer.status == 503), Relaxed);
                assert!(matches!(answer.status, 401 | 503), "{}", answer.status);
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(turned_away.load(Relaxed), 80 - 32, "they have half of them");
        let begun = Instant::now();
        client.post(&cancel, &json!({})).expect(202);
        client.task();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        drop(locked);
    });
}

#[test]
fn calls_and_events_outlive_kill_9() {
    let (server, database) = server(postgres().port());
    let client = server.client();
    client.register("fixtures/echo");
    client.register("fixtures/ticker");
    client.register("fixtures/sleeper");
    let task = client.task();
    assert_eq!(Client::text_of(&client.call(&task, "echo", json!({"text": "hello"}))), "hello");
    let body = json!({"tool": "ticker", "arguments": {"count": 20, "interval_ms": 10}});
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    let key = [("idempotency-key", "once")];
    let ticker = client.post_with(&path, &body, &key).expect(202);
    let first = client.follow(&task, &[], "").until(|event| event["seq"] == 10);
    let ends_ticker = |event: &Value| event["type"] == "call.ended" && event["call"] == ticker["id"];
    let whole = client.follow(&task, &[], "").until(ends_ticker);
    assert_eq!(seqs(&whole), (1..=whole.len() as u64).collect::<Vec<_>>());
    let running = client.post(&path, &json!({"tool": "sleeper", "arguments": {"ms": 60_000}})).expect(202);
    client.follow(&task, &[], "").until(|event| event["type"] == "call.started" && event["call"] == running["id"]);

    let server = server.kill_and_restart();
    let client = server.client();
    let last = first.last().unwrap()["seq"].to_string();
    let rest = client.follow(&task, &[("last-event-id", last.as_str())], "").until(ends_ticker);
    assert_eq!([first, rest].concat(), whole, "a reader goes on where it was");
    let interrupted = client.get(&format!("/v1/calls/{}", running["id"].as_str().unwrap())).expect(200);
    assert_eq!(interrupted["state"], "interrupted", "{interrupted}");
    assert_eq!(interrupted["outcome"]["fault"]["code"], "host_stopped");
    assert_eq!(client.post_with(&path, &body, &key).json()["id"], ticker["id"], "a replay is the same call");
    assert_eq!(Client::text_of(&client.call(&task, "echo", json!({"text": "again"}))), "again");

    assert!(!server.data().join("bulkhead.sqlite").exists());
    assert_eq!(postgres().psql(&database, "SELECT count(*) FROM bulkhead.calls").unwrap(), "4");
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("bulkhead_store_breaker_open 0"), "{metrics}");
    assert!(!metrics.contains("bulkhead_store_connections 0"), "{metrics}");
}

#[test]
fn the_password_is_shown_nowhere() {
    let (server, database) = server(postgres().port());
    let shown = format!("postgres://postgres@127.0.0.1:{}/{database}", postgres().port());
    let mut said = server.log();
    assert!(said.contains(&shown), "{said}");
    for arguments in [&["config", "show"][..], &["config", "show", "--json"], &["doctor"], &["keys", "list"]] {
        let output = server.cli(arguments);
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(arguments[0] == "keys" || text.contains(&shown), "{arguments:?}: {text}");
        said += &text;
    }
    let second = |url: &str| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.arg("serve").env_clear().env("BULKHEAD_DATA", directory.path()).env("BULKHEAD_LISTEN", "127.0.0.1:0");
        let output = command.env("DATABASE_URL", url).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let url = postgres().url(postgres().port(), &database);
    let absent = second(&url.replace(&database, "no_such_database"));
    assert!(absent.contains("can't be reached") && absent.contains("DATABASE_URL"), "{absent}");
    let bad = second(&format!("{url}&sslmod=require"));
    assert!(bad.contains("`sslmod` is not known"), "{bad}");
    said += &[absent, bad].concat();
    assert!(!said.contains(PASSWORD), "{said}");
    // The first one goes on.
    assert_eq!(server.client().get("/readyz").status, 200);
}

#[test]
fn a_database_that_is_gone_for_five_seconds_costs_no_end() {
    let proxy = Proxy::before(postgres().port());
    let (server, database) = server(proxy.port());
    let client = server.client();
    client.register("fixtures/sleeper");
    client.register("fixtures/ticker");
    let task = client.task();
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    // These speak all the time: what is on its way when the network breaks is stored, too.
    let lines = json!({"count": 90, "interval_ms": 100, "bytes": 400, "channels": ["stdout"]});
    let speak = json!({"tool": "ticker", "arguments": lines});
    let speakers: Vec<_> = (0..4).map(|_| client.post(&path, &speak).expect(202)["id"].clone()).collect();
    let accepted: Mutex<Vec<String>> = Mutex::default();
    let begun = Instant::now();
    let refused: Mutex<u32> = Mutex::default();
    std::thread::scope(|scope| {
        for worker in 0..6_u64 {
            let (client, path, accepted, refused) = (client.clone(), &path, &accepted, &refused);
            scope.spawn(move || {
                while begun.elapsed() < Duration::from_secs(8) {
                    let body = json!({"tool": "sleeper", "arguments": {"ms": 100 + worker * 150}});
                    let answer = client.post(path, &body);
                    if answer.status == 202 {
                        accepted.lock().unwrap().push(answer.json()["id"].as_str().unwrap().to_owned());
                    } else {
                        assert_eq!(answer.header("retry-after"), "1");
                        assert_eq!(answer.problem(503, "store_unavailable")["retryable"], true);
                        *refused.lock().unwrap() += 1;
                    }
                    std::thread::sleep(Duration::from_millis(60));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1_500));
        proxy.set(Weather::Gone);
        std::thread::sleep(Duration::from_secs(3));
        client.get("/readyz").problem(503, "store_unavailable");
        // Who comes now is told so; what was on its way when the network broke is waited for.
        let answer = client.post(&path, &json!({"tool": "sleeper", "arguments": {"ms": 1}}));
        assert_eq!(answer.problem(503, "store_unavailable")["retryable"], true);
        std::thread::sleep(Duration::from_secs(2));
        proxy.set(Weather::Fair);
    });
    let accepted = accepted.into_inner().unwrap();
    let refused = refused.into_inner().unwrap();
    eprintln!("{} accepted, {refused} refused", accepted.len());
    assert!(accepted.len() > 20);
    for id in &accepted {
        let call = client.get(&format!("/v1/calls/{id}?wait=60")).expect(200);
        assert_eq!(call["state"], "succeeded", "what ran meanwhile has its end: {call}");
    }
    // Those whose acceptance nobody was told of have one as well, once the last look is over.
    let open = "SELECT count(*) FROM bulkhead.calls WHERE ended_at IS NULL";
    let all_ended = (0..300).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        postgres().psql(&database, open).unwrap() == "0"
    });
    assert!(all_ended, "a call has no end");
    let last = client.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].clone();
    let events = client.follow(&task, &[], "").until(|event| event["seq"] == last);
    assert_eq!(seqs(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    for call in &speakers {
        let of = |event: &&Value| event["type"] == "call.output" && event["call"] == *call;
        let text: String = events.iter().filter(of).map(|event| event["data"]["text"].as_str().unwrap()).collect();
        let ticks: Vec<_> = text.lines().map(|line| line.trim_end_matches('.').to_owned()).collect();
        assert_eq!(ticks, (1..=90).map(|tick| format!("tick {tick} of 90")).collect::<Vec<_>>());
    }
    let mut ends = HashMap::<&str, u32>::new();
    for event in events.iter().filter(|event| event["type"] == "call.ended") {
        *ends.entry(event["call"].as_str().unwrap()).or_default() += 1;
    }
    assert!(ends.values().all(|count| *count == 1), "a call ended twice");
    assert!(accepted.iter().all(|id| ends.contains_key(id.as_str())));
    assert_eq!(client.get("/readyz").status, 200);
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    let breaker = |state: &str| metrics.contains(&format!("bulkhead_store_breaker_{state}"));
    assert!(breaker("open 0") && breaker("opened_total 1"), "{metrics}");
}

#[test]
fn a_call_whose_acceptance_was_not_answered_ends_and_is_replayed_by_its_key() {
    let proxy = Proxy::before(postgres().port());
    let (server, _) = server(proxy.port());
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    let path = format!("/v1/tasks/{task}/calls?wait=30");
    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
    // The statement is prepared: its answer is the one that will be lost.
    client.post_with(&path, &body, &[("idempotency-key", "before")]).expect(200);
    let mut states = Vec::new();
    for round in 0..30 {
        let key = format!("round-{round}");
        let key = [("idempotency-key", key.as_str())];
        proxy.set(Weather::AnswerLostForGood);
        client.post_with(&path, &body, &key).problem(503, "store_unavailable");
        proxy.set(Weather::Fair);
        let call = loop {
            let answer = client.post_with(&path, &body, &key);
            match answer.status {
                200 => break answer.json(),
                202 | 503 => std::thread::sleep(Duration::from_millis(100)),
                _ => panic!("{answer:?}"),
            }
        };
        if call["state"] == "interrupted" {
            assert_eq!(call["outcome"]["fault"]["code"], "host_error", "{call}");
            assert_eq!(call["outcome"]["fault"]["retryable"], true, "{call}");
        }
        states.push(call["state"].as_str().unwrap().to_owned());
        if round >= 2 && states.iter().any(|state| state == "interrupted") {
            break;
        }
    }
    // Another statement's answer may have been the lost one: then the call was new.
    assert!(states.iter().any(|state| state == "interrupted"), "{states:?}");
    assert!(states.iter().all(|state| state == "interrupted" || state == "succeeded"), "{states:?}");
}
