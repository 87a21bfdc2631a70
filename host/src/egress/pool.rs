//! The connections that are kept, by what they may be used for again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_core::ports::egress::Scheme;
use bulkhead_core::principal::Owner;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioTimer;
use ipnet::IpNet;
use tokio::time::Instant;

use super::body::Upload;
use super::config::EgressConfig;
use super::dial::{Dial, Network};
use super::host::Host;
use super::tasks::Tasks;

/// What a connection may be used for: all that decided where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    pub(super) owner: Owner,
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    /// In order and without repetitions.
    pub(super) private: Vec<IpNet>,
}

/// The client of one destination, with the connections to it.
pub(super) type Client = HyperClient<Dial, Upload>;

/// How much a server may send ahead of what is read, on HTTP/2: of a stream,
/// and of a connection; and how much of a stream is taken ahead of what is sent.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// How often an HTTP/2 connection in use is asked whether it still lives (or
/// requests would go on being sent to a dead one), and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Pools {
    config: Arc<EgressConfig>,
    network: Arc<Network>,
    tasks: Tasks,
    clients: Mutex<HashMap<Arc<Destination>, Kept>>,
}

struct Kept {
    client: Client,
    used: Instant,
}

impl Pools {
    pub(super) fn new(config: Arc<EgressConfig>, network: Arc<Network>, tasks: Tasks) -> Self {
        Self { config, network, tasks, clients: Mutex::default() }
    }

    /// The client of `destination`, the same one as before if it is kept.
    pub(super) fn client(self: &Arc<Self>, destination: Destination) -> Client {
        let now = Instant::now();
        let mut clients = self.clients();
        if let Some(kept) = clients.get_mut(&destination) {
            kept.used = now;
            return kept.client.clone();
        }
        clients.retain(|_, kept| now.duration_since(kept.used) <= self.config.idle_timeout);
        if clients.len() >= self.config.max_destinations
            && let Some((oldest, _)) = clients.iter().min_by_key(|(_, kept)| kept.used)
        {
            let oldest = Arc::clone(oldest);
            clients.remove(&oldest);
        }
        let destination = Arc::new(destination);
        let client = self.build(Arc::clone(&destination));
        clients.insert(destination, Kept { client: client.clone(), used: now });
        client
    }

    /// Ends the idle connections to the destinations that `which` names. What
    /// is in use goes on, and ends when it is done.
    pub(super) fn forget(&self, which: impl Fn(&Destination) -> bool) {
        self.clients().retain(|destination, _| !which(destination));
    }

    pub(super) fn clear(&self) {
        self.forget(|_| true);
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Arc<Destination>, Kept>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(self: &Arc<Self>, destination: Arc<Destination>) -> Client {
        let config = &self.config;
        let dial = Dial { network: Arc::clone(&self.network), destination, pools: Arc::downgrade(self) };
        HyperClient::builder(self.tasks.clone())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.max_idle_per_destination)
            // Only a request of which nothing was written is sent again.
            .retry_canceled_requests(true)
            .http1_max_buf_size(config.max_head_bytes)
            .http1_max_headers(config.max_header_fields)
            .http2_max_header_list_size(u32::try_from(config.max_head_bytes.saturating_mul(2)).unwrap_or(u32::MAX))
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_send_buf_size(SEND_BUFFER)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .build(dial)
    }
}
