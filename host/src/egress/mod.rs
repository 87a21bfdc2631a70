//! The network of guests, as the host gives it: HTTP/1.1 and HTTP/2 over TCP
//! and TLS.
//!
//! A name is resolved once for each new connection; every address that it has
//! must be one that the request may reach, and only those are connected to. A
//! connection belongs to one user, one scheme, host and port, and one list
//! of private networks: it carries no request of any other.
//!
//! Sent again is only a request of which nothing was written, because the kept
//! connection that it was meant for had ended.
//!
//! Deliberately absent: redirects (a response like others), proxies of the
//! environment, cookies, decompression, upgrades, trailers, HTTP/2 without
//! TLS, sessions of TLS that are resumed, and any policy.

mod body;
mod config;
mod connections;
mod dial;
mod error;
mod exchange;
mod header;
mod host;
mod pool;
mod request;
mod resolve;
mod response;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::ports::egress::{Egress, EgressError, IncomingResponse, OutgoingRequest};

pub use self::config::{EgressConfig, EgressSetupError};
pub use self::resolve::{Resolve, SystemResolver};

use self::connections::Connections;
use self::exchange::Exchange;
use self::pool::Pools;
use self::tasks::Tasks;

/// The adapter. Dropping it ends every connection.
pub struct HttpEgress {
    config: Arc<EgressConfig>,
    pools: Arc<Pools>,
    tasks: Tasks,
}

impl HttpEgress {
    /// The network, with names resolved as the machine does.
    ///
    /// # Errors
    /// If a value of the configuration makes no sense, or the certificates
    /// that are trusted can't be read.
    pub fn new(config: EgressConfig) -> Result<Self, EgressSetupError> {
        Self::with_resolver(config, Arc::new(SystemResolver))
    }

    /// The network, with names resolved by `resolver`.
    ///
    /// # Errors
    /// As [`HttpEgress::new`].
    pub fn with_resolver(config: EgressConfig, resolver: Arc<dyn Resolve>) -> Result<Self, EgressSetupError> {
        config.check()?;
        let tls = tls::connector(&config)?;
        let config = Arc::new(config);
        let tasks = Tasks::default();
        let network = dial::Network {
            resolver,
            tls,
            connections: Connections::new(config.max_connections, config.max_connections_per_tenant),
            connect_timeout: config.connect_timeout,
            tasks: tasks.clone(),
        };
        let pools = Arc::new(Pools::new(Arc::clone(&config), Arc::new(network), tasks.clone()));
        Ok(Self { config, pools, tasks })
    }

    /// Ends every connection and waits until nothing of them is left.
    pub async fn close(&self) {
        self.pools.clear();
        self.tasks.close().await;
    }
}

impl Drop for HttpEgress {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

#[async_trait]
impl Egress for HttpEgress {
    async fn send(&self, request: OutgoingRequest) -> Result<IncomingResponse, EgressError> {
        let timeouts = request.timeouts;
        let (exchange, over) = Exchange::begin();
        let (destination, request) = request::prepare(request, &exchange, self.config.max_header_fields)?;
        let client = self.pools.client(destination);
        let response = exchange::run(&client, request, timeouts, &exchange).await?;
        response::translate(response, exchange, over, timeouts.between_bytes, &self.config)
    }
}
