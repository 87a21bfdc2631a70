//! Whose turn it is: writes to one task's log go one after the other, and records of
//! one chain of the audit log.
//!
//! A fixed number of queues, to which tasks (or chains) are dealt by their id: two may
//! share one, which costs them some waiting and nothing else.

use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// So many that tasks which write at the same time seldom share one; each is some 64 bytes.
const QUEUES: usize = 1024;

/// The queues.
#[derive(Debug)]
pub(super) struct Turns(Box<[Arc<Mutex<()>>]>);

impl Turns {
    pub(super) fn new() -> Self {
        Self((0..QUEUES).map(|_| Arc::default()).collect())
    }

    /// A place in the queue of something, from now on, even before the answer is awaited: the
    /// turn comes when the future resolves, and ends when what it gives is dropped.
    pub(super) fn take(&self, what: &impl Hash) -> Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(what);
        let queue = self.0[usize::try_from(hash).unwrap_or(0) % QUEUES].clone();
        let mut turn: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(queue.lock_owned());
        // The first look puts it into the queue; whoever waits is told by a later one.
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match turn.as_mut().poll(&mut context) {
            Poll::Ready(guard) => Box::pin(std::future::ready(guard)),
            Poll::Pending => turn,
        }
    }
}
