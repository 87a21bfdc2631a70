//! One call, from its fresh store to the frame that says how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bulkhead_core::json::Json;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, TypedFunc};
use wasmtime::{Engine, Store, Trap, UpdateDeadline};

use super::background::Background;
use super::bindings::bulkhead::tool::types::{Capability, Content, Description, ToolError, WorkspaceAccess};
use super::call::Call;
use super::fault::{self, Class};
use super::fs::Syncs;
use super::heavy::{Heavy, Turns};
use super::imports::{part, part_fault};
use super::limiter::{Budget, Share};
use super::meter::{Metered, Ticker, thread_time};
use super::state::{Mount, State};
use super::tally::Tally;
use super::wasi_03;
use crate::bounds;
use crate::wire::{self, Done, Entry, Fault, Measured, Report, Stop, Wanted};

/// A guest with more memory than this takes long to drop.
const LARGE: u64 = 32 << 20;

/// A component, ready to be instantiated; look-ups by name are done.
pub(super) struct Loaded {
    pub(super) pre: InstancePre<State>,
    pub(super) call: ComponentExportIndex,
    pub(super) describe: ComponentExportIndex,
}

/// What every call of a worker shares.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) ticker: Arc<Ticker>,
    pub(super) background: Arc<Background>,
    pub(super) budget: Arc<Budget>,
    pub(super) syncs: Arc<Syncs>,
    pub(super) heavy: Arc<Heavy>,
    /// The place of one that has ended, was told, and is being given back by the first thread.
    pub(super) spare: Tally,
}

/// What a guest returned.
enum Returned {
    Content(Vec<Content>),
    Error(ToolError),
    Description(Description),
}

/// What came of the guest.
enum Ended {
    Returned(Returned),
    Faulted { fault: Fault, message: String },
    Host(String),
}

/// What a call is, beside its limits.
pub(super) struct Job {
    pub(super) entry: Entry,
    pub(super) loaded: Arc<Loaded>,
    pub(super) mounts: Vec<Mount>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) arguments: String,
    /// Whose it is among the users of this worker.
    pub(super) user: u32,
}

/// Runs a call and sends how it ended.
pub(super) async fn run(shared: Arc<Shared>, call: Arc<Call>, job: Job) {
    let turns = Turns::of(&shared.heavy, job.user);
    let guest = guest(shared.clone(), call.clone(), job);
    let mut guest = Metered::new(guest, call.clone(), shared.ticker.clone(), turns.clone());
    let (ended, cpu) = (&mut guest).await;
    let (ended, store) = match ended {
        Ok((ended, store)) => (Ok(ended), Some(store)),
        Err(stop) => (Err(stop), None),
    };
    // In the background nobody short waits for the memory to be given back, and
    // the next turn may be far off: whoever is told of the end may count on it.
    let long = call.is_long();
    // Giving much memory back takes long: the host is told before, of one at a time. Its
    // place is not free yet, and there is one to spare.
    let takes_long = !long && (ended.is_err() || call.peak.load(Relaxed) > LARGE);
    let spare = if takes_long { shared.spare.take() } else { None };
    let mut left = Some((guest, store));
    if (long && ended.is_ok()) || (takes_long && spare.is_none()) {
        call.close();
        left = None;
    }
    // What it costs to look at a result is its user's, too.
    let before = thread_time();
    finish(&call, &ended, cpu);
    turns.had(cpu, thread_time().saturating_sub(before));
    if spare.is_some() {
        tokio::task::yield_now().await;
    }
    drop(left);
    drop(spare);
}

async fn guest(shared: Arc<Shared>, call: Arc<Call>, job: Job) -> (Ended, Store<State>) {
    let share = shared.budget.share(job.user);
    let mut store = store(&shared, call, job.mounts, &job.environment, share);
    let ended = match job.loaded.pre.instantiate_async(&mut store).await {
        Err(error) => name_fault(&mut store, None, &error).await,
        Ok(instance) => {
            let entered = Entered { instance, loaded: &job.loaded };
            match entered.execute(&mut store, job.entry, &job.arguments).await {
                Ok(returned) => {
                    store.data_mut().send_progress().await;
                    Ended::Returned(returned)
                }
                Err(error) => name_fault(&mut store, Some(&entered), &error).await,
            }
        }
    };
    (ended, store)
}

/// A fresh store with every limit set.
fn store(
    shared: &Shared,
    call: Arc<Call>,
    mounts: Vec<Mount>,
    environment: &[(String, String)],
    share: Share,
) -> Store<State> {
    let limits = call.limits.clone();
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let mut store = Store::new(&shared.engine, State::new(call, mounts, environment, share));
    store.limiter(|state| &mut state.limiter);
    // One allowance covers what a host function and what the result copies.
    store.set_hostcall_fuel(size(limits.host_memory_bytes.max(limits.result_bytes + bounds::FRAME_SLACK as u64)));
    store.set_max_component_handles(size(limits.handles));
    wasi_03::bound(&mut store, size(limits.handles));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
    store
}

/// An instance, with the indexes of its exports.
struct Entered<'a> {
    instance: Instance,
    loaded: &'a Loaded,
}

impl Entered<'_> {
    async fn execute(&self, store: &mut Store<State>, entry: Entry, arguments: &str) -> wasmtime::Result<Returned> {
        match entry {
            Entry::Call => {
                let function = self
                    .instance
                    .get_typed_func::<(&str,), (Result<Vec<Content>, ToolError>,)>(&mut *store, self.loaded.call)?;
                let (result,) = function.call_async(&mut *store, (arguments,)).await?;
                Ok(result.map_or_else(Returned::Error, Returned::Content))
            }
            Entry::Describe => {
                let (description,) = self.describe(store)?.call_async(&mut *store, ()).await?;
                Ok(Returned::Description(description))
            }
        }
    }

    fn describe(&self, store: &mut Store<State>) -> wasmtime::Result<TypedFunc<(), (Description,)>> {
        self.instance.get_typed_func(store, self.loaded.describe)
    }

    /// Whether the guest had returned when its store failed. The engine says
    /// only that too much was copied; but a store whose guest was stopped
    /// within a host function is never entered again, and one whose guest had
    /// returned would be. That second entry ends at its first instruction, by
    /// its epoch.
    async fn returned(&self, store: &mut Store<State>) -> bool {
        store.epoch_deadline_trap();
        store.set_epoch_deadline(0);
        let Ok(function) = self.describe(store) else { return false };
        let entered = function.call_async(&mut *store, ()).await;
        entered.err().is_none_or(|error| error.downcast_ref() != Some(&Trap::CannotEnterComponent))
    }
}

async fn name_fault(store: &mut Store<State>, entered: Option<&Entered<'_>>, error: &wasmtime::Error) -> Ended {
    let message = fault::message(error);
    let fault = match (fault::classify(error, store.data().limiter.refused), entered) {
        (Class::Guest(fault), _) => fault,
        (Class::Host, _) => return Ended::Host(message),
        (Class::Copied, Some(entered)) if entered.returned(store).await => Fault::ResultBytes { bytes: 0 },
        (Class::Copied, _) => Fault::HostMemory,
    };
    Ended::Faulted { fault, message }
}

fn finish(call: &Call, ended: &Result<Ended, Stop>, cpu: Duration) {
    call.close();
    call.finish_changes();
    let (output_bytes, stderr) = call.output();
    let measured = Measured {
        cpu_us: u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX),
        peak_memory_bytes: call.peak.load(Relaxed),
        read_bytes: call.read.load(Relaxed),
        written_bytes: call.written.load(Relaxed),
        output_bytes,
        taken: call.taken(),
    };
    let send = |report: Report<'_>| call.tell(Done { report, measured });
    let faulted = |fault, message: &str| {
        let report = Report::Faulted { fault, message, stderr: &stderr };
        call.tell(Done { report, measured });
    };
    match ended {
        Err(stop) => send(Report::Stopped(*stop)),
        Ok(Ended::Host(reason)) => send(Report::Refused { reason }),
        Ok(Ended::Faulted { fault, message }) => faulted(*fault, message),
        Ok(Ended::Returned(Returned::Description(description))) => send(Report::Described(described(description))),
        Ok(Ended::Returned(Returned::Error(error))) => match tool_error(error) {
            Ok(report) => send(report),
            Err(message) => faulted(Fault::InvalidResult, &message),
        },
        Ok(Ended::Returned(Returned::Content(content))) => match parts(content, call.limits.result_bytes) {
            Ok(parts) => send(Report::Returned(parts)),
            Err((fault, message)) => faulted(fault, &message),
        },
    }
}

/// The result, if it is within its limits and is what it says it is.
fn parts(content: &[Content], limit: u64) -> Result<Vec<wire::Part<'_>>, (Fault, String)> {
    if content.len() > bounds::MAX_RESULT_PARTS {
        let message =
            format!("the result has {} parts; at most {} are allowed", content.len(), bounds::MAX_RESULT_PARTS);
        return Err((Fault::InvalidResult, message));
    }
    let parts: Vec<_> = content.iter().map(part).collect();
    let bytes: usize = parts.iter().map(wire::Part::size).sum();
    if bytes as u64 > limit {
        return Err((Fault::ResultBytes { bytes: bytes as u64 }, format!("the result has {bytes} bytes")));
    }
    match parts.iter().find_map(part_fault) {
        Some(message) => Err((Fault::InvalidResult, message)),
        None => Ok(parts),
    }
}

fn tool_error(error: &ToolError) -> Result<Report<'_>, String> {
    if !valid_error_code(&error.code) {
        return Err(format!(
            "the code of the tool's error must be 1 to {} of a-z, 0-9, `_`, `.`, `-`; its message was: {}",
            bounds::MAX_ERROR_CODE,
            error.message.chars().take(1000).collect::<String>()
        ));
    }
    if error.message.len() > bounds::MAX_ERROR_MESSAGE {
        return Err(format!(
            "the tool's error message has {} bytes; at most {} are allowed",
            error.message.len(),
            bounds::MAX_ERROR_MESSAGE
        ));
    }
    let details = error.details.as_deref();
    if details.is_some_and(|details| details.len() > bounds::MAX_ERROR_DETAILS) {
        return Err(format!("the details of the tool's error are over {} bytes", bounds::MAX_ERROR_DETAILS));
    }
    if let Some(Err(error)) = details.map(Json::check) {
        return Err(format!("the details of the tool's error are not JSON: {error}"));
    }
    Ok(Report::ToolError { code: &error.code, message: &error.message, retryable: error.retryable, details })
}

/// The form that `wit/tool.wit` asks for.
pub(crate) fn valid_error_code(code: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
    (1..=bounds::MAX_ERROR_CODE).contains(&code.len()) && code.bytes().all(known)
}

fn described(description: &Description) -> wire::Description<'_> {
    let capabilities = description.capabilities.iter().map(|capability| match capability {
        Capability::Workspace(WorkspaceAccess::None) => Wanted::Workspace(wire::WantedAccess::None),
        Capability::Workspace(WorkspaceAccess::Read) => Wanted::Workspace(wire::WantedAccess::Read),
        Capability::Workspace(WorkspaceAccess::ReadWrite) => Wanted::Workspace(wire::WantedAccess::ReadWrite),
        Capability::Http(host) => Wanted::Http(host),
        Capability::Environment(name) => Wanted::Environment(name),
        Capability::Secret(name) => Wanted::Secret(name),
    });
    wire::Description {
        name: &description.name,
        version: &description.version,
        description: &description.description,
        input_schema: &description.input_schema,
        output_schema: description.output_schema.as_deref(),
        capabilities: capabilities.collect(),
        idempotent: description.idempotent,
    }
}
