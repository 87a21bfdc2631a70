//! What is known of files: histories, tags and digests, who read and wrote, previews.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_core::digest::Digest;
use serde_json::{Value, json};

use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

/// Servers on each store.
pub(super) fn servers(options: impl Fn() -> Options) -> [Server; 2] {
    let database = postgres().database(None);
    let elsewhere = options().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    [Server::start(options()), Server::start(elsewhere)]
}

pub(super) fn items(client: &Client, path: &str) -> Vec<Value> {
    client.get(path).expect(200)["items"].as_array().unwrap().clone()
}

/// Waits for what comes in a moment.
pub(super) fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// The directory of a workspace, as a guest sees it.
pub(super) fn workspace(server: &Server, task: &str) -> PathBuf {
    let tenants = std::fs::read_dir(server.data().join("workspaces")).unwrap();
    tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap()
}

fn told(entries: &[Value]) -> Vec<(&str, &str, &str)> {
    entries
        .iter()
        .map(|entry| {
            let word = |name: &str| entry[name].as_str().unwrap();
            (word("by"), word("path"), word("change"))
        })
        .collect()
}

#[test]
fn a_history_says_who_changed_which_file() {
    for server in servers(Options::default) {
        let client = server.client();
        client.register("fixtures/touch");
        let me = client.get("/v1/whoami").expect(200);
        let task = client.task();
        let file = |path: &str| format!("/v1/tasks/{task}/files/{path}");
        let put = client.send("PUT", &file("d/a.txt"), &[("content-type", "text/x-mine")], b"one");
        let put = put.expect(201);
        let digest = Digest::of(b"one").to_string();
        let content = json!({"size": 3, "digest": digest, "media_type": "text/x-mine"});
        assert_eq!(put["content"], content, "{put}");
        let call = client.call(&task, "touch", json!({"create": [{"path": "g", "content": "x"}]}));
        client.post(&format!("/v1/tasks/{task}/moves"), &json!({"from": "d/a.txt", "to": "b.txt"})).expect(200);
        // What is known of a content goes with it, until a guest writes to it.
        let entry = |path: &str| client.get(&format!("/v1/tasks/{task}/entries/{path}")).expect(200)["entry"].clone();
        assert_eq!(entry("b.txt")["content"], content);
        std::thread::sleep(Duration::from_millis(30));
        std::fs::write(workspace(&server, &task).join("b.txt"), "two").unwrap();
        assert_eq!(entry("b.txt")["content"], Value::Null);
        client.delete(&file("b.txt")).expect(204);

        let path = format!("/v1/tasks/{task}/history");
        let all = items(&client, &path);
        let expected = [
            ("http", "b.txt", "deleted"),
            ("http", "b.txt", "created"),
            ("http", "d/a.txt", "deleted"),
            ("call", "g", "created"),
            ("http", "d/a.txt", "created"),
        ];
        assert_eq!(told(&all), expected);
        assert_eq!((&all[0]["user"], &all[3]["call"]), (&me["user"], &call["id"]));
        assert_eq!((&all[4]["content"], &all[3]["content"]), (&content, &Value::Null));
        // By pages, and of one path.
        let (mut paged, mut next) = (Vec::new(), String::new());
        loop {
            let page = client.get(&format!("{path}?limit=2{next}")).expect(200);
            paged.extend(page["items"].as_array().unwrap().clone());
            let Some(before) = page["next_before"].as_str() else { break };
            next = format!("&before={before}");
        }
        assert_eq!(paged, all);
        assert_eq!(
            told(&items(&client, &format!("{path}?path=d%2fa.txt"))),
            expected[2..].iter().copied().filter(|told| told.1 == "d/a.txt").collect::<Vec<_>>()
        );
        client.get(&format!("{path}?before=nonsense")).problem(400, "invalid_request");
        client.get(&format!("{path}?limit=0")).problem(400, "invalid_request");
        // The event has what the entry has, and both outlive the server.
        let events = client.follow(&task, &[], "").until(|event| event["seq"] == all[0]["seq"]);
        let event = events.iter().find(|event| event["seq"] == all[4]["seq"]).unwrap();
        assert_eq!((&event["data"]["content"]["digest"], &event["data"]["user"]), (&json!(digest), &me["user"]));
        let server = server.kill_and_restart();
        assert_eq!(items(&server.client(), &path), all);
    }
}

#[test]
fn conditions_and_digests_are_kept() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let path = format!("/v1/tasks/{task}/files/f.txt");
    let send = |method: &str, headers: &[(&str, &str)], body: &[u8]| client.send(method, &path, headers, body);
    send("PUT", &[("if-match", "*")], b"one").problem(412, "precondition_failed");
    let first = send("PUT", &[("if-none-match", "*")], b"one");
    assert_eq!(first.status, 201);
    let first = first.header("etag").to_owned();
    assert!(first.len() > 10 && first.starts_with('"') && first.ends_with('"'), "{first}");
    send("PUT", &[("if-none-match", "*")], b"two").problem(412, "precondition_failed");
    let second = send("PUT", &[("if-match", &format!("\"x\", {first}"))], b"two");
    assert_eq!(second.status, 200);
    let second = second.header("etag").to_owned();
    send("PUT", &[("if-match", &first)], b"six").problem(412, "precondition_failed");
    send("PUT", &[("if-match", &format!("W/{second}"))], b"six").problem(412, "precondition_failed");
    send("PUT", &[("if-match", "nonsense")], b"six").problem(400, "invalid_request");
    send("DELETE", &[("if-match", &first)], b"").problem(412, "precondition_failed");
    send("DELETE", &[("if-match", "nonsense")], b"").problem(400, "invalid_request");

    let read = send("GET", &[], b"");
    assert_eq!((read.header("etag"), &read.body[..]), (&*second, &b"two"[..]));
    assert_eq!(read.header("repr-digest"), "sha-256=:P8TM/nRYcOLA2Z9x8w/wZWyN7dQcwdfT03aw2+aF4vM=:");
    let fresh = send("GET", &[("if-none-match", &format!("W/{second}"))], b"");
    assert_eq!((fresh.status, fresh.body.len(), fresh.header("etag")), (304, 0, &*second));
    assert_eq!(send("GET", &[("if-none-match", &first)], b"").status, 200);
    send("GET", &[("if-match", &first)], b"").problem(412, "precondition_failed");
    assert_eq!(send("GET", &[("range", "bytes=1-"), ("if-range", &second)], b"").body, b"wo");
    let whole = send("GET", &[("range", "bytes=1-"), ("if-range", &first)], b"");
    assert_eq!((whole.status, &whole.body[..]), (200, &b"two"[..]));
    let head = send("HEAD", &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, "3", &*second));

    // What is not what was said changes nothing.
    let of_two = "sha-256=:P8TM/nRYcOLA2Z9x8w/wZWyN7dQcwdfT03aw2+aF4vM=:";
    for field in ["content-digest", "repr-digest"] {
        let problem = send("PUT", &[(field, of_two)], b"twu").problem(400, "digest_mismatch");
        assert_eq!(problem["digest"], Digest::of(b"twu").to_string());
        send("PUT", &[(field, "sha-256=:AAAA:")], b"two").problem(400, "invalid_request");
        send("PUT", &[(field, of_two)], b"two").expect(200);
    }
    assert_eq!(send("GET", &[], b"").body, b"two");
    send("PUT", &[("content-range", "bytes 0-2/9")], b"two").problem(400, "invalid_request");
}

/// The kinds, paths, states and bytes of accesses, newest first.
fn accesses(client: &Client, path: &str) -> Vec<(String, String, String, u64)> {
    let word = |access: &Value, name: &str| access[name].as_str().unwrap().to_owned();
    let row = |access: &Value| {
        (word(access, "kind"), word(access, "path"), word(access, "status"), access["bytes"].as_u64().unwrap())
    };
    items(client, path).iter().map(row).collect()
}

#[test]
fn who_read_and_wrote_is_noted() {
    for server in servers(Options::default) {
        let client = server.client();
        let task = client.task();
        let file = |path: &str| format!("/v1/tasks/{task}/files/{path}");
        let log = format!("/v1/tasks/{task}/accesses");
        client.put(&file("a"), b"four").expect(201);
        assert_eq!(client.get(&file("a")).body, b"four");
        client.get(&file("nothing")).problem(404, "not_found");
        client.post(&format!("/v1/tasks/{task}/moves"), &json!({"from": "a", "to": "b"})).expect(200);
        let gone = client.delete(&file("b"));
        client.post(&format!("{}/restore", gone.header("location")), &json!({"path": "c"})).expect(200);
        // An administrator who looks is named.
        let tenant = client.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
        let admin = "usr_01jd8n2m4v0000000000000001";
        let scopes = "files:read admin";
        let looks = server.client_with(&["--tenant", &tenant, "--user", admin, "--scopes", scopes]);
        let answer = looks.send("GET", &file("c"), &[("range", "bytes=0-1"), ("bulkhead-reason", "on call")], b"");
        assert_eq!(answer.body, b"fo");
        // An orderly stop stores what is noted, at once.
        let server = server.stop_and_restart();
        let client = server.client();
        let row =
            |kind: &str, path: &str, status: &str, bytes| (kind.to_owned(), path.to_owned(), status.to_owned(), bytes);
        let expected = [
            row("read", "c", "ok", 2),
            row("restore", "c", "ok", 0),
            row("delete", "b", "ok", 0),
            row("move", "a", "ok", 0),
            row("read", "nothing", "not_found", 0),
            row("read", "a", "ok", 4),
            row("write", "a", "ok", 4),
        ];
        assert_eq!(accesses(&client, &log), expected);
        let all = items(&client, &log);
        assert_eq!((&all[0]["user"], &all[0]["edge"]), (&json!(admin), &json!("http")));
        assert_eq!(
            accesses(&client, &format!("{log}?path=a")),
            expected[3..].iter().filter(|row| row.1 == "a").cloned().collect::<Vec<_>>()
        );
        let page = client.get(&format!("{log}?limit=3")).expect(200);
        let rest = accesses(&client, &format!("{log}?before={}", page["next_before"].as_str().unwrap()));
        assert_eq!(rest, expected[3..]);
        // And while it runs they are there in a moment.
        client.get(&file("c"));
        until("the access is stored", || (accesses(&client, &log).len() == 8).then_some(()));
    }
}

#[test]
fn a_preview_shows_text_and_bytes_and_parses_nothing() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    let put = |path: &str, body: &[u8]| drop(client.put(&format!("/v1/tasks/{task}/files/{path}"), body).expect(201));
    let show = |query: &str| client.get(&format!("/v1/tasks/{task}/preview?path={query}"));
    put("a.md", "# Über\n\ntext\n".as_bytes());
    let shown = show("a.md&lines=1").expect(200);
    assert_eq!((&shown["shown"], &shown["text"]), (&json!("text"), &json!("# Über\n")));
    assert_eq!(
        (&shown["encoding"], &shown["lossless"], &shown["truncated"]),
        (&json!("utf-8"), &json!(true), &json!(true))
    );
    assert_eq!(shown["media_type"], "text/markdown");
    put("cut", &[&b"0123456789"[..], "é".as_bytes()].concat());
    let shown = show("cut&bytes=11").expect(200);
    assert_eq!(
        (&shown["text"], &shown["lossless"], &shown["truncated"]),
        (&json!("0123456789"), &json!(true), &json!(true))
    );
    put("odd", b"0123456789\xff");
    assert_eq!(show("odd").expect(200)["lossless"], false);
    // A picture is bytes; what a guest says it is makes no difference.
    put("p.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let shown = show("p.png").expect(200);
    assert_eq!((&shown["shown"], &shown["media_type"]), (&json!("bytes"), &json!("image/png")));
    assert!(shown["hex"].as_str().unwrap().starts_with("89504e47"), "{shown}");
    std::os::unix::fs::symlink("/etc/passwd", workspace(&server, &task).join("link")).unwrap();
    assert_eq!(show("link").expect(200)["shown"], "nothing");
    show("nothing").problem(404, "not_found");
    show("a.md&bytes=0").problem(400, "invalid_request");
    show("..%2f..%2fx").problem(422, "invalid_path");
}
