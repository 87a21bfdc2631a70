//! Turns: what moves a task's workspace is done one after the other. Whoever
//! wants it next asks whoever packs to step back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::id::TaskId;

/// The turns of all tasks.
#[derive(Default)]
pub(super) struct Turns {
    tasks: Mutex<HashMap<TaskId, Arc<Turn>>>,
    /// Ends all packing.
    stop: CancellationToken,
    /// Ends what is packed now.
    now: Mutex<CancellationToken>,
}

#[derive(Default)]
struct Turn {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Asks who has it to step back.
    stop: Mutex<CancellationToken>,
}

/// A task's turn, until dropped.
pub(super) struct Held {
    turns: Arc<Turns>,
    task: TaskId,
    turn: Arc<Turn>,
    /// That somebody else wants it, or the host stops.
    pub(super) stop: CancellationToken,
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the turn.
    pub(super) async fn take(self: &Arc<Self>, task: TaskId) -> Held {
        let turn = lock(&self.tasks).entry(task).or_default().clone();
        lock(&turn.stop).cancel();
        let guard = turn.lock.clone().lock_owned().await;
        // In this order: whoever stops for good does it before it has all step back.
        let stop = lock(&self.now).child_token();
        if self.stop.is_cancelled() {
            stop.cancel();
        }
        *lock(&turn.stop) = stop.clone();
        Held { turns: self.clone(), task, turn, stop, _guard: guard }
    }

    /// Asks everybody to step back, for good.
    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.step_back();
    }

    /// Asks everybody who has a turn now to step back.
    pub(super) fn step_back(&self) {
        std::mem::take(&mut *lock(&self.now)).cancel();
    }

    /// Whether somebody has a task's turn, or waits for it.
    pub(super) fn is_taken(&self, task: TaskId) -> bool {
        lock(&self.tasks).contains_key(&task)
    }

    /// Of how many tasks somebody has, or waits for, the turn.
    pub(super) fn len(&self) -> usize {
        lock(&self.tasks).len()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut tasks = lock(&self.turns.tasks);
        // The map and this one: nobody waits. Who comes gets it by the map's lock.
        if Arc::strong_count(&self.turn) == 2 {
            tasks.remove(&self.task);
        }
    }
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_asks_the_last_to_step_back_and_nothing_is_left() {
        let (turns, task) = (Arc::new(Turns::default()), TaskId::from_parts(1, 1));
        let packing = turns.take(task).await;
        let next = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(task).await }
        });
        packing.stop.cancelled().await;
        assert!(!next.is_finished());
        drop(packing);
        let next = next.await.expect("has it");
        assert!(!next.stop.is_cancelled());
        turns.step_back();
        assert!(next.stop.is_cancelled());
        drop(next);
        let after = turns.take(task).await;
        assert!(!after.stop.is_cancelled(), "those who come later go on");
        turns.stop();
        assert!(after.stop.is_cancelled());
        drop(after);
        assert!(turns.take(task).await.stop.is_cancelled(), "for good");
        assert_eq!(turns.len(), 0);
    }
}
