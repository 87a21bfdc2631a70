//! The only place that prints. Results go to standard output, everything said
//! about them to standard error. Text of guests and servers that reaches a
//! terminal is made harmless first: an escape sequence can retitle, rewrite
//! and, on some terminals, type.

use std::io::{self, IsTerminal as _, Write};

use serde::Serialize;
use serde_json::json;

use super::exit::Failure;

/// Where a command's output goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    /// Standard output is a terminal.
    pub(super) out_terminal: bool,
    /// Standard error is a terminal.
    pub(super) err_terminal: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, out_terminal: io::stdout().is_terminal(), err_terminal: io::stderr().is_terminal() }
    }

    /// Whether one JSON document is wanted instead of text.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: as JSON, or as the text that `text` makes.
    pub(super) fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) {
        if self.json {
            // Only maps with keys that are no text can't be JSON; no result has one.
            let mut document = serde_json::to_string_pretty(value).unwrap_or_default();
            document.push('\n');
            self.bytes(document.as_bytes());
        } else {
            self.text(&text());
        }
    }

    /// Prints text, with a line's end.
    pub(super) fn text(&self, text: &str) {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        self.bytes(format!("{text}{end}").as_bytes());
    }

    /// Writes to standard output. False once nobody reads it any more.
    pub(super) fn bytes(&self, bytes: &[u8]) -> bool {
        write(io::stdout().lock(), bytes, self.out_terminal)
    }

    /// Writes to standard error. False once nobody reads it any more.
    pub(super) fn error_bytes(&self, bytes: &[u8]) -> bool {
        write(io::stderr().lock(), bytes, self.err_terminal)
    }

    /// Says something about the result, on one line.
    pub(super) fn note(&self, text: &str) {
        self.error_bytes(format!("{text}\n").as_bytes());
    }

    /// Shows how far something has come, in place; an empty text takes it away.
    pub(super) fn status(&self, text: &str) {
        if self.err_terminal && !self.json {
            let line: String = one_line(text).chars().take(100).collect();
            // Not through `error_bytes`: this escape sequence is our own.
            let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
            let _ = io::stderr().flush();
        }
    }

    /// Says why a command could not be done.
    pub(super) fn failure(&self, failure: &Failure) {
        if self.json {
            let exit = failure.exit;
            self.result(
                &json!({"error": {"kind": exit, "exit": exit.code(), "message": failure.message}}),
                String::new,
            );
        } else {
            self.note(&format!("bulkhead: {}", failure.message));
        }
    }
}

/// A closed pipe is not our fault and not worth a word: `bulkhead … | head`.
fn write(mut to: impl Write, bytes: &[u8], terminal: bool) -> bool {
    let harmless;
    let bytes = if terminal {
        harmless = harmless_text(&String::from_utf8_lossy(bytes));
        harmless.as_bytes()
    } else {
        bytes
    };
    to.write_all(bytes).and_then(|()| to.flush()).is_ok()
}

/// The text without what a terminal would obey: control characters but line
/// ends and tabs, and characters that turn text around.
fn harmless_text(text: &str) -> String {
    let keep = |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || turns_text(c));
    text.chars().map(|c| if keep(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Harmless, and on one line.
pub(super) fn one_line(text: &str) -> String {
    harmless_text(text).replace(['\n', '\t'], " ")
}

/// A table with columns as wide as their widest cell; the last one is free.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(|row| cells(row))).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_to_obey() {
        let text = harmless_text("a\x1b]0;title\x07\tb\r\n\u{202e}c\u{9b}1m");
        assert_eq!(text, "a\u{fffd}]0;title\u{fffd}\tb\u{fffd}\n\u{fffd}c\u{fffd}1m");
        assert_eq!(one_line("a\nb\tc"), "a b c");
    }

    #[test]
    fn what_is_no_terminal_gets_the_bytes() {
        let mut to = Vec::new();
        assert!(write(&mut to, b"\x1b\xff", false));
        assert_eq!(to, b"\x1b\xff");
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(!write(Closed, b"x", false));
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["a".into(), "long one".into()], vec!["bbb".into(), "x".into()]];
        assert_eq!(table(&["id", "name"], &rows), "id   name\na    long one\nbbb  x");
    }
}
