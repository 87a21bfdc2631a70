//! `run`: one call, here and now. The same checks, sandbox and limits as on a
//! server, but no store: what the tool prints goes to the terminal as it comes.

mod report;
mod sink;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bulkhead_core::clock::NewId as _;
use bulkhead_core::digest::Digest;
use bulkhead_core::grants::{Ceiling, WorkspaceAccess};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::Outcome;
use bulkhead_core::pause::Pauses;
use bulkhead_core::policy::{Policy, Subject};
use bulkhead_core::ports::sandbox::{PrepareError, Prepared, Run as Call, Sandbox};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::{Extent, Lease};
use bulkhead_core::tool::Manifest;
use bulkhead_sandbox::WasmSandbox;
use bytes::Bytes;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::sink::Live;
use super::args::Run;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{arguments, sandbox, trace};
use crate::config::{Config, Loaded};
use crate::system::System;

/// What a call needs, all of it read and checked.
struct Wanted {
    component: Bytes,
    base: Option<String>,
    pairs: Vec<(String, String)>,
    workspace: Option<Arc<OwnedFd>>,
    ceiling: Ceiling,
    limits: Limits,
}

/// How a call ended.
struct Ended {
    manifest: Manifest,
    digest: Digest,
    outcome: Outcome,
    /// The tool wants a workspace and was given none.
    without_workspace: bool,
}

/// Runs one call.
pub(super) fn run(loaded: Loaded, options: Run, output: &Output) -> Result<Exit, Failure> {
    trace::command(&loaded);
    let wanted = wanted(&loaded.config, options)?;
    let cancel = CancellationToken::new();
    let live = Arc::new(Live::new(*output, cancel.clone(), wanted.limits.clone()));
    let domain = wanted.workspace.clone();
    let ended = sandbox::with(&loaded, domain, async |sandbox| {
        watched(call(sandbox, wanted, live.clone(), &cancel), &cancel).await
    });
    live.close();
    let ended = ended?;
    report::print(&ended, &live, output);
    Ok(Exit::of(&ended.outcome.ending))
}

fn wanted(config: &Config, options: Run) -> Result<Wanted, Failure> {
    let base = match options.args_json.as_deref() {
        Some("-") => {
            Some(std::io::read_to_string(std::io::stdin()).map_err(|error| Failure::new(Exit::NoInput, error))?)
        }
        other => other.map(str::to_owned),
    };
    let ceiling = match (&options.workspace, options.read_only) {
        (None, _) => WorkspaceAccess::None,
        (Some(_), true) => WorkspaceAccess::Read,
        (Some(_), false) => WorkspaceAccess::ReadWrite,
    };
    Ok(Wanted {
        component: sandbox::component(&options.tool, config)?,
        base,
        pairs: options.arguments,
        workspace: options.workspace.as_deref().map(open).transpose()?,
        ceiling: Ceiling { workspace: ceiling, ..Ceiling::OPEN },
        limits: limits(&config.limits, options.timeout, options.memory)?,
    })
}

/// Who runs a tool here is its operator, so the flags may also widen.
fn limits(configured: &Limits, timeout: Option<std::time::Duration>, memory: Option<u64>) -> Result<Limits, Failure> {
    let mut limits = configured.clone();
    if let Some(timeout) = timeout {
        limits.wall_time_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        // A call can't use more processor time than time, but may use all of it.
        limits.cpu_time_ms = limits.cpu_time_ms.max(limits.wall_time_ms);
    }
    limits.memory_bytes = memory.unwrap_or(limits.memory_bytes);
    limits.checked().map_err(Failure::usage)
}

fn open(path: &Path) -> Result<Arc<OwnedFd>, Failure> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    opened.map(Arc::new).map_err(|errno| {
        Failure::new(
            Exit::NoInput,
            format!("the workspace {} can't be opened: {errno}; name a directory", path.display()),
        )
    })
}

/// Cancels at the first signal and gives up at the second.
async fn watched<T>(work: impl Future<Output = Result<T, Failure>>, cancel: &CancellationToken) -> Result<T, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Failure::host(&error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Failure::host(&error))?;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            ended = &mut work => return ended,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if cancel.is_cancelled() {
            return Err(Failure::new(Exit::Cancelled, "given up at the second signal"));
        }
        cancel.cancel();
    }
}

async fn call(
    sandbox: &WasmSandbox,
    wanted: Wanted,
    live: Arc<Live>,
    cancel: &CancellationToken,
) -> Result<Ended, Failure> {
    let digest = Digest::of(&wanted.component);
    live.phase("compiling the component");
    let prepared = tokio::select! {
        prepared = sandbox.prepare(wanted.component) => prepared.map_err(rejected)?,
        () = cancel.cancelled() => return Err(Failure::new(Exit::Cancelled, "cancelled while the component was compiled")),
    };
    live.phase("running");
    let Prepared { manifest, artifact } = prepared;
    let arguments =
        arguments::assemble(wanted.base.as_deref(), &wanted.pairs, &manifest.input_schema).map(Value::Object);
    let arguments = arguments.map_err(Failure::usage)?;
    arguments::check(&arguments, &manifest.input_schema).map_err(Failure::usage)?;
    let owner = Owner { tenant: System.tenant_id(), user: System.user_id() };
    let subject = Subject { owner, tool: &manifest.name, digest };
    let granted = |ceiling| Policy::default().grants(&subject, &manifest.capabilities, ceiling).0;
    let grants = granted(&wanted.ceiling);
    let without_workspace = wanted.workspace.is_none() && granted(&Ceiling::OPEN).workspace != WorkspaceAccess::None;
    let call = Call {
        call: System.call_id(),
        owner,
        task: System.task_id(),
        component: digest,
        artifact,
        workspace: wanted.workspace,
        parts: Vec::new(),
        grants,
        // A person's own directory: as much as the limits say, whatever lies there.
        lease: Lease::of_nobody(Extent::quota(&wanted.limits)),
        limits: wanted.limits,
        environment: Arc::default(),
        pauses: Pauses::default(),
        arguments: arguments.to_string().into(),
    };
    let outcome = sandbox.run(call, live, cancel.clone()).await.map_err(|error| Failure::host(&error))?;
    Ok(Ended { manifest, digest, outcome, without_workspace })
}

/// A component that can't be a tool is the caller's mistake, not the tool's failure.
pub(super) fn rejected(error: PrepareError) -> Failure {
    match error {
        PrepareError::Rejected { code, reason } => {
            Failure::usage(format!("the component can't be a tool ({code}): {reason}"))
        }
        PrepareError::Sandbox(error) => Failure::host(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn flags_widen_up_to_the_maximum() {
        let configured = Limits::default();
        let wider = limits(&configured, Some(Duration::from_secs(120)), Some(1 << 30)).expect("within the maximum");
        assert_eq!((wider.wall_time_ms, wider.cpu_time_ms, wider.memory_bytes), (120_000, 120_000, 1 << 30));
        assert_eq!(limits(&configured, None, None).expect("unchanged"), configured);
        let error = limits(&configured, None, Some(1 << 40)).expect_err("too much");
        assert!(error.message.contains("memory_bytes") && error.exit == Exit::Usage, "{error:?}");
    }

    #[tokio::test]
    async fn work_that_ends_needs_no_signal() {
        let cancel = CancellationToken::new();
        assert_eq!(watched(async { Ok(3) }, &cancel).await, Ok(3));
        assert!(!cancel.is_cancelled());
    }
}
