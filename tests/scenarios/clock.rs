//! The machine's clock jumps, ahead and back, while calls run: no call ends by it,
//! nothing is removed for its age, and what was stored before is there in its order.

use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

/// A clock that the server has in place of the machine's.
struct Clock {
    off: std::fs::File,
    directory: TempDir,
}

impl Clock {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/harness/clock.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O2", source, "-o"]).arg(directory.path().join("clock.so"));
        assert!(compile.status().unwrap().success(), "{compile:?}");
        let off = std::fs::File::create(directory.path().join("off")).unwrap();
        let clock = Self { off, directory };
        clock.set(0);
        clock
    }

    /// By so many days it is off from now on.
    fn set(&self, days: i64) {
        // In one write, which whoever has mapped it sees whole.
        self.off.write_all_at(&(days * 86_400).to_ne_bytes(), 0).unwrap();
    }

    fn options(&self) -> Options {
        Options::default()
            .with("LD_PRELOAD", self.directory.path().join("clock.so").display())
            .with("TEST_CLOCK", self.directory.path().join("off").display())
            .with("BULKHEAD_KEEP__EVERY_S", 1)
            .with("BULKHEAD_LOG", "warn")
    }
}

/// One host believes that it is more than a year later. What it stores has that time;
/// but leases are the database's, and nothing is removed by a clock that is not.
#[test]
fn hosts_whose_clocks_differ_take_and_remove_nothing_of_each_other() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let (fast, right) = (Clock::new(), Clock::new());
    fast.set(400);
    let on = |clock: &Clock| {
        let options = clock.options().with("DATABASE_URL", postgres().url(postgres().port(), &database));
        let options = options.with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
        options.with("BULKHEAD_CLUSTER__LEASE_MS", 3_000)
    };
    let a = Server::start(on(&right));
    let b = Server::beside(&a, on(&fast));
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/sleeper");
    let (here, there) = (near.task(), far.task());
    let sleep = |client: &Client, task: &str| {
        let body = json!({"tool": "sleeper", "arguments": {"ms": 7_000}});
        client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202)["id"].as_str().unwrap().to_owned()
    };
    // For more than two leases, and as many rounds of retention; by way of the other host.
    let calls = [(sleep(&far, &here), &here, &near), (sleep(&near, &there), &there, &far)];
    assert_ne!(
        day(&near.get(&format!("/v1/tasks/{here}")).expect(200)),
        day(&near.get(&format!("/v1/tasks/{there}")).expect(200))
    );
    for (id, task, other) in &calls {
        let call = other.get(&format!("/v1/calls/{id}?wait=30")).expect(200);
        assert_eq!((&call["state"], &call["attempts"]), (&json!("succeeded"), &json!(1)), "{call}");
        let log = other.follow(task, &[], "").until(|event| event["type"] == "call.ended");
        assert!(log.iter().zip(1..).all(|(event, seq)| event["seq"] == seq), "{log:?}");
        assert_eq!(log[0]["type"], "task.created", "nothing was removed");
    }
    assert!(b.log().contains("this host's clock and the database's differ"), "{}", b.log());
    assert!(!a.log().contains("took calls over") && !b.log().contains("took calls over"));
    // And a host that is gone is followed by one whose clock is wrong.
    let left = sleep(&near, &here);
    let mut a = a;
    a.kill();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = far.get(&format!("/v1/calls/{left}"));
        // Until it is taken over, its host can't be reached.
        if answer.status == 200 && answer.json()["ended_at"].is_string() {
            assert_eq!(answer.json()["state"], "interrupted", "{:?}", answer.json());
            break;
        }
        assert!(Instant::now() < until, "{:?}", answer.json());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The day that the server thinks it is, by what it just stored.
fn day(thing: &Value) -> String {
    thing["created_at"].as_str().unwrap()[..10].to_owned()
}

#[test]
fn a_clock_that_jumps_ends_no_call_and_costs_nothing() {
    let clock = Clock::new();
    let server = Server::start(clock.options());
    let client = server.client();
    client.register("fixtures/sleeper");
    client.register("fixtures/echo");
    let task = client.task();
    let calls = format!("/v1/tasks/{task}/calls");
    let sleep =
        |ms: u64, limit: u64| json!({"tool": "sleeper", "arguments": {"ms": ms}, "limits": {"wall_time_ms": limit}});
    let begin = |body: Value| client.post(&format!("{calls}?wait=0"), &body).expect(202);
    let end = |call: &Value| client.get(&format!("/v1/calls/{}?wait=30", call["id"].as_str().unwrap())).expect(200);
    let (today, mut stream) = (begin(sleep(1, 5_000)), client.follow(&task, &[], ""));

    for (off, back) in [(400, 0), (-30, 0)] {
        let (long, short) = (begin(sleep(2_500, 20_000)), begin(sleep(30_000, 2_500)));
        let begun = Instant::now();
        clock.set(off);
        let now = begin(sleep(1, 5_000));
        assert_ne!(day(&now), day(&today), "the clock of the server did not jump");
        // The passing of time decides, both ways.
        let (long, short) = (end(&long), end(&short));
        assert_eq!(long["state"], "succeeded", "{off}: {long}");
        assert_eq!(short["state"], "timed_out", "{off}: {short}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{off}");
        for call in [&long, &short] {
            let wall = call["outcome"]["usage"]["wall_us"].as_u64().unwrap();
            assert!((2_000_000..20_000_000).contains(&wall), "{off}: {call}");
        }
        let call = client.call(&task, "echo", json!({"text": off.to_string()}));
        assert_eq!(day(&call), day(&now));
        // Some rounds of retention.
        std::thread::sleep(Duration::from_millis(2_500));
        clock.set(back);
        assert_eq!(day(&client.call(&task, "echo", json!({"text": back.to_string()}))), day(&today));
    }
    let log = server.log();
    assert!(log.contains("the clock jumped"), "{log}");

    // All that was ever stored is there, in order, for who followed and for who comes now.
    let last = client.get(&format!("/v1/tasks/{task}")).expect(200)["last_event"].as_u64().unwrap();
    let followed: Vec<Value> = (0..last).map(|_| stream.next().unwrap()).collect();
    assert!(followed.iter().zip(1..).all(|(event, seq)| event["seq"] == seq), "{followed:#?}");
    let again = client.follow(&task, &[], "?after=0").until(|event| event["seq"] == last);
    assert_eq!(again, followed);
    assert_eq!(followed.iter().filter(|event| event["type"] == "call.ended").count(), 11);
    let page = client.get(&format!("{calls}?limit=50")).expect(200);
    assert_eq!(page["calls"].as_array().or(page["items"].as_array()).unwrap().len(), 11, "{page}");

    // A start at a time before what is stored.
    clock.set(-30);
    let server = server.kill_and_restart();
    let call = server.client().call(&task, "echo", json!({"text": "earlier"}));
    assert_eq!(call["state"], "succeeded");
    let verified = server.cli(&["audit", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
