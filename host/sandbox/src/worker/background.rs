//! Where guests go on that take long: a second thread of lower priority, which
//! the kernel preempts for whoever is short. Guests of different users take
//! turns there by the time they were given, not by their number.
//!
//! A thread of low priority may get no turn for long on a machine that is busy;
//! so the first thread watches the end of each guest's time, and ends it there.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use rustix::process::setpriority_process;
use tokio::runtime::Runtime;

use super::call::Call;
use super::meter::thread_time;
use super::panics::vital;

/// Processor time after which a guest takes long. Short enough that spinning
/// guests which come at once are out of the way at once; long enough for most
/// calls to end before, also of tools that bring an interpreter.
pub(super) const LONG: Duration = Duration::from_millis(2);

/// Added to the niceness of the worker: its share of a busy processor is a
/// tenth of what a short guest gets.
const NICE: i32 = 10;

/// Guests run on stacks of their own; this holds what the engine and the host
/// functions put above them. It counts against the worker's memory.
const STACK: usize = 512 * 1024;

/// How soon to look again after a guest that has its turn just now.
const AGAIN: Duration = Duration::from_millis(2);

/// The guests that take long.
#[derive(Default)]
pub(super) struct Background {
    queue: Mutex<Queue>,
    wake: AtomicWaker,
}

/// Who waits for a turn, by user.
#[derive(Default)]
struct Queue {
    users: HashMap<u32, User>,
    /// What whoever had the last turn had been given before it: who comes (back)
    /// begins there, and gets no credit for the time of its absence.
    now: Duration,
}

#[derive(Default)]
struct User {
    /// Guests that it has here.
    guests: usize,
    given: Duration,
    waiting: VecDeque<Arc<Guest>>,
}

/// A guest that takes long.
pub(super) struct Guest {
    user: u32,
    call: Arc<Call>,
    /// Taken by whoever polls it.
    future: Mutex<Option<BoxFuture<'static, ()>>>,
    queued: AtomicBool,
    ended: AtomicBool,
    home: Arc<Background>,
}

impl Background {
    /// Starts the thread, whose own niceness is added to `nice`, that of this
    /// thread; it lives as long as the process.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(runtime: Runtime, nice: i32) -> std::io::Result<Arc<Self>> {
        let background = Arc::new(Self::default());
        let serving = background.clone();
        std::thread::Builder::new().name("background".into()).stack_size(STACK).spawn(move || {
            // Where it can't be, guests that take long are only as dear as before.
            let _ = setpriority_process(None, (nice + NICE).min(19));
            match vital(|| runtime.block_on(serving.serve())) {}
        })?;
        Ok(background)
    }

    /// Gives turns, one after the other.
    async fn serve(&self) -> Infallible {
        poll_fn(|context| {
            self.wake.register(context.waker());
            if let Some(guest) = self.next() {
                let before = thread_time();
                guest.turn();
                self.queue().gave(guest.user, thread_time().saturating_sub(before));
                // The runtime looks at its timers between any two turns.
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Arc<Guest>> {
        self.queue().next()
    }

    /// Takes a guest over.
    fn adopt(self: &Arc<Self>, user: u32, call: Arc<Call>, future: BoxFuture<'static, ()>) -> Arc<Guest> {
        let guest = Arc::new(Guest {
            user,
            call,
            future: Mutex::new(Some(future)),
            queued: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            home: self.clone(),
        });
        self.queue().come(user);
        Wake::wake_by_ref(&guest);
        guest
    }
}

impl Queue {
    fn come(&mut self, user: u32) {
        self.users.entry(user).or_default().guests += 1;
    }

    fn push(&mut self, guest: Arc<Guest>) {
        let now = self.now;
        // One that has ended may still be woken.
        let Some(user) = self.users.get_mut(&guest.user).filter(|_| !guest.ended.load(SeqCst)) else { return };
        if user.waiting.is_empty() {
            user.given = user.given.max(now);
        }
        user.waiting.push_back(guest);
    }

    fn next(&mut self) -> Option<Arc<Guest>> {
        let waiting = self.users.values_mut().filter(|user| !user.waiting.is_empty());
        let next = waiting.min_by_key(|user| user.given).and_then(|user| {
            self.now = user.given;
            user.waiting.pop_front()
        });
        // Who left is remembered until the others have had as much, or none of them waits.
        let (now, idle) = (self.now, next.is_none());
        self.users.retain(|_, user| user.guests > 0 || (user.given > now && !idle));
        next
    }

    fn gave(&mut self, user: u32, time: Duration) {
        if let Some(user) = self.users.get_mut(&user) {
            user.given += time;
        }
    }

    fn go(&mut self, user: u32) {
        if let Some(left) = self.users.get_mut(&user) {
            left.guests -= 1;
        }
    }
}

impl Wake for Guest {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, SeqCst) {
            let home = self.home.clone();
            home.queue().push(self);
            home.wake.wake();
        }
    }
}

impl Guest {
    fn take(&self) -> Option<BoxFuture<'static, ()>> {
        self.slot().take()
    }

    fn slot(&self) -> MutexGuard<'_, Option<BoxFuture<'static, ()>>> {
        self.future.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls it once.
    fn turn(self: &Arc<Self>) {
        self.queued.store(false, SeqCst);
        let Some(mut future) = self.take() else { return };
        let waker = Waker::from(self.clone());
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *self.slot() = Some(future);
        } else {
            self.end();
        }
    }

    fn end(&self) {
        // It leads back to this guest: the two would keep each other.
        drop(self.call.waker.take());
        self.home.queue().go(self.user);
        self.ended.store(true, SeqCst);
        self.call.poked.notify_one();
    }

    /// Ends it if its time is over and it waits for a turn.
    async fn watch(self: Arc<Self>) {
        loop {
            let look = tokio::time::sleep_until(self.call.next_look().into());
            tokio::select! {
                () = self.call.poked.notified() => {}
                () = look => {}
            }
            if self.ended.load(SeqCst) {
                return;
            }
            if self.call.over(Instant::now()).is_none() {
                continue;
            }
            if let Some(future) = self.take() {
                future.await;
                return self.end();
            }
            // It ends by itself when its turn does.
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Runs a call of a user among the others of this thread, and in the background
/// once it takes long.
pub(super) async fn run(background: Arc<Background>, user: u32, call: Arc<Call>, future: BoxFuture<'static, ()>) {
    let mut future = Some(future);
    let long = poll_fn(|context| {
        if call.is_long() {
            return Poll::Ready(future.take());
        }
        let Some(running) = &mut future else { return Poll::Ready(None) };
        match running.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending if call.is_long() => Poll::Ready(future.take()),
            Poll::Pending => Poll::Pending,
        }
    });
    if let Some(future) = long.await {
        background.adopt(user, call, future).watch().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use bulkhead_core::limits::Limits;

    use super::*;
    use crate::worker::fs::Syncs;

    fn call(wall: Duration) -> Arc<Call> {
        let deadline = Instant::now() + wall;
        Arc::new(Call::new(1, Limits::default(), (0, 0), deadline, Arc::default(), Arc::<Syncs>::default().of(1)))
    }

    /// Wants a turn at once, always; counts those it gets.
    fn greedy(turns: &Arc<AtomicUsize>) -> BoxFuture<'static, ()> {
        let turns = turns.clone();
        Box::pin(poll_fn(move |context| {
            turns.fetch_add(1, SeqCst);
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    fn turn(background: &Background, costs: Duration) -> u32 {
        let guest = background.next().expect("somebody waits");
        guest.turn();
        background.queue().gave(guest.user, costs);
        guest.user
    }

    #[test]
    fn users_share_by_time_and_not_by_number() {
        let background = Arc::<Background>::default();
        let (many, one) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let wall = Duration::from_secs(60);
        for _ in 0..20 {
            background.adopt(1, call(wall), greedy(&many));
        }
        for _ in 0..100 {
            turn(&background, Duration::from_millis(1));
        }
        // Who comes later has no time to catch up on.
        background.adopt(2, call(wall), greedy(&one));
        for _ in 0..100 {
            turn(&background, Duration::from_millis(1));
        }
        assert!((49..=51).contains(&one.load(SeqCst)), "{one:?} beside {many:?}");
        // Nor has one that comes with long turns.
        let long = Arc::<AtomicUsize>::default();
        background.adopt(3, call(wall), greedy(&long));
        for _ in 0..100 {
            let next = background.next().expect("somebody waits");
            next.turn();
            background.queue().gave(next.user, Duration::from_millis(if next.user == 3 { 8 } else { 1 }));
        }
        assert!((5..=7).contains(&long.load(SeqCst)), "{long:?}");
    }

    #[test]
    fn who_leaves_and_comes_again_gets_no_more() {
        let background = Arc::<Background>::default();
        let (turns, wall) = (Arc::<AtomicUsize>::default(), Duration::from_secs(60));
        (1..=3).for_each(|user| drop(background.adopt(user, call(wall), greedy(&turns))));
        let (mut short, mut last) = (0, 0);
        for _ in 0..400 {
            let there = background.queue().users.get(&4).is_some_and(|user| user.guests > 0);
            // It comes again once another had a turn.
            if !there && last != 4 {
                background.adopt(4, call(wall), Box::pin(std::future::ready(())));
            }
            last = turn(&background, Duration::from_millis(1));
            short += u32::from(last == 4);
        }
        assert!((99..=102).contains(&short), "{short} of 400, of four users");
    }

    #[test]
    fn what_ended_is_forgotten_and_may_still_be_woken() {
        let background = Arc::<Background>::default();
        let guest = background.adopt(1, call(Duration::from_secs(60)), Box::pin(std::future::ready(())));
        turn(&background, Duration::ZERO);
        guest.wake();
        assert!(background.next().is_none() && background.queue().users.is_empty());
    }

    #[test]
    fn what_ended_is_given_back() {
        let background = Arc::<Background>::default();
        let (call, turns) = (call(Duration::from_secs(60)), AtomicUsize::default());
        let waits = call.clone();
        // As `Metered` does.
        let guest = Box::pin(poll_fn(move |context| {
            if turns.fetch_add(1, SeqCst) == 2 {
                return Poll::Ready(());
            }
            waits.waker.register(context.waker());
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let kept = Arc::downgrade(&call);
        drop(background.adopt(1, call, guest));
        for _ in 0..3 {
            turn(&background, Duration::from_millis(1));
        }
        assert_eq!(kept.strong_count(), 0);
    }

    #[tokio::test]
    async fn one_that_gets_no_turn_ends_in_time() {
        let background = Arc::<Background>::default();
        let call = call(Duration::from_millis(50));
        let (ends, running) = (call.clone(), Arc::<AtomicUsize>::default());
        let turns = running.clone();
        // As `Metered` does: it ends if it is polled once its time is over.
        let guest = Box::pin(poll_fn(move |_| {
            turns.fetch_add(1, SeqCst);
            if ends.over(Instant::now()).is_some() { Poll::Ready(()) } else { Poll::Pending }
        }));
        // Nobody gives turns here.
        let guest = background.adopt(1, call.clone(), guest);
        tokio::time::timeout(Duration::from_secs(10), guest.watch()).await.expect("it ends");
        assert_eq!(running.load(SeqCst), 1);
        // It waits for its turn still, of which nothing comes.
        background.next().expect("it is there").turn();
        assert!(background.next().is_none() && background.queue().users.is_empty());
        assert!(Instant::now() >= call.deadline());
    }
}
