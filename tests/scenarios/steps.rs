//! A host that ends at each step between the store and what is done beside it
//! (`core/src/steps.rs`), of two on one volume, while clients work by way of both. What
//! was acknowledged is there, once; what was not can be asked for again.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_core::steps;
use serde_json::{Value, json};

use crate::harness::pair::{Pair, assert_whole};
use crate::harness::postgres::postgres;
use crate::harness::{Options, Server, guests};

const LEASE_MS: u64 = 3_000;
/// A step that is not reached in so long is none.
const REACHED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(90);

/// What clients do while a host ends, and what was acknowledged of it.
struct Work {
    pair: Pair,
    going_on: AtomicBool,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    tasks: Vec<String>,
    /// Task, call, and the directory that its guest makes.
    calls: Vec<(String, String, String)>,
    /// Task and name; the name is what it holds.
    files: HashSet<(String, String)>,
    deleted: HashSet<(String, String)>,
    /// Task and name of what came by an upload in pieces, or from another task.
    arrived: Vec<(String, String)>,
    /// Task and name of what was moved to another task.
    left: Vec<(String, String)>,
    /// Task and name of what was deleted and brought back.
    back: Vec<(String, String)>,
    /// Task and name of what was deleted for good.
    purged: Vec<(String, String)>,
    /// Tasks that are archived and restored, with a file.
    archived: Vec<String>,
    tools: Vec<String>,
}

impl Work {
    fn goes_on(&self) -> bool {
        self.going_on.load(Ordering::Relaxed)
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap()
    }

    /// A task of the first host, if that can make one.
    fn task(&self) -> String {
        let made = self.pair.at(0).try_post("/v1/tasks", &json!({})).filter(|made| made.status == 201);
        let made = made.unwrap_or_else(|| self.pair.ask(|client| client.try_post("/v1/tasks", &json!({}))));
        let id = made.expect(201)["id"].as_str().unwrap().to_owned();
        self.done().tasks.push(id.clone());
        id
    }

    /// Two at once, so that one waits for its turn.
    fn call(&self, task: &str, caller: usize) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            let name = format!("d{caller}-{nth}");
            let body = match nth % 3 {
                0 => json!({"tool": "ticker", "arguments": {"count": 3, "interval_ms": 30}}),
                _ => json!({"tool": "touch", "arguments": {"mkdir": [name]}}),
            };
            let (path, key) = (format!("/v1/tasks/{task}/calls?wait=2"), format!("{task}/{name}"));
            let answer = self.pair.ask(|client| client.try_post_with(&path, &body, &[("idempotency-key", &key)]));
            assert!(matches!(answer.status, 200 | 202), "{:?}", answer.json());
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            let made = if nth % 3 == 0 { String::new() } else { name };
            self.done().calls.push((task.to_owned(), id, made));
        }
    }

    fn files(&self, task: &str) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            let name = format!("f{nth}");
            let path = format!("/v1/tasks/{task}/files/{name}");
            let put = self.pair.ask(|client| client.try_put(&path, name.as_bytes()));
            assert!(matches!(put.status, 200 | 201), "{:?}", put.json());
            self.done().files.insert((task.to_owned(), name.clone()));
            if nth % 2 == 1 {
                // Gone already, if the answer to the first try was lost.
                let gone = self.pair.ask(|client| client.try_delete(&path));
                assert!(matches!(gone.status, 204 | 404), "{:?}", gone.json());
                self.done().deleted.insert((task.to_owned(), name));
            }
        }
    }

    fn put(&self, task: &str, name: &str) {
        let path = format!("/v1/tasks/{task}/files/{name}");
        let put = self.pair.ask(|client| client.try_put(&path, name.as_bytes()));
        assert!(matches!(put.status, 200 | 201), "{:?}", put.json());
    }

    /// In two pieces; whoever ends in between, it goes on where it was.
    fn upload(&self, task: &str) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            let name = format!("u{nth:04}");
            let body = json!({"path": name, "length": name.len()});
            let new = self.pair.ask(|client| client.try_post(&format!("/v1/tasks/{task}/uploads"), &body)).expect(201);
            let upload = format!("/v1/tasks/{task}/uploads/{}", new["id"].as_str().unwrap());
            loop {
                let state = self.pair.ask(|client| client.try_get(&upload)).expect(200);
                let offset = state["offset"].as_u64().unwrap();
                if state["complete"] == true {
                    break;
                }
                let from = usize::try_from(offset).unwrap();
                let piece = &name.as_bytes()[from..(from + 3).min(name.len())];
                // Not taken twice: an answer that was lost is a refusal the next time.
                let added = self.pair.ask(|client| client.try_add(&upload, offset, piece));
                assert!(matches!(added.status, 200 | 409), "{:?}", added.json());
            }
            self.done().arrived.push((task.to_owned(), name));
        }
    }

    /// Moves files to another task.
    fn transfer(&self, from: &str, to: &str) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            let name = format!("t{nth}");
            self.put(from, &name);
            let what = json!({"from_task": from, "from": name, "to": name, "remove": true, "replace": true});
            let moved = self.pair.ask(|client| client.try_post(&format!("/v1/tasks/{to}/transfers"), &what));
            // It is gone from there if the answer to the first try was lost.
            assert!(matches!(moved.status, 200 | 201 | 404), "{:?}", moved.json());
            self.done().arrived.push((to.to_owned(), name.clone()));
            self.done().left.push((from.to_owned(), name));
        }
    }

    /// Deletes files, brings every other one back, and the rest goes for good.
    fn undelete(&self, task: &str) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            let name = format!("k{nth}");
            self.put(task, &name);
            let path = format!("/v1/tasks/{task}/files/{name}");
            let gone = self.pair.ask(|client| client.try_delete(&path));
            assert!(matches!(gone.status, 204 | 404), "{:?}", gone.json());
            let Some(id) = self.deleted(task, &name) else { continue };
            let kept = format!("/v1/tasks/{task}/deleted/{id}");
            if nth % 2 == 0 {
                self.bring_back(task, &name, &format!("{kept}/restore"));
                self.done().back.push((task.to_owned(), name));
            } else {
                let purged = self.pair.ask(|client| client.try_delete(&kept));
                assert!(matches!(purged.status, 204 | 404), "{:?}", purged.json());
                self.done().purged.push((task.to_owned(), name));
            }
        }
    }

    /// What a host began that is gone, another one finishes or undoes: then it is asked again.
    fn bring_back(&self, task: &str, name: &str, restore: &str) {
        let until = Instant::now() + PATIENCE;
        let path = format!("/v1/tasks/{task}/files/{name}");
        loop {
            let back = self.pair.ask(|client| client.try_post(restore, &json!({"replace": true})));
            assert!(matches!(back.status, 200 | 404), "{:?}", back.json());
            if back.status == 200 || self.pair.ask(|client| client.try_get(&path)).status == 200 {
                return;
            }
            assert!(Instant::now() < until, "{name} of {task} does not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The id of a file that was deleted, once that is finished.
    fn deleted(&self, task: &str, name: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        while self.goes_on() {
            let kept =
                self.pair.ask(|client| client.try_get(&format!("/v1/tasks/{task}/deleted?limit=200"))).expect(200);
            let found = kept["items"].as_array().unwrap().iter().find(|file| file["path"] == name).cloned();
            if let Some(file) = found {
                return Some(file["id"].as_str().unwrap().to_owned());
            }
            assert!(Instant::now() < until, "{name} of {task} is not kept: {kept}");
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn archive(&self, task: &str) {
        let kept = format!("/v1/tasks/{task}/files/kept");
        self.pair.ask(|client| client.try_put(&kept, b"kept"));
        self.done().archived.push(task.to_owned());
        while self.goes_on() {
            for (what, wanted) in [("archive", "archived"), ("restore", "ready")] {
                let path = format!("/v1/tasks/{task}/{what}");
                self.pair.ask(|client| client.try_post(&path, &json!({})));
                let until = Instant::now() + PATIENCE;
                while self.state(task) != wanted {
                    assert!(Instant::now() < until, "{task} is not {wanted}");
                    self.pair.ask(|client| client.try_post(&path, &json!({})));
                }
                // Until it is packed, or it would be restored from its directory.
                std::thread::sleep(Duration::from_millis(300));
            }
        }
    }

    fn state(&self, task: &str) -> String {
        let task = self.pair.ask(|client| client.try_get(&format!("/v1/tasks/{task}"))).expect(200);
        task["state"].as_str().unwrap().to_owned()
    }

    fn register(&self, round: usize) {
        for nth in (0..).take_while(|_| self.goes_on()) {
            // The same component with other bytes behind it was never seen.
            let wasm =
                [&guests::wasm("fixtures/echo")[..], &[0, 9, 8], format!("{round:04}{nth:04}").as_bytes()].concat();
            let tool = self.pair.ask(|client| client.try_send_wasm(&wasm));
            assert!(matches!(tool.status, 200 | 202), "{:?}", tool.json());
            let id = tool.json()["id"].as_str().unwrap().to_owned();
            self.done().tools.push(id.clone());
            self.pair.ask(|client| client.try_get(&format!("/v1/tools/{id}?wait=5")));
        }
    }

    fn make_tasks(&self) {
        while self.goes_on() {
            self.task();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All of it, until the first host is gone and the others have felt it.
    fn while_it_ends(&self, round: usize, end: impl FnOnce()) {
        self.going_on.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let (calls, files, archived) = (self.task(), self.task(), self.task());
            for caller in 0..2 {
                let calls = calls.clone();
                scope.spawn(move || self.call(&calls, caller));
            }
            scope.spawn(move || self.files(&files));
            let (uploads, from, to, kept) = (self.task(), self.task(), self.task(), self.task());
            scope.spawn(move || self.upload(&uploads));
            scope.spawn(move || self.transfer(&from, &to));
            scope.spawn(move || self.undelete(&kept));
            scope.spawn(move || self.archive(&archived));
            scope.spawn(move || self.register(round));
            scope.spawn(|| self.make_tasks());
            end();
            self.going_on.store(false, Ordering::Relaxed);
        });
    }
}

fn options(database: &str, volume: &std::path::Path) -> Options {
    Options::default()
        .with("DATABASE_URL", postgres().url(postgres().port(), database))
        .with("BULKHEAD_CLUSTER__VOLUME", volume.display())
        .with("BULKHEAD_CLUSTER__LEASE_MS", LEASE_MS)
        .with("BULKHEAD_QUOTA__TASKS_PER_USER", 1_000_000)
        .with("BULKHEAD_LOG", "warn")
}

#[test]
fn a_host_may_end_at_each_step() {
    let (database, volume) = (postgres().database(None), tempfile::tempdir().unwrap());
    let first = Server::start(options(&database, volume.path()));
    let second = Server::beside(&first, options(&database, volume.path()));
    for guest in ["fixtures/touch", "fixtures/ticker"] {
        first.client().register(guest);
    }
    let pair = Pair::new(first.url(), second.url(), first.key());
    let work = Work { pair, going_on: AtomicBool::new(false), done: Mutex::default() };
    let (mut first, mut second) = (first, Some(second));
    let mut taken: Vec<String> = Vec::new();
    for (round, step) in steps::ALL.into_iter().enumerate() {
        // Not always at the first time; what is taken over comes once.
        let again = step.starts_with("call.requeue");
        let taking = step == "calls.taken" || again;
        let passed = if taking { 0 } else { round % 3 };
        if taking {
            // Or it ends as it starts, or ends what was taken: that is over by then.
            until_all_ended(&database);
        }
        first.kill();
        first = first.start_again_with("END_AT_STEP", Some(format!("{step}:{passed}")));
        work.pair.urls.write().unwrap()[0] = first.url().to_owned();
        work.while_it_ends(round, || {
            if taking {
                // There must be something to take: what the second runs.
                let mut dead = second.take().unwrap();
                let task = dead.client().task();
                let body = match again {
                    true => json!({"tool": "ticker", "arguments": {"count": 30, "interval_ms": 100}}),
                    false => json!({"tool": "touch", "arguments": {"for_ms": 60_000}}),
                };
                let call = dead.client().post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
                if again {
                    taken.push(call["id"].as_str().unwrap().to_owned());
                    work.done().calls.push((task.clone(), taken[taken.len() - 1].clone(), String::new()));
                }
                work.done().tasks.push(task);
                dead.kill();
                second = Some(dead);
            }
            assert!(first.ends_within(REACHED), "`{step}` was not reached");
            if taking {
                // Clients wait for one of the two.
                let back = second.take().unwrap().start_again();
                work.pair.urls.write().unwrap()[1] = back.url().to_owned();
                second = Some(back);
            }
        });
        eprintln!("{step}: {} calls so far", work.done().calls.len());
    }
    first = first.start_again_with("END_AT_STEP", None);
    work.pair.urls.write().unwrap()[0] = first.url().to_owned();
    check(&work);
    for id in &taken {
        let call = work.pair.ask(|client| client.try_get(&format!("/v1/calls/{id}"))).expect(200);
        assert_eq!((&call["state"], &call["attempts"]), (&json!("succeeded"), &json!(2)), "{call}");
    }
    until_all_ended(&database);
    drop((first, second));
}

fn until_all_ended(database: &str) {
    let open = || postgres().psql(database, "SELECT count(*) FROM bulkhead.calls WHERE ended_at IS NULL").unwrap();
    let until = Instant::now() + PATIENCE;
    while open() != "0" {
        assert!(Instant::now() < until, "calls are left open");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn check(work: &Work) {
    let (done, pair) = (work.done(), &work.pair);
    let get = |path: String| pair.ask(move |client| client.try_get(&path));
    for (task, id, made) in &done.calls {
        let until = Instant::now() + PATIENCE;
        let call = loop {
            let call = get(format!("/v1/calls/{id}?wait=5")).expect(200);
            if call["ended_at"].is_string() {
                break call;
            }
            assert!(Instant::now() < until, "{call}");
        };
        let state = call["state"].as_str().unwrap();
        // What makes no directory is idempotent.
        let most = if made.is_empty() { 2 } else { 1 };
        assert!(call["attempts"].as_u64().unwrap() <= most && matches!(state, "succeeded" | "interrupted"), "{call}");
        if state == "succeeded" && !made.is_empty() {
            // A directory can't be read as a file.
            get(format!("/v1/tasks/{task}/files/{made}")).problem(409, "is_a_directory");
        }
    }
    for (task, name) in &done.files {
        let file = get(format!("/v1/tasks/{task}/files/{name}"));
        if done.deleted.contains(&(task.clone(), name.clone())) {
            assert_eq!(file.status, 404, "{task}/{name} was deleted");
        } else {
            assert_eq!((file.status, file.body.as_slice()), (200, name.as_bytes()), "{task}/{name}");
        }
    }
    // What is deleted is kept, once.
    let holders: HashSet<&String> = done.deleted.iter().map(|(task, _)| task).collect();
    for task in holders {
        let own = done.deleted.iter().filter(|(of, _)| of == task);
        let mut wanted: Vec<&str> = own.map(|(_, name)| name.as_str()).collect();
        wanted.sort_unstable();
        let until = Instant::now() + PATIENCE;
        loop {
            let kept = get(format!("/v1/tasks/{task}/deleted?limit=200")).expect(200);
            let mut paths: Vec<&str> =
                kept["items"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
            paths.sort_unstable();
            if paths == wanted {
                break;
            }
            // What was half deleted is finished by a round of upkeep.
            assert!(Instant::now() < until, "{task}: {paths:?}, and not {wanted:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    for (task, name) in done.arrived.iter().chain(&done.back) {
        let file = get(format!("/v1/tasks/{task}/files/{name}"));
        assert_eq!((file.status, file.body.as_slice()), (200, name.as_bytes()), "{task}/{name}");
    }
    for (task, name) in done.left.iter().chain(&done.purged) {
        get(format!("/v1/tasks/{task}/files/{name}")).problem(404, "not_found");
    }
    // Nothing is half purged, or half back.
    for task in done.back.iter().chain(&done.purged).map(|(task, _)| task).collect::<HashSet<_>>() {
        let over: HashSet<&str> =
            done.back.iter().chain(&done.purged).filter(|(of, _)| of == task).map(|(_, name)| name.as_str()).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let kept = get(format!("/v1/tasks/{task}/deleted?limit=200")).expect(200);
            let still =
                kept["items"].as_array().unwrap().iter().find(|file| over.contains(file["path"].as_str().unwrap()));
            if still.is_none() {
                break;
            }
            assert!(Instant::now() < until, "{task}: {still:?} is neither back nor gone");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    for task in &done.archived {
        assert_eq!(work.state(task), "ready");
        assert_eq!(get(format!("/v1/tasks/{task}/files/kept")).body, b"kept", "{task}");
    }
    for id in &done.tools {
        let tool = get(format!("/v1/tools/{id}?wait=20")).expect(200);
        assert_eq!(tool["state"], "ready", "{tool}");
    }
    for task in &done.tasks {
        let log: Vec<Value> = pair.log(task);
        assert_eq!(log[0]["type"], "task.created", "{task}");
        let own = done.calls.iter().filter(|(of, ..)| of == task).map(|(_, id, _)| id.as_str());
        assert_whole(&log, own);
    }
    let counts = (done.tasks.len(), done.calls.len(), done.files.len(), done.deleted.len(), done.tools.len());
    eprintln!("tasks, calls, files, deleted, tools: {counts:?}");
    let moved = (done.arrived.len(), done.left.len(), done.back.len(), done.purged.len());
    eprintln!("arrived, left, back, purged: {moved:?}");
    assert!(moved.0 > 50 && moved.1 > 20 && moved.2 > 10 && moved.3 > 10, "{moved:?}");
    assert!(done.calls.len() > 50 && done.files.len() > 50 && done.deleted.len() > 10, "{counts:?}");
}
