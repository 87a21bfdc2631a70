//! Where the database is and how it is used.

use std::fmt;
use std::str::FromStr as _;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use thiserror::Error;

use crate::Synchronous;

/// The schema that holds everything.
pub(super) const SCHEMA: &str = "bulkhead";

/// Parameters of the URL that are known; another one would be dropped silently,
/// which for one that asks for more security is worse than an error.
const PARAMETERS: [&str; 9] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", "port", "dbname", "user", "password"];

/// The address of a PostgreSQL database, with a password perhaps: it is shown
/// without.
#[derive(Clone)]
pub struct PostgresUrl(SecretString);

/// Why a text is no such address. It does not repeat the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("is not the URL of a PostgreSQL database: {0}")]
pub struct BadUrl(String);

impl PostgresUrl {
    /// Checks and keeps an address.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let url = url::Url::parse(text).map_err(|error| BadUrl(error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(BadUrl("its scheme is another one".into()));
        }
        for (name, _) in url.query_pairs() {
            if !PARAMETERS.contains(&&*name) {
                return Err(BadUrl(format!("its parameter `{name}` is not known, only {}", PARAMETERS.join(", "))));
            }
        }
        // What the driver says may have a part of the password in it.
        PgConnectOptions::from_str(text).map_err(|_| BadUrl("a part of it can't be read".into()))?;
        Ok(Self(text.to_owned().into()))
    }

    /// How the driver connects, before anything of ours is set.
    pub(super) fn options(&self) -> PgConnectOptions {
        // It was parsed once; what it would say now must not be shown.
        PgConnectOptions::from_str(self.0.expose_secret()).unwrap_or_default().disable_statement_logging()
    }

    /// Whether the server proves who it is, or is on this machine.
    pub fn is_verified(&self) -> bool {
        let options = self.options();
        let here = options.get_socket().is_some()
            || matches!(options.get_host(), "localhost" | "127.0.0.1" | "[::1]" | "::1")
            || options.get_host().starts_with('/');
        here || matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull)
    }
}

impl fmt::Display for PostgresUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.options();
        let host =
            options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
        let (user, port) = (options.get_username(), options.get_port());
        write!(f, "postgres://{user}@{host}:{port}/{}", options.get_database().unwrap_or(user))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for PostgresUrl {}

/// Where the database is and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresConfig {
    /// The address.
    pub url: PostgresUrl,
    /// When a commit counts as done: by the server's own setting, or once its
    /// operating system has it (`synchronous_commit = off`).
    pub synchronous: Synchronous,
    /// Connections at once; each is a process of the server.
    pub connections: u32,
    /// How long an operation waits for a connection.
    pub acquire_timeout: Duration,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long one try of an operation may take, here and in the server. No try begins
    /// after twice that.
    pub timeout: Duration,
    /// How long a connection that nobody needs is kept.
    pub idle: Duration,
    /// Writes that may wait; more wait at most a second, then are refused.
    pub queue: usize,
    /// After how many failures in a row the server is left alone.
    pub breaker_failures: u32,
    /// For how long.
    pub breaker_open: Duration,
}

impl PostgresConfig {
    /// The defaults.
    pub fn new(url: PostgresUrl) -> Self {
        Self {
            url,
            synchronous: Synchronous::Full,
            connections: 16,
            acquire_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(5),
            idle: Duration::from_secs(300),
            queue: 1024,
            breaker_failures: 5,
            breaker_open: Duration::from_secs(1),
        }
    }

    /// How connections for operations are made. What the server is to keep to is
    /// said while connecting, so it costs no round trip.
    pub(super) fn session(&self) -> PgConnectOptions {
        let millis = |time: Duration| format!("{}ms", time.as_millis().max(1));
        // A lock is waited for no longer than would leave time to do something with it.
        let lock = self.timeout.mul_f64(0.8);
        let options = self.base().options([
            ("statement_timeout", millis(self.timeout)),
            ("lock_timeout", millis(lock)),
            ("idle_in_transaction_session_timeout", millis(self.timeout * 2)),
        ]);
        match self.synchronous {
            Synchronous::Full => options,
            Synchronous::Off => options.options([("synchronous_commit", "off")]),
        }
    }

    /// How the connection is made that brings the schema up to date: a step of that
    /// may take long, waiting for another host may not.
    pub(super) fn upgrade(&self) -> PgConnectOptions {
        self.base().options([
            ("statement_timeout", "0"),
            ("lock_timeout", "60s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ])
    }

    /// What every session has: the isolation that the statements are written for, and
    /// a server that notices soon when this host is gone.
    fn base(&self) -> PgConnectOptions {
        self.url.options().application_name("bulkhead").options([
            ("search_path", SCHEMA),
            ("default_transaction_isolation", "read committed"),
            ("default_transaction_read_only", "off"),
            ("client_min_messages", "warning"),
            // What nobody waits for any longer is ended, and does not commit later.
            ("client_connection_check_interval", "500ms"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "25000"),
        ])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url = PostgresUrl::parse("postgres://me:s3cret%40@db.example.org/tools?sslmode=require").unwrap();
        assert_eq!(url.to_string(), "postgres://me@db.example.org:5432/tools");
        let config = PostgresConfig::new(url.clone());
        assert!(!format!("{url:?} {config:?}").contains("s3cret"));
        for wrong in
            ["postgres://me:s3cret@db:port/x", "mysql://me:s3cret@db/x", "postgres://me:s3cret@db/x?ssl=1", "s3cret"]
        {
            let error = PostgresUrl::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn only_a_checked_server_or_one_that_is_here_is_verified() {
        for (url, verified) in [
            ("postgres://db.example.org/x", false),
            ("postgres://db.example.org/x?sslmode=require", false),
            ("postgres://db.example.org/x?sslmode=verify-full", true),
            ("postgres://localhost/x", true),
            ("postgres://%2Frun%2Fpostgresql/x", true),
        ] {
            assert_eq!(PostgresUrl::parse(url).unwrap().is_verified(), verified, "{url}");
        }
    }
}
