//! Policy files of Wassette (`policy.yaml`, version 1.0): read, and made into
//! rules. There a component gets what its file allows and nothing else, so the
//! last rule refuses the rest.

use std::collections::BTreeMap;
use std::path::Path;

use bulkhead_core::grants::{HttpPattern, Mode, SubPath};
use bulkhead_core::policy::spec::{PolicySpec, Right, RuleSpec, VERSION, WorkspaceRight};
use serde::Deserialize;
use serde_json::Value;

use super::PolicyError;

#[derive(Deserialize)]
struct Document {
    version: String,
    #[serde(default)]
    permissions: Permissions,
}

#[derive(Default, Deserialize)]
struct Permissions {
    #[serde(default)]
    storage: Lists<Storage>,
    #[serde(default)]
    network: Lists<Network>,
    #[serde(default)]
    environment: Lists<Variable>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Lists<T> {
    #[serde(default = "Vec::new")]
    allow: Vec<T>,
    #[serde(default = "Vec::new")]
    deny: Vec<T>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new() }
    }
}

#[derive(Deserialize)]
struct Storage {
    uri: String,
    #[serde(default)]
    access: Vec<Access>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Access {
    Read,
    Write,
}

#[derive(Deserialize)]
struct Network {
    host: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Variable {
    key: String,
}

/// What a file became.
pub(super) struct Converted {
    pub(super) rules: Vec<RuleSpec>,
    /// Variables that it passes on.
    pub(super) environment: Vec<String>,
    /// What could not be kept.
    pub(super) warnings: Vec<String>,
}

fn rule(name: String, mode: Mode, tools: &[String]) -> RuleSpec {
    RuleSpec {
        name,
        mode,
        tools: Some(tools.to_vec()),
        tenants: None,
        users: None,
        workspace: Vec::new(),
        http: Vec::new(),
        private: Vec::new(),
        environment: Vec::new(),
        secrets: Vec::new(),
    }
}

/// The rules of a file for these tools. `number` keeps their names apart from
/// those of other files.
pub(super) fn rules(path: &Path, text: &str, tools: &[String], number: usize) -> Result<Converted, PolicyError> {
    let malformed = |error: String| PolicyError::Malformed { path: path.into(), error };
    let document: Document = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
    if document.version != "1.0" {
        return Err(malformed(format!("this host reads version 1.0, not {}", document.version)));
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy");
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-').take(32).collect();
    let name = |what: &str| format!("w{number}-{stem}-{what}");
    let mut deny = rule(name("deny"), Mode::Deny, tools);
    let mut allow = rule(name("allow"), Mode::Allow, tools);
    let mut rest = rule(name("rest"), Mode::Deny, tools);
    let Permissions { storage, network, environment, others } = document.permissions;
    let mut warnings: Vec<_> =
        others.keys().map(|key| format!("{}: `permissions.{key}` is left out", path.display())).collect();
    for (lists, rule) in [(&network.deny, &mut deny), (&network.allow, &mut allow)] {
        for entry in lists {
            match &entry.host {
                Some(host) => rule.http.extend(patterns(host).map_err(malformed)?),
                None => {
                    let what: Vec<_> = entry.others.keys().map(String::as_str).collect();
                    let text = format!(
                        "{}: a network entry with `{}` is left out: name hosts",
                        path.display(),
                        what.join(", ")
                    );
                    if rule.mode == Mode::Deny {
                        return Err(malformed(text));
                    }
                    warnings.push(text);
                }
            }
        }
    }
    for (lists, rule) in [(&storage.deny, &mut deny), (&storage.allow, &mut allow)] {
        for entry in lists {
            let part = sub_path(&entry.uri).unwrap_or_else(|| {
                warnings.push(format!("{}: `{}` stands for the task's whole workspace", path.display(), entry.uri));
                SubPath::whole()
            });
            rule.workspace.extend(entry.access.iter().map(|access| {
                let right = match access {
                    Access::Read => Right::Read,
                    Access::Write => Right::Write,
                };
                WorkspaceRight { right, path: part.clone() }
            }));
        }
    }
    deny.environment = environment.deny.into_iter().map(|variable| variable.key).collect();
    allow.environment = environment.allow.into_iter().map(|variable| variable.key).collect();
    let passed = allow.environment.clone();
    rest.workspace = vec![Right::ReadWrite.into()];
    rest.http = patterns("*:*").map_err(malformed)?;
    rest.environment = vec!["*".into()];
    rest.secrets = vec!["*".into()];
    Ok(Converted { rules: vec![deny, allow, rest], environment: passed, warnings })
}

/// The directory of the workspace that an URI there means: `fs:///path`,
/// `fs://path/**`. None for what is no directory's path.
fn sub_path(uri: &str) -> Option<SubPath> {
    let path = uri.strip_prefix("fs://")?;
    if path == "**" {
        return Some(SubPath::whole());
    }
    path.strip_suffix("/**").unwrap_or(path).parse().ok()
}

/// A host there means both schemes, unless it names one.
fn patterns(host: &str) -> Result<Vec<HttpPattern>, String> {
    let text = host.trim_end_matches('/');
    let texts = if text.contains("://") {
        vec![text.to_owned()]
    } else {
        vec![format!("https://{text}"), format!("http://{text}")]
    };
    texts.iter().map(|text| text.parse().map_err(|error| format!("the host `{host}`: {error}"))).collect()
}

/// A file of Wassette's as a policy of ours, and what could not be kept.
///
/// # Errors
/// If it is not one.
pub fn convert(path: &Path, text: &str, tools: &[String]) -> Result<(String, Vec<String>), PolicyError> {
    let converted = rules(path, text, tools, 0)?;
    let spec = PolicySpec {
        version: VERSION,
        rules: converted.rules.into_iter().filter(RuleSpec::speaks).collect(),
        environment: converted.environment.into_iter().map(|name| (name, String::new())).collect(),
        ..PolicySpec::default()
    };
    Ok((super::written(&spec, path)?, converted.warnings))
}
