//! Places for what only a few may do at once, shared by owners: one that wants a
//! hundred delays another by those it has, and not by those that wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places, in the order in which owners ask. What an owner wants beyond those that
/// it may ask for at once waits behind everybody.
pub(crate) struct Shares<K> {
    each: usize,
    all: Arc<Semaphore>,
    /// What each of those who ask, or have a place, may ask for.
    owners: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// A place, until dropped.
pub(crate) struct Place<K: Copy + Eq + Hash> {
    shares: Arc<Shares<K>>,
    owner: K,
    held: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// So many places, all of which an owner may have that is alone.
    pub(crate) fn new(places: usize) -> Self {
        Self { each: places, all: Arc::new(Semaphore::new(places)), owners: Mutex::default() }
    }

    /// Waits for a place.
    pub(crate) async fn take(self: &Arc<Self>, owner: K) -> Place<K> {
        let asking = self.owners().entry(owner).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone();
        // Made before it waits, so that one that gives up leaves nothing behind.
        let mut place = Place { shares: self.clone(), owner, held: None };
        if let (Ok(own), Ok(all)) = (asking.acquire_owned().await, self.all.clone().acquire_owned().await) {
            place.held = Some((own, all));
        }
        place
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<K, Arc<Semaphore>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.held = None;
        let mut owners = self.shares.owners();
        // Who waits has another, which is taken under the lock.
        if owners.get(&self.owner).is_some_and(|own| Arc::strong_count(own) == 1) {
            owners.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn owners_take_turns_and_leave_nothing_behind() {
        let shares = Arc::new(Shares::new(2));
        let ran = Arc::new(Mutex::new(Vec::new()));
        let start = |owner: u32| {
            let (shares, ran) = (shares.clone(), ran.clone());
            tokio::spawn(async move {
                let _place = shares.take(owner).await;
                ran.lock().expect("nothing panics").push(owner);
                tokio::task::yield_now().await;
            })
        };
        let mut running: Vec<_> = (0..20).map(|_| start(1)).collect();
        tokio::task::yield_now().await;
        running.extend([start(2), start(3)]);
        // One that gives up while it waits.
        let gone = start(4);
        tokio::task::yield_now().await;
        gone.abort();
        for one in running {
            one.await.expect("runs");
        }
        let _ = gone.await;
        let ran = ran.lock().expect("nothing panics").clone();
        let of_others: Vec<_> = ran.iter().enumerate().filter(|(_, owner)| **owner != 1).collect();
        assert_eq!(ran.len() - of_others.iter().filter(|(_, owner)| **owner == 4).count(), 22);
        assert!(of_others.iter().all(|(place, _)| *place <= 8), "{ran:?}");
        assert!(shares.owners().is_empty());
    }
}
