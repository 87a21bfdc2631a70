//! Bytes of files and entries of directories as streams of components. Each is
//! what the stream of 0.2 is, with its places and counters; the engine asks for
//! a piece when the other end wants one.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, Source, StreamConsumer, StreamProducer, StreamResult, VecBuffer};
use wasmtime_wasi::p3::bindings::filesystem::types::{DirectoryEntry, ErrorCode};

use super::super::listing::Listing;
use super::super::stream::{CHUNK, Reader, Writer};
use super::convert::{code, entry, failure};

/// Bytes after which a reader lets others have their turn. A guest may join a
/// file's stream to another's, or to its output, and then nothing of it runs
/// while they are copied.
const TURN: usize = 4 * CHUNK;

/// Entries of a directory that are given at once.
const ENTRIES: usize = 64;

/// Tells how a stream ended; that nobody read on is no error.
pub(super) struct Ending(Option<oneshot::Sender<Result<(), ErrorCode>>>);

impl Ending {
    /// And where it is told.
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<(), ErrorCode>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }

    /// Says it. Whoever does not want to know has dropped the other end.
    pub(super) fn tell(&mut self, result: Result<(), ErrorCode>) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(result);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.tell(Ok(()));
    }
}

/// A file that is read.
pub(super) struct Reading {
    pub(super) reader: Reader,
    pub(super) ending: Ending,
    /// Bytes since others had their turn.
    pub(super) since: usize,
}

impl<D: 'static> StreamProducer<D> for Reading {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        if this.since >= TURN && !finish {
            this.since = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut destination = destination.as_direct(store, CHUNK);
        let room = destination.remaining();
        let room = room.len().min(CHUNK);
        if room == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let result = match this.reader.fill(&mut destination.remaining()[..room]) {
            Ok(0) => Ok(()),
            Ok(read) => {
                destination.mark_written(read);
                this.since += read;
                return Poll::Ready(Ok(StreamResult::Completed));
            }
            Err(error) => Err(failure(error)),
        };
        this.ending.tell(result);
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

/// A directory that is listed.
pub(super) struct Listed {
    pub(super) listing: Listing,
    pub(super) ending: Ending,
}

impl<D> StreamProducer<D> for Listed {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let room = destination.remaining(store).unwrap_or(ENTRIES).min(ENTRIES);
        let mut entries = Vec::with_capacity(room);
        let mut result = StreamResult::Completed;
        while entries.len() < room {
            let ended = match this.listing.next() {
                Ok(Some(next)) => {
                    entries.push(entry(next));
                    continue;
                }
                Ok(None) => Ok(()),
                Err(error) => Err(code(error)),
            };
            this.ending.tell(ended);
            result = StreamResult::Dropped;
            break;
        }
        destination.set_buffer(entries.into());
        Poll::Ready(Ok(result))
    }
}

/// A file that is written.
pub(super) struct Writing {
    pub(super) writer: Writer,
    pub(super) ending: Ending,
}

impl<D: 'static> StreamConsumer<D> for Writing {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, Self::Item>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let taken = bytes.len().min(CHUNK);
        // None: the guest asks whether it may write.
        let written = if taken == 0 { Ok(()) } else { self.writer.put(&bytes[..taken]) };
        source.mark_read(taken);
        Poll::Ready(Ok(match written {
            Ok(()) => StreamResult::Completed,
            Err(error) => {
                self.ending.tell(Err(failure(error)));
                StreamResult::Dropped
            }
        }))
    }
}
