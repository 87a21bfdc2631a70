use std::path::PathBuf;

use bulkhead_core::digest::Digest;
use bulkhead_core::grants::{Capability, Ceiling, Mode, WorkspaceAccess};
use bulkhead_core::id::{TenantId, UserId};
use bulkhead_core::policy::Subject;
use bulkhead_core::principal::Owner;
use tempfile::TempDir;

use super::*;

fn file(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn nothing(_: &str) -> Option<String> {
    None
}

#[test]
fn faults_name_the_file_the_place_and_the_remedy() {
    let directory = TempDir::new().expect("a directory");
    let cases = [
        ("version = 1\n[[rule]]\nname = \"a\"\nmode = \"maybe\"\n", "line 4"),
        ("version = 1\nrules = []\n", "unknown field `rules`"),
        ("version = 2\n", "version: this host reads version 1"),
        (
            "version = 1\n[[rule]]\nname = \"a\"\nmode = \"allow\"\nhttp = [\"ftp://a\"]\n",
            "`http` or `https`, not `ftp`",
        ),
        ("version = 1\n[secrets.s]\nto = \"https://a\"\nheader = \"a: {}\"\n", "secrets.s: name exactly one of"),
        ("version = 1\n[secrets.s]\nto = \"https://a\"\nheader = \"a: {}\"\nvariable = \"NO\"\n", "has no `NO`"),
        ("version = 1\n[secrets.s]\nto = \"https://a\"\nheader = \"a: {}\"\nfile = \"gone\"\n", "can't be read"),
    ];
    for (text, wanted) in cases {
        let error = load(&file(&directory, "policy.toml", text), &nothing).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

#[test]
fn secrets_come_from_files_beside_it_and_from_variables() {
    let directory = TempDir::new().expect("a directory");
    file(&directory, "token", "from-a-file\n");
    let text = "version = 1\n[secrets.f]\nfile = \"token\"\nto = \"https://a\"\nheader = \"a: {}\"\n\
                [secrets.v]\nvariable = \"V\"\nto = \"https://a\"\nquery = \"q\"\n";
    let path = file(&directory, "policy.toml", text);
    let loaded = load(&path, &|name| (name == "V").then(|| "from-a-variable".to_owned())).expect("valid");
    let needle = |name: &str| loaded.policy.secret(name).expect("there").needles().remove(0);
    assert_eq!((needle("f"), needle("v")), (b"from-a-file".to_vec(), b"from-a-variable".to_vec()));
    assert_eq!(loaded.files, [path, directory.path().join("token")]);
    assert!(!loaded.text.contains("from-a"));
}

const WASSETTE: &str = r#"
$schema: https://example.com/schema.json
version: "1.0"
description: "fetches"
permissions:
  storage:
    allow:
      - uri: "fs://data/**"
        access: ["read"]
  network:
    allow:
      - host: "api.example.com"
      - host: "*.internal.example"
    deny:
      - host: "secret.internal.example"
  environment:
    allow:
      - key: "TOKEN"
      - key: "MISSING"
  resources:
    limits:
      memory: "512Mi"
"#;

#[test]
fn a_policy_of_wassette_gives_what_it_allows_and_nothing_else() {
    let directory = TempDir::new().expect("a directory");
    file(&directory, "fetch.yaml", WASSETTE);
    let text = "version = 1\n[defaults]\nhttp = \"allow\"\n[[wassette]]\nfile = \"fetch.yaml\"\ntools = [\"fetch\"]\n";
    let path = file(&directory, "policy.toml", text);
    let loaded = load(&path, &|name| (name == "TOKEN").then(|| "its-value".to_owned())).expect("valid");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(!loaded.text.contains("its-value"));
    let owner = Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 1) };
    let subject = Subject { owner, tool: "fetch", digest: Digest::of(b"x") };
    let wanted = [
        WorkspaceAccess::ReadWrite.into(),
        Capability::Http("https://*:*".into()),
        Capability::Environment("TOKEN".into()),
        Capability::Environment("MISSING".into()),
    ];
    let (grants, _) = loaded.policy.grants(&subject, &wanted, &Ceiling::OPEN);
    let parts: Vec<_> = grants.paths.iter().map(ToString::to_string).collect();
    assert_eq!((grants.workspace, parts), (WorkspaceAccess::None, vec!["read:data".to_owned()]));
    assert_eq!(grants.environment, ["TOKEN"]);
    let modes: Vec<_> = grants.http.iter().map(|grant| (grant.pattern.to_string(), grant.mode)).collect();
    assert_eq!(
        modes,
        [
            ("https://secret.internal.example".to_owned(), Mode::Deny),
            ("https://api.example.com".to_owned(), Mode::Allow),
            ("https://*.internal.example".to_owned(), Mode::Allow),
            ("https://*:*".to_owned(), Mode::Deny),
        ]
    );
    // What it is converted to means the same.
    let (converted, _) =
        convert(&directory.path().join("fetch.yaml"), WASSETTE, &["fetch".to_owned()]).expect("converts");
    let converted = load(&file(&directory, "converted.toml", &converted), &nothing).expect("valid");
    let (again, _) = converted.policy.grants(&subject, &wanted, &Ceiling::OPEN);
    assert_eq!((again.http, again.workspace, again.paths), (grants.http, grants.workspace, grants.paths));
    let cidr = WASSETTE.replace("host: \"secret.internal.example\"", "cidr: \"10.0.0.0/8\"");
    let error = convert(&path, &cidr, &[]).expect_err("a refusal that can't be kept");
    assert!(error.to_string().contains("cidr"), "{error}");
}

#[test]
fn paths_of_wassette_become_sub_paths_where_they_can() {
    let storage = |uri: &str| {
        format!(
            "version: \"1.0\"\npermissions:\n  storage:\n    allow:\n      - uri: \"{uri}\"\n        access: [\"read\", \"write\"]\n"
        )
    };
    for (uri, rights, warned) in [
        ("fs:///notes/agent", r#""read:notes/agent", "write:notes/agent""#, false),
        ("fs://notes/agent/**", r#""read:notes/agent", "write:notes/agent""#, false),
        ("fs:///", r#""read", "write""#, false),
        ("fs://**", r#""read", "write""#, false),
        ("fs://work/*.txt", r#""read", "write""#, true),
        ("fs://../work", r#""read", "write""#, true),
        ("memory://work", r#""read", "write""#, true),
    ] {
        let (text, warnings) = convert(Path::new("p.yaml"), &storage(uri), &["t".to_owned()]).expect("converts");
        assert!(text.contains(&format!("workspace = [{rights}]")), "{uri}: {text}");
        assert_eq!(warnings.iter().any(|warning| warning.contains("whole workspace")), warned, "{uri}");
    }
}
