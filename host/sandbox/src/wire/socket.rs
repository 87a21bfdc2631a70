//! Sending and receiving on the socket, as much at once as there is.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::frame::{Inbox, Outbox};

/// The socket within a runtime. Only its readable side is watched: else each
/// read of the peer, which makes room, would wake us for nothing.
pub(crate) struct Socket {
    socket: AsyncFd<OwnedFd>,
    /// The same once more, because a descriptor is watched for one thing. Made at
    /// the start: when sending comes to a stop there may be none left.
    sending: OwnedFd,
}

impl Socket {
    /// Takes one end of a pair.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let sending = socket.try_clone()?;
        Ok(Self { socket: watch(socket, Interest::READABLE)?, sending })
    }

    /// Sends until everything is sent (`true`) or the socket is full (`false`).
    pub(crate) fn send(&self, outbox: &mut Outbox) -> Result<bool, Errno> {
        send(self.sending.as_fd(), outbox)
    }

    /// Receives what there is, up to the room of the inbox.
    pub(crate) fn recv(
        &self,
        inbox: &mut Inbox,
        descriptors: Option<&mut VecDeque<OwnedFd>>,
    ) -> Result<Received, Errno> {
        let mut result = Ok(Received::Nothing);
        let _ = self.socket.try_io(Interest::READABLE, |socket| {
            result = recv(socket.as_fd(), inbox, descriptors, false);
            // A read that did not fill its room has emptied the socket.
            let empty = matches!(result, Ok(Received::Nothing | Received::Some(false)));
            if empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        result
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Waits until something may be sent; to be asked once sending came to a
    /// stop, which is rare: the peer reads whatever else it does.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let room = watch(self.sending.as_fd(), Interest::WRITABLE)?;
        room.writable().await.map(|mut ready| ready.retain_ready())
    }
}

/// Registers a descriptor with the runtime.
#[expect(deprecated, reason = "its successor is unsafe for types whose descriptor may change; that of these can't")]
fn watch<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

/// Sends until everything is sent (`true`) or the socket is full (`false`).
pub(crate) fn send(socket: BorrowedFd<'_>, outbox: &mut Outbox) -> Result<bool, Errno> {
    while !outbox.nothing_queued() {
        let Some(segment) = outbox.front_mut() else { break };
        let bytes = [IoSlice::new(&segment.bytes[segment.sent..])];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = segment.descriptor.as_ref().map(|descriptor| [descriptor.as_fd()]);
        if let Some(descriptors) = &descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        match sendmsg(socket, &bytes, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => outbox.advance(sent),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a receive brought.
pub(crate) enum Received {
    /// Bytes; true if there may be more.
    Some(bool),
    /// Nothing for now.
    Nothing,
    /// The peer closed its end.
    End,
}

/// Receives what there is, up to the room of the inbox. Descriptors are put
/// into `descriptors`, or closed by the kernel if there is no place for them.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    inbox: &mut Inbox,
    descriptors: Option<&mut VecDeque<OwnedFd>>,
    wait: bool,
) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = match &descriptors {
        Some(_) => RecvAncillaryBuffer::new(&mut space),
        None => RecvAncillaryBuffer::new(&mut []),
    };
    let room = inbox.room();
    let wanted = room.len();
    let wait = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let read = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC | wait) {
            Ok(message) => break message.bytes,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    };
    let mut passed = false;
    if let Some(descriptors) = descriptors {
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                passed = true;
                descriptors.extend(received);
            }
        }
    }
    if read == 0 {
        return Ok(Received::End);
    }
    inbox.received(read);
    // A read that carries descriptors ends with them, however much follows.
    Ok(Received::Some(passed || read == wanted))
}
