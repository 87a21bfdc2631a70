//! The port to the network, for guests. What comes here has been decided: the
//! adapter resolves the name once, connects to nothing but an address that the
//! request may reach, and moves bytes. It follows no redirect and knows no
//! policy, no secret and no call.

use core::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::principal::Owner;

/// The bytes of a body, in pieces. Dropping it ends the exchange.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, EgressError>> + Send>>;

/// `http` or `https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme means if it names none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// How long the steps of an exchange may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Resolving the name, connecting, and the TLS handshake, together.
    pub connect: Duration,
    /// From the sent request to the head of the response.
    pub first_byte: Duration,
    /// Between two pieces of the response's body.
    pub between_bytes: Duration,
}

/// A request that may be sent.
pub struct OutgoingRequest {
    /// Whose it is: connections are never shared between users.
    pub owner: Owner,
    /// The method: a token of RFC 9110, never `CONNECT`.
    pub method: String,
    /// The scheme.
    pub scheme: Scheme,
    /// The host: a name in lower case without a dot at its end, or an address
    /// (IPv6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub target: String,
    /// The header, in order; without `host`, `connection` and other fields of
    /// one connection, which the adapter sets.
    pub header: Vec<(String, Bytes)>,
    /// The body, if there is one.
    pub body: Option<Body>,
    /// Networks beyond the public internet that the name may lead to.
    pub private: Arc<[IpNet]>,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// A response, as it begins.
pub struct IncomingResponse {
    /// The status code.
    pub status: u16,
    /// The header, in order.
    pub header: Vec<(String, Bytes)>,
    /// The address that was connected to.
    pub address: IpAddr,
    /// The body, which comes as it is read.
    pub body: Body,
}

/// Why an exchange failed. Each has a counterpart in `wasi:http`'s `error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
#[serde(rename_all = "snake_case")]
pub enum EgressError {
    /// No grant and no rule of the policy allow it.
    #[error("the request is not allowed")]
    Denied,
    /// The name has no address.
    #[error("the name could not be resolved")]
    Dns,
    /// The name leads to an address that may not be reached.
    #[error("the address may not be reached")]
    AddressForbidden,
    /// Nobody listens there.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// There is no way there.
    #[error("the destination can't be reached")]
    Unreachable,
    /// Connecting took too long.
    #[error("connecting took too long")]
    ConnectionTimeout,
    /// The connection ended in the middle.
    #[error("the connection was ended by the other side")]
    ConnectionTerminated,
    /// Too many requests of the call.
    #[error("too many requests")]
    LimitReached,
    /// The certificate does not fit the name, or nobody known signed it.
    #[error("the server's certificate is not valid")]
    Certificate,
    /// TLS failed otherwise.
    #[error("TLS failed")]
    Tls,
    /// The answer, or its next piece, took too long.
    #[error("the answer took too long")]
    ResponseTimeout,
    /// The head of the response is larger than allowed.
    #[error("the head of the response is too large")]
    ResponseHeadTooLarge,
    /// The body of the response is larger than allowed.
    #[error("the body of the response is too large")]
    ResponseTooLarge,
    /// The body of the request is larger than allowed.
    #[error("the body of the request is too large")]
    RequestTooLarge,
    /// The request is not one that can be sent.
    #[error("the request is not valid")]
    InvalidRequest,
    /// What came is not HTTP.
    #[error("the answer is not valid HTTP")]
    Protocol,
    /// The response held a secret that the host had put into the request.
    #[error("the response holds a secret and was withheld")]
    SecretInResponse,
    /// The host failed.
    #[error("the host failed")]
    Internal,
    /// Who asks has as many connections as are left to others, or more. Guests and
    /// events are told of [`LimitReached`](Self::LimitReached).
    // The last one: serde counts those that are skipped where it writes, and not where it reads.
    #[serde(skip)]
    #[error("no connection was free for the request")]
    NoConnection {
        /// Between whom they are shared.
        between: Sharers,
        /// How many there may be.
        most: u32,
        /// How many of them are of who asks.
        used: u32,
    },
}

/// Who shares connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharers {
    /// The users of a tenant.
    Users,
    /// The tenants of the server.
    Tenants,
}

/// No network at all.
#[derive(Clone, Copy, Debug)]
pub struct NoEgress;

#[async_trait]
impl Egress for NoEgress {
    async fn send(&self, _request: OutgoingRequest) -> Result<IncomingResponse, EgressError> {
        Err(EgressError::Denied)
    }
}

/// The network.
#[async_trait]
pub trait Egress: Send + Sync + 'static {
    /// Sends one request and returns once the head of its response is there.
    async fn send(&self, request: OutgoingRequest) -> Result<IncomingResponse, EgressError>;
}
