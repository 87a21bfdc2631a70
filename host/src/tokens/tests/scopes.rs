//! Who a token is here, and what it may do at most.

use bulkhead_core::id::TenantId;
use bulkhead_core::principal::{Scope, Scopes};

use super::super::claims::Claims;
use super::*;

fn accepted(issuer: &Issuer, claims: &Value) -> super::super::Accepted {
    let parsed = Claims::parse(claims.to_string().as_bytes()).unwrap();
    parsed.accept(issuer, Timestamp::from_millis(now() * 1_000)).unwrap()
}

fn scopes(issuer: Value, claims: Value) -> Scopes {
    accepted(&configured(issuer), &claims).scopes
}

#[test]
fn scopes_are_what_the_issuers_words_mean() {
    let read: Scopes = "tasks:read".parse().unwrap();
    let said = |words: Value| with(without(alice(), "scope"), "scope", words);
    assert_eq!(scopes(json!({}), said(json!("openid tasks:read profile"))), read);
    assert_eq!(scopes(json!({}), said(json!(["tasks:read", 7, "x"]))), read);
    assert_eq!(scopes(json!({}), with(without(alice(), "scope"), "scp", json!("tasks:read"))), read);
    assert_eq!(scopes(json!({"scope_claim": "roles"}), with(alice(), "roles", json!(["tasks:read"]))), read);
    assert_eq!(scopes(json!({}), without(alice(), "scope")), Scopes::default());
    assert_eq!(scopes(json!({}), said(json!({"tasks:read": true}))), Scopes::default());
    let table = json!({"scopes": {"reader": ["tasks:read"], "nothing": []}});
    assert_eq!(scopes(table.clone(), said(json!("reader nothing"))), read);
    // With a table only its words mean something.
    assert_eq!(scopes(table, said(json!("calls:run tasks:write"))), Scopes::default());
}

/// Whatever the token says and whatever the table is, for a thousand ceilings.
#[test]
fn no_token_gets_a_scope_beyond_the_ceiling() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..1_000 {
        let bits = random();
        let some = |bits: u64| {
            Scope::ALL.iter().enumerate().filter(move |(at, _)| bits >> at & 1 == 1).map(|(_, scope)| *scope)
        };
        let ceiling: Scopes = some(bits).collect();
        let mut issuer = configured(json!({}));
        issuer.ceiling = some(bits).collect();
        if random() % 2 == 0 {
            // Past the check of the configuration, which refuses such a table.
            issuer.scopes.insert("all".into(), Scope::ALL.to_vec());
        }
        let words = format!("all {} {}", Scopes::all(), some(random()).collect::<Scopes>());
        let got = accepted(&issuer, &with(alice(), "scope", json!(words))).scopes;
        assert_eq!(got.within(ceiling), got);
        assert!(Scope::ALL.iter().all(|scope| !got.contains(*scope) || ceiling.contains(*scope)));
    }
}

#[test]
fn an_administrator_comes_from_a_token_only_if_the_issuer_may_make_one() {
    let all = with(alice(), "scope", json!(Scopes::all().to_string()));
    let usual = scopes(json!({}), all.clone());
    for scope in [Scope::Admin, Scope::OperatorAdmin, Scope::OperatorTools] {
        assert!(!usual.contains(scope), "{scope}");
    }
    assert!(scopes(json!({"ceiling": ["admin"]}), all).contains(Scope::Admin));
}

#[test]
fn users_of_two_issuers_or_organisations_never_meet() {
    let other = "https://other.example.com";
    let local = TenantId::from_parts(1, 1);
    let fixed = |issuer: &str| configured(json!({"issuer": issuer, "tenant": local}));
    let claimed = |issuer: &str| configured(json!({"issuer": issuer}));
    let of = |issuer: &str| with(alice(), "iss", json!(issuer));
    let mut owners = vec![
        accepted(&fixed(ISSUER), &of(ISSUER)).owner,
        accepted(&fixed(other), &of(other)).owner,
        accepted(&claimed(ISSUER), &of(ISSUER)).owner,
        accepted(&claimed(other), &of(other)).owner,
        accepted(&claimed(ISSUER), &with(of(ISSUER), "org", json!("umbrella"))).owner,
    ];
    assert!(owners[..2].iter().all(|owner| owner.tenant == local));
    assert!(owners[2..].iter().all(|owner| owner.tenant != local));
    // The name of a local tenant in a claim is a name like others.
    let sly = accepted(&claimed(ISSUER), &with(of(ISSUER), "org", json!(local.to_string()))).owner;
    assert_ne!(sly.tenant, local);
    owners.push(sly);
    let users: std::collections::HashSet<_> = owners.iter().map(|owner| owner.user).collect();
    assert_eq!(users.len(), owners.len());
    assert_eq!(accepted(&claimed(ISSUER), &of(ISSUER)).owner, owners[2], "the same again");
}
