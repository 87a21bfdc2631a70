//! Owners that a token names: tenants and users of an issuer elsewhere.
//!
//! Their ids are made of what the issuer says, and kept nowhere but with what
//! they own: the same token, the same owner, on every server. A digest over
//! issuer, tenant and subject keeps two issuers apart, and two organisations
//! of one; being derived keeps them from every owner that was made here
//! ([`UserId::derived`]).

use crate::digest::Digest;
use crate::id::{TenantId, UserId};
use crate::principal::Owner;

/// The tenant that an issuer's claim names.
pub fn tenant(issuer: &str, claim: &str) -> TenantId {
    TenantId::derived(&digest(&["tenant", issuer, claim]))
}

/// The user that an issuer calls `subject`, in a tenant.
pub fn owner(issuer: &str, tenant: TenantId, subject: &str) -> Owner {
    Owner { tenant, user: UserId::derived(&digest(&["user", issuer, &tenant.to_string(), subject])) }
}

/// Each part with its length, so that no two lists of parts are one text.
fn digest(parts: &[&str]) -> Digest {
    let mut bytes = b"bulkhead owner v1".to_vec();
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_tenants_and_subjects_never_meet() {
        let local = TenantId::from_parts(1, 1);
        let mut seen = std::collections::HashSet::new();
        for issuer in ["https://a.example", "https://b.example", "https://a.examplet"] {
            for tenant in [local, tenant(issuer, "one"), tenant(issuer, "two"), tenant(issuer, "")] {
                for subject in ["alice", "bob", "eone", ""] {
                    assert!(seen.insert(owner(issuer, tenant, subject)), "{issuer} {tenant} {subject}");
                }
            }
        }
        assert_eq!(owner("i", local, "s"), owner("i", local, "s"));
        // They are stored with what users own: a change would take it from them.
        assert_eq!(owner("https://a.example", local, "alice").user.to_string(), "usr_7qrfbre0539dxvrk93jqj78ht4");
    }
}
