//! WASI 0.3 on a whole server: an operator switches it on, and off again.

use serde_json::json;

use crate::harness::{Options, Server, guests};

const SWITCH: &str = "BULKHEAD_EXPERIMENTAL__WASI_03";

#[test]
fn what_needs_it_is_a_tool_as_long_as_it_is_switched_on() {
    let server = Server::start(Options::default());
    let fixture = guests::wasm("fixtures/async");
    let refused = server.client().register_bytes(&fixture);
    assert_eq!((&refused["state"], &refused["rejection"]["code"]), (&json!("rejected"), &json!("unknown_import")));
    let reason = refused["rejection"]["reason"].as_str().unwrap();
    assert!(reason.contains("`wasi:cli/environment@0.3.0`") && reason.contains("`experimental.wasi_03`"), "{reason}");

    let server = server.stop_and_restart_with(SWITCH, true);
    assert!(server.log().contains("tools of WASI 0.3 are accepted"));
    let client = server.client();
    client.register("fixtures/async");
    client.register("fixtures/echo");
    let task = client.task();
    let arguments =
        json!({"write": "notes/one", "text": "by a stream ", "read": "notes/one", "print": 5, "wait": [30, 30]});
    let call = client.call(&task, "async", arguments);
    assert_eq!(call["outcome"]["content"][0]["json"]["read"], "by a stream by a stream ", "{call}");
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/notes/one")).body, b"by a stream by a stream ");
    assert_eq!(client.call(&task, "echo", json!({"text": "beside"}))["state"], "succeeded");
    // One for each of the two, and none that did both.
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("\nbulkhead_workers 2\n"), "{metrics}");

    let server = server.stop_and_restart_with(SWITCH, false);
    let client = server.client();
    let call = || client.post(&format!("/v1/tasks/{task}/calls"), &json!({"tool": "async", "arguments": {}}));
    // The first one finds out, and may have been accepted by then.
    let first = call();
    if first.status == 200 {
        let message = first.json()["outcome"]["fault"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("no longer accepted") && message.contains("`experimental.wasi_03`"), "{message}");
    }
    let problem = call().problem(409, "wrong_state");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("no longer accepted") && detail.contains("`experimental.wasi_03`"), "{detail}");
    assert_eq!(client.call(&task, "echo", json!({"text": "as ever"}))["state"], "succeeded");
}
