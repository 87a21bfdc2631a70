//! How far a compile child says it is: a line of standard error for each
//! stage, before the report. It has read hostile bytes, so the host believes no
//! more than that a stage is reached, each once and in order.

use std::io::Write as _;

use bulkhead_core::ports::sandbox::Stage;

/// Begins a line that tells a stage.
const STAGE: &str = "bulkhead-stage: ";

/// Stages that a child can tell: what comes before and after is the host's.
const CHILD: [Stage; 2] = [Stage::Inspecting, Stage::Compiling];

/// Bytes in which they are looked for. What a child prints first are its stages.
const MAX_HEARD: usize = 16 * 1024;

/// Tells the host. If nobody listens, the report will not be heard either.
pub(super) fn say(stage: Stage) {
    let _ = std::io::stderr().write_all(format!("{STAGE}{}\n", stage.name()).as_bytes());
}

/// What was heard of a child so far.
#[derive(Default)]
pub(crate) struct Heard {
    /// Bytes that were looked at: whole lines.
    at: usize,
    last: Option<Stage>,
}

impl Heard {
    /// Gives the next stage that is in `printed`, all that the child has printed so far.
    pub(crate) fn next(&mut self, printed: &[u8]) -> Option<Stage> {
        let printed = &printed[..printed.len().min(MAX_HEARD)];
        while let Some(end) = printed[self.at..].iter().position(|byte| *byte == b'\n') {
            let line = &printed[self.at..self.at + end];
            self.at += end + 1;
            let named = line.strip_prefix(STAGE.as_bytes());
            let stage = CHILD.into_iter().find(|stage| named == Some(stage.name().as_bytes()));
            if stage > self.last {
                self.last = stage;
                return stage;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&[u8]]) -> Vec<Stage> {
        let (mut heard, mut printed, mut stages) = (Heard::default(), Vec::new(), Vec::new());
        for piece in pieces {
            printed.extend_from_slice(piece);
            stages.extend(std::iter::from_fn(|| heard.next(&printed)));
        }
        stages
    }

    #[test]
    fn stages_are_heard_once_and_in_order() {
        use Stage::{Compiling, Inspecting};
        assert_eq!(heard(&[b"bulkhead-stage: inspec", b"ting\nbulkhead-stage: compiling\n"]), [Inspecting, Compiling]);
        let again = b"bulkhead-stage: compiling\nbulkhead-stage: inspecting\nbulkhead-stage: compiling\n".repeat(50);
        assert_eq!(heard(&[&again]), [Compiling]);
        // No stage of its own, and no end of line.
        let lies = [
            b"bulkhead-stage: describing\nbulkhead-stage: queued\n bulkhead-stage: compiling\n".as_slice(),
            b"bulkhead-stage: \xff\n\n",
            b"bulkhead-stage: compiling",
        ];
        assert_eq!(heard(&lies), []);
        let late = [vec![b'x'; MAX_HEARD], b"\nbulkhead-stage: compiling\n".to_vec()].concat();
        assert_eq!(heard(&[&late]), []);
    }
}
