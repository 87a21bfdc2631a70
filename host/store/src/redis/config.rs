//! Where the server is and how it is used.

use std::fmt;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo as _, RedisError};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

/// The address of a Redis server, with a password perhaps: it is shown without.
#[derive(Clone)]
pub struct RedisUrl(SecretString);

/// Why a text is no such address. It does not repeat the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("is not the URL of a Redis server: {0}")]
pub struct BadRedisUrl(String);

impl RedisUrl {
    /// Checks and keeps an address.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, BadRedisUrl> {
        let url = url::Url::parse(text).map_err(|error| BadRedisUrl(error.to_string()))?;
        if !matches!(url.scheme(), "redis" | "rediss" | "unix" | "redis+unix") {
            return Err(BadRedisUrl("its scheme is another one".into()));
        }
        let checked = Self(text.to_owned().into());
        // What the driver says may have a part of the password in it.
        checked.info().map_err(|_| BadRedisUrl("a part of it can't be read".into()))?;
        Ok(checked)
    }

    /// How the driver connects.
    pub(super) fn info(&self) -> Result<ConnectionInfo, RedisError> {
        self.0.expose_secret().into_connection_info()
    }
}

impl fmt::Display for RedisUrl {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.info() {
            Ok(info) => write!(f, "redis://{}/{}", info.addr(), info.redis_settings().db()),
            Err(_) => f.write_str("redis://?"),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for RedisUrl {}

/// Where the server is and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// The address.
    pub url: RedisUrl,
    /// What all keys and channels begin with: hosts of one database have the same,
    /// others another one.
    pub prefix: String,
    /// How long connecting, and an answer, may take.
    pub timeout: Duration,
    /// Events of each task that are kept hot.
    pub tail_events: usize,
    /// How long after the newest of them.
    pub tail_ttl: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let url = RedisUrl::parse("redis://me:s3cret@10.0.0.7:6380/2").expect("an address");
        assert_eq!(format!("{url} {url:?}"), "redis://10.0.0.7:6380/2 RedisUrl(redis://10.0.0.7:6380/2)");
        for (text, why) in
            [("http://x", "scheme"), ("redis://:s3cret@h/notanumber", "can't be read"), ("x", "relative")]
        {
            let error = RedisUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
        RedisUrl::parse("rediss://h:1").expect("with TLS");
    }
}
