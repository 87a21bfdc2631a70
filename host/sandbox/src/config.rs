//! Settings of the WebAssembly backend.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::limits::Limits;
use bulkhead_core::ports::workspace::Domains;

use crate::host::CgroupParent;

/// How far workers are kept apart, and what happens if a part of the second
/// wall can't be put up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// As [`Isolation::Required`], and a worker belongs to one task.
    Strict,
    /// A worker belongs to one tenant; one that lacks a required part of the
    /// wall runs no guest.
    #[default]
    Required,
    /// Guests run behind what there is.
    BestEffort,
}

/// How [`crate::WasmSandbox`] compiles and runs. The executable must answer the
/// two argument lists with [`crate::worker_main`] and [`crate::compile_main`].
#[derive(Clone, Debug)]
pub struct WasmConfig {
    /// The executable of workers and compilers: usually this one.
    pub exe: PathBuf,
    /// Its arguments to be a worker.
    pub worker_args: Vec<String>,
    /// Its arguments to be a compiler; more are appended.
    pub compile_args: Vec<String>,
    /// What workers may reach. None: no file at all.
    pub domains: Option<Arc<dyn Domains>>,
    /// How far workers are kept apart, and what if a part of the wall is missing.
    pub isolation: Isolation,
    /// Whether workers have users of their own, where that can be.
    pub own_users: bool,
    /// Where groups are made that bound workers and compilers, if they may be.
    pub cgroup: CgroupParent,
    /// Whether they share the processor between tenants, too.
    pub cgroup_cpu: bool,
    /// Where compiled components are kept. Only the service may write there:
    /// what lies there runs as native code.
    pub cache_dir: PathBuf,
    /// Worker processes of one tenant at once; with [`Isolation::Strict`] each task has one.
    pub workers_per_tenant: usize,
    /// Worker processes of all tenants at once.
    pub max_workers: usize,
    /// Worker processes that wait to be told whom they serve, beside those.
    pub waiting_workers: usize,
    /// Calls of one worker at once.
    pub calls_per_worker: u32,
    /// Linear memory of all calls of one worker together, in bytes.
    pub memory_per_worker: u64,
    /// Memory of all workers and compilers together, in bytes, where control groups bound it:
    /// three quarters of what there is if none is named.
    pub memory_of_workers: Option<u64>,
    /// After how long without a call a worker is ended.
    pub idle_timeout: Duration,
    /// After how long a worker takes no further calls, and another takes its place.
    pub max_age: Duration,
    /// How long after a call's deadline its worker is killed if it says nothing.
    pub kill_grace: Duration,
    /// Added to the niceness of workers, so that guests yield to the host.
    pub nice: u8,
    /// Compilations at once.
    pub compiles: usize,
    /// Processor time of one compilation.
    pub compile_cpu: Duration,
    /// Address space of one compilation, in bytes.
    pub compile_memory: u64,
    /// Whether components that need WASI 0.3 may be tools. Workers of their own run them.
    pub wasi_03: bool,
    /// Limits of `describe`, which runs once per component.
    pub describe_limits: Limits,
    /// How long a worker may take to come up or to load a component.
    pub start_timeout: Duration,
    /// How long workers may take to end when the sandbox is shut down.
    pub shutdown_grace: Duration,
    /// Where the kernel lists its swap areas.
    pub swaps: PathBuf,
    /// Time between two looks at them.
    pub swap_interval: Duration,
}

impl WasmConfig {
    /// Settings with defaults for everything but the two paths.
    pub fn new(exe: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            exe: exe.into(),
            worker_args: vec!["worker".into()],
            compile_args: vec!["compile".into()],
            domains: None,
            isolation: Isolation::Required,
            own_users: true,
            cgroup: CgroupParent::Auto,
            cgroup_cpu: false,
            cache_dir: cache_dir.into(),
            workers_per_tenant: cores,
            max_workers: 256,
            waiting_workers: 0,
            calls_per_worker: 64,
            memory_per_worker: 4 << 30,
            memory_of_workers: None,
            idle_timeout: Duration::from_secs(30),
            max_age: Duration::from_secs(3_600),
            kill_grace: Duration::from_millis(40),
            nice: 10,
            compiles: 1,
            compile_cpu: Duration::from_secs(30),
            compile_memory: 2 << 30,
            wasi_03: false,
            describe_limits: describe_limits(),
            start_timeout: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(2),
            swaps: "/proc/swaps".into(),
            swap_interval: Duration::from_secs(1),
        }
    }
}

/// Tight: a description is data that the tool already has.
fn describe_limits() -> Limits {
    Limits {
        wall_time_ms: 2_000,
        cpu_time_ms: 1_000,
        memory_bytes: 64 << 20,
        stdout_bytes: 0,
        stderr_bytes: 0,
        emit_bytes: 0,
        log_bytes: 0,
        log_lines: 0,
        file_changes: 0,
        ..Limits::default()
    }
}
