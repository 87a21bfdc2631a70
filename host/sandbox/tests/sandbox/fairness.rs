//! Where guests run of whom.

use bulkhead_core::grants::WorkspaceAccess;

use crate::guests;
use crate::harness::{Bench, summary};
use crate::walls::running;

/// Ticks of processor time that the threads of a process had, by whether they are in the
/// background.
fn ticks(pid: u32) -> [u64; 2] {
    let mut ticks = [0, 0];
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime and stime, the 14th and 15th field of proc_pid_stat(5).
        let used: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        ticks[usize::from(name == "background")] += used;
    }
    ticks
}

/// Each ends in its first turn; all of them together take what there is.
#[tokio::test]
async fn a_flood_of_short_calls_begins_in_the_background() {
    let mut bench = Bench::with(|config| {
        config.workers_per_tenant = 1;
        config.worker_args.push("seen-by-fairness".into());
    });
    bench.limits.cpu_time_ms = 1;
    let spin = bench.prepare(&guests::spin()).await;
    let clients = (0..8).map(|_| async {
        for _ in 0..100 {
            let outcome = bench.run(bench.call(&spin, "{}", WorkspaceAccess::None)).await.unwrap();
            assert_eq!(summary(&outcome), "timed_out/limit.cpu_time");
        }
    });
    futures::future::join_all(clients).await;
    let worker = running("seen-by-fairness").into_iter().map(ticks).max_by_key(|ticks| ticks[1]).unwrap();
    let [first, background] = worker;
    assert!(background > first, "{background} ticks in the background, {first} in the first thread");
}
