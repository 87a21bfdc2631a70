//! Parts of a workspace, granted by path: what an unmodified program sees of
//! them, who narrows them, and what becomes of names that are not what they
//! were.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::policy::{Governed, begin, until};
use crate::harness::{Client, Options, Server};

const BUILD: &str = r#"
version = 1
[defaults]
workspace = "deny"
[[rule]]
name = "build"
mode = "allow"
workspace = ["read:src", "read-write:out/logs", "read:absent"]
"#;

/// The directory of a task.
pub(super) fn root(server: &Server, task: &str) -> PathBuf {
    let tenants = std::fs::read_dir(server.data().join("workspaces")).unwrap();
    tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap()
}

fn put(client: &Client, task: &str, path: &str) {
    client.put(&format!("/v1/tasks/{task}/files/{path}"), b"kept").expect(201);
}

fn ended(client: &Client, call: &str) -> Value {
    client.get(&format!("/v1/calls/{call}?wait=60")).expect(200)
}

/// What came of each thing that `plain` did, as `what: came`.
fn came(call: &Value) -> Vec<String> {
    assert_eq!(call["state"], "succeeded", "{call}");
    let all = call["outcome"]["content"][0]["json"].as_array().unwrap_or_else(|| panic!("{call}")).clone();
    all.iter().map(|one| format!("{}: {}", one["what"].as_str().unwrap(), one["came"].as_str().unwrap())).collect()
}

fn audited(client: &Client, task: &str, kind: &str) -> Vec<Value> {
    let audit = client.get(&format!("/v1/tasks/{task}/audit?limit=200")).expect(200);
    let all = audit["items"].as_array().unwrap().clone();
    all.into_iter().filter(|record| record["kind"] == kind).collect()
}

fn task_with(client: &Client, parts: &[&str]) -> String {
    let parts: Vec<_> = parts.iter().map(|part| json!({"kind": "workspace", "value": part})).collect();
    client.post("/v1/tasks", &json!({"capabilities": parts})).expect(201)["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_program_sees_the_parts_it_is_granted_and_nothing_else() {
    let governed = Governed::start(BUILD, Options::default());
    let client = governed.server.client();
    client.register("fixtures/plain");
    let task = client.task();
    put(&client, &task, "src/main");
    put(&client, &task, "secret/key");
    let call = client.call(
        &task,
        "plain",
        json!({
            "read": ["/src/main", "src/main", "./src/main", "/secret/key", "secret/key", "/src/../secret/key", "../secret/key"],
            "write": ["/out/logs/a", "out/logs/b", "/src/new", "src/main", "/new", "out/new", "secret/key"],
            "list": ["/src", "out/logs", "/", ".", "/absent"],
            "rename": [["src/main", "out/logs/taken"], ["out/logs/a", "src/a"], ["out/logs/a", "out/logs/c"]],
            "link": [["src/main", "out/logs/linked"]],
        }),
    );
    let came = came(&call);
    let worked: Vec<_> = came.iter().filter(|came| !came.contains("error")).collect();
    assert_eq!(
        worked,
        [
            "read /src/main: kept",
            "read src/main: kept",
            "write /out/logs/a: ok",
            "write out/logs/b: ok",
            "list /src: main",
            "list out/logs: a b",
            "rename out/logs/a: ok",
        ],
        "{came:#?}"
    );
    // Recorded: what it was granted, and which directories those were.
    let parts = json!([{"path": "absent", "access": "read"}, {"path": "out/logs", "access": "read-write"},
        {"path": "src", "access": "read"}]);
    assert_eq!((&call["grants"]["workspace"], &call["grants"]["paths"]), (&json!("none"), &parts));
    let opened = audited(&client, &task, "workspace.opened");
    let root = root(&governed.server, &task);
    let object = |path: &str| {
        let found = std::fs::metadata(root.join(path)).unwrap();
        format!("{}:{}", found.dev(), found.ino())
    };
    let wanted = json!([{"path": "absent", "access": "read"},
        {"path": "out/logs", "access": "read-write", "object": object("out/logs")},
        {"path": "src", "access": "read", "object": object("src")}]);
    assert_eq!((opened.len(), &opened[0]["data"]["paths"], &opened[0]["call"]), (1, &wanted, &call["id"]));
    // So is the directory of the task, in the record of the call's end.
    let ended = &client.get(&format!("/v1/audit?task={task}&kind=call.ended")).expect(200)["items"][0];
    let of_task = std::fs::metadata(&root).unwrap();
    assert_eq!(ended["data"]["workspace"], format!("{}:{}", of_task.dev(), of_task.ino()), "{ended}");
    // What was made for it is told as its own.
    let events = client.events_until(&task, "call.ended");
    let changes = events.iter().filter(|event| event["type"] == "files.changed" && event["data"]["by"] == "call");
    let changed: Vec<_> = changes
        .flat_map(|event| event["data"]["changes"].as_array().unwrap())
        .map(|change| format!("{} {}", change["change"].as_str().unwrap(), change["path"].as_str().unwrap()))
        .collect();
    for wanted in ["created out", "created out/logs", "created out/logs/b", "created out/logs/c"] {
        assert!(changed.contains(&wanted.to_owned()), "{wanted} in {changed:?}");
    }
    assert!(!root.join("absent").exists() && !root.join("new").exists());
}

#[test]
fn a_part_is_written_in_while_the_whole_is_read() {
    let policy = "version = 1\n[[rule]]\nname = \"out\"\nmode = \"allow\"\nworkspace = [\"read\", \"write:out\"]\n\
        [[rule]]\nname = \"rest\"\nmode = \"deny\"\nworkspace = [\"write\"]\n";
    let governed = Governed::start(policy, Options::default().builtins());
    let client = governed.server.client();
    client.register("fixtures/plain");
    let task = client.task();
    put(&client, &task, "src/main");
    put(&client, &task, "out/old");
    let arguments = json!({"read": ["src/main", "/out/old"], "write": ["out/new", "/out/old", "src/new", "new"],
        "list": ["/", "."], "link": [["src/main", "out/linked"]], "rename": [["out/old", "old"], ["src", "out/src"]]});
    let worked = came(&client.call(&task, "plain", arguments));
    let worked: Vec<_> = worked.into_iter().filter(|came| !came.contains("error")).collect();
    let wanted = [
        "read src/main: kept",
        "read /out/old: kept",
        "write out/new: ok",
        "write /out/old: ok",
        "list /: out src",
        "list .: out src",
    ];
    assert_eq!(worked, wanted);
    // The built-in tools need to know nothing of it either.
    let written = client.call(&task, "write_file", json!({"path": "out/deep/x", "content": "y"}));
    assert_eq!(written["state"], "succeeded", "{written}");
    let refused = client.call(&task, "write_file", json!({"path": "src/x", "content": "y"}));
    assert_eq!(refused["outcome"]["fault"]["code"], "tool.permission_denied", "{refused}");
    let listed = client.call(&task, "list_dir", json!({}));
    assert!(Client::text_of(&listed).contains("src"), "{listed}");
    // What the operator is told.
    let explained = governed.server.cli(&["policy", "explain", "plain", &task]);
    let explained = String::from_utf8(explained.stdout).unwrap();
    for wanted in ["workspace write:out", "workspace read ", "rule `rest`"] {
        assert!(explained.contains(wanted), "{wanted} in {explained}");
    }
    let proposed = governed.server.cli(&["policy", "propose", &task]);
    assert!(String::from_utf8(proposed.stdout).unwrap().contains("workspace = [\"write\"]"));
    let checked = governed.server.cli(&["policy", "check", governed.file().to_str().unwrap()]);
    assert!(String::from_utf8(checked.stdout).unwrap().contains("valid: 2 rules"));
}

#[test]
fn calls_that_only_read_parts_run_beside_each_other() {
    let governed = Governed::start("version = 1\n", Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let readers = task_with(&client, &["read:a", "read:b"]);
    let calls = [(); 2].map(|()| begin(&client, &readers, "sleeper_rw", json!({"ms": 60_000})));
    calls.iter().for_each(|call| drop(until(&client, call, "running")));
    let writers = task_with(&client, &["read", "read-write:b"]);
    let calls = [(); 2].map(|()| begin(&client, &writers, "sleeper_rw", json!({"ms": 60_000})));
    until(&client, &calls[0], "running");
    assert_eq!(client.get(&format!("/v1/calls/{}", calls[1])).expect(200)["state"], "queued");
}

#[test]
fn what_is_no_directory_ends_the_call_before_it_starts() {
    let governed = Governed::start("version = 1\n", Options::default());
    let client = governed.server.client();
    client.register("fixtures/plain");
    for (part, why) in [
        ("read:file", "`file` is not a directory"),
        ("read-write:file/below", "`file/below` is not a directory"),
        ("read:link", "`link` is neither a file nor a directory (or its path passes a symbolic link)"),
        ("read-write:link/new", "`link/new` is neither"),
        ("read-write:dangling", "`dangling` is neither"),
        ("read:pipe", "`pipe` is not a directory"),
    ] {
        let task = task_with(&client, &[part]);
        let root = root(&governed.server, &task);
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("file"), "kept").unwrap();
        symlink("real", root.join("link")).unwrap();
        symlink("../outside", root.join("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
        let call = client.call(&task, "plain", json!({"list": ["/"]}));
        let fault = &call["outcome"]["fault"];
        assert_eq!((&call["state"], &fault["code"]), (&json!("failed"), &json!("workspace_path")), "{part}: {call}");
        assert!(fault["message"].as_str().unwrap().contains(why), "{why} in {fault}");
        assert!(!root.join("real/new").exists() && audited(&client, &task, "workspace.opened").is_empty());
    }
    // Nor is one made where there is no room for it.
    let body = json!({"capabilities": [{"kind": "workspace", "value": "read-write:a/b/c"}], "limits": {"workspace_entries": 2}});
    let task = client.post("/v1/tasks", &body).expect(201)["id"].as_str().unwrap().to_owned();
    let call = client.call(&task, "plain", json!({}));
    let message = call["outcome"]["fault"]["message"].as_str().unwrap_or_else(|| panic!("{call}"));
    assert!(message.contains("`workspace_entries` is 2"), "{message}");
    assert!(!root(&governed.server, &task).join("a").exists());
}

/// Between the grant and the start a name comes to mean something else, and
/// while the guest runs another time: it leads nowhere but where it led.
#[test]
fn a_name_that_is_swapped_leads_nowhere_else() {
    let policy = "version = 1\n[[rule]]\nname = \"out\"\nmode = \"ask\"\nworkspace = [\"write:out\"]\n";
    let governed = Governed::start(policy, Options::default());
    let client = governed.server.client();
    client.register("fixtures/plain");
    for swap in [true, false] {
        let task = task_with(&client, &["read-write:out"]);
        put(&client, &task, "out/old");
        put(&client, &task, "secret/key");
        let root = root(&governed.server, &task);
        let call = begin(&client, &task, "plain", json!({"write": ["out/key"], "list": ["out"]}));
        let question = until(&client, &call, "waiting")["question"].clone();
        assert_eq!(question["capability"], json!({"kind": "workspace", "value": "read-write:out"}));
        std::fs::rename(root.join("out"), root.join("moved")).unwrap();
        if swap {
            symlink("secret", root.join("out")).unwrap();
        }
        let yes = json!({"question": question["id"], "allow": true});
        assert_eq!(client.post(&format!("/v1/calls/{call}/answers"), &yes).status, 204);
        let call = ended(&client, &call);
        if swap {
            assert_eq!(call["outcome"]["fault"]["code"], "workspace_path", "{call}");
        } else {
            assert_eq!(came(&call), ["write out/key: ok", "list out: key"], "a new one was made");
        }
        assert_eq!(std::fs::read(root.join("secret/key")).unwrap(), b"kept");
        assert!(!root.join("moved/key").exists());
    }
}

#[test]
fn an_owner_grants_parts_of_what_is_asked() {
    let policy = "version = 1\n[[rule]]\nname = \"writing\"\nmode = \"ask\"\nworkspace = [\"write\"]\n";
    let governed = Governed::start(policy, Options::default());
    let client = governed.server.client();
    client.register("fixtures/plain");
    let task = client.task();
    let grants = format!("/v1/tasks/{task}/grants");
    let both = json!({"write": ["out/a", "b"]});
    // An answer may give less than was asked for; its grant answers from then on.
    let call = begin(&client, &task, "plain", both.clone());
    let question = until(&client, &call, "waiting")["question"]["id"].clone();
    let answers = format!("/v1/calls/{call}/answers");
    let with = |value: &str| json!({"question": question, "allow": true, "grant": {"capability": {"kind": "workspace", "value": value}}});
    client.post(&answers, &with("none:x")).problem(400, "invalid_request");
    assert_eq!(client.post(&answers, &with("read-write:out")).status, 204);
    assert_eq!(came(&ended(&client, &call))[0], "write out/a: ok");
    let again = client.call(&task, "plain", both);
    assert_eq!(came(&again)[0], "write out/a: ok");
    assert!(came(&again)[1].contains("error"), "{again}");
    let decided = audited(&client, &task, "capability.decided");
    let capability = json!({"kind": "workspace", "value": "read-write:out"});
    assert_eq!((decided.len(), &decided[0]["data"]["capability"]), (1, &capability), "{decided:?}");
    assert_eq!(decided[0]["data"]["decision"]["grant"], client.get(&grants).expect(200)["items"][0]["id"]);
    // Several add up.
    let more = json!({"capability": {"kind": "workspace", "value": "read-write:b"}});
    client.post(&grants, &more).expect(201);
    let both = client.call(&task, "plain", json!({"write": ["out/a", "b/c", "d"]}));
    assert_eq!(came(&both)[..2], ["write out/a: ok", "write b/c: ok"]);
    for (value, why) in [("read-write:../x", "`..` is not allowed"), ("write:x", "`write` is not")] {
        let wrong = json!({"capability": {"kind": "workspace", "value": value}});
        let problem = client.post(&grants, &wrong).problem(400, "malformed_json");
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
    // Within the task's ceiling, as ever.
    let narrow = task_with(&client, &["read", "read-write:out"]);
    let wide = json!({"capability": {"kind": "workspace", "value": "read-write:src"}});
    client.post(&format!("/v1/tasks/{narrow}/grants"), &wide).problem(400, "invalid_request");
}

#[test]
fn less_of_a_part_ends_the_call() {
    let governed = Governed::start(BUILD, Options::default());
    let client = governed.server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let call = begin(&client, &task, "sleeper_rw", json!({"ms": 60_000}));
    until(&client, &call, "running");
    governed.change(&BUILD.replace("read-write:out/logs", "read-write:out/logs/today"));
    let call = ended(&client, &call);
    assert_eq!((&call["state"], &call["outcome"]["fault"]["code"]), (&json!("cancelled"), &json!("grant_revoked")));
}
