//! One exchange: its steps, each with its time, and what its two halves tell
//! each other.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_core::ports::egress::{EgressError, Timeouts};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::connect::capture_connection;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::body::Upload;
use super::error;
use super::pool::Client;

/// Is ready when the exchange is over.
pub(super) type Over = Pin<Box<WaitForCancellationFutureOwned>>;

pub(super) struct Exchange {
    over: CancellationToken,
    failure: Mutex<Option<EgressError>>,
    progress: Notify,
}

impl Exchange {
    /// An exchange, which is over when the guard is dropped.
    pub(super) fn begin() -> (Arc<Self>, DropGuard) {
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        (Arc::new(Self { over, failure: Mutex::default(), progress: Notify::new() }), guard)
    }

    pub(super) fn over(&self) -> Over {
        Box::pin(self.over.clone().cancelled_owned())
    }

    /// The request's body failed: the reason of whatever fails now.
    pub(super) fn fail(&self, error: EgressError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// A piece of the request's body was taken, or its end.
    pub(super) fn went_on(&self) {
        self.progress.notify_one();
    }

    /// `error`, unless there is a reason for it.
    pub(super) fn reason(&self, error: EgressError) -> EgressError {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(error)
    }
}

/// Sends a request and waits for the head of its response. The time to the
/// first byte runs from the connection, and again from each piece of the
/// request's body that is sent.
pub(super) async fn run(
    client: &Client,
    mut request: Request<Upload>,
    timeouts: Timeouts,
    exchange: &Exchange,
) -> Result<Response<Incoming>, EgressError> {
    let mut connection = capture_connection(&mut request);
    let mut response = pin!(client.request(request));
    let connected = async {
        tokio::select! {
            biased;
            response = &mut response => Some(response),
            _ = connection.wait_for_connection_metadata() => None,
        }
    };
    let early = tokio::time::timeout(timeouts.connect, connected).await.map_err(|_| EgressError::ConnectionTimeout)?;
    let response = match early {
        Some(response) => response,
        None => loop {
            tokio::select! {
                biased;
                response = &mut response => break response,
                () = exchange.progress.notified() => {}
                () = tokio::time::sleep(timeouts.first_byte) => return Err(EgressError::ResponseTimeout),
            }
        },
    };
    response.map_err(|error| exchange.reason(error::of_client(&error)))
}
