//! The host's checks of a worker that says whatever it wants: the frames are
//! taken as the pump takes them, what is let through as a call's follower takes
//! it, and both are compared with a count of their own.

use std::time::Duration;

use bulkhead_core::event::Stream;
use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::json::Json;
use bulkhead_core::limits::Limits;
use bulkhead_core::outcome::{Content, Ending, Fault, code};
use bulkhead_core::path::MAX_PATH;
use bulkhead_core::ports::sandbox::Emission;

use super::guard::{Accepted, Guard};
use super::judge::{self, Judged, Known};
use crate::bounds::{self, EMISSION_COST, MAX_CONTROL, WINDOW};
use crate::wire::{FromWorker, Inbox, decode};

/// The call that runs; all others do not.
const CALL: u32 = 1;

/// A frame of a request has this many bytes at least.
const MAX_REQUESTS: usize = 1 << 20;

/// What was let through so far.
#[derive(Default)]
struct Count {
    standard: [u64; 2],
    emitted: u64,
    log_bytes: u64,
    log_lines: u64,
    named: u64,
    done: u64,
    truncated: Vec<&'static str>,
    outstanding: usize,
}

/// The first byte chooses what the call may and how its host is; then come the
/// frames of a worker.
pub(crate) fn guard(bytes: &[u8]) {
    let Some((flags, stream)) = bytes.split_first() else { return };
    let access = [WorkspaceAccess::None, WorkspaceAccess::Read, WorkspaceAccess::ReadWrite][usize::from(flags & 3) % 3];
    let limits = if flags & 0x20 == 0 { small() } else { Limits::default() };
    let wall = Duration::from_millis(if flags & 0x10 == 0 { 20 } else { limits.wall_time_ms });
    let over_after = Duration::from_millis(limits.wall_time_ms);
    let known = Known {
        limits: &limits,
        elapsed: wall,
        wall,
        over_after,
        cancelled: flags & 0x04 != 0,
        worker_memory: 1 << 30,
    };
    let mut asked = Vec::new();
    let (mut guard, mut count) = (Guard::new(limits.clone(), access), Count::default());
    let mut inbox = Inbox::default();
    inbox.put(stream);
    // The end and whatever is a violation are the last of a call.
    while let Ok(Some((call, body))) =
        inbox.next(|call| [MAX_CONTROL, guard.max_frame(), 0][call.min(CALL + 1) as usize])
    {
        if call != CALL {
            return;
        }
        let Ok(message) = decode::<FromWorker<'_>>(call, body) else { return };
        let Ok(accepted) = guard.accept(message) else { return };
        let (emissions, cost) = match accepted {
            Accepted::Emissions(emissions, cost) => (emissions, cost),
            Accepted::Part(part, cost) => match judge::content(part) {
                Ok(part) => (vec![Emission::Content(part)], cost),
                Err(_) => return,
            },
            Accepted::Done => return judged(&known, body),
            // Who carries them keeps them open; their bodies are read by nobody here.
            Accepted::Request(request, cost) => {
                asked.push(request);
                assert!(asked.len() <= MAX_REQUESTS, "more requests than frames");
                count.outstanding += cost;
                continue;
            }
            Accepted::Exchange(cost) => {
                guard.credited(cost);
                continue;
            }
            Accepted::Took(_) => {
                assert!(access == WorkspaceAccess::ReadWrite, "it took what it may not change");
                continue;
            }
        };
        count.take(&limits, access, emissions, cost);
        if flags & 0x80 != 0 {
            guard.credited(cost);
            count.outstanding -= cost;
        }
    }
}

/// So small that a few frames reach them.
fn small() -> Limits {
    Limits {
        wall_time_ms: 1_000,
        cpu_time_ms: 500,
        memory_bytes: 1 << 16,
        result_bytes: 64,
        stdout_bytes: 64,
        stderr_bytes: 32,
        emit_bytes: 300,
        log_bytes: 40,
        log_lines: 4,
        host_memory_bytes: 1_024,
        file_changes: 5,
        ..Limits::default()
    }
}

impl Count {
    fn take(&mut self, limits: &Limits, access: WorkspaceAccess, emissions: Vec<Emission>, cost: usize) {
        let before = self.outstanding;
        self.outstanding += cost;
        assert!(before == 0 || cost == 0 || self.outstanding <= WINDOW, "more than its credit");
        let (mut bytes, mut rewritten) = (0, false);
        for emission in emissions {
            if let Emission::Changed(_) | Emission::ChangedUnnamed(_) = emission {
                assert_eq!(access, WorkspaceAccess::ReadWrite, "a change without the right");
                assert_eq!(cost, 0);
            }
            // JSON loses its white space, so its size is not the one it had.
            rewritten |= matches!(emission, Emission::Content(Content::Json { .. }));
            bytes += self.add(emission);
        }
        assert!(cost == 0 || cost == bytes + EMISSION_COST || rewritten, "{cost} for {bytes} bytes");
        assert!(cost > 0 || bytes == 0, "{bytes} bytes for nothing");
        assert!(self.standard[0] <= limits.stdout_bytes && self.standard[1] <= limits.stderr_bytes);
        assert!(self.emitted <= limits.emit_bytes);
        assert!(self.log_bytes <= limits.log_bytes && self.log_lines <= limits.log_lines);
        assert!(self.named <= limits.file_changes);
    }

    /// Counts one emission; gives the bytes that it costs.
    fn add(&mut self, emission: Emission) -> usize {
        match emission {
            Emission::Output(stream, data) => {
                self.standard[usize::from(stream == Stream::Stderr)] += data.len() as u64;
                data.len()
            }
            Emission::Content(part) => {
                let size = size(&part);
                self.emitted += (size + EMISSION_COST) as u64;
                size
            }
            Emission::Truncated { limit: name, .. } => {
                assert!(!self.truncated.contains(&name), "`{name}` was cut off twice");
                assert!(Limits::SPECS.iter().any(|spec| spec.name == name), "`{name}` is no limit");
                self.truncated.push(name);
                0
            }
            Emission::Progress { done, total, message } => {
                assert!(done >= self.done && total.is_none_or(|total| done <= total));
                self.done = done;
                message.map_or(0, |message| message.len())
            }
            Emission::Log { message, fields, .. } => {
                let bytes = fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + message.len();
                assert!(fields.len() <= bounds::MAX_LOG_FIELDS);
                self.log_bytes += bytes as u64;
                self.log_lines += 1;
                bytes
            }
            Emission::Changed(change) => {
                self.named += 1;
                let path = &change.path;
                assert!(!path.starts_with('/') && !path.split('/').any(|name| name == ".."), "{path} leads out");
                assert!(path.len() <= 3 * MAX_PATH && !path.chars().any(char::is_control), "{path} is no text");
                0
            }
            Emission::ChangedUnnamed(_) => 0,
            Emission::ChangesLost => panic!("a worker can't say that changes were lost"),
        }
    }
}

/// What a part costs and counts for its limit, where it can be told.
fn size(part: &Content) -> usize {
    match part {
        Content::Text { text } => text.len(),
        Content::Json { json } => {
            assert!(Json::check(json.text()).is_ok() && !json.text().contains(['\n', '\r']));
            0
        }
        Content::Blob { media_type, data } => {
            use base64::Engine as _;
            let data = base64::engine::general_purpose::STANDARD.decode(data).expect("it was encoded a moment ago");
            media_type.len() + data.len()
        }
    }
}

/// The end: its class is the host's to choose, its numbers are possible.
fn judged(known: &Known<'_>, body: &[u8]) {
    let Ok(FromWorker::Done(done)) = decode::<FromWorker<'_>>(CALL, body) else { panic!("it decoded before") };
    let Ok(Judged::Outcome(outcome)) = known.judge(done) else { return };
    assert!(u128::from(outcome.usage.cpu_us) <= known.wall.as_micros());
    assert!(outcome.usage.peak_memory_bytes <= known.limits.memory_bytes);
    match &outcome.ending {
        Ending::Succeeded { content } => {
            let content = content.as_deref().expect("a result has content");
            assert!(content.len() <= bounds::MAX_RESULT_PARTS);
            assert!(content.iter().map(|part| size(part) as u64).sum::<u64>() <= known.limits.result_bytes);
        }
        Ending::Failed { fault } => {
            assert!(!known.cancelled);
            faulted(fault);
        }
        Ending::TimedOut { fault } => {
            let least = known.limits.wall_time_ms.min(known.limits.cpu_time_ms);
            assert!(known.wall + Duration::from_millis(5) >= Duration::from_millis(least), "too soon");
            faulted(fault);
        }
        Ending::Cancelled { fault } => {
            assert!(known.cancelled, "nobody cancelled it");
            faulted(fault);
        }
        Ending::Interrupted { .. } => panic!("a worker can't say that it was lost"),
    }
}

/// A fault's code is the host's, or the tool's with its prefix; its text is bounded.
fn faulted(fault: &Fault) {
    const MOST: usize = bounds::MAX_ERROR_MESSAGE + 4 * bounds::STDERR_TAIL;
    assert!(fault.message.len() <= MOST, "a message of {} bytes", fault.message.len());
    let own = [code::WORKER_DIED, code::HOST_STOPPED, code::HOST_ERROR];
    assert!(!own.contains(&&*fault.code), "{} is not a worker's to say", fault.code);
    assert!(fault.code.starts_with(code::TOOL_PREFIX) || fault.details.is_none());
}
