//! What clients send counts in the quota as it arrives: many files at once, each with
//! all the room that is left, must not come to more than that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::{Files, full};
use crate::error::Error;
use crate::ports::workspace::ByteStream;
use crate::quota::{Extent, Lease, Room};
use crate::task::Task;

impl Files {
    /// The room that is left, until others have taken it.
    pub(super) fn lease(&self, task: &Task, room: &Room) -> Lease {
        self.parts.quotas.lease_aside(task.owner, task.id, &task.limits, room.extent)
    }
}

/// A body that counts, and breaks off once its room is another's.
pub(super) fn counted(body: ByteStream, lease: &Lease) -> ByteStream {
    Box::pin(Counted { body, lease: lease.clone(), bytes: 0 })
}

/// Nothing, if the room is still there.
pub(super) fn not_withdrawn(lease: &Lease, room: &Room) -> Result<(), Error> {
    lease.over().map_or(Ok(()), |bound| Err(full(bound, room)))
}

struct Counted {
    body: ByteStream,
    lease: Lease,
    bytes: u64,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = self.body.as_mut().poll_read(context, into);
        let came = into.filled().len().saturating_sub(before);
        if came > 0 {
            self.bytes += came as u64;
            self.lease.took(Extent { bytes: self.bytes, entries: 1 });
        }
        match self.lease.over() {
            Some(_) if read.is_ready() => Poll::Ready(Err(io::Error::other("others have taken the room"))),
            _ => read,
        }
    }
}
