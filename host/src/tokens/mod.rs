//! Tokens of issuers elsewhere: the server as a resource server of OAuth 2.0
//! (RFC 6750, 7519, 8725, 9068). A token is a principal if an issuer of the
//! configuration signed it for this server, by an algorithm that is pinned for
//! it, and it is in time; what it may do is bounded by the issuer's ceiling.
//!
//! Deliberately absent: asking the issuer about each token (introspection), so
//! that it need not be there; tokens that are encrypted, or bound to a key of
//! their holder; signing in, which is the client's business.

mod algorithm;
mod claims;
mod fetch;
pub mod issuer;
mod jwks;
mod jws;
mod keyset;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bulkhead_core::clock::{Clock, Timestamp};
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::egress::Egress;
use bulkhead_core::principal::{Owner, Scopes};
use moka::sync::Cache;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::algorithm::Algorithm;
pub use self::issuer::Issuer;

use self::algorithm::PublicKey;
use self::claims::{Accepted, Claims};
use self::fetch::{Fetcher, Source};
use self::jws::Parts;
use self::keyset::{Fetches, KeySet, Times};

/// Tokens that were found good and are remembered, and for how long at most.
const KEPT: u64 = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(300);

/// Whose tokens are taken, and how their keys are kept.
#[derive(Clone, Debug)]
pub struct TokensConfig {
    /// The issuers.
    pub issuers: Vec<Issuer>,
    /// Age at which keys are fetched again.
    pub refresh: Duration,
    /// Age at which keys that could not be fetched again are believed no longer.
    pub keep: Duration,
    /// Between two fetches for keys that are not known.
    pub again: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
}

/// Why a token was refused. `Display` is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenRefused {
    /// It is not one that is taken here.
    #[error("the token is refused: {0}")]
    Invalid(&'static str),
    /// It has expired.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// The keys of its issuer are not known.
    #[error("the keys of the token's issuer are not available, so it can't be checked; try again")]
    Unavailable,
}

/// Who holds a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Tenant and user.
    pub owner: Owner,
    /// What it may do.
    pub scopes: Scopes,
    /// From when on it is refused.
    pub until: Timestamp,
    /// What its issuer calls it, if that is a short word.
    pub id: Option<Arc<str>>,
}

/// What was done, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenReadings {
    /// Tokens whose signature was checked and that were taken.
    pub verified: u64,
    /// Tokens that were remembered.
    pub remembered: u64,
    /// Tokens that were refused.
    pub refused: u64,
    /// Fetches of keys.
    pub fetches: u64,
    /// Fetches of keys that failed.
    pub fetches_failed: u64,
}

#[derive(Default)]
struct Counts {
    verified: AtomicU64,
    remembered: AtomicU64,
    refused: AtomicU64,
}

/// A token that was found good, with what that stands on.
#[derive(Clone)]
struct Good {
    accepted: Accepted,
    issuer: usize,
    /// The set of keys that it was checked with. Another one may not have its key.
    keys: Digest,
}

/// Checks tokens.
pub struct Tokens {
    issuers: Vec<(Issuer, Arc<KeySet>)>,
    good: Cache<Digest, Good>,
    clock: Arc<dyn Clock>,
    counts: Counts,
    fetches: Arc<Fetches>,
    fetcher: Arc<Fetcher>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tokens {
    /// Takes tokens of these issuers, whose keys come over `egress`. Nothing is
    /// fetched before [`Tokens::start`].
    ///
    /// # Errors
    /// If an issuer has no place that keys can come from.
    pub fn new(config: TokensConfig, egress: Arc<dyn Egress>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let TokensConfig { issuers, refresh, keep, again, timeout } = config;
        // A document and a set of keys, one after the other.
        let times = Times { refresh, keep, again, patience: 2 * timeout };
        let with_keys = |issuer: Issuer| {
            let keys = KeySet::new(issuer.issuer.clone(), Source::of(&issuer)?, times);
            Ok((issuer, Arc::new(keys)))
        };
        Ok(Self {
            issuers: issuers.into_iter().map(with_keys).collect::<Result<_, String>>()?,
            good: Cache::builder().max_capacity(KEPT).time_to_live(KEPT_FOR).build(),
            clock,
            counts: Counts::default(),
            fetches: Arc::default(),
            fetcher: Arc::new(Fetcher { egress, timeout }),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Begins to fetch keys, a task for each issuer.
    pub fn start(&self) {
        for (_, keys) in &self.issuers {
            let (fetcher, fetches) = (Arc::clone(&self.fetcher), Arc::clone(&self.fetches));
            self.tracker.spawn(Arc::clone(keys).keep_fresh(fetcher, fetches, self.stop.clone()));
        }
    }

    /// Ends the tasks and waits for them.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// What was done so far.
    pub fn readings(&self) -> TokenReadings {
        TokenReadings {
            verified: self.counts.verified.load(Relaxed),
            remembered: self.counts.remembered.load(Relaxed),
            refused: self.counts.refused.load(Relaxed),
            fetches: self.fetches.all.load(Relaxed),
            fetches_failed: self.fetches.failed.load(Relaxed),
        }
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn verify(&self, token: &str) -> Result<Holder, TokenRefused> {
        // Before anything is done with its length.
        if token.len() > jws::MAX_TOKEN {
            self.counts.refused.fetch_add(1, Relaxed);
            return Err(TokenRefused::Invalid("it is longer than 8 KiB"));
        }
        let digest = Digest::of(token.as_bytes());
        if let Some(accepted) = self.remembered(&digest) {
            self.counts.remembered.fetch_add(1, Relaxed);
            return Ok(holder(accepted));
        }
        match self.check(token).await {
            Ok(good) => {
                self.counts.verified.fetch_add(1, Relaxed);
                let holder = holder(good.accepted.clone());
                self.good.insert(digest, good);
                Ok(holder)
            }
            Err(refused) => {
                self.counts.refused.fetch_add(1, Relaxed);
                Err(refused)
            }
        }
    }

    /// A token that was found good is so until it expires or its issuer's keys
    /// change. What was refused is never remembered: that would be room for
    /// whoever makes tokens up.
    fn remembered(&self, digest: &Digest) -> Option<Accepted> {
        let good = self.good.get(digest)?;
        let (_, keys) = self.issuers.get(good.issuer)?;
        let stands = good.accepted.until > self.clock.now() && keys.current()?.digest == good.keys;
        stands.then_some(good.accepted)
    }

    async fn check(&self, token: &str) -> Result<Good, TokenRefused> {
        let parts = jws::parts(token)?;
        let claims = Claims::parse(&parts.payload)?;
        let named = claims.issuer();
        let index = self.issuers.iter().position(|(issuer, _)| Some(issuer.issuer.as_str()) == named);
        let index = index.ok_or(TokenRefused::Invalid("its issuer is not one of this server's"))?;
        let (issuer, keys) = &self.issuers[index];
        // Pinned by the configuration: a token does not say how it is checked.
        let algorithm = Algorithm::named(&parts.header.alg).filter(|algorithm| issuer.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or(TokenRefused::Invalid("its algorithm is not one of its issuer's"))?;
        let (key, keys) = key_of(keys, &parts, algorithm).await?;
        if !key.verifies(algorithm, parts.signed, &parts.signature) {
            return Err(TokenRefused::Invalid("its signature is not its issuer's"));
        }
        let accepted = claims.accept(issuer, self.clock.now())?;
        Ok(Good { accepted, issuer: index, keys })
    }
}

fn holder(accepted: Accepted) -> Holder {
    Holder { owner: accepted.owner, scopes: accepted.scopes, until: accepted.until, id: accepted.id }
}

/// The key that a token names, and the set that it is of. A set that does not
/// have it, or that is not there, may be looked for once more.
async fn key_of(keys: &KeySet, parts: &Parts<'_>, algorithm: Algorithm) -> Result<(PublicKey, Digest), TokenRefused> {
    let find = || {
        let current = keys.current()?;
        let found = current.find(parts.header.kid.as_deref(), algorithm).cloned();
        Some(found.map(|key| (key, current.digest)))
    };
    if let Some(Some(found)) = find() {
        return Ok(found);
    }
    keys.again().await;
    find().ok_or(TokenRefused::Unavailable)?.ok_or(TokenRefused::Invalid("its key is not one of its issuer's"))
}
