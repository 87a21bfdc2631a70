//! A range of lines. The whole file is read once, a line at a time, so that
//! the answer can say how many there are; only the range is kept.

use std::fs::File;
use std::io::{BufRead, BufReader};

use bulkhead_files::{Bounded, MAX_TEXT, Place, Workspace, io_fault};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Outcome, ToolError, text_and_json};

use crate::{Args, refuse_binary};

/// As many lines as a model can take in at once.
const MAX_LINES: u64 = 2000;

/// How much of one line is returned.
const MAX_LINE: usize = 8 * 1024;

/// What has been read of the file.
struct Reading {
    text: Bounded,
    /// The last line in `text`.
    last: u64,
    total: u64,
    cut_lines: u64,
    not_utf8: bool,
}

pub fn read(workspace: &Workspace, place: &Place, size: u64, args: &Args) -> Outcome {
    let start = args.start_line.unwrap_or(1);
    let wanted_end = args.end_line.unwrap_or(u64::MAX);
    if start == 0 || wanted_end < start {
        return Err(ToolError::invalid("end_line", format!("the last line is before the first, {start}")));
    }
    let end = wanted_end.min(start.saturating_add(MAX_LINES - 1));
    let numbers = args.line_numbers.unwrap_or(true);

    let file = File::open(place.real()).map_err(|e| io_fault(workspace, place, e))?;
    let mut file = BufReader::with_capacity(64 * 1024, file);
    let beginning = file.fill_buf().map_err(|e| io_fault(workspace, place, e))?;
    refuse_binary(place.shown(), size, beginning)?;
    let reading = scan(&mut file, start, end, numbers).map_err(|e| io_fault(workspace, place, e))?;

    if start > reading.total.max(1) {
        let total = bulkhead_files::plural(reading.total as usize, "line");
        let message = format!("`start_line` is {start}, but `{place}` has {total}.");
        return Err(ToolError::new("out_of_range", message).details(&json!({ "total_lines": reading.total })));
    }
    let truncated = reading.last < wanted_end.min(reading.total);
    let mut facts = json!({
        "path": place.shown(), "size": size, "total_lines": reading.total,
        "start_line": start, "end_line": reading.last, "truncated": truncated,
    });
    if truncated {
        facts["next"] = (reading.last + 1).into();
    }
    let remark = remark(&reading, start, truncated, size);
    Ok(text_and_json(reading.text.finish(&remark), &facts))
}

fn scan(file: &mut impl BufRead, start: u64, end: u64, numbers: bool) -> std::io::Result<Reading> {
    let text = Bounded::new(MAX_TEXT);
    let mut reading = Reading { text, last: start.saturating_sub(1), total: 0, cut_lines: 0, not_utf8: false };
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = read_line(file, &mut line)?;
        if length == 0 {
            return Ok(reading);
        }
        reading.total += 1;
        if reading.total >= start && reading.total <= end && !reading.text.is_full() {
            reading.add(&line, length, numbers);
        }
    }
}

/// Reads a line of any length, keeps at most [`MAX_LINE`] of it, and returns
/// its length in the file, its end included.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut length = 0;
    loop {
        let some = file.fill_buf()?;
        if some.is_empty() {
            return Ok(length);
        }
        let newline = some.iter().position(|byte| *byte == b'\n');
        let taken = newline.map_or(some.len(), |at| at + 1);
        let kept = taken.min(MAX_LINE.saturating_sub(line.len()));
        line.extend_from_slice(&some[..kept]);
        length += taken;
        file.consume(taken);
        if newline.is_some() {
            return Ok(length);
        }
    }
}

impl Reading {
    fn add(&mut self, line: &[u8], length: usize, numbers: bool) {
        let cut = length - line.len();
        let kept = String::from_utf8_lossy(line);
        // The end of a cut line may be half a character.
        self.not_utf8 |= std::str::from_utf8(line).is_err_and(|e| e.error_len().is_some() || cut == 0);
        let kept = kept.strip_suffix('\n').unwrap_or(&kept);
        let number = self.total;
        let mut shown = match numbers {
            true => format!("{number:>6}\t{kept}"),
            false => kept.to_string(),
        };
        if cut > 0 {
            self.cut_lines += 1;
            shown.push_str(&format!(" [{cut} more bytes in this line]"));
        }
        shown.push('\n');
        if self.text.push(&shown) {
            self.last = number;
        }
    }
}

fn remark(reading: &Reading, start: u64, truncated: bool, size: u64) -> String {
    let Reading { last, total, .. } = reading;
    let mut remarks = Vec::new();
    if size == 0 {
        remarks.push("the file is empty".to_string());
    } else if truncated {
        remarks.push(format!("lines {start} to {last} of {total}; read on with \"start_line\": {}", last + 1));
    } else if start > 1 || last < total {
        remarks.push(format!("lines {start} to {last} of {total}"));
    }
    if reading.cut_lines > 0 {
        remarks.push("lines were cut; read them whole with `start_byte`".to_string());
    }
    if reading.not_utf8 {
        remarks.push("bytes that are not UTF-8 are shown as \u{fffd}; do not write this text back".to_string());
    }
    remarks.join("; ")
}
