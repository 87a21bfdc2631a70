//! What is fuzzed here (feature `fuzz`): what workers and compile children say,
//! and the components that guests' authors send. See `bulkhead_core::fuzzing`.

mod seeds;

pub use bulkhead_core::fuzzing::Target;
use bulkhead_core::ports::sandbox::PrepareError;

use crate::bounds;
use crate::compile::{self, Inspection, inspect_component};
use crate::wire::{FrameError, FromWorker, Inbox, Outbox, ToWorker, decode};

/// The targets of this package.
pub const TARGETS: [Target; 4] = [
    Target { name: "frames", run: frames, seeds: seeds::frames_seeds },
    Target { name: "guard", run: guard, seeds: seeds::guard_seeds },
    Target { name: "compile_report", run: compile_report, seeds: seeds::compile_report_seeds },
    Target { name: "component", run: component, seeds: seeds::component_seeds },
];

/// Largest frame that the reader allows here.
const MAX_FRAME: usize = 2_048;

/// Frames: the first byte says in which pieces the others arrive. However they
/// are cut, the same frames come out, and what decodes is what was said.
pub fn frames(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    let cut = read(bytes, usize::from(*step).max(1));
    assert_eq!(whole, cut, "frames depend on how they were cut");
    for (call, body) in whole.0 {
        assert!(body.len() <= MAX_FRAME);
        if let Ok(message) = decode::<FromWorker<'_>>(call, &body) {
            let (again, said) = (encode(call, &message), format!("{message:?}"));
            assert!(again.len() <= body.len(), "it was said in fewer bytes than it has");
            assert_eq!(decode::<FromWorker<'_>>(call, &again).map(|again| format!("{again:?}")), Ok(said));
        }
        if let Ok(message) = decode::<ToWorker<'_>>(call, &body) {
            let (again, said) = (encode(call, &message), format!("{message:?}"));
            assert_eq!(decode::<ToWorker<'_>>(call, &again).map(|again| format!("{again:?}")), Ok(said));
        }
    }
}

type Frames = (Vec<(u32, Vec<u8>)>, Option<FrameError>);

fn read(bytes: &[u8], step: usize) -> Frames {
    let (mut inbox, mut frames) = (Inbox::default(), Vec::new());
    for piece in bytes.chunks(step) {
        inbox.put(piece);
        loop {
            match inbox.next(|_| MAX_FRAME) {
                Ok(Some((call, body))) => frames.push((call, body.to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// The body of a frame.
fn encode(call: u32, message: &impl serde::Serialize) -> Vec<u8> {
    frame(call, message)[8..].to_vec()
}

fn frame(call: u32, message: &impl serde::Serialize) -> Vec<u8> {
    let mut outbox = Outbox::default();
    outbox.push(call, message);
    outbox.queued()
}

/// What a worker says about a call, after the first byte, which chooses what
/// the call may.
pub fn guard(bytes: &[u8]) {
    crate::host::fuzzing::guard(bytes);
}

/// What a compile child printed. Whatever it is, a rejection has a known code
/// and a reason that is one short line.
pub fn compile_report(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(report) = compile::Report::find(&text) else { return };
    match report.into_result() {
        Err(PrepareError::Rejected { code, reason }) => {
            assert!(compile::CODES.contains(&code), "{code}");
            assert!(reason.len() <= 4_096, "a reason of {} bytes", reason.len());
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
        Err(PrepareError::Sandbox(error)) => assert!(error.to_string().len() <= 8_192, "a long error"),
        Ok(answer) => assert!(!matches!(answer, compile::Report::Rejected { .. } | compile::Report::Failed(_))),
    }
}

/// Bytes that are registered, with WASI 0.3 switched off and on.
pub fn component(bytes: &[u8]) {
    let plain = inspect_component(bytes, false);
    inspected(bytes, &plain, false);
    let inspection = inspect_component(bytes, true);
    inspected(bytes, &inspection, true);
    // The switch lets more pass, and changes nothing about what passes without it.
    assert!(plain.problem.is_some() || plain == inspection, "{plain:?} {inspection:?}");
}

/// What is not refused is within every bound and imports only what there is; the
/// answer survives being told by the child.
fn inspected(bytes: &[u8], inspection: &Inspection, wasi_03: bool) {
    assert_eq!(inspection.size, bytes.len() as u64);
    let told = compile::Report::Inspected(Box::new(inspection.clone())).line();
    assert!(told.len() <= 4 << 20, "a report of {} bytes is cut off", told.len());
    let Some(compile::Report::Inspected(found)) = compile::Report::find(&told) else {
        panic!("the report was not found in {told}");
    };
    assert_eq!(*found, *inspection);
    if let Some(problem) = &inspection.problem {
        assert!(compile::CODES.contains(&problem.code.as_str()), "{}", problem.code);
        assert!(problem.reason.len() <= 4_096, "a reason of {} bytes", problem.reason.len());
        return;
    }
    assert!(bytes.starts_with(b"\0asm"));
    let counts = [
        (inspection.functions, bounds::MAX_FUNCTIONS),
        (inspection.largest_function, bounds::MAX_FUNCTION_BODY),
        (inspection.core_instances, bounds::MAX_CORE_INSTANCES),
        (inspection.memories, bounds::MAX_MEMORIES),
        (inspection.tables, bounds::MAX_TABLES),
    ];
    assert!(counts.iter().all(|(count, max)| count <= max), "{inspection:?}");
    assert!(wasi_03 || !inspection.wasi_03);
    assert!(inspection.imports.iter().all(|name| compile::may_import(name, wasi_03)), "{inspection:?}");
    assert!(
        inspection.exports.iter().any(|name| [compile::GUEST, compile::ASYNC_GUEST].contains(&name.as_str())),
        "{inspection:?}"
    );
}
