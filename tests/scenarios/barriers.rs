//! Barriers that no other scenario sees (see `docs/THREAT-MODEL.md`).

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde_json::json;

use super::crash::children_of;
use crate::harness::{Options, Server};

/// The worker processes of a server with a running call.
fn workers(server: &Server) -> Vec<u32> {
    let client = server.client();
    client.register("fixtures/sleeper_rw");
    let task = client.task();
    let body = json!({"tool": "sleeper_rw", "arguments": {"ms": 30_000}});
    client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
    client.events_until(&task, "call.started");
    // Started is what is stored; until the guest runs, the worker may still come up.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let is_worker = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|word| word == b"worker")
    };
    children_of(server.pid()).into_iter().filter(is_worker).collect()
}

#[test]
fn workers_inherit_nothing() {
    // What whoever starts the server has open, and lets it inherit.
    let leaked = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let server = Server::start(Options::default().with("SECRET_OF_THE_HOST", "hunter2"));
    let data = server.data();
    let workers = workers(&server);
    assert!(!workers.is_empty());
    // What it was sent: a name tells nothing, of what is seen through a mount of its own.
    let sent = |file: &std::fs::Metadata| {
        let entries = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
        let tenants = entries(data.join("workspaces")).flat_map(|tenant| entries(tenant.path()));
        tenants
            .chain(entries(data.join("artifacts")))
            .any(|entry| entry.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (file.dev(), file.ino())))
    };
    for pid in workers {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        assert_eq!(read("environ"), "", "a worker has no environment");
        let status = read("status");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let limits = read("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(target) = std::fs::read_link(&path) else { continue };
            let text = target.to_string_lossy();
            let kernel = ["socket:", "pipe:", "anon_inode:", "/dev/null", "/memfd:", "/proc/"];
            let given = std::fs::metadata(&path).is_ok_and(|file| sent(&file));
            assert!(given || kernel.iter().any(|prefix| text.starts_with(prefix)), "a worker holds {text}");
        }
        // Its one socket is the pair with the host: nothing of the network.
        let sockets = |table: &str| read(&format!("net/{table}"));
        let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let lines = sockets(table);
            let held = lines
                .lines()
                .find(|line| line.split_whitespace().nth(9).is_some_and(|inode| inodes.iter().any(|own| own == inode)));
            assert_eq!(held, None, "a worker holds a socket of {table}");
        }
    }
}

/// What a process has open, by name.
fn open_in(pid: u32) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    listing.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect()
}

#[test]
fn neither_the_server_nor_its_compiler_keeps_what_it_inherits() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").canonicalize().unwrap();
    let leaked = std::fs::File::open(&path).unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let server = Server::start(Options::default());
    assert!(!open_in(server.pid()).contains(&path), "all that it starts would inherit it");
    // Waits for a component that does not come.
    let mut compiler = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"))
        .args(["compile", "inspect", "60", "4000000000", "best-effort", "wasi-0.2", "no-namespaces"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let shut_in = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", compiler.id())).unwrap();
        status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2")
    };
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !shut_in() {
        assert!(std::time::Instant::now() < until, "it shuts itself in");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let open = open_in(compiler.id());
    compiler.kill().unwrap();
    compiler.wait().unwrap();
    assert!(!open.is_empty() && !open.contains(&path), "{open:?}");
}

#[test]
fn nothing_of_a_call_is_left_for_the_next() {
    // One worker with few slots: each is used again and again.
    let options =
        Options::default().with("BULKHEAD_WORKERS__PER_TENANT", 1).with("BULKHEAD_WORKERS__CALLS_PER_WORKER", 2);
    let server = Server::start(options);
    let client = server.client();
    let tool = client.register("hostile/memory");
    let task = client.task();
    for round in 0..12 {
        let call = client.call(&task, tool["manifest"]["name"].as_str().unwrap(), json!({"attack": "residue"}));
        assert_eq!(call["state"], "succeeded", "{call}");
        let seen = &call["outcome"]["content"][0]["json"]["seen"];
        assert_eq!(*seen, json!(0), "round {round}: bytes of an earlier call: {call}");
    }
}

#[test]
fn no_secret_is_ever_logged() {
    let server = Server::start(Options::default().with("BULKHEAD_LOG", "trace"));
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    client.call(&task, "echo", json!({"text": "the-secret-of-an-argument"}));
    let wrong = format!("{}x", server.key());
    client.with_key(Some(&wrong)).get("/v1/whoami").problem(401, "invalid_key");
    client.send("GET", "/v1/whoami?key=the-secret-of-a-query", &[("cookie", "the-secret-of-a-cookie")], b"");
    let made = server.cli(&["keys", "create", "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let log = server.log();
    assert!(log.contains("request"), "the log is there, with its spans");
    let secret = |key: &str| key.rsplit('_').next().unwrap().to_owned();
    for secret in [secret(server.key()), secret(made["key"].as_str().unwrap())] {
        assert!(!log.contains(&secret), "a key is in the log");
    }
    for secret in ["the-secret-of-an-argument", "the-secret-of-a-query", "the-secret-of-a-cookie"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None);
    }
}

#[test]
fn only_pages_of_listed_origins_may_read_answers() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__CORS_ORIGINS", "https://app.example"));
    let client = server.client();
    for (origin, allowed) in [("https://app.example", "https://app.example"), ("https://evil.example", "")] {
        let answer = client.send("GET", "/v1/whoami", &[("origin", origin)], b"");
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
        assert_eq!(answer.header("access-control-allow-credentials"), "", "keys are no cookies");
        let asks = [("origin", origin), ("access-control-request-method", "POST")];
        let answer = client.send("OPTIONS", "/v1/tasks", &asks, b"");
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
    }
}

#[test]
fn one_user_s_requests_shut_nobody_out() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__MAX_CONCURRENT_REQUESTS", 8));
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let body = json!({"tool": "sleeper", "arguments": {"ms": 4_000}});
    let id = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)["id"].clone();
    let read = format!("/v1/calls/{}?wait=30", id.as_str().unwrap());
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..6).map(|_| scope.spawn(|| client.get(&read).status)).collect();
        let refused = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let answer = client.get("/v1/whoami");
            (answer.status == 429).then_some(answer)
        });
        let refused = refused.expect("they have half of the places");
        assert_eq!(refused.header("retry-after"), "1");
        assert_eq!(refused.problem(429, "too_many_requests")["limit"], 4);
        let other = server.client_with(&[
            "--tenant",
            "ten_01jd8n2m4v0000000000000009",
            "--user",
            "usr_01jd8n2m4v0000000000000009",
        ]);
        assert_eq!(other.get("/v1/whoami").status, 200, "another's are answered");
        let statuses: Vec<_> = waiting.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4, "{statuses:?}");
    });
    assert_eq!(client.get("/v1/whoami").status, 200);
}

#[test]
fn an_overloaded_server_sheds_and_stays_alive() {
    let server = Server::start(Options::default().with("BULKHEAD_HTTP__MAX_CONCURRENT_REQUESTS", 2));
    let client = server.client();
    client.register("fixtures/sleeper");
    let task = client.task();
    let long = json!({"tool": "sleeper", "arguments": {"ms": 60_000}});
    let long = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &long).expect(202);
    let long = format!("/v1/calls/{}", long["id"].as_str().unwrap());
    // One user may not have all of them.
    let tenant = client.get("/v1/whoami").expect(200)["tenant"].clone();
    let other = server.client_with(&["--tenant", tenant.as_str().unwrap(), "--user", "usr_01jd8n2m4v0000000000000002"]);
    let of_other = other.task();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = [(&client, &task), (&other, &of_other)]
            .into_iter()
            .map(|(client, task)| scope.spawn(move || client.call(task, "sleeper", json!({"ms": 4_000}))))
            .collect();
        let shed = (0..200).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let answer = client.get("/v1/whoami");
            (answer.status == 503).then_some(answer)
        });
        let shed = shed.expect("a third request is refused");
        assert_eq!(shed.header("retry-after"), "1");
        shed.problem(503, "overloaded");
        assert_eq!(client.get("/healthz").status, 200);
        // What should be stopped can be, however much else there is to do.
        let cancelled = client.post(&format!("{long}/cancel"), &json!({}));
        assert_eq!(client.get("/v1/whoami").status, 503, "it is overloaded all the time");
        assert!(cancelled.status < 300, "{:?}", cancelled.json());
        for call in waiting {
            assert_eq!(call.join().unwrap()["state"], "succeeded");
        }
    });
    assert_eq!(client.get("/v1/whoami").status, 200);
    assert_eq!(client.get(&format!("{long}?wait=10")).expect(200)["state"], "cancelled");
}
