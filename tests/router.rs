//! The router without a socket and without guests: store in memory, a backend
//! that runs nothing. What an edge decides by itself, and how it says so.

mod interleavings;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use bulkhead::components::ComponentFiles;
use bulkhead::config::{Access, Config, Rule};
use bulkhead::http::auth::Auth;
use bulkhead::http::forward::Peers;
use bulkhead::http::streams::StreamOptions;
use bulkhead::http::{Api, Options, router};
use bulkhead::metrics::{Metrics, Readings};
use bulkhead::rates::{LocalRates, RateConfig};
use bulkhead::system::System;
use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::clock::{Clock as _, NewId as _};
use bulkhead_core::id::{RequestId, TenantId};
use bulkhead_core::ports::cluster::Alone;
use bulkhead_core::ports::egress::NoEgress;
use bulkhead_core::ports::store::{AcceptCall, Store as _};
use bulkhead_core::principal::{Owner, Scope, Scopes};
use bulkhead_core::service::keys::NewKey;
use bulkhead_core::service::{Ports, Services};
use bulkhead_sandbox::WasmStats;
use bulkhead_sandbox::contract::FakeSandbox;
use bulkhead_store::MemoryStore;
use bulkhead_workspace::import::ChildImporter;
use bulkhead_workspace::{KernelQuota, LocalWorkspaces};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A router with all that is behind it.
struct Edge {
    router: Router,
    api: Arc<Api>,
    store: Arc<MemoryStore>,
    key: String,
    _data: TempDir,
}

impl Edge {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::configured(Config::default(), change).await
    }

    async fn configured(config: Config, change: impl FnOnce(&mut Options)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = Config { data: data.path().to_owned(), ..config };
        std::fs::create_dir(config.components()).unwrap();
        let metrics = Metrics::new(|| Readings {
            store: Default::default(),
            redis: None,
            workers: WasmStats::default(),
            policy_failures: 0,
            tokens: Default::default(),
        });
        let importer = ChildImporter::new(config.importer("/nowhere".into())).unwrap();
        let store = Arc::new(MemoryStore::new());
        let workspaces = Arc::new(LocalWorkspaces::new(data.path(), KernelQuota::Off).unwrap());
        let ports = Ports {
            rates: Arc::new(LocalRates::new(RateConfig::default())),
            live: None,
            cluster: Arc::new(Alone::new(store.clone())),
            store: store.clone(),
            sandbox: Arc::new(FakeSandbox::default()),
            archives: Arc::new(workspaces.archiver(config.archiver("/nowhere".into()))),
            workspaces,
            importer: Arc::new(importer),
            components: Arc::new(ComponentFiles::new(config.components(), None)),
            ids: Arc::new(System),
            meter: metrics.clone(),
            egress: Arc::new(NoEgress),
        };
        let services = Services::new(ports, config.service());
        let mut options = Options {
            auth: Auth::Required,
            max_body_bytes: 1 << 20,
            max_component_bytes: 1 << 20,
            max_concurrent_requests: 64,
            streams: StreamOptions {
                per_user: 4,
                heartbeat: Duration::from_secs(15),
                stall: Duration::from_secs(30),
                age: Duration::from_secs(3_600),
            },
            wait_default: Duration::from_secs(30),
            wait_max: Duration::from_secs(60),
            drain_notice: Duration::ZERO,
            resource: None,
            cors_origins: vec![HeaderValue::from_static("https://app.example")],
        };
        change(&mut options);
        let (stop, streams) = (CancellationToken::new(), Arc::default());
        let api = Arc::new(Api {
            services,
            ids: Arc::new(System),
            options,
            metrics,
            leaving: CancellationToken::new(),
            stop,
            streams,
            peers: Peers::default(),
            tokens: None,
        });
        let key = key(&api, Scopes::all()).await;
        Self { router: router(api.clone()), api, store, key, _data: data }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    fn request(&self, method: Method, path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        request.header("authorization", format!("Bearer {}", self.key)).body(body.into()).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.send(self.request(Method::POST, path, "application/json", body.to_string())).await).await
    }

    /// A task with the fake's tool of this name.
    async fn task(&self, tool: &str) -> String {
        let component = FakeSandbox::component(tool);
        let (_, made) =
            read(self.send(self.request(Method::POST, "/v1/tools", "application/wasm", component)).await).await;
        let id = made["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(self.api.services.tools.settled(id).await.unwrap().state.name(), "ready");
        let (status, task) = self.post("/v1/tasks", &json!({})).await;
        assert_eq!(status, 201);
        task["id"].as_str().unwrap().to_owned()
    }
}

/// A key of a user of its own.
async fn key(api: &Api, scopes: Scopes) -> String {
    key_of(api, Owner { tenant: System.tenant_id(), user: System.user_id() }, scopes).await
}

async fn key_of(api: &Api, owner: Owner, scopes: Scopes) -> String {
    let new = NewKey { owner, scopes, label: String::new(), expires_at: None };
    api.services.keys.create(new).await.unwrap().0.reveal()
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn a_call_is_answered_with_its_end() {
    let edge = Edge::new().await;
    let path = format!("/v1/tasks/{}/calls", edge.task("echo").await);
    let (status, call) = edge.post(&path, &json!({"tool": "echo", "arguments": {"a": 1}})).await;
    assert_eq!((status, &call["state"]), (StatusCode::OK, &json!("succeeded")), "{call}");
    assert_eq!(call["outcome"]["content"][0]["text"], r#"{"a":1}"#);
    assert_eq!(call["attempts"], 1);
}

#[tokio::test]
async fn a_panic_of_the_host_ends_its_call_and_no_other() {
    let edge = Edge::new().await;
    let (bad, good) = (edge.task("panic").await, edge.task("echo").await);
    // As often as it likes: whatever a call holds is given back.
    for _ in 0..20 {
        let (status, call) =
            edge.post(&format!("/v1/tasks/{bad}/calls"), &json!({"tool": "panic", "arguments": {}})).await;
        assert_eq!((status, &call["state"]), (StatusCode::OK, &json!("interrupted")), "{call}");
        assert_eq!(call["outcome"]["fault"]["code"], "host_error");
    }
    let (_, call) = edge.post(&format!("/v1/tasks/{good}/calls"), &json!({"tool": "echo", "arguments": {}})).await;
    assert_eq!(call["state"], "succeeded", "{call}");
}

/// As if a host had died in the middle of it: nobody runs it until somebody takes it up.
#[tokio::test]
async fn a_call_that_was_given_up_while_nobody_ran_it_is_not_started_again() {
    let mut edge = Edge::new().await;
    let owner = Owner { tenant: System.tenant_id(), user: System.user_id() };
    edge.key = key_of(&edge.api, owner, Scopes::all()).await;
    let path = format!("/v1/tasks/{}/calls", edge.task("echo").await);
    let (_, like) = edge.post(&path, &json!({"tool": "echo", "arguments": {}})).await;
    let like = edge.store.call(owner, like["id"].as_str().unwrap().parse().unwrap()).await.unwrap().unwrap();
    for (given_up, state, attempts) in [(false, "succeeded", 2), (true, "interrupted", 1)] {
        let running = CallState::Running { since: like.created_at };
        let call = Arc::new(Call { id: System.call_id(), state: running, attempts: 1, ..like.clone() });
        let accept = AcceptCall { call: call.clone(), idempotency: None, own_limits: true, events: Vec::new() };
        edge.store.accept_call(accept).await.unwrap();
        let path = format!("/v1/calls/{}", call.id);
        if given_up {
            assert_eq!(edge.post(&format!("{path}/cancel"), &json!({})).await.0, StatusCode::ACCEPTED);
        }
        edge.api.services.upkeep.start().await.unwrap();
        let request = edge.request(Method::GET, &format!("{path}?wait=20"), "application/json", "");
        let (_, call) = read(edge.send(request).await).await;
        assert_eq!((&call["state"], &call["attempts"]), (&json!(state), &json!(attempts)), "{call}");
    }
}

#[tokio::test]
async fn who_does_not_wait_is_told_where_to_look() {
    let edge = Edge::new().await;
    let task = edge.task("spin").await;
    let body = json!({"tool": "spin", "arguments": {}}).to_string();
    for wait in ["0", "0.05"] {
        let path = format!("/v1/tasks/{task}/calls?wait={wait}");
        let response = edge.send(edge.request(Method::POST, &path, "application/json", body.clone())).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        let (_, call) = read(response).await;
        assert_eq!(location, format!("/v1/calls/{}", call["id"].as_str().unwrap()));
        assert_eq!(call["state"], "running");
        // Cancelled, it ends; who waits then gets the end.
        let (status, _) = edge.post(&format!("{location}/cancel"), &json!({})).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let get = edge.request(Method::GET, &format!("{location}?wait=30"), "application/json", "");
        assert_eq!(read(edge.send(get).await).await.1["state"], "cancelled");
    }
}

#[tokio::test]
async fn a_key_makes_a_call_once_and_a_replay_waits_for_the_first() {
    let edge = Edge::new().await;
    let task = edge.task("spin").await;
    let send = |wait: &str, body: &str| {
        let path = format!("/v1/tasks/{task}/calls?wait={wait}");
        let mut request = edge.request(Method::POST, &path, "application/json", body.to_owned());
        request.headers_mut().insert("idempotency-key", HeaderValue::from_static("once"));
        edge.send(request)
    };
    let body = r#"{"tool":"spin","arguments":{}}"#;
    let (_, first) = read(send("0", body).await).await;
    let (again, cancel) = tokio::join!(send("30", body), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        edge.post(&format!("/v1/calls/{}/cancel", first["id"].as_str().unwrap()), &json!({})).await
    });
    assert_eq!(cancel.0, StatusCode::ACCEPTED);
    let (status, again) = read(again).await;
    assert_eq!((status, &again["id"], &again["state"]), (StatusCode::OK, &first["id"], &json!("cancelled")));
    let (status, problem) = read(send("0", r#"{"tool":"spin","arguments":{"other":1}}"#).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("idempotency_key_reused")));
}

#[tokio::test]
async fn each_mistake_has_a_problem_of_its_own() {
    let edge = Edge::new().await;
    let task = edge.task("echo").await;
    let calls = format!("/v1/tasks/{task}/calls");
    let json = "application/json";
    let cases: [(Method, &str, &str, &str, u16, &str); 9] = [
        (Method::POST, &calls, json, r#"{"tool":"#, 400, "malformed_json"),
        (Method::POST, &calls, json, r#"{"tool":"echo","arguments":{},"x":1}"#, 400, "malformed_json"),
        (Method::POST, &calls, "text/plain", "{}", 415, "unsupported_media_type"),
        (Method::POST, &calls, json, r#"{"tool":"none","arguments":{}}"#, 422, "unknown_tool"),
        (Method::POST, &calls, json, r#"{"tool":"echo","arguments":[]}"#, 422, "arguments_mismatch"),
        (Method::POST, "/v1/tasks", json, r#"{"limits":{"wall_time_ms":99999999999}}"#, 400, "invalid_request"),
        (Method::GET, "/v1/tasks/none", json, "", 404, "not_found"),
        (Method::GET, "/v1/nothing", json, "", 404, "no_such_operation"),
        (Method::PATCH, "/v1/tasks", json, "", 405, "method_not_allowed"),
    ];
    for (method, path, kind, body, status, code) in cases {
        let response = edge.send(edge.request(method, path, kind, body.to_owned())).await;
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let (got, problem) = read(response).await;
        assert_eq!((got.as_u16(), &problem["code"]), (status, &json!(code)), "{path} {body}: {problem}");
        assert_eq!(kind, "application/problem+json");
    }
    let large = edge.request(Method::POST, &calls, json, vec![b' '; (1 << 20) + 1]);
    assert_eq!(read(edge.send(large).await).await.1["code"], "too_large");
}

#[tokio::test]
async fn keys_scopes_and_owners_are_asked_for() {
    let mut edge = Edge::new().await;
    let task = edge.task("echo").await;
    let path = format!("/v1/tasks/{task}");
    let bare = Request::builder().uri(&path).body(Body::empty()).unwrap();
    let response = edge.send(bare).await;
    assert!(response.headers().contains_key("www-authenticate"));
    assert_eq!(read(response).await.1["code"], "unauthenticated");
    edge.key = key(&edge.api, Scopes::all()).await;
    let foreign = edge.send(edge.request(Method::GET, &path, "application/json", "")).await;
    assert_eq!(read(foreign).await.1["code"], "not_found", "somebody else's is not there");
    edge.key = key(&edge.api, [Scope::TasksRead].into_iter().collect()).await;
    let (status, problem) = edge.post("/v1/tasks", &json!({})).await;
    assert_eq!((status.as_u16(), &problem["code"]), (403, &json!("missing_scope")));
}

#[tokio::test]
async fn an_access_that_can_not_be_written_down_is_not_given() {
    let mut edge = Edge::new().await;
    let path = format!("/v1/tasks/{}", edge.task("echo").await);
    let get = |edge: &Edge| {
        let mut request = edge.request(Method::GET, &path, "application/json", "");
        request.headers_mut().insert("bulkhead-reason", HeaderValue::from_static("on call"));
        request
    };
    edge.key = key(&edge.api, [Scope::TasksRead, Scope::OperatorAdmin].into_iter().collect()).await;
    assert_eq!(edge.send(get(&edge)).await.status(), 200);
    edge.store.refuse_audit(true);
    let (status, problem) = read(edge.send(get(&edge)).await).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("store_unavailable")));
    edge.store.refuse_audit(false);
    assert_eq!(edge.send(get(&edge)).await.status(), 200);
}

#[tokio::test]
async fn what_a_watched_rule_lets_through_is_written_down_once_in_a_while() {
    let access = Access { scopes: Rule::Audit, ..Access::default() };
    let mut edge = Edge::configured(Config { access, ..Config::default() }, |_| {}).await;
    let owner = Owner { tenant: System.tenant_id(), user: System.user_id() };
    edge.key = key_of(&edge.api, owner, [Scope::TasksRead].into_iter().collect()).await;
    for _ in 0..5 {
        assert_eq!(edge.post("/v1/sessions", &json!({"label": "s"})).await.0, StatusCode::CREATED);
    }
    let would_refuse = AuditFilter { kind: Some("access.would_refuse".into()), ..AuditFilter::default() };
    let records = edge.store.list_audit(owner, &would_refuse, 0, 10).await.unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    let data: Value = serde_json::from_str(&records[0].record.data).unwrap();
    assert_eq!(data, json!({"rule": "scopes", "operation": "sessions.create", "what": "tasks:write"}));
    // What can't be written down is not let through.
    edge.store.refuse_audit(true);
    let calls = format!("/v1/tasks/{}/restore", nobodys_task());
    assert_eq!(edge.post(&calls, &json!({})).await.0, StatusCode::SERVICE_UNAVAILABLE);
    edge.store.refuse_audit(false);
    assert_eq!(edge.post(&calls, &json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(edge.store.list_audit(owner, &would_refuse, 0, 10).await.unwrap().len(), 2);
}

fn nobodys_task() -> String {
    System.task_id().to_string()
}

#[tokio::test]
async fn an_administrator_who_looks_at_a_session_is_on_its_owners_record() {
    let mut edge = Edge::new().await;
    let [owner, admin] = [1, 2].map(|_| Owner { tenant: TenantId::from_parts(1, 1), user: System.user_id() });
    edge.key = key_of(&edge.api, owner, Scopes::usual()).await;
    let (_, session) = edge.post("/v1/sessions", &json!({"label": "mine"})).await;
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    edge.key = key_of(&edge.api, admin, [Scope::TasksRead, Scope::Admin].into_iter().collect()).await;
    let get = |why: Option<&'static str>| {
        let mut request = edge.request(Method::GET, &path, "application/json", "");
        if let Some(why) = why {
            request.headers_mut().insert("bulkhead-reason", HeaderValue::from_static(why));
        }
        edge.send(request)
    };
    assert_eq!(get(None).await.status(), StatusCode::NOT_FOUND);
    let (status, found) = read(get(Some("a complaint")).await).await;
    assert_eq!((status, &found["label"]), (StatusCode::OK, &json!("mine")));
    let accessed = AuditFilter { kind: Some("admin.accessed".into()), ..AuditFilter::default() };
    let records = edge.store.list_audit(owner, &accessed, 0, 10).await.unwrap();
    assert_eq!(records.len(), 1);
    let data: Value = serde_json::from_str(&records[0].record.data).unwrap();
    let by = (admin.tenant.to_string(), admin.user.to_string());
    assert_eq!((&data["by_tenant"], &data["by_user"]), (&json!(by.0), &json!(by.1)));
    assert_eq!((&data["thing"], &data["reason"]), (&session["id"], &json!("a complaint")));
    assert_eq!(data["operation"], "sessions.get");
}

#[tokio::test]
async fn a_full_edge_sheds_and_stays_healthy() {
    let edge = Edge::with(|options| options.max_concurrent_requests = 1).await;
    let task = edge.task("spin").await;
    let body = json!({"tool": "spin", "arguments": {}}).to_string();
    let waiting = edge.request(Method::POST, &format!("/v1/tasks/{task}/calls?wait=30"), "application/json", body);
    let waiting = tokio::spawn(edge.router.clone().oneshot(waiting));
    let mut shed = StatusCode::OK;
    for _ in 0..500 {
        let response = edge.send(edge.request(Method::GET, "/v1/whoami", "application/json", "")).await;
        shed = response.status();
        if shed == StatusCode::SERVICE_UNAVAILABLE {
            assert!(response.headers().contains_key("retry-after"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(shed, StatusCode::SERVICE_UNAVAILABLE);
    let health = Request::builder().uri("/healthz").body(Body::empty()).unwrap();
    assert_eq!(edge.send(health).await.status(), StatusCode::OK);
    waiting.abort();
}

#[tokio::test]
async fn each_request_has_an_id_its_own_or_a_new_one() {
    let edge = Edge::new().await;
    let id = async |own: Option<&str>| {
        let mut request = Request::builder().uri("/healthz");
        if let Some(own) = own {
            request = request.header("x-request-id", own);
        }
        let response = edge.send(request.body(Body::empty()).unwrap()).await;
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(Some("of-the-client")).await, "of-the-client");
    let (one, other) = (id(None).await, id(None).await);
    assert!(one.parse::<RequestId>().is_ok(), "{one}");
    assert_ne!(one, other);
}

#[tokio::test]
async fn only_listed_origins_pass_a_preflight() {
    let edge = Edge::new().await;
    for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false)] {
        let request = Request::builder().method(Method::OPTIONS).uri("/v1/tasks").header("origin", origin);
        let request = request.header("access-control-request-method", "POST").body(Body::empty()).unwrap();
        let response = edge.send(request).await;
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn a_filter_of_the_audit_log_passes_over_so_much_for_a_page() {
    let mut edge = Edge::new().await;
    let owner = Owner { tenant: System.tenant_id(), user: System.user_id() };
    edge.key = key_of(&edge.api, owner, Scopes::usual()).await;
    let body = AuditBody::CallRevoked { reason: "as often as it takes".into() };
    let record = NewAudit::new(System.now(), owner, None, None, &body);
    edge.store.append_audit(vec![record; 20_000]).await.unwrap();
    let page = async |query: &str| {
        let request = edge.request(Method::GET, &format!("/v1/audit?{query}"), "application/json", "");
        read(edge.send(request).await).await.1
    };
    let passed = page("kind=tool.deleted").await;
    assert_eq!(
        (passed["items"].as_array().map(Vec::len), &passed["next_after"]),
        (Some(0), &json!(20_000)),
        "{passed}"
    );
    let last = page("kind=tool.deleted&after=20000").await;
    assert_eq!(last, json!({"items": []}));
    let found = page("kind=call.revoked&after=7&limit=2").await;
    assert_eq!((&found["items"][1]["number"], &found["next_after"]), (&json!(9), &json!(9)));
}
