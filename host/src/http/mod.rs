//! The HTTP edge. A handler translates: parse, one use case, map.
//!
//! The whole middleware stack stands in [`router`], outermost last: request
//! id and span, panics, CORS, load shedding, authentication.

#![allow(unused_qualifications, reason = "the macro of OpenAPI paths repeats the handlers' types in full")]

pub mod audit;
pub mod auth;
pub mod calls;
mod conditions;
pub mod contents;
pub mod deleted;
pub mod events;
pub mod extract;
mod fetch;
pub mod files;
pub mod forward;
pub mod grants;
mod presence;
pub mod problem;
mod rate;
mod reach;
pub mod records;
pub mod resource;
pub mod sessions;
pub mod socket;
mod standing;
pub mod streams;
pub mod system;
pub mod tasks;
pub mod tickets;
pub mod tools;
pub mod uploads;
pub mod volumes;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{self, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use bulkhead_core::clock::{Ids, NewId as _};
use bulkhead_core::principal::Principal;
use bulkhead_core::service::Services;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::auth::{Auth, Gate};
use self::presence::Presence;
use self::problem::Problem;
use self::resource::Resource;
use self::standing::Standing;
use self::streams::{Stream, StreamOptions, Streams};
use crate::metrics::Metrics;
use crate::tokens::Tokens;

/// How the edge behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may call.
    pub auth: Auth,
    /// Largest JSON body, in bytes.
    pub max_body_bytes: usize,
    /// Largest component, in bytes.
    pub max_component_bytes: usize,
    /// Requests answered at once; more are refused with 503.
    pub max_concurrent_requests: usize,
    /// What bounds event streams.
    pub streams: StreamOptions,
    /// How long `POST …/calls` waits if the client does not say.
    pub wait_default: Duration,
    /// How long a client may wait at most.
    pub wait_max: Duration,
    /// How long requests are still answered once the host is asked to stop.
    pub drain_notice: Duration,
    /// What clients are told about issuers of tokens, if there are some.
    pub resource: Option<Arc<Resource>>,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<HeaderValue>,
}

/// What handlers work with.
pub struct Api {
    /// The use cases.
    pub services: Services,
    /// What the ids of requests are made of.
    pub ids: Arc<dyn Ids>,
    /// How the edge behaves.
    pub options: Options,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Told before: whoever balances load should send requests elsewhere.
    pub leaving: CancellationToken,
    /// Ends streams when the host stops.
    pub stop: CancellationToken,
    /// Event streams that are open.
    pub streams: Arc<Streams>,
    /// The other hosts.
    pub peers: forward::Peers,
    /// Who checks tokens, if there are issuers.
    pub tokens: Option<Arc<Tokens>>,
}

impl Api {
    /// Begins a stream of an owner, if that may have one more.
    ///
    /// # Errors
    /// If it may not.
    async fn stream<E>(self: &Arc<Self>, caller: &Principal, events: E) -> Result<Stream<E>, Problem> {
        let place = self.streams.admit(caller.owner(), self.options.streams).await?;
        let standing = Standing::new(self, &caller.credential);
        Ok(Stream::new(events, place, standing, self.stop.clone(), self.options.streams, self.metrics.clone()))
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bulkhead",
        description = "A WebAssembly-sandboxed tool execution host. Sessions, tasks with a workspace and an event \
                       log, tools, and calls of tools. Errors are problems (RFC 9457) with a stable `code`. An administrator \
                       (scope `admin`) reads and ends what others of the tenant have by saying why, in the header \
                       `Bulkhead-Reason` (1 to 512 printable ASCII characters); each such access is in the audit log.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
        let bearer = || HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
        let token =
            bearer().bearer_format("JWT").description(Some("An access token of an issuer that this server takes"));
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(bearer().build()));
        components.add_security_scheme("token", SecurityScheme::Http(token.build()));
        // One of them.
        let either = ["api_key", "token"].map(|name| SecurityRequirement::new(name, Vec::<String>::new()));
        openapi.security = Some(either.to_vec());
    }
}

fn owned_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(system::whoami))
        .routes(routes!(sessions::create, sessions::list))
        .routes(routes!(sessions::get, sessions::delete))
        .routes(routes!(tasks::create, tasks::list))
        .routes(routes!(tasks::get, tasks::delete))
        .routes(routes!(tasks::archive))
        .routes(routes!(tasks::restore))
        .routes(routes!(tasks::tools))
        .routes(routes!(events::follow))
        .routes(routes!(socket::follow))
        .routes(routes!(tickets::create))
        .routes(routes!(calls::create, calls::list))
        .routes(routes!(calls::get))
        .routes(routes!(grants::give, grants::list))
        .routes(routes!(grants::revoke))
        .routes(routes!(grants::answer))
        .routes(routes!(grants::explain))
        .routes(routes!(audit::list))
        .routes(routes!(audit::of_task))
        .routes(routes!(tools::list))
        .routes(routes!(tools::get, tools::delete))
        .routes(routes!(tools::follow))
        .routes(routes!(files::entries_root))
        .routes(routes!(files::entries))
        .routes(routes!(files::make_dir))
        .routes(routes!(files::rename))
        .routes(routes!(records::history))
        .routes(routes!(records::accesses))
        .routes(routes!(records::preview))
        .routes(routes!(deleted::list, deleted::purge_all))
        .routes(routes!(deleted::purge))
        .routes(routes!(deleted::restore))
        .routes(routes!(contents::transfer))
        .routes(routes!(contents::put))
        .routes(routes!(uploads::begin))
        .routes(routes!(tools::register))
        .routes(routes!(volumes::list))
        .routes(routes!(volumes::retire))
        // Streamed; the file layer has the limit.
        .routes(routes!(tasks::create_from_archive))
        .routes(routes!(files::read, files::write, files::delete))
        .routes(routes!(uploads::get, uploads::add, uploads::cancel))
}

/// What an overloaded host still does, and whoever is over a rate may do:
/// ending something makes room.
fn urgent_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(calls::cancel))
}

/// Cancels answered at once; apart from all other requests.
const URGENT_AT_ONCE: usize = 64;

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let owned = owned_routes().merge(urgent_routes());
    let open = OpenApiRouter::new().routes(routes!(system::health)).routes(routes!(system::ready));
    let mut document = OpenApiRouter::with_openapi(Document::openapi()).merge(owned).into_openapi();
    document.merge(open.into_openapi());
    name_operations(&mut document);
    document
}

/// Each operation has an id of its own (OpenAPI 3.1, section 4.8.10), by which generated
/// clients name their functions: of its tag, and of the function that answers it.
fn name_operations(document: &mut utoipa::openapi::OpenApi) {
    for item in document.paths.paths.values_mut() {
        let all = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head, &mut item.patch];
        for operation in all.into_iter().filter_map(Option::as_mut) {
            let tag = operation.tags.as_ref().and_then(|tags| tags.first());
            operation.operation_id = tag.zip(operation.operation_id.take()).map(|(tag, id)| format!("{tag}_{id}"));
        }
    }
}

/// The whole edge as a service.
pub fn router(api: Arc<Api>) -> Router {
    let options = &api.options;
    let (owned, _) = owned_routes().split_for_parts();
    let metrics = Router::new().route("/metrics", axum::routing::get(system::metrics));
    let (urgent, _) = urgent_routes().split_for_parts();
    let gate = |counted, presence| Gate { api: api.clone(), counted, presence: Arc::new(presence) };
    let urgent = guarded(urgent, gate(false, Presence::new(URGENT_AT_ONCE, None)));
    let places = Presence::new(options.max_concurrent_requests, Some("http.max_concurrent_requests"));
    let authenticated = guarded(owned.merge(metrics), gate(true, places));
    let open = Router::new()
        .route("/", axum::routing::get(system::index))
        .route("/healthz", axum::routing::get(system::health))
        .route("/readyz", axum::routing::get(system::ready))
        .route("/v1/openapi.json", axum::routing::get(system::openapi))
        .route(resource::PATH, axum::routing::get(resource::metadata));
    let open = match options.resource.as_ref().and_then(|resource| resource.path.as_deref()) {
        Some(path) => open.route(path, axum::routing::get(resource::metadata)),
        None => open,
    };
    let request_id = HeaderName::from_static("x-request-id");
    let outer = ServiceBuilder::new()
        .layer(SetRequestIdLayer::new(request_id.clone(), MakeId(api.ids.clone())))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_response(()).on_request(()).on_failure(()))
        .layer(PropagateRequestIdLayer::new(request_id))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors(&options.cors_origins));
    authenticated
        .merge(urgent)
        // Not shed: an overloaded host is alive, and says so.
        .merge(open)
        .fallback(async || Problem::new("no_such_operation", "there is no such operation; see /v1/openapi.json"))
        .method_not_allowed_fallback(async || Problem::new("method_not_allowed", "see /v1/openapi.json"))
        .layer(outer)
        .with_state(api)
}

/// Gives an id to a request that came with none.
#[derive(Clone)]
struct MakeId(Arc<dyn Ids>);

impl MakeRequestId for MakeId {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        HeaderValue::try_from(self.0.request_id().to_string()).ok().map(RequestId::new)
    }
}

/// Routes that need a principal.
fn guarded(routes: Router<Arc<Api>>, gate: Gate) -> Router<Arc<Api>> {
    routes.layer(middleware::from_fn_with_state(gate, auth::authenticate))
}

/// A span that never has a header, a query or a body in it: those may hold secrets.
fn span(request: &Request) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok());
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    tracing::debug_span!(
        "request",
        id = id.unwrap_or_default(),
        method = %request.method(),
        route = route.unwrap_or_default(),
    )
}

fn cors(origins: &[HeaderValue]) -> CorsLayer {
    let exposed = [
        "x-request-id",
        "location",
        "retry-after",
        "etag",
        "repr-digest",
        "upload-offset",
        "upload-length",
        "upload-complete",
        "content-range",
        "ratelimit",
        "ratelimit-policy",
        "www-authenticate",
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::RANGE,
            header::IF_NONE_MATCH,
            header::IF_MATCH,
            header::IF_RANGE,
            conditions::CONTENT_DIGEST,
            conditions::REPR_DIGEST,
            uploads::OFFSET,
            uploads::COMPLETE,
            auth::REASON,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
            auth::API_KEY,
        ])
        .expose_headers(exposed.map(HeaderName::from_static))
        .max_age(Duration::from_secs(600))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("?"), "a handler panicked");
    Problem::new("internal", "the server failed; its log says why").into_response()
}
