//! A call from the request to its end.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Options, Server};

#[test]
fn a_call_runs_and_tells_what_happened() {
    let server = Server::start(Options::default());
    let client = server.client();
    let tool = client.register("fixtures/echo");
    assert_eq!(tool["manifest"]["name"], "echo");
    let task = client.task();

    let call = client.call(&task, "echo", json!({"text": "hello"}));
    assert_eq!(Client::text_of(&call), "hello");
    assert_eq!(call["attempts"], 1);
    assert_eq!(call["tool_digest"], tool["digest"]);
    let usage = &call["outcome"]["usage"];
    assert!(usage["peak_memory_bytes"].as_u64().unwrap() > 0, "{usage}");

    let events = client.events_until(&task, "call.ended");
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let made = ["task.created", "task.step", "task.step", "task.ready"];
    assert_eq!(kinds, [&made[..], &["call.started", "call.ended"]].concat());
    let steps: Vec<_> = events[1..3].iter().map(|event| (&event["data"]["step"], &event["data"]["status"])).collect();
    let finished = json!("finished");
    assert_eq!(steps, [(&json!("workspace"), &finished), (&json!("backend"), &finished)]);
    assert_eq!(events[2]["data"]["detail"], "wasm");
    let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(events[5]["call"], call["id"]);
    assert_eq!(events[5]["data"]["content"], call["outcome"]["content"]);

    let read = client.get(&format!("/v1/calls/{}", call["id"].as_str().unwrap())).expect(200);
    assert_eq!(read, call);
    let listed = client.get(&format!("/v1/tasks/{task}/calls")).expect(200);
    assert_eq!(listed["items"], json!([call]));
}

#[test]
fn a_client_that_does_not_wait_gets_a_location() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let body = json!({"tool": "sleeper", "arguments": {"ms": 300}});
    let answer = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body);
    assert_eq!(answer.status, 202);
    let location = answer.header("location").to_owned();
    assert_eq!(answer.json()["state"], "running");
    assert_eq!(client.get(&location).expect(200)["state"], "running");
    assert_eq!(client.get(&format!("{location}?wait=30")).expect(200)["state"], "succeeded");
}

#[test]
fn a_running_call_is_cancelled_and_its_tool_may_say_goodbye() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    client.register("fixtures/ticker");
    let task = client.task();
    for (body, state, code) in [
        (json!({"tool": "sleeper", "arguments": {"ms": 60_000}}), "cancelled", "cancelled"),
        (
            json!({"tool": "ticker", "arguments": {"count": 10_000, "interval_ms": 10, "honour_cancel": true}}),
            "cancelled",
            "cancelled",
        ),
    ] {
        let call = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
        let path = format!("/v1/calls/{}", call["id"].as_str().unwrap());
        std::thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        client.post(&format!("{path}/cancel"), &json!({})).expect(202);
        let ended = client.get(&format!("{path}?wait=30")).expect(200);
        assert_eq!((&ended["state"], &ended["outcome"]["fault"]["code"]), (&json!(state), &json!(code)), "{ended}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        // What has ended stays as it ended.
        client.post(&format!("{path}/cancel"), &json!({})).expect(202);
        assert_eq!(client.get(&path).expect(200), ended);
    }
}

#[test]
fn an_idempotency_key_does_a_thing_once() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    let (task, other) = (client.task(), client.task());
    let send = |task: &str, body: &Value, wait: &str| {
        client.post_with(&format!("/v1/tasks/{task}/calls?wait={wait}"), body, &[("idempotency-key", "order-66")])
    };
    let body = json!({"tool": "sleeper", "arguments": {"ms": 500}});
    let first = send(&task, &body, "0").expect(202);
    let while_it_runs = send(&task, &body, "0").expect(202);
    assert_eq!(first["id"], while_it_runs["id"]);
    let waited = send(&task, &body, "30").expect(200);
    assert_eq!((&waited["id"], &waited["state"]), (&first["id"], &json!("succeeded")));
    send(&task, &json!({"tool": "sleeper", "arguments": {"ms": 501}}), "0").problem(422, "idempotency_key_reused");
    send(&other, &body, "0").problem(422, "idempotency_key_reused");
    let calls = client.get(&format!("/v1/tasks/{task}/calls")).expect(200);
    assert_eq!(calls["items"].as_array().unwrap().len(), 1);
    // Another user's key of the same name is another key.
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    stranger.register("fixtures/sleeper");
    let theirs = stranger.task();
    let answer =
        stranger.post_with(&format!("/v1/tasks/{theirs}/calls?wait=30"), &body, &[("idempotency-key", "order-66")]);
    assert_ne!(answer.expect(200)["id"], first["id"]);
    let server = server.kill_and_restart();
    let client = server.client();
    let path = format!("/v1/tasks/{task}/calls?wait=30");
    let again = client.post_with(&path, &body, &[("idempotency-key", "order-66")]).expect(200);
    assert_eq!(again["id"], first["id"], "the key outlives the process");
}

#[test]
fn a_client_that_goes_away_cancels_nothing() {
    use std::io::Write as _;
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let key = server.cli(&["keys", "create", "--json"]);
    let key: Value = serde_json::from_slice(&key.stdout).unwrap();
    let address = server.url().trim_start_matches("http://");
    let body = json!({"tool": "sleeper", "arguments": {"ms": 700}}).to_string();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    write!(
        socket,
        "POST /v1/tasks/{task}/calls HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        key["key"].as_str().unwrap(),
        body.len()
    )
    .unwrap();
    let started = client.events_until(&task, "call.started");
    drop(socket);
    let call = started.last().unwrap()["call"].as_str().unwrap();
    assert_eq!(client.get(&format!("/v1/calls/{call}?wait=30")).expect(200)["state"], "succeeded");
}

#[test]
fn within_a_task_one_writer_runs_at_a_time_and_readers_beside_each_other() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper_rw");
    client.register("fixtures/sleeper");
    let task = client.task();
    let start = |tool: &str, ms: u64| {
        let body = json!({"tool": tool, "arguments": {"ms": ms}});
        client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)["id"].as_str().unwrap().to_owned()
    };
    let writers: Vec<_> = (0..3).map(|_| start("sleeper_rw", 150)).collect();
    let ended: Vec<_> = writers.iter().map(|id| client.get(&format!("/v1/calls/{id}?wait=30")).expect(200)).collect();
    for pair in ended.windows(2) {
        assert!(pair[0]["ended_at"].as_str() <= pair[1]["started_at"].as_str(), "{pair:?}");
    }
    let readers: Vec<_> = (0..3).map(|_| start("sleeper", 400)).collect();
    let ended: Vec<_> = readers.iter().map(|id| client.get(&format!("/v1/calls/{id}?wait=30")).expect(200)).collect();
    let last_start = ended.iter().filter_map(|call| call["started_at"].as_str()).max().unwrap();
    let first_end = ended.iter().filter_map(|call| call["ended_at"].as_str()).min().unwrap();
    assert!(last_start < first_end, "{ended:?}");
}

#[test]
fn limits_narrow_and_never_widen() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/sleeper");
    let narrow = json!({"limits": {"wall_time_ms": 400}});
    let task = client.post("/v1/tasks", &narrow).expect(201)["id"].as_str().unwrap().to_owned();
    let call = client.call(&task, "sleeper", json!({"ms": 30_000}));
    assert_eq!(call["state"], "timed_out", "{call}");
    let fault = &call["outcome"]["fault"];
    assert_eq!(fault["code"], "limit.wall_time");
    assert_eq!(fault["limit"], json!({"name": "wall_time_ms", "value": 400, "unit": "milliseconds"}));
    let wide = json!({"tool": "sleeper", "arguments": {"ms": 1}, "limits": {"wall_time_ms": 401}});
    let problem = client.post(&format!("/v1/tasks/{task}/calls"), &wide).problem(400, "invalid_request");
    assert_eq!(problem["field"], "limits.wall_time_ms");
    assert!(problem["detail"].as_str().unwrap().contains("make a task with more"), "{problem}");
}

#[test]
fn a_tool_error_reaches_the_caller_as_the_tool_said_it() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/failing");
    let task = client.task();
    let call =
        client.call(&task, "failing", json!({"code": "no_such_page", "message": "try page 3", "retryable": true}));
    assert_eq!(call["state"], "failed");
    let fault = &call["outcome"]["fault"];
    assert_eq!(
        (&fault["code"], &fault["message"], &fault["retryable"]),
        (&json!("tool.no_such_page"), &json!("try page 3"), &json!(true))
    );
}

/// As after an upgrade of the engine, or on a host that another one gave the tools to.
#[test]
fn tools_that_must_be_compiled_again_are_called_at_once_and_run_when_they_are() {
    let server = Server::start(Options::default());
    let client = server.client();
    // One is compiled at a time.
    let tools = [("glob", "pattern"), ("json_query", "filter"), ("thumbnail", "path"), ("grep", "pattern")];
    for (tool, _) in tools {
        client.register(tool);
    }
    let task = client.task();
    for entry in std::fs::read_dir(server.data().join("artifacts")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let server = server.stop_and_restart();
    let client = server.client();
    let recorded = || {
        let entries = std::fs::read_dir(server.data().join("artifacts")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|name| name == "json")).count()
    };
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    let calls = tools.map(|(tool, argument)| {
        let body = json!({"tool": tool, "arguments": {argument: "x"}});
        format!("/v1/calls/{}", client.post(&path, &body).expect(202)["id"].as_str().unwrap())
    });
    assert!(recorded() < 4, "the answers did not wait for the compiler");
    // Nor does one who changed its mind.
    client.post(&format!("{}/cancel", calls[3]), &json!({})).expect(202);
    let cancelled = client.get(&format!("{}?wait=10", calls[3])).expect(200);
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert!(recorded() < 4, "it did not wait either");
    for call in &calls[..3] {
        // On a busy machine a compiler takes its time.
        let ended =
            (0..4).map(|_| client.get(&format!("{call}?wait=60")).expect(200)).find(|one| one["state"] != "running");
        let ended = ended.expect("it ends");
        // There is no such file.
        assert!(matches!(ended["state"].as_str(), Some("succeeded" | "failed")), "{ended}");
    }
    // What nobody waits for any more is made all the same, for the next.
    assert_eq!(client.call(&task, "grep", json!({"pattern": "x"}))["state"], "succeeded");
    assert_eq!(recorded(), 4, "each was compiled once");
}
