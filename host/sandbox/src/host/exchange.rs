//! One HTTP exchange of a call as the host carries it: between the frames of
//! its worker and whoever decides about it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use bulkhead_core::ports::egress::{EgressError, IncomingResponse};
use bulkhead_core::ports::sandbox::{GuestRequest, Sink};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::worker::Worker;
use crate::bounds::{EMISSION_COST, HTTP_PIECE, HTTP_WINDOW, MAX_HTTP_FIELDS, MAX_HTTP_HEAD};
use crate::wire::{ToWorker, fields_size};

/// What the checks of its worker's words and whoever carries it both know.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// What of the response the guest has not read, in bytes of its window.
    outstanding: AtomicUsize,
    room: Notify,
    /// The guest wants no more of it.
    pub(super) dropped: CancellationToken,
}

impl Exchange {
    /// The guest has read so much; false if it can't have.
    pub(super) fn taken(&self, bytes: usize) -> bool {
        let known = self.outstanding.fetch_update(Relaxed, Relaxed, |outstanding| outstanding.checked_sub(bytes));
        self.room.notify_waiters();
        known.is_ok()
    }

    /// Waits until so much more may be on its way.
    pub(super) async fn until_room(&self, bytes: usize) {
        loop {
            let room = self.room.notified();
            let fits = |outstanding: usize| Some(outstanding + bytes).filter(|sum| *sum <= HTTP_WINDOW);
            if self.outstanding.fetch_update(Relaxed, Relaxed, fits).is_ok() {
                return;
            }
            room.await;
        }
    }
}

/// What a worker sends of the body of a request, and what it costs of the window.
#[derive(Debug, PartialEq)]
pub(super) enum Uploaded {
    Piece(Bytes, usize),
    End(usize),
    Failed,
}

/// A request that a worker sends, checked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) exchange: Arc<Exchange>,
    /// Without its body.
    pub(super) request: Plain,
    pub(super) body: Option<UnboundedReceiver<Uploaded>>,
}

/// A request without its body, which makes it plain data.
pub(super) struct Plain(pub(super) GuestRequest);

impl std::fmt::Debug for Plain {
    /// Never what it says: that may be a secret of the guest.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a request")
    }
}

/// The body of a request as it comes. The worker gets credit for what is taken
/// of it, and for what nobody takes.
struct Upload {
    pieces: UnboundedReceiver<Uploaded>,
    line: Line,
    ended: bool,
}

impl Stream for Upload {
    type Item = Result<Bytes, EgressError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(Uploaded::Piece(data, cost)) => {
                self.line.credit(cost);
                Some(Ok(data))
            }
            Some(Uploaded::End(cost)) => {
                self.line.credit(cost);
                self.ended = true;
                None
            }
            // It will never be whole: whoever sends it must not say that it was.
            Some(Uploaded::Failed) | None => {
                self.ended = true;
                Some(Err(EgressError::InvalidRequest))
            }
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            if let Uploaded::Piece(_, cost) | Uploaded::End(cost) = piece {
                self.line.credit(cost);
            }
        }
    }
}

/// The way to the worker of a call.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) worker: Arc<Worker>,
    pub(super) call: u32,
}

impl Line {
    fn credit(&self, cost: usize) {
        self.worker.credit(self.call, cost);
    }

    fn tell(&self, message: &ToWorker<'_>) {
        self.worker.tell(self.call, message);
    }
}

/// Has a request sent and passes its response on, until that is done or the
/// guest wants no more of it.
pub(super) async fn carry(asked: Asked, sink: &dyn Sink, line: Line) {
    let Asked { number, exchange, request: Plain(request), body } = asked;
    let body = body.map(|pieces| Box::pin(Upload { pieces, line: line.clone(), ended: false }) as _);
    let carried = async {
        let response = sink.send(GuestRequest { body, ..request }).await?;
        pass_on(response, number, &exchange, &line).await
    };
    tokio::select! {
        biased;
        () = exchange.dropped.cancelled() => {}
        carried = carried => {
            if let Err(error) = carried {
                line.tell(&ToWorker::HttpFailed { exchange: number, error });
            }
        }
    }
}

async fn pass_on(response: IncomingResponse, number: u32, exchange: &Exchange, line: &Line) -> Result<(), EgressError> {
    let IncomingResponse { status, header, address: _, mut body } = response;
    let size = fields_size(header.iter().map(|(name, value)| (name.len(), value.len())));
    if size > MAX_HTTP_HEAD || header.len() > MAX_HTTP_FIELDS {
        return Err(EgressError::ResponseHeadTooLarge);
    }
    let header = header.iter().map(|(name, value)| (name.as_str(), &**value)).collect();
    line.tell(&ToWorker::HttpHead { exchange: number, status, header });
    while let Some(data) = body.next().await {
        let mut data = data?;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(HTTP_PIECE));
            exchange.until_room(piece.len() + EMISSION_COST).await;
            line.tell(&ToWorker::HttpBody { exchange: number, data: &piece, last: false });
        }
    }
    line.tell(&ToWorker::HttpBody { exchange: number, data: &[], last: true });
    Ok(())
}
