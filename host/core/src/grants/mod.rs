//! Capabilities a tool wants, and grants a call gets. Nothing is granted by
//! default beyond the task's own workspace; what is granted lies within what
//! the tool wants, what the task allows and what the policy says.

pub mod http;
mod part;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use http::{Destination, HttpPattern};
pub(crate) use part::sub_path;
pub use part::{MAX_PART_PATH, MAX_PARTS, Reach, SubPath, WorkspacePart};

use crate::clock::Timestamp;
use crate::id::{GrantId, TaskId};
use crate::principal::Owner;

/// How much of the workspace a call may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceAccess {
    /// No directory at all.
    #[default]
    None,
    /// Read only; such calls run in parallel within a task.
    Read,
    /// Read and write; one such call at a time within a task.
    ReadWrite,
}

impl WorkspaceAccess {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        }
    }
}

/// Stands for every name of a secret.
pub const ANY: &str = "*";

/// Something a tool wants beside pure computation (`capability` in `wit/tool.wit`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Capability {
    /// The task's workspace, or a part of it: `read`, `read-write:out`.
    Workspace(#[serde(with = "part::text")] WorkspacePart),
    /// Outgoing HTTP: an [`HttpPattern`] as text.
    Http(String),
    /// One environment variable, by name.
    Environment(String),
    /// One secret, by name, or `*` for each that goes where a request goes.
    Secret(String),
}

impl From<WorkspaceAccess> for Capability {
    fn from(access: WorkspaceAccess) -> Self {
        Self::Workspace(access.into())
    }
}

impl Capability {
    /// The kind, as in JSON and in policies.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Workspace(_) => "workspace",
            Self::Http(_) => "http",
            Self::Environment(_) => "environment",
            Self::Secret(_) => "secret",
        }
    }

    /// Checks the text of it.
    ///
    /// # Errors
    /// Says what is wrong, for whoever wrote it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Workspace(_) => Ok(()),
            Self::Http(pattern) => HttpPattern::from_str(pattern).map(drop).map_err(|error| error.to_string()),
            // A tool for every host can't know the names.
            Self::Secret(name) if name == ANY => Ok(()),
            Self::Environment(name) | Self::Secret(name) if valid_name(name) => Ok(()),
            Self::Environment(_) | Self::Secret(_) => {
                Err("a name is 1 to 64 of A-Z, a-z, 0-9, `_`, `-`, beginning with a letter or `_`".into())
            }
        }
    }

    /// Whether whoever has `self` needs no more for `other`.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Workspace(most), Self::Workspace(part)) => most.covers(part),
            (Self::Http(wide), Self::Http(narrow)) => {
                let (wide, narrow) = (wide.parse::<HttpPattern>(), narrow.parse::<HttpPattern>());
                matches!((wide, narrow), (Ok(wide), Ok(narrow)) if wide.intersect(&narrow).as_ref() == Some(&narrow))
            }
            (Self::Secret(one), Self::Secret(_)) if one == ANY => true,
            (Self::Environment(one), Self::Environment(two)) | (Self::Secret(one), Self::Secret(two)) => one == two,
            _ => false,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace(part) => write!(f, "workspace {part}"),
            Self::Http(text) | Self::Environment(text) | Self::Secret(text) => write!(f, "{} {text}", self.kind()),
        }
    }
}

/// Names of variables and secrets.
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// What a rule makes of a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refused.
    Deny,
    /// Granted.
    Allow,
    /// Granted if the owner gave a grant, or says yes when asked.
    Ask,
    /// Granted, and written down as what would have been refused.
    Audit,
}

impl Mode {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Audit => "audit",
        }
    }
}

/// What a task allows at most: frozen when it is made. A field that is absent
/// leaves it to the policy and the tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The task's whole workspace.
    pub workspace: WorkspaceAccess,
    /// Parts of it, where more is allowed than in the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<WorkspacePart>,
    /// Outgoing HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<HttpPattern>>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<String>>,
    /// Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<String>>,
}

impl Ceiling {
    /// Whatever the policy and the tool say.
    pub const OPEN: Ceiling = Ceiling {
        workspace: WorkspaceAccess::ReadWrite,
        paths: Vec::new(),
        http: None,
        environment: None,
        secrets: None,
    };

    /// Exactly these capabilities.
    ///
    /// # Errors
    /// Names the first that is not valid.
    pub fn of(capabilities: &[Capability]) -> Result<Self, String> {
        let mut ceiling = Self {
            workspace: WorkspaceAccess::None,
            paths: Vec::new(),
            http: Some(Vec::new()),
            environment: Some(Vec::new()),
            secrets: Some(Vec::new()),
        };
        for capability in capabilities {
            capability.check().map_err(|why| format!("`{capability}`: {why}"))?;
            match capability {
                Capability::Workspace(part) => {
                    if !part::add(&mut ceiling.workspace, &mut ceiling.paths, part) {
                        return Err(format!(
                            "`{capability}`: at most {MAX_PARTS} sub-paths of a workspace are allowed"
                        ));
                    }
                }
                Capability::Http(pattern) => {
                    let pattern = pattern.parse().map_err(|error: http::PatternError| error.0)?;
                    ceiling.http.get_or_insert_default().push(pattern);
                }
                Capability::Environment(name) => ceiling.environment.get_or_insert_default().push(name.clone()),
                Capability::Secret(name) => ceiling.secrets.get_or_insert_default().push(name.clone()),
            }
        }
        Ok(ceiling)
    }

    /// What of the workspace.
    pub fn reach(&self) -> Reach<'_> {
        Reach { whole: self.workspace, parts: &self.paths }
    }

    /// Whether a capability lies within.
    pub fn allows(&self, capability: &Capability) -> bool {
        let named = |names: &Option<Vec<String>>, name: &String| {
            names.as_ref().is_none_or(|names| names.iter().any(|known| known == name || known == ANY))
        };
        match capability {
            Capability::Workspace(part) => self.reach().covers(part),
            Capability::Http(_) => self.http.as_ref().is_none_or(|patterns| {
                patterns.iter().any(|pattern| Capability::Http(pattern.to_string()).covers(capability))
            }),
            Capability::Environment(name) => named(&self.environment, name),
            Capability::Secret(name) => named(&self.secrets, name),
        }
    }
}

/// Requests that one rule decides. Of a list, the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGrant {
    /// Which requests.
    pub pattern: HttpPattern,
    /// What becomes of them.
    pub mode: Mode,
    /// The rule that says so; none for the policy's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// Networks beyond the public internet that they may lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<IpNet>,
}

impl HttpGrant {
    /// Whether this entry decides about the request. What refuses or asks does
    /// so already if a server may take the request for one that is meant.
    pub fn decides(&self, to: &Destination) -> bool {
        match self.mode {
            Mode::Allow | Mode::Audit => self.pattern.matches(to),
            Mode::Deny | Mode::Ask => self.pattern.touches(to),
        }
    }

    /// Whether whoever had `self` loses nothing by `other`, whatever rule says so.
    fn kept_by(&self, other: &Self) -> bool {
        let mode = self.mode == other.mode || (self.mode == Mode::Ask && other.mode == Mode::Allow);
        mode && self.pattern == other.pattern && self.private == other.private
    }
}

/// Whether nothing of `mine` is refused by `theirs`: each entry is there, in
/// order, and what stands between them only grants.
fn keeps(mine: &[HttpGrant], theirs: &[HttpGrant]) -> bool {
    let mut left = mine.iter().peekable();
    theirs.iter().all(|entry| match left.peek() {
        None => true,
        Some(next) if next.kept_by(entry) => left.next().is_some(),
        Some(_) => matches!(entry.mode, Mode::Allow | Mode::Audit),
    }) && left.peek().is_none()
}

/// A capability that the owner is asked for before the guest starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// What.
    pub capability: Capability,
    /// The rule that wants it asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
}

/// What a call is granted: computed before its guest starts and recorded with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grants {
    /// The task's whole workspace, mounted at `/`.
    pub workspace: WorkspaceAccess,
    /// Parts of it, where more is granted than of the whole: each a directory
    /// of its own at its path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<WorkspacePart>,
    /// Requests, in the order of the policy's rules; what no entry matches is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpGrant>,
    /// Environment variables, by name; their values are the policy's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Secrets, by name; the host puts them into requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What more it gets if the owner says so, asked before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Asked>,
    /// The policy that was in force, unless it was the one without rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
}

impl Grants {
    /// A workspace and nothing else.
    pub fn workspace(workspace: WorkspaceAccess) -> Self {
        Self { workspace, ..Self::default() }
    }

    /// What of the workspace.
    pub fn reach(&self) -> Reach<'_> {
        Reach { whole: self.workspace, parts: &self.paths }
    }

    /// The most of any part of the workspace that the call can come to have.
    pub fn most_workspace(&self) -> WorkspaceAccess {
        self.asks.iter().fold(self.reach().most(), |most, asked| match &asked.capability {
            Capability::Workspace(part) => most.max(part.access),
            _ => most,
        })
    }

    /// Whether it gives all of this already; of requests never: each is decided.
    pub(crate) fn has(&self, capability: &Capability) -> bool {
        match capability {
            Capability::Workspace(part) => self.reach().covers(part),
            Capability::Environment(name) => self.environment.contains(name),
            Capability::Secret(name) => self.secrets.contains(name),
            Capability::Http(_) => false,
        }
    }

    /// Adds what was granted. False if it would be too many parts of the workspace.
    pub fn add(&mut self, capability: &Capability) -> bool {
        match capability {
            Capability::Workspace(part) => return part::add(&mut self.workspace, &mut self.paths, part),
            Capability::Environment(name) => self.environment.push(name.clone()),
            Capability::Secret(name) => self.secrets.push(name.clone()),
            // Asked for request by request.
            Capability::Http(_) => {}
        }
        true
    }

    /// Whether everything in `self` is in `other` too: no less is granted there.
    pub fn within(&self, other: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| mine.iter().all(|name| theirs.contains(name));
        self.reach().within(&other.reach())
            && all(&self.environment, &other.environment)
            && all(&self.secrets, &other.secrets)
            && self.asks.iter().all(|asked| {
                other.asks.iter().any(|theirs| theirs.capability.covers(&asked.capability))
                    || other.has(&asked.capability)
            })
            && keeps(&self.http, &other.http)
    }
}

/// A grant that an owner gave to a task: for what the policy wants asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The task it holds in.
    pub task: TaskId,
    /// Who gave it.
    pub owner: Owner,
    /// What is granted.
    pub capability: Capability,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// How often it can be used still: once a call, or once a request.
    pub uses_left: Option<u32>,
    /// When it was given.
    pub created_at: Timestamp,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

impl Grant {
    /// Whether it holds at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none()
            && self.uses_left.is_none_or(|uses| uses > 0)
            && self.expires_at.is_none_or(|at| at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_allows_what_it_names() {
        let http = |text: &str| Capability::Http(text.into());
        let ceiling = Ceiling::of(&[http("https://*.a.b/v1/*"), Capability::Secret("s".into())]).expect("valid");
        assert!(ceiling.allows(&http("GET https://x.a.b/v1/y")));
        assert!(!ceiling.allows(&http("https://x.a.b")));
        assert!(ceiling.allows(&Capability::Secret("s".into())) && !ceiling.allows(&Capability::Secret("t".into())));
        assert!(!ceiling.allows(&WorkspaceAccess::Read.into()));
        assert!(Ceiling::of(&[Capability::Environment("A=B".into())]).is_err());
        assert!(Ceiling::OPEN.allows(&http("http://*:*")));
    }

    #[test]
    fn only_what_grants_less_is_less() {
        let entry = |text: &str, mode, rule: &str| HttpGrant {
            pattern: text.parse().expect("a pattern"),
            mode,
            rule: Some(rule.into()),
            private: Vec::new(),
        };
        let grants = |http: &[HttpGrant]| Grants { http: http.to_vec(), ..Grants::default() };
        let (deny, allow) = (entry("https://a/x", Mode::Deny, "d"), entry("https://a", Mode::Allow, "a"));
        let before = grants(&[deny.clone(), allow.clone()]);
        let renamed = entry("https://a", Mode::Allow, "other");
        assert!(before.within(&grants(&[deny.clone(), renamed])));
        let more = entry("https://b", Mode::Allow, "b");
        assert!(before.within(&grants(&[more.clone(), deny.clone(), allow.clone(), more.clone()])));
        for less in [
            vec![allow.clone()],
            vec![deny.clone()],
            vec![allow.clone(), deny.clone()],
            vec![entry("https://a/y", Mode::Ask, "n"), deny.clone(), allow.clone()],
            vec![deny.clone(), entry("https://a", Mode::Ask, "a")],
        ] {
            assert!(!before.within(&grants(&less)), "{less:?}");
        }
        assert!(grants(&[entry("https://a", Mode::Ask, "a")]).within(&grants(&[allow])));
    }

    #[test]
    fn rows_of_older_servers_are_read() {
        let ceiling: Ceiling = serde_json::from_str(r#"{"workspace":"read-write"}"#).expect("a ceiling");
        assert_eq!(ceiling, Ceiling::OPEN);
        let grants: Grants = serde_json::from_str(r#"{"workspace":"read"}"#).expect("grants");
        assert_eq!(grants, Grants::workspace(WorkspaceAccess::Read));
        let more = r#"{"kind":"http","value":"a","uses":1}"#;
        assert!(serde_json::from_str::<Capability>(more).is_err(), "a field beside it would be lost");
        assert_eq!(serde_json::to_string(&grants).expect("JSON"), r#"{"workspace":"read"}"#);
    }
}
