//! One request of a chain of redirects, and the next.

use std::collections::BTreeMap;

use bulkhead_client::{Header, Url};

/// What only the server may see that it was meant for.
const OF_ONE_SERVER: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hop {
    pub(crate) method: String,
    pub(crate) url: Url,
    pub(crate) header: Header,
    pub(crate) body: Option<String>,
}

impl Hop {
    /// What was asked for.
    pub(crate) fn first(
        method: Option<&str>,
        url: Url,
        headers: BTreeMap<String, String>,
        body: Option<String>,
    ) -> Self {
        let method = method.unwrap_or("GET").to_ascii_uppercase();
        let header = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.into_bytes())).collect();
        Self { method, url, header, body }
    }

    /// The request that a response redirects to, if it does.
    #[cfg_attr(not(any(test, target_arch = "wasm32")), expect(dead_code, reason = "natively nothing is sent"))]
    pub(crate) fn next(&self, status: u16, header: &Header) -> Option<Result<Self, String>> {
        // RFC 9110, section 15.4: what was posted is not posted to somewhere else.
        let becomes_get = match status {
            301 | 302 => self.method == "POST",
            303 => self.method != "GET" && self.method != "HEAD",
            307 | 308 => false,
            _ => return None,
        };
        let location = header.iter().find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
        let url = match self.url.join(&String::from_utf8_lossy(&location.1)) {
            Ok(url) => url,
            Err(why) => return Some(Err(why)),
        };
        let mut next = self.clone();
        if becomes_get {
            next.method = "GET".into();
            next.body = None;
            next.header.retain(|(name, _)| !name.starts_with("content-"));
        }
        if !url.same_origin(&self.url) {
            next.header.retain(|(name, _)| !OF_ONE_SERVER.contains(&name.as_str()));
        }
        next.url = url;
        Some(Ok(next))
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn posted() -> Hop {
        let headers = [("Authorization", "a"), ("Content-Type", "b"), ("Accept", "c")];
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Hop::first(Some("post"), Url::parse("https://a.example/x").expect("a URL"), headers, Some("body".into()))
    }

    fn redirected(status: u16, location: &str) -> Option<Hop> {
        let header = vec![("location".to_string(), location.as_bytes().to_vec())];
        posted().next(status, &header).map(|next| next.expect("a URL"))
    }

    fn names(hop: &Hop) -> Vec<&str> {
        hop.header.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_was_posted_is_not_posted_elsewhere() {
        let seen = redirected(303, "/y").expect("a redirect");
        assert_eq!((seen.method.as_str(), seen.url.to_string().as_str()), ("GET", "https://a.example/y"));
        assert_eq!((seen.body.as_deref(), names(&seen)), (None, vec!["accept", "authorization"]));
        let kept = redirected(307, "y").expect("a redirect");
        assert_eq!((kept.method.as_str(), kept.body.as_deref()), ("POST", Some("body")));
    }

    #[test]
    fn another_server_gets_no_credentials() {
        let seen = redirected(308, "https://b.example/").expect("a redirect");
        assert_eq!(names(&seen), vec!["accept", "content-type"]);
    }

    #[test]
    fn what_is_no_redirect_is_an_answer() {
        assert_eq!(redirected(200, "/y"), None);
        assert_eq!(redirected(304, "/y"), None);
        assert_eq!(posted().next(302, &Vec::new()), None);
        let odd = vec![("location".to_string(), b"ftp://b/".to_vec())];
        assert!(posted().next(302, &odd).expect("a redirect").is_err());
    }
}
