//! Rates of two hosts: counted together while Redis is there, and alone without it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::hosts::{options, until};
use crate::harness::attacks::OTHER_TENANT;
use crate::harness::postgres::postgres;
use crate::harness::redis::RedisServer;
use crate::harness::{Client, Options, Server};

/// Requests of a user that may come at once; one more comes each second.
const BURST: u64 = 30;

fn with_rates(database: &str, redis: &RedisServer) -> Options {
    options(database, postgres().port())
        .with("REDIS_URL", redis.url(redis.port()))
        // Whoever answers late on a loaded machine is not gone.
        .with("BULKHEAD_REDIS__TIMEOUT_MS", 5_000)
        .with("BULKHEAD_RATE__REQUESTS_PER_USER", 60)
        .with("BULKHEAD_RATE__CALLS_PER_USER", 6)
        .with("BULKHEAD_RATE__BURST_PERCENT", 50)
}

/// Asks hosts in turn, more than all of them together allow; how many were allowed, and
/// how many more than the burst had come by meanwhile.
fn allowed(clients: &[Client], path: &str) -> (u64, u64) {
    let begun = Instant::now();
    let asked = (0..BURST as usize * clients.len() + 20).map(|turn| clients[turn % clients.len()].get(path));
    let allowed = asked.filter(|answer| answer.status == 200).count() as u64;
    (allowed, begun.elapsed().as_secs() + 1)
}

/// All that a user may ask of both hosts is what one of them allows.
fn assert_together(clients: &[Client], path: &str, why: &str) {
    let (allowed, meanwhile) = allowed(clients, path);
    assert!((BURST..=BURST + meanwhile).contains(&allowed), "{why}: {allowed} in {meanwhile} s");
}

#[test]
fn two_hosts_count_together_what_each_counts_alone_without_redis() {
    let mut redis = RedisServer::start();
    let database = postgres().database(None);
    let a = Server::start(with_rates(&database, &redis));
    let b = Server::beside(&a, with_rates(&database, &redis));
    // Each counts as a request of its user, by the same rate.
    let watchers =
        [(&a, "usr_01jd8n2m4v0000000000000098"), (&b, "usr_01jd8n2m4v0000000000000099")].map(|(server, user)| {
            server.client_with(&["--tenant", OTHER_TENANT[1], "--user", user, "--scopes", "metrics:read"])
        });
    let both_use = |used: u8| {
        for watcher in &watchers {
            until("Redis is used, or not", || {
                std::thread::sleep(Duration::from_millis(500));
                let text = watcher.get("/metrics").body;
                String::from_utf8_lossy(&text).contains(&format!("bulkhead_redis_up {used}\n"))
            });
        }
    };
    both_use(1);
    let tenant = a.client().get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
    // Of a user who has asked for nothing yet, a client of either host.
    let user = |number: u8| {
        let user = format!("usr_01jd8n2m4v00000000000000{number:02}");
        let near = a.client_with(&["--tenant", &tenant, "--user", &user]);
        let far = Client::new(b.url(), Some(near.key()));
        [near, far]
    };
    a.client().register("fixtures/echo");

    assert_together(&user(1), "/v1/whoami", "of no host");
    // What one host passes on to the other is one request.
    let clients = user(2);
    let task = clients[0].task();
    std::thread::sleep(Duration::from_secs(2));
    assert_together(&clients, &format!("/v1/tasks/{task}/entries"), "passed on");
    // Calls have a rate of their own, half of six at once, and one more in ten seconds.
    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
    let clients = user(6);
    clients[0].post(&format!("/v1/tasks/{}/calls", clients[0].task()), &body).expect(200);
    let clients = user(3);
    let task = clients[0].task();
    let call = |turn: usize| clients[turn % 2].post(&format!("/v1/tasks/{task}/calls"), &body);
    let statuses: Vec<u16> = (0..6).map(|turn| call(turn).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429]);
    assert_eq!(call(1).problem(429, "rate_limited")["limit"], "rate.calls_per_user");

    redis.kill();
    both_use(0);
    let (alone, _) = allowed(&user(4), "/v1/whoami");
    assert!(alone >= 2 * BURST, "each host for itself: {alone}");
    redis.start_again();
    both_use(1);
    assert_together(&user(5), "/v1/whoami", "once it is back");
}
