//! What is fuzzed of policy files (feature `fuzz`), as functions of bytes that panic
//! if something does not hold.

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_core::digest::Digest;
use bulkhead_core::fuzzing::Target;
use bulkhead_core::policy::Policy;
use bulkhead_core::policy::spec::PolicySpec;
use secrecy::SecretString;

use super::{convert, written};

/// The targets of this package.
pub const TARGETS: [Target; 2] = [
    Target { name: "policy_file", run: policy_file, seeds: file_seeds },
    Target { name: "policy_wassette", run: policy_wassette, seeds: wassette_seeds },
];

/// The text of a policy. What is taken is the same once it was written and read
/// again, as records keep it; what is refused says why.
pub fn policy_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let spec = match toml::from_str::<PolicySpec>(text) {
        Ok(spec) => spec,
        Err(error) => return assert!(!error.to_string().is_empty(), "a refusal without a reason"),
    };
    let Some(rules) = built(&spec) else { return };
    let again = written(&spec, Path::new("policy.toml")).expect("what was read can be written");
    let read: PolicySpec = toml::from_str(&again).unwrap_or_else(|error| panic!("{error}: {again}"));
    assert_eq!(built(&read), Some(rules), "{again}");
    assert_eq!(written(&read, Path::new("policy.toml")).expect("again"), again, "written twice");
}

/// How many rules the policy has, if it is one.
fn built(spec: &PolicySpec) -> Option<usize> {
    let values: BTreeMap<_, _> =
        spec.secrets.keys().map(|name| (name.clone(), SecretString::from("a value"))).collect();
    match Policy::build(spec.clone(), &values, Digest::of(b"")) {
        Ok(policy) => Some(policy.rules()),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            None
        }
    }
}

/// A policy file of Wassette, for one tool. What is taken is a policy of ours whose
/// last rule refuses the rest.
pub fn policy_wassette(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok((ours, _)) = convert(Path::new("policy.yaml"), text, &["tool".into()]) else { return };
    let spec: PolicySpec = toml::from_str(&ours).unwrap_or_else(|error| panic!("{error}: {ours}"));
    let last = spec.rules.last().unwrap_or_else(|| panic!("no rule: {ours}"));
    assert_eq!(last.mode, bulkhead_core::grants::Mode::Deny, "{ours}");
    assert!(!last.http.is_empty() && !last.workspace.is_empty(), "{ours}");
    assert!(spec.rules.iter().all(|rule| rule.tools.as_deref() == Some(&["tool".to_owned()])), "{ours}");
}

fn file_seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", b"version = 1\n".to_vec()),
        (
            "rules",
            br#"version = 1
[defaults]
workspace = "deny"
[environment]
LANG = "C"
[secrets.token]
variable = "TOKEN"
host = "api.example.com"
header = "authorization: Bearer {}"
[[rule]]
name = "api"
mode = "allow"
tools = ["git_*"]
http = ["GET https://api.example.com/v1/*"]
environment = ["LANG"]
secrets = ["token"]
[[rule]]
name = "build"
mode = "ask"
workspace = ["read:src", "write:out/logs"]
"#
            .to_vec(),
        ),
        ("wrong_mode", b"version = 1\n[[rule]]\nname = \"x\"\nmode = \"perhaps\"\n".to_vec()),
        ("twice", b"version = 1\nversion = 1\n".to_vec()),
    ]
}

fn wassette_seeds() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "whole",
            br#"version: "1.0"
description: "what it may"
permissions:
  storage:
    allow:
      - uri: "fs://workspace/**"
        access: ["read", "write"]
    deny:
      - uri: "fs://secrets"
        access: ["read"]
  network:
    allow:
      - host: "api.example.com"
      - host: "https://b.example.com:8443"
  environment:
    allow:
      - key: "LANG"
"#
            .to_vec(),
        ),
        ("nothing", b"version: \"1.0\"\npermissions: {}\n".to_vec()),
        ("anchors", b"version: \"1.0\"\npermissions: &a\n  network: *a\n".to_vec()),
    ]
}
