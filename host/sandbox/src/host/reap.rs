//! Workers that have run for long enough: those that nobody needs end, and those
//! that are old are followed by new ones. What a guest may have done to a process
//! that nobody noticed, and what years of calls leave in its heap, ends with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::pool::{Home, Pool};
use super::worker::Worker;

/// How often they are looked for, at most.
const INTERVAL: Duration = Duration::from_secs(1);

impl Pool {
    /// Looks for them until the pool stops.
    pub(super) async fn reap(pool: Arc<Self>) {
        let shortest = pool.config.idle_timeout.min(pool.config.max_age);
        let every = (shortest / 4).clamp(Duration::from_millis(10), INTERVAL);
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = pool.stopped() => return,
            }
            // Under the lock no call can take a place in between.
            let recycled = {
                let workers = pool.workers();
                for worker in workers.values().flatten() {
                    if worker.is_open() && worker.idle_for(pool.config.idle_timeout) {
                        worker.shut_down();
                    }
                }
                recycle(&workers, pool.config.max_age)
            };
            if recycled > 0 {
                pool.counters.recycled.fetch_add(recycled, Relaxed);
                pool.room.notify_waiters();
            }
            pool.end_retired();
        }
    }
}

/// Lets old workers take no further calls; how many. One of a home at a time: with
/// calls that last for days in each that is on its way out, one tenant would come
/// to have any number of processes.
fn recycle(workers: &HashMap<Home, Vec<Arc<Worker>>>, max_age: Duration) -> u64 {
    let old = |own: &Vec<Arc<Worker>>| {
        let leaves = own.iter().any(|worker| worker.is_retired());
        !leaves && own.iter().any(|worker| worker.born.elapsed() >= max_age && worker.retire())
    };
    workers.values().filter(|own| old(own)).count() as u64
}
