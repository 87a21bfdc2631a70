//! The life of tasks: archive, restore, delete, purge; by clients and by the server.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::imports::{repository, wait_ready};
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

fn options() -> Options {
    Options::default().with("BULKHEAD_LIFECYCLE__EVERY_MS", 100)
}

/// The only entry of a directory of this server with this name in any tenant's.
fn place(server: &Server, kind: &str, name: &str) -> Option<PathBuf> {
    let tenants = std::fs::read_dir(server.data().join(kind)).unwrap().flatten();
    tenants.map(|tenant| tenant.path().join(name)).find(|path| path.exists())
}

fn directory(server: &Server, task: &str) -> Option<PathBuf> {
    place(server, "workspaces", task)
}

fn archive(server: &Server, task: &str) -> Option<PathBuf> {
    place(server, "archives", &format!("{task}.tar.gz"))
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn state(client: &Client, task: &str) -> String {
    client.get(&format!("/v1/tasks/{task}")).expect(200)["state"].as_str().unwrap().to_owned()
}

fn post(client: &Client, task: &str, what: &str) -> crate::harness::client::Answer {
    client.post(&format!("/v1/tasks/{task}/{what}"), &json!({}))
}

fn archived(server: &Server, task: &str) {
    post(&server.client(), task, "archive").expect(204);
    packed(server, task);
}

fn packed(server: &Server, task: &str) {
    until("it is packed", || (archive(server, task).is_some() && directory(server, task).is_none()).then_some(()));
}

fn is_step(event: &Value, step: &str, status: &str) -> bool {
    event["type"] == "task.step" && event["data"]["step"] == step && event["data"]["status"] == status
}

fn on_both(test: impl Fn(&dyn Fn() -> Options)) {
    test(&options);
    let database = postgres().database(None);
    test(&|| options().with("DATABASE_URL", postgres().url(postgres().port(), &database)));
}

#[test]
fn an_archived_task_is_packed_and_comes_back_as_it_was() {
    on_both(|options| {
        let server = Server::start(options());
        let client = server.client();
        client.register("fixtures/echo");
        let task = client.task();
        let files = format!("/v1/tasks/{task}/files");
        client.put(&format!("{files}/a/b"), &vec![b'x'; 100_000]).expect(201);
        let root = directory(&server, &task).unwrap();
        // What guests and imports can make, and clients can't.
        std::fs::set_permissions(root.join("a/b"), std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        std::fs::create_dir(root.join("empty")).unwrap();
        let before = std::fs::metadata(root.join("a/b")).unwrap();
        archived(&server, &task);

        let body = json!({"tool": "echo", "arguments": {"text": "x"}});
        let refused = client.post(&format!("/v1/tasks/{task}/calls"), &body).problem(409, "wrong_state");
        assert!(refused["detail"].as_str().unwrap().contains("/restore"), "{refused}");
        client.get(&format!("{files}/a/b")).problem(409, "wrong_state");
        post(&client, &task, "archive").expect(204);
        // It takes what the archive takes.
        let server = server.kill_and_restart();
        let client = server.client();
        assert_eq!(state(&client, &task), "archived");
        post(&client, &task, "restore").expect(204);
        post(&client, &task, "restore").expect(204);
        assert_eq!((archive(&server, &task), state(&client, &task).as_str()), (None, "ready"));
        assert_eq!(client.get(&format!("{files}/a/b")).body, vec![b'x'; 100_000]);
        let root = directory(&server, &task).unwrap();
        let after = std::fs::metadata(root.join("a/b")).unwrap();
        assert_eq!((before.mode(), before.mtime_nsec()), (after.mode(), after.mtime_nsec()));
        assert_eq!(std::fs::read_link(root.join("link")).unwrap().to_str(), Some("/etc/passwd"));
        assert!(root.join("empty").is_dir());
        assert_eq!(Client::text_of(&client.call(&task, "echo", json!({"text": "again"}))), "again");

        let events = client.follow(&task, &[], "").until(|event| event["type"] == "call.ended");
        let step = |step, status| events.iter().position(|event| is_step(event, step, status)).unwrap();
        assert!(step("pack", "started") < step("pack", "finished"));
        assert!(step("unpack", "started") < step("unpack", "finished"));
        let done = &events[step("unpack", "finished")]["data"];
        assert_eq!((&done["entries"], &done["bytes"]), (&json!(4), &json!(100_000)));
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "task.archived").count(), 1, "{kinds:?}");
    });
}

#[test]
fn calls_that_go_on_end_before_it_is_packed() {
    let server = Server::start(options());
    let client = server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/x"), b"x").expect(201);
    let calls = format!("/v1/tasks/{task}/calls?wait=0");
    let call = |ms: u64| client.post(&calls, &json!({"tool": "sleeper_rw", "arguments": {"ms": ms}})).expect(202);
    let (running, queued) = (call(60_000), call(10));
    client.follow(&task, &[], "").until(|event| event["type"] == "call.started");
    post(&client, &task, "archive").expect(204);
    // One that is not packed yet comes back at once.
    post(&client, &task, "restore").expect(204);
    assert_eq!(state(&client, &task), "ready");
    post(&client, &task, "archive").expect(204);
    assert!(directory(&server, &task).is_some());
    client.post(&format!("/v1/calls/{}/cancel", running["id"].as_str().unwrap()), &json!({}));
    packed(&server, &task);
    let ended = client.get(&format!("/v1/calls/{}", queued["id"].as_str().unwrap())).expect(200);
    assert_eq!(ended["state"], "succeeded", "what was accepted is run");
    post(&client, &task, "restore").expect(204);
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/x")).body, b"x");
}

#[test]
fn a_crash_at_any_time_leaves_one_that_is_whole() {
    let mut server = Server::start(options());
    let client = server.client();
    let task = client.task();
    // Random, so that packing takes a while.
    let mut seed = 1_u64;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 56) as u8
    })
    .take(8 << 20)
    .collect();
    client.put(&format!("/v1/tasks/{task}/files/large"), &content).expect(201);
    for millis in [0, 30, 90, 200, 400, 700, 1_100, 1_600, 2_200] {
        let (client, pause) = (server.client(), Duration::from_millis(millis));
        let what = if state(&client, &task) == "ready" { "archive" } else { "restore" };
        server = std::thread::scope(|scope| {
            scope.spawn(|| client.try_post(&format!("/v1/tasks/{task}/{what}"), &json!({})));
            std::thread::sleep(pause);
            server.kill_and_restart()
        });
    }
    let client = server.client();
    post(&client, &task, "restore").expect(204);
    assert!(client.get(&format!("/v1/tasks/{task}/files/large")).body == content);
    assert_eq!(archive(&server, &task), None);
    archived(&server, &task);
    post(&client, &task, "restore").expect(204);
    assert!(client.get(&format!("/v1/tasks/{task}/files/large")).body == content);
    until("nothing is left in staging", || {
        let mut own = std::fs::read_dir(server.data().join("staging")).unwrap().flatten();
        own.all(|own| std::fs::read_dir(own.path()).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn a_damaged_archive_is_told_and_kept() {
    let server = Server::start(options());
    let client = server.client();
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/x"), &vec![b'x'; 10_000]).expect(201);
    archived(&server, &task);
    let path = archive(&server, &task).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    let problem = post(&client, &task, "restore").problem(409, "wrong_state");
    assert!(problem["detail"].as_str().unwrap().contains("damaged"), "{problem}");
    assert_eq!((state(&client, &task).as_str(), directory(&server, &task)), ("archived", None));
    std::fs::write(&path, &whole).unwrap();
    post(&client, &task, "restore").expect(204);
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/x")).body, vec![b'x'; 10_000]);
}

#[test]
fn a_workspace_that_cannot_be_packed_stays_and_is_restored() {
    let server = Server::start(options());
    let client = server.client();
    let task = client.task();
    let root = directory(&server, &task).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let stream = client.follow(&task, &[], "");
    post(&client, &task, "archive").expect(204);
    let events = stream.until(|event| is_step(event, "pack", "failed"));
    let detail = events.last().unwrap()["data"]["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, "`pipe` is a pipe, a socket or a device");
    assert!(directory(&server, &task).is_some() && archive(&server, &task).is_none());
    post(&client, &task, "restore").expect(204);
    assert_eq!(state(&client, &task), "ready");
}

#[test]
fn a_deleted_task_is_kept_counts_and_comes_back() {
    on_both(|options| {
        let options = options().with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", 20_000);
        let server = Server::start(options.with("BULKHEAD_QUOTA__TASKS_PER_USER", 2));
        let client = server.client();
        client.register("fixtures/sleeper");
        let task = client.task();
        client.put(&format!("/v1/tasks/{task}/files/x"), &vec![b'x'; 15_000]).expect(201);
        let body = json!({"tool": "sleeper", "arguments": {"ms": 60_000}});
        let call = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
        client.delete(&format!("/v1/tasks/{task}")).expect(204);
        client.delete(&format!("/v1/tasks/{task}")).expect(204);
        let call = format!("/v1/calls/{}", call["id"].as_str().unwrap());
        assert_eq!(client.get(&call).expect(200)["state"], "cancelled");
        let deleted = client.get(&format!("/v1/tasks/{task}")).expect(200);
        assert_eq!(deleted["state"], "deleted");
        assert!(deleted["kept_until"].is_string(), "{deleted}");
        client.get(&format!("/v1/tasks/{task}/files/x")).problem(404, "not_found");
        client.post(&format!("/v1/tasks/{task}/calls"), &body).problem(404, "not_found");
        let ids = |query: &str| {
            let listed = client.get(&format!("/v1/tasks{query}")).expect(200);
            listed["items"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect::<Vec<_>>()
        };
        assert_eq!((ids(""), ids("?deleted=true")), (vec![], vec![json!(task)]));

        // Deleting is no way around the quota of bytes, and blocks no further task.
        let (two, _three) = (client.task(), client.task());
        let put = |size: usize| client.put(&format!("/v1/tasks/{two}/files/y"), &vec![b'y'; size]);
        let full = put(6_000).problem(507, "workspace_full");
        assert!(full["detail"].as_str().unwrap().contains("purge=true"), "{full}");
        post(&client, &task, "restore").problem(422, "over_limit");
        client.delete(&format!("/v1/tasks/{two}?purge=true")).expect(204);
        let server = server.kill_and_restart();
        let client = server.client();
        post(&client, &task, "restore").expect(204);
        assert_eq!(client.get(&format!("/v1/tasks/{task}/files/x")).body.len(), 15_000);
        assert_eq!(client.get(&call).expect(200)["state"], "cancelled", "it stays so");

        // An archived one is kept as it is, and purged with all there is of it.
        archived(&server, &task);
        client.delete(&format!("/v1/tasks/{task}")).expect(204);
        assert!(archive(&server, &task).is_some());
        post(&client, &task, "restore").expect(204);
        archived(&server, &task);
        client.delete(&format!("/v1/tasks/{task}")).expect(204);
        client.delete(&format!("/v1/tasks/{task}?purge=true")).expect(204);
        client.delete(&format!("/v1/tasks/{task}?purge=true")).expect(204);
        assert_eq!((archive(&server, &task), directory(&server, &task)), (None, None));
        post(&client, &task, "restore").problem(409, "wrong_state");
        let events = client.events_until(&task, "task.purged");
        let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "task.deleted").count(), 3, "{kinds:?}");
        let four = client.task();
        client.put(&format!("/v1/tasks/{four}/files/y"), &vec![b'y'; 19_000]).expect(201);
        let audit = client.get(&format!("/v1/tasks/{task}/audit?limit=200")).expect(200);
        let kinds: Vec<_> = audit["items"].as_array().unwrap().iter().map(|record| record["kind"].clone()).collect();
        for kind in ["task.deleting", "task.deleted", "task.restored", "task.archived", "task.purged"] {
            assert!(kinds.contains(&json!(kind)), "{kind}: {kinds:?}");
        }
    });
}

#[test]
fn restoring_needs_room_for_what_was_packed() {
    let server = Server::start(options().with("BULKHEAD_QUOTA__WORKSPACE_BYTES_PER_USER", 100_000));
    let client = server.client();
    let (one, two) = (client.task(), client.task());
    client.put(&format!("/v1/tasks/{one}/files/x"), &vec![0; 90_000]).expect(201);
    archived(&server, &one);
    client.follow(&one, &[], "").until(|event| is_step(event, "pack", "finished"));
    // Zeros: the archive leaves room.
    client.put(&format!("/v1/tasks/{two}/files/y"), &vec![0; 90_000]).expect(201);
    let problem = post(&client, &one, "restore").problem(507, "workspace_full");
    assert_eq!(problem["limit"], "quota.workspace_bytes_per_user");
    assert!((90_000..100_000).contains(&problem["used"].as_u64().unwrap()), "{problem}");
    assert_eq!((state(&client, &one).as_str(), directory(&server, &one)), ("archived", None));
    client.delete(&format!("/v1/tasks/{two}?purge=true")).expect(204);
    post(&client, &one, "restore").expect(204);
    client.put(&format!("/v1/tasks/{one}/files/y"), &vec![0; 20_000]).problem(507, "workspace_full");
}

#[test]
fn idle_tasks_are_archived_and_old_ones_deleted_by_the_server() {
    on_both(|options| {
        let options = options()
            .with("BULKHEAD_HTTP__HEARTBEAT_MS", 300)
            .with("BULKHEAD_LIFECYCLE__ARCHIVE_IDLE_MS", 2_000)
            .with("BULKHEAD_LIFECYCLE__KEEP_DELETED_MS", 2_000);
        let server = Server::start(options);
        let client = server.client();
        client.register("fixtures/sleeper");
        let (idle, streamed, called, read) = (client.task(), client.task(), client.task(), client.task());
        client.put(&format!("/v1/tasks/{idle}/files/x"), b"x").expect(201);
        client.put(&format!("/v1/tasks/{read}/files/x"), b"x").expect(201);
        let stream = client.follow(&streamed, &[], "");
        let body = json!({"tool": "sleeper", "arguments": {"ms": 8_000}});
        let call = client.post(&format!("/v1/tasks/{called}/calls?wait=0"), &body).expect(202);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            assert_eq!(client.get(&format!("/v1/tasks/{read}/files/x")).status, 200);
            std::thread::sleep(Duration::from_millis(100));
        }
        packed(&server, &idle);
        for task in [&streamed, &called, &read] {
            assert_eq!(state(&client, task), "ready", "{task} is in use");
        }
        let events = client.events_until(&idle, "task.archived");
        assert_eq!(events.last().unwrap()["data"], json!({"reason": "idle"}));
        client.get(&format!("/v1/calls/{}?wait=50", call["id"].as_str().unwrap())).expect(200);
        drop(stream);
        for task in [&streamed, &called, &read] {
            packed(&server, task);
        }
        post(&client, &idle, "restore").expect(204);
        assert_eq!(client.get(&format!("/v1/tasks/{idle}/files/x")).body, b"x");

        // A task may ask for less than the server gives, and for no more.
        let ask = |lifecycle: Value| client.post("/v1/tasks", &json!({"lifecycle": lifecycle}));
        let refused = ask(json!({"archive_idle_ms": 2_001})).problem(400, "invalid_request");
        assert_eq!(refused["field"], "lifecycle.archive_idle_ms");
        ask(json!({"max_age_ms": 10})).problem(400, "invalid_request");
        let old = ask(json!({"max_age_ms": 1_000})).expect(201);
        assert_eq!(old["lifecycle"], json!({"max_age_ms": 1_000}));
        let old = old["id"].as_str().unwrap();
        let is_purged = |event: &Value| event["type"] == "task.purged";
        let events = until("it is purged", || {
            let events = client.events_until(old, "task.purged");
            events.iter().any(is_purged).then_some(events)
        });
        let reasons: Vec<_> = events.iter().filter_map(|event| event["data"]["reason"].as_str()).collect();
        assert_eq!(reasons, ["age", "deleted_long"], "{events:?}");
        assert_eq!((directory(&server, old), archive(&server, old)), (None, None));
        let audit = client.get(&format!("/v1/tasks/{old}/audit?limit=200")).expect(200);
        let records = audit["items"].as_array().unwrap();
        let purged = records.iter().find(|record| record["kind"] == "task.purged").unwrap();
        assert_eq!(purged["data"], json!({"reason": "deleted_long"}));
    });
}

#[test]
fn filling_a_workspace_is_told_step_by_step() {
    let repository = repository(20);
    let root = repository.path().parent().unwrap().to_str().unwrap().to_owned();
    let server = Server::start(options().with("BULKHEAD_IMPORT__GIT_LOCAL_ROOTS", root));
    let client = server.client();
    let source = |path: &str| json!({"source": {"kind": "git", "url": path}});
    let task = client.post("/v1/tasks", &source(repository.path().to_str().unwrap())).expect(201);
    wait_ready(&client, &task);
    let events = client.events_until(task["id"].as_str().unwrap(), "task.ready");
    assert!(is_step(&events[1], "workspace", "finished"), "{events:?}");
    assert!(is_step(&events[2], "import", "started"), "{events:?}");
    let finished = events.iter().find(|event| is_step(event, "import", "finished")).unwrap();
    assert!(finished["data"]["duration_ms"].is_u64() && finished["data"]["entries"].as_u64() >= Some(20));
    let nothing = format!("{}/none", repository.path().to_str().unwrap());
    let failed = client.post("/v1/tasks", &source(&nothing));
    if failed.status == 201 {
        let failed = failed.json();
        wait_ready(&client, &failed);
        let events = client.events_until(failed["id"].as_str().unwrap(), "task.failed");
        assert!(events.iter().any(|event| is_step(event, "import", "failed")), "{events:?}");
    }
}

fn metric(client: &Client, name: &str) -> u64 {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("bulkhead_{name} "))).unwrap();
    line.parse().unwrap()
}

#[test]
fn nothing_is_remembered_of_tasks_that_are_put_aside() {
    on_both(|options| {
        let server = Server::start(options());
        let client = server.client();
        client.register("fixtures/touch");
        client.register("fixtures/echo");
        let tasks: Vec<_> = (0..12).map(|_| client.task()).collect();
        for task in &tasks {
            client.put(&format!("/v1/tasks/{task}/files/x"), b"x").expect(201);
            assert_eq!(client.get(&format!("/v1/tasks/{task}/files/x")).body, b"x");
            client.call(task, "echo", json!({"text": "x"}));
            client.events_until(task, "call.ended");
        }
        assert!(metric(&client, "tasks_remembered") >= 12);
        for (index, task) in tasks.iter().enumerate() {
            match index % 3 {
                0 => archived(&server, task),
                1 => drop(client.delete(&format!("/v1/tasks/{task}")).expect(204)),
                _ => drop(client.delete(&format!("/v1/tasks/{task}?purge=true")).expect(204)),
            }
        }
        until("nothing is remembered", || (metric(&client, "tasks_remembered") == 0).then_some(()));
        for name in ["tasks_watched", "calls_running", "calls_queued", "event_streams"] {
            until(name, || (metric(&client, name) == 0).then_some(()));
        }
    });
}

#[test]
fn what_belongs_to_no_task_is_swept_after_a_while_and_nothing_else() {
    on_both(|options| {
        let options =
            options().with("BULKHEAD_LIFECYCLE__SWEEP_MS", 100).with("BULKHEAD_LIFECYCLE__SWEEP_GRACE_MS", 1_500);
        let server = Server::start(options);
        let client = server.client();
        let (ready, packed_one, kept) = (client.task(), client.task(), client.task());
        let tool = client.register("fixtures/echo");
        client.register("fixtures/touch");
        let components = || std::fs::read_dir(server.data().join("components")).unwrap().count();
        assert_eq!(components(), 2);
        client.delete(&format!("/v1/tools/{}", tool["id"].as_str().unwrap())).expect(204);
        for task in [&ready, &packed_one, &kept] {
            client.put(&format!("/v1/tasks/{task}/files/x"), b"x").expect(201);
        }
        archived(&server, &packed_one);
        client.delete(&format!("/v1/tasks/{kept}")).expect(204);
        let root = directory(&server, &ready).unwrap();
        let tenant = root.parent().unwrap();
        let nobodys = "task_01hzzzzzzzzzzzzzzzzzzzzzzz";
        std::fs::create_dir_all(tenant.join(nobodys).join("a")).unwrap();
        std::fs::create_dir(tenant.join("no id")).unwrap();
        let archives = archive(&server, &packed_one).unwrap();
        let other = archives.parent().unwrap().join("task_01hyyyyyyyyyyyyyyyyyyyyyyy.tar.gz");
        std::fs::write(&other, b"x").unwrap();
        until("they are seen", || (metric(&client, "workspace_strays") == 2).then_some(()));
        assert!(tenant.join(nobodys).exists() && other.exists(), "another host may be just making them");
        until("they go", || (!tenant.join(nobodys).exists() && !other.exists()).then_some(()));
        until("the component of no tool goes", || (components() == 1).then_some(()));
        until("they are counted", || (metric(&client, "workspace_strays_swept_total") == 2).then_some(()));
        std::thread::sleep(Duration::from_secs(2));
        assert!(tenant.join("no id").exists() && directory(&server, &ready).is_some());
        for task in [&packed_one, &kept] {
            post(&client, task, "restore").expect(204);
            assert_eq!(client.get(&format!("/v1/tasks/{task}/files/x")).body, b"x");
        }

        // What an earlier run left in its directory is packed.
        post(&client, &ready, "archive").expect(204);
        packed(&server, &ready);
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("y"), b"the directory counts").unwrap();
        packed(&server, &ready);
        post(&client, &ready, "restore").expect(204);
        assert_eq!(client.get(&format!("/v1/tasks/{ready}/files/y")).body, b"the directory counts");

        // A database that knows hardly anything of what lies here is likely the wrong one.
        for index in 0..9 {
            std::fs::create_dir(tenant.join(format!("task_01hzzzzzzzzzzzzzzzzzzzzzz{index}"))).unwrap();
        }
        until("it is an error", || server.log().contains("is it the right one?").then_some(()));
        std::thread::sleep(Duration::from_secs(3));
        for index in 0..9 {
            assert!(tenant.join(format!("task_01hzzzzzzzzzzzzzzzzzzzzzz{index}")).exists());
        }
    });
}

#[test]
fn a_worker_of_one_task_finds_the_workspace_that_came_back() {
    let server = Server::start(options().with("BULKHEAD_WORKERS__ISOLATION", "strict"));
    let client = server.client();
    client.register("fixtures/touch");
    let task = client.task();
    let touch = |name: &str| client.call(&task, "touch", json!({"create": [{"path": name, "content": "x"}]}));
    let first = touch("a");
    archived(&server, &task);
    post(&client, &task, "restore").expect(204);
    let second = touch("b");
    assert_eq!((&first["state"], &second["state"]), (&json!("succeeded"), &json!("succeeded")), "{second}");
    let listed = client.get(&format!("/v1/tasks/{task}/entries")).expect(200);
    let names: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|entry| entry["path"].clone()).collect();
    assert_eq!(names, ["a", "b"], "{first}");
}

#[test]
fn a_stream_on_one_host_keeps_a_task_alive_that_another_holds() {
    let database = postgres().database(None);
    let on = || {
        options()
            .with("DATABASE_URL", postgres().url(postgres().port(), &database))
            .with("BULKHEAD_LIFECYCLE__ARCHIVE_IDLE_MS", 2_000)
            .with("BULKHEAD_HTTP__HEARTBEAT_MS", 300)
    };
    let holder = Server::start(on());
    let other = Server::beside(&holder, on());
    let (watched, idle) = (holder.client().task(), holder.client().task());
    let stream = other.client().follow(&watched, &[], "");
    packed(&holder, &idle);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(state(&holder.client(), &watched), "ready");
    drop(stream);
    packed(&holder, &watched);
    // By way of the other host.
    post(&other.client(), &idle, "restore").expect(204);
    assert_eq!(state(&other.client(), &idle), "ready");
}
