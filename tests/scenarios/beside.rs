//! What is done while something else is half done.

use std::time::Duration;

use serde_json::json;

use super::hosts::{id, until};
use crate::harness::{Options, Server};

/// How long a step is stayed at, in milliseconds.
const STAYS_MS: u64 = 2_000;

/// A call that is in the store and not yet known to the host is one of the task's calls.
#[test]
fn a_call_that_is_being_accepted_does_not_outlive_its_task() {
    let server = Server::start(Options::default().with("STAY_AT_STEP", format!("call.accepted:{STAYS_MS}")));
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let path = format!("/v1/tasks/{task}");
    let calls = format!("{path}/calls");
    let asking = std::thread::spawn({
        let (client, calls) = (client.clone(), calls.clone());
        let body = json!({"tool": "sleeper", "arguments": {"ms": 60_000}});
        move || client.post(&format!("{calls}?wait=0"), &body)
    });
    let stored = || client.get(&calls).expect(200)["items"][0].clone();
    until("it is stored", || stored()["state"] == "running");
    let call = stored();
    client.delete(&path).expect(204);
    let ended = client.get(&format!("/v1/calls/{}", id(&call))).expect(200);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let answer = asking.join().unwrap();
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    assert_eq!(answer.json()["id"], call["id"]);
    // Nothing is left of it that could come later.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(client.get(&format!("/v1/calls/{}", id(&call))).expect(200), ended);
}
