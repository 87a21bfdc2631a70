//! What can be set.

use std::path::PathBuf;
use std::time::Duration;

use bulkhead_core::reached::HTTP_ANSWER_HEAD;
use thiserror::Error;

/// Least size of a head: what the HTTP/1 parser wants to have at once.
const MIN_HEAD_BYTES: usize = 8192;

/// What can be set, complete; [`EgressConfig::default`] is a sound start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressConfig {
    /// Certificates in PEM of authorities that are trusted besides.
    pub ca_file: Option<PathBuf>,
    /// Whether the authorities that the machine trusts are trusted (also where
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` say). Without them and `ca_file`
    /// every `https` request fails with `Certificate`.
    pub native_roots: bool,
    /// Most connections at once, idle ones among them. Each holds a descriptor,
    /// buffers of up to about a MiB and, while a name is resolved, a thread.
    pub max_connections: usize,
    /// Most connections at once of one tenant. A user gets no more once it has as many
    /// as are left to its tenant's others; so does a tenant, of all.
    pub max_connections_per_tenant: usize,
    /// Most idle connections that are kept for one user, scheme, host, port
    /// and list of private networks.
    pub max_idle_per_destination: usize,
    /// Most of these that are remembered; the one that was not used for longest
    /// goes first.
    pub max_destinations: usize,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Most time to connect, whatever the request says: it also ends what goes
    /// on connecting after its request found another connection.
    pub connect_timeout: Duration,
    /// Most bytes of a response's head, at least 8192. On HTTP/2 one of more than
    /// twice as many can't be told from a broken one: it fails with `Protocol`.
    pub max_head_bytes: usize,
    /// Most header fields of a request, and of a response.
    pub max_header_fields: usize,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            ca_file: None,
            native_roots: true,
            max_connections: 256,
            max_connections_per_tenant: 128,
            max_idle_per_destination: 4,
            max_destinations: 1024,
            idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            max_head_bytes: usize::try_from(HTTP_ANSWER_HEAD.spec.default).unwrap_or(usize::MAX),
            max_header_fields: 128,
        }
    }
}

impl EgressConfig {
    pub(super) fn check(&self) -> Result<(), EgressSetupError> {
        let least = [
            ("max_connections", self.max_connections, 1),
            ("max_connections_per_tenant", self.max_connections_per_tenant, 1),
            ("max_destinations", self.max_destinations, 1),
            ("max_head_bytes", self.max_head_bytes, MIN_HEAD_BYTES),
            ("max_header_fields", self.max_header_fields, 1),
        ];
        // Beyond it the type for headers has no place.
        if self.max_header_fields > 4096 {
            return Err(EgressSetupError::Value { field: "max_header_fields", reason: "must be at most 4096".into() });
        }
        match least.into_iter().find(|(_, value, least)| value < least) {
            Some((field, _, least)) => {
                Err(EgressSetupError::Value { field, reason: format!("must be at least {least}") })
            }
            None => Ok(()),
        }
    }
}

/// Why the network can't be set up.
#[derive(Debug, Error)]
pub enum EgressSetupError {
    /// A value makes no sense.
    #[error("`{field}` {reason}")]
    Value {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// `ca_file` can't be read, holds no certificate, or one that is none.
    #[error("certificates of `{}`: {reason}", path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The machine trusts nobody, and no `ca_file` is set.
    #[error("the machine has no certificates of authorities: {0}")]
    NoRoots(String),
    /// The TLS library refuses its own defaults.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}
