//! What fuzzing begins with here.

use bulkhead_core::event::{ChangeKind, LogLevel, Stream};

use super::frame;
use crate::compile::{self, inspect_component};
use crate::engine::Flavour;
use crate::walls::Walls;
use crate::wire::{Done, FromWorker, Measured, Part, Report, Stop, StreamLimit, Taken, ToWorker};

pub(super) fn frames_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |step: u8, frames: &[Vec<u8>]| [vec![step], frames.concat()].concat();
    let ready = frame(0, &FromWorker::Ready(Walls::default()));
    let output = frame(1, &FromWorker::Output { stream: Stream::Stdout, data: b"hello\n" });
    vec![
        ("ready", seed(1, std::slice::from_ref(&ready))),
        ("two", seed(3, &[output.clone(), ready])),
        ("half", seed(7, &[output[..output.len() - 1].to_vec()])),
        ("bytes-left-over", seed(255, &[vec![3, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1]])),
        ("too-large", seed(1, &[vec![0xff, 0xff, 0xff, 0x7f, 9, 0, 0, 0]])),
        ("empty", seed(2, &[vec![0; 8]])),
        ("long-number", seed(9, &[vec![4, 0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0x80, 0]])),
        ("huge-list", seed(9, &[vec![6, 0, 0, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0x0f]])),
        ("shutdown", seed(4, &[frame(0, &ToWorker::Shutdown), frame(3, &ToWorker::Credit { bytes: u32::MAX })])),
        ("not-text", seed(5, &[vec![5, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 0xc3, 0x28]])),
    ]
}

/// One of each message, then what a worker that was taken over would send.
pub(super) fn guard_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let about = |message: FromWorker<'_>| frame(1, &message);
    let done = |report: Report<'_>| {
        frame(1, &FromWorker::Done(Done { report, measured: Measured { cpu_us: u64::MAX, ..Measured::default() } }))
    };
    // Flags (access, cancelled, overdue, large limits, credit), then frames.
    let seed = |flags: u8, frames: &[Vec<u8>]| [vec![flags], frames.concat()].concat();
    let output = |size: usize| about(FromWorker::Output { stream: Stream::Stderr, data: &vec![b'x'; size] });
    let log = || about(FromWorker::Log { level: LogLevel::Info, message: "m", fields: vec![("k", "v")] });
    let changed = |path: &str| about(FromWorker::Changed { changes: vec![(ChangeKind::Created, path)] });
    let cut_off = |limit| FromWorker::Truncated { limit, wanted: None };
    let wanted = |wanted| about(FromWorker::Truncated { limit: StreamLimit::PathBytes, wanted: Some(wanted) });
    let step = |done, total| about(FromWorker::Progress { done, total, message: Some("m") });
    let blob = |media_type| Part::Blob { media_type, data: &[0, 255] };
    let error = |code, details| done(Report::ToolError { code, message: "m", retryable: true, details });
    let fault = |fault| done(Report::Faulted { fault, message: "\u{1b}[31m", stderr: &[0xff; 10] });
    vec![
        ("returned", seed(0x02, &[done(Report::Returned(vec![Part::Text("t"), Part::Json("{}"), blob("a/b")]))])),
        (
            "everything",
            seed(
                0x42,
                &[
                    output(20),
                    log(),
                    changed("a/b"),
                    step(1, Some(2)),
                    about(FromWorker::Content(Part::Json("[]"))),
                    about(FromWorker::ChangedUnnamed { created: 1, modified: 0, deleted: 0 }),
                    about(FromWorker::Took(Taken { bytes: u64::MAX, entries: 1 })),
                    about(cut_off(StreamLimit::Emit)),
                    done(Report::Returned(vec![])),
                ],
            ),
        ),
        ("wanted-too-much", seed(0x40, &[wanted(u64::MAX)])),
        ("wanted-what-fits", seed(0x40, &[wanted(1)])),
        ("over-in-sum", seed(0x40, &[output(20), output(20)])),
        ("log-lines", seed(0x40, &[log(), log(), log(), log(), log()])),
        ("json-that-is-none", seed(0x40, &[about(FromWorker::Content(Part::Json("{")))])),
        ("media-type", seed(0x40, &[about(FromWorker::Content(blob("x\r\nSet-Cookie: y")))])),
        ("changes-of-a-reader", seed(0x01, &[changed("a")])),
        ("changes-outside", seed(0x02, &[changed("../etc/passwd")])),
        ("changes-too-deep", seed(0x02, &[changed(&"d/".repeat(200))])),
        ("backwards", seed(0x40, &[step(5, None), step(4, None)])),
        ("beyond", seed(0x40, &[step(5, Some(4))])),
        ("cut-off-twice", seed(0x40, &[about(cut_off(StreamLimit::Stdout)), about(cut_off(StreamLimit::Stdout))])),
        ("ready", seed(0, &[about(FromWorker::Ready(Walls::default()))])),
        ("another-call", seed(0, &[frame(2, &cut_off(StreamLimit::Emit))])),
        ("timed-out", seed(0x10, &[done(Report::Stopped(Stop::Wall))])),
        ("timed-out-too-soon", seed(0, &[done(Report::Stopped(Stop::Wall))])),
        ("cpu-too-soon", seed(0, &[done(Report::Stopped(Stop::Cpu))])),
        ("cancelled", seed(0x04, &[done(Report::Stopped(Stop::Cancelled))])),
        ("cancelled-by-itself", seed(0, &[done(Report::Stopped(Stop::Cancelled))])),
        ("aborted", seed(0, &[done(Report::Stopped(Stop::Aborted))])),
        ("tool-error", seed(0, &[error("not_found", Some("{}"))])),
        ("host-code", seed(0, &[error("limit.memory", None)])),
        ("bad-code", seed(0, &[error("Not A Code\n", None)])),
        ("bad-details", seed(0, &[error("x", Some("{"))])),
        ("trap", seed(0, &[fault(crate::wire::Fault::Trap)])),
        ("exit", seed(0, &[fault(crate::wire::Fault::Exit { code: i32::MIN })])),
        ("result-too-large", seed(0, &[done(Report::Returned(vec![Part::Text(&"x".repeat(100))]))])),
        ("many-parts", seed(0, &[done(Report::Returned((0..1_100).map(|_| Part::Text("")).collect()))])),
        ("refused", seed(0, &[done(Report::Refused { reason: "no" })])),
        ("after-the-end", seed(0x40, &[done(Report::Returned(vec![])), log()])),
        ("credit", seed(0xc0, &[output(10), output(10), log()])),
    ]
}

pub(super) fn compile_report_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let rejected = |code: &str, reason: &str| {
        compile::Report::Rejected { code: code.into(), reason: reason.into() }.line().into_bytes()
    };
    vec![
        ("compiled", compile::Report::Compiled(Flavour::Wasi03).line().into_bytes()),
        ("fingerprint", compile::Report::Fingerprint("00".into()).line().into_bytes()),
        ("failed", compile::Report::Failed("x".repeat(3_000)).line().into_bytes()),
        ("inspected", compile::Report::Inspected(Box::new(inspect_component(b"", false))).line().into_bytes()),
        ("rejected", rejected("too_large", "it is too large")),
        ("unknown-code", rejected("host_error", "x")),
        ("lines", rejected("invalid_wasm", "one\ntwo\u{1b}[2J\u{202e}\u{85}")),
        ("long", rejected("too_complex", &"é".repeat(1_900))),
        ("noise-before", [b"warning: x\n".to_vec(), rejected("not_wasm", "x")].concat()),
        ("two", [rejected("not_wasm", "x"), compile::Report::Compiled(Flavour::Wasi03).line().into_bytes()].concat()),
        ("broken", b"bulkhead-report: {\"Rejected\":{\"code\":\"x\"}}\n".to_vec()),
        ("deep", [&b"bulkhead-report: "[..], &b"[".repeat(1_000)].concat()),
    ]
}

pub(super) fn component_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let component = |text: &str| wat::parse_str(format!("(component {text})")).unwrap_or_default();
    let export = r#"(instance $i) (export "bulkhead:tool/guest@0.1.0" (instance $i))"#;
    let nested = |count: usize| (0..count).fold(String::new(), |inner, _| format!("(component {inner})"));
    vec![
        ("empty", vec![]),
        (
            "wasi-03",
            component(&format!(
                r#"(import "wasi:clocks/monotonic-clock@0.3.0" (instance (export "wait-for"
            (func async (param "how-long" u64))))) {export}"#
            )),
        ),
        (
            "async-alone",
            component(&format!(r#"(import "bulkhead:tool/log@0.1.0" (instance (export "f" (func async)))) {export}"#)),
        ),
        ("inner-code", component(&format!("(component (core module $m) (core instance (instantiate $m))) {export}"))),
        ("magic", b"\0asm".to_vec()),
        ("module", b"\0asm\x01\0\0\0".to_vec()),
        ("component", component("")),
        ("smallest-tool", component(export)),
        ("imports", component(&format!(r#"(import "wasi:io/poll@0.2.0" (instance)) {export}"#))),
        ("unknown-import", component(&format!(r#"(import "wasi:http/types@0.2.0" (instance)) {export}"#))),
        ("no-version", component(&format!(r#"(import "wasi:io/poll" (instance)) {export}"#))),
        ("long-import", component(&format!(r#"(import "{}" (instance)) {export}"#, "a".repeat(3_000)))),
        ("many-imports", component(&(0..100).map(|n| format!(r#"(import "i{n}" (instance))"#)).collect::<String>())),
        ("nested", component(&nested(15))),
        ("too-nested", component(&nested(20))),
        ("memories", component(&"(core module (memory 1))".repeat(5))),
        ("tables", component(&"(core module (table 1 funcref))".repeat(17))),
        (
            "module-with-code",
            component("(core module (func (export \"f\") (result i32) i32.const 1) (memory 1) (table 1 funcref))"),
        ),
        ("many-functions", component("(core module (type (func)) (func) (func))")),
        // A list that claims to have four thousand million entries.
        ("long-section", b"\0asm\x01\0\0\0\x03\x06\xff\xff\xff\xff\x0f\0".to_vec()),
        ("long-list", b"\0asm\x0d\0\x01\0\x0a\x06\xff\xff\xff\xff\x0f\0".to_vec()),
        ("instances", component("(core module $m) (core instance (instantiate $m)) (core instance (instantiate $m))")),
        (
            "aliases",
            component(
                r#"(component $c (core module $m) (export "m" (core module $m))) (instance $i (instantiate $c)) (alias export $i "m" (core module $a))"#,
            ),
        ),
        (
            "lifted",
            component(
                r#"(core module $m (func (export "f") (result i32) i32.const 1)) (core instance $i (instantiate $m)) (func $f (result u32) (canon lift (core func $i "f"))) (instance $g (export "describe" (func $f))) (export "bulkhead:tool/guest@0.1.0" (instance $g))"#,
            ),
        ),
    ]
}
