//! A response as it came, to one of the port.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::ports::egress::{Body, EgressError, IncomingResponse};
use bytes::Bytes;
use futures::stream;
use hyper::body::{Body as _, Incoming};
use hyper::{Response, StatusCode};
use tokio_util::sync::DropGuard;

use super::config::EgressConfig;
use super::dial::Peer;
use super::error;
use super::exchange::Exchange;
use super::header;

pub(super) fn translate(
    response: Response<Incoming>,
    exchange: Arc<Exchange>,
    over: DropGuard,
    between_bytes: Duration,
    config: &EgressConfig,
) -> Result<IncomingResponse, EgressError> {
    let (parts, incoming) = response.into_parts();
    // Nobody asked for another protocol.
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(EgressError::Protocol);
    }
    // HTTP/1 was held to this while it was read, HTTP/2 not exactly.
    if parts.headers.len() > config.max_header_fields || header::size(&parts.headers) > config.max_head_bytes {
        return Err(EgressError::ResponseHeadTooLarge);
    }
    let Peer(address) = parts.extensions.get().copied().ok_or(EgressError::Internal)?;
    let download = Download { incoming, exchange, between_bytes, _over: over };
    Ok(IncomingResponse {
        status: parts.status.as_u16(),
        header: header::incoming(parts.headers),
        address,
        body: download.into_body(),
    })
}

/// The body of a response on its way in. Dropping it ends the exchange.
struct Download {
    incoming: Incoming,
    exchange: Arc<Exchange>,
    between_bytes: Duration,
    _over: DropGuard,
}

impl Download {
    fn into_body(self) -> Body {
        Box::pin(stream::unfold(Some(self), async |download| {
            let mut download = download?;
            match download.next().await? {
                Ok(piece) => Some((Ok(piece), Some(download))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn next(&mut self) -> Option<Result<Bytes, EgressError>> {
        loop {
            let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut self.incoming).poll_frame(context));
            match tokio::time::timeout(self.between_bytes, frame).await {
                Err(_) => return Some(Err(EgressError::ResponseTimeout)),
                Ok(Some(Err(error))) => return Some(Err(self.exchange.reason(error::of_body(&error)))),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(piece) if !piece.is_empty() => return Some(Ok(piece)),
                    // Trailers are not passed on.
                    Ok(_) | Err(_) => {}
                },
                Ok(None) => return None,
            }
        }
    }
}
