//! The built-in tools on a real input: what a coding agent does.

use base64::Engine as _;
use serde_json::{Value, json};

use super::imports::{repository, wait_ready};
use crate::harness::{Client, Options, Server};

#[test]
fn an_agent_works_in_a_repository() {
    let repository = repository(3_000);
    let root = repository.path().parent().unwrap().to_str().unwrap().to_owned();
    let server = Server::start(Options::default().builtins().with("BULKHEAD_IMPORT__GIT_LOCAL_ROOTS", root));
    let client = server.client();
    let source = json!({"kind": "git", "url": repository.path().to_str().unwrap()});
    let task = wait_ready(&client, &client.post("/v1/tasks", &json!({"source": source})).expect(201));
    let task = task["id"].as_str().unwrap().to_owned();
    let file = |path: &str| String::from_utf8(client.get(&format!("/v1/tasks/{task}/files/{path}")).body).unwrap();

    let found = Client::text_of(&client.call(&task, "grep", json!({"pattern": "fn f1234\\("})));
    assert!(found.contains("src/m34/f1234.rs"), "{found}");
    let globbed = Client::text_of(&client.call(&task, "glob", json!({"pattern": "src/m7/*.rs"})));
    assert!(globbed.contains("src/m7/f7.rs"), "{globbed}");

    let edit = json!({"path": "src/m7/f7.rs", "edits": [{"old_text": "-> u32", "new_text": "-> u64"}]});
    let edited = client.call(&task, "edit_file", edit);
    assert_eq!(edited["state"], "succeeded", "{edited}");
    assert!(file("src/m7/f7.rs").contains("-> u64"));

    let patch = "--- a/src/m8/f8.rs\n+++ b/src/m8/f8.rs\n@@ -1,4 +1,4 @@\n // file 8\n pub fn f8() -> u32 {\n-    8\n+    88\n }\n";
    let patched = client.call(&task, "apply_patch", json!({"patch": patch}));
    assert_eq!(patched["state"], "succeeded", "{patched}");
    assert!(file("src/m8/f8.rs").contains("    88\n"));

    let read = Client::text_of(&client.call(&task, "read_file", json!({"path": "src/m8/f8.rs"})));
    assert!(read.contains("88"), "{read}");
    for (tool, arguments, expected) in [
        ("list_dir", json!({"path": "src"}), "m49"),
        ("stat", json!({"path": "src/m8/f8.rs"}), "file"),
        ("hash", json!({"paths": ["src/m8/f8.rs"]}), "sha256"),
    ] {
        let call = client.call(&task, tool, arguments);
        assert!(call["outcome"].to_string().contains(expected), "{tool}: {call}");
    }
    // A picture is looked at in the sandbox; the server shows only its bytes.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let png = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
    client.put(&format!("/v1/tasks/{task}/files/p.png"), &png).expect(201);
    let small = client.call(&task, "thumbnail", json!({"path": "p.png"}));
    assert!(Client::text_of(&small).contains("1 × 1"), "{small}");
    assert!(small["outcome"]["content"].to_string().contains("image/png"), "{small}");
    let none = client.call(&task, "thumbnail", json!({"path": "src/m8/f8.rs"}));
    assert_eq!(none["outcome"]["fault"]["code"], "tool.not_a_picture", "{none}");
    let refused = client.call(&task, "read_file", json!({"path": "../../etc/passwd"}));
    assert_eq!(refused["outcome"]["fault"]["code"], "tool.path_outside_workspace", "{refused}");

    // Every event, and exactly the rest for who comes back half-way.
    let last = client.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].clone();
    let all = client.follow(&task, &[], "").until(|event| event["seq"] == last);
    let half = all.len() / 2;
    let id = all[half - 1]["seq"].to_string();
    let rest = client.follow(&task, &[("last-event-id", id.as_str())], "").until(|event| event["seq"] == last);
    assert_eq!(rest[..], all[half..]);
    let changed: Vec<&Value> =
        all.iter().filter(|event| event["type"] == "files.changed").map(|event| &event["data"]).collect();
    let says =
        |path: &str| changed.iter().any(|data| data["by"] == "call" && data["changes"].to_string().contains(path));
    assert!(says("src/m7/f7.rs") && says("src/m8/f8.rs"), "{changed:?}");
}

#[test]
fn every_built_in_tool_is_ready_and_describes_itself() {
    let server = Server::start(Options::default().builtins());
    let client = server.client();
    let tools = client.get("/v1/tools").expect(200);
    let mut names: Vec<_> = tools["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| {
            assert_eq!((&tool["state"], &tool["owner"]), (&json!("ready"), &json!("operator")), "{tool}");
            let manifest = &tool["manifest"];
            assert!(manifest["description"].as_str().unwrap().len() > 80, "{manifest}");
            for (name, property) in manifest["input_schema"]["properties"].as_object().unwrap() {
                assert!(property.to_string().contains("description"), "{} {name}", manifest["name"]);
            }
            manifest["name"].as_str().unwrap().to_owned()
        })
        .collect();
    names.sort();
    let wanted = [
        "apply_patch",
        "archive",
        "delete",
        "edit_file",
        "glob",
        "grep",
        "hash",
        "http_request",
        "json_query",
        "list_dir",
        "move",
        "read_file",
        "stat",
        "thumbnail",
        "write_file",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn a_component_that_is_gone_is_back_after_the_next_start() {
    let server = Server::start(Options::default().builtins());
    let tools = server.client().get("/v1/tools").expect(200);
    let digests: Vec<String> =
        tools["items"].as_array().unwrap().iter().map(|tool| tool["digest"].to_string()).collect();
    let file = |digest: &str| format!("{}.wasm", digest.trim_matches('"').strip_prefix("sha256:").unwrap());
    let read = |server: &Server, digest: &str| std::fs::read(server.data().join("components").join(file(digest)));
    let before: Vec<Vec<u8>> = digests.iter().map(|digest| read(&server, digest).unwrap()).collect();
    std::fs::remove_file(server.data().join("components").join(file(&digests[3]))).unwrap();
    let server = server.stop_and_restart();
    for (digest, before) in digests.iter().zip(before) {
        assert!(read(&server, digest).unwrap() == before, "{digest}");
    }
    let again = server.client().get("/v1/tools").expect(200);
    assert_eq!(again["items"], tools["items"], "they are the tools that they were");
}
