//! `kill -9`: what was acknowledged is there, nothing starts twice that may not, nothing hangs.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Options, Server};

const TERMINAL: [&str; 5] = ["succeeded", "failed", "timed_out", "cancelled", "interrupted"];

#[test]
fn every_accepted_call_survives_kill_9_in_one_piece() {
    let seed = std::process::id();
    eprintln!("seed {seed}");
    let mut server = Server::start(Options::default());
    server.client().register("fixtures/sleeper_rw");
    server.client().register("fixtures/echo");
    let task = server.client().task();
    let accepted: Mutex<HashMap<String, u32>> = Mutex::default();
    for round in 0..4 {
        let client = server.client();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (client, task, accepted, stop) = (client.clone(), &task, &accepted, &stop);
                scope.spawn(move || {
                    let mut ms = u64::from(seed + worker) % 7;
                    while !stop.load(Ordering::Relaxed) {
                        ms = (ms * 5 + 3) % 40;
                        let tool = if worker % 2 == 0 { "sleeper_rw" } else { "echo" };
                        let arguments = if worker % 2 == 0 { json!({"ms": ms}) } else { json!({"text": "x"}) };
                        let path = format!("/v1/tasks/{task}/calls?wait=0");
                        let body = json!({"tool": tool, "arguments": arguments});
                        // The server may vanish at any moment; an answer is a promise.
                        let Some(answer) = client.try_post(&path, &body) else { return };
                        if matches!(answer.status, 200 | 202) {
                            let id = answer.json()["id"].as_str().unwrap().to_owned();
                            accepted.lock().unwrap().insert(id, round);
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300 + 70 * u64::from(round)));
            let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        server = server.kill_and_restart();
    }
    let client = server.client();
    let accepted = accepted.into_inner().unwrap();
    assert!(accepted.len() > 20, "only {} calls were accepted", accepted.len());
    let mut states = HashMap::<String, u32>::new();
    for id in accepted.keys() {
        // Those that were queued run now, after the restart.
        let call = client.get(&format!("/v1/calls/{id}?wait=60")).expect(200);
        let state = call["state"].as_str().unwrap();
        assert!(TERMINAL.contains(&state), "{call}");
        // Only one of the two tools is idempotent.
        let most = if call["tool"] == "echo" { 2 } else { 1 };
        assert!(call["attempts"].as_u64().unwrap() <= most, "{call}");
        if state == "interrupted" {
            assert_eq!(call["outcome"]["fault"]["code"], "host_stopped", "{call}");
        }
        *states.entry(state.into()).or_default() += 1;
    }
    eprintln!("{} accepted: {states:?}", accepted.len());
    check_log(
        &client
            .follow(&task, &[], "")
            .until(|event| event["seq"] == last_seq(&client.get(&format!("/v1/tasks/{task}")).expect(200))),
    );
}

fn last_seq(task: &Value) -> Value {
    task["last_event"].clone()
}

/// Numbers without gaps, one start of each attempt and one end per call.
fn check_log(events: &[Value]) {
    let mut again = HashMap::<&str, u32>::new();
    let mut started = HashMap::<&str, u32>::new();
    let mut ended = HashMap::<&str, u32>::new();
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event["seq"], seq);
        let call = event["call"].as_str().unwrap_or_default();
        match event["type"].as_str().unwrap() {
            "call.started" => *started.entry(call).or_default() += 1,
            "call.requeued" => *again.entry(call).or_default() += 1,
            "call.ended" => *ended.entry(call).or_default() += 1,
            _ => {}
        }
    }
    let once_more = |call| again.get(call).copied().unwrap_or_default();
    let twice = started.iter().find(|(call, count)| **count != 1 + once_more(*call));
    assert_eq!(twice, None, "an attempt was made twice");
    assert!(again.values().all(|count| *count == 1), "more than one other attempt");
    assert!(ended.values().all(|count| *count == 1), "a call ended twice");
    assert!(started.keys().all(|call| ended.contains_key(call)), "a call that started has no end");
}

#[test]
fn an_orderly_stop_lets_calls_end_and_leaves_no_process() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let body = json!({"tool": "sleeper", "arguments": {"ms": 800}});
    let call = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    let children = workers_of(&server);
    let server = server.stop_and_restart();
    let call = server.client().get(&format!("/v1/calls/{}", call["id"].as_str().unwrap())).expect(200);
    assert_eq!(call["state"], "succeeded", "the drain waited for it: {call}");
    for pid in children {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a worker is left over");
    }
}

/// Whatever ends the host: a tool that is declared idempotent starts again, another does not.
#[test]
fn a_call_of_an_idempotent_tool_gets_another_attempt() {
    for drained in [false, true] {
        let server = Server::start(Options::default().with("BULKHEAD_DISPATCH__DRAIN_MS", 100));
        let client = server.client();
        client.register("fixtures/ticker");
        client.register("fixtures/sleeper");
        let task = client.task();
        let call = |body: &Value| client.post(&format!("/v1/tasks/{task}/calls?wait=0"), body).expect(202);
        let ticks = json!({"count": 25, "interval_ms": 100, "channels": ["stdout"], "honour_cancel": false});
        let again = call(&json!({"tool": "ticker", "arguments": ticks}));
        let once = call(&json!({"tool": "sleeper", "arguments": {"ms": 60_000}}));
        // Until both run, and the one has shown something.
        let started = Cell::new(0);
        client.follow(&task, &[], "").until(|event| {
            started.set(started.get() + u32::from(event["type"] == "call.started"));
            // It shows something as it starts, and every tenth of a second.
            started.get() == 2 && event["type"] == "call.output"
        });
        let server = if drained { server.stop_and_restart() } else { server.kill_and_restart() };
        let client = server.client();
        let ended =
            |call: &Value| client.get(&format!("/v1/calls/{}?wait=60", call["id"].as_str().unwrap())).expect(200);
        let once = ended(&once);
        assert_eq!((&once["state"], &once["attempts"]), (&json!("interrupted"), &json!(1)), "{once}");
        let ended = ended(&again);
        assert_eq!((&ended["state"], &ended["attempts"]), (&json!("succeeded"), &json!(2)), "{ended}");
        let over = |event: &Value| event["type"] == "call.ended" && event["call"] == again["id"];
        let log = client.follow(&task, &[], "").until(over);
        check_log(&log);
        let own = log.iter().filter(|event| event["call"] == again["id"]);
        let mut kinds: Vec<_> = own.clone().map(|event| event["type"].as_str().unwrap()).collect();
        kinds.dedup();
        let attempt = ["call.started", "call.output"];
        assert_eq!(kinds, [&attempt[..], &["call.requeued"], &attempt, &["call.ended"]].concat());
        let requeued = own.clone().find(|event| event["type"] == "call.requeued").unwrap();
        assert_eq!(requeued["data"]["fault"]["code"], "host_stopped", "{requeued}");
        let records = client.get(&format!("/v1/audit?task={task}&kind=call.ended")).expect(200);
        let attempts: Vec<_> = records["items"].as_array().unwrap().iter().map(|of| &of["data"]["attempts"]).collect();
        assert!(attempts.contains(&&json!(2)) && attempts.contains(&&Value::Null), "{records}");
    }
}

/// A call that brings its host down does so twice at most, and one that a client gave up
/// does not start again.
#[test]
fn another_attempt_is_the_last_and_is_wanted() {
    let server = Server::start(Options::default().with("BULKHEAD_DISPATCH__DRAIN_MS", 100));
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    let body = json!({"tool": "ticker", "arguments": {"count": 600, "interval_ms": 100, "channels": []}});
    let id = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)["id"].clone();
    let started = |client: &Client, times: usize| {
        let starts = Cell::new(0);
        client.follow(&task, &[], "").until(|event| {
            starts.set(starts.get() + usize::from(event["type"] == "call.started"));
            starts.get() == times
        });
    };
    started(&client, 1);
    let server = server.kill_and_restart();
    started(&server.client(), 2);
    let server = server.kill_and_restart();
    let ended = server.client().get(&format!("/v1/calls/{}", id.as_str().unwrap())).expect(200);
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("interrupted"), &json!(2)), "{ended}");
    // Asked to end, the guest looks and goes on, which it may for two seconds; meanwhile the
    // host is stopped.
    let client = server.client();
    let ticks = json!({"count": 600, "interval_ms": 20, "channels": ["stdout"], "honour_cancel": false});
    let body = json!({"tool": "ticker", "arguments": ticks});
    let id = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)["id"].clone();
    client.follow(&task, &[], "").until(|event| event["call"] == id && event["type"] == "call.output");
    client.post(&format!("/v1/calls/{}/cancel", id.as_str().unwrap()), &json!({})).expect(202);
    let server = server.stop_and_restart();
    let ended = server.client().get(&format!("/v1/calls/{}", id.as_str().unwrap())).expect(200);
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("interrupted"), &json!(1)), "{ended}");
}

#[test]
fn workers_die_with_their_host() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/cpu");
    let task = client.task();
    let body = json!({"tool": client.get(&format!("/v1/tasks/{task}/tools")).expect(200)["items"][0]["name"], "arguments": {"attack": "spin"}});
    client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    client.events_until(&task, "call.started");
    let children = workers_of(&server);
    drop(server);
    let gone = |pid: &u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    let all_gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        children.iter().all(gone)
    });
    assert!(all_gone, "a spinning worker outlived its host");
}

/// The workers of a server with a running call. It is stored as running before
/// its worker is there.
fn workers_of(server: &Server) -> Vec<u32> {
    let found = (0..1_000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(5));
        Some(children_of(server.pid())).filter(|children| !children.is_empty())
    });
    found.expect("a worker runs the call")
}

/// Waits until those are gone that compiled and described.
fn settle(server: &Server) {
    let gone = (0..2_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        children_of(server.pid()).is_empty()
    });
    assert!(gone, "{:?}", children_of(server.pid()));
}

fn thread_count(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |threads| threads.count())
}

/// Ids of a process's children, but those that only wait to become workers.
pub fn children_of(pid: u32) -> Vec<u32> {
    all_children_of(pid).into_iter().filter(|child| !waits(*child)).collect()
}

/// Whether a process is to be a worker, and has one thread yet.
fn waits(pid: u32) -> bool {
    is_worker(pid) && thread_count(pid) == 1
}

/// Whether a process is a worker or is to be one. Until it runs its own program, it looks
/// as the server does.
pub fn is_worker(pid: u32) -> bool {
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split('\0').nth(1) == Some("worker")
}

/// Ids of a process's children, from `/proc`.
fn all_children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn a_killed_worker_takes_only_its_own_calls_along() {
    let server = Server::start(Options::default().with("BULKHEAD_WORKERS__PER_TENANT", 1));
    let client = server.client();
    client.register("fixtures/sleeper_rw");
    client.register("fixtures/touch");
    let task = client.task();
    let body = json!({"tool": "sleeper_rw", "arguments": {"ms": 30_000}});
    let call = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    client.events_until(&task, "call.started");
    std::thread::sleep(Duration::from_millis(300));
    for pid in children_of(server.pid()) {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let ended = client.get(&format!("/v1/calls/{}?wait=30", call["id"].as_str().unwrap())).expect(200);
    assert_eq!(ended["state"], "interrupted", "{ended}");
    assert_eq!(ended["outcome"]["fault"]["code"], "worker_died");
    let next = client.call(&task, "touch", json!({"create": [{"path": "after", "content": "x"}]}));
    assert_eq!(next["state"], "succeeded", "the worker is replaced: {next}");
}

#[test]
fn a_killed_worker_takes_nothing_of_another_tenant_along() {
    let server = Server::start(Options::default());
    let (one, two) = (server.client(), another_tenant(&server));
    let sleep = |client: &Client, ms: u64| {
        let before = children_of(server.pid());
        let body = json!({"tool": "sleeper", "arguments": {"ms": ms}});
        let call = client.post(&format!("/v1/tasks/{}/calls?wait=0", client.task()), &body).expect(202);
        let new = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let bound = |child: &u32| !before.contains(child) && is_worker(*child) && thread_count(*child) > 1;
            all_children_of(server.pid()).into_iter().find(bound)
        });
        (call["id"].as_str().unwrap().to_owned(), new.expect("a worker of its own"))
    };
    for client in [&one, &two] {
        client.register("fixtures/sleeper");
    }
    settle(&server);
    let (lost, worker) = sleep(&one, 30_000);
    let (kept, _) = sleep(&two, 3_000);
    let worker = rustix::process::Pid::from_raw(worker.cast_signed()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    let ended = |client: &Client, call: &str| client.get(&format!("/v1/calls/{call}?wait=30")).expect(200);
    assert_eq!(ended(&one, &lost)["outcome"]["fault"]["code"], "worker_died");
    let kept = ended(&two, &kept);
    assert_eq!((&kept["state"], &kept["attempts"]), (&json!("succeeded"), &json!(1)), "{kept}");
}

fn another_tenant(server: &Server) -> Client {
    server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"])
}

#[test]
fn a_process_waits_alone_until_it_is_told_whom_it_serves() {
    let server = Server::start(Options::default().with("BULKHEAD_WORKERS__PER_TENANT", 1));
    let client = server.client();
    client.register("fixtures/sleeper");
    let waiting = |not: u32| {
        let found = (0..2_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let children = all_children_of(server.pid());
            children.into_iter().find(|child| *child != not && waits(*child))
        });
        found.expect("a process waits")
    };
    settle(&server);
    let first = waiting(0);
    // Nothing but its end of the socket, twice, and the other standard streams, and no variable.
    let open = std::fs::read_dir(format!("/proc/{first}/fd")).unwrap().count();
    assert_eq!(open, 4, "{first}");
    assert_eq!(std::fs::read(format!("/proc/{first}/environ")).unwrap(), b"");
    let body = json!({"tool": "sleeper", "arguments": {"ms": 2_000}});
    let call = client.post(&format!("/v1/tasks/{}/calls?wait=0", client.task()), &body).expect(202);
    let second = waiting(first);
    let taken = (0..2_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        thread_count(first) > 1
    });
    assert!(taken && waits(second), "it was taken, and {second} waits in its place");
    let call = client.get(&format!("/v1/calls/{}?wait=30", call["id"].as_str().unwrap())).expect(200);
    assert_eq!(call["state"], "succeeded", "{call}");
    // One that is gone is not taken.
    let second = rustix::process::Pid::from_raw(second.cast_signed()).unwrap();
    rustix::process::kill_process(second, rustix::process::Signal::KILL).unwrap();
    let other = another_tenant(&server);
    other.register("fixtures/sleeper");
    let call = other.call(&other.task(), "sleeper", json!({"ms": 1}));
    assert_eq!(call["state"], "succeeded", "{call}");
    let server = server.stop_and_restart();
    assert!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "{}", server.log());
}

#[test]
fn who_called_reads_why_a_guest_panicked() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/crash");
    let call = client.call(&client.task(), "hostile_crash", json!({"attack": "panic"}));
    let fault = &call["outcome"]["fault"];
    assert_eq!(fault["code"], "trap", "{call}");
    let message = fault["message"].as_str().unwrap();
    assert!(message.contains("a guest's panic") && message.contains("crash.rs"), "{message:?}");
}

#[test]
fn memory_of_a_big_guest_is_handed_back() {
    let limit: u64 = 400 << 20;
    let server = Server::start(
        Options::default().with("BULKHEAD_LIMITS__MEMORY_BYTES", limit).with("BULKHEAD_WORKERS__PER_TENANT", 1),
    );
    let client = server.client();
    client.register("hostile/memory");
    client.register("fixtures/sleeper");
    let task = client.task();
    settle(&server);
    // Keeps the worker.
    let body = json!({"tool": "sleeper", "arguments": {"ms": 60_000}});
    let other = client.task();
    client.post(&format!("/v1/tasks/{other}/calls?wait=0"), &body).expect(202);
    let worker = workers_of(&server)[0];
    let call = client.call_with(
        &task,
        json!({"tool": "hostile_memory", "arguments": {"attack": "fill"}, "limits": {"memory_bytes": limit}}),
    );
    assert_eq!(call["outcome"]["fault"]["code"], "limit.memory", "{call}");
    assert!(call["outcome"]["usage"]["peak_memory_bytes"].as_u64().unwrap() > limit / 2, "{call}");
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let back = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        resident() < 100 << 20
    });
    assert!(back, "{} MiB are kept", resident() >> 20);
}
