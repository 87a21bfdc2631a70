//! Header fields, both ways. Those that speak about one connection (RFC 9110,
//! 7.6.1) belong to whoever holds it, and that is never the guest.

use bulkhead_core::ports::egress::EgressError;
use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that never pass, whether `connection` names them or not. `host` is
/// said by the request's own field, and `http2-settings` asks for an upgrade.
const OF_ONE_CONNECTION: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// The header of a request, and the length that it says the body has.
pub(super) fn outgoing(
    fields: Vec<(String, Bytes)>,
    max_fields: usize,
) -> Result<(HeaderMap, Option<u64>), EgressError> {
    if fields.len() > max_fields {
        return Err(EgressError::InvalidRequest);
    }
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| EgressError::InvalidRequest)?;
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| EgressError::InvalidRequest)?;
        map.append(name, value);
    }
    let length = length(&map)?;
    strip(&mut map);
    map.remove(header::HOST);
    if length.is_none() {
        map.remove(header::CONTENT_LENGTH);
    }
    Ok((map, length))
}

/// The header of a response.
pub(super) fn incoming(mut map: HeaderMap) -> Vec<(String, Bytes)> {
    // With both, the length is not the body's (RFC 9112, 6.3).
    if map.contains_key(header::TRANSFER_ENCODING) {
        map.remove(header::CONTENT_LENGTH);
    }
    strip(&mut map);
    map.iter().map(|(name, value)| (name.as_str().to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

/// Bytes of a header, as HTTP/1 writes it.
pub(super) fn size(map: &HeaderMap) -> usize {
    map.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

fn strip(map: &mut HeaderMap) {
    let named: Vec<HeaderName> = map
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // What says where the body ends is not for the other side to hide.
        .filter(|name| name != header::CONTENT_LENGTH)
        .collect();
    for name in OF_ONE_CONNECTION.iter().chain(&named) {
        map.remove(name);
    }
}

/// One length or none: two, even of one number, are how requests are smuggled.
fn length(map: &HeaderMap) -> Result<Option<u64>, EgressError> {
    let mut values = map.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    // `parse` alone would take a sign.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(length) if is_number && values.next().is_none() => Ok(Some(length)),
        _ => Err(EgressError::InvalidRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&str, &str)]) -> Vec<(String, Bytes)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()))).collect()
    }

    #[test]
    fn fields_of_one_connection_do_not_pass() {
        let all = fields(&[
            ("Accept", "a"),
            ("accept", "b"),
            ("Connection", "close, X-Named ,content-length"),
            ("x-named", "1"),
            ("Keep-Alive", "1"),
            ("Proxy-Authorization", "1"),
            ("proxy-connection", "1"),
            ("TE", "trailers"),
            ("Trailer", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("http2-settings", "x"),
            ("Host", "other"),
            ("content-length", "3"),
        ]);
        let (map, length) = outgoing(all, 32).expect("valid");
        let left: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(left, [("accept", &b"a"[..]), ("accept", b"b"), ("content-length", b"3")]);
        assert_eq!(length, Some(3));
    }

    #[test]
    fn invalid_fields_are_refused() {
        for bad in [
            ("", "a"),
            ("a b", "a"),
            ("a:b", "a"),
            ("a\r\nb", "a"),
            ("ä", "a"),
            ("a", "b\r\nc: d"),
            ("a", "b\nc"),
            ("a", "b\0"),
            ("content-length", ""),
            ("content-length", "+1"),
            ("content-length", "-1"),
            ("content-length", "1, 1"),
            ("content-length", "0x1"),
            ("content-length", "1 "),
            ("content-length", "18446744073709551616"),
        ] {
            assert_eq!(outgoing(fields(&[bad]), 8).expect_err("refused"), EgressError::InvalidRequest, "{bad:?}");
        }
        for two in [["3", "3"], ["3", "4"]] {
            let two = fields(&[("content-length", two[0]), ("Content-Length", two[1])]);
            assert_eq!(outgoing(two, 8).expect_err("refused"), EgressError::InvalidRequest);
        }
        assert_eq!(outgoing(fields(&[("a", "b"); 9]), 8).expect_err("refused"), EgressError::InvalidRequest);
    }
}
