//! Event streams: live, exact after a reconnect, bounded for slow readers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Options, Server};

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn a_reader_that_comes_back_gets_exactly_the_rest() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    let body = json!({"tool": "ticker", "arguments": {"count": 40, "interval_ms": 15}});
    client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);

    // The first reader goes away in the middle; the second one says where.
    let first = client.follow(&task, &[], "").until(|event| event["seq"] == 20);
    let last = first.last().unwrap()["seq"].to_string();
    let rest =
        client.follow(&task, &[("last-event-id", last.as_str())], "").until(|event| event["type"] == "call.ended");
    let whole = client.events_until(&task, "call.ended");
    assert_eq!([first, rest].concat(), whole);
    assert_eq!(seqs(&whole), (1..=whole.len() as u64).collect::<Vec<_>>());
    let by_query = client.follow(&task, &[], "?after=20").until(|event| event["type"] == "call.ended");
    assert_eq!(by_query[..], whole[20..]);

    // Nothing of the guest's output is lost or doubled on the way.
    let text = |stream: &str| -> String {
        let of = |event: &&Value| event["type"] == "call.output" && event["data"]["stream"] == stream;
        whole.iter().filter(of).map(|event| event["data"]["text"].as_str().unwrap()).collect()
    };
    assert_eq!(text("stdout").lines().count(), 40, "{}", text("stdout"));
    assert_eq!(text("stderr").lines().count(), 40);
    let progress: Vec<_> = whole.iter().filter(|event| event["type"] == "call.progress").collect();
    assert!(progress.windows(2).all(|pair| pair[0]["data"]["done"].as_u64() < pair[1]["data"]["done"].as_u64()));
    assert_eq!(progress.last().unwrap()["data"]["done"], 40);

    // And the same again after the process was killed.
    let server = server.kill_and_restart();
    let stored = server.client().events_until(&task, "call.ended");
    assert_eq!(stored, whole);
}

#[test]
fn a_stream_says_that_it_lives_and_must_not_be_changed_on_the_way() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__HEARTBEAT_MS", 100));
    let client = server.client();
    let task = client.task();
    let stream = client.follow(&task, &[], "?after=2");
    let header = |name: &str| stream.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    let begun = std::time::Instant::now();
    client.delete(&format!("/v1/tasks/{task}")).expect(204);
    let events = stream.until(|_| false);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "task.deleted", "the stream ends by itself");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let answer = client.get(&format!("/v1/tasks/{task}/events?after={}", last["seq"]));
    assert_eq!(answer.status, 204, "an EventSource stops for good");
}

#[test]
fn an_impossible_cursor_is_told() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/events");
    client.send("GET", &path, &[("last-event-id", "abc")], b"").problem(400, "invalid_request");
    client.get(&format!("{path}?after=-1")).problem(400, "invalid_request");
    client.get(&format!("{path}?aftr=1")).problem(400, "invalid_request");
}

#[test]
fn output_is_capped_and_the_cap_is_told() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    let arguments = json!({"count": 50, "interval_ms": 0, "channels": ["stdout", "stderr"]});
    let limits = json!({"stdout_bytes": 100, "stderr_bytes": 0});
    let call = client.call_with(&task, json!({"tool": "ticker", "arguments": arguments, "limits": limits}));
    assert_eq!(call["state"], "succeeded", "a flood is no failure: {call}");
    let events = client.events_until(&task, "call.ended");
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "call.output")
        .map(|event| event["data"]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text.len(), 100);
    let cut: Vec<_> =
        events.iter().filter(|event| event["type"] == "call.truncated").map(|event| &event["data"]).collect();
    let said = |limit: &str| cut.iter().find(|cut| cut["limit"] == limit).map(|cut| cut["value"].clone());
    assert_eq!(said("stdout_bytes"), Some(json!(100)), "{cut:?}");
    assert_eq!(said("stderr_bytes"), Some(json!(0)), "zero means zero: {cut:?}");
    for cut in &cut {
        assert_eq!(cut["used"], cut["value"], "as much was taken: {cut}");
        let used = format!("than the {} bytes that were taken; the limit", cut["used"]);
        assert!(cut["message"].as_str().unwrap().contains(&used), "{cut}");
    }
}

#[test]
fn changes_of_files_are_told_with_who_made_them() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/touch");
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/a.txt"), b"1").expect(201);
    let arguments = json!({
        "mkdir": ["d"], "create": [{"path": "d/new", "content": "x"}],
        "modify": [{"path": "a.txt", "content": "2"}], "rename": [{"from": "d/new", "to": "d/named"}], "delete": [],
    });
    assert_eq!(client.call(&task, "touch", arguments)["state"], "succeeded");
    let events = client.events_until(&task, "call.ended");
    let changed: Vec<_> =
        events.iter().filter(|event| event["type"] == "files.changed").map(|event| &event["data"]).collect();
    assert_eq!(changed[0]["by"], "http");
    assert_eq!(changed[0]["changes"], json!([{"path": "a.txt", "change": "created"}]));
    let by_call: Vec<_> = changed[1..]
        .iter()
        .flat_map(|data| {
            assert_eq!((&data["by"], &data["incomplete"]), (&json!("call"), &json!(false)));
            data["changes"].as_array().unwrap().clone()
        })
        .collect();
    let has = |path: &str, change: &str| by_call.contains(&json!({"path": path, "change": change}));
    assert!(has("d", "created") && has("a.txt", "modified") && has("d/named", "created"), "{by_call:?}");
    let _ = Client::text_of;
}

#[test]
fn slow_and_dead_readers_cost_nothing() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/ticker");
    let task = client.task();
    // Readers that never read, and some that go away at once.
    let idle: Vec<_> = (0..30).map(|_| client.follow(&task, &[], "")).collect();
    for _ in 0..30 {
        drop(client.follow(&task, &[], ""));
    }
    let arguments = json!({"count": 2_000, "interval_ms": 0, "bytes": 400, "channels": ["stdout"]});
    let limits = json!({"wall_time_ms": 60_000});
    let call = client.call_with(&task, json!({"tool": "ticker", "arguments": arguments, "limits": limits}));
    assert_eq!(call["state"], "succeeded", "{call}");
    drop(idle);
    let gone = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let text = client.get("/metrics");
        let text = String::from_utf8(text.body).unwrap();
        text.contains("bulkhead_event_streams 0\n") && text.contains("bulkhead_tasks_watched 0\n")
    });
    assert!(gone, "every stream is given back");
}
