//! A request as the port has it, to one that can be sent.

use std::sync::Arc;

use bulkhead_core::ports::egress::{EgressError, OutgoingRequest};
use hyper::header::{self, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Method, Request, Uri};

use super::body::Upload;
use super::exchange::Exchange;
use super::header as fields;
use super::host::Host;
use super::pool::Destination;

pub(super) fn prepare(
    request: OutgoingRequest,
    exchange: &Arc<Exchange>,
    max_fields: usize,
) -> Result<(Destination, Request<Upload>), EgressError> {
    let method = method(&request.method)?;
    let host = Host::parse(&request.host)?;
    let uri = uri(&request, &host)?;
    let (header, length) = fields::outgoing(request.header, max_fields)?;
    if request.body.is_none() && length.is_some_and(|length| length > 0) {
        return Err(EgressError::InvalidRequest);
    }
    let mut private = request.private.to_vec();
    private.sort_unstable();
    private.dedup();
    let destination = Destination { owner: request.owner, scheme: request.scheme, host, port: request.port, private };
    let mut sent = Request::new(Upload::new(request.body, length, Arc::clone(exchange)));
    *sent.method_mut() = method;
    *sent.uri_mut() = uri;
    *sent.headers_mut() = header;
    if let Some(length) = length {
        // As it was understood, not as it was written.
        sent.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok((destination, sent))
}

fn method(text: &str) -> Result<Method, EgressError> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.eq_ignore_ascii_case("connect") => Ok(method),
        _ => Err(EgressError::InvalidRequest),
    }
}

fn uri(request: &OutgoingRequest, host: &Host) -> Result<Uri, EgressError> {
    let invalid = || EgressError::InvalidRequest;
    let target = &request.target;
    // The parser would cut a fragment off, and let bytes beyond ASCII pass.
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(invalid());
    }
    let authority = if request.port == request.scheme.default_port() {
        host.to_string()
    } else {
        format!("{host}:{}", request.port)
    };
    Uri::builder()
        .scheme(request.scheme.as_str())
        .authority(Authority::try_from(authority).map_err(|_| invalid())?)
        .path_and_query(PathAndQuery::try_from(target.as_str()).map_err(|_| invalid())?)
        .build()
        .map_err(|_| invalid())
}
