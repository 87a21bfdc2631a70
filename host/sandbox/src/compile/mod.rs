//! The compile child: reads a component from standard input, or a core module
//! that can be made one, looks at it, and writes native code to standard
//! output. Everything here sees hostile bytes, so it runs under hard limits and
//! answers one question per process.

mod adapt;
mod count;
mod externs;
mod inspect;
mod stages;

use std::io::{Read, Write};
use std::process::ExitCode;

use bulkhead_core::ports::sandbox::{PrepareError, SandboxError, Stage};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

#[cfg(feature = "fuzz")]
pub(crate) use externs::may_import;
pub(crate) use externs::{ASYNC_GUEST, GUEST};
pub use inspect::{Inspection, inspect_component};
pub(crate) use stages::Heard;

use crate::bounds::{COMPILER_NICE, MAX_ARTIFACT, MAX_COMPONENT};
use crate::config::{Isolation, WasmConfig};
use crate::engine::{self, Flavour};
use crate::walls::{self, Code, Part, bounds, close_inherited};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Compile,
    Inspect,
    Fingerprint,
}

impl Mode {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Compile, "component"), (Self::Inspect, "inspect"), (Self::Fingerprint, "fingerprint")];

    /// The arguments that ask for it.
    pub(crate) fn args(self, config: &WasmConfig, namespaces: bool) -> [String; 6] {
        let name = Self::ALL.iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name);
        let isolation = match config.isolation {
            Isolation::Strict | Isolation::Required => REQUIRED,
            Isolation::BestEffort => "best-effort",
        };
        let wasi = if config.wasi_03 { WASI_03 } else { "wasi-0.2" };
        let namespaces = if namespaces { NAMESPACES } else { "no-namespaces" };
        let (cpu, memory) = (config.compile_cpu.as_secs().max(1), config.compile_memory);
        [name.into(), cpu.to_string(), memory.to_string(), isolation.into(), wasi.into(), namespaces.into()]
    }
}

/// What the child answers, as one line of standard error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Compiled(Flavour),
    Inspected(Box<Inspection>),
    Fingerprint(String),
    Rejected { code: String, reason: String },
    Failed(String),
}

/// The argument that lets nothing be compiled outside the second wall.
const REQUIRED: &str = "required";

/// The argument that lets components of WASI 0.3 pass.
const WASI_03: &str = "wasi-0.3";

/// The argument that has namespaces tried, which a child may get stuck in.
const NAMESPACES: &str = "namespaces";

/// Begins the line with the report; what else is printed is for the log.
const REPORT: &str = "bulkhead-report: ";

/// Longest reason that is passed on, in bytes: it is stored with the tool.
const MAX_REASON: usize = 4_000;

/// Codes that a child can reject with, as the port names them.
pub(crate) const CODES: [&str; 7] =
    ["not_wasm", "core_module", "invalid_wasm", "too_large", "too_complex", "unknown_import", "missing_export"];

impl Report {
    /// The line that tells it.
    pub(crate) fn line(&self) -> String {
        // Plain data: encoding it can't fail. If it did, the host would see no report.
        format!("{REPORT}{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// The report in what a child printed.
    pub(crate) fn find(printed: &str) -> Option<Self> {
        let line = printed.lines().rev().find_map(|line| line.strip_prefix(REPORT))?;
        serde_json::from_str(line).ok()
    }

    /// Tells answers from refusals.
    pub(crate) fn into_result(self) -> Result<Self, PrepareError> {
        match self {
            Self::Rejected { code, reason } => {
                let code = CODES.into_iter().find(|known| *known == code).unwrap_or("invalid_wasm");
                Err(PrepareError::Rejected { code, reason: plain(&reason) })
            }
            Self::Failed(reason) => {
                Err(SandboxError::because(format!("the compiler failed: {}", plain(&reason))).into())
            }
            answer => Ok(answer),
        }
    }
}

/// One line of text of a sensible length: the child has read hostile bytes.
fn plain(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(MAX_REASON)];
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A component that can't become a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, machine readable: as in `PrepareError::Rejected`.
    pub code: String,
    /// For the plugin's author.
    pub reason: String,
}

impl Problem {
    fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self { code: code.into(), reason: reason.into() }
    }
}

/// The subcommand `compile`, with the arguments that follow it:
/// `component|inspect|fingerprint <seconds of processor time> <bytes of memory> required|best-effort wasi-0.2|wasi-0.3 namespaces|no-namespaces`.
pub fn compile_main(args: &[String]) -> ExitCode {
    let report = match answer(args) {
        Ok(report) => report,
        Err(error) => Report::Failed(format!("{error:#}")),
    };
    let failed = matches!(report, Report::Failed(_));
    let told = std::io::stderr().write_all(report.line().as_bytes()).is_ok();
    if failed || !told { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn answer(args: &[String]) -> wasmtime::Result<Report> {
    let usage = || {
        wasmtime::format_err!(
            "expected: component|inspect|fingerprint <seconds> <bytes> required|best-effort wasi-0.2|wasi-0.3 \
             namespaces|no-namespaces"
        )
    };
    let [mode, cpu, memory, isolation, wasi, namespaces] = args else { return Err(usage()) };
    let (mode, _) = Mode::ALL.into_iter().find(|(_, name)| name == mode).ok_or_else(usage)?;
    confine(cpu.parse().map_err(|_| usage())?, memory.parse().map_err(|_| usage())?)?;
    shut_in(isolation == REQUIRED, namespaces == NAMESPACES)?;
    if mode == Mode::Fingerprint {
        let adapting = adapt::fingerprint().map_err(wasmtime::Error::msg)?;
        return Ok(Report::Fingerprint(hex::encode(engine::fingerprint(&adapting)?)));
    }
    let mut component = Vec::new();
    std::io::stdin().take(MAX_COMPONENT as u64 + 1).read_to_end(&mut component)?;
    if mode == Mode::Compile {
        stages::say(Stage::Inspecting);
    }
    let (inspection, adapted) = inspect::look(&component, wasi == WASI_03);
    if mode == Mode::Inspect {
        return Ok(Report::Inspected(Box::new(inspection)));
    }
    if let Some(Problem { code, reason }) = inspection.problem {
        return Ok(Report::Rejected { code, reason });
    }
    stages::say(Stage::Compiling);
    let flavour = inspection.flavour();
    match engine::compiler(flavour)?.precompile_component(adapted.as_deref().unwrap_or(&component)) {
        Ok(artifact) => {
            std::io::stdout().write_all(&artifact)?;
            std::io::stdout().flush()?;
            Ok(Report::Compiled(flavour))
        }
        Err(error) => Ok(Report::Rejected {
            code: "invalid_wasm".into(),
            reason: format!("the component is not valid: {error:#}"),
        }),
    }
}

/// Reads and writes what is open already, and nothing else: its root is empty.
fn shut_in(required: bool, namespaces: bool) -> wasmtime::Result<()> {
    let left = if namespaces { &[][..] } else { &[Part::NetworkNamespace] };
    let walls = walls::shut_in(walls::give_up(None, bounds::COMPILER_THREADS, left), [], Code::Never, &[]);
    let missing: Vec<&str> = walls.missing().into_iter().map(Part::name).collect();
    if required && !missing.is_empty() {
        return Err(wasmtime::format_err!("nothing is compiled without: {}", missing.join(", ")));
    }
    Ok(())
}

/// Limits that end the process: a compilation bomb is not our process's end.
fn confine(seconds: u64, memory: u64) -> wasmtime::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    close_inherited()?;
    bounds::bound()?;
    // It takes every core that it can get.
    rustix::process::nice(COMPILER_NICE)?;
    bounds::at_most(Resource::Fsize, MAX_ARTIFACT)?;
    bounds::at_most(Resource::As, memory)?;
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) })?;
    Ok(())
}
