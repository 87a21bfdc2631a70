//! The composition root: configuration in, a running host out. Only here are
//! concrete adapters named.

mod hosts;
mod serve;
mod store;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::serve::ListenerExt as _;
use bulkhead_core::clock::Ids;
use bulkhead_core::ports::cluster::Cluster;
use bulkhead_core::ports::live::{Connections, Live};
use bulkhead_core::ports::rates::Rates;
use bulkhead_core::ports::sandbox::SandboxError;
use bulkhead_core::principal::{Credential, Owner, Principal, Scopes};
use bulkhead_core::service::keys::NewKey;
use bulkhead_core::service::{Ports, Services};
use bulkhead_sandbox::{Part, WasmConfig, WasmSandbox};
use bulkhead_store::{Redis, RedisRates};
use bulkhead_workspace::LocalWorkspaces;
use bulkhead_workspace::import::ChildImporter;
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use serve::serve;
pub use store::{OpenStore, StoreOpenError, StoreReadings};

use crate::audit::export::Exporter;
use crate::audit::{HeadKey, KeyFileError};
use crate::components::ComponentFiles;
use crate::config::{self, Config};
use crate::egress::{EgressConfig, EgressSetupError, HttpEgress};
use crate::http::auth::Auth;
use crate::http::forward::Peers;
use crate::http::resource::Resource;
use crate::http::streams::{StreamOptions, Streams};
use crate::http::{Api, Options, router};
use crate::metrics::{Metrics, Readings};
use crate::policy::{self, Loader, PolicyError};
use crate::rates::LocalRates;
use crate::system::System;
use crate::tokens::Tokens;

/// How long open connections may take to end after the stop.
const DRAIN_CONNECTIONS: Duration = Duration::from_secs(5);

/// Bytes of a connection that wait in the kernel to be sent, at most: enough that a fast
/// one never runs dry while we are woken for more. Without it they are as many as the
/// kernel likes to buffer, some megabytes (`net.ipv4.tcp_wmem`).
const UNSENT: u32 = 128 << 10;

/// Why the host can't start. Each names what is in the way and the remedy.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory can't be used.
    #[error("the data directory {} can't be used: {reason}; set `data` (BULKHEAD_DATA) to one that this user may write", path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Another host uses it.
    #[error("the data directory {} is in use by another server; stop that one, or set `data` (BULKHEAD_DATA) to another directory", .0.display())]
    InUse(PathBuf),
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] StoreOpenError),
    /// The address can't be bound.
    #[error("{listen} can't be listened on: {reason}; set `listen` (BULKHEAD_LISTEN) to another address")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        reason: io::Error,
    },
    /// What an earlier run left can't be taken over.
    #[error("recovery failed: {0}; nothing was changed by this start that a later one can't take up")]
    Recovery(#[from] bulkhead_core::Error),
    /// The network can't be set up.
    #[error("the network for tools can't be set up: {0}; see `egress` in the configuration")]
    Egress(#[from] EgressSetupError),
    /// Issuers of tokens can't be set up.
    #[error("tokens can't be checked: {0}; see `tokens` in the configuration")]
    Tokens(String),
    /// The policy can't be used.
    #[error("the policy can't be used: {0}")]
    Policy(#[from] PolicyError),
    /// The heads of the audit log can't be signed.
    #[error(transparent)]
    Heads(#[from] KeyFileError),
    /// Guests can't be shut in.
    #[error(
        "guests can't be shut in: {0}; `bulkhead doctor` says what this machine lacks, and `workers.isolation = \"best-effort\"` runs them behind what there is"
    )]
    Walls(#[source] SandboxError),
    /// Something of the operating system.
    #[error("{what}: {reason}")]
    System {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        reason: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |reason| StartError::System { what, reason }
}

/// Who checks tokens, and the network by which issuers' keys come.
type CheckedTokens = (Arc<Tokens>, Arc<HttpEgress>);

/// A host that is bound and recovered, ready to serve.
pub struct App {
    /// Everything that handlers work with.
    pub api: Arc<Api>,
    /// The address that is listened on (the port is known now).
    pub address: SocketAddr,
    /// The key that was made because there was none: shown once.
    pub first_key: Option<String>,
    listener: TcpListener,
    /// The policy's file, how often to look at it, and how often it was of no use.
    watched: Option<(Loader, Duration, Arc<AtomicU64>)>,
    /// Signs and exports the heads of the audit log.
    heads: Exporter,
    /// Whose connections are ended at the stop.
    egress: Arc<HttpEgress>,
    redis: Option<Arc<Redis>>,
    /// Ended at the stop too; none without issuers.
    tokens: Option<CheckedTokens>,
    /// Held until the end: one host per data directory.
    _lock: File,
}

impl App {
    /// Builds a host: opens and checks the store, takes over what an earlier
    /// run left, binds the address.
    ///
    /// # Errors
    /// The first thing that is in the way.
    pub async fn build(config: &Config) -> Result<Self, StartError> {
        let lock = data_directory(config)?;
        let listen = config.listen;
        let listener = TcpListener::bind(listen).await.map_err(|reason| StartError::Listen { listen, reason })?;
        let address = listener.local_addr().map_err(system("the bound address"))?;
        let store = open_store(config).await?;
        let host = hosts::of(config)?;
        let cluster = hosts::join(config, host, &store, address).await?;
        let redis = hosts::redis(config, host, &store)?;
        let key = HeadKey::open_or_make(&config.audit_key(), &System)?;
        let heads = Exporter::new(key, config.audit_heads(), Duration::from_secs(config.audit.export_every_s));
        let exe = std::env::current_exe().map_err(system("the path of this executable"))?;
        let workspaces = LocalWorkspaces::new(&config.workspaces(), config.kernel_quota());
        let workspaces = Arc::new(workspaces.map_err(system("the directory of workspaces"))?);
        if workspaces.has_kernel_quota() {
            tracing::info!("the kernel bounds what each workspace may have");
        }
        let sandbox = sandbox(config, exe.clone(), workspaces.clone()).await?;
        let policy_failures = Arc::new(AtomicU64::new(0));
        let tokens = tokens(config)?;
        let metrics = {
            let (store, sandbox, failures) = (store.clone(), sandbox.clone(), policy_failures.clone());
            let redis = redis.clone();
            let tokens = tokens.clone();
            Metrics::new(move || Readings {
                store: store.readings(),
                redis: redis.as_ref().map(|redis| redis.stats()),
                workers: sandbox.stats(),
                policy_failures: failures.load(Relaxed),
                tokens: tokens.as_ref().map(|(tokens, _)| tokens.readings()).unwrap_or_default(),
            })
        };
        let egress = Arc::new(egress(config.egress())?);
        let ports = ports(
            config,
            exe,
            (&store, cluster, redis.clone()),
            (sandbox, workspaces),
            metrics.clone(),
            egress.clone(),
        )?;
        let ids = ports.ids.clone();
        let services = Services::new(ports, config.service());
        warn_of_softened(config);
        // Before recovery: calls that waited start under it.
        let loader = policy(config, &services).await?;
        let restart = services.upkeep.start().await?;
        if restart != Default::default() {
            tracing::info!(
                interrupted = restart.calls.interrupted,
                requeued = restart.calls.requeued,
                tasks_failed = restart.tasks_failed,
                tools_compiling = restart.tools_compiling,
                "took over what an earlier run left"
            );
        }
        let (owner, first_key) = first_key(config, &services).await?;
        let auth = match config.auth {
            config::Auth::Required => Auth::Required,
            config::Auth::Off => Auth::Off(Principal::new(owner, Scopes::all(), Credential::None)),
        };
        let api = Api {
            services,
            ids,
            options: options(config, auth),
            metrics,
            leaving: CancellationToken::new(),
            stop: CancellationToken::new(),
            streams: Arc::new(Streams::new(redis.clone().map(|redis| redis as Arc<dyn Connections>))),
            peers: Peers::default(),
            tokens: tokens.as_ref().map(|(tokens, _)| tokens.clone()),
        };
        let watched = loader.map(|loader| (loader, Duration::from_millis(config.policy.reload_ms), policy_failures));
        let api = Arc::new(api);
        Ok(Self { api, address, first_key, listener, watched, heads, egress, redis, tokens, _lock: lock })
    }

    /// Serves until `stop` resolves, then stops in order: no new connections,
    /// streams end, running calls drain, everything is stored.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), StartError> {
        let Self { api, listener, watched, heads, egress, redis, tokens, .. } = self;
        let exporting = tokio::spawn(heads.run(api.services.audit.clone(), api.stop.clone()));
        let watching = watched.map(|(loader, every, failures)| {
            tokio::spawn(policy::watch(loader, api.clone(), every, failures, api.stop.clone()))
        });
        // Without it a stream's small writes wait 40 ms for an acknowledgement.
        // Later than a stream that can say by itself why it ends.
        let stall = u32::try_from(2 * api.options.streams.stall.as_millis()).unwrap_or(u32::MAX);
        let listener = listener.tap_io(move |stream| {
            // Who takes nothing of what was sent for so long is gone or shed.
            if let Err(error) = sockopt::set_tcp_user_timeout(&*stream, stall) {
                tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
            }
            // Who takes less leaves it to us to hold, and to count, and not to the kernel.
            if let Err(error) = SockRef::from(&*stream).set_tcp_notsent_lowat(UNSENT) {
                tracing::debug!(%error, "TCP_NOTSENT_LOWAT could not be set");
            }
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
        });
        let (router, token) = (router(api.clone()), api.stop.clone());
        // Who is refused is counted by where it comes from.
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        let (leaving, notice) = (api.leaving.clone(), api.options.drain_notice);
        let on_stop = async move {
            stop.await;
            tracing::info!("stopping");
            leaving.cancel();
            tokio::time::sleep(notice).await;
            token.cancel();
        };
        let server = axum::serve(listener, router).with_graceful_shutdown(on_stop).into_future();
        let mut server = tokio::spawn(server);
        let served = tokio::select! {
            served = &mut server => Some(served),
            () = api.stop.cancelled() => None,
        };
        // They end with the token; a panic in one was logged.
        for ending in watching.into_iter().chain([exporting]) {
            let _ = ending.await;
        }
        // Waiting requests hold connections; calls that end let them go.
        api.services.upkeep.stop().await;
        egress.close().await;
        if let Some(redis) = redis {
            redis.shut_down().await;
        }
        if let Some((tokens, egress)) = tokens {
            tokens.close().await;
            egress.close().await;
        }
        let served = match served {
            Some(served) => served,
            None => match tokio::time::timeout(DRAIN_CONNECTIONS, &mut server).await {
                Ok(served) => served,
                Err(_) => {
                    tracing::warn!("some connections did not end in time and were cut");
                    server.abort();
                    return Ok(());
                }
            },
        };
        served.map_err(io::Error::other).flatten().map_err(system("the HTTP server"))
    }
}

/// The first owner, and a key for it if there was none and keys are asked for.
async fn first_key(config: &Config, services: &Services) -> Result<(Owner, Option<String>), StartError> {
    let (owner, new) = services.keys.first_owner().await?;
    if !new || config.auth != config::Auth::Required {
        return Ok((owner, None));
    }
    let key = NewKey { owner, scopes: Scopes::all(), label: "first key".into(), expires_at: None };
    Ok((owner, Some(services.keys.create(key).await?.0.reveal())))
}

/// The store.
async fn open_store(config: &Config) -> Result<OpenStore, StartError> {
    let store = OpenStore::open(config).await?;
    match &config.database_url {
        None => tracing::info!(file = %config.database().display(), "the store is a SQLite file"),
        Some(url) => {
            tracing::info!(%url, "the store is a PostgreSQL database");
            if !url.is_verified() {
                tracing::warn!(
                    "the database is elsewhere and need not prove who it is; add sslmode=verify-full to DATABASE_URL"
                );
            }
        }
    }
    Ok(store)
}

/// The network. A machine that trusts nobody can still do without `https`.
fn egress(config: EgressConfig) -> Result<HttpEgress, EgressSetupError> {
    match HttpEgress::new(config.clone()) {
        Err(EgressSetupError::NoRoots(why)) => {
            tracing::warn!(why, "nothing can use https: this machine has no certificates; see `egress.ca_file`");
            HttpEgress::new(EgressConfig { native_roots: false, ..config })
        }
        made => made,
    }
}

/// Who checks tokens, if there are issuers, with connections of its own. They
/// are few: an issuer has one task, which fetches one thing at a time.
fn tokens(config: &Config) -> Result<Option<CheckedTokens>, StartError> {
    let Some(tokens) = config.tokens() else { return Ok(None) };
    const CONNECTIONS: usize = 32;
    let few = EgressConfig {
        max_connections: CONNECTIONS,
        max_connections_per_tenant: CONNECTIONS,
        max_idle_per_destination: 0,
        ..config.egress()
    };
    let egress = Arc::new(egress(few)?);
    let tokens = Tokens::new(tokens, egress.clone(), Arc::new(System)).map_err(StartError::Tokens)?;
    tokens.start();
    Ok(Some((Arc::new(tokens), egress)))
}

/// What rules of access only watch is told: it is meant to end.
fn warn_of_softened(config: &Config) {
    for rule in config.service().rules.softened() {
        tracing::warn!(
            rule = rule.name(),
            "a rule of access is not enforced, as `access` says: what it would refuse is let through and written down"
        );
    }
}

/// Puts the configured policy in force, if there is one.
async fn policy(config: &Config, services: &Services) -> Result<Option<Loader>, StartError> {
    if config.policy.file.as_os_str().is_empty() {
        return Ok(None);
    }
    let (loader, loaded) = Loader::first(&config.policy.file)?;
    policy::install(services, loaded).await?;
    Ok(Some(loader))
}

/// The sandbox, behind walls that were seen to stand.
async fn sandbox(
    config: &Config,
    exe: PathBuf,
    workspaces: Arc<LocalWorkspaces>,
) -> Result<Arc<WasmSandbox>, StartError> {
    let wasm = WasmConfig { domains: Some(workspaces), ..config.wasm(exe, config.absolute_data().join("artifacts")) };
    let sandbox = Arc::new(WasmSandbox::new(wasm).map_err(system("the sandbox"))?);
    let walls = sandbox.check_walls().await.map_err(StartError::Walls)?;
    tracing::info!(walls = walls.names().join(", "), "workers are shut in");
    if let extras @ [_, ..] = walls.without().as_slice() {
        tracing::info!(extras = extras.join(", "), "workers do without some extras of the wall around them");
    }
    if config.experimental.wasi_03 {
        tracing::warn!(
            "tools of WASI 0.3 are accepted, as `experimental.wasi_03` says; the engine's side of it gets no patch releases for its security"
        );
    }
    let groups = sandbox.cgroups();
    tracing::info!(
        limited = groups.limited(),
        without = groups.without.join(", "),
        user = WasmSandbox::user_of_workers(&walls),
        "control groups and user of workers"
    );
    let missing: Vec<&str> = walls.missing().into_iter().map(Part::name).collect();
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(", "),
            "workers are shut in by less than is required; see `bulkhead doctor`"
        );
    }
    Ok(sandbox)
}

/// The adapters that need no more than the configuration, beside those that were made.
fn ports(
    config: &Config,
    exe: PathBuf,
    (store, cluster, redis): (&OpenStore, Arc<dyn Cluster>, Option<Arc<Redis>>),
    (sandbox, workspaces): (Arc<WasmSandbox>, Arc<LocalWorkspaces>),
    meter: Arc<Metrics>,
    egress: Arc<HttpEgress>,
) -> Result<Ports, StartError> {
    let archives = workspaces.archiver(config.archiver(exe.clone()));
    let importer = ChildImporter::new(config.importer(exe)).map_err(system("the importer"))?;
    let ids: Arc<dyn Ids> = Arc::new(System);
    let alone: Arc<dyn Rates> = Arc::new(LocalRates::new(config.rates()));
    Ok(Ports {
        store: store.port(),
        cluster,
        sandbox,
        workspaces,
        archives: Arc::new(archives),
        importer: Arc::new(importer),
        components: Arc::new(ComponentFiles::new(config.components(), store.components())),
        ids,
        meter,
        egress,
        live: redis.clone().map(|redis| redis as Arc<dyn Live>),
        rates: match redis {
            Some(redis) => Arc::new(RedisRates::new(redis, config.shared_rates(), alone)),
            None => alone,
        },
    })
}

fn options(config: &Config, auth: Auth) -> Options {
    let http = &config.http;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Options {
        auth,
        max_body_bytes: size(http.max_body_bytes),
        max_component_bytes: size(config.tools.max_component_bytes),
        max_concurrent_requests: size(http.max_concurrent_requests),
        streams: StreamOptions {
            per_user: size(http.streams_per_user),
            heartbeat: Duration::from_millis(http.heartbeat_ms),
            stall: Duration::from_millis(http.stall_ms),
            age: Duration::from_millis(http.stream_age_ms),
        },
        wait_default: Duration::from_millis(http.wait_default_ms),
        wait_max: Duration::from_millis(http.wait_max_ms),
        drain_notice: Duration::from_millis(http.drain_notice_ms),
        resource: resource(config),
        // Checked when the configuration was read.
        cors_origins: http.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect(),
    }
}

/// What clients are told about issuers, if there are some.
fn resource(config: &Config) -> Option<Arc<Resource>> {
    let issuers = config.tokens.issuers.iter().map(|issuer| issuer.issuer.clone()).collect::<Vec<_>>();
    // The URL was checked when the configuration was read.
    (!issuers.is_empty()).then(|| Resource::new(&config.tokens.resource, issuers).map(Arc::new))?
}

/// Makes the data directory, for its owner alone, and takes its lock.
fn data_directory(config: &Config) -> Result<File, StartError> {
    let unusable = |reason| StartError::Data { path: config.data.clone(), reason };
    for path in [config.data.clone(), config.components(), config.artifacts()] {
        private_directory(&path).map_err(unusable)?;
    }
    let lock = File::create(config.data.join("lock")).map_err(unusable)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse(config.data.clone())),
        Err(errno) => Err(unusable(errno.into())),
    }
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// If it can't be made.
pub fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
