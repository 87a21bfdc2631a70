//! The exchanges of a call: what came for each, and who waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bulkhead_core::ports::egress::EgressError;
use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use wasmtime_wasi_http::Error;

use super::super::call::Call;
use super::error;
use crate::bounds::{EMISSION_COST, HTTP_PIECE, MAX_EXCHANGES};
use crate::wire::{FromWorker, Request, StreamLimit};

/// The exchanges that a call has open. Allocates nothing for a call without.
#[derive(Default)]
pub(in super::super) struct Exchanges {
    open: Vec<Arc<Exchange>>,
    /// The last number given.
    last: u32,
    /// The call has ended: nothing more may be said about it.
    closed: bool,
}

/// One exchange.
#[derive(Default)]
pub(in super::super) struct Exchange {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// Its number on the wire, once its request is sent.
    number: Option<u32>,
    head: Option<http::response::Parts>,
    pieces: VecDeque<Bytes>,
    end: Option<Result<(), EgressError>>,
    /// What of the window the guest has read, and the host doesn't know of.
    taken: usize,
}

impl Exchanges {
    /// The exchange with this number, if it is open.
    pub(in super::super) fn get(&self, number: u32) -> Option<Arc<Exchange>> {
        self.open.iter().find(|exchange| exchange.state().number == Some(number)).cloned()
    }

    /// Nothing more is said about the call.
    pub(in super::super) fn close(&mut self) {
        self.closed = true;
    }
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.waker.wake();
    }

    /// The head of the response came.
    pub(in super::super) fn head_came(&self, status: u16, header: &[(&str, &[u8])]) {
        self.change(|state| match parts(status, header) {
            Some(parts) => state.head = Some(parts),
            None => state.end = Some(Err(EgressError::Protocol)),
        });
    }

    /// A piece of the body came.
    pub(in super::super) fn piece_came(&self, data: &[u8], last: bool) {
        self.change(|state| {
            if !data.is_empty() {
                state.pieces.push_back(Bytes::copy_from_slice(data));
            }
            if last {
                state.end = Some(Ok(()));
            }
        });
    }

    /// It failed.
    pub(in super::super) fn failed(&self, error: EgressError) {
        self.change(|state| state.end = Some(Err(error)));
    }
}

fn parts(status: u16, header: &[(&str, &[u8])]) -> Option<http::response::Parts> {
    let mut fields = HeaderMap::with_capacity(header.len());
    for (name, value) in header {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        fields.try_append(name, HeaderValue::from_bytes(value).ok()?).ok()?;
    }
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(status).ok()?;
    parts.headers = fields;
    Some(parts)
}

/// Who holds it keeps its exchange open.
pub(super) struct Handle {
    call: Arc<Call>,
    exchange: Arc<Exchange>,
}

impl Handle {
    /// Takes one of the few places of a call.
    pub(super) fn open(call: &Arc<Call>) -> Result<Self, Error> {
        let mut exchanges = call.exchanges();
        if exchanges.open.len() >= MAX_EXCHANGES {
            drop(exchanges);
            call.truncated(StreamLimit::HttpOpen);
            return Err(error::of(EgressError::LimitReached));
        }
        let exchange = Arc::<Exchange>::default();
        exchanges.open.push(exchange.clone());
        drop(exchanges);
        Ok(Self { call: call.clone(), exchange })
    }

    /// Whose it is.
    pub(super) fn call(&self) -> &Arc<Call> {
        &self.call
    }

    /// Sends the request, and with that gives the exchange its number.
    pub(super) fn begin(&self, request: Request<'_>) -> bool {
        let mut exchanges = self.call.exchanges();
        if exchanges.closed {
            return false;
        }
        exchanges.last += 1;
        let number = exchanges.last;
        self.exchange.state().number = Some(number);
        self.call.send_free(&FromWorker::HttpRequest(Request { exchange: number, ..request }));
        true
    }

    /// A way to speak of the exchange while it is open.
    pub(super) fn voice(&self) -> Voice {
        Voice { call: self.call.clone(), number: self.exchange.state().number.unwrap_or_default() }
    }

    /// Waits for the head of the response.
    pub(super) fn poll_head(&self, context: &Context<'_>) -> Poll<Result<http::response::Parts, Error>> {
        self.exchange.waker.register(context.waker());
        let mut state = self.exchange.state();
        match (state.head.take(), state.end) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, Some(Err(error))) => Poll::Ready(Err(error::of(error))),
            (None, Some(Ok(()))) => Poll::Ready(Err(error::of(EgressError::Internal))),
            (None, None) => Poll::Pending,
        }
    }

    /// Waits for the next piece of the body.
    pub(super) fn poll_piece(&self, context: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.exchange.waker.register(context.waker());
        let mut state = self.exchange.state();
        if let Some(piece) = state.pieces.pop_front() {
            state.taken += piece.len() + EMISSION_COST;
            if state.taken >= HTTP_PIECE || state.pieces.is_empty() {
                let bytes = u32::try_from(std::mem::take(&mut state.taken)).unwrap_or(u32::MAX);
                drop(state);
                self.voice().say(|exchange| FromWorker::HttpTaken { exchange, bytes });
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error::of(error)))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut exchanges = self.call.exchanges();
        exchanges.open.retain(|open| !Arc::ptr_eq(open, &self.exchange));
        let number = self.exchange.state().number.filter(|_| !exchanges.closed);
        if let Some(exchange) = number {
            self.call.send_free(&FromWorker::HttpDropped { exchange });
        }
    }
}

/// Speaks of an exchange.
pub(super) struct Voice {
    call: Arc<Call>,
    number: u32,
}

impl Voice {
    pub(super) fn call(&self) -> &Call {
        &self.call
    }

    /// Says something, unless the exchange or the call is over.
    pub(super) fn say<'a>(&self, what: impl FnOnce(u32) -> FromWorker<'a>) -> bool {
        let exchanges = self.call.exchanges();
        let open = !exchanges.closed && exchanges.get(self.number).is_some();
        if open {
            self.call.send_free(&what(self.number));
        }
        open
    }
}
