//! The load test of `cargo bench --bench load -- users`, scaled down: many users at
//! once on two hosts in turn, their streams cut again and again, and nothing fails, is
//! lost or comes to a stranger.

use std::time::Duration;

use crate::harness::users::{Plan, run};

#[test]
fn many_users_at_work_lose_nothing() {
    let length = Duration::from_secs(20);
    let pause = Duration::from_millis(1_500);
    let plan = Plan { users: 120, tenants: 6, length, pause, hosts: 2, cut_after: 4 };
    let report = run(plan);
    eprint!("{report}");
    assert!(report.success() > 99.9, "{report}");
    assert_eq!((report.lost, report.foreign), (0, 0), "{report}");
    assert!(report.cuts.1 > 0, "each stream is cut and resumed: {report}");
    assert!(report.routes.len() >= 6 && report.events > report.requests / 4, "{report}");
    assert!(report.redis_connections.is_some_and(|count| count < 10 * plan.hosts as u64), "{report}");
    // Half of the time is for caches to fill.
    let (middle, end) = (report.memory[report.memory.len() / 2], report.memory[report.memory.len() - 1]);
    assert!(end < middle + middle / 2, "memory goes on growing: {report}");
}
