//! One call as its guest's host functions, its scheduler and the socket see
//! it: flags, emission window, counters. Shared, so everything is atomic or
//! behind a lock that nobody else wants at that moment.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::event::{ChangeCounts, ChangeKind, Stream};
use bulkhead_core::limits::Limits;
use futures::task::AtomicWaker;
use serde::Serialize;
use tokio::sync::Notify;

use super::fs::{Journal, UserSyncs};
use super::http::Exchanges;
use super::link::Link;
use super::room::Room;
use super::tally::Tally;
use crate::bounds::{self, CANCEL_GRACE, EMISSION_COST, WINDOW};
use crate::wire::{Done, FromWorker, Stop, StreamLimit, Taken, frame};

/// Output of a pass is sent in pieces of about this size.
const CHUNK: usize = 32 * 1024;

/// A running call.
pub(super) struct Call {
    /// Its number on this connection.
    pub(super) id: u32,
    pub(super) limits: Limits,
    begun: Instant,
    /// When its wall time is over, in nanoseconds after `begun`: it can be put off.
    deadline: AtomicU64,
    link: Arc<Link>,
    aborted: AtomicBool,
    cancelled: Mutex<Option<Instant>>,
    /// The guest has asked whether it is cancelled: so it will end by itself.
    looks: AtomicBool,
    /// The host was told how it ended.
    told: AtomicBool,
    window: Mutex<Window>,
    credit: Notify,
    pub(super) waker: AtomicWaker,
    /// Something happened that may end it; for whoever watches it.
    pub(super) poked: Notify,
    long: AtomicBool,
    output: Mutex<Output>,
    /// Bytes read from and written to files.
    pub(super) read: AtomicU64,
    pub(super) written: AtomicU64,
    /// Largest sum of linear memories, in bytes.
    pub(super) peak: Arc<AtomicU64>,
    /// What may be added to the workspace.
    workspace: Room,
    /// Streams that are open.
    pub(super) streams: Tally,
    /// Files, directories and listings that are open.
    pub(super) files: Tally,
    /// A tree is looked at that is to be moved: see `fs::links`.
    pub(super) looks_at_links: AtomicBool,
    /// The disk's time that its user has.
    pub(super) syncs: UserSyncs,
    journal: Mutex<Journal>,
    exchanges: Mutex<Exchanges>,
}

/// What is on its way to the store.
#[derive(Default)]
struct Window {
    outstanding: usize,
    pending: Vec<u8>,
    stream: Option<Stream>,
}

impl Window {
    fn used(&self) -> usize {
        let pending = if self.pending.is_empty() { 0 } else { self.pending.len() + EMISSION_COST };
        self.outstanding + pending
    }
}

/// What came out of the standard streams.
#[derive(Default)]
struct Output {
    total: u64,
    kept: [u64; 2],
    truncated: Vec<StreamLimit>,
    tail: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Call {
    pub(super) fn new(
        id: u32,
        limits: Limits,
        room: (u64, u64),
        deadline: Instant,
        link: Arc<Link>,
        syncs: UserSyncs,
    ) -> Self {
        let journal = Mutex::new(Journal::new(limits.file_changes));
        let begun = Instant::now();
        let (streams, files) = (Tally::new(limits.streams), Tally::new(limits.open_files));
        Self {
            id,
            limits,
            begun,
            deadline: AtomicU64::new(nanoseconds(deadline.saturating_duration_since(begun))),
            link,
            aborted: AtomicBool::new(false),
            cancelled: Mutex::default(),
            looks: AtomicBool::new(false),
            told: AtomicBool::new(false),
            window: Mutex::default(),
            credit: Notify::new(),
            waker: AtomicWaker::new(),
            poked: Notify::new(),
            long: AtomicBool::new(false),
            output: Mutex::default(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            peak: Arc::default(),
            workspace: Room::new(room),
            streams,
            files,
            looks_at_links: AtomicBool::new(false),
            syncs,
            journal,
            exchanges: Mutex::default(),
        }
    }

    /// When its wall time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.begun + Duration::from_nanos(self.deadline.load(Relaxed))
    }

    /// Moves the end of its wall time.
    pub(super) fn put_off(&self, deadline: Instant) {
        self.deadline.store(nanoseconds(deadline.saturating_duration_since(self.begun)), Relaxed);
        self.wake();
    }

    /// Has it looked at.
    fn wake(&self) {
        self.waker.wake();
        self.poked.notify_one();
    }

    /// Why it may not go on, if it may not; its processor time aside.
    pub(super) fn over(&self, now: Instant) -> Option<Stop> {
        if self.aborted() {
            return Some(Stop::Aborted);
        }
        if now >= self.deadline() {
            return Some(Stop::Wall);
        }
        self.cancelled().is_some_and(|since| now >= since + self.grace()).then_some(Stop::Cancelled)
    }

    /// When to look again whether it may go on.
    pub(super) fn next_look(&self) -> Instant {
        let deadline = self.deadline();
        self.cancelled().map_or(deadline, |since| deadline.min(since + self.grace()))
    }

    /// How long it may go on once it is cancelled: for a guest that does not look
    /// there is nothing to wait for.
    fn grace(&self) -> Duration {
        if self.looks.load(Relaxed) { CANCEL_GRACE } else { Duration::ZERO }
    }

    /// Notes that the guest looks whether it is cancelled; until when it may go on.
    pub(super) fn looked(&self) -> Instant {
        self.looks.store(true, Relaxed);
        self.next_look()
    }

    /// Notes that it takes long.
    pub(super) fn takes_long(&self) {
        self.long.store(true, Relaxed);
    }

    /// Whether it takes long.
    pub(super) fn is_long(&self) -> bool {
        self.long.load(Relaxed)
    }

    /// Its HTTP exchanges.
    pub(super) fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        lock(&self.exchanges)
    }

    /// Sends what is left. What is left of its exchanges goes with the store, and
    /// says nothing more.
    pub(super) fn close(&self) {
        self.flush();
        self.exchanges().close();
    }

    /// Asks the guest to end soon.
    pub(super) fn cancel(&self) {
        lock(&self.cancelled).get_or_insert_with(Instant::now);
        self.credit.notify_waiters();
        self.wake();
    }

    /// Since when the call is cancelled.
    pub(super) fn cancelled(&self) -> Option<Instant> {
        *lock(&self.cancelled)
    }

    /// Ends the guest at its next turn.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Relaxed);
        self.wake();
    }

    pub(super) fn aborted(&self) -> bool {
        self.aborted.load(Relaxed)
    }

    /// So many bytes of emissions are stored.
    pub(super) fn credited(&self, bytes: usize) {
        let mut window = lock(&self.window);
        window.outstanding = window.outstanding.saturating_sub(bytes);
        drop(window);
        self.credit.notify_waiters();
    }

    /// Sends an emission of `size` bytes once there is credit for it. One that
    /// is larger than the window has it to itself. False if the call was
    /// cancelled meanwhile.
    pub(super) async fn emit(&self, size: usize, message: &(impl Serialize + Sync)) -> bool {
        // Encoded before anything is locked: this may be a thread that gets few turns.
        let frame = frame(self.id, message);
        let send = || {
            self.link.push_frame(&frame);
            true
        };
        self.send_within(WINDOW, size, send).await
    }

    /// Has something of `size` bytes sent once it fits into the first `most`
    /// bytes of the window. False if it is not wanted any more.
    pub(super) async fn send_within(&self, most: usize, size: usize, send: impl Fn() -> bool + Send) -> bool {
        loop {
            let credit = self.credit.notified();
            if let Some(sent) = self.try_send(most, size + EMISSION_COST, &send) {
                return sent;
            }
            credit.await;
            if self.cancelled().is_some() {
                return false;
            }
        }
    }

    fn try_send(&self, most: usize, cost: usize, send: impl Fn() -> bool) -> Option<bool> {
        let mut window = lock(&self.window);
        if window.used() > 0 && window.used() + cost > most {
            return None;
        }
        self.flush_window(&mut window);
        let sent = send();
        if sent {
            window.outstanding += cost;
        }
        Some(sent)
    }

    /// Tells the host how it ended: once. What it has to say is said by then.
    pub(super) fn tell(&self, done: Done<'_>) {
        if !self.told.swap(true, Relaxed) {
            self.send_free(&FromWorker::Done(done));
        }
    }

    /// Sends what does not count against the window.
    pub(super) fn send_free(&self, message: &impl Serialize) {
        self.link.push(self.id, message);
    }

    /// How much output fits now.
    fn room(&self) -> usize {
        WINDOW.saturating_sub(lock(&self.window).used() + EMISSION_COST)
    }

    /// How much may be written to a standard stream now.
    pub(super) fn writable(&self, stream: Stream) -> usize {
        if self.stream_limit(stream) <= lock(&self.output).kept[stream as usize] {
            // Over the limit: counted and dropped, which needs no room.
            return CHUNK;
        }
        self.room().min(2 * CHUNK)
    }

    /// Waits until something may be written.
    pub(super) async fn until_writable(&self, stream: Stream) {
        loop {
            let credit = self.credit.notified();
            if self.writable(stream) > 0 {
                return;
            }
            credit.await;
        }
    }

    fn stream_limit(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.limits.stdout_bytes,
            Stream::Stderr => self.limits.stderr_bytes,
        }
    }

    /// Takes what the guest wrote; what is over the limit is only counted.
    pub(super) fn write(&self, stream: Stream, bytes: &[u8]) {
        let limit = self.stream_limit(stream);
        let mut output = lock(&self.output);
        output.total += bytes.len() as u64;
        let kept = &mut output.kept[stream as usize];
        let keep = bytes.len().min(usize::try_from(limit - *kept).unwrap_or(usize::MAX));
        *kept += keep as u64;
        if stream == Stream::Stderr {
            keep_tail(&mut output.tail, bytes);
        }
        let cut = keep < bytes.len();
        drop(output);
        self.append(stream, &bytes[..keep]);
        if cut {
            let which = if stream == Stream::Stdout { StreamLimit::Stdout } else { StreamLimit::Stderr };
            self.truncated(which);
        }
    }

    fn append(&self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut window = lock(&self.window);
        if window.stream != Some(stream) {
            self.flush_window(&mut window);
            window.stream = Some(stream);
        }
        window.pending.extend_from_slice(bytes);
        if window.pending.len() >= CHUNK {
            self.flush_window(&mut window);
        }
    }

    /// Says once that a stream is cut off.
    pub(super) fn truncated(&self, which: StreamLimit) {
        self.refused(which, None);
    }

    /// Says once that something was refused, of which so much was wanted.
    pub(super) fn refused(&self, which: StreamLimit, wanted: Option<u64>) {
        let mut output = lock(&self.output);
        if output.truncated.contains(&which) {
            return;
        }
        output.truncated.push(which);
        drop(output);
        self.flush();
        self.send_free(&FromWorker::Truncated { limit: which, wanted });
    }

    /// Sends the output of this pass.
    pub(super) fn flush(&self) {
        self.flush_window(&mut lock(&self.window));
    }

    fn flush_window(&self, window: &mut Window) {
        let (Some(stream), false) = (window.stream, window.pending.is_empty()) else { return };
        window.outstanding += window.pending.len() + EMISSION_COST;
        self.link.push(self.id, &FromWorker::Output { stream, data: &window.pending });
        window.pending.clear();
    }

    /// Bytes written to both standard streams, and the end of standard error.
    pub(super) fn output(&self) -> (u64, Vec<u8>) {
        let output = lock(&self.output);
        (output.total, output.tail.clone())
    }

    /// Takes bytes of the workspace's quota, or refuses.
    pub(super) fn take_bytes(&self, bytes: u64) -> io::Result<()> {
        self.took(self.workspace.take_bytes(bytes), StreamLimit::WorkspaceBytes)
    }

    /// Takes an entry of the workspace's quota, or refuses.
    pub(super) fn take_entry(&self) -> io::Result<()> {
        self.took(self.workspace.take_entry(), StreamLimit::WorkspaceEntries)
    }

    fn took(&self, taken: bool, limit: StreamLimit) -> io::Result<()> {
        if !taken {
            self.truncated(limit);
            return Err(rustix::io::Errno::DQUOT.into());
        }
        self.tell_taken();
        Ok(())
    }

    fn tell_taken(&self) {
        if let Some(taken) = self.workspace.news() {
            self.send_free(&FromWorker::Took(taken));
        }
    }

    /// What it has added to the workspace.
    pub(super) fn taken(&self) -> Taken {
        self.workspace.taken()
    }

    /// It may add nothing more: others of its user have taken what there was.
    pub(super) fn withdraw(&self) {
        self.workspace.withdraw();
    }

    /// Gives bytes back that are free at once: of a file that was cut.
    pub(super) fn give_bytes(&self, bytes: u64) {
        self.workspace.give_bytes(bytes);
        self.tell_taken();
    }

    /// Gives the entry of a name back that is gone.
    pub(super) fn give_entry(&self) {
        self.workspace.give_entry();
        self.tell_taken();
    }

    /// Notes a changed file.
    pub(super) fn changed(&self, kind: ChangeKind, path: Option<&str>) {
        let full = lock(&self.journal).record(kind, path);
        if full {
            self.flush_changes();
        }
    }

    /// Sends the changes since the last time. They are limited by their number
    /// and wait for no credit, so that none is lost with a guest that is stopped.
    pub(super) fn flush_changes(&self) {
        let changes = lock(&self.journal).take();
        for changes in changes.chunks(bounds::CHANGES_PER_FRAME) {
            let changes = changes.iter().map(|(kind, path)| (*kind, path.as_str())).collect();
            self.send_free(&FromWorker::Changed { changes });
        }
    }

    /// Sends what is left to say about files at the end: once, and nothing after it.
    pub(super) fn finish_changes(&self) {
        if self.told.load(Relaxed) {
            return;
        }
        self.flush_changes();
        let ChangeCounts { created, modified, deleted } = lock(&self.journal).unnamed();
        if created + modified + deleted > 0 {
            self.send_free(&FromWorker::ChangedUnnamed { created, modified, deleted });
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(bounds::STDERR_TAIL)..]);
    let excess = tail.len().saturating_sub(bounds::STDERR_TAIL);
    tail.drain(..excess);
}
