//! How a call ended, as text or as one JSON document.

use bulkhead_core::json::Json;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use serde::Serialize;
use serde_json::Value;

use super::super::exit::Exit;
use super::super::output::{Output, one_line};
use super::super::units::show_bytes;
use super::Ended;
use super::sink::{Kept, Live};

#[derive(Serialize)]
struct Document<'a> {
    tool: &'a str,
    version: &'a str,
    digest: String,
    exit: u8,
    #[serde(flatten)]
    outcome: &'a Outcome,
    #[serde(flatten)]
    kept: &'a Kept,
}

/// Prints how a call ended.
pub(super) fn print(ended: &Ended, live: &Live, output: &Output) {
    let kept = live.kept();
    if output.is_json() {
        let document = Document {
            tool: &ended.manifest.name,
            version: &ended.manifest.version,
            digest: ended.digest.to_string(),
            exit: Exit::of(&ended.outcome.ending).code(),
            outcome: &ended.outcome,
            kept: &kept,
        };
        output.result(&document, String::new);
        return;
    }
    if let Ending::Succeeded { content: Some(content) } = &ended.outcome.ending {
        // One text alone is passed on to the byte: it may be a file.
        let line = content.len() > 1 || output.out_terminal;
        for part in content {
            output.bytes(self::part(part, line).as_bytes());
        }
    }
    if let Some(text) = fault(ended) {
        output.note(&text);
    }
    if output.err_terminal {
        output.note(&summary(ended, &kept));
    }
}

/// A part of a result: text as it is (with the end of its line, if `line`),
/// JSON so that people can read it, all else described, since it may be anything.
pub(super) fn part(part: &Content, line: bool) -> String {
    match part {
        Content::Text { text } if line && !text.ends_with('\n') => format!("{text}\n"),
        Content::Text { text } => text.clone(),
        Content::Json { json } => format!("{}\n", spread(json)),
        Content::Blob { media_type, data } => {
            let size = data.trim_end_matches('=').len() as u64 * 3 / 4;
            format!("[{}, {}; --json has the bytes]\n", one_line(media_type), show_bytes(size))
        }
    }
}

/// JSON over several lines, or as it is if it can't be spread.
fn spread(json: &Json) -> String {
    serde_json::from_str::<Value>(json.text()).map_or_else(|_| json.text().to_owned(), |value| format!("{value:#}"))
}

fn fault(ended: &Ended) -> Option<String> {
    let fault = ended.outcome.ending.fault()?;
    let state = ended.outcome.ending.state().replace('_', " ");
    let mut text = format!("bulkhead: {} {state} ({}): {}", ended.manifest.name, fault.code, fault.message);
    if let Some(details) = &fault.details {
        text.push_str(&format!("\n{}", spread(details)));
    }
    let own_failure = matches!(ended.outcome.ending, Ending::Failed { .. }) && fault.limit.is_none();
    if ended.without_workspace && own_failure {
        text.push_str("\nThis tool works on files and was given no workspace; pass --workspace DIR.");
    }
    Some(text)
}

fn summary(ended: &Ended, kept: &Kept) -> String {
    let usage = &ended.outcome.usage;
    let counts = &kept.files.counts;
    let changed = counts.created + counts.modified + counts.deleted;
    let files = if changed == 0 { String::new() } else { format!(", {changed} files changed") };
    format!(
        "[{} in {} ms, processor {} ms, memory {}{files}]",
        ended.outcome.ending.state().replace('_', " "),
        usage.wall_us / 1_000,
        usage.cpu_us / 1_000,
        show_bytes(usage.peak_memory_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_as_text() {
        let text = Content::Text { text: "a".into() };
        assert_eq!((part(&text, false), part(&text, true)), ("a".into(), "a\n".into()));
        let blob = Content::Blob { media_type: "image/png".into(), data: "AAAA".repeat(512) };
        assert!(part(&blob, false).starts_with("[image/png, 1.5 KiB;"));
        assert_eq!(part(&Content::Json { json: Json::parse("[1]".into()).expect("it is JSON") }, false), "[\n  1\n]\n");
    }
}
