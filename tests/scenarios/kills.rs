//! `kill -9` again and again, now of one host and now of the other, at whatever step
//! of a call it comes, while clients call by way of both: every call that was accepted
//! has one outcome, and no guest ran twice.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::pair::{Pair, assert_whole};
use crate::harness::postgres::postgres;
use crate::harness::{Options, Server};

const ROUNDS: u64 = 6;
const CALLERS: usize = 12;
const LEASE_MS: u64 = 3_000;
const PATIENCE: Duration = Duration::from_secs(90);

struct World {
    pair: Pair,
    tasks: Vec<String>,
    calling: AtomicBool,
    /// The directory that each call's guest makes, by call: a second time it could not.
    accepted: Mutex<HashMap<String, (usize, String)>>,
}

impl World {
    fn call(&self, caller: usize) {
        for nth in 0.. {
            if !self.calling.load(Ordering::Relaxed) {
                return;
            }
            let which = caller % self.tasks.len();
            let task = &self.tasks[which];
            let (path, file) = (format!("/v1/tasks/{task}/calls?wait=0"), format!("{caller}-{nth}"));
            let body = json!({"tool": "touch", "arguments": {"mkdir": [file]}});
            let key = format!("{task}/{file}");
            // The same key with every try: it is one call, whoever heard of it first.
            let answer = self.pair.ask(|client| client.try_post_with(&path, &body, &[("idempotency-key", &key)]));
            assert!(matches!(answer.status, 200 | 202), "{:?}", answer.json());
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            self.accepted.lock().unwrap().insert(id, (which, file));
        }
    }
}

#[test]
fn hosts_that_die_again_and_again_run_nothing_twice_and_lose_nothing() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let on = || {
        Options::default()
            .with("DATABASE_URL", postgres().url(postgres().port(), &database))
            .with("BULKHEAD_CLUSTER__VOLUME", volume.path().display())
            .with("BULKHEAD_CLUSTER__LEASE_MS", LEASE_MS)
            .with("BULKHEAD_DISPATCH__QUEUED_PER_OWNER", 1_000)
            .with("BULKHEAD_LOG", "warn")
    };
    let a = Server::start(on());
    let b = Server::beside(&a, on());
    a.client().register("fixtures/touch");
    let tasks: Vec<String> =
        (0..4).map(|nth| if nth % 2 == 0 { a.client().task() } else { b.client().task() }).collect();
    let world = World {
        pair: Pair::new(a.url(), b.url(), a.key()),
        tasks,
        calling: AtomicBool::new(true),
        accepted: Mutex::default(),
    };
    let mut hosts = [Some(a), Some(b)];
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let world = &world;
            scope.spawn(move || world.call(caller));
        }
        for round in 0..ROUNDS {
            // Long enough for both to work, and never the same step.
            std::thread::sleep(Duration::from_millis(1_500 + (seed * 31 + round * 197) % 500));
            let which = (round % 2) as usize;
            let mut dead = hosts[which].take().unwrap();
            dead.kill();
            // Sometimes back before its lease ends, and sometimes after others took over.
            std::thread::sleep(Duration::from_millis(if round < 2 { 100 } else { LEASE_MS + 1_500 }));
            let back = dead.start_again();
            world.pair.urls.write().unwrap()[which] = back.url().to_owned();
            hosts[which] = Some(back);
        }
        world.calling.store(false, Ordering::Relaxed);
    });
    let accepted = world.accepted.lock().unwrap().clone();
    let mut states: HashMap<String, u32> = HashMap::new();
    let mut made: HashSet<(usize, &str)> = HashSet::new();
    for (id, (task, file)) in &accepted {
        let until = Instant::now() + PATIENCE;
        let call = loop {
            let call = world.pair.ask(|client| client.try_get(&format!("/v1/calls/{id}?wait=5"))).expect(200);
            if call["ended_at"].is_string() {
                break call;
            }
            assert!(Instant::now() < until, "{call}");
        };
        assert!(call["attempts"].as_u64().unwrap() <= 1, "{call}");
        let state = call["state"].as_str().unwrap();
        assert!(matches!(state, "succeeded" | "interrupted"), "{call}");
        if state == "succeeded" {
            made.insert((*task, file));
        }
        *states.entry(state.into()).or_default() += 1;
    }
    for (nth, task) in world.tasks.iter().enumerate() {
        let own = accepted.iter().filter(|(_, (of, _))| *of == nth).map(|(id, _)| id.as_str());
        assert_whole(&world.pair.log(task), own);
    }
    for (task, file) in &made {
        let path = format!("/v1/tasks/{}/files/{file}", world.tasks[*task]);
        // A directory that is there can't be read as a file.
        world.pair.ask(|client| client.try_get(&path)).problem(409, "is_a_directory");
    }
    eprintln!("{} accepted: {states:?}", accepted.len());
    assert!(accepted.len() > 100 && states.get("succeeded").is_some_and(|count| *count > 50), "{states:?}");
    let open = postgres().psql(&database, "SELECT count(*) FROM bulkhead.calls WHERE ended_at IS NULL").unwrap();
    assert_eq!(open, "0", "no call is left open");
}
