//! What a worker keeps: components that are loaded, workspaces that are open.

use std::collections::HashMap;
use std::hash::Hash;

use bulkhead_core::digest::Digest;
use tokio::sync::watch;

use super::worker::Loading;

/// Numbered things that a worker keeps, the least recently used leaving first.
pub(super) struct Kept<K, V> {
    entries: HashMap<K, (u32, u64, V)>,
    max: usize,
    next: u32,
    clock: u64,
}

impl<K: Hash + Eq + Clone, V> Kept<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), max, next: 1, clock: 0 }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<(u32, &V)> {
        self.clock += 1;
        let (id, used, value) = self.entries.get_mut(key)?;
        *used = self.clock;
        Some((*id, value))
    }

    /// Adds an entry; gives its number and that of the one it pushes out.
    pub(super) fn insert(&mut self, key: K, value: V) -> (u32, Option<u32>) {
        let oldest = || self.entries.iter().min_by_key(|(_, (_, used, _))| *used).map(|(key, _)| key.clone());
        let out = if self.entries.len() >= self.max { oldest() } else { None };
        let out = out.and_then(|key| self.remove(&key));
        self.clock += 1;
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.entries.insert(key, (id, self.clock, value));
        (id, out)
    }

    /// Forgets everything; who waits for an entry is told by that.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<u32> {
        self.entries.remove(key).map(|(id, _, _)| id)
    }
}

impl Kept<Digest, watch::Sender<Loading>> {
    /// Notes what came of loading a component; a failure is forgotten once it
    /// is told, so that the next call tries again.
    pub(super) fn settle(&mut self, component: u32, loading: Loading) {
        let found = self.entries.iter().find(|(_, (id, _, _))| *id == component).map(|(key, _)| *key);
        let Some(key) = found else { return };
        let failed = matches!(loading, Loading::Failed(_));
        if let Some((_, _, sender)) = self.entries.get(&key) {
            sender.send_replace(loading);
        }
        if failed {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_leaves_first() {
        let mut kept = Kept::new(2);
        assert_eq!(kept.insert("a", ()), (1, None));
        assert_eq!(kept.insert("b", ()), (2, None));
        assert!(kept.get(&"a").is_some());
        assert_eq!(kept.insert("c", ()), (3, Some(2)));
        assert!(kept.get(&"b").is_none() && kept.get(&"a").is_some());
    }
}
