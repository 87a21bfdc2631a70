//! Memory and tables of a call, summed over everything it instantiates, and
//! the memory of all calls of the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    budget: Arc<Budget>,
    /// The largest sum so far; outlives the store.
    peak: Arc<AtomicU64>,
    pub(super) refused: Refused,
}

/// Linear memory of all calls of this worker.
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

impl Limiter {
    pub(super) fn new(memory_limit: u64, table_limit: u64, budget: Arc<Budget>, peak: Arc<AtomicU64>) -> Self {
        Self {
            memory_limit,
            table_limit,
            memory: 0,
            tables: 0,
            last_growth: 0,
            budget,
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
        if !self.budget.take(growth) {
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
            self.budget.give(self.last_growth);
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
        self.budget.give(self.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_memories_do_not_multiply_the_limit_and_all_is_given_back() {
        let budget = Arc::new(Budget::new(250));
        let mut one = Limiter::new(100, 10, budget.clone(), Arc::default());
        assert!(one.memory_growing(0, 60, None).expect("no trap"));
        assert!(!one.memory_growing(0, 60, None).expect("no trap"));
        assert_eq!(one.refused.memory, Some(120));
        let mut two = Limiter::new(1000, 10, budget.clone(), Arc::default());
        assert!(two.memory_growing(0, 190, None).expect("no trap"));
        assert!(!two.memory_growing(190, 191, None).expect("no trap"));
        assert!(two.refused.worker_memory && two.refused.memory.is_none());
        drop((one, two));
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
