//! With a Redis server of the tests' own: what hosts tell each other and count
//! together, and that nothing depends on it.

#![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
#![allow(dead_code, unreachable_pub, reason = "the harness is shared with the tests of whole servers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::{Event, EventBody, NewEvent, PURGED};
use bulkhead_core::id::{CallId, TaskId, TenantId, UserId};
use bulkhead_core::ports::live::{Connections as _, Heard, Live as _, Opened};
use bulkhead_core::ports::rates::{Counted, Counts, Rate, Rates, Taken};
use bulkhead_core::principal::Owner;

use self::server::RedisServer;
use super::{Redis, RedisConfig, RedisRates, RedisUrl, SharedRate};
use crate::proxy::{Proxy, Weather};

#[path = "../../../../tests/harness/redis.rs"]
mod server;

const SOON: Duration = Duration::from_secs(20);

fn owner(user: u64) -> Owner {
    Owner { tenant: TenantId::from_parts(1, 0), user: UserId::from_parts(user, 0) }
}

fn task(number: u64) -> TaskId {
    TaskId::from_parts(number, 0)
}

fn event(seq: u64) -> Arc<Event> {
    let body = EventBody::CallProgress { done: seq, total: None, message: Some("§ \"quoted\"\n".into()) };
    let call = seq.is_multiple_of(2).then(|| CallId::from_parts(seq, 0));
    Arc::new(Event { seq, body: NewEvent::new(Timestamp::from_millis(seq as i64), call, &body) })
}

fn config(url: &str) -> RedisConfig {
    RedisConfig {
        url: RedisUrl::parse(url).unwrap(),
        prefix: "test".into(),
        timeout: Duration::from_millis(500),
        tail_events: 100,
        tail_ttl: Duration::from_secs(60),
    }
}

async fn host(url: &str, name: &str) -> Arc<Redis> {
    let redis = Redis::new(config(url), name.into()).unwrap();
    until("it is up", || redis.is_up()).await;
    assert_eq!(heard(&redis).await, Heard::LookAtAll);
    redis
}

async fn heard(redis: &Redis) -> Heard {
    tokio::time::timeout(SOON, redis.heard()).await.expect("something is heard")
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The tail, once it has so many events.
async fn tail(redis: &Redis, number: u64, after: u64, count: usize) -> Vec<Event> {
    let until = Instant::now() + SOON;
    loop {
        let tail = redis.tail(owner(1).tenant, task(number), after).await;
        if tail.len() >= count {
            return tail;
        }
        assert!(Instant::now() < until, "{} events", tail.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_stores_the_others_hear_and_find_hot() {
    let server = RedisServer::start();
    let url = server.url(server.port());
    let (a, b) = (host(&url, "a").await, host(&url, "b").await);
    let tenant = owner(1).tenant;
    b.watch(tenant, task(1));
    assert_eq!(heard(&b).await, Heard::Look(task(1)), "what was told before is looked for");
    a.publish(tenant, task(2), vec![event(1)]);
    a.publish(tenant, task(1), vec![event(1), event(2)]);
    a.publish(tenant, task(1), vec![event(3)]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 2), "and of that task alone");
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 3));
    let all = tail(&b, 1, 0, 3).await;
    assert_eq!(all, [1, 2, 3].map(|seq| (*event(seq)).clone()));
    assert_eq!(b.tail(tenant, task(1), 2).await, [(*event(3)).clone()]);
    assert_eq!(b.tail(tenant, task(1), 3).await, []);
    // Somebody else's tenant has other keys.
    assert_eq!(b.tail(TenantId::from_parts(2, 0), task(1), 0).await, []);
    let keys = server.cli(&["KEYS", "*"]);
    for number in [1, 2] {
        assert!(keys.contains(&format!("test:1:{tenant}:tail:{}", task(number))), "{keys}");
    }
    let ttl: i64 = server.cli(&["TTL", &format!("test:1:{tenant}:tail:{}", task(1))]).parse().unwrap();
    assert!((1..=60).contains(&ttl), "{ttl}");
    // A gap is not told over: 5 before 4, which then is refused.
    a.publish(tenant, task(1), vec![event(5)]);
    a.publish(tenant, task(1), vec![event(4)]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 5));
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 4));
    assert_eq!(b.tail(tenant, task(1), 3).await, []);
    assert_eq!(b.tail(tenant, task(1), 4).await, [(*event(5)).clone()]);
    // Of a task that is purged nothing is kept.
    let purged = NewEvent { kind: PURGED.into(), ..event(2).body.clone() };
    a.publish(tenant, task(2), vec![Arc::new(Event { seq: 2, body: purged })]);
    let key = format!("test:1:{tenant}:tail:{}", task(2));
    until("it is gone", || server.cli(&["EXISTS", &key]).trim() == "0").await;
    // What is large is told and not kept.
    let large = NewEvent { data: "x".repeat(70_000).into(), ..event(6).body.clone() };
    a.publish(tenant, task(1), vec![Arc::new(Event { seq: 6, body: large })]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 6));
    assert_eq!(b.tail(tenant, task(1), 5).await, []);
    b.unwatch(tenant, task(1));
    until("it listens no more", || server.cli(&["PUBSUB", "CHANNELS"]).is_empty()).await;
    assert!(
        server.cli(&["CLIENT", "LIST"]).lines().count() <= 2 * 2 + 1,
        "two connections for each host, and this question's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_another_task_is_not_believed() {
    let server = RedisServer::start();
    let redis = host(&server.url(server.port()), "a").await;
    let tenant = owner(1).tenant;
    let key = format!("test:1:{tenant}:tail:{}", task(1));
    let entry = |id: &str, of: u64| {
        let task = task(of).to_string();
        server.cli(&["XADD", &key, id, "task", &task, "at", "1", "call", "", "kind", "task.ready", "data", "{}"]);
    };
    entry("1-0", 1);
    entry("2-0", 2);
    entry("3-0", 1);
    let tail = redis.tail(tenant, task(1), 0).await;
    assert_eq!(tail.iter().map(|event| event.seq).collect::<Vec<_>>(), [1]);
    // Nor one that is no entry of ours.
    server.cli(&["DEL", &key]);
    server.cli(&["XADD", &key, "1-0", "something", "else"]);
    assert_eq!(redis.tail(tenant, task(1), 0).await, []);
    server.cli(&["SET", &key, "no stream"]);
    assert_eq!(redis.tail(tenant, task(1), 0).await, []);
    assert!(redis.is_up(), "it answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_flushed_stopped_and_started_again() {
    let mut server = RedisServer::start();
    let url = server.url(server.port());
    let (a, b) = (host(&url, "a").await, host(&url, "b").await);
    let tenant = owner(1).tenant;
    b.watch(tenant, task(1));
    assert_eq!(heard(&b).await, Heard::Look(task(1)));
    a.publish(tenant, task(1), vec![event(1)]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 1));
    server.cli(&["FLUSHALL"]);
    assert_eq!(b.tail(tenant, task(1), 0).await, []);
    a.publish(tenant, task(1), vec![event(2)]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 2));
    assert_eq!(b.tail(tenant, task(1), 0).await, [], "the first is gone: ask the store");

    server.kill();
    until("both know", || !a.is_up() && !b.is_up()).await;
    a.publish(tenant, task(1), vec![event(3)]);
    let begun = Instant::now();
    assert_eq!(b.tail(tenant, task(1), 2).await, []);
    assert!(begun.elapsed() < Duration::from_millis(100), "nothing is sent while it is down");
    server.start_again();
    until("both use it again", || a.is_up() && b.is_up()).await;
    assert_eq!(heard(&b).await, Heard::LookAtAll, "what was told meanwhile was missed");
    while heard(&b).await != Heard::Look(task(1)) {}
    a.publish(tenant, task(1), vec![event(4)]);
    assert_eq!(heard(&b).await, Heard::Grown(tenant, task(1), 4));
    assert_eq!((a.stats().lost, b.stats().lost), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_slow_is_left_alone() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port());
    let redis = host(&server.url(proxy.port()), "a").await;
    for weather in [Weather::Gone, Weather::Hanging] {
        if weather == Weather::Hanging {
            proxy.freeze();
        }
        proxy.set(weather);
        let begun = Instant::now();
        assert_eq!(redis.tail(owner(1).tenant, task(1), 0).await, []);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        until("it knows", || !redis.is_up()).await;
        proxy.set(Weather::Fair);
        until("it is used again", || redis.is_up()).await;
    }
    redis.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_never_there_costs_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let redis = Redis::new(config(&format!("redis://127.0.0.1:{port}/0")), "a".into()).unwrap();
    redis.watch(owner(1).tenant, task(1));
    redis.publish(owner(1).tenant, task(1), vec![event(1)]);
    assert_eq!(redis.tail(owner(1).tenant, task(1), 0).await, []);
    assert_eq!(redis.open(owner(1), 1).await, Opened::Unknown);
    assert!(!redis.is_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_looked_at_becomes_one_look_at_everything() {
    let server = RedisServer::start();
    let url = server.url(server.port());
    let (a, b) = (host(&url, "a").await, host(&url, "b").await);
    let tenant = owner(1).tenant;
    b.watch(tenant, task(1));
    assert_eq!(heard(&b).await, Heard::Look(task(1)));
    for seq in 1..=super::TO_HEAR as u64 + 500 {
        while a.shared.tell.capacity() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        a.publish(tenant, task(1), vec![event(seq)]);
    }
    until("more than fits was told", || b.shared.ears.overheard.load(Ordering::Acquire)).await;
    assert_eq!(heard(&b).await, Heard::LookAtAll);
}

/// Counts nothing, and says so.
#[derive(Default)]
struct Alone(AtomicU64);

#[async_trait]
impl Rates for Alone {
    async fn take(&self, _: Counted, _: Owner) -> Taken {
        self.0.fetch_add(1, Ordering::Relaxed);
        Taken::Unlimited
    }

    fn tidy(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_counted_together_and_alone_without_it() {
    let mut server = RedisServer::start();
    let url = server.url(server.port());
    let rate = |counted, of, burst| SharedRate { counted, of, rate: Rate { per_minute: 6, burst } };
    let rates = || vec![rate(Counted::Calls, Counts::User, 3), rate(Counted::Calls, Counts::Tenant, 5)];
    let alone = Arc::new(Alone::default());
    let hosts = [host(&url, "a").await, host(&url, "b").await];
    let hosts = hosts.map(|redis| (redis.clone(), RedisRates::new(redis, rates(), alone.clone())));
    let take = async |host: usize, user| hosts[host].1.take(Counted::Calls, owner(user)).await;
    for (host, left) in [(0, 2), (1, 1), (0, 0)] {
        let Taken::Allowed(standing) = take(host, 1).await else { panic!() };
        assert_eq!((standing.of, standing.remaining), (Counts::User, left));
    }
    let Taken::Refused { standing, retry_after } = take(1, 1).await else { panic!() };
    assert_eq!((standing.of, standing.remaining), (Counts::User, 0));
    assert!(retry_after > Duration::from_secs(8) && retry_after <= Duration::from_secs(10), "{retry_after:?}");
    assert!(
        standing.reset > Duration::from_secs(25) && standing.reset <= Duration::from_secs(30),
        "{:?}",
        standing.reset
    );
    // The refused one took nothing of the tenant's: two are left for others.
    let mut allowed = 0;
    for user in 2..6 {
        allowed += u32::from(matches!(take(user as usize % 2, user).await, Taken::Allowed(_)));
    }
    assert_eq!(allowed, 2);
    assert_eq!(hosts[0].1.take(Counted::Requests, owner(1)).await, Taken::Unlimited, "it has no rate");
    assert_eq!(alone.0.load(Ordering::Relaxed), 0);

    server.kill();
    until("it is known", || !hosts[0].0.is_up()).await;
    assert_eq!(take(0, 1).await, Taken::Unlimited);
    assert_eq!(alone.0.load(Ordering::Relaxed), 1);
    server.start_again();
    until("it is used again", || hosts[0].0.is_up()).await;
    assert!(matches!(take(0, 1).await, Taken::Allowed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_counted_together() {
    let server = RedisServer::start();
    let url = server.url(server.port());
    let (a, b) = (host(&url, "a").await, host(&url, "b").await);
    let Opened::Counted(first) = a.open(owner(1), 2).await else { panic!() };
    let Opened::Counted(second) = b.open(owner(1), 2).await else { panic!() };
    assert_eq!(a.open(owner(1), 2).await, Opened::Full);
    assert!(matches!(a.open(owner(2), 2).await, Opened::Counted(_)), "another user");
    a.close(first);
    let again = async {
        loop {
            if let Opened::Counted(third) = b.open(owner(1), 2).await {
                return third;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let third = tokio::time::timeout(SOON, again).await.unwrap();
    // Those of a host that died count no more after a while.
    let key = format!("test:1:{}:streams:{}", owner(1).tenant, owner(1).user);
    let old = |name: &str, age: u64| {
        let now: u64 = server.cli(&["TIME"]).lines().next().unwrap().parse().unwrap();
        server.cli(&["ZADD", &key, &(now - age).to_string(), name]);
    };
    b.close(second);
    b.close(third);
    until("both are gone", || server.cli(&["ZCARD", &key]) == "0").await;
    old("dead/1", 60);
    assert!(matches!(a.open(owner(1), 2).await, Opened::Counted(_)));
    assert_eq!(a.open(owner(1), 2).await, Opened::Full);
    old("dead/1", 100);
    assert!(matches!(a.open(owner(1), 2).await, Opened::Counted(_)));
    old("dead/1", 1_801);
    assert_eq!(a.open(owner(1), 2).await, Opened::Full);
    assert_eq!(server.cli(&["ZCARD", &key]), "2", "after half an hour it is gone");
}
