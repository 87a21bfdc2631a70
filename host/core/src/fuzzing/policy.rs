//! Policies and the requests that they decide.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::split;
use crate::digest::Digest;
use crate::grants::{Capability, Ceiling, Destination, HttpPattern, MAX_PARTS, Mode, WorkspaceAccess};
use crate::id::{TenantId, UserId};
use crate::policy::spec::{PolicySpec, Right, WorkspaceRight};
use crate::policy::{MAX_HTTP_GRANTS, Policy, Subject};
use crate::ports::egress::Scheme;
use crate::principal::Owner;

/// A policy (as JSON, the fields of the TOML file) and, behind a NUL, a
/// request: method, authority and target between spaces. What is granted is
/// within the ceilings, what a pattern means survives being written down, and
/// a refusal holds however the path is spelled.
pub(super) fn policy(bytes: &[u8]) {
    let (spec, request) = split(bytes);
    let request = destination(request);
    if let Some(request) = &request {
        spelled(request);
    }
    let Ok(spec) = serde_json::from_slice::<PolicySpec>(spec) else { return };
    for pattern in spec.rules.iter().flat_map(|rule| &rule.http) {
        let again: HttpPattern = pattern.to_string().parse().expect("what was written is read");
        assert_eq!(again, *pattern);
        assert_eq!(pattern.intersect(pattern).as_ref(), Some(pattern));
    }
    let values = spec.secrets.keys().map(|name| (name.clone(), SecretString::from("0123456789"))).collect();
    let rights: Vec<_> = spec.rules.iter().flat_map(|rule| rule.workspace.clone()).collect();
    let Ok(policy) = Policy::build(spec, &values, Digest::of(b"policy")) else { return };
    let owner = Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 2) };
    let subject = Subject { owner, tool: "tool", digest: Digest::of(b"tool") };
    workspace(&policy, &subject, &rights);
    let wanted = ["https://*.example", "GET http://*:*/v1/*"].map(|text| Capability::Http(text.into()));
    let (grants, _) = policy.grants(&subject, &wanted, &Ceiling::OPEN);
    assert!(grants.http.len() <= MAX_HTTP_GRANTS);
    assert!(grants.within(&grants), "nothing is less than itself");
    let known: BTreeMap<_, _> = grants.http.iter().map(|grant| (grant.pattern.to_string(), grant.mode)).collect();
    assert_eq!(known.len(), grants.http.len(), "each pattern is decided once");
    let Some(request) = request else { return };
    let decides = grants.http.iter().find(|grant| grant.decides(&request));
    if decides.is_some_and(|grant| matches!(grant.mode, Mode::Allow | Mode::Audit)) {
        let within = |capability: &Capability| match capability {
            Capability::Http(text) => text.parse::<HttpPattern>().is_ok_and(|pattern| pattern.matches(&request)),
            _ => false,
        };
        assert!(wanted.iter().any(within), "more than the tool wants");
    }
    let (narrow, _) = policy.grants(&subject, &wanted, &Ceiling::of(&[]).expect("nothing is valid"));
    assert!(narrow.http.is_empty() && narrow.asks.is_empty());
}

/// Of no directory that a rule names a call gets what the explanation says is
/// refused or asked for.
fn workspace(policy: &Policy, subject: &Subject<'_>, rights: &[WorkspaceRight]) {
    for right in rights {
        assert_eq!(right.to_string().parse::<WorkspaceRight>().as_ref(), Ok(right), "what was written is read");
    }
    let parts = ["read", "read-write:a"].map(|part| Capability::Workspace(part.parse().expect("a part")));
    let ceiling = Ceiling::of(&parts).expect("valid");
    let wanted = [WorkspaceAccess::ReadWrite.into()];
    let (grants, _) = policy.grants(subject, &wanted, &ceiling);
    assert!(grants.paths.len() <= MAX_PARTS && grants.asks.len() <= MAX_PARTS);
    assert!(grants.reach().parts.iter().all(|part| part.access <= ceiling.reach().at(&part.path)));
    for decided in policy.explain(subject, &wanted, &ceiling).into_iter().flat_map(|explained| explained.decisions) {
        let what = decided.what.strip_prefix("workspace ").expect("only the workspace was wanted");
        let right: WorkspaceRight = what.parse().expect("what was written is read");
        let access = if right.right == Right::Write { WorkspaceAccess::ReadWrite } else { WorkspaceAccess::Read };
        let granted = grants.reach().at(&right.path) >= access;
        assert!(!granted || matches!(decided.mode, Mode::Allow | Mode::Audit), "{what}");
    }
}

fn destination(request: &[u8]) -> Option<Destination> {
    let text = std::str::from_utf8(request).ok()?;
    let mut parts = text.splitn(3, ' ');
    let (method, authority, target) = (parts.next()?, parts.next()?, parts.next()?);
    Destination::parse(method, Scheme::Https, authority, target).ok()
}

/// What was taken for a request has one spelling, and a pattern made of it
/// means it alone.
fn spelled(request: &Destination) {
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let host = if request.host.contains(':') { format!("[{}]", request.host) } else { request.host.clone() };
    let (authority, target) = (format!("{host}:{}", request.port), format!("{}{query}", request.path));
    let again = Destination::parse(&request.method, request.scheme, &authority, &target);
    assert_eq!(again.as_ref(), Ok(request));
    if request.is_ambiguous() {
        return;
    }
    let exact = HttpPattern::exactly(request);
    assert!(exact.matches(request));
    let Ok(written) = exact.to_string().parse::<HttpPattern>() else { return };
    let other = Destination { path: format!("{}x", request.path), ..request.clone() };
    assert!(written.matches(request) && !written.matches(&other), "{written}");
}

/// Inputs to begin with, by name.
pub(super) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let seed = |policy: &str, request: &str| format!("{policy}\0{request}").into_bytes();
    let rules = r#"{"version":1,"defaults":{"http":"audit"},"rule":[{"name":"no","mode":"deny","http":["https://a.example/admin/*"]},{"name":"web","mode":"allow","tools":["to*"],"http":["GET,POST https://*.example:*","http://127.0.0.1:8080/v1/x"],"private":["127.0.0.0/8"]}]}"#;
    let secrets = r#"{"version":1,"environment":{"A":"1"},"secrets":{"s":{"to":"https://a.example","header":"authorization: Bearer {}"},"q":{"to":"https://b.example/v1/*","query":"key"}},"rule":[{"name":"r","mode":"ask","workspace":["read","write"],"environment":["*"],"secrets":["s","q"]}]}"#;
    let parts = r#"{"version":1,"defaults":{"workspace":"deny"},"rule":[{"name":"no","mode":"deny","workspace":["read-write:a/b"]},{"name":"a","mode":"allow","workspace":["read","write:a","read-write:/c/./d"]},{"name":"q","mode":"ask","workspace":["write"]}]}"#;
    vec![
        ("parts", seed(parts, "")),
        ("allowed", seed(rules, "GET b.example:8443 /v1/x?q=1")),
        ("refused", seed(rules, "GET a.example /admin/x")),
        ("spelled", seed(rules, "GET a.example //%61dmin/./x;y")),
        ("star", seed(rules, "GET a.example /a*b")),
        ("address", seed("{\"version\":1}", "get [2001:DB8::1]:443 /")),
        ("number", seed("{\"version\":1}", "GET 0x7f.1 /")),
        ("secrets", seed(secrets, "")),
        ("wrong", seed("{\"version\":2,\"rule\":[{\"name\":\"\",\"mode\":\"deny\"}]}", "CONNECT a@b x")),
        ("empty", Vec::new()),
    ]
}
