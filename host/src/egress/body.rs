//! The body of a request on its way out.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bulkhead_core::ports::egress::{Body, EgressError};
use bytes::Bytes;
use hyper::body::{Body as HyperBody, Frame, SizeHint};

use super::exchange::{Exchange, Over};

/// A body that holds what its length says, tells the exchange of each piece and
/// of its failure, and ends with the exchange.
pub(super) struct Upload {
    stream: Option<Body>,
    left: Option<u64>,
    exchange: Arc<Exchange>,
    over: Over,
}

impl Upload {
    pub(super) fn new(stream: Option<Body>, length: Option<u64>, exchange: Arc<Exchange>) -> Self {
        let over = exchange.over();
        Self { stream, left: length, exchange, over }
    }

    fn fail(&mut self, error: EgressError) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        self.stream = None;
        self.exchange.fail(error);
        Poll::Ready(Some(Err(error)))
    }
}

impl HyperBody for Upload {
    type Data = Bytes;
    type Error = EgressError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        if this.over.as_mut().poll(context).is_ready() {
            return this.fail(EgressError::ConnectionTerminated);
        }
        let piece = std::task::ready!(stream.as_mut().poll_next(context));
        this.exchange.went_on();
        match piece {
            Some(Ok(piece)) => {
                if let Some(left) = this.left {
                    // More than was said would be taken for the next request.
                    match left.checked_sub(piece.len() as u64) {
                        Some(left) => this.left = Some(left),
                        None => return this.fail(EgressError::InvalidRequest),
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Err(error)) => this.fail(error),
            None if this.left.is_some_and(|left| left > 0) => this.fail(EgressError::InvalidRequest),
            None => {
                this.stream = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.stream, self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }
}
