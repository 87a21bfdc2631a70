//! Names to addresses, and which of them may be connected to.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use bulkhead_core::address::is_public;
use bulkhead_core::ports::egress::EgressError;
use ipnet::IpNet;

use super::host::Host;

/// Most addresses of a name that are looked at, and that are tried.
const MAX_LOOKED_AT: usize = 64;
const MAX_TRIED: usize = 8;

/// Who knows the addresses of names.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, in the order in which to try them.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.take(MAX_LOOKED_AT).map(|address| address.ip()).collect())
    }
}

/// The addresses of `host` to try, each of which may be reached.
pub(super) async fn addresses(
    resolver: &dyn Resolve,
    host: &Host,
    private: &[IpNet],
) -> Result<Vec<IpAddr>, EgressError> {
    let found = match host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => resolver.resolve(name).await.map_err(|_| EgressError::Dns)?,
    };
    // One private address among public ones is an attack or a mistake.
    if !found.iter().all(|&address| may_reach(address, private)) {
        return Err(EgressError::AddressForbidden);
    }
    let mut tried: Vec<IpAddr> = Vec::new();
    for address in found {
        if !tried.contains(&address) && tried.len() < MAX_TRIED {
            tried.push(address);
        }
    }
    if tried.is_empty() { Err(EgressError::Dns) } else { Ok(tried) }
}

/// Whether `address` is public, or of a network that is named. An IPv4 address
/// written as IPv6 is never: a network of IPv6 would let IPv4 be reached by it.
fn may_reach(address: IpAddr, private: &[IpNet]) -> bool {
    is_public(address) || (address.to_canonical() == address && private.iter().any(|net| net.contains(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<IpAddr>);

    #[async_trait]
    impl Resolve for Fixed {
        async fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    async fn judged(found: &[&str], private: &[&str]) -> Result<Vec<IpAddr>, EgressError> {
        let found = found.iter().map(|address| address.parse().expect("an address")).collect();
        let private: Vec<IpNet> = private.iter().map(|net| net.parse().expect("a network")).collect();
        addresses(&Fixed(found), &Host::Name("a.example".into()), &private).await
    }

    #[tokio::test]
    async fn every_address_must_be_allowed() {
        assert_eq!(judged(&["8.8.8.8", "8.8.8.8", "2606:4700::1111"], &[]).await.expect("public").len(), 2);
        for bad in
            ["10.0.0.1", "169.254.169.254", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "0.0.0.0", "64:ff9b::a00:1"]
        {
            assert_eq!(judged(&["8.8.8.8", bad, "1.1.1.1"], &[]).await, Err(EgressError::AddressForbidden), "{bad}");
        }
        assert_eq!(judged(&[], &[]).await, Err(EgressError::Dns));
    }

    #[tokio::test]
    async fn private_networks_open_what_they_name_and_no_more() {
        assert!(judged(&["10.1.2.3", "8.8.8.8"], &["10.0.0.0/8"]).await.is_ok());
        assert!(judged(&["10.1.2.3", "11.0.0.1", "fd00::1"], &["10.1.2.3/32", "fd00::/8"]).await.is_ok());
        assert_eq!(judged(&["10.1.2.4"], &["10.1.2.3/32"]).await, Err(EgressError::AddressForbidden));
        assert_eq!(judged(&["::ffff:10.1.2.3"], &["10.0.0.0/8"]).await, Err(EgressError::AddressForbidden));
        assert_eq!(judged(&["::ffff:127.0.0.1"], &["::/0"]).await, Err(EgressError::AddressForbidden));
    }
}
