//! The quota of a workspace: what a tool and a client may add to it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::postgres::postgres;
use crate::harness::{Answer, Client, Options, Server, guests};

/// A task with limits of its own.
fn task(client: &Client, limits: &Value) -> String {
    client.post("/v1/tasks", &json!({"limits": limits})).expect(201)["id"].as_str().unwrap().to_owned()
}

/// Creates files of so many bytes; the code of the fault, if there is one.
fn create(client: &Client, task: &str, names: &[&str], size: usize) -> Value {
    let files: Vec<_> = names.iter().map(|name| json!({"path": name, "content": "x".repeat(size)})).collect();
    let body = json!({"tool": "touch", "arguments": {"create": files}});
    client.post(&format!("/v1/tasks/{task}/calls"), &body).expect(200)["outcome"]["fault"]["code"].clone()
}

#[test]
fn a_tool_adds_no_more_bytes_than_fit() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/touch");
    let task = task(&client, &json!({"workspace_bytes": 10_000}));
    assert_eq!(create(&client, &task, &["a"], 6_000), Value::Null);
    assert_eq!(create(&client, &task, &["b"], 6_000), "tool.no_space");
    let (path, limits) = (format!("/v1/tasks/{task}/calls?limit=1"), "workspace_bytes");
    let calls = client.get(&path).expect(200);
    assert_eq!(calls["items"][0]["limits"][limits], 10_000);
    // Said once, with the limit and its value.
    let events = client.follow(&task, &[], "").until(|event| event["data"]["state"] == "failed");
    let cut: Vec<_> = events.iter().filter(|event| event["type"] == "call.truncated").collect();
    assert_eq!(cut.len(), 1, "{events:?}");
    assert_eq!((&cut[0]["data"]["limit"], &cut[0]["data"]["value"]), (&json!("workspace_bytes"), &json!(10_000)));
    assert_eq!(cut[0]["data"]["used"], 6_000);
    // What is deleted makes room.
    let delete = json!({"tool": "touch", "arguments": {"delete": ["a"]}});
    client.post(&format!("/v1/tasks/{task}/calls"), &delete).expect(200);
    let deadline = Instant::now() + Duration::from_secs(30);
    while create(&client, &task, &["c"], 6_000) != Value::Null {
        assert!(Instant::now() < deadline, "a new measure finds the room");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_tool_makes_no_more_entries_than_fit() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/touch");
    let task = task(&client, &json!({"workspace_entries": 3}));
    assert_eq!(create(&client, &task, &["a", "b", "c", "d"], 1), "tool.no_space");
    let listing = client.get(&format!("/v1/tasks/{task}/entries")).expect(200);
    assert_eq!(listing["entries"].as_array().unwrap().len(), 3, "{listing}");
}

#[test]
fn a_client_adds_no_more_than_fits() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = task(&client, &json!({"workspace_bytes": 1_000, "workspace_entries": 2}));
    let put =
        |name: &str, size: usize| client.send("PUT", &format!("/v1/tasks/{task}/files/{name}"), &[], &vec![b'x'; size]);
    let problem = put("large", 1_001).problem(507, "workspace_full");
    assert_eq!((&problem["limit"], &problem["value"]), (&json!("workspace_bytes"), &json!(1_000)));
    assert_eq!((&problem["unit"], &problem["used"]), (&json!("bytes"), &json!(0)));
    put("a", 400).expect(201);
    put("b", 400).expect(201);
    let problem = put("c", 1).problem(507, "workspace_full");
    assert_eq!(problem["limit"], "workspace_entries");
    client.post(&format!("/v1/tasks/{task}/directories"), &json!({"path": "d"})).problem(507, "workspace_full");
    // What is deleted makes room once it is purged; until then the refusal says what it takes.
    let gone = client.delete(&format!("/v1/tasks/{task}/files/a"));
    let problem = put("c", 600).problem(507, "workspace_full");
    assert_eq!((&problem["kept_bytes"], &problem["kept_entries"]), (&json!(400), &json!(1)));
    assert!(problem["detail"].as_str().unwrap().contains("400 bytes in 1 entries are deleted files"), "{problem}");
    client.delete(gone.header("location")).expect(204);
    put("c", 600).expect(201);
}

#[test]
fn what_lies_there_before_a_start_counts() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/touch");
    let task = task(&client, &json!({"workspace_bytes": 10_000}));
    assert_eq!(create(&client, &task, &["a"], 9_000), Value::Null);
    let server = server.stop_and_restart();
    assert_eq!(create(&server.client(), &task, &["b"], 2_000), "tool.no_space");
}

/// A worker that was taken over writes and says nothing of it.
#[test]
fn what_a_worker_hides_is_found_by_the_next_walk() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/touch");
    let task = task(&client, &json!({"workspace_bytes": 10_000, "workspace_entries": 20}));
    assert_eq!(create(&client, &task, &["a"], 1_000), Value::Null);
    let root = super::parts::root(&server, &task);
    std::fs::write(root.join("hidden"), [b'x'; 9_500]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while create(&client, &task, &["b"], 1_000) != "tool.no_space" {
        assert!(Instant::now() < deadline, "no walk found what was hidden");
        client
            .post(&format!("/v1/tasks/{task}/calls"), &json!({"tool": "touch", "arguments": {"delete": ["b"]}}))
            .expect(200);
        std::thread::sleep(Duration::from_millis(200));
    }
    client.put(&format!("/v1/tasks/{task}/files/c"), b"x").problem(507, "workspace_full");
}

#[test]
fn a_rename_that_replaces_nothing_gives_nothing_back() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("hostile/disk");
    let task = task(&client, &json!({"workspace_entries": 100}));
    let call = client.call(&task, "hostile_disk", json!({"attack": "renames"}));
    assert_eq!(call["state"], "succeeded", "{call}");
    let listing = client.get(&format!("/v1/tasks/{task}/entries?limit=200")).expect(200);
    assert_eq!(listing["entries"].as_array().unwrap().len(), 100, "the quota holds: {call}");
}

#[test]
fn all_workspaces_of_a_user_together_have_a_quota() {
    let options = Options::default()
        .with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", 20_000)
        .with("BULKHEAD_QUOTA__TASKS_PER_USER", 4);
    let server = Server::start(options);
    let client = server.client();
    client.register("fixtures/touch");
    let (one, two) = (client.task(), client.task());
    assert_eq!(create(&client, &one, &["a"], 9_000), Value::Null);
    assert_eq!(create(&client, &two, &["a"], 9_000), Value::Null);
    assert_eq!(create(&client, &two, &["b"], 9_000), "tool.no_space");
    // What bounds it is named, to the guest's watchers and to clients.
    let events = client.follow(&two, &[], "").until(|event| event["data"]["state"] == "failed");
    let cut = events.iter().find(|event| event["type"] == "call.truncated").unwrap();
    let message = "all workspaces of the user hold 18000 bytes; the limit `quota.workspace_bytes_per_user` of this \
                   server is 20000 bytes. Delete files, or purge or archive tasks, or raise it: \
                   `quota.workspace_bytes_per_user` in bulkhead.toml.";
    let limit = "quota.workspace_bytes_per_user";
    assert_eq!(cut["data"], json!({"limit": limit, "value": 20_000, "used": 18_000, "message": message}));
    let put = |task: &str, size: usize| client.put(&format!("/v1/tasks/{task}/files/c"), &vec![b'x'; size]);
    let problem = put(&one, 3_000).problem(507, "workspace_full");
    assert_eq!(problem["limit"], "quota.workspace_bytes_per_user");
    assert_eq!((&problem["unit"], &problem["used"]), (&json!("bytes"), &json!(18_000)));
    put(&one, 1_000).expect(201);
    // Another user is not concerned, and a restart forgets nothing.
    let other =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    let theirs = other.task();
    other.put(&format!("/v1/tasks/{theirs}/files/c"), &vec![b'x'; 15_000]).expect(201);
    let server = server.kill_and_restart();
    let client = server.client();
    let put = |task: &str, size: usize| client.put(&format!("/v1/tasks/{task}/files/d"), &vec![b'x'; size]);
    put(&one, 3_000).problem(507, "workspace_full");
    // A task that goes for good makes room.
    assert_eq!(client.delete(&format!("/v1/tasks/{two}")).status, 204);
    put(&one, 3_000).problem(507, "workspace_full");
    assert_eq!(client.delete(&format!("/v1/tasks/{two}?purge=true")).status, 204);
    put(&one, 3_000).expect(201);
    for _ in 0..3 {
        client.task();
    }
    let problem = client.post("/v1/tasks", &json!({})).problem(422, "over_limit");
    assert_eq!((&problem["name"], &problem["limit"]), (&json!("quota.tasks_per_user"), &json!(4)));
    assert_eq!((&problem["unit"], &problem["used"]), (&json!("tasks"), &json!(4)));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("the user has 4 tasks") && detail.contains("raise it: `quota.tasks_per_user`"), "{detail}");
}

#[test]
fn all_users_of_a_tenant_together_have_so_many_tasks() {
    let server = Server::start(Options::default().with("BULKHEAD_QUOTA__TASKS_PER_TENANT", 3));
    let client = server.client();
    let me = client.get("/v1/whoami").expect(200);
    let of_tenant =
        server.client_with(&["--tenant", me["tenant"].as_str().unwrap(), "--user", "usr_01jd8n2m4v0000000000000000"]);
    let first = client.task();
    for client in [&client, &of_tenant] {
        client.task();
    }
    let problem = of_tenant.post("/v1/tasks", &json!({})).problem(422, "over_limit");
    assert_eq!((&problem["name"], &problem["limit"]), (&json!("quota.tasks_per_tenant"), &json!(3)));
    assert_eq!((&problem["unit"], &problem["used"]), (&json!("tasks"), &json!(3)));
    // Another tenant is not concerned, and one that goes makes room, a moment later.
    server
        .client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"])
        .task();
    assert_eq!(client.delete(&format!("/v1/tasks/{first}")).status, 204);
    let begun = Instant::now();
    while of_tenant.post("/v1/tasks", &json!({})).status != 201 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it made no room");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_an_import_brings_counts_and_goes_if_it_is_too_much() {
    let server = Server::start(Options::default().with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", 20_000));
    let client = server.client();
    let archive = |size: usize| {
        let mut header = vec![0_u8; 512];
        header[..1].copy_from_slice(b"a");
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(vec![b'x'; size.next_multiple_of(512)]);
        header.extend(vec![0; 1024]);
        header
    };
    let import = |size| {
        let kind = [("content-type", "application/x-tar")];
        client.send("POST", "/v1/tasks/archive", &kind, &archive(size))
    };
    assert_eq!(import(15_000).expect(201)["state"], "ready");
    let failed = import(15_000).expect(201);
    assert_eq!(failed["state"], "failed", "{failed}");
    let failure = failed["failure"].as_str().unwrap();
    for words in ["hold 30000 bytes", "`quota.workspace_bytes_per_user` of this server is 20000 bytes", "raise it"] {
        assert!(failure.contains(words), "{failure}");
    }
    // What did not fit takes no room; what fills it up leaves none for another.
    assert_eq!(import(5_000).expect(201)["state"], "ready");
    assert_eq!(import(10).problem(507, "workspace_full")["limit"], "quota.workspace_bytes_per_user");
}

#[test]
fn what_a_user_has_on_other_hosts_counts_too() {
    let database = postgres().database(None);
    let options = || {
        Options::default()
            .with("DATABASE_URL", postgres().url(postgres().port(), &database))
            .with("BULKHEAD_QUOTA__TASKS_PER_USER", 3)
            .with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", 10_000)
    };
    let a = Server::start(options());
    let b = Server::beside(&a, options());
    let (near, far) = (a.client(), b.client());
    let (here, there, further) = (near.task(), far.task(), near.task());
    for client in [&near, &far] {
        assert_eq!(client.post("/v1/tasks", &json!({})).problem(422, "over_limit")["limit"], 3);
    }
    near.delete(&format!("/v1/tasks/{further}?purge=true")).expect(204);
    far.task();
    near.post("/v1/tasks", &json!({})).problem(422, "over_limit");

    // What each of them writes is known to the other two seconds later.
    let write = |client: &Client, task: &str, size: usize| {
        client.put(&format!("/v1/tasks/{task}/files/{size}"), &vec![b'x'; size]).status
    };
    let until = |client: &Client, task: &str, size: usize, status: u16| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while write(client, task, size) != status {
            assert!(Instant::now() < deadline, "{size} {status}");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    assert_eq!((write(&near, &here, 1_000), write(&far, &there, 500)), (201, 201));
    assert_eq!(write(&near, &here, 8_000), 201);
    until(&far, &there, 2_000, 507);
    near.delete(&format!("/v1/tasks/{here}/files/8000?purge=true")).expect(204);
    until(&far, &there, 6_000, 201);
    until(&near, &here, 4_000, 507);
}

#[test]
fn a_tenant_has_no_more_tools_than_it_may() {
    let server = Server::start(Options::default().with("BULKHEAD_QUOTA__TOOLS_PER_TENANT", 1));
    let client = server.client();
    let echo = guests::wasm("fixtures/echo");
    let id = client.register_bytes(&echo)["id"].clone();
    let touch = guests::wasm("fixtures/touch");
    let refused = client.send("POST", "/v1/tools", &[("content-type", "application/wasm")], &touch);
    let refused = refused.problem(422, "over_limit");
    assert_eq!(refused["limit"], 1);
    assert!(refused["detail"].as_str().unwrap().contains("`quota.tools_per_tenant`"), "{refused}");
    // The one that is there may be sent again, by whoever deploys, and other tenants have their own.
    assert_eq!(client.register_bytes(&echo)["id"], id);
    server
        .client_with(&["--tenant", "ten_01jd8n2m4v0000000000000009", "--user", "usr_01jd8n2m4v0000000000000009"])
        .register_bytes(&touch);
    client.delete(&format!("/v1/tools/{}", id.as_str().unwrap())).expect(204);
    client.register_bytes(&touch);
}

/// Each call may take all that is left, and all calls of a user no more than that.
#[test]
fn calls_in_several_tasks_at_once_hold_no_more_than_their_user_may() {
    const MOST: u64 = 64 << 20;
    /// What is written until all are told.
    const MORE: u64 = 16 << 20;
    let name = "quota.workspace_bytes_per_user";
    let server = Server::start(Options::default().with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", MOST));
    let client = server.client();
    client.register("fixtures/touch");
    let tasks: [String; 4] = std::array::from_fn(|_| client.task());
    let grow = json!([{"path": "f", "content": "x".repeat(64 << 10)}]);
    let arguments = json!({"create": [{"path": "f", "content": ""}], "modify": grow, "for_ms": 60_000});
    let body = json!({"tool": "touch", "arguments": arguments});
    let calls = tasks.each_ref().map(|task| client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202));
    for call in &calls {
        let ended = client.get(&format!("/v1/calls/{}?wait=60", call["id"].as_str().unwrap())).expect(200);
        assert_eq!(ended["outcome"]["fault"]["code"], "tool.no_space", "{ended}");
    }
    let file = |task: &String| client.get(&format!("/v1/tasks/{task}/entries/f")).expect(200)["entry"]["size"].clone();
    let sizes = tasks.each_ref().map(|task| file(task).as_u64().unwrap());
    let sum: u64 = sizes.iter().sum();
    assert!(sum > MOST - MORE && sum < MOST + MORE, "{sizes:?}");
    for task in &tasks {
        let events = client.events_until(task, "call.ended");
        let cut = events.iter().find(|event| event["type"] == "call.truncated").unwrap();
        assert_eq!((&cut["data"]["limit"], &cut["data"]["value"]), (&json!(name), &json!(MOST)), "{cut}");
        assert!(cut["data"]["used"].as_u64() >= Some(MOST - MORE), "{cut}");
    }
    // Nothing is left of what the calls had, but for what they wrote.
    let problem = client.put(&format!("/v1/tasks/{}/files/g", tasks[0]), b"x").problem(507, "workspace_full");
    assert_eq!(problem["limit"], name, "{problem}");
    client.delete(&format!("/v1/tasks/{}?purge=true", tasks[1])).expect(204);
    client.put(&format!("/v1/tasks/{}/files/g", tasks[0]), b"x").expect(201);
}

/// Gives so much of a file at a time.
struct Slowly {
    left: usize,
}

impl std::io::Read for Slowly {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(20));
        let given = into.len().min(self.left).min(128 << 10);
        self.left -= given;
        into[..given].fill(b'x');
        Ok(given)
    }
}

/// Nor does what clients send at once.
#[test]
fn files_that_are_sent_at_once_come_to_no_more_than_their_user_may_hold() {
    const MOST: u64 = 8 << 20;
    const EACH: usize = 3 << 20;
    let server = Server::start(Options::default().with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", MOST));
    let client = server.client();
    let tasks: [String; 6] = std::array::from_fn(|_| client.task());
    let sent = std::thread::scope(|scope| {
        let sending = tasks.each_ref().map(|task| {
            let path = format!("/v1/tasks/{task}/files/f");
            let client = &client;
            scope.spawn(move || client.try_put_reader(&path, Slowly { left: EACH }))
        });
        sending.map(|one| one.join().unwrap())
    });
    let is_taken = |answer: &Option<Answer>| answer.as_ref().is_some_and(|answer| answer.status == 201);
    let (taken, refused): (Vec<_>, Vec<_>) = sent.into_iter().partition(is_taken);
    assert_eq!(taken.len(), 2, "as many as there was room for: {refused:?}");
    // Who goes on sending may not have seen the answer.
    for answer in refused.into_iter().flatten() {
        let problem = answer.problem(507, "workspace_full");
        assert_eq!(problem["limit"], "quota.workspace_bytes_per_user", "{problem}");
    }
    // What broke off takes no room.
    client.put(&format!("/v1/tasks/{}/files/rest", tasks[0]), &vec![b'x'; 2 << 20]).expect(201);
}
