//! Which addresses an import may connect to: public ones. A URL is the client's
//! choice, and the host may reach what the client must not (metadata services,
//! databases, itself). Names are resolved once, here, and the child may connect
//! to nothing but the addresses that were checked: a name that means something
//! else a moment later gains nothing.

use std::net::IpAddr;
use std::time::Duration;

use bulkhead_core::address::is_public;
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

#[cfg(test)]
mod tests {
    use super::*;

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
