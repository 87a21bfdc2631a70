//! The worker's end of the socket, as calls see it: a place to put frames.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

use super::call::Call;
use crate::wire::{Outbox, frame};

/// What calls and the serving loop share.
#[derive(Default)]
pub(super) struct Link {
    outbox: Mutex<Outbox>,
    calls: Mutex<HashMap<u32, Arc<Call>>>,
    /// There is something to send.
    pub(super) wake: Notify,
}

impl Link {
    /// Queues a frame; it leaves with all others of this pass.
    pub(super) fn push(&self, call: u32, message: &impl Serialize) {
        // Encoded before the queue is locked: a thread that gets few turns must
        // not keep it from the one that sends.
        self.push_frame(&frame(call, message));
    }

    /// Queues a frame that is encoded.
    pub(super) fn push_frame(&self, frame: &[u8]) {
        self.with_outbox(|outbox| outbox.push_frame(frame));
        self.wake.notify_one();
    }

    /// Works on the queue.
    pub(super) fn with_outbox<T>(&self, work: impl FnOnce(&mut Outbox) -> T) -> T {
        work(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calls that run.
    fn calls<T>(&self, work: impl FnOnce(&mut HashMap<u32, Arc<Call>>) -> T) -> T {
        work(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a call runs.
    pub(super) fn begin(&self, call: &Arc<Call>) {
        self.calls(|calls| calls.insert(call.id, call.clone()));
    }

    /// The call with this number, if it runs.
    pub(super) fn call(&self, id: u32) -> Option<Arc<Call>> {
        self.calls(|calls| calls.get(&id).cloned())
    }

    /// Notes that a call ended.
    pub(super) fn end(&self, id: u32) {
        self.calls(|calls| calls.remove(&id));
    }
}
