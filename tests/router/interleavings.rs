//! Users, tasks, calls, streams that break and go on: in whatever order and
//! however they overlap, no event reaches a stranger, and what a stream brings is
//! the log.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request, StatusCode};
use bulkhead_core::clock::NewId as _;
use bulkhead_core::event::Event;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::Store as _;
use bulkhead_core::principal::{Owner, Scopes};
use bulkhead_sandbox::contract::FakeSandbox;
use futures::StreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

use super::{Edge, System, key_of, read};

/// Two of one tenant, and one of another.
const USERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// What a user does next, and with whose: theirs, or somebody else's.
#[derive(Clone, Debug)]
enum Step {
    Make,
    Call {
        of: usize,
        nth: usize,
    },
    Follow {
        of: usize,
        nth: usize,
        after: u64,
    },
    /// One of the user's streams breaks and goes on from where it was.
    Reconnect {
        nth: usize,
    },
    Archive {
        of: usize,
        nth: usize,
    },
    Restore {
        of: usize,
        nth: usize,
    },
    Delete {
        of: usize,
        nth: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (of, nth) = (0..USERS, 0..4usize);
    prop_oneof![
        2 => Just(Step::Make),
        8 => (of.clone(), nth.clone()).prop_map(|(of, nth)| Step::Call { of, nth }),
        5 => (of.clone(), nth.clone(), 0..12u64).prop_map(|(of, nth, after)| Step::Follow { of, nth, after }),
        3 => nth.clone().prop_map(|nth| Step::Reconnect { nth }),
        1 => (of.clone(), nth.clone()).prop_map(|(of, nth)| Step::Archive { of, nth }),
        1 => (of.clone(), nth.clone()).prop_map(|(of, nth)| Step::Restore { of, nth }),
        1 => (of, nth).prop_map(|(of, nth)| Step::Delete { of, nth }),
    ]
}

/// A stream, and what it has brought so far.
struct Following {
    user: usize,
    task: String,
    after: u64,
    seen: Rc<RefCell<Vec<Value>>>,
    reading: JoinHandle<()>,
    /// Whether it was let go before its end.
    cut: bool,
}

struct World {
    edge: Edge,
    keys: Vec<String>,
    /// Of each user.
    tasks: RefCell<Vec<Vec<String>>>,
    streams: RefCell<Vec<Following>>,
    /// What should not have happened.
    wrong: RefCell<Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let edge = Edge::new().await;
        let tenants = [System.tenant_id(), System.tenant_id()];
        let mut keys = Vec::new();
        for user in 0..USERS {
            let owner = Owner { tenant: tenants[user / 2], user: System.user_id() };
            keys.push(key_of(&edge.api, owner, Scopes::all()).await);
        }
        let tasks = RefCell::new(vec![Vec::new(); USERS]);
        let world = Self { edge, keys, tasks, streams: RefCell::default(), wrong: RefCell::default() };
        for user in [0, 2] {
            let component = Body::from(FakeSandbox::component("echo"));
            let (_, made) =
                read(world.send(user, Method::POST, "/v1/tools", "application/wasm", component).await).await;
            let id = made["id"].as_str().unwrap().parse().unwrap();
            world.edge.api.services.tools.settled(id).await.unwrap();
        }
        world
    }

    async fn send(
        &self,
        user: usize,
        method: Method,
        path: &str,
        kind: &str,
        body: Body,
    ) -> axum::http::Response<Body> {
        let bearer = format!("Bearer {}", self.keys[user]);
        let request = Request::builder().method(method).uri(path).header("authorization", bearer);
        self.edge.send(request.header("content-type", kind).body(body).unwrap()).await
    }

    async fn json(&self, user: usize, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        read(self.send(user, method, path, "application/json", Body::from(body.to_string())).await).await
    }

    fn task(&self, of: usize, nth: usize) -> Option<String> {
        let tasks = self.tasks.borrow();
        let own = &tasks[of];
        (!own.is_empty()).then(|| own[nth % own.len()].clone())
    }

    /// Notes an answer that this user must not get. What is another's is not there;
    /// of what is theirs all may be that a task in whatever state answers.
    fn judge(&self, what: &Step, (user, of): (usize, usize), status: StatusCode) {
        let allowed: &[u16] = if user == of { &[200, 201, 202, 204, 404, 409, 410, 429] } else { &[404] };
        if !allowed.contains(&status.as_u16()) {
            self.wrong.borrow_mut().push(format!("user {user}, {what:?}: {status}"));
        }
    }

    async fn run(self: Rc<Self>, user: usize, step: Step) {
        match step {
            Step::Make => {
                let (status, task) = self.json(user, Method::POST, "/v1/tasks", json!({})).await;
                assert_eq!(status, 201, "{task}");
                self.tasks.borrow_mut()[user].push(task["id"].as_str().unwrap().to_owned());
            }
            Step::Call { of, nth } => {
                let Some(task) = self.task(of, nth) else { return };
                let body = json!({"tool": "echo", "arguments": {"user": user}});
                let path = format!("/v1/tasks/{task}/calls");
                let (status, _) = self.json(user, Method::POST, &path, body).await;
                self.judge(&step, (user, of), status);
            }
            Step::Follow { of, nth, after } => {
                let Some(task) = self.task(of, nth) else { return };
                let status = self.follow(user, &task, after).await;
                self.judge(&step, (user, of), status);
            }
            Step::Reconnect { nth } => {
                let from = {
                    let mut streams = self.streams.borrow_mut();
                    let own: Vec<_> = streams.iter_mut().filter(|it| it.user == user && !it.cut).collect();
                    if own.is_empty() {
                        return;
                    }
                    let which = nth % own.len();
                    let stream = own.into_iter().nth(which).unwrap();
                    stream.cut = true;
                    stream.reading.abort();
                    let seen = stream.seen.borrow();
                    (stream.task.clone(), seen.last().map_or(stream.after, |event| event["seq"].as_u64().unwrap()))
                };
                self.follow(user, &from.0, from.1).await;
            }
            Step::Archive { of, nth } | Step::Restore { of, nth } => {
                let Some(task) = self.task(of, nth) else { return };
                let what = if matches!(step, Step::Archive { .. }) { "archive" } else { "restore" };
                let path = format!("/v1/tasks/{task}/{what}");
                let (status, _) = self.json(user, Method::POST, &path, json!({})).await;
                self.judge(&step, (user, of), status);
            }
            Step::Delete { of, nth } => {
                let Some(task) = self.task(of, nth) else { return };
                let (status, _) = self.json(user, Method::DELETE, &format!("/v1/tasks/{task}"), json!({})).await;
                self.judge(&step, (user, of), status);
            }
        }
    }

    async fn follow(&self, user: usize, task: &str, after: u64) -> StatusCode {
        let path = format!("/v1/tasks/{task}/events?after={after}");
        let response = self.send(user, Method::GET, &path, "text/plain", Body::empty()).await;
        let status = response.status();
        if status == 200 {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let reading = tokio::task::spawn_local(follow(response.into_body().into_data_stream(), seen.clone()));
            let stream = Following { user, task: task.to_owned(), after, seen, reading, cut: false };
            self.streams.borrow_mut().push(stream);
        }
        status
    }

    async fn log(&self, task: &str) -> Vec<Event> {
        let id: TaskId = task.parse().unwrap();
        self.edge.store.events_after(id, 0, u32::MAX, u64::MAX).await.unwrap().map_or(Vec::new(), |page| page.events)
    }

    /// What is wrong with a stream, once it has had the time to bring all.
    async fn check(&self, stream: &Following) -> Option<String> {
        let log = self.log(&stream.task).await;
        if !self.tasks.borrow()[stream.user].contains(&stream.task) {
            return Some(format!("user {} follows another's task", stream.user));
        }
        let due = log.len().saturating_sub(stream.after as usize);
        let until = Instant::now() + PATIENCE;
        let ended = || stream.cut || stream.reading.is_finished();
        while !ended() && stream.seen.borrow().len() < due && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is packed in the background may still tell of it.
        let log = self.log(&stream.task).await;
        let seen = stream.seen.borrow();
        let most = log.len().saturating_sub(stream.after as usize);
        // It ends with the task; one that is restored goes on, for who comes again.
        let over = stream.reading.is_finished() && log.iter().any(|event| *event.body.kind == *"task.deleted");
        if seen.len() > most || !stream.cut && !over && seen.len() < due {
            return Some(format!("brought {} of {due} events", seen.len()));
        }
        let wrong = seen.iter().zip(log.iter().skip(stream.after as usize)).find(|(event, stored)| {
            let data: Value = serde_json::from_str(&stored.body.data).unwrap();
            let of = event["data"]["content"][0]["text"].as_str();
            event["seq"] != stored.seq
                || event["type"] != *stored.body.kind
                || event["data"] != data
                || of.is_some_and(|text| serde_json::from_str::<Value>(text).ok() != Some(json!({"user": stream.user})))
        });
        wrong.map(|(event, stored)| format!("{event} is in the place of {stored:?}"))
    }
}

/// Reads a stream's events until it ends.
async fn follow(mut body: BodyDataStream, seen: Rc<RefCell<Vec<Value>>>) {
    let mut text = String::new();
    while let Some(Ok(bytes)) = body.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = text.find("\n\n") {
            let message: String = text.drain(..end + 2).collect();
            if let Some(data) = message.lines().find_map(|line| line.strip_prefix("data: ")) {
                let event: Value = serde_json::from_str(data).unwrap();
                // The last words are no event of the log.
                if event["type"] != "stream.ended" {
                    seen.borrow_mut().push(event);
                }
            }
        }
    }
}

/// Starts each step when it is its turn, while those before it are still under way.
async fn play(steps: Vec<(usize, usize, Step)>) -> Result<(), TestCaseError> {
    let world = Rc::new(World::new().await);
    for user in 0..USERS {
        world.clone().run(user, Step::Make).await;
    }
    let mut running = Vec::new();
    for (user, pause, step) in steps {
        running.push(tokio::task::spawn_local(world.clone().run(user, step)));
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
    }
    for step in running {
        step.await.unwrap();
    }
    let wrong = world.wrong.take();
    prop_assert!(wrong.is_empty(), "{wrong:#?}");
    for stream in world.streams.take() {
        let wrong = world.check(&stream).await;
        prop_assert!(wrong.is_none(), "user {}, after {}: {wrong:?}", stream.user, stream.after);
        stream.reading.abort();
    }
    world.edge.api.services.upkeep.stop().await;
    Ok(())
}

#[test]
fn every_stream_is_the_log_and_its_owners_alone() {
    let cases = Cases { cases: 64, failure_persistence: None, max_shrink_iters: 200, ..Cases::default() };
    let steps = proptest::collection::vec((0..USERS, 0..24usize, step()), 1..60);
    TestRunner::new(cases)
        .run(&steps, |steps| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, play(steps))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}
