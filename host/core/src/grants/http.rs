//! Which HTTP requests a rule, a tool or a grant means: a pattern of method,
//! scheme, host, port and path. As text, in the form of a URL:
//!
//! ```text
//! [METHOD[,METHOD] ][scheme://]host[:port][/path]
//! ```
//!
//! Without methods: any; without a scheme: `https`; without a port: the
//! scheme's; without a path: any. `*` stands for any host or port; `*.` before
//! a name for every name below it; `*` at the end of a path for whatever
//! follows. Two patterns have an intersection that is a pattern again, so what
//! a call may do can be written down and shown.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ports::egress::Scheme;

/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 2048;
/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// A text that is no pattern, or a request that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PatternError(pub String);

fn refuse<T>(why: impl Into<String>) -> Result<T, PatternError> {
    Err(PatternError(why.into()))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum HostPattern {
    Any,
    /// Every name below this one.
    Below(String),
    One(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum PathPattern {
    Any,
    Prefix(String),
    One(String),
}

/// A pattern of requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HttpPattern {
    /// Sorted; empty for any.
    methods: Vec<String>,
    scheme: Scheme,
    host: HostPattern,
    /// None for any.
    port: Option<u16>,
    path: PathPattern,
}

/// Where a request goes, in the one spelling that is compared and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The method.
    pub method: String,
    /// The scheme.
    pub scheme: Scheme,
    /// A name in lower case without a dot at its end, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, beginning with `/`, without the query.
    pub path: String,
    /// The query, without its `?`.
    pub query: Option<String>,
}

impl Destination {
    /// Reads what a guest asked for.
    ///
    /// # Errors
    /// If it has more than one meaning, or none.
    pub fn parse(method: &str, scheme: Scheme, authority: &str, target: &str) -> Result<Self, PatternError> {
        if !is_method(method) || method.contains('*') || method.eq_ignore_ascii_case("connect") {
            return refuse(format!("`{}` is not a method that can be sent", shown(method)));
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => scheme.default_port(),
            Some(port) => parse_port(port)?,
        };
        let target = if target.is_empty() { "/" } else { target };
        let visible = target.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if !target.starts_with('/') || !visible {
            return refuse("the path must begin with `/` and be percent-encoded");
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        // Servers that ignore case in methods exist, so a rule must too.
        let method = method.to_ascii_uppercase();
        // In patterns it stands for whatever follows.
        let path = path.replace('*', "%2A");
        Ok(Self { method, scheme, host: parse_host(host)?, port, path, query })
    }

    /// The URL without its query, which may hold what nobody should read in a log.
    pub fn shown(&self) -> String {
        format!("{}{}", self.origin(), self.path)
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        let host = bracketed(&self.host);
        let port = if self.port == self.scheme.default_port() { String::new() } else { format!(":{}", self.port) };
        format!("{}://{host}{port}", self.scheme.as_str())
    }

    /// Whether different servers may read the path differently.
    pub fn is_ambiguous(&self) -> bool {
        let path = &self.path;
        let encoded = path.split('%').skip(1).any(|rest| {
            let byte = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            // What need not be encoded has a second spelling; the rest of these is read as what it stands for.
            byte.is_none_or(|byte| byte.is_ascii_alphanumeric() || b"-._~/\\%;\0".contains(&byte))
        });
        encoded
            || path.contains("//")
            || path.contains('\\')
            || path.split('/').any(|segment| matches!(segment, "." | "..") || segment.contains(';'))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A token of RFC 9110, section 5.6.2.
fn is_method(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=32).contains(&text.len()) && text.bytes().all(token)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), PatternError> {
    if authority.contains('@') {
        return refuse("a URL here has no user name");
    }
    let end = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[end..].split_once(':') {
        Some((rest, port)) => Ok((&authority[..end + rest.len()], Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, PatternError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| PatternError(format!("`{}` is not a port", shown(text))))
}

/// A host in the one spelling that is compared.
fn parse_host(text: &str) -> Result<String, PatternError> {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let address: Result<Ipv6Addr, _> = address.parse();
        return address.map(|address| address.to_string()).or_else(|_| refuse("that is not an IPv6 address"));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |label: &str| {
        let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    if name.len() > MAX_HOST || !name.split('.').all(label) {
        return refuse(format!("`{}` is not a host name (write others than ASCII in their `xn--` form)", shown(text)));
    }
    // `127.1`, `0x7f.0.0.1` and `2130706433` are addresses to some and names
    // to others.
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    if number && name.parse::<Ipv4Addr>().is_err() {
        return refuse(format!("`{}` is not an IPv4 address in its usual form", shown(text)));
    }
    Ok(name)
}

impl FromStr for HttpPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN || text.is_empty() {
            return refuse(format!("a pattern of requests has 1 to {MAX_PATTERN} bytes"));
        }
        let (methods, url) = match text.split_once(' ') {
            Some((methods, url)) => (parse_methods(methods)?, url),
            None => (Vec::new(), text),
        };
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some((other, _)) => return refuse(format!("the scheme is `http` or `https`, not `{}`", shown(other))),
            None => (Scheme::Https, url),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], parse_path(&rest[at..])?),
            None => (rest, PathPattern::Any),
        };
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => Some(scheme.default_port()),
            Some("*") => None,
            Some(port) => Some(parse_port(port)?),
        };
        Ok(Self { methods, scheme, host: parse_host_pattern(host)?, port, path })
    }
}

fn parse_methods(text: &str) -> Result<Vec<String>, PatternError> {
    if text == "*" {
        return Ok(Vec::new());
    }
    let mut methods: Vec<String> = text.split(',').map(str::to_ascii_uppercase).collect();
    methods.sort_unstable();
    methods.dedup();
    match methods.iter().find(|method| !is_method(method) || method.contains('*') || method.len() > 32) {
        Some(bad) => refuse(format!("`{}` is not a method; write `GET,POST https://…`", shown(bad))),
        None => Ok(methods),
    }
}

fn parse_host_pattern(text: &str) -> Result<HostPattern, PatternError> {
    match text.strip_prefix("*.") {
        _ if text == "*" => Ok(HostPattern::Any),
        Some(parent) => Ok(HostPattern::Below(parse_host(parent)?)),
        None => Ok(HostPattern::One(parse_host(text)?)),
    }
}

fn parse_path(text: &str) -> Result<PathPattern, PatternError> {
    let (fixed, prefix) = match text.strip_suffix('*') {
        Some(fixed) => (fixed, true),
        None => (text, false),
    };
    let plain = Destination::parse("GET", Scheme::Https, "a", fixed)?;
    if plain.query.is_some() || fixed.contains('*') || plain.is_ambiguous() {
        return refuse(format!("`{}` is not a path: no query, no `..`, and `*` only at its end", shown(text)));
    }
    Ok(match (prefix, fixed) {
        (true, "/") => PathPattern::Any,
        (true, _) => PathPattern::Prefix(fixed.to_owned()),
        (false, _) => PathPattern::One(fixed.to_owned()),
    })
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(parent) => host.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.')),
            Self::One(name) => name == host,
        }
    }

    fn intersect(&self, other: &Self) -> Option<Self> {
        let inside = |narrow: &Self, wide: &Self| match (narrow, wide) {
            (_, Self::Any) => true,
            (Self::One(name), wide) => wide.matches(name),
            (Self::Below(narrow), Self::Below(wide)) => narrow == wide || Self::Below(wide.clone()).matches(narrow),
            _ => false,
        };
        narrower(self, other, inside)
    }
}

impl PathPattern {
    fn matches(&self, destination: &Destination) -> bool {
        match self {
            Self::Any => true,
            // What a server may take for another path is no match for a part of them.
            _ if destination.is_ambiguous() => false,
            Self::Prefix(prefix) => destination.path.starts_with(prefix.as_str()),
            Self::One(path) => destination.path == *path,
        }
    }

    fn intersect(&self, other: &Self) -> Option<Self> {
        let inside = |narrow: &Self, wide: &Self| match (narrow, wide) {
            (_, Self::Any) => true,
            (Self::One(narrow), Self::One(wide)) => narrow == wide,
            (Self::One(narrow) | Self::Prefix(narrow), Self::Prefix(wide)) => narrow.starts_with(wide.as_str()),
            _ => false,
        };
        narrower(self, other, inside)
    }
}

/// The one that lies inside of the other, if one does.
fn narrower<T: Clone>(one: &T, two: &T, inside: impl Fn(&T, &T) -> bool) -> Option<T> {
    if inside(one, two) {
        Some(one.clone())
    } else if inside(two, one) {
        Some(two.clone())
    } else {
        None
    }
}

impl HttpPattern {
    /// Every request by `scheme`.
    pub fn any(scheme: Scheme) -> Self {
        Self { methods: Vec::new(), scheme, host: HostPattern::Any, port: None, path: PathPattern::Any }
    }

    /// The pattern of exactly this host and path, with this method.
    pub fn exactly(destination: &Destination) -> Self {
        let path = PathPattern::One(destination.path.clone());
        Self {
            methods: vec![destination.method.clone()],
            scheme: destination.scheme,
            host: HostPattern::One(destination.host.clone()),
            port: Some(destination.port),
            path,
        }
    }

    /// Whether the pattern means this request, or a server may take the request
    /// for one that it means.
    pub fn touches(&self, destination: &Destination) -> bool {
        let whole = Self { path: PathPattern::Any, ..self.clone() };
        self.matches(destination) || (destination.is_ambiguous() && whole.matches(destination))
    }

    /// Whether the pattern means this request.
    pub fn matches(&self, destination: &Destination) -> bool {
        (self.methods.is_empty() || self.methods.contains(&destination.method))
            && self.scheme == destination.scheme
            && self.port.is_none_or(|port| port == destination.port)
            && self.host.matches(&destination.host)
            && self.path.matches(destination)
    }

    /// The host and scheme, if the pattern means one host.
    pub fn one_host(&self) -> Option<&str> {
        match &self.host {
            HostPattern::One(name) => Some(name),
            HostPattern::Any | HostPattern::Below(_) => None,
        }
    }

    /// The requests that both mean.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let methods = match (self.methods.is_empty(), other.methods.is_empty()) {
            (true, _) => other.methods.clone(),
            (_, true) => self.methods.clone(),
            _ => {
                let both: Vec<_> =
                    self.methods.iter().filter(|method| other.methods.contains(method)).cloned().collect();
                if both.is_empty() {
                    return None;
                }
                both
            }
        };
        let port = match (self.port, other.port) {
            (None, port) | (port, None) => port,
            (Some(one), Some(two)) if one == two => Some(one),
            _ => return None,
        };
        (self.scheme == other.scheme).then_some(())?;
        Some(Self {
            methods,
            scheme: self.scheme,
            host: self.host.intersect(&other.host)?,
            port,
            path: self.path.intersect(&other.path)?,
        })
    }
}

impl fmt::Display for HttpPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            write!(f, "{} ", self.methods.join(","))?;
        }
        write!(f, "{}://", self.scheme.as_str())?;
        match &self.host {
            HostPattern::Any => f.write_str("*")?,
            HostPattern::Below(parent) => write!(f, "*.{}", bracketed(parent))?,
            HostPattern::One(name) => f.write_str(&bracketed(name))?,
        }
        match self.port {
            None => f.write_str(":*")?,
            Some(port) if port == self.scheme.default_port() => {}
            Some(port) => write!(f, ":{port}")?,
        }
        match &self.path {
            PathPattern::Any => Ok(()),
            PathPattern::Prefix(prefix) => write!(f, "{prefix}*"),
            PathPattern::One(path) => f.write_str(path),
        }
    }
}

impl Serialize for HttpPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HttpPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
