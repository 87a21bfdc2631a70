//! Event streams that are open, of both kinds: how many a user has, and how
//! each ended.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::hub::Subscription;
use bulkhead_core::ports::live::{Connection, Connections, Opened};
use bulkhead_core::principal::Owner;
use bulkhead_core::reached::words;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::standing::Standing;
use crate::metrics::{Metrics, StreamGauge};

/// What bounds a stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Streams of one user at once.
    pub per_user: usize,
    /// Between two signs of life on an idle stream.
    pub heartbeat: Duration,
    /// How long a client may take nothing of what is there.
    pub stall: Duration,
    /// How long a stream lasts; then the client comes again and shows its key.
    pub age: Duration,
}

/// Why a stream ended. The names are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The task is deleted, or the tool's preparation ended, and everything was read.
    Over,
    /// The client went away.
    Client,
    /// The client sent what it must not.
    Protocol,
    /// The client took nothing for too long.
    Stalled,
    /// It lasted as long as it may.
    Age,
    /// The key was revoked, or it or the token has expired.
    Unauthenticated,
    /// The cursor is older than what is kept.
    Expired,
    /// The log ends before the cursor.
    Ahead,
    /// The store failed.
    Failed,
    /// The host stops.
    Stopping,
}

impl Why {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Client => "client",
            Self::Protocol => "protocol",
            Self::Stalled => "stalled",
            Self::Age => "age",
            Self::Unauthenticated => "unauthenticated",
            Self::Expired => "expired",
            Self::Ahead => "ahead",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }

    /// What the client is told, as far as it can be: at most 123 bytes, as much as a close
    /// of a WebSocket says (RFC 6455, section 5.5).
    pub fn says(self) -> &'static str {
        match self {
            Self::Over => "everything was read, and nothing comes any more",
            Self::Client => "the client went away",
            Self::Protocol => "a client of this protocol sends nothing",
            Self::Stalled => "nothing was taken for too long; go on after the last event",
            Self::Age => "come again with a key or ticket, after the last event",
            Self::Unauthenticated => "the key was revoked, or it or the token has expired",
            Self::Expired => "the cursor is older than what is kept",
            Self::Ahead => "the log ends before the cursor",
            Self::Failed => "the store failed; come again",
            Self::Stopping => "the host is stopping; go on after the last event",
        }
    }
}

/// The open streams of all users.
#[derive(Default)]
pub struct Streams {
    open: Mutex<HashMap<Owner, usize>>,
    /// Who counts those of all hosts together.
    shared: Option<Arc<dyn Connections>>,
}

impl Streams {
    /// None open yet; counted with those of other hosts, if `shared` can.
    pub fn new(shared: Option<Arc<dyn Connections>>) -> Self {
        Self { open: Mutex::default(), shared }
    }

    /// Makes room for one more.
    ///
    /// # Errors
    /// If the user has as many as one may have.
    pub async fn admit(self: &Arc<Self>, owner: Owner, options: StreamOptions) -> Result<Place, Problem> {
        let most = options.per_user;
        let full = || {
            let detail = words("http.streams_per_user", most as u64, most);
            Problem::new("too_many_streams", detail).with("limit", most).retry_after(1)
        };
        let mut place = self.take(owner, most).ok_or_else(full)?;
        if let Some(shared) = &self.shared {
            match shared.open(owner, most as u64).await {
                Opened::Counted(connection) => place.counted = Some(connection),
                Opened::Full => return Err(full()),
                // Each host counts its own then.
                Opened::Unknown => {}
            }
        }
        Ok(place)
    }

    fn take(self: &Arc<Self>, owner: Owner, most: usize) -> Option<Place> {
        let mut open = self.lock();
        let count = open.entry(owner).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { streams: self.clone(), owner, counted: None })
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one stream, given back when dropped.
pub struct Place {
    streams: Arc<Streams>,
    owner: Owner,
    /// Where it is counted with those of other hosts.
    counted: Option<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (Some(shared), Some(connection)) = (&self.streams.shared, self.counted) {
            shared.close(connection);
        }
        let mut open = self.streams.lock();
        if let Entry::Occupied(mut count) = open.entry(self.owner) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What a stream has waited for.
pub enum Waited<T> {
    /// This came.
    Next(T),
    /// Nothing came: the client is told that it lives.
    Idle,
    /// It has ended, as [`Stream::ended`] says.
    Over,
}

/// A stream: its reader, and all that is given back when it ends.
pub struct Stream<E = Subscription> {
    /// The events.
    pub events: E,
    /// Ends when the host stops.
    pub stop: CancellationToken,
    /// What bounds it.
    pub options: StreamOptions,
    /// When it lasted as long as it may.
    pub until: tokio::time::Instant,
    /// When the client last took something.
    pub taken: Instant,
    standing: Standing,
    why: Option<Why>,
    metrics: Arc<Metrics>,
    /// Of the request that opened it, whose id is the stream's.
    span: tracing::Span,
    _gauge: StreamGauge,
    _place: Place,
}

impl<E> Stream<E> {
    /// Begins one.
    pub(super) fn new(
        events: E,
        place: Place,
        standing: Standing,
        stop: CancellationToken,
        options: StreamOptions,
        metrics: Arc<Metrics>,
    ) -> Self {
        let gauge = metrics.stream_opened();
        let until = tokio::time::Instant::now() + options.age;
        let taken = Instant::now();
        let span = tracing::Span::current();
        Self { events, stop, options, until, taken, standing, why: None, metrics, span, _gauge: gauge, _place: place }
    }

    /// When [`Stream::lasts`] is to be asked.
    pub fn due(&self) -> tokio::time::Instant {
        self.until.min(self.standing.due())
    }

    /// Whether it may last, or why not: its time, and the credential it was opened with.
    pub async fn lasts(&mut self) -> Result<(), Why> {
        if self.until <= tokio::time::Instant::now() {
            return Err(Why::Age);
        }
        if self.standing.holds().await { Ok(()) } else { Err(Why::Unauthenticated) }
    }

    /// Waits for what comes next, for a sign of life at most, as long as it may last. To be
    /// called when the client takes something.
    pub async fn wait<T>(&mut self, mut next: impl AsyncFnMut(&mut E) -> T) -> Waited<T> {
        self.taken = Instant::now();
        let idle = tokio::time::Instant::now() + self.options.heartbeat;
        loop {
            // Not beside the events: one that is always busy must end, too.
            if self.due() <= tokio::time::Instant::now()
                && let Err(why) = self.lasts().await
            {
                return self.over(why);
            }
            let due = self.due();
            tokio::select! {
                () = self.stop.cancelled() => return self.over(Why::Stopping),
                () = tokio::time::sleep_until(due) => {}
                next = tokio::time::timeout_at(idle, next(&mut self.events)) => {
                    return next.map_or(Waited::Idle, Waited::Next);
                }
            }
        }
    }

    fn over<T>(&mut self, why: Why) -> Waited<T> {
        self.end(why);
        Waited::Over
    }

    /// Why it ended, if it was said.
    pub fn ended(&self) -> Option<Why> {
        self.why
    }

    /// Why its connection broke: nothing was read, or the client went.
    pub fn broke(&self) -> Why {
        // The kernel cuts off twice `stall` after the first byte that was not taken; here it
        // shows only once the kernel's buffer is full.
        let stalled = self.taken.elapsed() >= self.options.heartbeat.max(self.options.stall / 2);
        if stalled { Why::Stalled } else { Why::Client }
    }

    /// Says why it ends; what is said first counts.
    pub fn end(&mut self, why: Why) {
        self.why.get_or_insert(why);
    }
}

impl<E> Drop for Stream<E> {
    fn drop(&mut self) {
        // Dropped from outside: the connection broke.
        let why = self.why.unwrap_or_else(|| self.broke());
        self.metrics.stream_ended(why.name());
        tracing::debug!(parent: &self.span, reason = why.name(), "a stream ended");
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_core::id::{TenantId, UserId};

    use super::*;

    #[tokio::test]
    async fn a_user_has_so_many_and_gives_them_back() {
        let second = Duration::from_secs(1);
        let options = StreamOptions { per_user: 2, heartbeat: second, stall: second, age: second };
        let owner = |user| Owner { tenant: TenantId::from_parts(1, 0), user: UserId::from_parts(user, 0) };
        let streams = Arc::new(Streams::default());
        let first = streams.admit(owner(1), options).await.expect("room");
        let _second = streams.admit(owner(1), options).await.expect("room");
        assert_eq!(streams.admit(owner(1), options).await.err().expect("no room").code, "too_many_streams");
        let other = streams.admit(owner(2), options).await.expect("room");
        assert_eq!(streams.lock().values().sum::<usize>(), 3);
        drop((first, other));
        assert_eq!(*streams.lock(), HashMap::from([(owner(1), 1)]));
        streams.admit(owner(1), options).await.expect("room");
    }
}
