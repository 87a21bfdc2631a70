//! Many clients, two hosts, PostgreSQL and Redis; and everything that can fail fails
//! while calls run: each call that was accepted has one outcome, each client has the
//! whole log in order, and nobody sees anything of anybody else.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::postgres::{Postgres, postgres};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::redis::RedisServer;
use crate::harness::{Answer, Client, Options, Server};

const CLIENTS: usize = 200;
/// Each has some of the clients, so that there is somebody else in the same tenant.
const USERS: usize = 8;
/// After so long everything must have come to its end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What all clients share.
struct World {
    /// By host; changed when one comes back with another port.
    urls: RwLock<[String; 2]>,
    calling: AtomicBool,
    over: AtomicBool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    retried: AtomicU64,
    resumed: AtomicU64,
    interrupted: AtomicU64,
    events: AtomicU64,
}

/// A client: its key, its task, and what it has seen.
struct Person {
    number: usize,
    key: String,
    task: String,
    seen: Mutex<Vec<Value>>,
    accepted: Mutex<Vec<String>>,
}

impl World {
    fn client(&self, host: usize, key: &str) -> Client {
        Client::new(&self.urls.read().unwrap()[host % 2], Some(key))
    }

    /// Asks hosts in turn until one gives an answer that is final.
    fn ask(&self, person: &Person, ask: impl Fn(&Client) -> Option<Answer>) -> Answer {
        let until = Instant::now() + PATIENCE;
        for host in person.number.. {
            match ask(&self.client(host, &person.key)) {
                Some(answer) if answer.status < 500 && answer.status != 429 => return answer,
                answer => {
                    assert!(Instant::now() < until, "{:?}", answer.map(|answer| answer.json()));
                    self.counts.retried.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
        unreachable!("hosts are asked for ever")
    }

    fn make_calls(&self, person: &Person) {
        for nth in 0.. {
            if !self.calling.load(Ordering::Relaxed) {
                return;
            }
            let body = match nth % 3 {
                0 => json!({"tool": "ticker", "arguments": {"count": 3, "interval_ms": 100}}),
                _ => json!({"tool": "echo", "arguments": {"text": format!("{}/{nth}", person.number)}}),
            };
            // The same key with every try: it is one call.
            let key = format!("{}/{nth}", person.task);
            let path = format!("/v1/tasks/{}/calls?wait=5", person.task);
            let answer = self.ask(person, |client| client.try_post_with(&path, &body, &[("idempotency-key", &key)]));
            assert!(matches!(answer.status, 200 | 202), "{:?}", answer.json());
            person.accepted.lock().unwrap().push(answer.json()["id"].as_str().unwrap().to_owned());
            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(700 + person.number as u64 * 3));
        }
    }

    /// Follows the log, now at one host and now at the other, each time from where it was.
    fn follow(&self, person: &Person) {
        for host in person.number.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let after = person.seen.lock().unwrap().last().map_or(0, |event| event["seq"].as_u64().unwrap());
            let client = self.client(host, &person.key);
            if let Some(mut stream) = client.try_follow(&person.task, after) {
                if after > 0 {
                    self.counts.resumed.fetch_add(1, Ordering::Relaxed);
                }
                while let Some(event) = stream.try_next() {
                    person.seen.lock().unwrap().push(event);
                    if self.over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The end of all: what was accepted has ended, and the log says so once for each.
    fn check(&self, person: &Person) -> Result<(), String> {
        let accepted = person.accepted.lock().unwrap().clone();
        assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), accepted.len(), "a key is one call");
        for id in &accepted {
            let path = format!("/v1/calls/{id}?wait=5");
            let call = self.ask(person, |client| client.try_get(&path)).expect(200);
            match call["state"].as_str().unwrap() {
                "succeeded" => {}
                "interrupted" => {
                    self.counts.interrupted.fetch_add(1, Ordering::Relaxed);
                }
                other => return Err(format!("{id} is {other}: {call}")),
            }
        }
        let task = self.ask(person, |client| client.try_get(&format!("/v1/tasks/{}", person.task))).expect(200);
        let last = task["last_event"].as_u64().unwrap() as usize;
        let until = Instant::now() + PATIENCE;
        while person.seen.lock().unwrap().len() < last {
            if Instant::now() > until {
                return Err(format!("saw {} of {last} events", person.seen.lock().unwrap().len()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let seen = person.seen.lock().unwrap().clone();
        let mut ends: HashMap<&str, usize> = HashMap::new();
        for (place, event) in seen.iter().enumerate() {
            if event["seq"] != place as u64 + 1 {
                return Err(format!("event {} in place {place}", event["seq"]));
            }
            let call = event["call"].as_str().unwrap_or_default();
            // A call whose acceptance was never told is this client's as well: its key says whose.
            if event["type"] == "call.ended" {
                *ends.entry(call).or_default() += 1;
            }
        }
        if let Some(id) = accepted.iter().find(|id| ends.get(id.as_str()) != Some(&1)) {
            return Err(format!("{id} has {:?} ends in the log", ends.get(id.as_str())));
        }
        if let Some((id, count)) = ends.iter().find(|(_, count)| **count != 1) {
            return Err(format!("{id} has {count} ends in the log"));
        }
        self.counts.events.fetch_add(seen.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// By the addresses of the database and of Redis.
fn options((database, redis): &(String, String)) -> Options {
    Options::default()
        .with("DATABASE_URL", database)
        .with("REDIS_URL", redis)
        .with("BULKHEAD_HTTP__STREAMS_PER_USER", CLIENTS)
        .with("BULKHEAD_DISPATCH__QUEUED_PER_OWNER", 1_000)
        .with("BULKHEAD_LOG", "warn")
}

/// Clients of several users of one tenant, each with a task of its own.
fn people(server: &Server, count: usize) -> Vec<Person> {
    let operator = server.client();
    for guest in ["fixtures/echo", "fixtures/ticker"] {
        operator.register(guest);
    }
    let tenant = operator.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
    let key = |user: usize| {
        let user = format!("usr_01hzzzzzzzzzzzzzzzzzzzzz{user:02}");
        server.client_with(&["--tenant", &tenant, "--user", &user]).key().to_owned()
    };
    let keys: Vec<String> = (0..USERS).map(key).collect();
    let person = |number: usize| {
        let key = keys[number % USERS].clone();
        Person { number, key, task: String::new(), seen: Mutex::default(), accepted: Mutex::default() }
    };
    (0..count).map(person).collect()
}

impl World {
    fn of(a: &Server, b: &Server) -> Self {
        let urls = RwLock::new([a.url().to_owned(), b.url().to_owned()]);
        World { urls, calling: AtomicBool::new(true), over: AtomicBool::new(false), counts: Counts::default() }
    }

    /// Has all of them call and follow while what fails fails, `at` so many seconds; then
    /// looks what came of it.
    fn during(&self, mut people: Vec<Person>, fails: impl FnOnce(&dyn Fn(u64))) {
        for person in &mut people {
            person.task = self.client(person.number, &person.key).task();
        }
        let failures: Vec<String> = std::thread::scope(|scope| {
            let callers: Vec<_> = people.iter().map(|person| scope.spawn(|| self.make_calls(person))).collect();
            for person in &people {
                scope.spawn(|| self.follow(person));
            }
            let begun = Instant::now();
            fails(&|seconds| std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed())));
            self.calling.store(false, Ordering::Relaxed);
            callers.into_iter().for_each(|caller| caller.join().unwrap());
            let checks: Vec<_> = people.iter().map(|person| scope.spawn(|| self.check(person))).collect();
            let checked = checks.into_iter().filter_map(|check| check.join().unwrap().err()).collect();
            self.over.store(true, Ordering::Relaxed);
            // An event each, so that who waits for one finds that it is over.
            for person in &people {
                self.ask(person, |client| client.try_post(&format!("/v1/tasks/{}/archive", person.task), &json!({})));
            }
            checked
        });
        // Whose call it is, only its client has heard of it.
        let mut owners: HashMap<String, usize> = HashMap::new();
        let mut foreign = 0;
        for person in &people {
            for event in person.seen.lock().unwrap().iter() {
                if let Some(call) = event["call"].as_str() {
                    foreign += u32::from(*owners.entry(call.to_owned()).or_insert(person.number) != person.number);
                }
            }
        }
        let count = people.len();
        eprintln!("{count} clients: {:?}, {foreign} foreign events, {} failures", self.counts, failures.len());
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!(foreign, 0);
        assert!(self.counts.accepted.load(Ordering::Relaxed) > count as u64);
        assert!(self.counts.resumed.load(Ordering::Relaxed) > 0, "streams broke and were resumed");
    }
}

#[test]
fn nothing_is_lost_or_shown_to_strangers_while_everything_fails() {
    let mut redis = RedisServer::start();
    let (database, proxy) = (postgres().database(None), Proxy::before(postgres().port()));
    let urls = (postgres().url(proxy.port(), &database), redis.url(redis.port()));
    let first = Server::start(options(&urls));
    let b = Server::beside(&first, options(&urls));
    let mut a = Some(first);
    let people = people(a.as_ref().unwrap(), CLIENTS);
    let world = World::of(a.as_ref().unwrap(), &b);
    world.during(people, |at| {
        at(3);
        redis.cli(&["FLUSHALL"]);
        at(5);
        let mut dead = a.take().unwrap();
        dead.kill();
        at(8);
        let again = dead.start_again();
        world.urls.write().unwrap()[0] = again.url().to_owned();
        a = Some(again);
        at(12);
        proxy.set(Weather::Gone);
        at(17);
        proxy.set(Weather::Fair);
        at(19);
        redis.kill();
        at(21);
        redis.start_again();
        at(24);
    });
    let calls = postgres().psql(&database, "SELECT count(*) FROM bulkhead.calls WHERE ended_at IS NULL").unwrap();
    assert_eq!(calls, "0", "no call is left open");
}

/// What is worse than to be gone: to be slow, to hang, to leave connections behind that
/// nobody hears of again, and to come back without a part of one's memory.
#[test]
fn slow_and_hanging_servers_and_ones_that_crash_cost_time_and_nothing_else() {
    let redis = RedisServer::start();
    let own = Postgres::start(true);
    let database = own.database(None);
    let (before_postgres, before_redis) = (Proxy::before(own.port()), Proxy::before(redis.port()));
    let urls = (own.url(before_postgres.port(), &database), redis.url(before_redis.port()));
    let a = Server::start(options(&urls));
    let b = Server::beside(&a, options(&urls));
    let people = people(&a, CLIENTS / 4);
    let world = World::of(&a, &b);
    world.during(people, |at| {
        at(2);
        before_redis.delay(Duration::from_millis(300));
        at(5);
        before_redis.set(Weather::Hanging);
        before_redis.freeze();
        at(8);
        before_redis.set(Weather::Fair);
        before_redis.delay(Duration::ZERO);
        at(9);
        before_postgres.delay(Duration::from_millis(60));
        at(12);
        before_postgres.delay(Duration::ZERO);
        before_postgres.freeze();
        at(15);
        before_postgres.set(Weather::Hanging);
        before_postgres.freeze();
        at(18);
        before_postgres.set(Weather::Fair);
        at(20);
        own.crash();
        at(24);
    });
    let calls = own.psql(&database, "SELECT count(*) FROM bulkhead.calls WHERE ended_at IS NULL").unwrap();
    assert_eq!(calls, "0", "no call is left open");
}
