//! Bounds of what a guest opens, names and waits for: what is refused in the
//! guest is told as an event, what ends the call as its outcome, and either says
//! which limit it was, its value, and how to raise it.

use serde_json::{Value, json};

use crate::harness::{Client, Options, Server};

/// Calls an attack with limits of its own, in a new task.
fn attack(client: &Client, component: &str, attack: &str, limits: &Value) -> (String, Value) {
    let task = client.task();
    let body = json!({"tool": format!("hostile_{component}"), "arguments": {"attack": attack}, "limits": limits});
    let call = client.post(&format!("/v1/tasks/{task}/calls?wait=60"), &body).expect(200);
    (task, call)
}

/// What the guest said at its end.
fn said(call: &Value) -> &Value {
    assert_eq!(call["state"], "succeeded", "{call}");
    &call["outcome"]["content"][0]["json"]
}

/// The one event that tells of `limit`.
fn told(client: &Client, task: &str, limit: &str) -> Value {
    let events = client.events_until(task, "call.ended");
    let cut: Vec<_> = events.iter().filter(|event| event["type"] == "call.truncated").collect();
    let [cut] = cut[..] else { panic!("{limit} is told once: {events:?}") };
    assert_eq!(cut["data"]["limit"], limit);
    let message = cut["data"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("the limit `{limit}` of this call is {}", cut["data"]["value"])), "{message}");
    assert!(message.contains(&format!("raise it: `limits.{limit}` in the request")), "{message}");
    let (used, value) = (cut["data"]["used"].as_u64().expect("what was used"), cut["data"]["value"].as_u64().unwrap());
    assert!(message.contains(&used.to_string()), "{message}");
    // Of one wish alone it is what was wanted.
    let wanted = !["open_files", "listing_entries"].contains(&limit);
    assert!(if wanted { used > value } else { used == value }, "{cut}");
    cut["data"]["value"].clone()
}

#[test]
fn paths_are_as_long_and_as_deep_as_the_call_may_name() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/bounds");
    let limits = json!({"path_bytes": 1_024, "path_depth": 32});
    for (name, limit, value) in [
        ("long_paths", "path_bytes", 1_024),
        ("long_targets", "path_bytes", 1_024),
        ("deep_paths", "path_depth", 32),
        ("deep_targets", "path_depth", 32),
    ] {
        let (task, call) = attack(&client, "bounds", name, &limits);
        assert_eq!(said(&call)["escaped"], false, "{name}: {call}");
        let attempts = said(&call)["attempts"].as_array().unwrap();
        let refused = attempts.iter().filter(|attempt| attempt["got"].as_str().unwrap().contains("name-too-long"));
        assert!(refused.count() >= attempts.len() / 2, "{name}: {attempts:?}");
        assert_eq!(told(&client, &task, limit), value, "{name}");
    }
    let (task, call) = attack(&client, "bounds", "deep_descriptors", &limits);
    assert_eq!(said(&call)["done"], 32, "{call}");
    assert_eq!(told(&client, &task, "path_depth"), 32);
}

#[test]
fn a_file_is_as_large_as_the_call_may_make_it() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/disk");
    for name in ["sparse", "sparse_write"] {
        let (task, call) = attack(&client, "disk", name, &json!({"file_bytes": 4_096}));
        assert_eq!(said(&call)["refused"], true, "{call}");
        assert_eq!(told(&client, &task, "file_bytes"), 4_096);
    }
    client.register("fixtures/touch");
    let task = client.task();
    for (size, state) in [(4_096, "succeeded"), (4_097, "failed")] {
        let file = json!({"path": format!("of_{size}"), "content": "x".repeat(size)});
        let body = json!({"tool": "touch", "arguments": {"create": [file]}, "limits": {"file_bytes": 4_096}});
        let call = client.post(&format!("/v1/tasks/{task}/calls?wait=60"), &body).expect(200);
        assert_eq!(call["state"], state, "{call}");
    }
}

#[test]
fn listings_are_read_as_they_are_asked_for_and_end() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/bounds");
    let limits = json!({"listing_entries": 600});
    for name in ["long_listing", "growing_listing"] {
        let (task, call) = attack(&client, "bounds", name, &limits);
        assert_eq!((&said(&call)["refused"], &said(&call)["listed"]), (&json!(true), &json!(600)), "{call}");
        assert!(said(&call)["got"].as_str().unwrap().contains("overflow"), "{call}");
        assert_eq!(told(&client, &task, "listing_entries"), 600);
    }
    // A listing that was made whole would have all 500.
    let (_, call) = attack(&client, "bounds", "listing_of_removed", &limits);
    assert!(said(&call)["listed"].as_u64().unwrap() < 300, "{call}");
}

#[test]
fn a_call_has_no_more_open_than_it_may() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/handles");
    let limits = json!({"open_files": 20});
    // Streams and listings keep files open beyond the handles of them.
    for name in ["files", "directories", "directory_streams", "files_of_streams", "files_of_listings"] {
        let (task, call) = attack(&client, "handles", name, &limits);
        let kept = said(&call)["kept"].as_u64().unwrap();
        assert!(said(&call)["refused"] == true && (10..=20).contains(&kept), "{name}: {call}");
        assert_eq!(told(&client, &task, "open_files"), 20);
    }
}

#[test]
fn streams_and_lists_to_wait_for_end_the_call_by_name() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/handles");
    client.register("hostile/hostmem");
    let streams = ["streams", "writers", "stdins", "stdouts", "stderrs", "bodies"];
    let cases = streams.map(|name| ("handles", name, "streams", 20, "the tool opened 21 streams at once"));
    let list = ("hostmem", "poll_list", "poll_list", 256, "the tool waited for 900 things in one poll");
    for (component, name, limit, value, used) in cases.into_iter().chain([list]) {
        let (_, call) = attack(&client, component, name, &json!({"streams": 20}));
        let fault = &call["outcome"]["fault"];
        assert_eq!((&call["state"], &fault["code"]), (&json!("failed"), &json!(format!("limit.{limit}"))), "{call}");
        assert_eq!((&fault["limit"]["name"], &fault["limit"]["value"]), (&json!(limit), &json!(value)), "{call}");
        let message = fault["message"].as_str().unwrap();
        for words in [used, &format!("the limit `{limit}` of this call is {value}"), "raise it: `limits."] {
            assert!(message.contains(words), "{name}: {message}");
        }
    }
}
