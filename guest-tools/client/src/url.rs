//! URLs, as far as requests need them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// An `http` or `https` URL, without its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `http` or `https`.
    pub scheme: String,
    /// Host and port as they were written.
    pub authority: String,
    /// Path and query, beginning with `/`.
    pub target: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.target)
    }
}

impl Url {
    /// Reads a URL; says what is wrong with one that can't be requested.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").ok_or("a URL begins with `https://` or `http://`")?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "http" && scheme != "https" {
            return Err(format!("the scheme `{scheme}` is not supported; use `https` or `http`"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.is_empty() || !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the URL has no host, or one that is not written in ASCII".into());
        }
        if authority.contains('@') {
            return Err("a URL here has no user name; send an `authorization` header instead".into());
        }
        let target = if target.starts_with('/') { target.to_string() } else { format!("/{target}") };
        Ok(Self { scheme, authority: authority.into(), target: encoded(&target) })
    }

    /// The URL that `location` means beside this one.
    pub fn join(&self, location: &str) -> Result<Self, String> {
        let location = location.trim().split('#').next().unwrap_or_default();
        let has_scheme = location.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
        if has_scheme {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{}:{location}", self.scheme));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let target = match location.chars().next() {
            None => self.target.clone(),
            Some('/') => without_dots(location),
            Some('?') => format!("{path}{location}"),
            Some(_) => without_dots(&format!("{}{location}", &path[..=path.rfind('/').unwrap_or(0)])),
        };
        Ok(Self { target: encoded(&target), ..self.clone() })
    }

    /// Whether requests to the other go to the same server.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.authority.eq_ignore_ascii_case(&other.authority)
    }
}

/// Everything that can't stand in a request, percent-encoded.
fn encoded(target: &str) -> String {
    let mut out = String::new();
    for byte in target.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>`{}|\\^".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The path with `.` and `..` resolved; the query stays.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (at, segment) in segments.iter().enumerate() {
        let last = at + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (text, wanted) in [
            ("https://example.com", "https://example.com/"),
            ("HTTP://Example.com:8080/a b?c=d#e", "http://Example.com:8080/a%20b?c=d"),
            ("https://[::1]:8443?x", "https://[::1]:8443/?x"),
            ("https://example.com/ä", "https://example.com/%C3%A4"),
        ] {
            assert_eq!(Url::parse(text).expect(text).to_string(), wanted);
        }
        for bad in ["example.com", "ftp://a/", "https://", "https:///a", "https://u:p@h/", "https://ä/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_are_resolved() {
        let url = Url::parse("https://a.example/b/c/d?q").expect("a URL");
        for (location, wanted) in [
            ("http://b.example/x", "http://b.example/x"),
            ("//b.example/x", "https://b.example/x"),
            ("/x/../y", "https://a.example/y"),
            ("x?y", "https://a.example/b/c/x?y"),
            ("../x/.", "https://a.example/b/x/"),
            ("../../../x", "https://a.example/x"),
            ("?z", "https://a.example/b/c/d?z"),
            ("", "https://a.example/b/c/d?q"),
            ("x#y", "https://a.example/b/c/x"),
        ] {
            assert_eq!(url.join(location).expect(location).to_string(), wanted, "{location}");
        }
        assert!(url.join("javascript:alert(1)").is_err());
        assert!(url.same_origin(&Url::parse("https://A.example/").expect("a URL")));
        assert!(!url.same_origin(&Url::parse("http://a.example/").expect("a URL")));
    }
}
