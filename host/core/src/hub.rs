//! The hub: tells subscribers of a task that its log has grown.
//!
//! Readers follow the log by number. The hub keeps a short tail of recent
//! events for tasks that somebody watches; a reader that is further behind
//! reads the store, page by page. So a slow reader costs one cursor, and a
//! task that nobody watches costs nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::event::{Event, NewEvent, Seq};
use crate::id::{TaskId, TenantId};
use crate::ports::live::Live;
use crate::ports::store::{Appended, Store};
use crate::task::TaskState;

/// Events kept per watched task.
const TAIL_EVENTS: usize = 256;
/// Bytes kept per watched task.
const TAIL_BYTES: u64 = 256 * 1024;
/// Events of one page read from the store.
const PAGE_EVENTS: u32 = 256;
/// Bytes of one page read from the store.
const PAGE_BYTES: u64 = 512 * 1024;
/// How long who has read everything, and was not woken, believes that.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Tells subscribers that logs have grown.
#[derive(Default)]
pub struct Hub {
    channels: Mutex<HashMap<TaskId, Weak<Channel>>>,
    /// Who tells other hosts, and hears of them.
    live: Option<Arc<dyn Live>>,
}

struct Channel {
    tenant: TenantId,
    tail: Mutex<Tail>,
    last: watch::Sender<Seq>,
}

#[derive(Default)]
struct Tail {
    /// Sorted by number; gaps are possible while two commits race to be
    /// published, so a reader takes only what continues its cursor.
    events: VecDeque<Arc<Event>>,
    bytes: u64,
}

impl Hub {
    /// A hub that tells other hosts by `live`, if there is one.
    pub fn new(live: Option<Arc<dyn Live>>) -> Self {
        Self { channels: Mutex::default(), live }
    }

    /// Publishes events that were committed with these numbers.
    pub fn publish(&self, tenant: TenantId, task: TaskId, appended: Appended, events: Vec<NewEvent>) {
        let channel = lock(&self.channels).get(&task).and_then(Weak::upgrade);
        if channel.is_none() && self.live.is_none() {
            return;
        }
        let events = (appended.first..).zip(events).map(|(seq, body)| Arc::new(Event { seq, body }));
        let events: Vec<_> = events.collect();
        if let Some(channel) = channel {
            channel.grow(&events, appended.last);
            self.release(task, channel);
        }
        if let Some(live) = &self.live {
            live.publish(tenant, task, events);
        }
    }

    /// Wakes readers of a task whose log, it was said elsewhere, goes up to `last`; of
    /// its events these are known already.
    pub fn notice(&self, task: TaskId, events: &[Arc<Event>], last: Seq) {
        let channel = lock(&self.channels).get(&task).and_then(Weak::upgrade);
        if let Some(channel) = channel {
            channel.grow(events, last);
            self.release(task, channel);
        }
    }

    /// The newest event that is known of a task that is watched.
    pub fn newest_known(&self, task: TaskId) -> Option<Seq> {
        let channel = lock(&self.channels).get(&task).and_then(Weak::upgrade)?;
        let last = *channel.last.borrow();
        self.release(task, channel);
        Some(last)
    }

    /// The tasks that are being watched.
    pub fn watched_tasks(&self) -> Vec<TaskId> {
        lock(&self.channels).keys().copied().collect()
    }

    /// Follows a task's log after an event's number.
    pub fn subscribe(
        self: &Arc<Self>,
        store: Arc<dyn Store>,
        (tenant, task): (TenantId, TaskId),
        after: Seq,
    ) -> Subscription {
        let mut channels = lock(&self.channels);
        let channel = channels.get(&task).and_then(Weak::upgrade).unwrap_or_else(|| {
            let channel = Arc::new(Channel { tenant, tail: Mutex::default(), last: watch::Sender::new(0) });
            channels.insert(task, Arc::downgrade(&channel));
            // Under the lock: in order with the end of watching.
            if let Some(live) = &self.live {
                live.watch(tenant, task);
            }
            channel
        });
        let wake = channel.last.subscribe();
        Subscription {
            hub: self.clone(),
            store,
            task,
            channel: Some(channel),
            wake,
            cursor: after,
            ended: false,
            caught_up: None,
        }
    }

    /// How many tasks are being watched.
    pub fn watched(&self) -> usize {
        lock(&self.channels).len()
    }

    fn release(&self, task: TaskId, channel: Arc<Channel>) {
        let mut channels = lock(&self.channels);
        // Under the map's lock nobody can upgrade the last reference.
        if Arc::strong_count(&channel) == 1 {
            channels.remove(&task);
            if let Some(live) = &self.live {
                live.unwatch(channel.tenant, task);
            }
        }
    }
}

impl Channel {
    fn grow(&self, events: &[Arc<Event>], to: Seq) {
        {
            let mut tail = lock(&self.tail);
            events.iter().for_each(|event| tail.insert(event.clone()));
        }
        self.last.send_if_modified(|last| {
            let newer = to > *last;
            *last = (*last).max(to);
            newer
        });
    }
}

impl Tail {
    fn insert(&mut self, event: Arc<Event>) {
        let at = self.events.partition_point(|known| known.seq < event.seq);
        if self.events.get(at).is_some_and(|known| known.seq == event.seq) {
            return;
        }
        self.bytes += event.body.size();
        self.events.insert(at, event);
        while self.events.len() > TAIL_EVENTS || self.bytes > TAIL_BYTES {
            match self.events.pop_front() {
                Some(oldest) => self.bytes -= oldest.body.size(),
                None => break,
            }
        }
    }

    /// The events that continue `after` without a gap.
    fn following(&self, after: Seq) -> Vec<Arc<Event>> {
        let from = self.events.partition_point(|event| event.seq <= after);
        let run = self.events.range(from..).zip(after.saturating_add(1)..);
        run.take_while(|(event, seq)| event.seq == *seq).map(|(event, _)| event.clone()).collect()
    }
}

/// A reader of a task's log.
pub struct Subscription {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    task: TaskId,
    /// Present until dropped.
    channel: Option<Arc<Channel>>,
    wake: watch::Receiver<Seq>,
    cursor: Seq,
    ended: bool,
    /// When nothing was in the log after the cursor.
    caught_up: Option<Instant>,
}

impl Subscription {
    /// The number of the last event that was handed out.
    pub fn cursor(&self) -> Seq {
        self.cursor
    }

    /// The next events, in order and without gaps; waits for them. `None` once
    /// the task is deleted and everything was handed out.
    ///
    /// Cancel-safe: events are handed out by the call that returns them.
    ///
    /// # Errors
    /// If the cursor is older than what is kept or beyond the end, or the store fails.
    pub async fn next(&mut self) -> Result<Option<Vec<Arc<Event>>>, Error> {
        loop {
            if self.ended {
                return Ok(None);
            }
            // Who waited for this and was called off, by a heartbeat perhaps, is where it was.
            if self.caught_up.is_some_and(|at| at.elapsed() < LOOK_AGAIN) && !self.wake.has_changed().unwrap_or(true) {
                self.woken().await;
                continue;
            }
            // Mark first, read second: a commit in between wakes us again. Who is called off
            // from here on has not read what it was woken for.
            self.wake.borrow_and_update();
            self.caught_up = None;
            let events = match &self.channel {
                Some(channel) => lock(&channel.tail).following(self.cursor),
                None => Vec::new(),
            };
            let events = if events.is_empty() { self.page().await? } else { events };
            if let Some(last) = events.last() {
                self.cursor = last.seq;
                return Ok(Some(events));
            }
            if !self.ended {
                self.caught_up = Some(Instant::now());
                self.woken().await;
            }
        }
    }

    /// Waits for what was not there when the log was read last.
    async fn woken(&mut self) {
        // The sender lives in the channel that we hold.
        let _ = self.wake.changed().await;
        self.caught_up = None;
    }

    async fn page(&mut self) -> Result<Vec<Arc<Event>>, Error> {
        // Who comes back soon finds what it missed without the store. The beginning of
        // a log is not there.
        if let (Some(live), Some(channel), true) = (&self.hub.live, &self.channel, self.cursor > 0) {
            let events = live.tail(channel.tenant, self.task, self.cursor).await;
            if !events.is_empty() {
                return Ok(events.into_iter().map(Arc::new).collect());
            }
        }
        let page = self.store.events_after(self.task, self.cursor, PAGE_EVENTS, PAGE_BYTES).await?;
        let Some(page) = page else {
            self.ended = true;
            return Ok(Vec::new());
        };
        if self.cursor.saturating_add(1) < page.first_seq {
            return Err(Error::EventsExpired { after: self.cursor, first: page.first_seq });
        }
        if page.events.is_empty() && page.state == TaskState::Deleted && self.cursor >= page.last_seq {
            self.ended = true;
        } else if self.cursor > page.last_seq {
            // Events that will have those numbers are not those which the reader knows.
            return Err(Error::EventsAhead { after: self.cursor, last: page.last_seq });
        }
        Ok(page.events.into_iter().map(Arc::new).collect())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.hub.release(self.task, channel);
        }
    }
}

/// No code panics while it holds one of these locks; if one did, the data
/// would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
