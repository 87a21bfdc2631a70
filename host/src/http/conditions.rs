//! Header fields about contents: entity tags and conditions (RFC 9110, sections 8.8.3
//! and 13.1), digests (RFC 9530).

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bulkhead_core::conditions::{Conditions, Tag, Tags};
use bulkhead_core::digest::Digest;

use super::problem::Problem;

/// The digest of the whole file.
pub(super) const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The digest of what the message carries.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Most tags of a condition.
const MAX_TAGS: usize = 64;

/// What must hold of the file, as the request says.
///
/// # Errors
/// If a condition is not one: it must not be taken for none.
pub(super) fn conditions(headers: &HeaderMap) -> Result<Conditions, Problem> {
    Ok(Conditions {
        if_match: tags(headers, &header::IF_MATCH)?,
        if_none_match: tags(headers, &header::IF_NONE_MATCH)?,
    })
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let bad = || {
        let detail = format!("`{name}` must be `*` or entity tags in quotes, at most {MAX_TAGS}");
        Problem::new("invalid_request", detail).with("field", name.as_str())
    };
    let mut tags = Vec::new();
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    for value in values {
        let mut rest = value.to_str().map_err(|_| bad())?.trim();
        if rest == "*" {
            return Ok(Some(Tags::Any));
        }
        while !rest.is_empty() {
            let (tag, after) = next_tag(rest).ok_or_else(bad)?;
            tags.push(tag);
            if tags.len() > MAX_TAGS {
                return Err(bad());
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(after) => after.trim_start_matches([',', ' ', '\t']),
                None if after.is_empty() => after,
                None => return Err(bad()),
            };
        }
    }
    Ok(Some(Tags::These(tags)))
}

/// The tag that a text begins with, and what follows it.
fn next_tag(text: &str) -> Option<(Tag, &str)> {
    let (weak, rest) = match text.strip_prefix("W/") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let end = rest.strip_prefix('"')?.find('"')? + 2;
    let (tag, after) = rest.split_at_checked(end)?;
    Some((Tag { weak, text: tag.to_owned() }, after))
}

/// Whether a range is asked for of what is there: `If-Range`, compared strongly. A date
/// is never ours.
pub(super) fn is_in_range(headers: &HeaderMap, etag: Option<&str>) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|value| etag.is_some_and(|etag| value == etag))
}

/// The SHA-256 that the content must have, as `Content-Digest` or `Repr-Digest` say it.
/// A body is sent whole and as it is, so both are about the same bytes; other algorithms
/// are ignored, as the standard has it.
///
/// # Errors
/// If what is said is no digest, or the two say two.
pub(super) fn digest(headers: &HeaderMap) -> Result<Option<Digest>, Problem> {
    let mut said = None;
    for name in [CONTENT_DIGEST, REPR_DIGEST] {
        let bad =
            |detail: &str| Problem::new("invalid_request", format!("`{name}`: {detail}")).with("field", name.as_str());
        for value in headers.get_all(&name) {
            let text = value.to_str().map_err(|_| bad("must be a dictionary (RFC 9530)"))?;
            for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
                let (algorithm, value) =
                    member.split_once('=').ok_or_else(|| bad("must be a dictionary (RFC 9530)"))?;
                if algorithm.trim() != "sha-256" {
                    continue;
                }
                let encoded = value.trim().strip_prefix(':').and_then(|value| value.strip_suffix(':'));
                let bytes = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
                let bytes: Option<[u8; 32]> = bytes.and_then(|bytes| bytes.try_into().ok());
                let digest = Digest::from_bytes(bytes.ok_or_else(|| bad("`sha-256` must be 32 bytes, `:<base64>:`"))?);
                if said.replace(digest).is_some_and(|before| before != digest) {
                    return Err(bad("says another digest than was said before"));
                }
            }
        }
    }
    Ok(said)
}

/// A digest as a field's value.
pub(super) fn digest_value(digest: &Digest) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("sha-256=:{}:", STANDARD.encode(digest.as_bytes()))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn conditions_are_read_or_refused() {
        let tag = |weak, text: &str| Tag { weak, text: text.into() };
        let read = |value| conditions(&headers(&[("if-match", value)])).map(|conditions| conditions.if_match);
        assert_eq!(read("*").expect("any"), Some(Tags::Any));
        let both = Some(Tags::These(vec![tag(false, "\"a,b\""), tag(true, "\"c\"")]));
        assert_eq!(read("\"a,b\", W/\"c\"").expect("two"), both);
        let lines = headers(&[("if-match", "\"a,b\""), ("if-match", "W/\"c\"")]);
        assert_eq!(conditions(&lines).expect("two").if_match, both);
        for bad in ["a", "\"a", "\"a\" \"b\"", "w/\"a\"", "\"a\", b"] {
            assert_eq!(read(bad).expect_err(bad).code, "invalid_request");
        }
        assert_eq!(conditions(&HeaderMap::new()).expect("none"), Conditions::default());
        let range = headers(&[("if-range", "\"a\"")]);
        assert!(
            is_in_range(&range, Some("\"a\"")) && !is_in_range(&range, Some("\"b\"")) && !is_in_range(&range, None)
        );
        assert!(is_in_range(&HeaderMap::new(), None));
    }

    #[test]
    fn digests_are_read_or_refused() {
        let said = "sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:";
        let abc = Digest::of(b"abc");
        assert_eq!(digest(&headers(&[("content-digest", said)])).expect("one"), Some(abc));
        assert_eq!(digest_value(&abc).expect("a value"), said);
        let other = "sha-512=:AAAA:, md5=:x:";
        assert_eq!(digest(&headers(&[("repr-digest", other)])).expect("none of ours"), None);
        let empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        for bad in [
            &[("content-digest", "sha-256=abc")][..],
            &[("content-digest", "sha-256=:AAAA:")],
            &[("content-digest", "nothing")],
            &[("content-digest", said), ("repr-digest", empty)],
        ] {
            assert_eq!(digest(&headers(bad)).expect_err("refused").code, "invalid_request");
        }
    }
}
