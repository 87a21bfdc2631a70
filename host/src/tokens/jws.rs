//! A signed token in its compact form (RFC 7515), taken apart before anything
//! of it is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::TokenRefused;

/// Longest token. Header fields of this server end at about 16 KiB in all.
pub(super) const MAX_TOKEN: usize = 8 * 1024;
/// Longest name of a key.
const MAX_KID: usize = 256;

/// What is read of a header. Where a key could be fetched (`jku`, `x5u`) or is
/// brought along (`jwk`, `x5c`) is not: keys are the issuer's, from where the
/// configuration says.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

/// A token's parts.
pub(super) struct Parts<'a> {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    /// What the signature is of.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// Takes a token apart.
pub(super) fn parts(token: &str) -> Result<Parts<'_>, TokenRefused> {
    let malformed = TokenRefused::Invalid("it is not a signed JWT in its compact form");
    let pieces: Vec<&str> = token.splitn(4, '.').collect();
    let [header, payload, signature] = pieces[..] else { return Err(malformed) };
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let (Some(head), Some(body), Some(signature_bytes)) = (decode(header), decode(payload), decode(signature)) else {
        return Err(malformed);
    };
    let head: Header = serde_json::from_slice(&head).map_err(|_| malformed)?;
    check(&head)?;
    let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
    Ok(Parts { header: head, payload: body, signed, signature: signature_bytes })
}

fn check(header: &Header) -> Result<(), TokenRefused> {
    if header.crit.is_some() {
        return Err(TokenRefused::Invalid("it demands extensions that are not known here (`crit`)"));
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID) {
        return Err(TokenRefused::Invalid("its `kid` is too long"));
    }
    // RFC 9068 calls access tokens `at+jwt`; many issuers say `JWT` or nothing.
    // Other kinds of tokens are signed with the same keys, and are none.
    let kind = header.typ.as_deref().unwrap_or("JWT").to_ascii_lowercase();
    match kind.strip_prefix("application/").unwrap_or(&kind) {
        "at+jwt" | "jwt" => Ok(()),
        _ => Err(TokenRefused::Invalid("it is no access token (`typ`)")),
    }
}
