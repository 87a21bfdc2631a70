//! Workers that have run for long enough: those that nobody needs end, and those
//! that are old are followed by new ones. What a guest may have done to a process
//! that nobody noticed, and what years of calls leave in its heap, ends with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bulkhead_core::id::TenantId;

use super::pool::{Home, Pool};
use super::worker::Worker;
use crate::config::WasmConfig;

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
                recycle(&workers, &pool.config)
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
/// calls that last for days in each that is on its way out, one tenant would come to
/// have any number of processes. One that is busy only where another may be started
/// now: else its tenant would wait for its last call.
fn recycle(workers: &HashMap<Home, Vec<Arc<Worker>>>, config: &WasmConfig) -> u64 {
    let total: usize = workers.values().map(Vec::len).sum();
    let of_tenant = |tenant| workers.iter().filter(|(home, _)| home.tenant == tenant).map(|(_, own)| own.len()).sum();
    let mut room = config.max_workers.saturating_sub(total);
    let mut recycled = 0;
    // Whose busy ones are replaced from now on.
    let mut replaced: HashMap<TenantId, usize> = HashMap::new();
    for (home, own) in workers {
        if own.iter().any(|worker| worker.is_retired()) {
            continue;
        }
        let may_start = room > 0
            && (home.task.is_none() || {
                let of_tenant: usize = of_tenant(home.tenant);
                let of_tenant = of_tenant + replaced.get(&home.tenant).copied().unwrap_or(0);
                of_tenant < config.max_workers.div_ceil(2)
            });
        let old = |worker: &&Arc<Worker>| worker.born.elapsed() >= config.max_age;
        let next = own.iter().filter(old).find(|worker| may_start || worker.load.load(Relaxed) == 0);
        if let Some(worker) = next.filter(|worker| worker.retire()) {
            let busy = usize::from(worker.load.load(Relaxed) > 0);
            room = room.saturating_sub(busy);
            *replaced.entry(home.tenant).or_default() += busy;
            recycled += 1;
        }
    }
    recycled
}
