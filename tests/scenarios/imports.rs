//! Tasks from archives and git repositories.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Client, Options, Server};

fn git(directory: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .unwrap();
    assert!(status.status.success(), "{arguments:?}: {status:?}");
}

/// A repository of a few thousand files, with what a stranger may put into one.
pub fn repository(files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for index in 0..files {
        let path = root.join(format!("src/m{}/f{index}.rs", index % 50));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("// file {index}\npub fn f{index}() -> u32 {{\n    {index}\n}}\n")).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", root.join("passwd")).unwrap();
    std::os::unix::fs::symlink("src", root.join("inside")).unwrap();
    git(root, &["init", "-q"]);
    git(root, &["add", "."]);
    git(root, &["commit", "-qm", "all"]);
    directory
}

pub fn wait_ready(client: &Client, task: &Value) -> Value {
    let id = task["id"].as_str().unwrap();
    let is_settled = |event: &Value| matches!(event["type"].as_str(), Some("task.ready" | "task.failed"));
    let events = client.follow(id, &[], "").until(is_settled);
    let steps: Vec<_> = events.iter().filter_map(|event| event["data"]["step"].as_str()).collect();
    assert_eq!(steps[..3], ["workspace", "import", "import"], "made, and filled: {events:?}");
    assert!(events.last().unwrap()["type"] == "task.failed" || steps.last() == Some(&"backend"), "{events:?}");
    client.get(&format!("/v1/tasks/{id}")).expect(200)
}

#[test]
fn a_task_is_made_from_a_repository() {
    let repository = repository(200);
    let root = repository.path().parent().unwrap().to_str().unwrap().to_owned();
    let server = Server::start(Options::default().with("BULKHEAD_IMPORT__GIT_LOCAL_ROOTS", root));
    let client = server.client();
    let source = json!({"kind": "git", "url": repository.path().to_str().unwrap()});
    let task = client.post("/v1/tasks", &json!({"source": source})).expect(201);
    let task = wait_ready(&client, &task);
    assert_eq!(task["state"], "ready", "{task}");
    let id = task["id"].as_str().unwrap();
    let text = client.get(&format!("/v1/tasks/{id}/files/src/m7/f7.rs")).body;
    assert!(text.starts_with(b"// file 7\n"));
    let listed = client.get(&format!("/v1/tasks/{id}/entries")).expect(200);
    let names: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["inside", "src"], "no .git, and no link that points outside");
}

#[test]
fn a_source_that_is_not_allowed_is_refused_before_anything_is_made() {
    let repository = repository(1);
    let server = Server::start(Options::default());
    let client = server.client();
    for url in [
        repository.path().to_str().unwrap(),
        "file:///etc",
        "/etc",
        "ext::sh -c id",
        "--upload-pack=id",
        "ssh://git@example.com/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://user:secret@example.com/x",
        "git://example.com/x",
        "http://example.com/x",
    ] {
        let body = json!({"source": {"kind": "git", "url": url}});
        client.post("/v1/tasks", &body).problem(400, "invalid_request");
    }
    assert_eq!(client.get("/v1/tasks").expect(200)["items"], json!([]));
}

fn tar_of(entries: &[(&str, &[u8], char)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content, kind) in entries {
        let mut header = [0u8; 512];
        let is_link = matches!(kind, '1' | '2');
        let size = if is_link { 0 } else { content.len() };
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = *kind as u8;
        if is_link {
            header[157..157 + content.len()].copy_from_slice(content);
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        if !is_link {
            archive.extend(*content);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

#[test]
fn a_task_is_made_from_an_archive_and_what_is_hostile_in_it_is_left_out() {
    let server = Server::start(Options::default());
    let client = server.client();
    let archive = tar_of(&[
        ("good.txt", b"good", '0'),
        ("dir/nested.txt", b"nested", '0'),
        ("../escaped.txt", b"bad", '0'),
        ("/absolute.txt", b"bad", '0'),
        ("out", b"../../..", '2'),
        ("out/through.txt", b"bad", '0'),
        ("lone", b"../../..", '2'),
        ("hard", b"/etc/passwd", '1'),
        ("fifo", b"", '6'),
    ]);
    let send = |body: &[u8]| {
        client.send("POST", "/v1/tasks/archive?label=tar", &[("content-type", "application/x-tar")], body)
    };
    let task = send(&archive).expect(201);
    assert_eq!((&task["state"], &task["label"]), (&json!("ready"), &json!("tar")), "{task}");
    let id = task["id"].as_str().unwrap();
    assert_eq!(client.get(&format!("/v1/tasks/{id}/files/dir/nested.txt")).body, b"nested");
    for absent in ["escaped.txt", "lone", "hard", "fifo"] {
        client.get(&format!("/v1/tasks/{id}/files/{absent}")).problem(404, "not_found");
    }
    assert!(!Path::new("/absolute.txt").exists());
    let workspaces = server.data().join("workspaces");
    assert!(!workspaces.join("escaped.txt").exists() && !workspaces.join("through.txt").exists());

    let task = send(b"this is no archive").expect(201);
    assert_eq!(task["state"], "failed", "{task}");
    assert!(task["failure"].as_str().unwrap().len() > 10, "{task}");
    let call = json!({"tool": "echo", "arguments": {}});
    let calls = format!("/v1/tasks/{}/calls", task["id"].as_str().unwrap());
    assert!(matches!(client.post(&calls, &call).status, 409 | 422));
}
