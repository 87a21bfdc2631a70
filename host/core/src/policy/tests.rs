use serde_json::json;

use super::*;
use crate::grants::{Destination, WorkspaceAccess};
use crate::id::{TenantId, UserId};

fn build(spec: serde_json::Value) -> Result<Policy, Vec<PolicyFault>> {
    let spec: PolicySpec = serde_json::from_value(spec).expect("a policy");
    let values = spec.secrets.keys().map(|name| (name.clone(), SecretString::from("s3cret-value"))).collect();
    Policy::build(spec, &values, Digest::of(b"policy"))
}

fn subject(tool: &str) -> Subject<'_> {
    let owner = Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 2) };
    Subject { owner, tool, digest: Digest::of(b"component") }
}

fn wants(texts: &[&str]) -> Vec<Capability> {
    texts.iter().map(|text| Capability::Http((*text).to_owned())).collect()
}

fn mode(grants: &Grants, url: &str) -> Option<Mode> {
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let to = Destination::parse("GET", Scheme::Https, authority, &format!("/{path}")).expect("a destination");
    grants.http.iter().find(|grant| grant.pattern.matches(&to)).map(|grant| grant.mode)
}

#[test]
fn without_rules_a_call_gets_its_workspace_and_nothing_else() {
    let policy = Policy::default();
    let wanted = [
        WorkspaceAccess::ReadWrite.into(),
        Capability::Http("a".into()),
        Capability::Environment("A".into()),
        Capability::Secret("s".into()),
    ];
    let (grants, findings) = policy.grants(&subject("t"), &wanted, &Ceiling::OPEN);
    assert_eq!(grants, Grants::workspace(WorkspaceAccess::ReadWrite));
    assert_eq!(findings.len(), 2, "{findings:?}");
    let (grants, _) = policy.grants(&subject("t"), &[], &Ceiling::OPEN);
    assert_eq!(grants.workspace, WorkspaceAccess::None);
    let read_only = Ceiling { workspace: WorkspaceAccess::Read, ..Ceiling::OPEN };
    assert_eq!(policy.grants(&subject("t"), &wanted, &read_only).0.workspace, WorkspaceAccess::Read);
}

#[test]
fn the_first_rule_that_speaks_of_it_decides() {
    let policy = build(json!({"version": 1, "rule": [
        {"name": "no-admin", "mode": "deny", "http": ["https://api.a/admin/*"]},
        {"name": "web", "mode": "allow", "tools": ["fetch", "git_*"], "http": ["https://*.a", "https://api.a"]},
        {"name": "rest", "mode": "ask", "http": ["https://*"]},
    ]}))
    .expect("valid");
    let wanted = wants(&["https://*.a", "https://api.a", "https://b"]);
    let (grants, _) = policy.grants(&subject("git_push"), &wanted, &Ceiling::OPEN);
    assert_eq!(mode(&grants, "api.a/admin/x"), Some(Mode::Deny));
    assert_eq!(mode(&grants, "api.a/x"), Some(Mode::Allow));
    assert_eq!(mode(&grants, "b/x"), Some(Mode::Ask));
    // Never more than the tool wants, or the task allows.
    assert_eq!(mode(&grants, "c/x"), None);
    let ceiling = Ceiling { http: Some(vec!["https://b/y".parse().expect("a pattern")]), ..Ceiling::OPEN };
    let (grants, _) = policy.grants(&subject("git_push"), &wanted, &ceiling);
    assert_eq!((mode(&grants, "api.a/x"), mode(&grants, "b/x"), mode(&grants, "b/y")), (None, None, Some(Mode::Ask)));
    let (grants, _) = policy.grants(&subject("other"), &wanted, &Ceiling::OPEN);
    assert_eq!(mode(&grants, "api.a/x"), Some(Mode::Ask));
}

#[test]
fn a_refusal_holds_for_what_a_server_may_take_for_it() {
    let policy = build(json!({"version": 1, "rule": [
        {"name": "no-admin", "mode": "deny", "http": ["https://a/admin/*"]},
        {"name": "web", "mode": "allow", "http": ["https://a"]},
    ]}))
    .expect("valid");
    let (grants, _) = policy.grants(&subject("t"), &wants(&["https://*"]), &Ceiling::OPEN);
    let decided = |path: &str| {
        let to = Destination::parse("GET", Scheme::Https, "a", path).expect("a destination");
        grants.http.iter().find(|grant| grant.decides(&to)).map(|grant| grant.mode)
    };
    for path in ["/admin/x", "//admin/x", "/./admin/x", "/x/../admin/y", "/%61dmin/x", "/admin%2fx", "/admin/x;y"] {
        assert_eq!(decided(path), Some(Mode::Deny), "{path}");
    }
    assert_eq!(decided("/other"), Some(Mode::Allow));
}

#[test]
fn what_tool_and_task_and_policy_multiply_to_is_bounded() {
    let hosts: Vec<_> = (0..64).map(|number| format!("https://*.h{number}.example")).collect();
    let rules: Vec<_> = (0..200).map(|number| format!("https://*/p{number}/*")).collect();
    let policy = build(json!({"version": 1, "rule": [{"name": "r", "mode": "allow", "http": rules}]})).expect("valid");
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let (grants, _) = policy.grants(&subject("t"), &wants(&hosts), &Ceiling::OPEN);
    assert_eq!(grants.http.len(), MAX_HTTP_GRANTS);
}

#[test]
fn rules_are_about_tenants_users_and_digests() {
    let about = |key: &str, value: String| {
        let policy =
            json!({"version": 1, "rule": [{"name": "r", "mode": "deny", key: [value], "workspace": ["write"]}]});
        let wanted = [WorkspaceAccess::ReadWrite.into()];
        build(policy).expect("valid").grants(&subject("t"), &wanted, &Ceiling::OPEN).0.workspace
    };
    let me = subject("t");
    for (key, mine, other) in [
        ("tenants", me.owner.tenant.to_string(), TenantId::from_parts(9, 9).to_string()),
        ("users", me.owner.user.to_string(), UserId::from_parts(9, 9).to_string()),
        ("tools", me.digest.to_string(), Digest::of(b"other").to_string()),
    ] {
        assert_eq!(about(key, mine), WorkspaceAccess::Read, "{key}");
        assert_eq!(about(key, other), WorkspaceAccess::ReadWrite, "{key}");
    }
}

#[test]
fn what_is_asked_is_not_granted_yet() {
    let policy =
        build(json!({"version": 1, "environment": {"A": "1"}, "secrets": {"s": {"to": "https://a", "query": "k"}},
            "defaults": {"secrets": "ask"}, "rule": [
            {"name": "w", "mode": "ask", "workspace": ["write"]},
            {"name": "e", "mode": "audit", "environment": ["A"]},
        ]}))
        .expect("valid");
    let wanted = [
        WorkspaceAccess::ReadWrite.into(),
        Capability::Environment("A".into()),
        Capability::Environment("B".into()),
        Capability::Secret("s".into()),
    ];
    let (grants, findings) = policy.grants(&subject("t"), &wanted, &Ceiling::OPEN);
    assert_eq!((grants.workspace, grants.most_workspace()), (WorkspaceAccess::Read, WorkspaceAccess::ReadWrite));
    assert_eq!((grants.environment.as_slice(), grants.secrets.len(), grants.asks.len()), (&["A".to_owned()][..], 0, 2));
    let found: Vec<_> = findings.iter().map(|finding| (finding.capability.to_string(), finding.mode)).collect();
    assert_eq!(found, [("environment A".to_owned(), Mode::Audit), ("environment B".to_owned(), Mode::Deny)]);
    // A tool may want every secret; which one it gets is decided by name.
    let (grants, _) = policy.grants(&subject("t"), &[Capability::Secret(ANY.into())], &Ceiling::OPEN);
    assert_eq!(grants.asks[0].capability, Capability::Secret("s".into()));
    // What is asked can't exceed the ceiling either.
    let (grants, _) = policy.grants(&subject("t"), &wanted, &Ceiling::of(&[]).expect("valid"));
    assert_eq!(grants.asks, []);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let wrong = json!({"version": 2, "environment": {"A=B": "1"},
        "secrets": {"s": {"to": "https://*", "query": "k"}}, "rule": [
        {"name": "r", "mode": "allow"},
        {"name": "r", "mode": "allow", "http": ["a"], "tools": ["No"], "secrets": ["t"], "environment": ["C"]},
        {"name": "p", "mode": "allow", "workspace": ["read"], "private": ["10.0.0.0/8"]},
    ]});
    let faults = build(wrong).expect_err("refused");
    let text = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for wanted in [
        "version: ",
        "`A=B`: ",
        "secrets.s: ",
        "rule 1 (`r`): ",
        "rule 2 (`r`).name: ",
        ".tools: `No`",
        ".secrets: ",
        ".environment: `C`",
        "rule 3 (`p`).private: ",
    ] {
        assert!(text.contains(wanted), "{wanted} in\n{text}");
    }
    let unknown = json!({"version": 1, "rule": [{"name": "r", "mode": "allow", "hosts": []}]});
    assert!(serde_json::from_value::<PolicySpec>(unknown).is_err());
}

#[test]
fn an_explanation_names_the_rule() {
    let policy = build(json!({"version": 1, "rule": [
        {"name": "web", "mode": "allow", "http": ["GET https://a"]},
        {"name": "ro", "mode": "deny", "workspace": ["write"]},
    ]}))
    .expect("valid");
    let wanted = [WorkspaceAccess::ReadWrite.into(), Capability::Http("https://a/x/*".into())];
    let explained = policy.explain(&subject("t"), &wanted, &Ceiling::OPEN);
    let decisions: Vec<_> = explained
        .iter()
        .flat_map(|explained| &explained.decisions)
        .map(|decided| format!("{} {} {:?}", decided.what, decided.mode.as_str(), decided.rule))
        .collect();
    assert_eq!(
        decisions,
        [
            "workspace read allow None",
            "workspace write deny Some(\"ro\")",
            "http GET https://a/x/* allow Some(\"web\")",
            "every other of http https://a/x/* deny None",
        ]
    );
}
