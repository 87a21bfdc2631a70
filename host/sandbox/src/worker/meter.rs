//! Runs a guest's future within its processor and wall time. Every poll is
//! measured on the thread's clock; the epoch makes polls about a tick long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Sleep;
use wasmtime::Engine;

use super::call::Call;
use crate::bounds::{CANCEL_GRACE, TICK};
use crate::wire::Stop;

/// Ticks without a guest after which the ticker sleeps until it is woken.
const IDLE_TICKS: u32 = 50;

/// Processor time of this thread.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Counts the engine's epoch while guests run.
pub(super) struct Ticker {
    thread: Thread,
    /// Counted up at every poll of a guest.
    polls: Arc<AtomicU64>,
    parked: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts the thread; it lives as long as the process.
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let (polls, parked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, sleeping) = (polls.clone(), parked.clone());
        let thread = std::thread::Builder::new().name("ticker".into()).stack_size(64 * 1024).spawn(move || {
            let (mut last, mut idle) = (0, 0);
            loop {
                std::thread::sleep(TICK);
                engine.increment_epoch();
                let now = seen.load(Relaxed);
                // Odd while a guest is being polled, however long that takes.
                idle = if now == last && now % 2 == 0 { idle + 1 } else { 0 };
                last = now;
                if idle < IDLE_TICKS {
                    continue;
                }
                sleeping.store(true, std::sync::atomic::Ordering::SeqCst);
                while sleeping.load(std::sync::atomic::Ordering::SeqCst)
                    && seen.load(std::sync::atomic::Ordering::SeqCst) == last
                {
                    std::thread::park();
                }
                sleeping.store(false, std::sync::atomic::Ordering::SeqCst);
                idle = 0;
            }
        })?;
        Ok(Self { thread: thread.thread().clone(), polls, parked })
    }

    fn enter(&self) {
        self.polls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if self.parked.load(std::sync::atomic::Ordering::SeqCst) {
            self.parked.store(false, std::sync::atomic::Ordering::SeqCst);
            self.thread.unpark();
        }
    }

    fn leave(&self) {
        self.polls.fetch_add(1, Relaxed);
    }
}

/// A guest's future within its limits.
pub(super) struct Metered<F> {
    guest: Pin<Box<F>>,
    call: Arc<Call>,
    ticker: Arc<Ticker>,
    used: Duration,
    allowed: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Metered<F> {
    pub(super) fn new(guest: F, call: Arc<Call>, ticker: Arc<Ticker>) -> Self {
        let allowed = Duration::from_millis(call.limits.cpu_time_ms);
        Self { guest: Box::pin(guest), call, ticker, used: Duration::ZERO, allowed, timer: None }
    }

    fn stopped(&self) -> Option<Stop> {
        if self.call.aborted() {
            return Some(Stop::Aborted);
        }
        if self.used >= self.allowed {
            return Some(Stop::Cpu);
        }
        let now = Instant::now();
        if now >= self.call.deadline() {
            return Some(Stop::Wall);
        }
        self.call.cancelled().is_some_and(|since| now >= since + CANCEL_GRACE).then_some(Stop::Cancelled)
    }

    /// When to look again at a guest that waits.
    fn next_look(&self) -> Instant {
        let grace = self.call.cancelled().map(|since| since + CANCEL_GRACE);
        let deadline = self.call.deadline();
        grace.map_or(deadline, |grace| grace.min(deadline))
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
        this.ticker.enter();
        let before = thread_time();
        let polled = this.guest.as_mut().poll(context);
        this.used += thread_time().saturating_sub(before);
        this.ticker.leave();
        this.call.flush();
        if let Poll::Ready(output) = polled {
            return Poll::Ready((Ok(output), this.used));
        }
        this.call.flush_changes();
        this.call.waker.register(context.waker());
        if let Some(stop) = this.stopped() {
            return Poll::Ready((Err(stop), this.used));
        }
        let look = tokio::time::Instant::from_std(this.next_look());
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
