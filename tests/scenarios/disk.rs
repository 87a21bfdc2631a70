//! A disk that is full under the whole server: what can't be stored is refused and said,
//! what was acknowledged stays, what ran ends, and all goes on once there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Client, Options, Server};

/// A small disk of memory; who may not mount one has none.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("bulkhead-disk-").tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=96m", "bulkhead-test"])
            .arg(directory.path())
            .status()
            .is_ok_and(|status| status.success());
        let may = rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::SYS_ADMIN);
        assert!(mounted || !may, "who may mount a tmpfs can");
        mounted.then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all that is left, to the last page.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4_096] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn ended(client: &Client, call: &str) -> Value {
    client.get(&format!("/v1/calls/{call}?wait=60")).expect(200)
}

#[test]
fn a_full_disk_loses_nothing_and_everything_goes_on_once_there_is_room() {
    let Some(disk) = Disk::mount() else { return };
    let server = Server::start_below(disk.path(), Options::default());
    let client = server.client();
    for guest in ["fixtures/touch", "fixtures/sleeper", "fixtures/ticker", "fixtures/echo"] {
        client.register(guest);
    }
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/before"), b"kept").expect(201);
    let call = |tool: &str, arguments: Value| {
        let body = json!({"tool": tool, "arguments": arguments});
        client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body)
    };
    let sleeps = call("sleeper", json!({"ms": 1_500})).expect(202)["id"].as_str().unwrap().to_owned();
    // One speaks on when there is room again, the other has ended by then.
    let speaks = [40, 10].map(|count| {
        let lines = json!({"count": count, "interval_ms": 100, "bytes": 400, "channels": ["stdout"]});
        (count, call("ticker", lines).expect(202)["id"].as_str().unwrap().to_owned())
    });
    disk.fill();

    // What can't be stored is refused, and nothing of it is there.
    let calls = || client.get(&format!("/v1/tasks/{task}/calls?limit=200")).expect(200)["items"].clone();
    let mut accepted = 3;
    let refused = (0..200).find_map(|_| {
        let answer = call("echo", json!({"text": "x".repeat(2_000)}));
        accepted += usize::from(answer.status < 300);
        (answer.status >= 300).then_some(answer)
    });
    let problem = refused.expect("the log file grows until there is no room").problem(507, "disk_full");
    assert!(problem["detail"].as_str().unwrap().contains("disk"), "{problem}");
    let put = client.put(&format!("/v1/tasks/{task}/files/large"), &[b'x'; 8_192]).problem(507, "disk_full");
    assert!(put["detail"].is_string());
    // It is alive, says so, and reads.
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.get(&format!("/v1/tasks/{task}/files/before")).body, b"kept");
    client.get(&format!("/v1/tasks/{task}/files/large")).problem(404, "not_found");
    // The sleeper woke up with nowhere to store its end, for longer than a while.
    std::thread::sleep(Duration::from_secs(33));
    disk.clear();

    let woken = ended(&client, &sleeps);
    assert_eq!(woken["state"], "succeeded", "{woken}");
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = call("touch", json!({"mkdir": ["after"]}));
        if answer.status < 300 {
            accepted += 1;
            assert_eq!(ended(&client, answer.json()["id"].as_str().unwrap())["state"], "succeeded");
            break;
        }
        assert!(Instant::now() < until, "{:?}", answer.json());
        std::thread::sleep(Duration::from_millis(100));
    }
    let all = calls();
    assert_eq!(all.as_array().unwrap().len(), accepted, "those that were accepted, and no other");
    for one in all.as_array().unwrap() {
        let one = ended(&client, one["id"].as_str().unwrap());
        assert_eq!(one["state"], "succeeded", "{one}");
    }
    let last = client.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].as_u64().unwrap();
    let log = client.follow(&task, &[], "").until(|event| event["seq"] == last);
    assert!(log.iter().zip(1..).all(|(event, seq)| event["seq"] == seq));
    let ends = |id: &Value| log.iter().filter(|event| event["type"] == "call.ended" && event["call"] == *id).count();
    assert!(all.as_array().unwrap().iter().all(|one| ends(&one["id"]) == 1));
    // Nor is anything lost of what was said while there was no room.
    for (count, call) in speaks {
        let of = |event: &&Value| event["type"] == "call.output" && event["call"] == *call;
        let text: String = log.iter().filter(of).map(|event| event["data"]["text"].as_str().unwrap()).collect();
        let ticks: Vec<_> = text.lines().map(|line| line.trim_end_matches('.').to_owned()).collect();
        assert_eq!(ticks, (1..=count).map(|tick| format!("tick {tick} of {count}")).collect::<Vec<_>>());
    }
    // And the database is sound, as the next start finds it.
    let server = server.kill_and_restart();
    assert_eq!(server.client().get(&format!("/v1/tasks/{task}/files/before")).body, b"kept");
    assert_eq!(server.client().call(&task, "echo", json!({"text": "x"}))["state"], "succeeded");
}

#[test]
fn a_log_that_can_not_be_written_costs_nothing_but_its_lines() {
    // Each write to it fails as on a full disk.
    let options = Options { log: Some("/dev/full".into()), ..Options::default() }.with("BULKHEAD_LOG", "debug");
    let server = Server::start(options);
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    for text in ["one", "two"] {
        assert_eq!(client.call(&task, "echo", json!({"text": text}))["state"], "succeeded");
    }
    // Neither does what is said of a worker that dies.
    for pid in super::crash::children_of(server.pid()) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
            rustix::process::Signal::KILL,
        );
    }
    let again = || client.call(&task, "echo", json!({"text": "three"}))["state"] == "succeeded";
    assert!((0..10).any(|_| again()), "a new worker runs calls");
}
