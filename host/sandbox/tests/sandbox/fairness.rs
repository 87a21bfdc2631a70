//! Where guests run of whom.

use std::time::{Duration, Instant};

use bulkhead_core::grants::WorkspaceAccess;

use crate::guests;
use crate::harness::{Bench, summary};
use crate::walls::running;

/// Processor time that the threads of a process had, by whether they are in the background.
fn used(pid: u32) -> [Duration; 2] {
    let mut used = [Duration::ZERO; 2];
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // utime and stime, the 14th and 15th field of proc_pid_stat(5), in hundredths of a second.
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        used[usize::from(name == "background")] += Duration::from_millis(10 * ticks);
    }
    used
}

/// Each ends in its first turn; all of them together take what there is. The first thread may
/// have a part of the time, which is all of it that it gets on a machine that is busy enough.
#[tokio::test]
async fn a_flood_of_short_calls_begins_in_the_background() {
    let mut bench = Bench::with(|config| {
        config.workers_per_tenant = 1;
        config.worker_args.push("seen-by-fairness".into());
    });
    bench.limits.cpu_time_ms = 1;
    let spin = bench.prepare(&guests::spin()).await;
    let begun = Instant::now();
    let clients = (0..8).map(|_| async {
        for _ in 0..100 {
            let outcome = bench.run(bench.call(&spin, "{}", WorkspaceAccess::None)).await.unwrap();
            assert_eq!(summary(&outcome), "timed_out/limit.cpu_time");
        }
    });
    futures::future::join_all(clients).await;
    let took = begun.elapsed();
    let [first, background] = running("seen-by-fairness").into_iter().map(used).max().unwrap();
    let used = format!("in {took:?} {first:?} in the first thread, {background:?} in the background");
    println!("{used}");
    assert!(first + background >= Duration::from_millis(600), "{used}");
    assert!(first < took / 4 + Duration::from_millis(150), "{used}");
}
