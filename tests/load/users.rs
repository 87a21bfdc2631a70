//! Many users at work, on one host and on two: what they wait for, and whether
//! anything is lost. BENCH_USERS and BENCH_MINUTES set how many and for how long.

use std::time::Duration;

use super::harness::users::{Plan, run};

pub fn report() {
    let number = |name: &str, other: u64| std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(other);
    let users = number("BENCH_USERS", 500) as usize;
    let length = Duration::from_secs(60 * number("BENCH_MINUTES", 10));
    let pause = Duration::from_millis(number("BENCH_PAUSE_MS", 2_000));
    for hosts in [1, 2] {
        println!("\n== users at work");
        print!("{}", run(Plan { users, tenants: 20, length, pause, hosts, cut_after: 40 }));
    }
}
