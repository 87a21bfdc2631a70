//! Secrets: put into requests by the host, never seen by a guest.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

use super::spec::SecretSpec;
use crate::grants::{Destination, HttpPattern};

/// Shortest secret, in bytes: what is shorter would be found in any response.
pub const MIN_SECRET: usize = 8;
/// Longest secret, in bytes.
pub const MAX_SECRET: usize = 8 * 1024;

/// How a secret gets into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A field of the header, with what stands before and after the secret.
    Header { name: String, before: String, after: String },
    /// A parameter of the query.
    Query(String),
}

/// A secret with the requests that it may be put into.
#[derive(Clone)]
pub struct Secret {
    value: SecretString,
    to: HttpPattern,
    place: Place,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("to", &self.to).field("place", &self.place).finish_non_exhaustive()
    }
}

/// A token of RFC 9110.
fn is_field_name(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=64).contains(&text.len()) && text.bytes().all(token)
}

impl Secret {
    /// A secret as its specification wants it.
    ///
    /// # Errors
    /// Says what is wrong, without the value.
    pub(super) fn new(spec: &SecretSpec, value: SecretString) -> Result<Self, String> {
        let text = value.expose_secret();
        if !(MIN_SECRET..=MAX_SECRET).contains(&text.len()) {
            return Err(format!("its value has {} bytes; {MIN_SECRET} to {MAX_SECRET} are allowed", text.len()));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            return Err("its value must be printable ASCII".into());
        }
        if spec.to.one_host().is_none() {
            return Err(format!("`to` must name one host, not `{}`: a secret goes to nobody else", spec.to));
        }
        let place = match (&spec.header, &spec.query) {
            (Some(header), None) => {
                let parts = header.split_once(':').and_then(|(name, rest)| Some((name, rest.trim().split_once("{}")?)));
                let Some((name, (before, after))) = parts.filter(|(name, _)| is_field_name(name)) else {
                    return Err("`header` must look like `authorization: Bearer {}`".into());
                };
                let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b));
                if !plain(before) || !plain(after) {
                    return Err("`header` must be printable ASCII".into());
                }
                Place::Header { name: name.to_ascii_lowercase(), before: before.into(), after: after.into() }
            }
            (None, Some(name)) if is_field_name(name) => Place::Query(name.clone()),
            (None, Some(_)) => return Err("`query` must be the name of a parameter".into()),
            _ => return Err("exactly one of `header` and `query` must be set".into()),
        };
        Ok(Self { value, to: spec.to.clone(), place })
    }

    /// Whether it goes into requests to there.
    pub fn goes_to(&self, destination: &Destination) -> bool {
        self.to.matches(destination)
    }

    /// Puts it into a request, in place of what the guest may have put there.
    pub fn put_into(&self, destination: &mut Destination, header: &mut Vec<(String, bytes::Bytes)>) {
        let value = self.value.expose_secret();
        match &self.place {
            Place::Header { name, before, after } => {
                header.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
                header.push((name.clone(), format!("{before}{value}{after}").into()));
            }
            Place::Query(name) => {
                let rest = destination.query.take().unwrap_or_default();
                let others = rest.split('&').filter(|pair| {
                    !pair.is_empty() && pair.split_once('=').map_or(*pair, |(key, _)| key) != name.as_str()
                });
                let mut query: String = others.map(|pair| format!("{pair}&")).collect();
                query.push_str(&format!("{name}={}", percent_encoded(value)));
                destination.query = Some(query);
            }
        }
    }

    /// The bytes that no response may bring back: as they are, and as they
    /// were sent.
    pub fn needles(&self) -> Vec<Vec<u8>> {
        let value = self.value.expose_secret();
        let mut needles = vec![value.as_bytes().to_vec()];
        let encoded = percent_encoded(value);
        if matches!(self.place, Place::Query(_)) && encoded != value {
            needles.push(encoded.into_bytes());
        }
        needles
    }
}

/// Everything but unreserved characters (RFC 3986, section 2.3).
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::egress::Scheme;

    fn spec(header: Option<&str>, query: Option<&str>) -> SecretSpec {
        SecretSpec {
            file: None,
            variable: None,
            to: "https://api.example.com/v1/*".parse().expect("a pattern"),
            header: header.map(str::to_owned),
            query: query.map(str::to_owned),
        }
    }

    fn put(secret: &Secret, target: &str) -> (Destination, Vec<(String, bytes::Bytes)>) {
        let mut to = Destination::parse("GET", Scheme::Https, "api.example.com", target).expect("a destination");
        let mut header = vec![("Authorization".to_owned(), "mine".into()), ("accept".to_owned(), "*/*".into())];
        assert!(secret.goes_to(&to));
        secret.put_into(&mut to, &mut header);
        (to, header)
    }

    #[test]
    fn a_secret_takes_the_place_of_what_the_guest_put_there() {
        let secret = Secret::new(&spec(Some("Authorization: Bearer {}"), None), "s3cret-value".into()).expect("valid");
        let (_, header) = put(&secret, "/v1/x");
        let fields: Vec<_> = header.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
        assert_eq!(fields, [("accept", &b"*/*"[..]), ("authorization", b"Bearer s3cret-value")]);
        let secret = Secret::new(&spec(None, Some("key")), "s3cret&value".into()).expect("valid");
        let (to, _) = put(&secret, "/v1/x?a=1&key=mine&key&b");
        assert_eq!(to.query.as_deref(), Some("a=1&b&key=s3cret%26value"));
        assert_eq!(secret.needles().len(), 2);
        assert!(!format!("{secret:?}").contains("s3cret"));
    }

    #[test]
    fn what_could_leak_is_refused() {
        let wrong = [
            (spec(Some("authorization: {}"), None), "short"),
            (spec(Some("authorization: {}"), None), "line\nbreak in it"),
            (spec(Some("authorization"), None), "s3cret-value"),
            (spec(Some("a b: {}"), None), "s3cret-value"),
            (spec(None, None), "s3cret-value"),
            (spec(Some("a: {}"), Some("b")), "s3cret-value"),
            (SecretSpec { to: "https://*".parse().expect("a pattern"), ..spec(None, Some("b")) }, "s3cret-value"),
        ];
        for (spec, value) in wrong {
            let error = Secret::new(&spec, value.into()).expect_err("refused");
            assert!(!error.contains(value), "{error}");
        }
    }
}
