//! Many clients of two tenants, two hosts, PostgreSQL and Redis; and everything that can
//! fail fails while calls run: each call that was accepted has one outcome, each client has
//! the whole log in order, by event stream or WebSocket, and nobody sees anything of anybody
//! else.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::postgres::{Postgres, postgres};
use crate::harness::proxy::{Proxy, Weather};
use crate::harness::redis::RedisServer;
use crate::harness::tail::{Tail, Way};
use crate::harness::{Answer, Client, Options, Server};

const CLIENTS: usize = 200;
const TENANTS: usize = 2;
/// Each has some of the clients, and each tenant some of them, so that there is somebody
/// else in the same tenant and in another.
const USERS: usize = 8;
/// After so long everything must have come to its end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Events that a client takes of one stream before it goes to the other host.
const LEFT_AFTER: usize = 12;

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
    interrupted: AtomicU64,
    /// After everything was well again, until a call had ended.
    longest_ms: AtomicU64,
    /// Requests for what is another's.
    refused: AtomicU64,
    streams: Followed,
    sockets: Followed,
}

/// What came one way.
#[derive(Debug, Default)]
struct Followed {
    resumed: AtomicU64,
    events: AtomicU64,
}

/// A client: its key, its task, and what it has seen.
struct Person {
    number: usize,
    way: Way,
    key: String,
    task: String,
    /// Of a client of another tenant, and of another user of this one.
    strangers: [String; 2],
    seen: Mutex<Vec<Value>>,
    /// The calls, and what they must return.
    accepted: Mutex<Vec<(String, Option<String>)>>,
}

impl Counts {
    fn of(&self, way: Way) -> &Followed {
        if way == Way::Socket { &self.sockets } else { &self.streams }
    }
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
            let said = (nth % 3 > 0).then(|| format!("{}/{nth}", person.number));
            let body = match &said {
                None => json!({"tool": "ticker", "arguments": {"count": 3, "interval_ms": 100}}),
                Some(text) => json!({"tool": "echo", "arguments": {"text": text}}),
            };
            // The same key with every try: it is one call. Other users have the same keys.
            let key = format!("{}/{nth}", person.number / USERS);
            let path = format!("/v1/tasks/{}/calls?wait=5", person.task);
            let answer = self.ask(person, |client| client.try_post_with(&path, &body, &[("idempotency-key", &key)]));
            assert!(matches!(answer.status, 200 | 202), "{:?}", answer.json());
            person.accepted.lock().unwrap().push((answer.json()["id"].as_str().unwrap().to_owned(), said));
            self.counts.accepted.fetch_add(1, Ordering::Relaxed);
            if nth % 3 == 2 {
                self.try_what_is_anothers(person, nth / 3);
            }
            std::thread::sleep(Duration::from_millis(700 + person.number as u64 * 3));
        }
    }

    /// Now of one stranger and now of the other; what is not there is told as a problem,
    /// whichever host is asked and whatever fails meanwhile.
    fn try_what_is_anothers(&self, person: &Person, turn: usize) {
        let path = format!("/v1/tasks/{}", person.strangers[turn % 2]);
        let paths = [path.clone(), format!("{path}/events"), format!("{path}/calls")];
        let answer = self.ask(person, |client| client.try_get(&paths[turn / 2 % 3]));
        answer.problem(404, "not_found");
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Follows the log, now at one host and now at the other, each time from where it was.
    fn follow(&self, person: &Person) {
        for host in person.number.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let after = person.seen.lock().unwrap().last().map_or(0, |event| event["seq"].as_u64().unwrap());
            let client = self.client(host, &person.key);
            if let Some(mut tail) = Tail::try_open(&client, person.way, &person.task, after) {
                if after > 0 {
                    self.counts.of(person.way).resumed.fetch_add(1, Ordering::Relaxed);
                }
                // Whatever lasts is left after a while, in the middle of a call.
                for _ in 0..LEFT_AFTER + person.number % 5 {
                    let Some(event) = tail.try_next() else { break };
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
        assert_eq!(
            accepted.iter().map(|(id, _)| id).collect::<HashSet<_>>().len(),
            accepted.len(),
            "a key is one call"
        );
        for (id, said) in &accepted {
            let call = self.ended(person, id);
            if call["task"] != person.task {
                return Err(format!("{id} is not of {}: {call}", person.task));
            }
            match call["state"].as_str().unwrap() {
                "succeeded" if said.as_ref().is_none_or(|said| Client::text_of(&call) == *said) => {}
                "interrupted" => {
                    self.counts.interrupted.fetch_add(1, Ordering::Relaxed);
                }
                other => return Err(format!("{id} is {other}: {call}")),
            }
        }
        let task = self.ask(person, |client| client.try_get(&format!("/v1/tasks/{}", person.task))).expect(200);
        self.has_the_whole_log(person, task["last_event"].as_u64().unwrap() as usize, &accepted)
    }

    /// A call that has ended. What its host does not know of any more is found by the second
    /// look for such calls, so that it may take a while; it must not take longer than that.
    fn ended(&self, person: &Person, id: &str) -> Value {
        let begun = Instant::now();
        loop {
            let call = self.ask(person, |client| client.try_get(&format!("/v1/calls/{id}?wait=5"))).expect(200);
            let waited = begun.elapsed();
            let goes_on = matches!(call["state"].as_str(), Some("queued" | "running" | "waiting"));
            if !goes_on || waited > PATIENCE {
                self.counts.longest_ms.fetch_max(waited.as_millis() as u64, Ordering::Relaxed);
                return call;
            }
        }
    }

    /// All events up to the last, in order, as they are stored, and one end of each call.
    fn has_the_whole_log(
        &self,
        person: &Person,
        last: usize,
        accepted: &[(String, Option<String>)],
    ) -> Result<(), String> {
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
        if let Some((id, _)) = accepted.iter().find(|(id, _)| ends.get(id.as_str()) != Some(&1)) {
            return Err(format!("{id} has {:?} ends in the log", ends.get(id.as_str())));
        }
        if let Some((id, count)) = ends.iter().find(|(_, count)| **count != 1) {
            return Err(format!("{id} has {count} ends in the log"));
        }
        // And each is the log's, whatever number it had.
        let log = self.client(person.number, &person.key).follow(&person.task, &[], "");
        let log = log.until(|event| event["seq"].as_u64() == Some(last as u64));
        let other = log.iter().zip(&seen).find(|(stored, seen)| stored != seen);
        if let Some((stored, seen)) = other {
            return Err(format!("{seen} was shown in the place of {stored}"));
        }
        self.counts.of(person.way).events.fetch_add(seen.len() as u64, Ordering::Relaxed);
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

/// Clients of several users of several tenants.
fn people(server: &Server, count: usize) -> Vec<Person> {
    let client = |user: usize| {
        let tenant = format!("ten_01hzzzzzzzzzzzzzzzzzzzzz{:02}", user % TENANTS);
        let user = format!("usr_01hzzzzzzzzzzzzzzzzzzzzz{user:02}");
        server.client_with(&["--tenant", &tenant, "--user", &user])
    };
    let clients: Vec<Client> = (0..USERS).map(client).collect();
    for client in &clients[..TENANTS] {
        for guest in ["fixtures/echo", "fixtures/ticker"] {
            client.register(guest);
        }
    }
    let person = |number: usize| Person {
        number,
        way: Way::of(number),
        key: clients[number % USERS].key().to_owned(),
        task: String::new(),
        strangers: Default::default(),
        seen: Mutex::default(),
        accepted: Mutex::default(),
    };
    (0..count).map(person).collect()
}

/// Events of a call that somebody else made, or saw before.
fn foreign(people: &[Person]) -> u32 {
    let mut owners: HashMap<String, usize> = HashMap::new();
    for person in people {
        let accepted = person.accepted.lock().unwrap();
        owners.extend(accepted.iter().map(|(id, _)| (id.clone(), person.number)));
    }
    let mut foreign = 0;
    for person in people {
        for event in person.seen.lock().unwrap().iter() {
            // Whose a call is that was accepted and not told, only its client has heard.
            if let Some(call) = event["call"].as_str() {
                foreign += u32::from(*owners.entry(call.to_owned()).or_insert(person.number) != person.number);
            }
        }
    }
    foreign
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
        let tasks: Vec<String> = people.iter().map(|person| person.task.clone()).collect();
        for person in &mut people {
            // The first of them are one of each user.
            person.strangers = [1, TENANTS].map(|far| tasks[(person.number + far) % USERS].clone());
        }
        let failures: Vec<String> = std::thread::scope(|scope| {
            let callers: Vec<_> = people.iter().map(|person| scope.spawn(|| self.make_calls(person))).collect();
            for person in &people {
                scope.spawn(|| self.follow(person));
            }
            let begun = Instant::now();
            fails(&|seconds| std::thread::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed())));
            self.calling.store(false, Ordering::Relaxed);
            // Whoever panics has said why; the others still come to their end, or none would.
            let called =
                callers.into_iter().filter_map(|caller| caller.join().err()).map(|_| "a caller panicked".into());
            let mut failures: Vec<String> = called.collect();
            let checks: Vec<_> = people.iter().map(|person| scope.spawn(|| self.check(person))).collect();
            let checked =
                checks.into_iter().map(|check| check.join().unwrap_or_else(|_| Err("a check panicked".into())));
            failures.extend(checked.filter_map(Result::err));
            self.over.store(true, Ordering::Relaxed);
            // An event each, so that who waits for one finds that it is over.
            for person in &people {
                self.ask(person, |client| client.try_post(&format!("/v1/tasks/{}/archive", person.task), &json!({})));
            }
            failures
        });
        let (count, foreign) = (people.len(), foreign(&people));
        // Not by a macro, whose output is shown of tests that fail alone.
        let _ = writeln!(
            std::io::stderr(),
            "{count} clients of {TENANTS} tenants: {:?}, {foreign} foreign events, {} failures",
            self.counts,
            failures.len()
        );
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!(foreign, 0);
        assert!(self.counts.accepted.load(Ordering::Relaxed) > count as u64);
        assert!(self.counts.refused.load(Ordering::Relaxed) > 0, "strangers were asked for");
        let both = [&self.counts.streams, &self.counts.sockets];
        assert!(
            both.iter().all(|it| it.events.load(Ordering::Relaxed) > count as u64),
            "of either way there were some"
        );
        let resumed = both.iter().map(|it| it.resumed.load(Ordering::Relaxed)).sum::<u64>();
        assert!(resumed > count as u64, "they broke or were left, and were resumed");
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
