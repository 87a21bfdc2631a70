//! Runs a guest's future within its processor and wall time. Every poll is
//! measured on the thread's clock; the epoch makes polls about a tick long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::Engine;

use super::background::LONG;
use super::call::Call;
use super::heavy;
use super::panics::vital;
use crate::bounds::{CANCEL_WORK, REST, TICK};
use crate::wire::Stop;

/// Rests without a guest after which the ticker sleeps until it is woken.
const IDLE_RESTS: u32 = 12;

/// Processor time of this thread.
pub(super) fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Counts the engine's epoch while guests run.
pub(super) struct Ticker {
    thread: Thread,
    turns: Arc<Turns>,
}

/// Polls of guests, by any thread.
#[derive(Default)]
struct Turns {
    begun: AtomicU64,
    ended: AtomicU64,
    /// The ticker sleeps until the next.
    parked: AtomicBool,
    /// When the process ends, in nanoseconds of the monotonic clock; 0: not by this.
    until: AtomicU64,
}

impl Turns {
    /// Ends the process if its host should have said long ago that it may go on: looked at
    /// whenever a guest has a turn, and while it has it.
    fn end_in_time(&self) {
        let until = self.until.load(SeqCst);
        if until == 0 {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let now = Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0));
        if now >= Duration::from_nanos(until) {
            // Nothing of it may go on; there is nobody to tell.
            std::process::abort();
        }
    }

    /// How many have begun, and whether one goes on.
    fn look(&self) -> (u64, bool) {
        // In this order: one that ends in between seems to go on, and is looked
        // at again.
        let ended = self.ended.load(SeqCst);
        let begun = self.begun.load(SeqCst);
        (begun, begun != ended)
    }
}

impl Ticker {
    /// Starts the thread; it lives as long as the process.
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let turns = Arc::<Turns>::default();
        let seen = turns.clone();
        let thread = std::thread::Builder::new().name("ticker".into()).stack_size(64 * 1024).spawn(move || {
            let (mut last, mut idle, mut pause) = (0, 0, TICK);
            vital(|| {
                loop {
                    std::thread::sleep(pause);
                    engine.increment_epoch();
                    seen.end_in_time();
                    let (begun, goes_on) = seen.look();
                    idle = if begun == last && !goes_on { idle + 1 } else { 0 };
                    last = begun;
                    // Mostly none goes on where all are short, and each waking costs as much
                    // as a short call does.
                    pause = if goes_on { TICK } else { REST };
                    if idle < IDLE_RESTS {
                        continue;
                    }
                    seen.parked.store(true, SeqCst);
                    while seen.parked.load(SeqCst) && seen.begun.load(SeqCst) == last {
                        std::thread::park();
                    }
                    seen.parked.store(false, SeqCst);
                    (idle, pause) = (0, TICK);
                }
            })
        })?;
        Ok(Self { thread: thread.thread().clone(), turns })
    }

    /// Ends the process at `until_ns` of the monotonic clock, unless a later time is told, or was.
    pub(super) fn run_until(&self, until_ns: u64) {
        self.turns.until.fetch_max(until_ns, SeqCst);
    }

    /// A turn begins; it is over when what this returns is dropped, also if it panics.
    fn enter(&self) -> Turn<'_> {
        self.turns.end_in_time();
        self.turns.begun.fetch_add(1, SeqCst);
        if self.turns.parked.load(SeqCst) {
            self.turns.parked.store(false, SeqCst);
            self.thread.unpark();
        }
        Turn(&self.turns)
    }
}

/// A turn of a guest that goes on.
struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

/// A guest's future within its limits.
pub(super) struct Metered<F> {
    guest: Pin<Box<F>>,
    call: Arc<Call>,
    ticker: Arc<Ticker>,
    used: Duration,
    /// What it had used when it was found cancelled.
    at_cancel: Option<Duration>,
    allowed: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    turns: heavy::Turns,
}

impl<F: Future> Metered<F> {
    pub(super) fn new(guest: F, call: Arc<Call>, ticker: Arc<Ticker>, turns: heavy::Turns) -> Self {
        let allowed = Duration::from_millis(call.limits.cpu_time_ms);
        Self {
            guest: Box::pin(guest),
            call,
            ticker,
            used: Duration::ZERO,
            at_cancel: None,
            allowed,
            timer: None,
            turns,
        }
    }

    fn stopped(&mut self) -> Option<Stop> {
        match self.call.over(Instant::now()) {
            Some(Stop::Aborted) => Some(Stop::Aborted),
            _ if self.used >= self.allowed => Some(Stop::Cpu),
            None if self.spends_its_grace() => Some(Stop::Cancelled),
            over => over,
        }
    }

    /// Whether it was cancelled, and works on instead of ending.
    fn spends_its_grace(&mut self) -> bool {
        let cancelled = self.call.cancelled().map(|_| *self.at_cancel.get_or_insert(self.used));
        cancelled.is_some_and(|at| self.used.saturating_sub(at) >= CANCEL_WORK)
    }
}

impl<F: Future> Future for Metered<F> {
    /// What the guest made of it or why it was stopped, and its processor time.
    type Output = (Result<F::Output, Stop>, Duration);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(stop) = this.stopped() {
            return Poll::Ready((Err(stop), this.used));
        }
        let turn = this.ticker.enter();
        let before = thread_time();
        let polled = this.guest.as_mut().poll(context);
        let time = thread_time().saturating_sub(before);
        this.used += time;
        drop(turn);
        // One that is long already leaves it to what its user's short ones do.
        let heavy = this.used < LONG + time && this.turns.had(this.used - time, time);
        this.call.flush();
        if let Poll::Ready(output) = polled {
            return Poll::Ready((Ok(output), this.used));
        }
        this.call.flush_changes();
        if heavy || this.used >= LONG {
            this.call.takes_long();
        }
        this.call.waker.register(context.waker());
        if let Some(stop) = this.stopped() {
            return Poll::Ready((Err(stop), this.used));
        }
        let look = tokio::time::Instant::from_std(this.call.next_look());
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look)));
        if timer.deadline() != look {
            timer.as_mut().reset(look);
        }
        if timer.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
