//! An issuer whose tokens are taken, as the configuration has it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use bulkhead_core::id::TenantId;
use bulkhead_core::principal::{Scope, Scopes};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};

use super::algorithm::Algorithm;

/// Most issuers. Each has a task and connections of its own.
const MAX_ISSUERS: usize = 16;
/// Clocks differ by seconds; more would let expired tokens live.
const MAX_LEEWAY_S: u64 = 300;
const MAX_TEXT: usize = 512;

/// An issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// As tokens have it in `iss`, letter by letter.
    pub issuer: String,
    /// What tokens for this server have in `aud`.
    pub audience: String,
    /// The algorithms that it signs with; all others are refused.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are; without this and `jwks_file` its own document says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// A file with its keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
    /// How far its clock may be off, in seconds.
    #[serde(default = "usual_leeway")]
    pub leeway_s: u64,
    /// The tenant of all its users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The claim that names a user's tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_claim: Option<String>,
    /// The claim with the scopes, if it is neither `scope` nor `scp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope_claim: Option<String>,
    /// What its scopes mean here; empty: what they are called.
    #[serde(default)]
    pub scopes: BTreeMap<String, Vec<Scope>>,
    /// What its tokens may do at most.
    #[serde(default = "usual_ceiling")]
    pub ceiling: Vec<Scope>,
}

/// How users of an issuer come to a tenant.
pub(super) enum Tenancy<'a> {
    /// All are in this one.
    Fixed(TenantId),
    /// This claim names it.
    Claim(&'a str),
}

fn usual_leeway() -> u64 {
    30
}

fn usual_ceiling() -> Vec<Scope> {
    Scopes::usual().iter().collect()
}

impl Issuer {
    pub(super) fn tenancy(&self) -> Tenancy<'_> {
        match (self.tenant, &self.tenant_claim) {
            (Some(tenant), _) => Tenancy::Fixed(tenant),
            // One of the two is there, or the configuration was refused.
            (None, claim) => Tenancy::Claim(claim.as_deref().unwrap_or_default()),
        }
    }

    /// What is wrong with it, if something is.
    fn fault(&self) -> Option<String> {
        let text = |text: &str| (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(char::is_control);
        if !text(&self.issuer) || !text(&self.audience) {
            return Some(format!("`issuer` and `audience` are 1 to {MAX_TEXT} characters each"));
        }
        if self.algorithms.is_empty() {
            return Some("`algorithms` is empty: pin those that the issuer signs with".into());
        }
        match (&self.jwks_url, &self.jwks_file) {
            (Some(_), Some(_)) => return Some("has both `jwks_url` and `jwks_file`: leave one out".into()),
            (Some(url), None) if fetchable(url).is_none() => {
                return Some("`jwks_url` is not an https URL (http is taken on loopback addresses alone)".into());
            }
            (None, None) if fetchable(&self.issuer).is_none() => {
                return Some(
                    "`issuer` is not an https URL, so its keys can't be discovered: add `jwks_url` or `jwks_file`"
                        .into(),
                );
            }
            _ => {}
        }
        if self.tenant.is_some() == self.tenant_claim.is_some() {
            return Some("needs one of `tenant` and `tenant_claim`".into());
        }
        if self.leeway_s > MAX_LEEWAY_S {
            return Some(format!("`leeway_s` is more than {MAX_LEEWAY_S}"));
        }
        let over = self.scopes.values().flatten().find(|scope| !self.ceiling.contains(scope));
        over.map(|scope| format!("`scopes` gives `{scope}`, which is not in `ceiling`"))
    }
}

/// A URL that keys may be fetched from: https, or http on this machine.
pub(crate) fn fetchable(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let local = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => IpAddr::from(address).is_loopback(),
        Host::Ipv6(address) => IpAddr::from(address).is_loopback(),
    };
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (plain && (url.scheme() == "https" || (url.scheme() == "http" && local))).then_some(url)
}

/// The issuers of a value of the configuration.
///
/// # Errors
/// What is wrong, in words.
pub(crate) fn issuers(value: &Value) -> Result<Vec<Issuer>, String> {
    let Value::Array(items) = value else { return Err("is not a list of issuers".into()) };
    if items.len() > MAX_ISSUERS {
        return Err(format!("names more than {MAX_ISSUERS} issuers"));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let issuer: Issuer =
            serde_json::from_value(item.clone()).map_err(|error| format!("issuer {}: {error}", index + 1))?;
        if let Some(fault) = issuer.fault() {
            return Err(format!("issuer {} (`{}`): {fault}", index + 1, issuer.issuer));
        }
        if issuers.iter().any(|known| known.issuer == issuer.issuer) {
            return Err(format!("issuer {}: `{}` stands there twice", index + 1, issuer.issuer));
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}
