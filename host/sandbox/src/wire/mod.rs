//! What host and worker say to each other over their socket.
//!
//! A frame is `len u32 | call u32 | kind u8 | body`, little endian; `len`
//! counts what follows the first eight bytes, kind and body are one enum in
//! postcard's encoding. Everything a worker sends is checked again by the host
//! (`host::guard`); everything the host sends is trusted by the worker.

mod frame;
mod message;
mod socket;

pub(crate) use frame::{FrameError, Inbox, Outbox, decode, frame};
pub(crate) use message::{
    Bind, Description, Done, Entry, Fault, FromWorker, Measured, Part, Report, Request, Start, Stop, StreamLimit,
    Taken, ToWorker, Wanted, WantedAccess, fields_size,
};
pub(crate) use socket::{Received, Socket, recv, send};
