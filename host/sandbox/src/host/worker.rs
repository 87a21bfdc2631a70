//! A worker process as the host holds it: what it has loaded, which calls it
//! runs, what is to be sent. The task that moves the bytes is in `pump`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::digest::Digest;
use bulkhead_core::id::TaskId;
use bulkhead_core::quota::Lease;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::apart::View;
use super::clock::monotonic_ns;
use super::exchange::Asked;
use super::guard::{Guard, RawPart};
use super::kept::Kept;
use crate::bounds::{ABORT_GRACE, CANCEL_GRACE, MAX_COMPONENTS, MAX_WORKSPACES};
use crate::config::Isolation;
use crate::walls::{Part, Walls};
use crate::wire::{Bind, Outbox, Start, ToWorker};
use bulkhead_core::ports::sandbox::{Emission, RunPart};

/// Where a worker is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its engine is not up yet.
    Starting,
    /// It takes calls.
    Ready,
    /// It is gone, for this reason.
    Gone(Arc<str>),
}

/// What happens to a call, in order.
#[derive(Debug)]
pub(super) enum Happened {
    /// The guest sent this, and it costs so much of the window.
    Emitted(Vec<Emission>, usize),
    /// The guest sent this part.
    Part(RawPart, usize),
    /// The guest sends this request, and it costs so much of the window.
    Asked(Box<Asked>, usize),
    /// The worker says the call ended: the body of that frame.
    Done(Vec<u8>),
    /// The worker ended with the call.
    Lost {
        why: Why,
        /// Processor time that the call had used, by the kernel's count.
        cpu: Duration,
    },
}

/// Why a call ended with its worker.
#[derive(Clone, Debug)]
pub(super) enum Why {
    /// The call's time was over and the worker said nothing.
    Overdue,
    /// The worker is gone.
    Gone(Arc<str>),
}

/// A call in a worker, as the pump sees it.
pub(super) struct Slot {
    pub(super) happened: mpsc::UnboundedSender<Happened>,
    pub(super) guard: Guard,
    /// What it may add to its workspace, and has.
    pub(super) lease: Lease,
    pub(super) started: Instant,
    /// When its wall time is over.
    deadline: Instant,
    /// How long after that the worker is killed if the call has not ended by itself.
    kill_grace: Duration,
    /// When it is killed if the call was told to end.
    leave_by: Option<Instant>,
}

impl Slot {
    /// When the worker is killed if the call has not ended.
    pub(super) fn kill_at(&self) -> Instant {
        let overdue_at = self.deadline + self.kill_grace;
        self.leave_by.map_or(overdue_at, |leave_by| leave_by.min(overdue_at))
    }

    /// Whether its own time is over, or it was told to end. The worker may be killed for
    /// another call before this one's grace is over.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline <= now || self.leave_by.is_some()
    }
}

/// Whether a component can be started.
#[derive(Clone, Debug)]
pub(super) enum Loading {
    Underway,
    Loaded,
    Failed(Arc<str>),
}

/// What is behind the worker's lock.
pub(super) struct Inner {
    pub(super) outbox: Outbox,
    pub(super) calls: HashMap<u32, Slot>,
    pub(super) components: Kept<Digest, watch::Sender<Loading>>,
    tasks: Kept<TaskId, ()>,
    next_call: u32,
    /// Answers to `Load` that are to come.
    loads: u32,
    /// When it is killed although nothing runs: it was told to end.
    leave_by: Option<Instant>,
    pub(super) idle_since: Instant,
    /// Processor time of the calls whose end it told.
    pub(super) told: Duration,
    pub(super) open: bool,
    /// It was sent what it is for.
    bound: bool,
    /// Ends once it is idle, and takes nobody's place until then.
    retired: bool,
    /// What it said that it must not have.
    pub(super) violation: Option<&'static str>,
    /// Why it must run nothing.
    pub(super) unfit: Option<String>,
    walls: Walls,
    /// How it sees files, if its user is not the server's.
    pub(super) view: Option<View>,
}

/// A worker process.
pub(super) struct Worker {
    inner: Mutex<Inner>,
    /// There is something to send or a deadline came closer.
    pub(super) wake: Notify,
    /// Ends the process at once.
    pub(super) kill: CancellationToken,
    pub(super) phase: watch::Sender<Phase>,
    /// Calls that run or are about to.
    pub(super) load: AtomicUsize,
    pub(super) kill_grace: Duration,
    pub(super) born: Instant,
    isolation: Isolation,
    /// Whether it finds what guests used by a scan of the page map: only without swap.
    pub(super) scans: bool,
    /// Told when there is room for another call.
    room: Arc<Notify>,
}

/// What a call needs from its worker.
pub(super) struct Wanted<'a> {
    pub(super) artifact: Digest,
    pub(super) workspace: Option<(TaskId, &'a Arc<OwnedFd>)>,
    pub(super) parts: &'a [RunPart],
    /// What it may add to the workspace.
    pub(super) lease: &'a Lease,
    pub(super) start: Start<'a>,
    pub(super) deadline: Instant,
}

/// What came of the wish to start a call.
pub(super) enum Started {
    /// It runs under this number.
    Running(u32, mpsc::UnboundedReceiver<Happened>),
    /// The component has to be loaded first.
    Unloaded,
    /// The component is being loaded.
    Loading(watch::Receiver<Loading>),
    /// The worker is gone and the call never started.
    Gone,
}

impl Worker {
    pub(super) fn new(kill_grace: Duration, isolation: Isolation, scans: bool, room: Arc<Notify>) -> Self {
        let inner = Inner {
            outbox: Outbox::default(),
            calls: HashMap::new(),
            components: Kept::new(MAX_COMPONENTS),
            tasks: Kept::new(MAX_WORKSPACES),
            next_call: 1,
            loads: 0,
            leave_by: None,
            idle_since: Instant::now(),
            told: Duration::ZERO,
            open: true,
            bound: false,
            retired: false,
            violation: None,
            unfit: None,
            walls: Walls::default(),
            view: None,
        };
        Self {
            inner: Mutex::new(inner),
            wake: Notify::new(),
            kill: CancellationToken::new(),
            phase: watch::Sender::new(Phase::Starting),
            load: AtomicUsize::new(0),
            kill_grace,
            born: Instant::now(),
            isolation,
            scans,
            room,
        }
    }

    /// Says what the worker is for, and what it may reach: artefacts are loaded by
    /// descriptor, which is a file that is opened once more, so they may be read.
    /// All of that as its `view` has it, if it has one.
    pub(super) fn bind(&self, bind: Bind, artifacts: Arc<OwnedFd>, domain: Option<Arc<OwnedFd>>, view: Option<View>) {
        let mut inner = self.inner();
        let (artifacts, domain) = view.as_ref().map_or((artifacts, domain), View::roots);
        inner.outbox.push_with(0, &ToWorker::Artifacts, artifacts);
        match domain {
            Some(domain) => inner.outbox.push_with(0, &ToWorker::Bind(bind), domain),
            None => inner.outbox.push(0, &ToWorker::Bind(bind)),
        }
        inner.view = view;
        inner.bound = true;
    }

    /// Lets it run no longer, should it hear nothing more. Before it is bound it hears nothing
    /// but what it is for; whoever binds it says this, too.
    pub(super) fn run_until(&self, until: Instant) {
        let mut inner = self.inner();
        if inner.bound {
            inner.outbox.push(0, &ToWorker::RunUntil { until_ns: monotonic_ns(until) });
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Takes note of the walls it says it is behind. Nothing hostile was in it
    /// yet. False if they are too few; then it is ended.
    pub(super) fn shut_in(&self, inner: &mut Inner, walls: Walls) -> bool {
        inner.walls = walls;
        let missing: Vec<&str> = walls.missing().into_iter().map(Part::name).collect();
        if missing.is_empty() || self.isolation == Isolation::BestEffort {
            return true;
        }
        inner.unfit = Some(format!("it runs no guest without: {}", missing.join(", ")));
        self.kill.cancel();
        false
    }

    /// The walls that it is behind.
    pub(super) fn walls(&self) -> Walls {
        self.inner().walls
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes further calls.
    pub(super) fn is_open(&self) -> bool {
        self.inner().open
    }

    /// Takes no further calls; true if it did until now.
    pub(super) fn close(&self) -> bool {
        std::mem::replace(&mut self.inner().open, false)
    }

    /// Takes no further calls and ends once it is idle; true if it did take them.
    pub(super) fn retire(&self) -> bool {
        let mut inner = self.inner();
        inner.retired |= inner.open;
        std::mem::replace(&mut inner.open, false)
    }

    /// Whether it was told so.
    pub(super) fn is_retired(&self) -> bool {
        self.inner().retired
    }

    /// Waits until the worker takes calls.
    pub(super) async fn ready(&self) -> Result<(), Arc<str>> {
        let mut phase = self.phase.subscribe();
        match phase.wait_for(|phase| *phase != Phase::Starting).await.as_deref() {
            Ok(Phase::Gone(why)) => Err(why.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err("the worker is gone".into()),
        }
    }

    /// Starts a call if its component is loaded, with everything it needs: all
    /// under one lock, so that nothing of it can be dropped in between.
    pub(super) fn start(&self, wanted: Wanted<'_>) -> Started {
        let mut inner = self.inner();
        if !inner.open {
            return Started::Gone;
        }
        let component = match inner.components.get(&wanted.artifact) {
            None => return Started::Unloaded,
            Some((id, loading)) => match *loading.borrow() {
                Loading::Loaded => id,
                _ => return Started::Loading(loading.subscribe()),
            },
        };
        let task = wanted.workspace.map(|(task, directory)| inner.workspace(task, directory));
        let id = inner.next_call;
        inner.next_call = inner.next_call.wrapping_add(1).max(1);
        let start = Start { component, task, ..wanted.start };
        let guard = Guard::new(start.limits.clone(), start.access).with_parts(wanted.parts);
        for RunPart { path, access, directory } in wanted.parts {
            let part = ToWorker::Part { path: path.as_str(), access: *access };
            let directory = inner.seen(directory);
            inner.outbox.push_with(id, &part, directory);
        }
        inner.outbox.push(id, &ToWorker::Start(start));
        let (happened, happens) = mpsc::unbounded_channel();
        let (started, deadline) = (Instant::now(), wanted.deadline);
        let (lease, kill_grace) = (wanted.lease.clone(), self.kill_grace);
        let slot = Slot { happened, guard, lease, started, deadline, kill_grace, leave_by: None };
        inner.calls.insert(id, slot);
        drop(inner);
        self.wake.notify_one();
        Started::Running(id, happens)
    }

    /// Has a component loaded, unless somebody else did meanwhile.
    pub(super) fn load(&self, key: Digest, artifact: &Arc<OwnedFd>) {
        let mut inner = self.inner();
        if inner.components.get(&key).is_some() {
            return;
        }
        let (component, out) = inner.components.insert(key, watch::Sender::new(Loading::Underway));
        if let Some(component) = out {
            inner.outbox.push(0, &ToWorker::Unload { component });
        }
        let artifact = inner.seen(artifact);
        inner.outbox.push_with(0, &ToWorker::Load { component }, artifact);
        inner.loads += 1;
        drop(inner);
        self.wake.notify_one();
    }

    /// Drops a task's workspace.
    pub(super) fn forget(&self, task: TaskId) {
        let mut inner = self.inner();
        if let Some(task) = inner.tasks.remove(&task) {
            inner.outbox.push(0, &ToWorker::Forget { task });
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Gives credit back for what was stored.
    pub(super) fn credit(&self, call: u32, bytes: usize) {
        let mut inner = self.inner();
        if let Some(slot) = inner.calls.get_mut(&call) {
            slot.guard.credited(bytes);
            inner.outbox.push(call, &ToWorker::Credit { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) });
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Says something about a call, if it runs.
    pub(super) fn tell(&self, call: u32, message: &ToWorker<'_>) {
        let mut inner = self.inner();
        if inner.calls.contains_key(&call) {
            inner.outbox.push(call, message);
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Moves the end of a call's wall time.
    pub(super) fn put_off(&self, call: u32, deadline: Instant) {
        if let Some(slot) = self.inner().calls.get_mut(&call) {
            slot.deadline = deadline;
        }
        self.tell(call, &ToWorker::Deadline { deadline_ns: monotonic_ns(deadline) });
    }

    /// Asks a call to end soon.
    pub(super) fn cancel(&self, call: u32) {
        self.end(call, &ToWorker::Cancel, CANCEL_GRACE + self.kill_grace);
    }

    /// Ends a call that nobody waits for.
    pub(super) fn abort(&self, call: u32) {
        self.end(call, &ToWorker::Abort, ABORT_GRACE);
    }

    fn end(&self, call: u32, message: &ToWorker<'_>, grace: Duration) {
        let mut inner = self.inner();
        if let Some(slot) = inner.calls.get_mut(&call) {
            let leave_by = Instant::now() + grace;
            slot.leave_by = Some(slot.leave_by.map_or(leave_by, |before| before.min(leave_by)));
            inner.outbox.push(call, message);
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Ends the process for something it said that was found late.
    pub(super) fn condemn(&self, why: &'static str) {
        self.inner().violation.get_or_insert(why);
        self.kill.cancel();
    }

    /// Tells the process to end, and sees to it that it does.
    pub(super) fn shut_down(&self) {
        let mut inner = self.inner();
        inner.open = false;
        if inner.leave_by.is_some() {
            return;
        }
        inner.leave_by = Some(Instant::now() + ABORT_GRACE);
        inner.outbox.push(0, &ToWorker::Shutdown);
        drop(inner);
        self.wake.notify_one();
    }

    /// Notes that a call ended: there is room for another.
    pub(super) fn ended(&self) {
        self.load.fetch_sub(1, Relaxed);
        self.room.notify_waiters();
    }

    /// Whether nothing has run for so long.
    pub(super) fn idle_for(&self, timeout: Duration) -> bool {
        self.load.load(Relaxed) == 0 && self.inner().idle_since.elapsed() >= timeout
    }
}

impl Inner {
    /// The number of a task's workspace, sent before if it is new.
    fn workspace(&mut self, task: TaskId, directory: &Arc<OwnedFd>) -> u32 {
        if let Some((id, ())) = self.tasks.get(&task) {
            return id;
        }
        let (id, out) = self.tasks.insert(task, ());
        if let Some(task) = out {
            self.outbox.push(0, &ToWorker::Forget { task });
        }
        let directory = self.seen(directory);
        self.outbox.push_with(0, &ToWorker::Workspace { task: id }, directory);
        id
    }

    /// A file or directory as the worker sees it.
    fn seen(&self, file: &Arc<OwnedFd>) -> Arc<OwnedFd> {
        self.view.as_ref().map_or_else(|| file.clone(), |view| view.of(file))
    }

    /// Counts an answer to `Load`; false if none was to come.
    pub(super) fn answered_load(&mut self) -> bool {
        let owed = self.loads > 0;
        self.loads = self.loads.saturating_sub(1);
        owed
    }

    /// The next moment at which the worker may have to be killed.
    pub(super) fn next_kill(&self) -> Option<Instant> {
        self.calls.values().map(Slot::kill_at).chain(self.leave_by).min()
    }
}
