//! What a request may name as its host. Spellings that some resolver would take
//! for an address (`2130706433`, `0x7f.1`, `127.1`) are none: a rule that
//! judges names would not see what they mean.

use std::fmt;
use std::net::IpAddr;

use bulkhead_core::ports::egress::EgressError;

/// Longest name and label of DNS.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Host {
    Name(String),
    Address(IpAddr),
}

impl Host {
    pub(super) fn parse(text: &str) -> Result<Self, EgressError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let is_name = text.len() <= MAX_NAME && text.split('.').all(is_label);
        let last = text.rsplit('.').next().unwrap_or_default();
        if is_name && !is_number(last) { Ok(Self::Name(text.to_owned())) } else { Err(EgressError::InvalidRequest) }
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

/// As the URL standard says what "ends in a number".
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// As in a URL: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_what_is_neither() {
        for name in ["localhost", "a.example", "xn--bcher-kva.example", "_dmarc.example", "1.example", "a-b.x1"] {
            assert_eq!(Host::parse(name), Ok(Host::Name(name.to_owned())));
        }
        for (text, shown) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0:0:0:0:0:0:0:1", "[::1]")] {
            let host = Host::parse(text).expect("an address");
            assert!(matches!(host, Host::Address(_)));
            assert_eq!(host.to_string(), shown);
        }
        let long = format!("{}.example", "a".repeat(64));
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "A.example",
            "a b",
            "a/b",
            "a@b",
            "a:80",
            "[::1]",
            "fe80::1%eth0",
            "a%2e",
            "bücher.example",
            "a\r\nb",
            "a\0",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "0x7f.1",
            "1.0x",
            "127.0.0.01",
            "127.0.0.1.",
            "1.2.3.4.5",
            &long,
        ] {
            assert_eq!(Host::parse(text), Err(EgressError::InvalidRequest), "{text:?}");
        }
    }
}
