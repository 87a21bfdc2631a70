//! How soon an event that one host wrote is seen by a reader at another, with
//! Redis and without it, beside a second reader at the same host.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::postgres::postgres;
use super::harness::redis::RedisServer;
use super::harness::{Client, Options, Server};

const TICKS: u64 = 400;
/// No multiple of the time between two looks, so that events come at each moment of it.
const INTERVAL_MS: u64 = 23;

pub fn report() {
    println!("\n== an event of one host at a reader of another: how much later than at a reader of the first");
    for with_redis in [true, false] {
        let redis = with_redis.then(RedisServer::start);
        let database = postgres().database(None);
        let options = || {
            let options = Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
            match &redis {
                Some(redis) => options.with("REDIS_URL", redis.url(redis.port())),
                None => options,
            }
        };
        let first = Server::start(options());
        let second = Server::beside(&first, options());
        let name = if with_redis { "with Redis" } else { "without Redis" };
        let (near, far) = (first.client(), second.client());
        near.register("fixtures/ticker");
        println!("{name}: beside it {}; at the other {}", later(&near, &near), later(&near, &far));
    }
}

/// How much later each event of a call is seen by one than by another.
fn later(near: &Client, other: &Client) -> String {
    let task = near.task();
    let body =
        json!({"tool": "ticker", "arguments": {"count": TICKS, "interval_ms": INTERVAL_MS, "channels": ["progress"]}});
    let (first, second) = std::thread::scope(|scope| {
        let readers = [near, other].map(|client| {
            let task = &task;
            scope.spawn(move || arrivals(client, task))
        });
        std::thread::sleep(Duration::from_millis(500));
        near.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body).expect(202);
        let [first, second] = readers.map(|reader| reader.join().unwrap());
        (first, second)
    });
    assert_eq!(first.len(), second.len(), "both see all");
    let mut late: Vec<Duration> = first.iter().map(|(seq, at)| second[seq].saturating_duration_since(*at)).collect();
    late.sort_unstable();
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1}, p99 {:.1}, worst {:.1} ms of {} events", at(0.5), at(0.99), at(1.0), late.len())
}

/// When each event of a task was seen, by its number, until a call ends.
fn arrivals(client: &Client, task: &str) -> HashMap<u64, Instant> {
    let seen = RefCell::new(HashMap::new());
    client.follow(task, &[], "").until(|event: &Value| {
        seen.borrow_mut().insert(event["seq"].as_u64().unwrap(), Instant::now());
        event["type"] == "call.ended"
    });
    seen.into_inner()
}
