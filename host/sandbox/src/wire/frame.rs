//! Framing: buffers that collect frames to be sent together, and find frames
//! in what came together.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use postcard::ser_flavors::ExtendFlavor;
use serde::Serialize;
use thiserror::Error;

/// Bytes before a frame's kind: its length and its call.
const HEADER: usize = 8;
/// What is read at once, and the least room kept for it.
const CHUNK: usize = 64 * 1024;
/// A buffer that grew for one large frame shrinks back to this.
const KEEP: usize = 256 * 1024;

/// Bytes that can't be a frame here.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// Larger than the reader allows for this call, or about an unknown one.
    #[error("a frame of {len} bytes about call {call}, where {max} are allowed")]
    TooLarge { len: usize, call: u32, max: usize },
    /// Not one of the messages.
    #[error("a frame about call {call} does not decode: {reason}")]
    Undecodable { call: u32, reason: &'static str },
}

/// Frames on their way out.
#[derive(Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// The bytes that are queued.
    waiting: usize,
}

/// Bytes sent by one call, with the descriptor that belongs to their first frame.
#[derive(Default)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
    pub(super) descriptor: Option<Arc<OwnedFd>>,
}

/// A frame by itself.
pub(crate) fn frame(call: u32, message: &impl Serialize) -> Vec<u8> {
    encode(Vec::new(), call, message)
}

/// Appends a frame.
fn encode(mut bytes: Vec<u8>, call: u32, message: &impl Serialize) -> Vec<u8> {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&call.to_le_bytes());
    // Our own messages are plain data: encoding them can't fail. If it did,
    // the frame would be empty and the peer would refuse it.
    let mut bytes: Vec<u8> = postcard::serialize_with_flavor(message, ExtendFlavor::new(bytes)).unwrap_or_default();
    let len = u32::try_from(bytes.len().saturating_sub(start + HEADER)).unwrap_or(u32::MAX);
    if let Some(head) = bytes.get_mut(start..start + 4) {
        head.copy_from_slice(&len.to_le_bytes());
    }
    bytes
}

impl Outbox {
    /// Adds a frame.
    pub(crate) fn push(&mut self, call: u32, message: &impl Serialize) {
        if self.segments.back().is_none_or(|segment| segment.sent > 0) {
            self.segments.push_back(Segment::default());
        }
        self.append(call, message);
    }

    /// Adds a frame with a descriptor. What is sent before can't be sent with it.
    pub(crate) fn push_with(&mut self, call: u32, message: &impl Serialize, descriptor: Arc<OwnedFd>) {
        match self.segments.back_mut() {
            Some(kept) if kept.bytes.is_empty() => kept.descriptor = Some(descriptor),
            _ => self.segments.push_back(Segment { descriptor: Some(descriptor), ..Segment::default() }),
        }
        self.append(call, message);
    }

    /// Adds a frame that is encoded.
    pub(crate) fn push_frame(&mut self, frame: &[u8]) {
        if self.segments.back().is_none_or(|segment| segment.sent > 0) {
            self.segments.push_back(Segment::default());
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes.extend_from_slice(frame);
            self.waiting += frame.len();
        }
    }

    fn append(&mut self, call: u32, message: &impl Serialize) {
        if let Some(segment) = self.segments.back_mut() {
            let before = segment.bytes.len();
            segment.bytes = encode(std::mem::take(&mut segment.bytes), call, message);
            self.waiting += segment.bytes.len().saturating_sub(before);
        }
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Segment> {
        self.segments.front_mut()
    }

    /// Notes that `sent` bytes of the first segment are gone.
    pub(super) fn advance(&mut self, sent: usize) {
        let Some(segment) = self.segments.front_mut() else { return };
        segment.sent += sent;
        self.waiting = self.waiting.saturating_sub(sent);
        segment.descriptor = None;
        if segment.sent < segment.bytes.len() {
            return;
        }
        let mut done = self.segments.pop_front().unwrap_or_default();
        if self.segments.is_empty() && done.bytes.capacity() <= KEEP {
            // Kept for the next frames: no allocation in the steady state.
            done.bytes.clear();
            done.sent = 0;
            self.segments.push_back(done);
        }
    }

    /// The bytes that are queued.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn queued(&self) -> Vec<u8> {
        self.segments.iter().flat_map(|segment| &segment.bytes[segment.sent..]).copied().collect()
    }

    /// Drops what is queued.
    #[cfg(feature = "bench")]
    pub(crate) fn clear(&mut self) {
        self.waiting = 0;
        self.segments.truncate(1);
        if let Some(segment) = self.segments.front_mut() {
            segment.bytes.clear();
            segment.sent = 0;
        }
    }

    /// Whether there is nothing to send.
    pub(crate) fn nothing_queued(&self) -> bool {
        self.waiting == 0
    }

    /// How many bytes are queued.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}

/// Bytes that came in, with the frames in them.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    /// The bytes of `buffer` that are received and not taken.
    start: usize,
    end: usize,
}

impl Inbox {
    /// Room for the next read.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < CHUNK {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let wanted = (self.end + CHUNK).next_multiple_of(CHUNK);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// Notes that `read` bytes were put into the room.
    pub(super) fn received(&mut self, read: usize) {
        self.end = (self.end + read).min(self.buffer.len());
    }

    /// Takes bytes as if they had been received.
    #[cfg(feature = "fuzz")]
    pub(crate) fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.received(now.len());
            bytes = later;
        }
    }

    /// The next whole frame: its call and its kind with its body. `max` says
    /// how large a frame about a call may be, before it is waited for.
    pub(crate) fn next(&mut self, max: impl Fn(u32) -> usize) -> Result<Option<(u32, &[u8])>, FrameError> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((head, rest)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, call) = (word(0) as usize, word(4));
        let max = max(call);
        if len > max {
            return Err(FrameError::TooLarge { len, call, max });
        }
        if rest.len() < len {
            return Ok(None);
        }
        let body = self.start + HEADER;
        self.start = body + len;
        Ok(Some((call, &self.buffer[body..body + len])))
    }
}

/// Decodes a frame; every byte must belong to it.
pub(crate) fn decode<'a, T: serde::Deserialize<'a>>(call: u32, body: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FrameError::Undecodable { call, reason: "bytes are left over" }),
        Err(_) => Err(FrameError::Undecodable { call, reason: "not one of the messages" }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FromWorker, ToWorker};
    use super::*;

    fn carry(outbox: &mut Outbox, inbox: &mut Inbox, step: usize) {
        while !outbox.nothing_queued() {
            let segment = outbox.front_mut().expect("queued");
            let part = &segment.bytes[segment.sent..];
            let part = &part[..part.len().min(step)];
            inbox.room()[..part.len()].copy_from_slice(part);
            inbox.received(part.len());
            let sent = part.len();
            outbox.advance(sent);
        }
    }

    #[test]
    fn frames_survive_any_cutting() {
        for step in [1, 7, 64 * 1024] {
            let (mut outbox, mut inbox) = (Outbox::default(), Inbox::default());
            let data = vec![7; 100_000];
            outbox.push(1, &FromWorker::Output { stream: bulkhead_core::event::Stream::Stdout, data: &data });
            outbox.push(2, &ToWorker::Cancel);
            outbox.push_frame(&frame(3, &ToWorker::Abort));
            assert_eq!(outbox.waiting(), outbox.queued().len());
            carry(&mut outbox, &mut inbox, step);
            let (call, body) = inbox.next(|_| 200_000).expect("a frame").expect("whole");
            assert_eq!(call, 1);
            assert!(matches!(decode(1, body), Ok(FromWorker::Output { data, .. }) if data.len() == 100_000));
            let (call, body) = inbox.next(|_| 200_000).expect("a frame").expect("whole");
            assert_eq!(call, 2);
            assert!(matches!(decode(2, body), Ok(ToWorker::Cancel)));
            let (call, body) = inbox.next(|_| 200_000).expect("a frame").expect("whole");
            assert!(call == 3 && matches!(decode(3, body), Ok(ToWorker::Abort)));
            assert_eq!(inbox.next(|_| 0), Ok(None));
        }
    }

    #[test]
    fn a_large_frame_is_refused_by_its_head_alone() {
        let mut inbox = Inbox::default();
        let head = [0xff, 0xff, 0xff, 0x7f, 9, 0, 0, 0];
        inbox.room()[..8].copy_from_slice(&head);
        inbox.received(8);
        assert_eq!(inbox.next(|_| 10), Err(FrameError::TooLarge { len: 0x7fff_ffff, call: 9, max: 10 }));
    }

    #[test]
    fn rubbish_does_not_decode() {
        for body in [&[200][..], &[], &[0, 1], &[4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert!(decode::<FromWorker<'_>>(0, body).is_err(), "{body:?}");
        }
    }
}
