//! Sending a request: its head, then its body beside whatever comes back.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::time::Duration;

use bulkhead_core::ports::egress::{EgressError, Scheme};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::super::call::Call;
use super::body::Incoming;
use super::exchange::{Handle, Voice};
use super::{Response, error};
use crate::bounds::{self, HTTP_PIECE, UPLOAD_WINDOW};
use crate::wire::{FromWorker, Request, StreamLimit};

/// Sends a request and waits for the head of its response.
pub(super) async fn send(
    exchange: Handle,
    head: &http::request::Parts,
    body: WasiBody,
    options: RequestOptions,
) -> Result<Response, Error> {
    let has_body = !body.is_end_stream();
    let size = checked(exchange.call(), &request(head, options, has_body))?;
    let begin = || exchange.begin(request(head, options, has_body));
    if !exchange.call().send_within(UPLOAD_WINDOW, size, begin).await {
        return Err(error::of(EgressError::Internal));
    }
    let mut sending: Pin<Box<dyn Future<Output = ()> + Send>> = match has_body {
        true => Box::pin(upload(exchange.voice(), body)),
        false => Box::pin(ready(())),
    };
    let mut sent = false;
    let head = poll_fn(|context| {
        sent = sent || sending.as_mut().poll(context).is_ready();
        exchange.poll_head(context)
    });
    let head = head.await?;
    // The rest of the body goes on while the response is read.
    let rest = async move {
        if !sent {
            sending.await;
        }
        Ok(())
    };
    Ok((http::Response::from_parts(head, Incoming(exchange).boxed_unsync()), Box::new(rest)))
}

/// The head as it goes over the wire.
fn request(head: &http::request::Parts, options: RequestOptions, has_body: bool) -> Request<'_> {
    let plain = head.uri.scheme() == Some(&http::uri::Scheme::HTTP);
    let milliseconds = |timeout: Option<Duration>| {
        timeout.map(|timeout| u64::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
    };
    Request {
        exchange: 0,
        method: head.method.as_str(),
        scheme: if plain { Scheme::Http } else { Scheme::Https },
        authority: head.uri.authority().map_or("", |authority| authority.as_str()),
        target: head.uri.path_and_query().map_or("/", |target| target.as_str()),
        header: head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
        has_body,
        connect_timeout_ms: milliseconds(options.connect_timeout),
        first_byte_timeout_ms: milliseconds(options.first_byte_timeout),
        between_bytes_timeout_ms: milliseconds(options.between_bytes_timeout),
    }
}

/// Its size, if it is one that the host takes.
fn checked(call: &Call, request: &Request<'_>) -> Result<usize, Error> {
    let size = request.size();
    if request.method.len() > bounds::MAX_HTTP_METHOD || request.method == "CONNECT" {
        return Err(Error::HttpRequestMethodInvalid);
    }
    if request.authority.is_empty() || request.authority.len() > bounds::MAX_HTTP_AUTHORITY {
        return Err(Error::HttpRequestUriInvalid);
    }
    let (fields, most) = (request.header.len(), bounds::MAX_HTTP_FIELDS);
    if size > bounds::MAX_HTTP_HEAD || fields > most {
        let (limit, wanted) =
            if fields > most { (StreamLimit::HttpFields, fields) } else { (StreamLimit::HttpHead, size) };
        call.refused(limit, Some(wanted as u64));
        return Err(Error::HttpRequestHeaderSectionSize(u32::try_from(size).ok()));
    }
    Ok(size)
}

/// Sends the body of a request as there is room for it.
async fn upload(voice: Voice, mut body: WasiBody) {
    if !all_of(&voice, &mut body).await {
        voice.say(|exchange| FromWorker::HttpBodyFailed { exchange });
    }
}

async fn all_of(voice: &Voice, body: &mut WasiBody) -> bool {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        // Trailers are not passed on: few servers read any.
        let Ok(data) = frame.into_data() else { continue };
        for data in data.chunks(HTTP_PIECE) {
            if !piece(voice, data, false).await {
                return false;
            }
        }
    }
    piece(voice, &[], true).await
}

async fn piece(voice: &Voice, data: &[u8], last: bool) -> bool {
    let send = || voice.say(|exchange| FromWorker::HttpBody { exchange, data, last });
    voice.call().send_within(UPLOAD_WINDOW, data.len(), send).await
}
