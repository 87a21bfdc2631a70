//! Files that come in another way than whole by one request: from another task, by
//! their digest, in pieces.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bulkhead_core::digest::Digest;
use serde_json::{Value, json};

use super::files_known::{items, servers, until, workspace};
use crate::harness::client::Answer;
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

const PIECE: (&str, &str) = ("content-type", "application/partial-upload");

fn stranger(server: &Server) -> Client {
    server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"])
}

fn transfer(client: &Client, to: &str, body: &Value) -> Answer {
    client.post(&format!("/v1/tasks/{to}/transfers"), body)
}

#[test]
fn a_directory_goes_from_one_task_to_another() {
    for server in servers(Options::default) {
        let client = server.client();
        let (one, two) = (client.task(), client.task());
        for path in ["d/a", "d/e/b"] {
            client.put(&format!("/v1/tasks/{one}/files/{path}"), b"12345").expect(201);
        }
        std::os::unix::fs::symlink("/etc/passwd", workspace(&server, &one).join("d/link")).unwrap();
        let what = |remove: bool| json!({"from_task": one, "from": "d", "to": "x/d", "remove": remove});
        let copied = transfer(&client, &two, &what(false)).expect(201);
        assert_eq!((&copied["bytes"], &copied["entries"], &copied["left_out"]), (&json!(10), &json!(5), &json!(0)));
        assert_eq!(client.get(&format!("/v1/tasks/{two}/files/x/d/e/b")).body, b"12345");
        let link = client.get(&format!("/v1/tasks/{two}/entries/x/d/link")).expect(200);
        assert_eq!((&link["entry"]["kind"], &link["entry"]["target"]), (&json!("symlink"), &json!("/etc/passwd")));
        client.get(&format!("/v1/tasks/{two}/files/x/d/link")).problem(409, "not_regular");
        transfer(&client, &two, &what(false)).problem(409, "file_exists");

        // Moved: it is gone there, and both logs tell it.
        let moved = json!({"from_task": one, "from": "d", "to": "y", "remove": true});
        transfer(&client, &two, &moved).expect(201);
        client.get(&format!("/v1/tasks/{one}/entries/d")).problem(404, "not_found");
        for (task, path, change) in [(&one, "d", "deleted"), (&two, "y", "created")] {
            let entry = &items(&client, &format!("/v1/tasks/{task}/history"))[0];
            assert_eq!(
                (&entry["path"], &entry["change"], &entry["by"]),
                (&json!(path), &json!(change), &json!("http"))
            );
            let events = client.follow(task, &[], "").until(|event| event["seq"] == entry["seq"]);
            let counts = &events.last().unwrap()["data"]["counts"];
            assert_eq!(counts[change], 5, "{counts}");
        }
        let file = json!({"from_task": two, "from": "y/a", "to": "f"});
        transfer(&client, &one, &file).expect(201);
        transfer(&client, &one, &file).problem(409, "file_exists");
        let replaced = json!({"from_task": two, "from": "y/e/b", "to": "f", "replace": true});
        transfer(&client, &one, &replaced).expect(200);

        // What is another's is not there, whichever of the two it is.
        let other = stranger(&server);
        let theirs = other.task();
        let from_mine = json!({"from_task": one, "from": "f", "to": "f"});
        transfer(&other, &theirs, &from_mine).problem(404, "not_found");
        transfer(&other, &two, &from_mine).problem(404, "not_found");
        transfer(&client, &theirs, &from_mine).problem(404, "not_found");
        let none = other.get(&format!("/v1/tasks/{theirs}/entries")).expect(200);
        assert_eq!(none["entries"], json!([]));
        transfer(&client, &one, &from_mine).problem(400, "invalid_request");
        // And no more than fits.
        let small = client.post("/v1/tasks", &json!({"limits": {"workspace_bytes": 9}})).expect(201);
        let small = small["id"].as_str().unwrap();
        let whole = json!({"from_task": two, "from": "y", "to": "y"});
        assert_eq!(transfer(&client, small, &whole).problem(507, "workspace_full")["limit"], "workspace_bytes");
        let listing = client.get(&format!("/v1/tasks/{small}/entries")).expect(200);
        assert_eq!(listing["entries"], json!([]));
    }
}

/// Else whoever may only write would have what it may not read, in another task.
#[test]
fn who_may_only_write_transfers_nothing() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let (one, two) = (owner.task(), owner.task());
    owner.put(&format!("/v1/tasks/{one}/files/a"), b"secret").expect(201);
    let writer = server.client_with(&["--scopes", "files:write"]);
    writer.put(&format!("/v1/tasks/{two}/files/b"), b"it may write here").expect(201);
    for remove in [false, true] {
        let what = json!({"from_task": one, "from": "a", "to": "a", "remove": remove});
        let problem = transfer(&writer, &two, &what).problem(403, "missing_scope");
        assert_eq!(problem["scope"], "files:read");
    }
    owner.get(&format!("/v1/tasks/{two}/files/a")).problem(404, "not_found");
    assert_eq!(owner.get(&format!("/v1/tasks/{one}/files/a")).body, b"secret");
    // Only that scope was missing.
    let both = server.client_with(&["--scopes", "files:read files:write"]);
    transfer(&both, &two, &json!({"from_task": one, "from": "a", "to": "a", "remove": true})).expect(201);
}

#[test]
fn a_file_of_a_task_that_another_host_holds_is_fetched_from_there() {
    let database = postgres().database(None);
    let options = || Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    let a = Server::start(options());
    let mut b = Server::beside(&a, options());
    let (near, far) = (a.client(), b.client());
    let (here, there) = (near.task(), far.task());
    let content = vec![7; 3 << 20];
    let file = format!("/v1/tasks/{there}/files/d/f%20%FF");
    far.send("PUT", &format!("{file}?executable=true"), &[("content-type", "text/plain")], &content).expect(201);
    // Whichever host is asked, the one that holds the target answers.
    let what = |to: &str| json!({"from_task": there, "from": "d/f %FF", "to": to});
    for (client, to) in [(&near, "x/one"), (&far, "x/two")] {
        let answer = transfer(client, &here, &what(to)).expect(201);
        let numbers = [&answer["bytes"], &answer["entries"], &answer["left_out"]];
        assert_eq!(numbers, [&json!(content.len()), &json!(1), &json!(0)]);
        assert_eq!(client.get(&format!("/v1/tasks/{here}/files/{to}")).body, content);
        let entry = &client.get(&format!("/v1/tasks/{here}/entries/{to}")).expect(200)["entry"];
        assert_eq!((&entry["executable"], &entry["content"]["media_type"]), (&json!(true), &json!("text/plain")));
        transfer(client, &here, &what(to)).problem(409, "file_exists");
        let mut replaced = what(to);
        replaced["replace"] = json!(true);
        transfer(client, &here, &replaced).expect(200);
    }
    let keyed = near.with_key(None);
    keyed.post_with(&format!("/v1/tasks/{here}/transfers"), &what("x/three"), &[("x-api-key", near.key())]).expect(201);
    // What is not there, and what is no file, by the words of the host that looked.
    let none = json!({"from_task": there, "from": "g", "to": "g"});
    let problem = transfer(&near, &here, &none).problem(404, "not_found");
    assert!(problem["detail"].as_str().unwrap().contains("`g`"), "{problem}");
    std::os::unix::fs::symlink("f", workspace(&b, &there).join("link")).unwrap();
    let link = json!({"from_task": there, "from": "link", "to": "g"});
    let problem = transfer(&near, &here, &link).problem(409, "held_elsewhere");
    assert!(problem["detail"].as_str().unwrap().contains(&there), "{problem}");
    // What is another's is not there, and no more comes than fits.
    let other = stranger(&a);
    transfer(&other, &other.task(), &what("g")).problem(404, "not_found");
    let small = near.post("/v1/tasks", &json!({"limits": {"workspace_bytes": 9}})).expect(201);
    let small = small["id"].as_str().unwrap();
    assert_eq!(transfer(&near, small, &what("g")).problem(507, "workspace_full")["limit"], "workspace_bytes");
    assert_eq!(near.get(&format!("/v1/tasks/{small}/entries")).expect(200)["entries"], json!([]));
    // Moved: it is gone there, and both logs tell it.
    let mut moved = what("moved");
    moved["remove"] = json!(true);
    transfer(&near, &here, &moved).expect(201);
    near.get(&file).problem(404, "not_found");
    for (task, change) in [(&there, "deleted"), (&here, "created")] {
        let entry = &items(&near, &format!("/v1/tasks/{task}/history"))[0];
        assert_eq!((&entry["change"], &entry["by"]), (&json!(change), &json!("http")));
    }
    // A host that is gone is no reason to wait.
    b.kill();
    transfer(&near, &here, &what("g")).problem(503, "host_unreachable");
    near.get(&format!("/v1/tasks/{here}/entries/g")).problem(404, "not_found");
}

#[test]
fn a_directory_of_a_task_that_another_host_holds_is_fetched_from_there() {
    let database = postgres().database(None);
    let options = || Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    let a = Server::start(options());
    let b = Server::beside(&a, options());
    let (near, far) = (a.client(), b.client());
    let (here, there) = (near.task(), far.task());
    // More than a page, names that are no text, an empty directory, links, what may be executed.
    let source = workspace(&b, &there);
    for at in 0..450 {
        std::fs::create_dir_all(source.join("d/many")).unwrap();
        std::fs::write(source.join(format!("d/many/{at}")), format!("content {at}")).unwrap();
    }
    std::fs::create_dir_all(source.join("d/deep/er/empty")).unwrap();
    std::os::unix::fs::symlink("../../%41 out", source.join("d/deep/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, source.join("d/pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    far.put(&format!("/v1/tasks/{there}/files/d/deep/er/large?executable=true"), &vec![9; 2 << 20]).expect(201);
    far.put(&format!("/v1/tasks/{there}/files/d/%FF%20%25+%0A"), b"odd").expect(201);
    let what = |to: &str, remove: bool| json!({"from_task": there, "from": "d", "to": to, "remove": remove});
    // Whichever host is asked.
    for (client, to) in [(&near, "x/one"), (&far, "two")] {
        let answer = transfer(client, &here, &what(to, false)).expect(201);
        let bytes: usize = (2 << 20) + 3 + (0..450).map(|at| format!("content {at}").len()).sum::<usize>();
        assert_eq!(
            [&answer["bytes"], &answer["entries"], &answer["left_out"]],
            [&json!(bytes), &json!(458), &json!(1)]
        );
        let copy = workspace(&a, &here).join(to);
        let mut difference = std::process::Command::new("diff");
        difference.args(["-r", "--no-dereference", "--exclude", "pipe"]).arg(source.join("d")).arg(&copy);
        let difference = difference.output().unwrap();
        assert!(difference.status.success(), "{}", String::from_utf8_lossy(&difference.stdout));
        let entry = &client.get(&format!("/v1/tasks/{here}/entries/{to}/deep/er/large")).expect(200)["entry"];
        assert_eq!(entry["executable"], true);
        transfer(client, &here, &what(to, false)).problem(409, "file_exists");
    }
    let event = &items(&near, &format!("/v1/tasks/{here}/history"))[0];
    assert_eq!((&event["path"], &event["change"], &event["by"]), (&json!("two"), &json!("created"), &json!("http")));
    // No more than fits, of which nothing stays.
    for (limits, limit) in [
        (json!({"workspace_bytes": 1 << 20}), "workspace_bytes"),
        (json!({"workspace_entries": 100}), "workspace_entries"),
    ] {
        let small = near.post("/v1/tasks", &json!({"limits": limits})).expect(201);
        let small = small["id"].as_str().unwrap();
        let problem = transfer(&near, small, &what("g", true)).problem(507, "workspace_full");
        assert_eq!(problem["limit"], limit);
        assert_eq!(near.get(&format!("/v1/tasks/{small}/entries")).expect(200)["entries"], json!([]));
    }
    until("nothing is left of what did not fit", || {
        let staging = std::fs::read_dir(a.data().join("staging")).unwrap().map(|own| own.unwrap().path());
        (staging.map(|own| std::fs::read_dir(own).unwrap().count()).sum::<usize>() == 0).then_some(())
    });
    // Another's is not there.
    let other = stranger(&a);
    transfer(&other, &other.task(), &what("g", false)).problem(404, "not_found");
    // Moved: it is gone there.
    transfer(&near, &here, &what("three", true)).expect(201);
    near.get(&format!("/v1/tasks/{there}/entries/d")).problem(404, "not_found");
    assert_eq!(near.get(&format!("/v1/tasks/{here}/files/three/%FF%20%25+%0A")).body, b"odd");
}

#[test]
fn files_of_a_task_that_another_host_holds_are_that_hosts() {
    let database = postgres().database(None);
    let options = || Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    let a = Server::start(options());
    let b = Server::beside(&a, options());
    let (near, far) = (a.client(), b.client());
    let there = far.task();
    far.put(&format!("/v1/tasks/{there}/files/f"), b"x").expect(201);
    // What is stored is told by either; what lies on a disk by its host, also by way of the other.
    far.delete(&format!("/v1/tasks/{there}/files/f")).expect(204);
    let kept = items(&near, &format!("/v1/tasks/{there}/deleted"));
    let restore = format!("/v1/tasks/{there}/deleted/{}/restore", kept[0]["id"].as_str().unwrap());
    near.post(&restore, &json!({})).expect(200);
    let upload = near.post(&format!("/v1/tasks/{there}/uploads"), &json!({"path": "u", "length": 2})).expect(201);
    let upload = format!("/v1/tasks/{there}/uploads/{}", upload["id"].as_str().unwrap());
    near.send("PATCH", &upload, &[PIECE, ("upload-offset", "0")], b"1").expect(200);
    far.send("PATCH", &upload, &[PIECE, ("upload-offset", "1")], b"2").expect(200);
    assert_eq!(near.get(&format!("/v1/tasks/{there}/files/u")).body, b"12");
    assert_eq!(items(&near, &format!("/v1/tasks/{there}/history")).len(), 4);
}

#[test]
fn a_content_that_was_sent_before_is_not_sent_again() {
    for server in servers(Options::default) {
        let client = server.client();
        let (one, two) = (client.task(), client.task());
        let content = b"a content of some length".as_slice();
        let put = |client: &Client, task: &str, path: &str, content: &[u8]| {
            let body = json!({"digest": Digest::of(content).to_string(), "path": path});
            client.post(&format!("/v1/tasks/{task}/contents"), &body)
        };
        put(&client, &two, "f", content).problem(404, "content_unknown");
        client
            .send("PUT", &format!("/v1/tasks/{one}/files/d/f"), &[("content-type", "text/plain")], content)
            .expect(201);
        let entry = put(&client, &two, "x/f", content).expect(201);
        assert_eq!((&entry["path"], &entry["content"]["media_type"]), (&json!("x/f"), &json!("text/plain")));
        assert_eq!(client.get(&format!("/v1/tasks/{two}/files/x/f")).body, content);
        put(&client, &two, "x/f", content).problem(412, "precondition_failed");
        let body = json!({"digest": "sha256:short", "path": "y"});
        client.post(&format!("/v1/tasks/{two}/contents"), &body).problem(400, "invalid_request");
        // A stranger is told what everybody is told of what is not there.
        let other = stranger(&server);
        let theirs = other.task();
        put(&other, &theirs, "f", content).problem(404, "content_unknown");
        // A guest writes in place: neither is the copy changed, nor the content found where it was.
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(workspace(&server, &one).join("d/f"), "another content altogether").unwrap();
        assert_eq!(client.get(&format!("/v1/tasks/{two}/files/x/f")).body, content);
        put(&client, &one, "again", content).expect(201);
        for task in [&one, &two] {
            client.delete(&format!("/v1/tasks/{task}?purge=true")).expect(204);
        }
        let three = client.task();
        put(&client, &three, "f", content).problem(404, "content_unknown");
    }
}

fn begin(client: &Client, task: &str, body: &Value) -> String {
    let answer = client.post(&format!("/v1/tasks/{task}/uploads"), body);
    assert_eq!((answer.status, answer.header("upload-offset")), (201, "0"), "{answer:?}");
    answer.header("location").to_owned()
}

fn add(client: &Client, upload: &str, offset: u64, piece: &[u8]) -> Answer {
    client.send("PATCH", upload, &[PIECE, ("upload-offset", &offset.to_string())], piece)
}

fn state(client: &Client, upload: &str) -> (String, String, String) {
    let head = client.send("HEAD", upload, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0), "{head:?}");
    let field = |name: &str| head.header(name).to_owned();
    (field("upload-offset"), field("upload-length"), field("upload-complete"))
}

fn at(offset: u64, length: u64, complete: &str) -> (String, String, String) {
    (offset.to_string(), length.to_string(), complete.to_owned())
}

#[test]
fn an_upload_goes_on_after_breaks_and_restarts() {
    for server in servers(|| Options::default().with("BULKHEAD_FILES__UPLOADS_PER_TASK", 3)) {
        let client = server.client();
        let (task, other) = (client.task(), client.task());
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let length = content.len() as u64;
        let new = json!({"path": "d/f", "length": length, "digest": Digest::of(&content).to_string(), "media_type": "text/x-mine"});
        let upload = begin(&client, &task, &new);
        assert_eq!(state(&client, &upload), at(0, length, "?0"));
        add(&client, &upload, 0, &content[..1_000]).expect(200);
        let problem = add(&client, &upload, 999, b"x").problem(409, "upload_offset");
        assert_eq!(problem["offset"], 1_000);
        client.send("PATCH", &upload, &[PIECE], b"x").problem(400, "invalid_request");
        client.send("PATCH", &upload, &[("upload-offset", "1000")], b"x").problem(415, "unsupported_media_type");
        // A connection that breaks leaves what came.
        break_off(&server, &upload, 1_000, &content[1_000..51_000], length - 1_000);
        until("what came is there", || (state(&client, &upload) == at(51_000, length, "?0")).then_some(()));
        // So does the death of the server.
        let server = server.kill_and_restart();
        let client = server.client();
        assert_eq!(state(&client, &upload), at(51_000, length, "?0"));
        client.get(&format!("/v1/tasks/{task}/files/d/f")).problem(404, "not_found");
        // Nobody else has it.
        for path in [upload.replace(&task, &other), upload.replace("/uploads/upl_", "/uploads/del_")] {
            client.get(&path).problem(404, "not_found");
            add(&client, &path, 51_000, b"x").problem(404, "not_found");
        }
        let whole = add(&client, &upload, 51_000, &content[51_000..]).expect(200);
        assert_eq!((&whole["complete"], &whole["offset"]), (&json!(true), &json!(length)));
        assert_eq!(client.get(&format!("/v1/tasks/{task}/files/d/f")).body, content);
        assert_eq!(state(&client, &upload), at(length, length, "?1"));
        add(&client, &upload, length, b"x").problem(409, "upload_offset");
        let history = items(&client, &format!("/v1/tasks/{task}/history"));
        assert_eq!((history.len(), &history[0]["content"]["media_type"]), (1, &json!("text/x-mine")));
        client.delete(&upload).expect(204);
        client.get(&upload).problem(404, "not_found");
        assert_eq!(client.get(&format!("/v1/tasks/{task}/files/d/f")).status, 200);
    }
}

/// Sends the beginning of a piece, and goes away.
fn break_off(server: &Server, upload: &str, offset: u64, sent: &[u8], said: u64) {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/partial-upload\r\n\
         upload-offset: {offset}\r\ncontent-length: {said}\r\n\r\n",
        server.key()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    // Until the server has seen it.
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn an_upload_is_bounded_and_takes_room() {
    let options = Options::default()
        .with("BULKHEAD_FILES__UPLOADS_PER_TASK", 2)
        .with("BULKHEAD_HTTP__MAX_UPLOAD_BYTES", 5_000)
        .with("BULKHEAD_KEEP__EVERY_S", 1);
    let server = Server::start(options);
    let client = server.client();
    let task = client.post("/v1/tasks", &json!({"limits": {"workspace_bytes": 2_000}})).expect(201);
    let task = task["id"].as_str().unwrap();
    let refused =
        |length: u64| client.post(&format!("/v1/tasks/{task}/uploads"), &json!({"path": "f", "length": length}));
    assert_eq!(refused(5_001).problem(413, "too_large")["name"], "http.max_upload_bytes");
    refused(2_001).problem(507, "workspace_full");
    let (one, two) = (
        begin(&client, task, &json!({"path": "one", "length": 1_500})),
        begin(&client, task, &json!({"path": "two", "length": 1_500, "digest": Digest::of(b"else").to_string()})),
    );
    let problem = refused(1).problem(422, "over_limit");
    assert_eq!(
        (&problem["name"], &problem["limit"]),
        (&json!("files.uploads_per_task"), &problem["used"]),
        "{problem}"
    );
    add(&client, &one, 0, &[b'x'; 1_400]).expect(200);
    // What came of one takes room from the other, and from everybody.
    let problem = client.put(&format!("/v1/tasks/{task}/files/f"), &[b'x'; 601]).problem(507, "workspace_full");
    assert_eq!(problem["limit"], "workspace_bytes");
    add(&client, &two, 0, &[b'x'; 1_000]).problem(507, "workspace_full");
    client.delete(&one).expect(204);
    let offset: u64 = state(&client, &two).0.parse().unwrap();
    assert!(offset <= 600, "no more than there was room for");
    // More than was said is refused, and so is another content than was said.
    add(&client, &two, offset, &vec![b'x'; 1_501 - offset as usize]).problem(413, "too_large");
    let problem = add(&client, &two, 1_500, b"").problem(400, "digest_mismatch");
    assert_eq!(problem["digest"], Digest::of(&[b'x'; 1_500]).to_string());
    client.get(&format!("/v1/tasks/{task}/files/two")).problem(404, "not_found");
    client.delete(&two).expect(204);
    client.put(&format!("/v1/tasks/{task}/files/f"), &[b'x'; 1_900]).expect(201);
    // One that may not replace a file does not.
    let three = begin(&client, task, &json!({"path": "f", "length": 1}));
    add(&client, &three, 0, b"x").problem(412, "precondition_failed");
    // What nobody finishes goes.
    let server = server.stop_and_restart_with("BULKHEAD_FILES__UPLOAD_MS", 1_000);
    let client = server.client();
    client.delete(&three).expect(204);
    let four = begin(&client, task, &json!({"path": "four", "length": 9}));
    until("it expires", || (client.get(&four).status == 404).then_some(()));
    let beside = workspace(&server, task);
    let tenant = beside.parent().unwrap().file_name().unwrap().to_owned();
    let uploads = server.data().join("uploads").join(tenant).join(task);
    until("its bytes go", || (std::fs::read_dir(&uploads).unwrap().count() == 0).then_some(()));
}
