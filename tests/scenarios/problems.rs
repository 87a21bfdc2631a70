//! Bad input of every kind: its own clear problem, and nothing is lost.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Options, Server, guests};

#[test]
fn every_bad_request_gets_its_own_problem() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__MAX_BODY_BYTES", 4096));
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    let calls = format!("/v1/tasks/{task}/calls");
    let json_type = [("content-type", "application/json")];
    let raw = |body: &[u8]| client.send("POST", &calls, &json_type, body);

    raw(b"{\"tool\": ").problem(400, "malformed_json");
    raw(b"\xff\xfe").problem(400, "malformed_json");
    raw(br#"{"tool": "echo"}"#).problem(400, "malformed_json");
    // Its fields in their order are not an object.
    raw(br#" ["echo", {"text": "x"}, {}]"#).problem(400, "malformed_json");
    raw(br#"{"tool": "echo", "arguments": {}, "argumants": {}}"#).problem(400, "malformed_json");
    client.send("POST", &calls, &[("content-type", "text/plain")], b"{}").problem(415, "unsupported_media_type");
    assert_eq!(raw(&[b' '; 5000]).problem(413, "too_large")["name"], "http.max_body_bytes");
    client.post(&calls, &json!({"tool": "ecko", "arguments": {}})).problem(422, "unknown_tool");
    let problem =
        client.post(&calls, &json!({"tool": "echo", "arguments": {"text": 7}})).problem(422, "arguments_mismatch");
    assert_eq!(problem["errors"][0]["pointer"], "/text", "{problem}");
    client.post(&calls, &json!({"tool": "echo", "arguments": [1]})).problem(422, "arguments_mismatch");
    client
        .post(&format!("{calls}?wait=-1"), &json!({"tool": "echo", "arguments": {"text": ""}}))
        .problem(400, "invalid_request");
    client
        .post(&format!("{calls}?wait=1e9"), &json!({"tool": "echo", "arguments": {"text": ""}}))
        .problem(400, "invalid_request");
    let long = "k".repeat(256);
    let body = json!({"tool": "echo", "arguments": {"text": ""}});
    client.post_with(&calls, &body, &[("idempotency-key", &long)]).problem(400, "invalid_request");
    client.post("/v1/tasks", &json!({"label": "x".repeat(300)})).problem(400, "invalid_request");
    client
        .post("/v1/tasks", &json!({"source": {"kind": "git", "url": "http://127.0.0.1/x"}}))
        .problem(400, "invalid_request");
    client.get("/v1/tasks?limit=0").problem(400, "invalid_request");
    client.get("/v1/tasks?before=x").problem(400, "invalid_request");
    for id in ["task_zzz", "call_01jd8n2m4v0000000000000000", "..%2f..%2fetc", "task_01JD8N2M4V0000000000000000"] {
        client.get(&format!("/v1/tasks/{id}")).problem(404, "not_found");
    }
    client.get("/v1/nothing").problem(404, "no_such_operation");
    client.send("PATCH", "/v1/tasks", &[], b"").problem(405, "method_not_allowed");

    // All of that left no trace and broke nothing.
    assert_eq!(client.get(&calls).expect(200)["items"], json!([]));
    assert_eq!(client.call(&task, "echo", json!({"text": "still here"}))["state"], "succeeded");
}

#[test]
fn what_is_not_a_tool_is_rejected_with_the_reason() {
    let server = Server::start(Options::default());
    let client = server.client();
    let core_module = b"\0asm\x01\0\0\0".to_vec();
    let echo = guests::wasm("fixtures/echo");
    for (what, bytes, code) in [
        ("text", b"#!/bin/sh\necho".to_vec(), "not_wasm"),
        ("core module", core_module, "core_module"),
        ("old command", guests::wasm("hostile/raw_core_command"), "missing_export"),
        ("cut off", echo[..echo.len() / 2].to_vec(), "invalid_wasm"),
        ("unknown import", guests::wasm("hostile/raw_wrong_import"), "unknown_import"),
        ("no export", guests::wasm("hostile/raw_wrong_export"), "missing_export"),
        ("lying name", guests::wasm("hostile/liar_name"), "invalid_description"),
        ("trap", guests::wasm("hostile/liar_traps"), "describe_failed"),
    ] {
        let tool = client.register_bytes(&bytes);
        assert_eq!((&tool["state"], &tool["rejection"]["code"]), (&json!("rejected"), &json!(code)), "{what}: {tool}");
        assert!(tool["rejection"]["reason"].as_str().unwrap().len() > 10, "{tool}");
    }
    client.send("POST", "/v1/tools", &[], b"").problem(400, "invalid_request");
    assert_eq!(client.register("fixtures/echo")["state"], "ready");
}

#[test]
fn a_core_module_is_a_tool_by_the_digest_of_what_was_sent() {
    let server = Server::start(Options::default());
    let client = server.client();
    let module = guests::wasm("fixtures/touch_core");
    let tool = client.register_bytes(&module);
    assert_eq!((&tool["state"], &tool["manifest"]["name"]), (&json!("ready"), &json!("touch")), "{tool}");
    let digest = bulkhead_core::digest::Digest::of(&module).to_string();
    assert_eq!((&tool["digest"], &tool["size"]), (&json!(digest), &json!(module.len())));
    let task = client.task();
    let call = client.call(&task, "touch", json!({"create": [{"path": "a", "content": "x"}]}));
    assert_eq!(call["state"], "succeeded", "{call}");
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/a")).body, b"x");
}

#[test]
fn how_far_a_registration_is_can_be_followed() {
    let server = Server::start(Options::default().with("BULKHEAD_TOOLS__COMPILE_AT_ONCE", 1));
    let client = server.client();
    let send =
        |wasm: &[u8]| client.send("POST", "/v1/tools", &[("content-type", "application/wasm")], wasm).expect(202);
    // The same component with other bytes behind it was never seen.
    let fresh = |name: &str| [guests::wasm("http_request"), vec![0, 5, 4], name.as_bytes().to_vec()].concat();
    let first = send(&fresh("one!"));
    let second = send(&fresh("two!"));
    assert_eq!((&second["state"], &second["progress"]["stage"]), (&json!("compiling"), &json!("queued")), "{second}");
    let path = |tool: &Value| format!("/v1/tools/{}", tool["id"].as_str().unwrap());
    let (mut stages, mut last) = (Vec::new(), first["progress"].clone());
    loop {
        let tool = client.get(&path(&first)).expect(200);
        if tool["state"] != "compiling" {
            assert_eq!(tool["state"], "ready", "{tool}");
            assert!(tool.get("progress").is_none(), "{tool}");
            break;
        }
        // Stored and not told yet, it is compiling without a stage.
        let Some(progress) = tool.get("progress") else { continue };
        assert!(progress["elapsed_ms"].as_u64() >= last["elapsed_ms"].as_u64(), "{last} {progress}");
        if stages.last() != Some(&progress["stage"]) {
            stages.push(progress["stage"].clone());
        }
        last = progress.clone();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(stages.contains(&json!("compiling")), "{stages:?}");
    let order: Vec<usize> = stages
        .iter()
        .map(|stage| ["queued", "inspecting", "compiling", "describing"].iter().position(|name| stage == name).unwrap())
        .collect();
    assert!(order.is_sorted(), "{stages:?}");
    let waited = client.get(&format!("{}?wait=60", path(&second))).expect(200);
    assert_eq!(waited["state"], "ready", "{waited}");
    client.get(&format!("{}?wait=-1", path(&second))).problem(400, "invalid_request");
}

#[test]
fn what_becomes_of_a_registration_is_told_as_it_happens() {
    let server = Server::start(Options::default().with("BULKHEAD_TOOLS__COMPILE_AT_ONCE", 1));
    let client = server.client();
    let send =
        |wasm: &[u8]| client.send("POST", "/v1/tools", &[("content-type", "application/wasm")], wasm).expect(202);
    let fresh = |name: &str| [guests::wasm("http_request"), vec![0, 5, 4], name.as_bytes().to_vec()].concat();
    let [first, second, bad] = [send(&fresh("tre!")), send(&fresh("for!")), send(b"\0asm nonsense")];
    let path = |tool: &Value| format!("/v1/tools/{}/events", tool["id"].as_str().unwrap());
    // The stream ends when there is nothing more to come.
    let told = |tool: &Value| -> Vec<(String, Value)> {
        let answer = client.get(&path(tool));
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
        let text = String::from_utf8(answer.body).unwrap();
        let frames = text.split_terminator("\n\n").filter(|frame| !frame.starts_with(':'));
        let parsed = frames.map(|frame| {
            let line = |at: usize, field: &str| frame.lines().nth(at).unwrap().strip_prefix(field).unwrap().to_owned();
            let data: Value = serde_json::from_str(&line(2, "data: ")).unwrap();
            assert_eq!((json!(line(0, "id: ")), &data["id"]), (data["state"].clone(), &tool["id"]));
            (line(1, "event: "), data)
        });
        parsed.collect()
    };
    for (tool, end) in [(&second, "ready"), (&bad, "rejected")] {
        let events = told(tool);
        let (last, compiling) = events.split_last().unwrap();
        assert_eq!((last.0.as_str(), &last.1["state"]), (&*format!("tool.{end}"), &json!(end)), "{events:?}");
        let mut stages: Vec<_> =
            compiling.iter().map(|(name, tool)| (name.as_str(), &tool["progress"]["stage"])).collect();
        assert_eq!(stages.first(), Some(&("tool.compiling", &json!("queued"))), "{events:?}");
        let count = stages.len();
        stages.dedup();
        assert_eq!(stages.len(), count, "each stage once: {events:?}");
    }
    assert_eq!(told(&first).len(), 1, "over before it was asked for");
    assert!(told(&bad)[0].1["rejection"]["code"].is_string());
    let again = client.send("GET", &path(&first), &[("last-event-id", "ready")], b"");
    assert_eq!((again.status, again.body.len()), (204, 0));
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000009", "--user", "usr_01jd8n2m4v0000000000000009"]);
    stranger.get(&path(&first)).problem(404, "not_found");
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(Options::default().with("BULKHEAD_DISPATCH__QUEUED_PER_TASK", 2));
    let client = server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let body = json!({"tool": "sleeper_rw", "arguments": {"ms": 3_000}});
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    for _ in 0..3 {
        client.post(&path, &body).expect(202);
    }
    let answer = client.post(&path, &body);
    assert_eq!(answer.header("retry-after"), "1");
    let problem = answer.problem(429, "busy");
    assert_eq!(problem["retryable"], true);
}
