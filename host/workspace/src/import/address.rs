//! Which addresses an import may connect to: public ones. A URL is the client's
//! choice, and the host may reach what the client must not (metadata services,
//! databases, itself). Names are resolved once, here, and the child may connect
//! to nothing but the addresses that were checked: a name that means something
//! else a moment later gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bulkhead_core::ports::import::ImportError;

use super::{code, refused};

/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(10);
/// Most addresses that are looked at, and that are passed on.
const MAX_LOOKED_AT: usize = 64;
const MAX_USED: usize = 4;

/// The addresses of `host`, all of them public.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<IpAddr>, ImportError> {
    let unreachable = || refused(code::UNREACHABLE, format!("the name `{host}` could not be resolved"));
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let found = match plain.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port)))
            .await
            .map_err(|_| unreachable())?
            .map_err(|_| unreachable())?
            .take(MAX_LOOKED_AT)
            .map(|address| address.ip())
            .collect(),
    };
    // One private address among public ones is an attack or a mistake.
    if !found.iter().copied().all(is_public) {
        return Err(refused(code::FORBIDDEN_SOURCE, format!("`{host}` has an address that is not public")));
    }
    let mut used: Vec<IpAddr> = Vec::new();
    for address in found {
        if !used.contains(&address) && used.len() < MAX_USED {
            used.push(address);
        }
    }
    if used.is_empty() { Err(unreachable()) } else { Ok(used) }
}

/// Whether an address belongs to the public internet (IANA's registries of
/// special-purpose addresses; what is not known to be public is not).
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL: [(Ipv4Addr, u32); 15] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        (Ipv4Addr::new(224, 0, 0, 0), 4),
        (Ipv4Addr::new(240, 0, 0, 0), 4),
    ];
    let bits = address.to_bits();
    !SPECIAL.iter().any(|(net, length)| (bits ^ net.to_bits()) >> (32 - length) == 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Inside of 2000::/3, the only part that is given out; so loopback,
    // mapped and translated IPv4, local, link-local and multicast are not.
    const SPECIAL: [(Ipv6Addr, u32); 4] = [
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
        (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    ];
    let bits = address.to_bits();
    bits >> 125 == 1 && !SPECIAL.iter().any(|(net, length)| (bits ^ net.to_bits()) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses() {
        let private = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "64:ff9b::808:808",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
            "5f00::1",
        ];
        for address in private {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
        for address in
            ["8.8.8.8", "140.82.121.3", "100.128.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1111", "2a00:1450::1"]
        {
            assert!(is_public(address.parse().expect("an address")), "{address}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_their_addresses() {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let error = resolve(host, 443).await.expect_err("is not public");
            assert!(matches!(error, ImportError::Refused { code: code::FORBIDDEN_SOURCE, .. }), "{host}: {error}");
        }
        let error = resolve("name.invalid", 443).await.expect_err("is no name");
        assert!(matches!(error, ImportError::Refused { code: code::UNREACHABLE, .. }), "{error}");
        assert_eq!(resolve("8.8.8.8", 443).await.expect("is public").len(), 1);
    }
}
