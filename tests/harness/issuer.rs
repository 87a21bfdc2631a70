//! Keys that sign tokens, and the tokens of an issuer. Shared with the tests
//! beside the code.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};

/// An RSA key for tests alone: the library here makes none.
const RSA: &str = include_str!("rsa.b64");

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A key with a name.
pub struct SigningKey {
    pub kid: String,
    pair: Pair,
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    /// A new one; of RSA there is only one, under whatever name.
    pub fn new(algorithm: &str, kid: &str) -> Self {
        let random = SystemRandom::new();
        let elliptic = |how| {
            let made = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(how, made.as_ref(), &random).unwrap()
        };
        let pair = match algorithm {
            "RS256" => {
                let der = STANDARD.decode(RSA.split_whitespace().collect::<String>()).unwrap();
                Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).unwrap()))
            }
            "ES256" => Pair::Es256(elliptic(&ECDSA_P256_SHA256_FIXED_SIGNING)),
            "ES384" => Pair::Es384(elliptic(&ECDSA_P384_SHA384_FIXED_SIGNING)),
            "EdDSA" => {
                let made = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Pair::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
            }
            other => panic!("no such key: {other}"),
        };
        Self { kid: kid.into(), pair }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Es256(_) => "ES256",
            Pair::Es384(_) => "ES384",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// As the issuer publishes it.
    pub fn jwk(&self) -> Value {
        let point = |crv: &str, bytes: &[u8]| {
            let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
            json!({"kty": "EC", "crv": crv, "x": base64url(x), "y": base64url(y)})
        };
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public: rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                json!({"kty": "RSA", "n": base64url(public.n), "e": base64url(public.e)})
            }
            Pair::Es256(pair) => point("P-256", pair.public_key().as_ref()),
            Pair::Es384(pair) => point("P-384", pair.public_key().as_ref()),
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())}),
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.algorithm().into();
        jwk
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({"alg": self.algorithm(), "kid": self.kid, "typ": "at+jwt"}), claims)
    }

    /// A token with this header, signed as this key does by itself, whatever the header says.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let how: &dyn ring::signature::RsaEncoding =
                    if header.contains("PS256") { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                pair.sign(how, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Es256(pair) | Pair::Es384(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", base64url(signature))
    }
}

/// A token that is signed with a text as a shared secret.
pub fn hs256(secret: &[u8], kid: &str, claims: &Value) -> String {
    let header = json!({"alg": "HS256", "kid": kid, "typ": "at+jwt"});
    let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(tag))
}

/// A set of keys, as an issuer publishes it.
pub fn set(keys: &[&SigningKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "an issuer has a clock of its own")]
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Claims that are good for ten minutes.
pub fn claims(issuer: &str, subject: &str, scope: &str) -> Value {
    json!({
        "iss": issuer, "aud": "https://tools.example.com", "sub": subject, "scope": scope,
        "iat": now(), "exp": now() + 600, "client_id": "agent",
    })
}
