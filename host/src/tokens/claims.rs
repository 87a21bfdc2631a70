//! What a token claims, once its signature was found good: for whom, until
//! when, who and what for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bulkhead_core::clock::Timestamp;
use bulkhead_core::foreign;
use bulkhead_core::principal::{Owner, Scope, Scopes};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::TokenRefused;
use super::issuer::{Issuer, Tenancy};

/// Longest subject and name of a tenant, in bytes (OpenID Connect says 255).
const MAX_NAME: usize = 255;

/// Longest id of a token that is written down, in bytes.
const MAX_ID: usize = 128;

/// The claims, each once: of two of one name, two readers would believe
/// different ones.
pub(super) struct Claims(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a claim stands there twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// What became of a token's claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) owner: Owner,
    pub(super) scopes: Scopes,
    /// From when on it is refused, the leeway included.
    pub(super) until: Timestamp,
    /// Its id, for the audit log.
    pub(super) id: Option<Arc<str>>,
}

impl Claims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, TokenRefused> {
        serde_json::from_slice(payload).map_err(|_| TokenRefused::Invalid("its claims are not a JSON object"))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Who made it, by its own word.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.text("iss")
    }

    /// A time in milliseconds; a claim that is there must be one.
    fn time(&self, name: &'static str) -> Result<Option<Timestamp>, TokenRefused> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds));
        let seconds = seconds.ok_or(TokenRefused::Invalid("one of its times is none"))?;
        Ok(Some(Timestamp::from_millis((seconds * 1_000.0) as i64)))
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Checks them against what an issuer may say.
    pub(super) fn accept(&self, issuer: &Issuer, now: Timestamp) -> Result<Accepted, TokenRefused> {
        if self.issuer() != Some(&issuer.issuer) {
            return Err(TokenRefused::Invalid("its issuer is another"));
        }
        if !self.is_for(&issuer.audience) {
            return Err(TokenRefused::Invalid("it is not for this server (`aud`)"));
        }
        if self.0.contains_key("cnf") {
            return Err(TokenRefused::Invalid("it is bound to a key of its holder (`cnf`), which is not checked here"));
        }
        let leeway = i64::try_from(issuer.leeway_s).unwrap_or(0) * 1_000;
        let expires = self.time("exp")?.ok_or(TokenRefused::Invalid("it has no `exp`"))?;
        let until = expires.plus_millis(leeway);
        if until <= now {
            return Err(TokenRefused::Expired(expires));
        }
        for name in ["nbf", "iat"] {
            if self.time(name)?.is_some_and(|from| from > now.plus_millis(leeway)) {
                return Err(TokenRefused::Invalid("it is not valid yet (`nbf`, `iat`)"));
            }
        }
        Ok(Accepted { owner: self.owner(issuer)?, scopes: self.scopes(issuer), until, id: self.id() })
    }

    /// What its issuer calls it: a word that is not long, of characters that can be seen. Any
    /// other names nothing.
    fn id(&self) -> Option<Arc<str>> {
        let short = |id: &&str| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        self.text("jti").filter(short).map(Into::into)
    }

    fn owner(&self, issuer: &Issuer) -> Result<Owner, TokenRefused> {
        let named = |claim: &str| self.text(claim).filter(|text| (1..=MAX_NAME).contains(&text.len()));
        let tenant = match issuer.tenancy() {
            Tenancy::Fixed(tenant) => tenant,
            Tenancy::Claim(claim) => {
                let name = named(claim).ok_or(TokenRefused::Invalid("it does not say which tenant it is of"))?;
                foreign::tenant(&issuer.issuer, name)
            }
        };
        let subject = named("sub").ok_or(TokenRefused::Invalid("it does not say whom it is about (`sub`)"))?;
        Ok(foreign::owner(&issuer.issuer, tenant, subject))
    }

    /// What it may do here: what the issuer's words mean, and never more than its ceiling.
    fn scopes(&self, issuer: &Issuer) -> Scopes {
        let claim = match &issuer.scope_claim {
            Some(name) => self.0.get(name),
            None => self.0.get("scope").or_else(|| self.0.get("scp")),
        };
        let words: Vec<&str> = match claim {
            Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
            Some(Value::Array(words)) => words.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let meant = words.into_iter().flat_map(|word| -> Vec<Scope> {
            match issuer.scopes.is_empty() {
                true => word.parse().into_iter().collect(),
                false => issuer.scopes.get(word).cloned().unwrap_or_default(),
            }
        });
        meant.collect::<Scopes>().within(issuer.ceiling.iter().copied().collect())
    }
}
