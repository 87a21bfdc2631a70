//! Checks what a worker says about a call. The worker has checked the same,
//! but it may have been taken over by what it ran: nothing that comes from it
//! may cost the host more than the call's limits allow, or mean anything that
//! the host did not decide.

use bulkhead_core::event::{ChangeCounts, ChangeKind, FileChange, Stream};
use bulkhead_core::grants::{SubPath, WorkspaceAccess};
use bulkhead_core::limits::Limits;
use bulkhead_core::path::WorkspacePath;
use bulkhead_core::ports::sandbox::{Emission, RunPart};
use bulkhead_core::quota::Extent;
use bulkhead_core::reached;
use bytes::Bytes;

use super::exchange::Asked;
use super::exchanges::Said;
use crate::bounds::{self, EMISSION_COST, FRAME_SLACK, WINDOW};
use crate::wire::{FromWorker, Part, StreamLimit};

/// Something a worker must not say. It is killed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Violation(pub(super) &'static str);

/// What a frame about a call is worth.
#[derive(Debug)]
pub(super) enum Accepted {
    /// Emissions, and what they cost of the window.
    Emissions(Vec<Emission>, usize),
    /// A part whose text is still to be read, and what it costs.
    Part(RawPart, usize),
    /// The end, to be read by whoever waits for it.
    Done,
    /// What it has added to the workspace.
    Took(Extent),
    /// An HTTP request, and what it costs.
    Request(Box<Asked>, usize),
    /// Something of an HTTP exchange that went where it belongs; so much of the
    /// window is given back at once.
    Exchange(usize),
}

/// A part as it came.
#[derive(Debug, PartialEq)]
pub(super) enum RawPart {
    Text(String),
    Json(String),
    Blob { media_type: String, data: Vec<u8> },
}

impl From<Part<'_>> for RawPart {
    fn from(part: Part<'_>) -> Self {
        match part {
            Part::Text(text) => Self::Text(text.into()),
            Part::Json(json) => Self::Json(json.into()),
            Part::Blob { media_type, data } => Self::Blob { media_type: media_type.into(), data: data.into() },
        }
    }
}

/// The state of the checks of one call.
pub(super) struct Guard {
    limits: Limits,
    /// To the whole workspace.
    access: WorkspaceAccess,
    /// Parts that may be changed.
    writable: Vec<SubPath>,
    outstanding: usize,
    standard: [u64; 2],
    emitted: u64,
    log_bytes: u64,
    log_lines: u64,
    truncated: Vec<StreamLimit>,
    done: u64,
    total: Option<u64>,
    named: u64,
    counted: bool,
    exchanges: Said,
}

/// Adds to a counter that must stay within a limit.
fn add(counter: &mut u64, amount: usize, limit: u64, otherwise: &'static str) -> Result<(), Violation> {
    *counter = counter.saturating_add(amount as u64);
    if *counter > limit { Err(Violation(otherwise)) } else { Ok(()) }
}

impl Guard {
    pub(super) fn new(limits: Limits, access: WorkspaceAccess) -> Self {
        Self {
            limits,
            access,
            writable: Vec::new(),
            outstanding: 0,
            standard: [0; 2],
            emitted: 0,
            log_bytes: 0,
            log_lines: 0,
            truncated: Vec::new(),
            done: 0,
            total: None,
            named: 0,
            counted: false,
            exchanges: Said::default(),
        }
    }

    /// The same, with parts of the workspace that the call has.
    pub(super) fn with_parts(mut self, parts: &[RunPart]) -> Self {
        let writable = parts.iter().filter(|part| part.access == WorkspaceAccess::ReadWrite);
        self.writable = writable.map(|part| part.path.clone()).collect();
        self
    }

    /// The largest frame that can be about this call.
    pub(super) fn max_frame(&self) -> usize {
        let most = self.limits.result_bytes.max(self.limits.host_memory_bytes);
        usize::try_from(most).unwrap_or(usize::MAX).max(WINDOW).saturating_add(FRAME_SLACK)
    }

    /// So many bytes are stored and given back to the worker.
    pub(super) fn credited(&mut self, bytes: usize) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// Takes an emission of `size` bytes; the same rule as in the worker.
    fn charge(&mut self, size: usize) -> Result<usize, Violation> {
        let cost = size + EMISSION_COST;
        if self.outstanding > 0 && self.outstanding + cost > WINDOW {
            return Err(Violation("it sent more than it had credit for"));
        }
        self.outstanding += cost;
        Ok(cost)
    }

    /// Checks a message about the call.
    pub(super) fn accept(&mut self, message: FromWorker<'_>) -> Result<Accepted, Violation> {
        match message {
            FromWorker::Ready(_) | FromWorker::Left(_) | FromWorker::Loaded { .. } | FromWorker::LoadFailed { .. } => {
                Err(Violation("a message of the worker came as one of a call"))
            }
            FromWorker::Done(_) => Ok(Accepted::Done),
            FromWorker::Output { stream, data } => self.output(stream, data),
            FromWorker::Content(part) => self.content(part),
            FromWorker::Truncated { limit, wanted } => self.truncated(limit, wanted),
            FromWorker::Progress { done, total, message } => self.progress(done, total, message),
            FromWorker::Log { level, message, fields } => {
                let cost = self.log(message, &fields)?;
                let fields = fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
                Ok(Accepted::Emissions(vec![Emission::Log { level, message: message.into(), fields }], cost))
            }
            FromWorker::Changed { changes } => self.changed(&changes),
            FromWorker::ChangedUnnamed { created, modified, deleted } => {
                self.may_change()?;
                if std::mem::replace(&mut self.counted, true) {
                    return Err(Violation("it counted changes twice"));
                }
                Ok(free(Emission::ChangedUnnamed(ChangeCounts { created, modified, deleted })))
            }
            FromWorker::Took(taken) => {
                self.may_change()?;
                Ok(Accepted::Took(taken.into()))
            }
            FromWorker::HttpRequest(request) => {
                let asked = self.exchanges.asked(&request)?;
                Ok(Accepted::Request(Box::new(asked), self.charge(request.size())?))
            }
            FromWorker::HttpBody { exchange, data, last } => {
                let cost = self.charge(data.len())?;
                let wanted = self.exchanges.uploaded(exchange, data, last, cost)?;
                Ok(Accepted::Exchange(if wanted { 0 } else { cost }))
            }
            FromWorker::HttpBodyFailed { exchange } => said(self.exchanges.upload_failed(exchange)),
            FromWorker::HttpTaken { exchange, bytes } => said(self.exchanges.taken(exchange, bytes)),
            FromWorker::HttpDropped { exchange } => said(self.exchanges.dropped(exchange)),
        }
    }

    fn output(&mut self, stream: Stream, data: &[u8]) -> Result<Accepted, Violation> {
        let limit = match stream {
            Stream::Stdout => self.limits.stdout_bytes,
            Stream::Stderr => self.limits.stderr_bytes,
        };
        add(&mut self.standard[stream as usize], data.len(), limit, "output over its limit")?;
        let cost = self.charge(data.len())?;
        Ok(Accepted::Emissions(vec![Emission::Output(stream, Bytes::copy_from_slice(data))], cost))
    }

    fn content(&mut self, part: Part<'_>) -> Result<Accepted, Violation> {
        let size = part.size();
        add(&mut self.emitted, size + EMISSION_COST, self.limits.emit_bytes, "parts over their limit")?;
        let cost = self.charge(size)?;
        Ok(Accepted::Part(part.into(), cost))
    }

    fn truncated(&mut self, which: StreamLimit, wanted: Option<u64>) -> Result<Accepted, Violation> {
        if self.truncated.contains(&which) {
            return Err(Violation("a stream was cut off twice"));
        }
        self.truncated.push(which);
        let used = match self.of_one_wish(which) {
            None if wanted.is_some() => return Err(Violation("it says how much was wanted of what adds up")),
            None => self.used(which),
            Some(limit) if wanted.is_none_or(|wanted| wanted <= limit) => {
                return Err(Violation("it refused what is within its limit"));
            }
            Some(_) => wanted,
        };
        Ok(free(Emission::Truncated { limit: which.name(), used }))
    }

    /// The value of a limit that one wish alone can be over. Whether the guest wished that
    /// only the worker knows; it can lie to nobody but the call's owner.
    fn of_one_wish(&self, which: StreamLimit) -> Option<u64> {
        match which {
            StreamLimit::PathBytes => Some(self.limits.path_bytes),
            StreamLimit::PathDepth => Some(self.limits.path_depth),
            StreamLimit::FileBytes => Some(self.limits.file_bytes),
            StreamLimit::LogLine => Some(reached::LOG_LINE.spec.default),
            StreamLimit::LogFields => Some(reached::LOG_FIELDS.spec.default),
            StreamLimit::HttpHead => Some(reached::HTTP_HEAD.spec.default),
            StreamLimit::HttpFields => Some(reached::HTTP_FIELDS.spec.default),
            _ => None,
        }
    }

    /// What the call used of a limit, as the host counted it, or as being refused means.
    fn used(&self, which: StreamLimit) -> Option<u64> {
        match which {
            StreamLimit::Stdout => Some(self.standard[Stream::Stdout as usize]),
            StreamLimit::Stderr => Some(self.standard[Stream::Stderr as usize]),
            StreamLimit::Emit => Some(self.emitted),
            StreamLimit::LogBytes => Some(self.log_bytes),
            StreamLimit::LogLines => Some(self.log_lines),
            StreamLimit::OpenFiles => Some(self.limits.open_files),
            StreamLimit::ListingEntries => Some(self.limits.listing_entries),
            StreamLimit::HttpOpen => Some(reached::HTTP_OPEN.spec.default),
            // Of one wish, or what the host knows by its own measure.
            _ => None,
        }
    }

    /// How often is not for here: the interval is the worker's to keep, and of what comes
    /// all the same from one that lies the call's sink tells the last, as seldom. Nothing is
    /// queued meanwhile but what has credit.
    fn progress(&mut self, done: u64, total: Option<u64>, message: Option<&str>) -> Result<Accepted, Violation> {
        let size = message.map_or(0, str::len);
        let valid = done >= self.done
            && total.is_none_or(|total| done <= total)
            && (self.total.is_none() || self.total == total)
            && size <= bounds::MAX_PROGRESS_MESSAGE;
        if !valid {
            return Err(Violation("progress that is not valid"));
        }
        (self.done, self.total) = (done, total);
        let cost = self.charge(size)?;
        let message = message.map(str::to_owned);
        Ok(Accepted::Emissions(vec![Emission::Progress { done, total, message }], cost))
    }

    fn log(&mut self, message: &str, fields: &[(&str, &str)]) -> Result<usize, Violation> {
        let field_bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        let largest = message.len().max(field_bytes);
        let too_large = largest > bounds::MAX_LOG_LINE || fields.len() > bounds::MAX_LOG_FIELDS;
        if too_large {
            return Err(Violation("a log line that is too large"));
        }
        let size = message.len() + field_bytes;
        add(&mut self.log_bytes, size, self.limits.log_bytes, "log text over its limit")?;
        add(&mut self.log_lines, 1, self.limits.log_lines, "log lines over their limit")?;
        self.charge(size)
    }

    fn may_change(&self) -> Result<(), Violation> {
        if self.access == WorkspaceAccess::ReadWrite || !self.writable.is_empty() {
            Ok(())
        } else {
            Err(Violation("files changed without the right to change them"))
        }
    }

    /// Whether the call has the right to change what has this name.
    fn may_change_at(&self, path: &str) -> bool {
        self.access == WorkspaceAccess::ReadWrite || self.writable.iter().any(|part| part.holds(path))
    }

    fn changed(&mut self, changes: &[(ChangeKind, &str)]) -> Result<Accepted, Violation> {
        self.may_change()?;
        if changes.is_empty() || changes.len() > bounds::CHANGES_PER_FRAME {
            return Err(Violation("no changes, or too many at once"));
        }
        add(&mut self.named, changes.len(), self.limits.file_changes, "changes over their limit")?;
        // A guest can make what no path of ours can say (too deep, too long):
        // counted, not named. What no guest can make is a lie of the worker.
        let mut unnamed = ChangeCounts::default();
        let mut accepted = Vec::with_capacity(changes.len());
        for (change, path) in changes {
            if path.split('/').any(|name| name == ".." || name.contains('\0')) {
                return Err(Violation("a change of what can't be a path"));
            }
            if !self.may_change_at(path) {
                return Err(Violation("a file changed outside of the parts that may be changed"));
            }
            match WorkspacePath::parse(path.as_bytes()) {
                Ok(path) => accepted.push(Emission::Changed(FileChange { path: path.to_text(), change: *change })),
                Err(_) => unnamed.add(*change),
            }
        }
        if unnamed != ChangeCounts::default() {
            accepted.push(Emission::ChangedUnnamed(unnamed));
        }
        Ok(Accepted::Emissions(accepted, 0))
    }
}

/// What costs nothing and went where it belongs.
fn said(said: Result<(), Violation>) -> Result<Accepted, Violation> {
    said.map(|()| Accepted::Exchange(0))
}

fn free(emission: Emission) -> Accepted {
    Accepted::Emissions(vec![emission], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(Limits { stdout_bytes: 1 << 30, ..Limits::default() }, WorkspaceAccess::ReadWrite)
    }

    fn output(size: usize) -> FromWorker<'static> {
        FromWorker::Output { stream: Stream::Stdout, data: Box::leak(vec![0; size].into_boxed_slice()) }
    }

    #[test]
    fn credit_is_a_window_that_one_large_part_may_fill_alone() {
        let mut guard = guard();
        assert!(guard.accept(output(2 * WINDOW)).is_ok());
        assert!(guard.accept(output(1)).is_err());
        let mut guard = self::guard();
        assert!(guard.accept(output(WINDOW - EMISSION_COST)).is_ok());
        guard.credited(WINDOW);
        assert!(guard.accept(output(1)).is_ok());
        assert!(guard.accept(output(WINDOW - EMISSION_COST)).is_err());
    }

    #[test]
    fn what_is_over_a_limit_or_not_valid_is_a_violation() {
        let bad = [
            FromWorker::Ready(crate::walls::Walls::default()),
            FromWorker::Progress { done: 5, total: Some(4), message: None },
            FromWorker::Output { stream: Stream::Stderr, data: &[0; 2 << 20] },
            FromWorker::Changed { changes: vec![(ChangeKind::Created, "../etc/passwd")] },
            FromWorker::Log { level: bulkhead_core::event::LogLevel::Info, message: "", fields: vec![("", ""); 17] },
        ];
        for message in bad {
            let text = format!("{message:?}").chars().take(60).collect::<String>();
            assert!(guard().accept(message).is_err(), "{text}");
        }
        let mut guard = guard();
        let cut_off = |limit, wanted| FromWorker::Truncated { limit, wanted };
        assert!(guard.accept(cut_off(StreamLimit::Emit, None)).is_ok());
        assert!(guard.accept(cut_off(StreamLimit::Emit, None)).is_err());
        assert!(guard.accept(cut_off(StreamLimit::Stdout, Some(1 << 40))).is_err());
        assert!(guard.accept(FromWorker::Progress { done: 5, total: None, message: None }).is_ok());
        assert!(guard.accept(FromWorker::Progress { done: 4, total: None, message: None }).is_err());
        let mut reader = Guard::new(Limits::default(), WorkspaceAccess::Read);
        assert!(reader.accept(FromWorker::Changed { changes: vec![(ChangeKind::Created, "a")] }).is_err());
    }

    #[test]
    fn what_was_wanted_of_a_limit_is_more_than_it_allows() {
        let cut_off = |limit, wanted| FromWorker::Truncated { limit, wanted };
        let limits = Limits::default();
        for (limit, value) in [
            (StreamLimit::PathBytes, limits.path_bytes),
            (StreamLimit::PathDepth, limits.path_depth),
            (StreamLimit::FileBytes, limits.file_bytes),
        ] {
            for wanted in [None, Some(0), Some(value)] {
                assert!(guard().accept(cut_off(limit, wanted)).is_err(), "{limit:?} {wanted:?}");
            }
            let accepted = guard().accept(cut_off(limit, Some(value + 1)));
            let Ok(Accepted::Emissions(emissions, 0)) = accepted else { panic!("{limit:?}: {accepted:?}") };
            assert_eq!(emissions, [Emission::Truncated { limit: limit.name(), used: Some(value + 1) }]);
        }
    }

    #[test]
    fn changes_lie_within_the_parts_that_may_be_changed() {
        let directory: std::os::fd::OwnedFd = std::fs::File::open("/").expect("a directory").into();
        let directory = std::sync::Arc::new(directory);
        let part = |path: &str, access| RunPart {
            path: path.parse().expect("a path"),
            access,
            directory: std::sync::Arc::clone(&directory),
        };
        let parts = [part("out", WorkspaceAccess::ReadWrite), part("src", WorkspaceAccess::Read)];
        for (path, may) in [("out", true), ("out/a/b", true), ("outer", false), ("src/a", false), ("a", false)] {
            let mut guard = Guard::new(Limits::default(), WorkspaceAccess::Read).with_parts(&parts);
            let accepted = guard.accept(FromWorker::Changed { changes: vec![(ChangeKind::Created, path)] });
            assert_eq!(accepted.is_ok(), may, "{path}");
        }
    }
}
