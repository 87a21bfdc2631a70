//! Many users at once, as they work: each has a token of an issuer, a task, and a
//! live stream of its events, and makes calls, reads them, writes and reads files,
//! and now and then tries what is somebody else's.
//!
//! Each asks the hosts in turn, and follows at each in turn: a stream is cut after some
//! events and goes on at the next host. So what one host does is read at another, and
//! half of all requests are for the host that does not hold the task.
//!
//! The benchmark `load -- users` prints what comes of it; a scenario runs a smaller
//! one and demands it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::issuer::{SigningKey, now, set};
use super::postgres::postgres;
use super::provider::{Issuer, RESOURCE};
use super::redis::RedisServer;
use super::tail::{Tail, Way};
use super::{Answer, Client, Options, Server};

/// How many, and for how long.
#[derive(Clone, Copy)]
pub struct Plan {
    pub users: usize,
    pub tenants: usize,
    pub length: Duration,
    /// Between two requests of a user.
    pub pause: Duration,
    /// Hosts on one PostgreSQL and Redis; one host with SQLite, if there is one.
    pub hosts: usize,
    /// A stream is cut when so many events have come of it.
    pub cut_after: usize,
}

/// What came of it.
pub struct Report {
    plan: Plan,
    /// By route: how long each request took that succeeded, sorted.
    pub routes: BTreeMap<&'static str, Vec<Duration>>,
    pub requests: u64,
    /// Those that did not do what they must: at most a few are kept.
    pub failed: u64,
    pub failures: Vec<String>,
    pub events: u64,
    /// How often streams were cut, of all users and of the one with the fewest.
    pub cuts: (u64, u64),
    /// Events that somebody's log has and the stream did not bring, or not in order, or twice.
    pub lost: u64,
    /// Events of a call that is somebody else's.
    pub foreign: u64,
    /// Proportional memory of all hosts with their workers, in bytes: at times, evenly.
    pub memory: Vec<u64>,
    /// Connections that Redis counts, its own command line's left out.
    pub redis_connections: Option<u64>,
}

/// How often memory is looked at.
const LOOKS: u32 = 12;
/// How long what is under way may take to end.
const PATIENCE: Duration = Duration::from_secs(60);
const SCOPES: &str = "tasks:read tasks:write calls:run files:read files:write tools:read tools:write";

struct User {
    number: usize,
    /// One of each host, of the one that holds the task first.
    clients: Vec<Client>,
    task: String,
    /// Of another tenant, and of another user of this one.
    strangers: [String; 2],
    calls: Mutex<HashSet<String>>,
    seen: Mutex<Vec<Value>>,
    cuts: AtomicU64,
}

#[derive(Default)]
struct Tally {
    over: AtomicBool,
    requests: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
    times: Mutex<BTreeMap<&'static str, Vec<Duration>>>,
}

/// What is behind a lock, though somebody panicked: the panic is told in its own place.
fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The requests of one user, counted.
struct Asking<'a> {
    tally: &'a Tally,
    times: Vec<(&'static str, Duration)>,
}

impl Asking<'_> {
    /// Sends one and says whether it did what it must.
    fn ask(
        &mut self,
        route: &'static str,
        send: impl FnOnce() -> Option<Answer>,
        well: impl FnOnce(&Answer) -> bool,
    ) -> Option<Answer> {
        let begun = Instant::now();
        let answer = send();
        let took = begun.elapsed();
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        if answer.as_ref().is_some_and(well) {
            self.times.push((route, took));
            return answer;
        }
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = held(&self.tally.failures);
        if failures.len() < 20 {
            failures.push(format!("{route} after {took:?}: {:?}", answer.map(|it| (it.status, text(&it.body)))));
        }
        None
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(400).collect()
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut times = held(&self.tally.times);
        self.times.drain(..).for_each(|(route, took)| times.entry(route).or_default().push(took));
    }
}

impl User {
    /// A client of the host whose turn it is.
    fn at(&self, turn: usize) -> &Client {
        &self.clients[turn % self.clients.len()]
    }

    /// Works until the time is up.
    fn work(&self, tally: &Tally, until: Instant, pause: Duration) {
        let mut asking = Asking { tally, times: Vec::new() };
        // Not all at once.
        std::thread::sleep(pause * (self.number % 16) as u32 / 16);
        for nth in 0.. {
            if Instant::now() > until {
                return;
            }
            match nth % 5 {
                0 | 2 => self.call(&mut asking, nth),
                1 => self.write_and_read(&mut asking, nth),
                3 => {
                    let path = format!("/v1/tasks/{}", self.task);
                    asking.ask("GET /v1/tasks/{id}", || self.at(nth).try_get(&path), |it| it.status == 200);
                }
                _ => {
                    // What is not theirs is not there.
                    let path = format!("/v1/tasks/{}", self.strangers[nth / 5 % 2]);
                    asking.ask("GET a stranger's task", || self.at(nth).try_get(&path), |it| it.status == 404);
                }
            }
            std::thread::sleep(pause);
        }
    }

    fn call(&self, asking: &mut Asking<'_>, nth: usize) {
        let said = format!("{}/{nth}", self.number);
        let body = json!({"tool": "echo", "arguments": {"text": said}});
        let path = format!("/v1/tasks/{}/calls?wait=30", self.task);
        let right = |it: &Answer| it.status == 200 && Client::text_of(&it.json()) == said;
        let answer = asking.ask("POST /v1/tasks/{id}/calls", || self.at(nth).try_post(&path, &body), right);
        let Some(answer) = answer else { return };
        let id = answer.json()["id"].as_str().unwrap_or_default().to_owned();
        held(&self.calls).insert(id.clone());
        let path = format!("/v1/calls/{id}");
        let same = |it: &Answer| it.status == 200 && it.json()["id"] == id;
        asking.ask("GET /v1/calls/{id}", || self.at(nth + 1).try_get(&path), same);
    }

    fn write_and_read(&self, asking: &mut Asking<'_>, nth: usize) {
        let (name, body) = (nth % 7, format!("{}/{nth}\n", self.number).repeat(64));
        let path = format!("/v1/tasks/{}/files/notes/{name}.txt", self.task);
        let put = || self.at(nth).try_put(&path, body.as_bytes());
        let stored = asking.ask("PUT /v1/tasks/{id}/files/{path}", put, |it| matches!(it.status, 200 | 201 | 204));
        if stored.is_some() {
            let same = |it: &Answer| it.status == 200 && it.body == body.as_bytes();
            asking.ask("GET /v1/tasks/{id}/files/{path}", || self.at(nth + 1).try_get(&path), same);
        }
    }

    /// Follows the log until all is over, at each host in turn, each time from where it was.
    fn follow(&self, tally: &Tally, cut_after: usize) {
        // First at one that hears of the task from another.
        for turn in 1.. {
            if tally.over.load(Ordering::Relaxed) {
                return;
            }
            let after = held(&self.seen).last().map_or(0, |event| event["seq"].as_u64().unwrap_or(0));
            let Some(mut tail) = Tail::try_open(self.at(turn), Way::of(self.number), &self.task, after) else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            // Not each in the same place of a call.
            let wanted = cut_after + self.number % 3;
            let events = (0..wanted).map_while(|_| tail.try_next());
            if events.map(|event| held(&self.seen).push(event)).count() == wanted {
                self.cuts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many events are missing, doubled or out of order; they may come until then.
    fn lost(&self, until: Instant) -> u64 {
        let path = format!("/v1/tasks/{}", self.task);
        let last = self.at(0).try_get(&path).map_or(0, |it| it.json()["last_event"].as_u64().unwrap_or(0));
        while (held(&self.seen).len() as u64) < last && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let seen = held(&self.seen);
        let wrong = seen.iter().zip(1u64..).filter(|(event, seq)| event["seq"] != *seq).count() as u64;
        let ended: HashSet<&str> = seen
            .iter()
            .filter(|event| event["type"] == "call.ended")
            .filter_map(|event| event["call"].as_str())
            .collect();
        let silent = held(&self.calls).iter().filter(|id| !ended.contains(id.as_str())).count() as u64;
        wrong + silent + last.saturating_sub(seen.len() as u64)
    }
}

fn servers(plan: Plan, issuer: &Issuer, redis: Option<&RedisServer>) -> Vec<Server> {
    let database = redis.map(|_| postgres().database(None));
    let options = || {
        let mut options = Options::default()
            .with("BULKHEAD_TOKENS__ISSUERS", json!([issuer.config(json!({}))]))
            .with("BULKHEAD_TOKENS__RESOURCE", RESOURCE)
            .with("BULKHEAD_LOG", "warn");
        if let (Some(database), Some(redis)) = (&database, redis) {
            options = options
                .with("DATABASE_URL", postgres().url(postgres().port(), database))
                .with("REDIS_URL", redis.url(redis.port()));
        }
        options
    };
    let first = Server::start(options());
    let others: Vec<_> = (1..plan.hosts).map(|_| Server::beside(&first, options())).collect();
    std::iter::once(first).chain(others).collect()
}

fn users(plan: Plan, servers: &[Server], issuer: &Issuer, key: &SigningKey) -> Vec<User> {
    let clients = |number: usize| -> Vec<Client> {
        let mut claims = issuer.claims(&format!("user-{number}"), SCOPES);
        claims["org"] = format!("org-{}", number % plan.tenants).into();
        claims["exp"] = (now() + 7_200).into();
        let token = key.sign(&claims);
        // So that those of one tenant are on all hosts.
        let home = number / plan.tenants;
        (0..servers.len())
            .map(|turn| &servers[(home + turn) % servers.len()])
            .map(|server| server.client().with_key(Some(&token)))
            .collect()
    };
    for first in 0..plan.tenants.min(plan.users) {
        clients(first)[0].register("fixtures/echo");
    }
    let made: Vec<(Vec<Client>, String)> =
        (0..plan.users).map(clients).map(|clients| (clients.clone(), clients[0].task())).collect();
    let task = |number: usize| made[number % plan.users].1.clone();
    made.iter()
        .enumerate()
        .map(|(number, (clients, own))| User {
            number,
            clients: clients.clone(),
            task: own.clone(),
            strangers: [task(number + 1), task(number + plan.tenants)],
            calls: Mutex::default(),
            seen: Mutex::default(),
            cuts: AtomicU64::new(0),
        })
        .collect()
}

/// Events of calls that are another user's.
fn foreign(users: &[User]) -> u64 {
    let owners: HashMap<String, usize> =
        users.iter().flat_map(|user| held(&user.calls).clone().into_iter().map(|id| (id, user.number))).collect();
    let of = |user: &User| {
        let seen = held(&user.seen);
        let calls = seen.iter().filter_map(|event| event["call"].as_str());
        calls.filter(|id| owners.get(*id).is_some_and(|owner| *owner != user.number)).count() as u64
    };
    users.iter().map(of).sum()
}

fn cuts(users: &[User]) -> (u64, u64) {
    let of = || users.iter().map(|user| user.cuts.load(Ordering::Relaxed));
    (of().sum(), of().min().unwrap_or_default())
}

/// Runs it.
pub fn run(plan: Plan) -> Report {
    let key = SigningKey::new("EdDSA", "load");
    let issuer = Issuer::start(Some(set(&[&key])));
    let redis = (plan.hosts > 1).then(RedisServer::start);
    let servers = servers(plan, &issuer, redis.as_ref());
    let users = users(plan, &servers, &issuer, &key);
    let tally = Tally::default();
    let (mut memory, mut lost) = (Vec::new(), 0);
    let mut redis_connections = None;
    let (counted, until) = (&tally, Instant::now() + plan.length);
    std::thread::scope(|scope| {
        for user in &users {
            scope.spawn(|| user.follow(counted, plan.cut_after));
        }
        let working: Vec<_> =
            users.iter().map(|user| scope.spawn(move || user.work(counted, until, plan.pause))).collect();
        for _ in 0..LOOKS {
            std::thread::sleep(plan.length / LOOKS);
            memory.push(servers.iter().map(|server| memory_of(server.pid())).sum());
        }
        redis_connections = redis.as_ref().map(|redis| {
            redis.cli(&["CLIENT", "LIST"]).lines().filter(|line| !line.contains("cmd=client|list")).count() as u64
        });
        let broke = working.into_iter().filter_map(|worker| worker.join().err()).count();
        tally.failed.fetch_add(broke as u64, Ordering::Relaxed);
        let until = Instant::now() + PATIENCE;
        lost = users.iter().map(|user| user.lost(until)).sum();
        tally.over.store(true, Ordering::Relaxed);
        // Streams end with the servers.
        drop(servers);
    });
    let mut routes = std::mem::take(&mut *held(&tally.times));
    routes.values_mut().for_each(|times| times.sort_unstable());
    Report {
        plan,
        routes,
        requests: tally.requests.load(Ordering::Relaxed),
        failed: tally.failed.load(Ordering::Relaxed),
        failures: held(&tally.failures).clone(),
        cuts: cuts(&users),
        events: users.iter().map(|user| held(&user.seen).len() as u64).sum(),
        lost,
        foreign: foreign(&users),
        memory,
        redis_connections,
    }
}

/// What a process and its children take, shared pages by their share.
fn memory_of(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    let of = |pid: &u32| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    std::iter::once(&pid).chain(&children).filter_map(of).sum()
}

/// The value that so many in a hundred do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

impl Report {
    /// How many of a hundred requests did what they must.
    pub fn success(&self) -> f64 {
        100.0 - 100.0 * self.failed as f64 / self.requests.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { users, tenants, length, hosts, .. } = self.plan;
        let store = if hosts > 1 { "PostgreSQL and Redis" } else { "SQLite" };
        writeln!(
            f,
            "{users} users of {tenants} tenants, each with a task and a stream; {hosts} hosts, {store}; {length:?}"
        )?;
        let rate = self.requests as f64 / length.as_secs_f64();
        writeln!(f, "{} requests, {rate:.0}/s, {:.3} % well; {} failed", self.requests, self.success(), self.failed)?;
        writeln!(f, "{} events followed, {} lost, {} foreign", self.events, self.lost, self.foreign)?;
        let (all, fewest) = self.cuts;
        writeln!(f, "{all} streams cut and resumed, {fewest} of a user at least, a third of them WebSockets")?;
        for (route, times) in &self.routes {
            let [p50, p95, p99] = [50, 95, 99].map(|percent| percentile(times, percent));
            writeln!(f, "  {route:<34} {:>7}  p50 {p50:>7.2}  p95 {p95:>7.2}  p99 {p99:>7.2} ms", times.len())?;
        }
        let mib: Vec<String> = self.memory.iter().map(|bytes| format!("{:.0}", *bytes as f64 / 1_048_576.0)).collect();
        writeln!(f, "memory of all hosts and workers: {} MiB", mib.join(" "))?;
        if let Some(connections) = self.redis_connections {
            writeln!(f, "connections to Redis: {connections} of {hosts} hosts")?;
        }
        self.failures.iter().try_for_each(|failure| writeln!(f, "  failed: {failure}"))
    }
}
