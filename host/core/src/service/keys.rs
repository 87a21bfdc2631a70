//! API keys: make, check, list, rotate, revoke.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use thiserror::Error as ThisError;
use tokio::sync::Semaphore;

use crate::access::rules::{Rule, Softened};
use crate::audit::refusals::{Refusals, Refused};
use crate::audit::{AuditBody, NewAudit};
use crate::clock::{Entropy, Ids, Timestamp};
use crate::error::Error;
use crate::key::{ApiKey, KeyError, KeyId, KeyRecord};
use crate::ports::store::{Store, StoreError};
use crate::principal::{Credential, Owner, Principal, Scopes};

/// How long a key that was found good is trusted without asking the store: a
/// revoked key works for at most this long.
const TRUSTED: Duration = Duration::from_secs(3);
/// Keys kept in memory.
const KEPT: u64 = 10_000;
/// How long a key that was let in once is looked up without waiting behind unknown ones.
const MET: Duration = Duration::from_secs(24 * 60 * 60);
/// Unknown keys that are looked up at once: who guesses has this much of the store.
const STRANGERS_AT_ONCE: usize = 2;
/// How long an unknown key waits for its turn.
const STRANGERS_WAIT: Duration = Duration::from_secs(5);
/// `last_used_at` is written at most this often, in milliseconds.
const TOUCH_EVERY_MS: u64 = 60_000;

/// Why a key was refused. `Display` is public and tells a stranger nothing
/// that the key's holder would not know.
#[derive(Debug, ThisError)]
pub enum KeyRefused {
    /// Not one of our keys at all.
    #[error(transparent)]
    Malformed(#[from] KeyError),
    /// No such key, or its secret is wrong.
    #[error("there is no such API key")]
    Unknown,
    /// It has expired.
    #[error("the API key expired at {0}")]
    Expired(Timestamp),
    /// It was revoked.
    #[error("the API key was revoked at {0}")]
    Revoked(Timestamp),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// The use cases of keys. They need no more than a store, so that the command
/// line makes keys without building a host.
pub struct Keys {
    store: Arc<dyn Store>,
    ids: Arc<dyn Ids>,
    trusted: Cache<KeyId, KeyRecord>,
    /// Those that were let in of late.
    met: Cache<KeyId, ()>,
    /// Turns of all others.
    strangers: Semaphore,
    /// Owners that came with a token and are stored.
    known: Cache<Owner, ()>,
    /// Whether keys that expired are let through; never on the command line.
    softened: Option<Arc<Softened>>,
    /// Refusals on their way into the audit log; none on the command line, where no key is shown.
    refusals: Option<Arc<Refusals>>,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose it will be.
    pub owner: Owner,
    /// What it may do.
    pub scopes: Scopes,
    /// A name for people.
    pub label: String,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
}

impl Keys {
    /// The use cases upon a store.
    pub fn new(store: Arc<dyn Store>, ids: Arc<dyn Ids>) -> Self {
        let trusted = Cache::builder().max_capacity(KEPT).time_to_live(TRUSTED).build();
        let met = Cache::builder().max_capacity(KEPT).time_to_idle(MET).build();
        let strangers = Semaphore::new(STRANGERS_AT_ONCE);
        Self { store, ids, trusted, met, strangers, known: Cache::new(KEPT), softened: None, refusals: None }
    }

    pub(super) fn for_service(mut self, softened: Arc<Softened>, refusals: Arc<Refusals>) -> Self {
        (self.softened, self.refusals) = (Some(softened), Some(refusals));
        self
    }

    /// Sees that an owner who came with a token is stored, so that things can be theirs.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn admit(&self, owner: Owner) -> Result<(), StoreError> {
        if !self.known.contains_key(&owner) {
            self.store.ensure_owner(owner, self.ids.now()).await?;
            self.known.insert(owner, ());
        }
        Ok(())
    }

    /// Makes a key. The key itself is returned once and stored nowhere.
    ///
    /// # Errors
    /// If the label is too long, or the store fails.
    pub async fn create(&self, new: NewKey) -> Result<(ApiKey, KeyRecord), Error> {
        super::sessions::check_label(&new.label)?;
        let entropy: &dyn Entropy = &*self.ids;
        let key = ApiKey::generate(entropy);
        let record = KeyRecord {
            id: key.id().clone(),
            hash: key.hash(),
            owner: new.owner,
            scopes: new.scopes,
            label: new.label,
            created_at: self.ids.now(),
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        self.store.ensure_owner(new.owner, record.created_at).await?;
        let body = AuditBody::KeyCreated {
            key: record.id.to_string(),
            scopes: record.scopes.to_string(),
            expires_at: record.expires_at.map(|at| at.to_string()),
        };
        let audit = NewAudit::new(record.created_at, record.owner, None, None, &body);
        self.store.create_key(&record, audit).await?;
        Ok((key, record))
    }

    /// Who holds this key.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn authenticate(&self, text: &str) -> Result<Principal, KeyRefused> {
        let key = ApiKey::parse(text)?;
        let record = match self.trusted.get(key.id()) {
            Some(record) => record,
            None => self.look_up(key.id()).await?.ok_or(KeyRefused::Unknown)?,
        };
        // The secret first: only its holder learns that a key is expired.
        if !key.matches(&record.hash) {
            return Err(KeyRefused::Unknown);
        }
        if let Some(at) = record.revoked_at {
            self.refused(&record, "revoked_key").await?;
            return Err(KeyRefused::Revoked(at));
        }
        let now = self.ids.now();
        if let Some(at) = record.expires_at.filter(|at| *at <= now) {
            self.only_watched(&record, at).await?;
        }
        let principal = Principal::new(record.owner, record.scopes, Credential::Key(record.id.clone()));
        self.note_use(record, now).await;
        Ok(principal)
    }

    /// Whether this is found out without waiting behind unknown keys: who holds a key that
    /// was let in of late, or that a text is no key.
    pub fn has_met(&self, text: &str) -> bool {
        ApiKey::parse(text).map_or(true, |key| self.met.contains_key(key.id()))
    }

    /// Whoever was let in before does not wait behind those who guess.
    async fn look_up(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let _turn = match self.met.contains_key(id) {
            true => None,
            false => {
                let turn = tokio::time::timeout(STRANGERS_WAIT, self.strangers.acquire()).await;
                let busy = || StoreError::Unavailable("too many unknown keys are being looked up".into());
                Some(turn.map_err(|_| busy())?)
            }
        };
        self.store.key(id).await
    }

    /// Whether a key that was good still is: what goes on ends with it.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn stands(&self, id: &KeyId) -> Result<bool, StoreError> {
        let record = match self.trusted.get(id) {
            Some(record) => Some(record),
            None => self.store.key(id).await?,
        };
        let Some(record) = record else { return Ok(false) };
        let watched = self.softened.as_ref().is_some_and(|softened| !softened.enforces(Rule::ExpiredKeys));
        let stands = record.revoked_at.is_none() && (watched || record.expires_at.is_none_or(|at| at > self.ids.now()));
        if stands && !self.trusted.contains_key(id) {
            // Of many streams with one key, one asks.
            self.trusted.insert(id.clone(), record);
        }
        Ok(stands)
    }

    /// Refuses a key that has expired, unless a migration only watches for it.
    async fn only_watched(&self, record: &KeyRecord, at: Timestamp) -> Result<(), KeyRefused> {
        if let Some(softened) = &self.softened {
            let what = format!("the key {} expired at {at}", record.id);
            if softened.lets_through(Rule::ExpiredKeys, record.owner, "authenticate", &what).await? {
                return Ok(());
            }
        }
        self.refused(record, "expired_key").await?;
        Err(KeyRefused::Expired(at))
    }

    /// Writes down that somebody was refused who is no stranger, or counts it if the like was
    /// written down a moment ago. What can't be written down is not answered.
    async fn refused(&self, record: &KeyRecord, reason: &'static str) -> Result<(), StoreError> {
        let Some(refusals) = &self.refusals else { return Ok(()) };
        let key = Some(record.id.to_string());
        let Some(first) = refusals.principal(record.owner, Refused::Key(reason), key, self.ids.now()) else {
            return Ok(());
        };
        self.store.append_audit(vec![first.record()]).await?;
        first.stored();
        Ok(())
    }

    async fn note_use(&self, mut record: KeyRecord, now: Timestamp) {
        let stale = record.last_used_at.is_none_or(|at| now.millis_since(at) >= TOUCH_EVERY_MS);
        if stale {
            record.last_used_at = Some(now);
            if let Err(error) = self.store.touch_key(&record.id, now).await {
                // Not worth refusing a good key for.
                tracing::warn!(key = %record.id, %error, "the last use of a key could not be noted");
            }
        }
        if stale || !self.trusted.contains_key(&record.id) {
            self.met.insert(record.id.clone(), ());
            self.trusted.insert(record.id.clone(), record);
        }
    }

    /// Every key, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<KeyRecord>, Error> {
        Ok(self.store.list_keys().await?)
    }

    /// Makes a key in the place of another: with its owner, scopes and label.
    /// The old one works for `overlap_ms` more, unless it ends sooner. Without
    /// `expires_at` the new one lives as long as the old one was made for.
    ///
    /// # Errors
    /// If there is none that works, or the store fails. Then the old one is as it was.
    pub async fn rotate(
        &self,
        id: &KeyId,
        overlap_ms: i64,
        expires_at: Option<Timestamp>,
    ) -> Result<(ApiKey, KeyRecord, Timestamp), Error> {
        let now = self.ids.now();
        let works = |key: &KeyRecord| key.revoked_at.is_none() && key.expires_at.is_none_or(|at| at > now);
        let old = self.store.key(id).await?.filter(works);
        let old = old.ok_or_else(|| Error::not_found("key that works with the id", id))?;
        let life = old.expires_at.map(|at| at.millis_since(old.created_at));
        let life = life.map(|millis| now.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX)));
        let new = NewKey { owner: old.owner, scopes: old.scopes, label: old.label, expires_at: expires_at.or(life) };
        let (key, record) = self.create(new).await?;
        // The new one first: if this fails, two work, and none is lost.
        let until = now.plus_millis(overlap_ms);
        let until = old.expires_at.map_or(until, |at| at.min(until));
        let body =
            AuditBody::KeyRotated { key: id.to_string(), by: record.id.to_string(), expires_at: until.to_string() };
        self.store.expire_key(id, until, NewAudit::new(now, old.owner, None, None, &body)).await?;
        self.trusted.invalidate(id);
        Ok((key, record, until))
    }

    /// Revokes a key.
    ///
    /// # Errors
    /// If there is none that is not revoked, or the store fails.
    pub async fn revoke(&self, id: &KeyId) -> Result<(), Error> {
        let record = self.store.key(id).await?.ok_or_else(|| Error::not_found("key", id))?;
        let (now, body) = (self.ids.now(), AuditBody::KeyRevoked { key: id.to_string() });
        let audit = NewAudit::new(now, record.owner, None, None, &body);
        let revoked = self.store.revoke_key(id, now, audit).await?;
        self.trusted.invalidate(id);
        if revoked { Ok(()) } else { Err(Error::not_found("key", id)) }
    }

    /// The first tenant and user; made if there is none. The flag says if it is new.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn first_owner(&self) -> Result<(Owner, bool), Error> {
        use crate::clock::NewId as _;
        if let Some(owner) = self.store.first_owner().await? {
            return Ok((owner, false));
        }
        let owner = Owner { tenant: self.ids.tenant_id(), user: self.ids.user_id() };
        self.store.ensure_owner(owner, self.ids.now()).await?;
        Ok((owner, true))
    }
}
