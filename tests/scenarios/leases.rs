//! A host that can't renew its lease: what it runs ends, and by then is dead.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::crash::children_of;
use super::hosts::{eventually, id, options, sleeper, until, whole_log};
use crate::harness::Server;
use crate::harness::pair::assert_whole;
use crate::harness::postgres::postgres;
use crate::harness::proxy::{Proxy, Weather};

#[test]
fn a_host_that_cannot_renew_stops_what_it_runs() {
    let database = postgres().database(None);
    let proxy = Proxy::before(postgres().port());
    let server = Server::start(options(&database, proxy.port()));
    let client = server.client();
    client.register("fixtures/echo");
    client.register("fixtures/sleeper");
    client.register("fixtures/ticker");
    let (task, other) = (client.task(), client.task());
    let running = sleeper(&client, &task);
    let ticks = json!({"tool": "ticker", "arguments": {"count": 600, "interval_ms": 20, "channels": ["stdout"]}});
    let ticking = client.post(&format!("/v1/tasks/{other}/calls?wait=0"), &ticks).expect(202);
    client.follow(&other, &[], "").until(|event| event["type"] == "call.output");
    proxy.set(Weather::Gone);
    let until = Instant::now() + Duration::from_secs(30);
    while !server.log().contains("the lease of this host is lost") {
        assert!(Instant::now() < until, "{}", server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    proxy.set(Weather::Fair);
    // It knows itself what became of the call, and says so.
    let ended = eventually(|| client.get(&format!("/v1/calls/{}?wait=50", id(&running)))).expect(200);
    assert_eq!((&ended["state"], &ended["outcome"]["fault"]["code"]), (&json!("interrupted"), &json!("host_lost")));
    // What may be started twice goes on, on whoever holds its task then.
    let over = |event: &Value| event["type"] == "call.ended";
    let log = eventually(|| client.get(&format!("/v1/calls/{}?wait=60", id(&ticking)))).expect(200);
    assert_eq!((&log["state"], &log["attempts"]), (&json!("succeeded"), &json!(2)), "{log}");
    let log = client.follow(&other, &[], "").until(over);
    let again: Vec<_> = log.iter().filter(|event| event["type"] == "call.requeued").collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["data"]["fault"]["code"], "host_lost", "{again:?}");
    assert_whole(&log, [id(&ticking)]);
    let calls = format!("/v1/tasks/{task}/calls");
    let again =
        eventually(|| client.post(&calls, &json!({"tool": "echo", "arguments": {"text": "again"}}))).expect(200);
    whole_log(&client, &task, id(&again));
}

/// No token can fence a write to a file: what a host runs must be dead by the time that
/// another one may take its tasks.
#[test]
fn guests_are_dead_before_their_task_is_taken_over() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let proxy = Proxy::before(postgres().port());
    let on = |port: u16| options(&database, port).with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
    let a = Server::start(on(proxy.port()));
    let b = Server::beside(&a, on(postgres().port()));
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/touch");
    let task = near.task();
    let calls = format!("/v1/tasks/{task}/calls");
    let running = near.post(&format!("{calls}?wait=0"), &writes_for(60_000)).expect(202);
    let log = || file_below(volume.path(), "log").map(|path| std::fs::metadata(path).unwrap().len());
    until("the guest writes", || log() > Some(10));
    // A client's file arrives all the time, and is whole once the other host has the task.
    let taken = Arc::new(AtomicBool::new(false));
    let late = std::thread::spawn({
        let (near, path, taken) = (near.clone(), format!("/v1/tasks/{task}/files/late"), taken.clone());
        move || near.try_put_reader(&path, Trickle(taken))
    });
    let stream = far.follow(&task, &[], "");
    proxy.set(Weather::Gone);
    let cut = log();
    // The other host ends the call as soon as it may: not before the lease has ended.
    let events = stream.until(|event| event["call"] == running["id"] && event["type"] == "call.ended");
    let at_the_end = log();
    assert_eq!(events.last().unwrap()["data"]["state"], "interrupted");
    assert!(at_the_end > cut, "it went on while its host held its lease");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(log(), at_the_end, "it wrote when its task was another host's");
    assert_eq!(children_of(a.pid()), Vec::<u32>::new());
    taken.store(true, SeqCst);
    // Told so, unless its connection was ended before.
    if let Ok(Some(answer)) = late.join() {
        answer.problem(503, "store_unavailable");
    }
    assert_eq!(file_below(volume.path(), "late"), None, "it was placed when the workspace was another host's");
    let next = eventually(|| far.post(&calls, &json!({"tool": "touch", "arguments": {"delete": ["log"]}}))).expect(200);
    assert_eq!(next["state"], "succeeded", "{next}");
}

/// A host that hangs stops nothing: its workers know themselves how long they may run.
#[test]
fn guests_end_in_time_whose_host_hangs() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || options(&database, postgres().port()).with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
    let a = Server::start(on());
    let b = Server::beside(&a, on());
    let (near, far) = (a.client(), b.client());
    near.register("fixtures/touch");
    let task = near.task();
    let calls = format!("/v1/tasks/{task}/calls");
    let running = near.post(&format!("{calls}?wait=0"), &writes_for(60_000)).expect(202);
    let log = || file_below(volume.path(), "log").map(|path| std::fs::metadata(path).unwrap().len());
    // For longer than a lease: each renewal reaches the worker.
    let begun = Instant::now();
    until("the guest writes", || begun.elapsed() > Duration::from_secs(6) && log() > Some(10));
    let stream = far.follow(&task, &[], "");
    // The server alone, in the middle of whatever it does.
    a.signal(Signal::STOP);
    let stopped = log();
    let events = stream.until(|event| event["call"] == running["id"] && event["type"] == "call.ended");
    let at_the_end = log();
    assert_eq!(events.last().unwrap()["data"]["state"], "interrupted");
    assert!(at_the_end > stopped, "it went on while its host held its lease");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(log(), at_the_end, "it wrote when its task was another host's");
    a.signal(Signal::CONT);
    let next = eventually(|| far.post(&calls, &json!({"tool": "touch", "arguments": {"delete": ["log"]}}))).expect(200);
    assert_eq!(next["state"], "succeeded", "{next}");
    // It serves again, and its guests live longer than that.
    let own = eventually(|| near.post("/v1/tasks", &json!({}))).expect(201);
    let again =
        eventually(|| near.post(&format!("/v1/tasks/{}/calls?wait=30", id(&own)), &writes_for(6_000))).expect(200);
    assert_eq!(again["state"], "succeeded", "{again}");
}

/// Nobody goes on with what a host that is gone was filling: its task says so, once.
#[test]
fn what_a_dead_host_was_filling_has_failed() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || options(&database, postgres().port()).with("BULKHEAD_CLUSTER__VOLUME", volume.path().display());
    let mut a = Server::start(on());
    let b = Server::beside(&a, on());
    let (near, far) = (a.client(), b.client());
    far.register("fixtures/echo");
    let told = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let (near, told) = (near.clone(), told.clone());
        move || {
            let kind = [("content-type", "application/x-tar")];
            near.try_send_reader("POST", "/v1/tasks/archive", &kind, Trickle(told))
        }
    });
    let listed = || far.get("/v1/tasks").expect(200)["items"][0].clone();
    until("it is being filled", || listed()["state"] == "initializing");
    let task = id(&listed()).to_owned();
    let path = format!("/v1/tasks/{task}");
    // As long as its host is there, so is its hope.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(far.get(&path).expect(200)["state"], "initializing");
    a.kill();
    told.store(true, SeqCst);
    assert!(sender.join().unwrap().is_none(), "somebody answered");
    until("its end is told", || far.get(&path).expect(200)["state"] == "failed");
    let failed = far.get(&path).expect(200);
    assert!(failed["failure"].as_str().unwrap().contains("the host stopped"), "{failed}");
    let events = far.events_until(&task, "task.failed");
    assert_eq!(events.last().unwrap()["data"]["reason"], failed["failure"], "{events:?}");
    let call = json!({"tool": "echo", "arguments": {"text": "x"}});
    far.post(&format!("{path}/calls"), &call).problem(409, "wrong_state");
    // Its host comes back, and changes nothing.
    let a = a.start_again();
    assert_eq!(a.client().get(&path).expect(200)["failure"], failed["failure"]);
    assert_eq!(a.client().events_until(&task, "task.failed").len(), events.len());
    far.delete(&path).expect(204);
    assert_eq!(far.get(&path).expect(200)["state"], "deleted");
}

/// A byte now and then, until it is told to end.
struct Trickle(Arc<AtomicBool>);

impl Read for Trickle {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(Duration::from_millis(100));
        if self.0.load(SeqCst) {
            return Ok(0);
        }
        into[0] = b'x';
        Ok(1)
    }
}

/// A call whose guest writes to `log` all the time.
fn writes_for(ms: u64) -> Value {
    let files = [json!({"path": "log", "content": "x"})];
    json!({"tool": "touch", "arguments": {"create": files, "modify": files, "for_ms": ms}})
}

fn file_below(directory: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory).ok()?.map_while(Result::ok).find_map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => file_below(&entry.path(), name),
        Ok(_) => (entry.file_name() == name).then(|| entry.path()),
        Err(_) => None,
    })
}
