//! Runs the compile child: the parser and compiler see hostile bytes, so they
//! run in a process of their own, with limits, once per component.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::ports::sandbox::{PrepareError, SandboxError, Tell};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::{OnceCell, Semaphore};

use super::artifacts::Draft;
use super::spawn::{Spawner, command};
use crate::compile::{Heard, Mode, Report};
use crate::config::WasmConfig;

/// Most that a compile child may say.
const MAX_REPORT: u64 = 4 << 20;

/// Starts compile children, a few at once.
pub(super) struct Compiler {
    config: Arc<WasmConfig>,
    permits: Semaphore,
    fingerprint: OnceCell<String>,
}

impl Compiler {
    pub(super) fn new(config: Arc<WasmConfig>) -> Self {
        let permits = Semaphore::new(config.compiles.max(1));
        Self { config, permits, fingerprint: OnceCell::new() }
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
        let failed = |error| SandboxError::new("the compiler could not be run", error);
        let mut args = self.config.compile_args.clone();
        args.extend(mode.args(self.config.compile_cpu, self.config.compile_memory, self.config.isolation));
        let mut command = command(&self.config.exe, &args);
        let stdout = match draft {
            Some(draft) => Stdio::from(draft.file().map_err(failed)?),
            None => Stdio::null(),
        };
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped()).process_group(0);
        let child = spawner.spawn(command).await.map_err(failed)?;
        self.follow(child, component, tell).await
    }

    async fn follow(&self, mut child: Child, component: Bytes, tell: Tell<'_>) -> Result<Report, PrepareError> {
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
            return Err(too_complex(format!("it took longer than {wall:?} to compile")));
        };
        let (text, status) = done.map_err(|error| SandboxError::new("the compiler could not be followed", error))?;
        let text = String::from_utf8_lossy(&text);
        if let Some(report) = Report::find(&text) {
            return report.into_result();
        }
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        match signal.and_then(rustix::process::Signal::from_named_raw) {
            Some(rustix::process::Signal::XCPU | rustix::process::Signal::KILL) => Err(too_complex(format!(
                "it took more than {:?} of processor time to compile",
                self.config.compile_cpu
            ))),
            Some(rustix::process::Signal::ABORT | rustix::process::Signal::SEGV | rustix::process::Signal::BUS) => Err(
                too_complex(format!("it took more than {} MiB of memory to compile", self.config.compile_memory >> 20)),
            ),
            _ => {
                let end: String = text.chars().rev().take(500).collect::<Vec<_>>().into_iter().rev().collect();
                Err(SandboxError::because(format!("the compiler failed ({status}): {end}")).into())
            }
        }
    }
}

pub(super) fn too_complex(reason: String) -> PrepareError {
    PrepareError::Rejected { code: "too_complex", reason: format!("the component is too complex: {reason}") }
}

pub(super) fn unexpected(report: &Report) -> PrepareError {
    SandboxError::because(format!("the compiler answered with something else: {report:?}")).into()
}
