//! A policy as an operator writes it: the fields of the TOML file. Nothing of
//! it has been checked; [`super::Policy::build`] does that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::grants::{HttpPattern, Mode, SubPath, sub_path};
use crate::id::{TenantId, UserId};

/// The form that this host reads.
pub const VERSION: u32 = 1;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// The form of the file: 1.
    pub version: u32,
    /// What holds where no rule decides.
    #[serde(default)]
    pub defaults: Defaults,
    /// Rules, in order: the first that speaks of a tool and a capability decides.
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSpec>,
    /// Policy files of Wassette, whose rules stand behind those above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wassette: Vec<WassetteSpec>,
    /// Values of environment variables that rules may grant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Secrets that rules may grant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretSpec>,
}

/// A policy file of Wassette (`policy.yaml`, version 1.0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WassetteSpec {
    /// The file, relative to the policy's.
    pub file: PathBuf,
    /// The tools that it is for.
    pub tools: Vec<String>,
}

/// What holds where no rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The task's own workspace.
    pub workspace: Mode,
    /// Outgoing HTTP.
    pub http: Mode,
    /// Environment variables.
    pub environment: Mode,
    /// Secrets.
    pub secrets: Mode,
}

impl Default for Defaults {
    fn default() -> Self {
        // A tool without its workspace is useless, and it reaches nobody else's.
        Self { workspace: Mode::Allow, http: Mode::Deny, environment: Mode::Deny, secrets: Mode::Deny }
    }
}

/// A right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Right {
    /// Reading.
    Read,
    /// Changing.
    Write,
    /// Both.
    ReadWrite,
}

impl Right {
    /// The text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "read-write",
        }
    }
}

/// A right to the workspace, or to a part of it: `read`, `write:out`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceRight {
    /// Which.
    pub right: Right,
    /// To which directory.
    pub path: SubPath,
}

impl WorkspaceRight {
    /// Whether it speaks of a right to a directory with all that it holds.
    pub fn speaks_of(&self, right: Right, path: &SubPath) -> bool {
        (self.right == right || self.right == Right::ReadWrite) && self.path.contains(path)
    }
}

impl From<Right> for WorkspaceRight {
    fn from(right: Right) -> Self {
        Self { right, path: SubPath::whole() }
    }
}

impl fmt::Display for WorkspaceRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.right.as_str())?;
        if self.path.is_whole() { Ok(()) } else { write!(f, ":{}", self.path) }
    }
}

impl FromStr for WorkspaceRight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (right, path) = text.split_once(':').map_or((text, None), |(right, path)| (right, Some(path)));
        let right = match right {
            "read" => Right::Read,
            "write" => Right::Write,
            "read-write" => Right::ReadWrite,
            other => {
                return Err(format!(
                    "`{other}` is not `read`, `write` or `read-write`, alone or with `:` and a sub-path"
                ));
            }
        };
        Ok(Self { right, path: path.map_or(Ok(SubPath::whole()), sub_path)? })
    }
}

impl Serialize for WorkspaceRight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WorkspaceRight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// Its name, in audit records and explanations.
    pub name: String,
    /// What it makes of what it speaks of.
    pub mode: Mode,
    /// The tools it speaks of: names, names with `*` at the end, `sha256:…`;
    /// every tool if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<String>>,
    /// The tenants it speaks of; every one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<TenantId>>,
    /// The users it speaks of; every one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserId>>,
    /// Rights to the workspace and to parts of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workspace: Vec<WorkspaceRight>,
    /// Requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpPattern>,
    /// Networks beyond the public internet that these requests may lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<IpNet>,
    /// Environment variables, by name; `*` for every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Secrets, by name; `*` for every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

impl RuleSpec {
    /// Whether it decides anything.
    pub fn speaks(&self) -> bool {
        !(self.http.is_empty() && self.environment.is_empty() && self.secrets.is_empty() && self.workspace.is_empty())
    }
}

/// A secret: where the host finds it, and where it may go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// The file that holds it; the line's end is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The variable of the server that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// The requests it is put into; they name one host.
    pub to: HttpPattern,
    /// The field of the header that it becomes: `authorization: Bearer {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The parameter of the query that it becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}
