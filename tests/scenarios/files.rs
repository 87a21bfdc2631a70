//! Files of a workspace over HTTP.

use std::io::Read;

use serde_json::json;

use crate::harness::{Options, Server};

#[test]
fn files_are_written_read_moved_and_deleted() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let file = |path: &str| format!("/v1/tasks/{task}/files/{path}");
    let entry = client.put(&file("src/main.rs"), b"fn main() {}").expect(201);
    assert_eq!((&entry["path"], &entry["size"], &entry["kind"]), (&json!("src/main.rs"), &json!(12), &json!("file")));
    client.put(&file("src/main.rs"), b"fn main() { }").expect(200);
    let refused = client.send("PUT", &file("src/main.rs"), &[("if-none-match", "*")], b"x");
    refused.problem(412, "precondition_failed");

    let whole = client.get(&file("src/main.rs"));
    assert_eq!((whole.status, &whole.body[..]), (200, &b"fn main() { }"[..]));
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let part = client.send("GET", &file("src/main.rs"), &[("range", "bytes=3-6")], b"");
    assert_eq!((part.status, &part.body[..], part.header("content-range")), (206, &b"main"[..], "bytes 3-6/13"));
    let end = client.send("GET", &file("src/main.rs"), &[("range", "bytes=-3")], b"");
    assert_eq!(end.body, b"{ }");
    client.send("GET", &file("src/main.rs"), &[("range", "bytes=99-")], b"").problem(416, "range_not_satisfiable");

    client.post(&format!("/v1/tasks/{task}/moves"), &json!({"from": "src/main.rs", "to": "lib/a.rs"})).expect(200);
    client.get(&file("src/main.rs")).problem(404, "not_found");
    client.post(&format!("/v1/tasks/{task}/directories"), &json!({"path": "deep/er"})).expect(201);
    let root = client.get(&format!("/v1/tasks/{task}/entries")).expect(200);
    let names: Vec<_> =
        root["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["deep", "lib", "src"]);
    client.delete(&file("lib")).problem(409, "directory_not_empty");
    client.delete(&format!("{}?recursive=true", file("lib"))).expect(204);
    client.get(&file("deep")).problem(409, "is_a_directory");
    client.delete(&file("nothing")).problem(404, "not_found");
}

#[test]
fn a_directory_is_listed_by_pages() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    for index in 0..25 {
        client.put(&format!("/v1/tasks/{task}/files/d/f{index:02}"), b"").expect(201);
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/tasks/{task}/entries/d?limit=10{after}")).expect(200);
        names
            .extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_after"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(names, (0..25).map(|index| format!("d/f{index:02}")).collect::<Vec<_>>());
}

#[test]
fn odd_names_are_said_exactly_and_escapes_are_refused() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let file = |path: &str| format!("/v1/tasks/{task}/files/{path}");
    for name in ["caf%E9", "100%25", "a%20b%3Fc%23d", "%F0%9F%A6%80"] {
        let entry = client.put(&file(name), b"odd").expect(201);
        let href = entry["href"].as_str().unwrap();
        assert_eq!(client.get(href).body, b"odd", "{name}: {href}");
    }
    let listed = client.get(&format!("/v1/tasks/{task}/entries")).expect(200);
    let paths: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["100%25", "a b?c#d", "caf%E9", "🦀"]);

    for escape in ["..%2f..%2fetc%2fpasswd", "%2e%2e/x", "a/..%2f..%2fx", "a%00b"] {
        let answer = client.get(&file(escape));
        assert!(matches!(answer.status, 404 | 422), "{escape}: {answer:?}");
        let answer = client.put(&file(escape), b"x");
        assert!(matches!(answer.status, 404 | 422), "{escape}: {answer:?}");
    }
    // What a guest may leave behind: the host never follows it.
    let workspace = walk(&server.data().join("workspaces"), &task);
    std::os::unix::fs::symlink("/etc/passwd", workspace.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", workspace.join("dir")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, workspace.join("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    for path in ["link", "dir/passwd", "pipe"] {
        client.get(&file(path)).problem(409, "not_regular");
        client.put(&file(path), b"x").problem(409, "not_regular");
    }
    let link = client.get(&format!("/v1/tasks/{task}/entries/link")).expect(200);
    assert_eq!((&link["entry"]["kind"], &link["entry"]["target"]), (&json!("symlink"), &json!("/etc/passwd")));
}

fn walk(workspaces: &std::path::Path, task: &str) -> std::path::PathBuf {
    let tenants = std::fs::read_dir(workspaces).unwrap();
    tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap()
}

#[test]
fn a_large_file_goes_through_without_being_held() {
    const SIZE: u64 = 256 << 20;
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/files/large");
    assert_eq!(client.put_reader(&path, std::io::repeat(b'x').take(SIZE)).status, 201);
    let read = client.get(&path);
    assert_eq!(read.body.len() as u64, SIZE);
    let end = client.send("GET", &path, &[("range", "bytes=-9")], b"");
    assert_eq!((end.status, &end.body[..]), (206, &b"xxxxxxxxx"[..]));
    let peak = peak_memory(server.pid());
    assert!(peak < 100 << 20, "the server held {peak} bytes at its peak");
    let over = client.put_reader(&path, std::io::repeat(b'y').take(257 << 20));
    let refused = over.problem(413, "too_large");
    assert_eq!(refused["name"], "http.max_upload_bytes", "{refused}");
    assert_eq!(client.get(&format!("/v1/tasks/{task}/entries/large")).expect(200)["entry"]["size"], SIZE);
    let staging = std::fs::read_dir(server.data().join("staging"))
        .unwrap()
        .flat_map(|scratch| std::fs::read_dir(scratch.unwrap().path()).unwrap());
    assert_eq!(staging.count(), 0, "nothing half written is left");
}

fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
