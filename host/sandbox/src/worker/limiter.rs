//! Memory and tables of a call, summed over everything it instantiates, and
//! the memory of all calls of the worker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::ResourceLimiter;

use crate::bounds::MAX_TABLE_ELEMENTS;

/// What was refused, so that a trap that follows can be named.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refused {
    /// What all memories would have had together, in bytes.
    pub(super) memory: Option<u64>,
    pub(super) worker_memory: bool,
    /// What all tables would have had together, in elements.
    pub(super) table: Option<u64>,
}

/// Counts and refuses growth.
pub(super) struct Limiter {
    memory_limit: u64,
    table_limit: u64,
    memory: u64,
    tables: u64,
    last_growth: u64,
    share: Share,
    /// The largest sum so far; outlives the store.
    peak: Arc<AtomicU64>,
    pub(super) refused: Refused,
}

/// How much more a user may have than is left: three quarters of all if nobody else has
/// any. What is left then is for the next, who may have three quarters of that.
const TIMES_LEFT: u64 = 3;

/// Linear memory of all calls of this worker. However much one user's calls ask for,
/// others' find some: the threshold falls with what is left (Choudhury and Hahne,
/// *Dynamic queue length thresholds for shared-memory packet switches*, 1998).
pub(super) struct Budget {
    limit: u64,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    all: u64,
    /// By user; none has nothing.
    users: HashMap<u32, u64>,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: Mutex::default() }
    }

    /// What is for the calls of a user.
    pub(super) fn share(self: &Arc<Self>, user: u32) -> Share {
        Share { budget: self.clone(), user }
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A user's part of the memory of a worker.
pub(super) struct Share {
    budget: Arc<Budget>,
    user: u32,
}

impl Share {
    fn take(&self, bytes: u64) -> bool {
        let mut used = self.budget.used();
        let own = used.users.get(&self.user).copied().unwrap_or(0).saturating_add(bytes);
        let Some(left) = used.all.checked_add(bytes).and_then(|all| self.budget.limit.checked_sub(all)) else {
            return false;
        };
        if own > left.saturating_mul(TIMES_LEFT) {
            return false;
        }
        if bytes > 0 {
            used.all += bytes;
            used.users.insert(self.user, own);
        }
        true
    }

    fn give(&self, bytes: u64) {
        let mut used = self.budget.used();
        used.all -= bytes;
        if let Some(own) = used.users.get_mut(&self.user) {
            *own -= bytes;
            if *own == 0 {
                used.users.remove(&self.user);
            }
        }
    }
}

impl Limiter {
    pub(super) fn new(memory_limit: u64, table_limit: u64, share: Share, peak: Arc<AtomicU64>) -> Self {
        Self {
            memory_limit,
            table_limit,
            memory: 0,
            tables: 0,
            last_growth: 0,
            share,
            peak,
            refused: Refused::default(),
        }
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.last_growth = 0;
        let growth = desired.saturating_sub(current) as u64;
        let wanted = self.memory.saturating_add(growth);
        if wanted > self.memory_limit {
            self.refused.memory = Some(wanted);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The engine refuses by the guest's own maximum.
            return Ok(true);
        }
        if !self.share.take(growth) {
            self.refused.worker_memory = true;
            return Ok(false);
        }
        self.memory += growth;
        self.last_growth = growth;
        self.peak.fetch_max(self.memory, Relaxed);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        if self.last_growth > 0 {
            // The operating system refused (the worker's RLIMIT_DATA).
            self.refused.worker_memory = true;
            self.memory -= self.last_growth;
            self.share.give(self.last_growth);
            self.last_growth = 0;
        }
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let most = self.table_limit.min(MAX_TABLE_ELEMENTS);
        let wanted = self.tables.saturating_add(growth);
        if wanted > most {
            self.refused.table = Some(wanted);
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        self.tables += growth;
        Ok(true)
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.share.give(self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_memories_do_not_multiply_the_limit_and_all_is_given_back() {
        let budget = Arc::new(Budget::new(334));
        let mut one = Limiter::new(100, 10, budget.share(1), Arc::default());
        assert!(one.memory_growing(0, 60, None).expect("no trap"));
        assert!(!one.memory_growing(0, 60, None).expect("no trap"));
        assert_eq!(one.refused.memory, Some(120));
        let mut two = Limiter::new(1000, 10, budget.share(1), Arc::default());
        assert!(two.memory_growing(0, 190, None).expect("no trap"));
        assert!(!two.memory_growing(190, 191, None).expect("no trap"));
        assert!(two.refused.worker_memory && two.refused.memory.is_none());
        drop((one, two));
        let used = budget.used();
        assert_eq!((used.all, used.users.len()), (0, 0));
    }

    #[test]
    fn one_user_s_calls_leave_memory_to_another_s() {
        let budget = Arc::new(Budget::new(4 << 30));
        let take = |user| {
            let mut call = Limiter::new(256 << 20, 10, budget.share(user), Arc::default());
            call.memory_growing(0, 256 << 20, None).expect("no trap").then_some(call)
        };
        let first: Vec<_> = std::iter::from_fn(|| take(1)).collect();
        assert_eq!(first.len(), 12);
        let second: Vec<_> = std::iter::from_fn(|| take(2)).collect();
        assert_eq!(second.len(), 3);
        // What the first gives back is anybody's again.
        drop(first);
        assert_eq!(std::iter::from_fn(|| take(3)).collect::<Vec<_>>().len(), 9);
    }
}
