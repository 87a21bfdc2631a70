//! Where the emissions of a call at the command line go: to the terminal as
//! they come, or into the one JSON document.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bulkhead_core::event::{ChangeCounts, FileChange, LogLevel, Stream};
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::Content;
use bulkhead_core::ports::sandbox::{Emission, Sink};
use bulkhead_core::reached::words;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::output::{Output, one_line};
use super::report;

/// What takes less needs no progress.
const QUIET: Duration = Duration::from_secs(1);

/// A call's emissions, for a person or a program that waits.
pub(super) struct Live {
    output: Output,
    cancel: CancellationToken,
    limits: Limits,
    since: Instant,
    kept: Mutex<Kept>,
}

/// What is said in the end. Bounded, because each part of it is a limit of the call.
#[derive(Debug, Default, Serialize)]
pub(super) struct Kept {
    #[serde(serialize_with = "text")]
    pub(super) stdout: Vec<u8>,
    #[serde(serialize_with = "text")]
    pub(super) stderr: Vec<u8>,
    /// Parts that were sent while the call ran.
    pub(super) emitted: Vec<Content>,
    /// Log lines.
    pub(super) log: Vec<Value>,
    /// Names of the limits at which a stream was cut.
    pub(super) truncated: Vec<&'static str>,
    pub(super) files: Files,
    /// The beginning of a character whose end has not come yet, per stream.
    #[serde(skip)]
    partial: [Vec<u8>; 2],
    #[serde(skip)]
    phase: &'static str,
}

/// Files that changed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Files {
    pub(super) changes: Vec<FileChange>,
    pub(super) counts: ChangeCounts,
    pub(super) incomplete: bool,
}

fn text<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

impl Live {
    pub(super) fn new(output: Output, cancel: CancellationToken, limits: Limits) -> Self {
        Self { output, cancel, limits, since: Instant::now(), kept: Mutex::default() }
    }

    /// What was kept.
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is being done, to be shown if it takes long.
    pub(super) fn phase(&self, what: &'static str) {
        self.kept().phase = what;
        self.output.status("");
        if what == "compiling the component" {
            self.output.status(what);
        }
    }

    /// No more comes: shows what was held back.
    pub(super) fn close(&self) {
        self.output.status("");
        let partial = std::mem::take(&mut self.kept().partial);
        if !self.output.is_json() {
            self.output.bytes(&partial[Stream::Stdout as usize]);
            self.output.error_bytes(&partial[Stream::Stderr as usize]);
        }
    }

    fn reached(&self, limit: &'static str, used: Option<u64>) -> String {
        match limit {
            // What lies in a person's own directory is not counted.
            "workspace_bytes" | "workspace_entries" => words(limit, self.limits.value_of(limit), "no counted"),
            _ => self.limits.reached(limit, used).message,
        }
    }

    /// A reader that is gone makes the call pointless.
    fn read(&self, still: bool) {
        if !still {
            self.cancel.cancel();
        }
    }

    fn show(&self, emission: Emission) {
        match emission {
            Emission::Output(stream, bytes) => {
                self.output.status("");
                let whole = complete(&mut self.kept().partial[stream as usize], &bytes);
                self.read(match stream {
                    Stream::Stdout => self.output.bytes(&whole),
                    Stream::Stderr => self.output.error_bytes(&whole),
                });
            }
            Emission::Content(part) => {
                self.output.status("");
                self.read(self.output.bytes(report::part(&part, true).as_bytes()));
            }
            Emission::Truncated { limit, used } => {
                self.output.status("");
                self.output.note(&format!("bulkhead: {}", self.reached(limit, used)));
            }
            Emission::Progress { done, total, message } => {
                if self.since.elapsed() >= QUIET {
                    let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
                    self.output.status(&format!("{done}{of} {}", message.unwrap_or_default()));
                }
            }
            Emission::Log { level, message, fields } => {
                self.output.status("");
                let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                self.output.note(&format!("[{}] {}", name(level), one_line(&format!("{message}{fields}"))));
            }
            Emission::Changed(_) | Emission::ChangedUnnamed(_) | Emission::ChangesLost => self.keep(emission),
        }
    }

    fn keep(&self, emission: Emission) {
        let mut kept = self.kept();
        match emission {
            Emission::Output(Stream::Stdout, bytes) => kept.stdout.extend_from_slice(&bytes),
            Emission::Output(Stream::Stderr, bytes) => kept.stderr.extend_from_slice(&bytes),
            Emission::Content(part) => kept.emitted.push(part),
            Emission::Truncated { limit, .. } => kept.truncated.push(limit),
            Emission::Progress { .. } => {}
            Emission::Log { level, message, fields } => {
                kept.log.push(json!({"level": level, "message": message, "fields": fields}));
            }
            Emission::Changed(change) => {
                kept.files.counts.add(change.change);
                kept.files.changes.push(change);
            }
            Emission::ChangedUnnamed(counts) => {
                kept.files.incomplete = true;
                kept.files.counts.created += counts.created;
                kept.files.counts.modified += counts.modified;
                kept.files.counts.deleted += counts.deleted;
            }
            Emission::ChangesLost => kept.files.incomplete = true,
        }
    }
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    }
}

/// `bytes` after what was held back, without a character that is cut at the
/// end: a terminal would show two signs of doubt for it.
fn complete(partial: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let mut whole = std::mem::take(partial);
    whole.extend_from_slice(bytes);
    let cut = match std::str::from_utf8(whole.get(whole.len().saturating_sub(3)..).unwrap_or_default()) {
        Ok(_) => whole.len(),
        // The window itself may begin inside a character; look from its last start.
        Err(_) => whole.iter().rposition(|byte| byte & 0xC0 != 0x80).unwrap_or(whole.len()),
    };
    let tail = &whole[cut..];
    let unfinished = matches!(std::str::from_utf8(tail), Err(error) if error.error_len().is_none());
    if unfinished {
        *partial = whole.split_off(cut);
    }
    whole
}

#[async_trait]
impl Sink for Live {
    async fn emit(&self, emission: Emission) {
        if self.output.is_json() {
            self.keep(emission);
        } else {
            // A pipe whose reader is slow blocks: that is the backpressure.
            tokio::task::block_in_place(|| self.show(emission));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_cut_character_waits_for_its_end() {
        let text = "aé€😀z";
        for size in 1..=5 {
            let mut partial = Vec::new();
            let mut shown = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                let part = complete(&mut partial, chunk);
                assert!(std::str::from_utf8(&part).is_ok(), "{size}");
                shown.extend(part);
            }
            assert_eq!((shown.as_slice(), partial.len()), (text.as_bytes(), 0), "{size}");
        }
        let mut partial = Vec::new();
        assert_eq!(complete(&mut partial, b"a\xff\xfe"), b"a\xff\xfe");
        assert_eq!(complete(&mut partial, b"\x80\x80\x80\x80"), b"\x80\x80\x80\x80");
        assert!(partial.is_empty());
    }

    #[tokio::test]
    async fn a_document_has_everything() {
        let live = Live::new(Output::new(true), CancellationToken::new(), Limits::default());
        let change = FileChange { path: "a".into(), change: bulkhead_core::event::ChangeKind::Created };
        for emission in [
            Emission::Output(Stream::Stdout, Bytes::from_static(b"out")),
            Emission::Output(Stream::Stderr, Bytes::from_static(b"err")),
            Emission::Content(Content::Text { text: "part".into() }),
            Emission::Truncated { limit: "stdout_bytes", used: Some(3) },
            Emission::Log { level: LogLevel::Warn, message: "m".into(), fields: vec![("a".into(), "b".into())] },
            Emission::Changed(change),
            Emission::ChangesLost,
        ] {
            live.emit(emission).await;
        }
        let document = serde_json::to_value(&*live.kept()).expect("serializes");
        assert_eq!(document["stdout"], "out");
        assert_eq!(document["stderr"], "err");
        assert_eq!(document["emitted"][0]["text"], "part");
        assert_eq!(document["log"][0]["level"], "warn");
        assert_eq!(document["truncated"][0], "stdout_bytes");
        assert_eq!(document["files"]["counts"]["created"], 1);
        assert_eq!(document["files"]["incomplete"], true);
        assert!(document.get("partial").is_none());
    }
}
