//! The sink of a running call: makes events of what a guest sends, a batch at
//! a time. Output is collected for a moment, so that a hundred small writes
//! cost one commit; a full batch makes the guest wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::drive::{RETRY, chain};
use super::egress::Broker;
use super::{Inner, lock};
use crate::call::Call;
use crate::event::{ChangeCounts, ChangeKind, ChangedBy, EventBody, FileChange, NewEvent, Stream};
use crate::files::CHANGED;
use crate::grants::WorkspaceAccess;
use crate::limits::Limits;
use crate::ports::egress::{EgressError, IncomingResponse};
use crate::ports::sandbox::{Emission, GuestRequest, Sink};
use crate::ports::store::StoreError;
use crate::quota::{Lease, Room};
use crate::reached::Reached;
use crate::steps;

/// About ten progress events a second are enough for a person.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Named changes of one event; an event stays below some 100 KiB.
const CHANGES_PER_EVENT: usize = 500;
/// What an event is taken to weigh beside its content: its row costs more than its bytes.
/// So a guest that says next to nothing very often fills its batches, too.
const EVENT_BYTES: usize = 256;
/// What a change of a file is taken to weigh beside its path: it has a row of the history.
const CHANGE_BYTES: usize = 128;
/// Changes found by a walk after a worker's death.
const WALK_MAX: u32 = 1_000;

pub(super) struct CallSink {
    inner: Arc<Inner>,
    call: Arc<Call>,
    batch: Mutex<Batch>,
    /// Who decides about requests; none if no guest runs.
    pub(super) broker: OnceLock<Arc<Broker>>,
    /// Held while a batch is taken and stored, so that batches stay in order.
    flushing: Arc<tokio::sync::Mutex<()>>,
    /// The call has ended: what the store would not take is stored with its end.
    ending: CancellationToken,
}

#[derive(Default)]
struct Batch {
    limits: Limits,
    room: Option<(Room, Lease)>,
    bodies: Vec<EventBody>,
    bytes: usize,
    /// The beginning of a character whose end has not come yet, per stream.
    partial: [Vec<u8>; 2],
    changes: Vec<FileChange>,
    counts: ChangeCounts,
    unnamed: bool,
    /// Changes of the whole call, named or not.
    changed: u64,
    changes_lost: bool,
    progress: Option<EventBody>,
    progress_at: Option<Instant>,
    timer: bool,
    finished: bool,
    /// What the store had not taken when the call ended.
    unstored: Vec<NewEvent>,
    /// See [`Sink::silent_until`].
    silent_until: Option<Instant>,
}

impl CallSink {
    pub(super) fn new(inner: Arc<Inner>, call: Arc<Call>) -> Self {
        let batch = Mutex::new(Batch { limits: call.limits.clone(), ..Batch::default() });
        Self { inner, call, batch, broker: OnceLock::new(), flushing: Arc::default(), ending: CancellationToken::new() }
    }

    fn flush_later(self: &Arc<Self>) {
        let sink = self.clone();
        let wait = self.inner.config.coalesce;
        self.inner.tracker.spawn(async move {
            tokio::time::sleep(wait).await;
            sink.flush().await;
        });
    }

    /// What bounds that which the guest may write.
    pub(super) fn bounded(&self, room: Room, lease: Lease) {
        lock(&self.batch).room = Some((room, lease));
    }

    /// What the guest may add.
    pub(super) fn lease(&self) -> Lease {
        lock(&self.batch).room.as_ref().map(|(_, lease)| lease.clone()).unwrap_or_default()
    }

    /// Adds an event of the host's own about the call.
    pub(super) fn note(self: &Arc<Self>, body: EventBody) {
        let start_timer = {
            let mut batch = lock(&self.batch);
            if batch.finished {
                return;
            }
            batch.bytes += EVENT_BYTES;
            batch.bodies.push(body);
            !std::mem::replace(&mut batch.timer, true)
        };
        if start_timer {
            self.flush_later();
        }
    }

    /// Whether it is not known what the call changed.
    pub(super) fn changes_lost(&self) -> bool {
        lock(&self.batch).changes_lost
    }

    /// What has not been stored yet, to be stored with the call's end.
    pub(super) async fn finish(&self) -> Vec<NewEvent> {
        self.ending.cancel();
        let _order = self.flushing.lock().await;
        let (mut events, bodies, lost) = {
            let mut batch = lock(&self.batch);
            batch.finished = true;
            batch.end_text();
            (std::mem::take(&mut batch.unstored), batch.take(true), batch.changes_lost)
        };
        events.extend(self.events(bodies));
        if lost && self.call.grants.most_workspace() == WorkspaceAccess::ReadWrite {
            events.extend(self.walk().await);
        }
        events
    }

    /// After a worker's death: what changed since the call began, as far as a
    /// walk can tell. Deleted files leave no trace, so it is never complete.
    async fn walk(&self) -> Option<NewEvent> {
        let since = self.call.state.since()?;
        let workspaces = &self.inner.parts.workspaces;
        let root = workspaces.open(self.call.owner.tenant, self.call.task).await.ok()?;
        let walked = workspaces.changed_since(root, since, WALK_MAX).await.ok()?;
        let mut counts = ChangeCounts::default();
        walked.changes.iter().for_each(|change| counts.add(change.change));
        let body = EventBody::files_changed(ChangedBy::Call, walked.changes, counts, true);
        Some(NewEvent::new(self.inner.parts.ids.now(), Some(self.call.id), &body))
    }

    fn events(&self, bodies: Vec<EventBody>) -> Vec<NewEvent> {
        let at = self.inner.parts.ids.now();
        bodies.iter().map(|body| NewEvent::new(at, Some(self.call.id), body)).collect()
    }

    async fn flush(self: &Arc<Self>) {
        let order = self.flushing.clone().lock_owned().await;
        let (full, bodies) = {
            let mut batch = lock(&self.batch);
            batch.timer = false;
            let full = batch.bytes >= self.inner.config.coalesce_bytes;
            // At the end the rest is stored with it, after what could not be stored before.
            (full, if self.ending.is_cancelled() { Vec::new() } else { batch.take(false) })
        };
        if bodies.is_empty() {
            return;
        }
        // To its end, also if who waits for it goes: what comes after must not overtake it.
        let this = self.clone();
        let stored = self.inner.tracker.spawn(async move {
            let (pace, user, begun) = (&this.inner.pace, this.call.owner.user, Instant::now());
            pace.note(user);
            this.store(bodies).await;
            if full {
                lock(&this.batch).silent_until = pace.stored(user, begun.elapsed());
            }
            drop(order);
        });
        // A panic in it is logged by the runtime.
        let _ = stored.await;
    }

    /// Stores events, trying again while the store refuses: what a guest said or changed
    /// must not be lost for a disk that was full for a moment. Meanwhile the guest waits,
    /// once it has filled the next batch.
    async fn store(&self, bodies: Vec<EventBody>) {
        let events = self.events(bodies);
        let parts = &self.inner.parts;
        loop {
            match parts.store.append_events(self.call.task, events.clone()).await {
                Ok(Some(appended)) => {
                    steps::reach("call.output");
                    parts.meter.events_appended(events.len() as u64);
                    parts.hub.publish(self.call.owner.tenant, self.call.task, appended, events);
                    return;
                }
                Ok(None) => return tracing::warn!(call = %self.call.id, "the task of a running call is gone"),
                // Nothing was stored, and it may be soon; the call's own time bounds the wait.
                Err(error @ (StoreError::Unavailable(_) | StoreError::DiskFull)) => {
                    tracing::debug!(call = %self.call.id, error = %chain(&error), "output could not be stored yet");
                }
                // The call itself goes on: its outcome is stored with retries.
                Err(error) => {
                    tracing::error!(call = %self.call.id, error = %chain(&error), "output could not be stored and is lost");
                    lock(&self.batch).changes_lost |= events.iter().any(|event| event.kind == CHANGED);
                    return;
                }
            }
            if self.ending.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                lock(&self.batch).unstored = events;
                return;
            }
        }
    }
}

#[async_trait]
impl Sink for Arc<CallSink> {
    async fn emit(&self, emission: Emission) {
        let (full, start_timer) = {
            let mut batch = lock(&self.batch);
            batch.add(emission);
            let full = batch.bytes >= self.inner.config.coalesce_bytes;
            let start = !full && !batch.timer && batch.has_news();
            batch.timer |= start;
            (full, start)
        };
        if full {
            self.flush().await;
        } else if start_timer {
            self.flush_later();
        }
    }

    fn silent_until(&self) -> Option<Instant> {
        lock(&self.batch).silent_until
    }

    async fn send(&self, request: GuestRequest) -> Result<IncomingResponse, EgressError> {
        match self.broker.get() {
            Some(broker) => broker.send(self, request).await,
            None => Err(EgressError::Denied),
        }
    }
}

impl Batch {
    fn has_news(&self) -> bool {
        !self.bodies.is_empty() || !self.changes.is_empty() || self.progress.is_some()
    }

    fn add(&mut self, emission: Emission) {
        match emission {
            Emission::Output(stream, bytes) => self.add_output(stream, &bytes),
            Emission::Content(part) => {
                self.bytes += EVENT_BYTES + part.size();
                self.bodies.push(EventBody::CallContent { part });
            }
            Emission::Truncated { limit, used } => {
                self.end_text();
                let reached = match (limit, &self.room) {
                    ("workspace_bytes", Some((room, lease))) => Reached::of(lease.over().unwrap_or(room.bytes_bound)),
                    ("workspace_entries", Some((room, lease))) => {
                        Reached::of(lease.over().unwrap_or(room.entries_bound))
                    }
                    _ => self.limits.reached(limit, used),
                };
                self.bytes += EVENT_BYTES;
                self.bodies.push(EventBody::CallTruncated(reached));
            }
            Emission::Progress { done, total, message } => {
                self.progress = Some(EventBody::CallProgress { done, total, message });
            }
            Emission::Log { level, message, fields } => {
                self.bytes +=
                    EVENT_BYTES + message.len() + fields.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
                self.bodies.push(EventBody::CallLog { level, message, fields });
            }
            Emission::Changed(change) => {
                self.bytes += CHANGE_BYTES + change.path.len();
                self.counts.add(change.change);
                self.changed += 1;
                self.changes.push(change);
            }
            Emission::ChangedUnnamed(counts) => {
                self.counts.created += counts.created;
                self.counts.modified += counts.modified;
                self.counts.deleted += counts.deleted;
                self.changed = [counts.created, counts.modified, counts.deleted]
                    .into_iter()
                    .fold(self.changed, u64::saturating_add);
                self.unnamed = true;
            }
            Emission::ChangesLost => self.changes_lost = true,
        }
    }

    /// Adds output as text. A character that is cut between two chunks waits
    /// for its end; what can never become one is replaced.
    fn add_output(&mut self, stream: Stream, bytes: &Bytes) {
        let partial = &mut self.partial[stream as usize];
        let joined: Vec<u8>;
        let mut rest: &[u8] = if partial.is_empty() {
            bytes
        } else {
            joined = [partial.as_slice(), bytes].concat();
            partial.clear();
            &joined
        };
        let mut text = String::with_capacity(rest.len());
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        *partial = after.to_vec();
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[bad..];
                }
            }
        }
        self.push_text(stream, &text);
    }

    fn push_text(&mut self, stream: Stream, text: &str) {
        if text.is_empty() {
            return;
        }
        self.bytes += text.len();
        match self.bodies.last_mut() {
            Some(EventBody::CallOutput { stream: last, text: before }) if *last == stream => before.push_str(text),
            _ => {
                self.bytes += EVENT_BYTES;
                self.bodies.push(EventBody::CallOutput { stream, text: text.into() });
            }
        }
    }

    /// The stream is over: a character that was begun will not be ended.
    fn end_text(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !std::mem::take(&mut self.partial[stream as usize]).is_empty() {
                self.push_text(stream, "\u{fffd}");
            }
        }
    }

    fn take(&mut self, last: bool) -> Vec<EventBody> {
        let mut bodies = std::mem::take(&mut self.bodies);
        self.bytes = 0;
        let due = self.progress_at.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY);
        if (last || due) && self.progress.is_some() {
            bodies.extend(self.progress.take());
            self.progress_at = Some(Instant::now());
        }
        let mut counts = std::mem::take(&mut self.counts);
        let changes = without_passing(std::mem::take(&mut self.changes), &mut counts);
        // Fewer than the limit: what has no name is a path that none of ours can say.
        let changed = Some(self.changed).filter(|changed| *changed > self.limits.file_changes);
        let unnamed = std::mem::take(&mut self.unnamed).then(|| self.limits.reached("file_changes", changed));
        if !changes.is_empty() || unnamed.is_some() {
            push_changes(&mut bodies, changes, counts, unnamed);
        }
        bodies
    }
}

/// Leaves out what came and went within one batch: a temporary file that a
/// tool renames into place is nobody's news.
fn without_passing(changes: Vec<FileChange>, counts: &mut ChangeCounts) -> Vec<FileChange> {
    let mut kept: Vec<Option<FileChange>> = Vec::with_capacity(changes.len());
    let mut made = HashMap::new();
    for change in changes {
        let made_at = match change.change {
            ChangeKind::Created => {
                made.insert(change.path.clone(), kept.len());
                None
            }
            ChangeKind::Modified => None,
            ChangeKind::Deleted => made.remove(&change.path),
        };
        let Some(made_at) = made_at else {
            kept.push(Some(change));
            continue;
        };
        kept[made_at] = None;
        counts.created -= 1;
        counts.deleted -= 1;
    }
    kept.into_iter().flatten().collect()
}

/// Splits changes over events of a bounded size; the last one has the rest of
/// the counts, and the limit if it was reached.
fn push_changes(
    bodies: &mut Vec<EventBody>,
    changes: Vec<FileChange>,
    mut rest: ChangeCounts,
    unnamed: Option<Reached>,
) {
    let unnamed_any = unnamed.is_some();
    let mut chunks = changes.chunks(CHANGES_PER_EVENT).peekable();
    while let Some(chunk) = chunks.next() {
        let mut counts = ChangeCounts::default();
        chunk.iter().for_each(|change| counts.add(change.change));
        let is_last = chunks.peek().is_none();
        if is_last {
            counts = rest;
        } else {
            rest.created -= counts.created;
            rest.modified -= counts.modified;
            rest.deleted -= counts.deleted;
        }
        let incomplete = is_last && unnamed_any;
        bodies.push(EventBody::files_changed(ChangedBy::Call, chunk.to_vec(), counts, incomplete));
    }
    if changes.is_empty() {
        bodies.push(EventBody::files_changed(ChangedBy::Call, changes, rest, true));
    }
    if let Some(EventBody::FilesChanged { reached, .. }) = bodies.last_mut() {
        *reached = unnamed;
    }
}

#[cfg(test)]
mod tests;
