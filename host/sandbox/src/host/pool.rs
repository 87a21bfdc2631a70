//! The worker processes: a few per tenant, never shared between tenants,
//! started on demand, of processes that wait, and ended when idle.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::sandbox::SandboxError;
use futures::FutureExt as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::process::Child;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::apart::Apart;
use super::cgroups::{Allowance, Cell, Cgroups};
use super::pump::{Gone, pump};
use super::spawn::{Spawner, command};
use super::swap::Swap;
use super::waiting::{Process, Waiting};
use super::worker::Worker;
use crate::config::{Isolation, WasmConfig};
use crate::engine::{self, Flavour};
use crate::walls::bounds::WORKER_THREADS;
use crate::wire::Bind;

/// Memory of a worker beside its guests', in bytes: its own, pages of files that
/// it writes, what the kernel keeps for it.
const BESIDE: u64 = 320 << 20;

/// What the pool has done and holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WasmStats {
    /// Worker processes now.
    pub workers: usize,
    /// Calls that run or are about to.
    pub calls: usize,
    /// Workers started so far.
    pub started: u64,
    /// Workers that died, were killed for a call that did not end, or for what they said.
    pub lost: u64,
    /// Those of them that broke the protocol: a sign of an attack.
    pub protocol_errors: u64,
    /// Workers now that rely on there being no swap.
    pub scanning: usize,
    /// Workers that took no further calls because swap appeared.
    pub retired: u64,
    /// Workers that took no further calls because of their age.
    pub recycled: u64,
    /// Whether this machine swaps, or might.
    pub swap: bool,
    /// Processes that wait to become workers.
    pub waiting: usize,
}

#[derive(Default)]
pub(super) struct Counters {
    started: AtomicU64,
    lost: AtomicU64,
    protocol_errors: AtomicU64,
    retired: AtomicU64,
    pub(super) recycled: AtomicU64,
}

/// Whose a worker is: it runs nobody else's guests, before or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Home {
    pub(super) tenant: TenantId,
    /// With strict isolation.
    pub(super) task: Option<TaskId>,
    /// What its engine is made for.
    pub(super) flavour: Flavour,
}

/// The pool. Owns every task and process it starts.
pub(super) struct Pool {
    pub(super) config: Arc<WasmConfig>,
    spawner: Spawner,
    pub(super) waiting: Waiting,
    workers: Mutex<HashMap<Home, Vec<Arc<Worker>>>>,
    /// Workers that belong to no tenant, for one job each.
    private: Mutex<Vec<Arc<Worker>>>,
    /// Told when a call ended or a worker is gone.
    pub(super) room: Arc<Notify>,
    pub(super) tasks: TaskTracker,
    stop: CancellationToken,
    pub(super) counters: Counters,
    swap: Swap,
    leave_network: AtomicBool,
    /// Whether workers have users of their own.
    pub(super) apart: Apart,
    /// The directory of artefacts.
    pub(super) artifacts: Arc<OwnedFd>,
    cgroups: Arc<Cgroups>,
    /// When workers end by themselves, if this host says nothing more.
    until: Mutex<Option<Instant>>,
}

/// A place for one call in a worker; given back unless the call starts.
pub(super) struct Place {
    pub(super) worker: Arc<Worker>,
    started: bool,
}

impl Place {
    pub(super) fn take(worker: &Arc<Worker>) -> Self {
        worker.load.fetch_add(1, Relaxed);
        Self { worker: worker.clone(), started: false }
    }

    /// The call runs: the place is given back when the worker says it ended.
    pub(super) fn started(mut self) -> Arc<Worker> {
        self.started = true;
        self.worker.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.started {
            self.worker.ended();
        }
    }
}

impl Pool {
    pub(super) fn new(
        config: Arc<WasmConfig>,
        artifacts: Arc<OwnedFd>,
        cgroups: Arc<Cgroups>,
    ) -> io::Result<Arc<Self>> {
        let swap = Swap::look(config.swaps.clone());
        if swap.is_on() {
            tracing::info!(
                "swap is in use or can't be seen: workers clear memory the slow way (30 instead of 15 microseconds a call)"
            );
        }
        let pool = Arc::new(Self {
            apart: Apart::new(config.own_users),
            config,
            spawner: Spawner::start()?,
            waiting: Waiting::default(),
            workers: Mutex::default(),
            private: Mutex::default(),
            room: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            counters: Counters::default(),
            swap,
            leave_network: AtomicBool::new(true),
            artifacts,
            cgroups,
            until: Mutex::new(None),
        });
        pool.tasks.spawn(Self::reap(pool.clone()));
        pool.tasks.spawn(Self::watch_swap(pool.clone()));
        pool.start_ahead();
        Ok(pool)
    }

    pub(super) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    pub(super) fn workers(&self) -> MutexGuard<'_, HashMap<Home, Vec<Arc<Worker>>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn private(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a call of a task; waits while there is none.
    pub(super) async fn place(
        self: &Arc<Self>,
        tenant: TenantId,
        task: TaskId,
        flavour: Flavour,
    ) -> Result<Place, SandboxError> {
        let home = self.home(tenant, task, flavour);
        loop {
            let room = self.room.notified();
            if self.stop.is_cancelled() {
                return Err(SandboxError::because("the sandbox is being shut down"));
            }
            if let Some(place) = self.try_place(home) {
                return Ok(place);
            }
            tokio::select! {
                () = room => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    fn home(&self, tenant: TenantId, task: TaskId, flavour: Flavour) -> Home {
        Home { tenant, task: (self.config.isolation == Isolation::Strict).then_some(task), flavour }
    }

    fn try_place(self: &Arc<Self>, home: Home) -> Option<Place> {
        let mut workers = self.workers();
        let load = |worker: &Arc<Worker>| worker.load.load(Relaxed);
        let own = workers.get(&home).map_or(&[][..], Vec::as_slice);
        let least = own.iter().filter(|worker| worker.is_open()).min_by_key(|worker| load(worker)).cloned();
        let idle = least.as_ref().is_some_and(|worker| load(worker) == 0);
        let total: usize = workers.values().map(Vec::len).sum();
        // A retired one is on its way out: it takes nobody's place.
        let staying = own.iter().filter(|worker| !worker.is_retired()).count();
        let may_start = match home.task {
            None => staying < self.config.workers_per_tenant.max(1),
            // A tenant with many tasks leaves half of the workers to others.
            Some(_) => {
                let tenants = workers.iter().filter(|(other, _)| other.tenant == home.tenant);
                staying == 0 && tenants.map(|(_, own)| own.len()).sum::<usize>() < self.config.max_workers.div_ceil(2)
            }
        };
        if !idle && may_start {
            if total >= self.config.max_workers.max(1) {
                // Room is made by ending somebody else's idle worker; it is
                // taken once that is gone.
                self.end_one_idle(&workers);
            } else {
                let worker = self.start_worker(Some(home), home.flavour, self.config.calls_per_worker);
                workers.entry(home).or_default().push(worker.clone());
                return Some(Place::take(&worker));
            }
        }
        let least = least.filter(|worker| load(worker) < self.config.calls_per_worker as usize)?;
        Some(Place::take(&least))
    }

    fn end_one_idle(&self, workers: &HashMap<Home, Vec<Arc<Worker>>>) {
        let idle = workers.values().flatten().filter(|worker| worker.is_open() && worker.load.load(Relaxed) == 0);
        if let Some(worker) = idle.min_by_key(|worker| worker.inner().idle_since) {
            worker.shut_down();
        }
    }

    /// A worker of its own for one job of nobody's.
    pub(super) fn private_worker(self: &Arc<Self>, flavour: Flavour) -> Arc<Worker> {
        let worker = self.start_worker(None, flavour, 1);
        self.private().push(worker.clone());
        worker
    }

    fn start_worker(self: &Arc<Self>, home: Option<Home>, flavour: Flavour, slots: u32) -> Arc<Worker> {
        let config = &self.config;
        // Decided here, while no other worker can come or go: who retires those that
        // scan finds this one among them, or it does not scan.
        let scans = !self.swap.is_on();
        let worker = Arc::new(Worker::new(config.kill_grace, config.isolation, scans, self.room.clone()));
        self.counters.started.fetch_add(1, Relaxed);
        let (pool, started) = (self.clone(), worker.clone());
        self.tasks.spawn(async move {
            let (gone, cell) = match pool.spawn_bound(&started, home, flavour, slots).await {
                Ok(Process { socket, child, .. }) => {
                    let placed = pool.place_in_group(home, flavour, &child);
                    // What it reads is hostile: should it panic, this worker ends and no other.
                    let pumped = AssertUnwindSafe(pump(&started, socket, child, placed)).catch_unwind().await;
                    pumped.unwrap_or_else(|_| {
                        let gone = Gone::Died("the host failed beside it".into());
                        super::pump::bury(&started, &gone, Duration::ZERO);
                        (gone, None)
                    })
                }
                Err(error) => {
                    tracing::error!(%error, "a worker could not be started");
                    let why = format!("it could not be started: {error}");
                    super::pump::bury(&started, &Gone::Died(why.clone()), Duration::ZERO);
                    (Gone::Died(why), None)
                }
            };
            pool.buried(home, &started, &gone);
            let view = started.inner().view.take();
            if cell.is_some() || view.is_some() {
                // The kernel may be busy with another's group, and waits for all cores before a
                // mount is gone; if this fails, the last to go removes the group.
                let _ = tokio::task::spawn_blocking(move || drop((cell, view))).await;
            }
        });
        worker
    }

    /// Puts a process into a group of its tenant's, beside its start: the kernel
    /// may take longer for it than the worker takes to come up.
    fn place_in_group(&self, home: Option<Home>, flavour: Flavour, child: &Child) -> JoinHandle<Option<Cell>> {
        let (cgroups, pid) = (self.cgroups.clone(), child.id());
        let owner = home.map_or_else(|| "nobody".into(), |home| home.tenant.to_string());
        let pool = engine::Pool { flavour, slots: self.config.calls_per_worker, pagemap_scan: false };
        let memory = self.config.memory_per_worker.saturating_add(BESIDE).saturating_add(pool.mapped());
        tokio::task::spawn_blocking(move || cgroups.hold(&owner, Allowance { memory, pids: WORKER_THREADS }, pid))
    }

    /// Starts a process and says what it is for.
    async fn spawn_bound(
        self: &Arc<Self>,
        worker: &Worker,
        home: Option<Home>,
        flavour: Flavour,
        slots: u32,
    ) -> io::Result<Process> {
        let domain = match (home, &self.config.domains) {
            (Some(home), Some(domains)) => {
                Some(domains.domain(home.tenant, home.task).await.map_err(io::Error::other)?)
            }
            _ => None,
        };
        let (process, view) = self.process_for(domain.as_ref()).await?;
        let bind = Bind {
            has_domain: domain.is_some(),
            leave_network: self.leave_network.load(Relaxed),
            slots,
            nice: self.config.nice,
            memory_bytes: self.config.memory_per_worker,
            pagemap_scan: worker.scans,
            flavour,
        };
        worker.bind(bind, self.artifacts.clone(), domain, view);
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            worker.run_until(until);
        }
        Ok(process)
    }

    /// Whether workers move into a network namespace of their own.
    pub(super) fn leaves_network(&self) -> bool {
        self.leave_network.load(Relaxed)
    }

    /// Starts a process, with a user of its own if that is wanted and can be.
    pub(super) async fn spawn_process(&self, apart: bool) -> io::Result<Process> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mut command = command(&self.config.exe, &self.config.worker_args);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process { socket: ours, child: self.spawner.spawn(command).await?, user: None };
        if apart && !self.apart.give(&mut process, self.config.start_timeout).await {
            // Dropped, it is killed: it can't go back to the user that it left.
            return Box::pin(self.spawn_process(false)).await;
        }
        Ok(process)
    }

    /// Takes a worker that is gone out of the pool.
    fn buried(&self, home: Option<Home>, worker: &Arc<Worker>, gone: &Gone) {
        match gone {
            Gone::Ended | Gone::Killed => tracing::debug!(?home, ?gone, "a worker ended"),
            Gone::Violated(what) => {
                self.counters.protocol_errors.fetch_add(1, Relaxed);
                tracing::error!(?home, %what, "a worker broke the protocol and was killed; its guest may have broken out");
            }
            Gone::NoNamespace => {
                self.leave_network.store(false, Relaxed);
                tracing::warn!(
                    "this machine lets a worker make a user namespace and not work in it; workers do without an empty network from now on"
                );
            }
            Gone::Died(_) | Gone::Overdue => tracing::warn!(?home, ?gone, "a worker was lost"),
        }
        if !matches!(gone, Gone::Ended | Gone::Killed | Gone::NoNamespace) {
            self.counters.lost.fetch_add(1, Relaxed);
        }
        let other = |kept: &Arc<Worker>| !Arc::ptr_eq(kept, worker);
        match home {
            None => self.private().retain(other),
            Some(home) => {
                let mut workers = self.workers();
                if let Some(own) = workers.get_mut(&home) {
                    own.retain(other);
                    if own.is_empty() {
                        workers.remove(&home);
                    }
                }
            }
        }
        self.room.notify_waiters();
    }

    pub(super) fn swap(&self) -> &Swap {
        &self.swap
    }

    pub(super) fn swap_interval(&self) -> Duration {
        self.config.swap_interval
    }

    /// Lets those that scan the page map take no further call; tells how many.
    /// One that belongs to nobody runs one job only, so it may.
    pub(super) fn retire_scanning(&self) -> u64 {
        let workers = self.workers();
        let scanning = workers.values().flatten().filter(|worker| worker.scans && worker.retire());
        let retired = scanning.count() as u64;
        drop(workers);
        self.counters.retired.fetch_add(retired, Relaxed);
        self.room.notify_waiters();
        retired
    }

    /// Ends those of them that have nothing left to do.
    pub(super) fn end_retired(&self) {
        for worker in self.workers().values().flatten() {
            if worker.is_retired() && worker.load.load(Relaxed) == 0 {
                worker.shut_down();
            }
        }
    }

    /// Resolves once the pool is being shut down.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Drops a task's workspace in every worker that may have it.
    pub(super) fn forget(&self, tenant: TenantId, task: TaskId) {
        let workers = self.workers();
        let homes = Flavour::ALL.map(|flavour| self.home(tenant, task, flavour));
        for worker in homes.iter().filter_map(|home| workers.get(home)).flatten() {
            worker.forget(task);
            if homes[0].task.is_some() && worker.load.load(Relaxed) == 0 {
                worker.shut_down();
            }
        }
    }

    /// Whether the pool is being shut down.
    pub(super) fn stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn all(&self) -> Vec<Arc<Worker>> {
        let own: Vec<_> = self.workers().values().flatten().cloned().collect();
        own.into_iter().chain(self.private().iter().cloned()).collect()
    }

    /// Kills the workers there are, without waiting; new ones may be started.
    pub(super) fn kill_workers(&self) {
        for worker in self.all() {
            worker.close();
            worker.kill.cancel();
        }
    }

    /// Lets no worker run longer, should it hear nothing more.
    pub(super) fn run_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
        for worker in self.all() {
            worker.run_until(until);
        }
    }

    /// Kills everything, without waiting.
    pub(super) fn abandon(&self) {
        self.stop.cancel();
        for worker in self.all() {
            worker.kill.cancel();
        }
    }

    /// Ends everything and waits until it is gone.
    pub(super) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        for worker in self.all() {
            worker.shut_down();
        }
        self.waiting.close().await;
        if tokio::time::timeout(self.config.shutdown_grace, self.tasks.wait()).await.is_err() {
            self.abandon();
            self.tasks.wait().await;
        }
        self.spawner.stop();
    }

    pub(super) fn stats(&self) -> WasmStats {
        let workers = self.workers();
        WasmStats {
            workers: workers.values().map(Vec::len).sum::<usize>() + self.private().len(),
            calls: workers.values().flatten().map(|worker| worker.load.load(Relaxed)).sum(),
            started: self.counters.started.load(Relaxed),
            lost: self.counters.lost.load(Relaxed),
            protocol_errors: self.counters.protocol_errors.load(Relaxed),
            scanning: workers.values().flatten().filter(|worker| worker.scans).count(),
            retired: self.counters.retired.load(Relaxed),
            recycled: self.counters.recycled.load(Relaxed),
            swap: self.swap.is_on(),
            waiting: self.waiting.count(),
        }
    }
}
