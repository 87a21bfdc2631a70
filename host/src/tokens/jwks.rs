//! A set of keys (RFC 7517), as an issuer publishes it. What can't be used is
//! passed over: secrets, keys for encryption, kinds that are not known here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bulkhead_core::digest::Digest;
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::{Algorithm, PublicKey};

/// Most keys of an issuer. Those that rotate have two or three.
const MAX_KEYS: usize = 64;
/// Shortest and longest modulus, in bytes: 2048 to 4096 bits. Longer ones cost
/// whoever checks more than whoever sends.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=512;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

struct Key {
    kid: Option<String>,
    /// If it says which one it is for.
    algorithm: Option<Algorithm>,
    public: PublicKey,
}

/// The keys of an issuer.
pub(super) struct Keys {
    keys: Vec<Key>,
    /// Tells one set from the next.
    pub(super) digest: Digest,
}

impl Keys {
    /// Reads a set. One in which no key can be used is none.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(bytes).map_err(|error| format!("not a set of keys: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err("no key in it can be used to check a signature".into());
        }
        Ok(Self { keys, digest: Digest::of(bytes) })
    }

    /// The key that a token names, or the only one that it can be. What a key
    /// says of itself counts too: not every key of an issuer is for every algorithm.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&PublicKey> {
        let fits = |key: &&Key| key.public.fits(algorithm) && key.algorithm.is_none_or(|own| own == algorithm);
        let mut fitting = self.keys.iter().filter(fits);
        match kid {
            Some(kid) => fitting.find(|key| key.kid.as_deref() == Some(kid)).map(|key| &key.public),
            None => match (fitting.next(), fitting.next()) {
                (Some(only), None) => Some(&only.public),
                _ => None,
            },
        }
    }
}

fn usable(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let for_signatures = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !for_signatures {
        return None;
    }
    let public = public(&jwk)?;
    let algorithm = match &jwk.alg {
        Some(name) => Some(Algorithm::named(name).filter(|algorithm| public.fits(*algorithm))?),
        None => None,
    };
    Some(Key { kid: jwk.kid, algorithm, public })
}

fn public(jwk: &Jwk) -> Option<PublicKey> {
    let bytes = |field: &Option<String>| URL_SAFE_NO_PAD.decode(field.as_deref()?).ok();
    match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (number(bytes(&jwk.n)?), number(bytes(&jwk.e)?));
            (MODULUS.contains(&n.len()) && (1..=4).contains(&e.len())).then_some(PublicKey::Rsa(n, e))
        }
        ("EC", Some("P-256")) => point(bytes(&jwk.x)?, bytes(&jwk.y)?, 32).map(PublicKey::P256),
        ("EC", Some("P-384")) => point(bytes(&jwk.x)?, bytes(&jwk.y)?, 48).map(PublicKey::P384),
        ("OKP", Some("Ed25519")) => bytes(&jwk.x).filter(|key| key.len() == 32).map(PublicKey::Ed25519),
        _ => None,
    }
}

/// Without the zeros that some issuers put in front.
fn number(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

fn point(x: Vec<u8>, y: Vec<u8>, size: usize) -> Option<Vec<u8>> {
    (x.len() == size && y.len() == size).then(|| [&[4][..], &x, &y].concat())
}
