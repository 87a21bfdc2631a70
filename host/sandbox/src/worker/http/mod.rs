//! `wasi:http` without a socket: the stock types and streams over frames. A
//! request leaves for the host, which decides about it; what the host answers
//! comes back piece by piece.

mod body;
mod error;
mod exchange;
mod link;
mod request;

use std::sync::Arc;

use http::HeaderName;
use http::uri::Scheme;
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks};

use super::call::Call;
use crate::bounds::{HTTP_PIECE, MAX_HTTP_HEAD};

pub(super) use exchange::{Exchange, Exchanges};
pub(super) use link::link;

/// What of `wasi:http` a call's store holds beside its table.
pub(super) fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(MAX_HTTP_HEAD);
    context
}

/// What the stock implementation asks of its host.
pub(super) struct Hooks(Arc<Call>);

impl Hooks {
    pub(super) fn new(call: Arc<Call>) -> Self {
        Self(call)
    }
}

/// What processes a response, beside its head and body.
type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
/// A response.
type Response = (http::Response<WasiBody>, Io);

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn default_scheme(&mut self) -> Option<Scheme> {
        Some(Scheme::HTTPS)
    }

    /// The host says it: it knows which.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        HTTP_PIECE
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Result<Response, Error>> + Send> {
        let (head, body) = request.into_parts();
        // Before it is sent, so that those that are too many wait for nothing.
        let exchange = exchange::Handle::open(&self.0);
        Box::new(async move { request::send(exchange?, &head, body, options.unwrap_or_default()).await })
    }
}
