//! Policies, grants and questions, with a whole server and a workspace: what
//! is granted, who says so, and what happens when it is taken back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Options, Server};

/// A policy's file, and a server under it.
pub(crate) struct Governed {
    pub(crate) directory: TempDir,
    pub(crate) server: Server,
}

impl Governed {
    pub(crate) fn start(policy: &str, options: Options) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("policy.toml"), policy).unwrap();
        let file = directory.path().join("policy.toml");
        let options = options.with("BULKHEAD_POLICY__FILE", file.display()).with("BULKHEAD_POLICY__RELOAD_MS", 50);
        Self { server: Server::start(options), directory }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("policy.toml")
    }

    /// Swaps another policy in, as an editor does.
    pub(crate) fn change(&self, policy: &str) {
        let new = self.directory.path().join("new");
        std::fs::write(&new, policy).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }
}

/// Starts a call and does not wait.
pub(crate) fn begin(client: &Client, task: &str, tool: &str, arguments: Value) -> String {
    let body = json!({"tool": tool, "arguments": arguments});
    let answer = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body);
    answer.json()["id"].as_str().unwrap_or_else(|| panic!("{:?}", answer)).to_owned()
}

/// The call once it is in this state.
#[track_caller]
pub(crate) fn until(client: &Client, call: &str, state: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = client.get(&format!("/v1/calls/{call}")).expect(200);
        if shown["state"] == state {
            return shown;
        }
        assert!(Instant::now() < deadline, "never {state}: {shown}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ended(client: &Client, call: &str) -> Value {
    client.get(&format!("/v1/calls/{call}?wait=60")).expect(200)
}

/// The kinds of records of what was decided, asked and granted in a task.
fn kinds(client: &Client, task: &str) -> Vec<String> {
    let audit = client.get(&format!("/v1/tasks/{task}/audit")).expect(200);
    let kinds = audit["items"].as_array().unwrap().iter().map(|record| record["kind"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind != "task.created").collect()
}

const ASK_TO_WRITE: &str = "version = 1\n[[rule]]\nname = \"writing\"\nmode = \"ask\"\nworkspace = [\"write\"]\n";

#[test]
fn a_call_waits_for_its_owner_and_does_what_the_answer_says() {
    let governed = Governed::start(ASK_TO_WRITE, Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    // An agent's key can call, and can neither answer nor grant.
    let me = client.get("/v1/whoami").expect(200);
    let (tenant, user) = (me["tenant"].as_str().unwrap(), me["user"].as_str().unwrap());
    let arguments = ["--tenant", tenant, "--user", user, "--scopes", "calls:run tasks:read"];
    let agent = governed.server.client_with(&arguments);

    // Who waits for the result is told at once that there is a question.
    let asked =
        agent.post(&format!("/v1/tasks/{task}/calls?wait=60"), &json!({"tool": "sleeper_rw", "arguments": {"ms": 1}}));
    assert_eq!((asked.status, &asked.json()["state"]), (202, &json!("waiting")));
    let call = asked.json()["id"].as_str().unwrap().to_owned();
    assert!(asked.json()["question"]["id"].is_string());
    let waiting = until(&agent, &call, "waiting");
    let question = waiting["question"]["id"].as_str().unwrap();
    assert_eq!(waiting["question"]["capability"], json!({"kind": "workspace", "value": "read-write"}));
    assert_eq!(waiting["question"]["rule"], "writing");
    let answers = format!("/v1/calls/{call}/answers");
    let yes = json!({"question": question, "allow": true});
    agent.post(&answers, &yes).problem(403, "missing_scope");
    let widen = json!({"capability": {"kind": "workspace", "value": "read-write"}});
    agent.post(&format!("/v1/tasks/{task}/grants"), &widen).problem(403, "missing_scope");
    let other = json!({"question": "question_01jd8n2m4v0000000000000000", "allow": true});
    client.post(&answers, &other).problem(409, "wrong_state");
    assert_eq!(client.post(&answers, &yes).status, 204);
    assert_eq!(ended(&client, &call)["state"], "succeeded");
    client.post(&answers, &yes).problem(409, "wrong_state");

    // No: the guest runs with what else it was granted. (It writes nothing.)
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    let question = until(&client, &call, "waiting")["question"]["id"].clone();
    let no = json!({"question": question, "allow": false});
    assert_eq!(client.post(&format!("/v1/calls/{call}/answers"), &no).status, 204);
    let refused = ended(&client, &call);
    assert_eq!(refused["state"], "succeeded");

    let events = client.events_until(&task, "call.ended");
    let told: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    let wanted = ["call.started", "call.waiting", "call.answered", "call.ended"];
    assert!(told.windows(4).any(|window| window == wanted), "{told:?}");
    let asked = ["question.asked", "question.answered", "question.asked", "question.answered"];
    assert_eq!(kinds(&client, &task), asked);
    let audit = client.get(&format!("/v1/audit?task={task}&kind=question.answered")).expect(200);
    let credential = &audit["items"][0]["data"]["credential"];
    assert!(credential.as_str().unwrap().starts_with("key:"), "who answered is on record: {audit}");
}

#[test]
fn nobody_s_answer_is_a_no_and_waiting_costs_no_wall_time() {
    let options = Options::default().with("BULKHEAD_LIMITS__ANSWER_MS", 600).with("BULKHEAD_LIMITS__WALL_TIME_MS", 400);
    let governed = Governed::start(ASK_TO_WRITE, options);
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    let call = ended(&client, &call);
    assert_eq!((&call["state"], &call["grants"]["workspace"]), (&json!("succeeded"), &json!("read")), "{call}");
    let audit = client.get(&format!("/v1/audit?task={task}&kind=question.answered")).expect(200);
    assert_eq!(audit["items"][0]["data"]["answered"], false, "{audit}");
    assert_eq!(audit["items"][0]["data"].get("credential"), None, "nobody answered: {audit}");
    // A client that gives up ends it.
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    until(&client, &call, "waiting");
    client.post(&format!("/v1/calls/{call}/cancel"), &json!({})).expect(202);
    assert_eq!(ended(&client, &call)["state"], "cancelled");
}

#[test]
fn a_grant_answers_beforehand_until_it_is_used_up_or_taken_back() {
    let governed = Governed::start(ASK_TO_WRITE, Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let grants = format!("/v1/tasks/{task}/grants");
    let capability = json!({"kind": "workspace", "value": "read-write"});
    client.post(&grants, &json!({"capability": capability, "uses": 0})).problem(400, "invalid_request");
    client.post(&grants, &json!({"capability": capability, "expires_in_s": 0})).problem(400, "invalid_request");
    let bad = json!({"capability": {"kind": "http", "value": "gopher://x"}});
    client.post(&grants, &bad).problem(400, "invalid_request");
    client.post(&grants, &json!({"capability": capability, "uses": 1})).expect(201);
    assert_eq!(client.call(&task, "sleeper_rw", json!({"ms": 1}))["state"], "succeeded");
    // Used up: the next one asks, and its answer becomes a grant.
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 60_000}));
    let question = until(&client, &call, "waiting")["question"]["id"].clone();
    let answer = json!({"question": question, "allow": true, "grant": {"expires_in_s": 3600}});
    assert_eq!(client.post(&format!("/v1/calls/{call}/answers"), &answer).status, 204);
    until(&client, &call, "running");
    let given = client.get(&grants).expect(200)["items"].clone();
    assert_eq!((given.as_array().unwrap().len(), &given[1]["uses_left"]), (2, &json!(0)), "{given}");
    // Taken back: what stands on it ends.
    let grant = given[0]["id"].as_str().unwrap();
    let revoked = client.delete(&format!("{grants}/{grant}")).expect(200);
    assert_eq!(revoked["ended_calls"], 1);
    client.delete(&format!("{grants}/{grant}")).problem(404, "not_found");
    let call = ended(&client, &call);
    assert_eq!((&call["state"], &call["outcome"]["fault"]["code"]), (&json!("cancelled"), &json!("grant_revoked")));
    assert!(call["outcome"]["fault"]["message"].as_str().unwrap().contains(grant), "{call}");
    assert!(kinds(&client, &task).contains(&"call.revoked".to_owned()));
}

#[test]
fn a_grant_ends_when_its_time_is_over() {
    let governed = Governed::start(ASK_TO_WRITE, Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let grant = json!({"capability": {"kind": "workspace", "value": "read-write"}, "expires_in_s": 1});
    client.post(&format!("/v1/tasks/{task}/grants"), &grant).expect(201);
    // What began while it was there goes on.
    let call = client.call(&task, "sleeper_rw", json!({"ms": 1_500}));
    assert_eq!((&call["state"], &call["grants"]["workspace"]), (&json!("succeeded"), &json!("read-write")), "{call}");
    // And what comes later asks.
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    assert!(until(&client, &call, "waiting")["question"]["id"].is_string());
}

#[test]
fn a_task_s_ceiling_is_never_exceeded() {
    let governed = Governed::start("version = 1\n", Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let body = json!({"capabilities": [{"kind": "workspace", "value": "read"}]});
    let made = client.post("/v1/tasks", &body).expect(201);
    assert_eq!(made["capabilities"]["workspace"], "read");
    let task = made["id"].as_str().unwrap();
    let call = client.call(task, "sleeper_rw", json!({"ms": 1}));
    assert_eq!(call["grants"]["workspace"], "read");
    for capability in [json!({"kind": "workspace", "value": "read-write"}), json!({"kind": "secret", "value": "s"})] {
        let grant = json!({"capability": capability});
        let problem = client.post(&format!("/v1/tasks/{task}/grants"), &grant).problem(400, "invalid_request");
        assert!(problem["detail"].as_str().unwrap().contains("the task was made without"), "{problem}");
    }
    let wrong = json!({"capabilities": [{"kind": "http", "value": "https://a/*/b"}]});
    client.post("/v1/tasks", &wrong).problem(400, "invalid_request");
}

#[test]
fn a_changed_policy_ends_what_runs_with_more_and_a_broken_one_changes_nothing() {
    let governed = Governed::start("version = 1\n", Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    client.register("fixtures/echo");
    let task = client.task();
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 60_000}));
    until(&client, &call, "running");
    governed.change("version = 1\n[[rule]]\nname = \"x\"\nmode = \"perhaps\"\n");
    let failed = || {
        let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
        metrics.contains("bulkhead_policy_failures_total 1\n")
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !failed() {
        assert!(Instant::now() < deadline, "the broken policy was not noticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(governed.server.log().contains("stays in force"), "{}", governed.server.log());
    assert_eq!(client.get(&format!("/v1/calls/{call}")).expect(200)["state"], "running");
    // Less: it ends. What it does not touch goes on.
    governed.change("version = 1\n[[rule]]\nname = \"frozen\"\nmode = \"deny\"\nworkspace = [\"write\"]\n");
    let call = ended(&client, &call);
    assert_eq!((&call["state"], &call["outcome"]["fault"]["code"]), (&json!("cancelled"), &json!("grant_revoked")));
    let call = client.call(&task, "sleeper_rw", json!({"ms": 1}));
    assert_eq!((&call["state"], &call["grants"]["workspace"]), (&json!("succeeded"), &json!("read")));
    let revision = call["grants"]["policy"].as_str().unwrap();
    assert_eq!(client.call(&task, "echo", json!({"text": "x"}))["state"], "succeeded");
    // The record names a policy that can be read.
    let shown = governed.server.cli(&["policy", "show", revision]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("frozen"));
    let explained = client.get(&format!("/v1/tasks/{task}/policy/sleeper_rw")).expect(200);
    let decisions = &explained["capabilities"][0]["decisions"];
    assert_eq!((&decisions[1]["mode"], &decisions[1]["rule"]), (&json!("deny"), &json!("frozen")), "{explained}");
    client.get(&format!("/v1/tasks/{task}/policy/nothing")).problem(422, "unknown_tool");
    let proposed = governed.server.cli(&["policy", "propose", &task]);
    let text = String::from_utf8(proposed.stdout).unwrap();
    assert!(text.contains("workspace = [\"write\"]") && text.contains("tools = [\"sleeper_rw\"]"), "{text}");
    let explained = governed.server.cli(&["policy", "explain", "sleeper_rw", &task]);
    assert!(String::from_utf8(explained.stdout).unwrap().contains("rule `frozen`"));
}

#[test]
fn a_call_that_waits_when_the_server_dies_is_interrupted() {
    let governed = Governed::start(ASK_TO_WRITE, Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    until(&client, &call, "waiting");
    let Governed { directory, server } = governed;
    let server = server.kill_and_restart();
    let client = server.client();
    let shown = client.get(&format!("/v1/calls/{call}")).expect(200);
    assert_eq!((&shown["state"], &shown["question"]), (&json!("interrupted"), &Value::Null));
    // And the lane is free.
    let next = begin(&client, &task, "sleeper_rw", json!({"ms": 1}));
    until(&client, &next, "waiting");
    drop(directory);
}

/// A second attempt is granted nothing by the answers to the first.
#[test]
fn a_call_that_starts_again_asks_again() {
    let governed = Governed::start(ASK_TO_WRITE, Options::default());
    let client = governed.server.client();
    client.register("write_file");
    let task = client.task();
    let call = begin(&client, &task, "write_file", json!({"path": "f", "content": "x"}));
    until(&client, &call, "waiting");
    let first = client.get(&format!("/v1/calls/{call}")).expect(200)["question"]["id"].clone();
    let Governed { directory, server } = governed;
    let server = server.kill_and_restart();
    let client = server.client();
    until(&client, &call, "waiting");
    let shown = client.get(&format!("/v1/calls/{call}")).expect(200);
    let (second, attempts) = (&shown["question"]["id"], &shown["attempts"]);
    assert!(second.is_string() && *second != first && *attempts == 2, "{shown}");
    let answers = format!("/v1/calls/{call}/answers");
    client.post(&answers, &json!({"question": first, "allow": true})).problem(409, "wrong_state");
    assert_eq!(client.post(&answers, &json!({"question": second, "allow": true})).status, 204);
    assert_eq!(ended(&client, &call)["state"], "succeeded");
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/f")).body, b"x");
    drop(directory);
}

#[test]
fn a_policy_that_can_not_be_used_stops_the_start_and_names_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("policy.toml");
    std::fs::write(&file, "version = 1\n[[rule]]\nname = \"a\"\nmode = \"allow\"\nsecrets = [\"gone\"]\n").unwrap();
    let data = directory.path().join("data");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(["serve", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .env("BULKHEAD_POLICY__FILE", &file)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for wanted in ["policy.toml", "rule 1 (`a`).secrets", "there is no secret `gone`"] {
        assert!(errors.contains(wanted), "{wanted} in {errors}");
    }
}
