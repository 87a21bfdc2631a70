//! Getting an issuer's keys: by its document (OpenID Connect Discovery), from
//! a URL, or from a file. Small, in time, without redirects, by the client that
//! guests' requests have, with connections of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::id::{TenantId, UserId};
use bulkhead_core::ports::egress::{Egress, OutgoingRequest, Scheme, Timeouts};
use bulkhead_core::principal::Owner;
use bytes::Bytes;
use futures::StreamExt as _;
use ipnet::IpNet;
use serde::Deserialize;
use url::{Host, Url};

use super::issuer::{Issuer, fetchable};
use super::jwks::Keys;

/// Most bytes of a document and of a set of keys; a set of 64 keys of 4096 bits has 50 KiB.
const MAX_BYTES: usize = 256 * 1024;

/// Where an issuer's keys come from.
pub(super) enum Source {
    File(PathBuf),
    Keys(Url),
    /// The URL of its document.
    Discovery(Url),
}

impl Source {
    pub(super) fn of(issuer: &Issuer) -> Result<Self, String> {
        let not_one = || format!("`{}` names no URL that keys can be fetched from", issuer.issuer);
        if let Some(file) = &issuer.jwks_file {
            return Ok(Self::File(file.clone()));
        }
        if let Some(url) = &issuer.jwks_url {
            return fetchable(url).map(Self::Keys).ok_or_else(not_one);
        }
        let document = format!("{}/.well-known/openid-configuration", issuer.issuer.trim_end_matches('/'));
        fetchable(&document).map(Self::Discovery).ok_or_else(not_one)
    }
}

/// Fetches; the network is a port, so that a test may be one.
pub(super) struct Fetcher {
    pub(super) egress: Arc<dyn Egress>,
    pub(super) timeout: Duration,
}

#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    /// The keys of an issuer, now.
    pub(super) async fn keys(&self, issuer: &str, source: &Source) -> Result<Keys, String> {
        let bytes = match source {
            Source::File(path) => read(path).await?,
            Source::Keys(url) => self.get(url, true).await?,
            Source::Discovery(document) => {
                let url = self.discover(issuer, document).await?;
                // An issuer that names another host for its keys must name a
                // public one: its document is not our configuration.
                self.get(&url, url.host() == document.host()).await?
            }
        };
        Keys::parse(&bytes)
    }

    async fn discover(&self, issuer: &str, url: &Url) -> Result<Url, String> {
        let bytes = self.get(url, true).await?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|error| format!("{url} is not an issuer's document: {error}"))?;
        if document.issuer != issuer {
            return Err(format!("{url} is the document of another issuer"));
        }
        let keys =
            fetchable(&document.jwks_uri).ok_or_else(|| format!("the `jwks_uri` of {url} is not an https URL"))?;
        // What was asked for by https must not go on without it.
        if url.scheme() == "https" && keys.scheme() != "https" {
            return Err(format!("the `jwks_uri` of {url} is not an https URL"));
        }
        Ok(keys)
    }

    async fn get(&self, url: &Url, private: bool) -> Result<Bytes, String> {
        let got = tokio::time::timeout(self.timeout, self.get_in_time(url, private)).await;
        got.unwrap_or_else(|_| Err(format!("{url} did not answer within {} ms", self.timeout.as_millis())))
    }

    async fn get_in_time(&self, url: &Url, private: bool) -> Result<Bytes, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
        let response = self.egress.send(request(url, private, self.timeout)).await.map_err(|error| failed(&error))?;
        if response.status != 200 {
            return Err(format!("{url} answered with the status {}", response.status));
        }
        let (mut body, mut bytes) = (response.body, Vec::new());
        while let Some(piece) = body.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| failed(&error))?);
            if bytes.len() > MAX_BYTES {
                return Err(format!("{url} answered with more than {} KiB", MAX_BYTES / 1024));
            }
        }
        Ok(bytes.into())
    }
}

fn request(url: &Url, private: bool, timeout: Duration) -> OutgoingRequest {
    let host = match url.host() {
        Some(Host::Domain(name)) => name.trim_end_matches('.').to_owned(),
        Some(Host::Ipv4(address)) => IpAddr::from(address).to_string(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).to_string(),
        // `fetchable` let no such URL through; it is refused as a request.
        None => String::new(),
    };
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse::<IpNet>().ok());
    OutgoingRequest {
        // Nobody's: the client is not shared with guests.
        owner: Owner { tenant: TenantId::from_parts(0, 0), user: UserId::from_parts(0, 0) },
        method: "GET".into(),
        scheme,
        host,
        port: url.port().unwrap_or_else(|| scheme.default_port()),
        target: url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
        header: vec![("accept".into(), Bytes::from_static(b"application/json"))],
        body: None,
        private: everywhere.filter(|_| private).collect::<Vec<_>>().into(),
        timeouts: Timeouts { connect: timeout, first_byte: timeout, between_bytes: timeout },
    }
}

async fn read(path: &Path) -> Result<Bytes, String> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("{} has more than {} KiB", path.display(), MAX_BYTES / 1024));
    }
    Ok(bytes.into())
}
