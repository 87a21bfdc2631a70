//! Runs the compile child: the parser and compiler see hostile bytes, so they
//! run in a process of their own, with limits, once per component.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bulkhead_core::ports::sandbox::{PrepareError, SandboxError, Tell};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::{OnceCell, Semaphore};

use super::artifacts::Draft;
use super::cgroups::{Allowance, Cgroups};
use super::spawn::{Spawner, command};
use crate::compile::{Heard, Mode, Report};
use crate::config::WasmConfig;
use crate::walls::NO_NAMESPACE;
use crate::walls::bounds::COMPILER_THREADS;

/// Most that a compile child may say.
const MAX_REPORT: u64 = 4 << 20;

/// What the kernel keeps for a compile child beside its memory, in bytes.
const BESIDE: u64 = 64 << 20;

/// Starts compile children, a few at once.
pub(super) struct Compiler {
    config: Arc<WasmConfig>,
    cgroups: Arc<Cgroups>,
    permits: Semaphore,
    /// Until one got stuck in them.
    namespaces: AtomicBool,
    fingerprint: OnceCell<String>,
}

impl Compiler {
    pub(super) fn new(config: Arc<WasmConfig>, cgroups: Arc<Cgroups>) -> Self {
        let permits = Semaphore::new(config.compiles.max(1));
        Self { config, cgroups, permits, namespaces: AtomicBool::new(true), fingerprint: OnceCell::new() }
    }

    /// What artefacts of this executable depend on beside their component.
    pub(super) async fn fingerprint(&self, spawner: &Spawner) -> Result<&str, PrepareError> {
        let fingerprint = self.fingerprint.get_or_try_init(|| async {
            match self.run(spawner, Mode::Fingerprint, Bytes::new(), None, &|_| {}).await? {
                Report::Fingerprint(fingerprint) => Ok(fingerprint),
                other => Err(unexpected(&other)),
            }
        });
        Ok(fingerprint.await?.as_str())
    }

    /// Runs one child on `component`; what it compiles goes into `draft`, and how far it is to `tell`.
    pub(super) async fn run(
        &self,
        spawner: &Spawner,
        mode: Mode,
        component: Bytes,
        draft: Option<&Draft>,
        tell: Tell<'_>,
    ) -> Result<Report, PrepareError> {
        let closed = |_| SandboxError::because("the sandbox is shut down");
        let _permit = self.permits.acquire().await.map_err(closed)?;
        loop {
            let namespaces = self.namespaces.load(Relaxed);
            match self.run_once(spawner, mode, component.clone(), draft, tell, namespaces).await? {
                Some(report) => return report.into_result(),
                // Believed only of a child that sees nothing of anybody's.
                None if namespaces && mode == Mode::Fingerprint => self.namespaces.store(false, Relaxed),
                None => return Err(SandboxError::because("the compiler ended without a report").into()),
            }
        }
    }

    /// None if the child was stuck in a namespace of its own.
    async fn run_once(
        &self,
        spawner: &Spawner,
        mode: Mode,
        component: Bytes,
        draft: Option<&Draft>,
        tell: Tell<'_>,
        namespaces: bool,
    ) -> Result<Option<Report>, PrepareError> {
        let failed = |error| SandboxError::new("the compiler could not be run", error);
        let mut args = self.config.compile_args.clone();
        args.extend(mode.args(&self.config, namespaces));
        let mut command = command(&self.config.exe, &args);
        let stdout = match draft {
            Some(draft) => Stdio::from(draft.file().map_err(failed)?),
            None => Stdio::null(),
        };
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped()).process_group(0);
        let child = spawner.spawn(command).await.map_err(failed)?;
        // Before it is sent anything, so that what it uses is counted there.
        let (cgroups, pid) = (self.cgroups.clone(), child.id());
        let allowance = Allowance { memory: self.config.compile_memory.saturating_add(BESIDE), pids: COMPILER_THREADS };
        let held = tokio::task::spawn_blocking(move || cgroups.hold("compile", allowance, pid)).await;
        let report = self.follow(child, component, tell).await;
        // Nobody waits for that.
        drop(tokio::task::spawn_blocking(move || drop(held)));
        report
    }

    async fn follow(&self, mut child: Child, component: Bytes, tell: Tell<'_>) -> Result<Option<Report>, PrepareError> {
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A child that has seen enough closes its end.
                let _ = stdin.write_all(&component).await;
            }
        };
        let listen = async {
            let (mut text, mut heard) = (Vec::new(), Heard::default());
            if let Some(stderr) = stderr {
                let mut stderr = stderr.take(MAX_REPORT);
                while stderr.read_buf(&mut text).await? > 0 {
                    std::iter::from_fn(|| heard.next(&text)).for_each(tell);
                }
            }
            Ok::<_, std::io::Error>(text)
        };
        // Twice its processor time, on a busy machine.
        let wall = self.config.compile_cpu * 2 + Duration::from_secs(5);
        let all = async {
            let ((), text) = tokio::join!(feed, listen);
            Ok::<_, std::io::Error>((text?, child.wait().await?))
        };
        // Dropping the child kills it.
        let Ok(done) = tokio::time::timeout(wall, all).await else {
            // Waited for, so that its group can go.
            let _ = child.kill().await;
            let text = format!(
                "it took longer than {wall:?} to compile: twice the processor time that `tools.compile_cpu_s` in \
                 bulkhead.toml allows, and five seconds"
            );
            return Err(too_complex(text));
        };
        let (text, status) = done.map_err(|error| SandboxError::new("the compiler could not be followed", error))?;
        let text = String::from_utf8_lossy(&text);
        if let Some(report) = Report::find(&text) {
            return Ok(Some(report));
        }
        if status.code() == Some(NO_NAMESPACE) {
            return Ok(None);
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        match signal.and_then(rustix::process::Signal::from_named_raw) {
            Some(rustix::process::Signal::XCPU | rustix::process::Signal::KILL) => {
                Err(over("tools.compile_cpu_s", self.config.compile_cpu.as_secs()))
            }
            Some(rustix::process::Signal::ABORT | rustix::process::Signal::SEGV | rustix::process::Signal::BUS) => {
                Err(over("tools.compile_memory_bytes", self.config.compile_memory))
            }
            _ => {
                let end: String = text.chars().rev().take(500).collect::<Vec<_>>().into_iter().rev().collect();
                Err(SandboxError::because(format!("the compiler failed ({status}): {end}")).into())
            }
        }
    }
}

/// Nobody knows how much it would have taken.
fn over(key: &'static str, value: u64) -> PrepareError {
    too_complex(bulkhead_core::reached::words(key, value, format_args!("more than {value}")))
}

pub(super) fn too_complex(reason: String) -> PrepareError {
    PrepareError::Rejected { code: "too_complex", reason: format!("the component is too complex: {reason}") }
}

pub(super) fn unexpected(report: &Report) -> PrepareError {
    SandboxError::because(format!("the compiler answered with something else: {report:?}")).into()
}
