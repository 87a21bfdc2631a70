//! Tools: named, versioned, content-addressed things that can be called.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::grants::Capability;
use crate::id::{TenantId, ToolId};

/// What a tool says about itself: read once, at registration, then frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name it is called by, unique among the tools of a task.
    pub name: String,
    /// Semantic version.
    pub version: String,
    /// What it does, for a person or a model to choose by.
    pub description: String,
    /// JSON Schema of the arguments.
    pub input_schema: Value,
    /// JSON Schema of the `json` part of a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// The ceiling of what the tool will ever use.
    pub capabilities: Vec<Capability>,
    /// Whether running a call twice has the effect of running it once.
    pub idempotent: bool,
}

/// Largest name, in bytes (`wit/tool.wit`).
pub const MAX_NAME: usize = 64;
/// Largest version, in bytes.
pub const MAX_VERSION: usize = 64;
/// Largest description, in bytes.
pub const MAX_DESCRIPTION: usize = 8 * 1024;
/// Largest schema as text, in bytes.
pub const MAX_SCHEMA: usize = 64 * 1024;
/// Most wanted capabilities.
pub const MAX_CAPABILITIES: usize = 64;

/// A description that breaks the rules of the world.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the tool's description is not valid: {0}")]
pub struct ManifestError(pub String);

impl Manifest {
    /// Checks what a guest said of itself.
    ///
    /// # Errors
    /// Names the field and the rule it breaks.
    pub fn check(&self) -> Result<(), ManifestError> {
        let refuse = |what: String| Err(ManifestError(what));
        if !valid_name(&self.name) {
            return refuse(format!("`name` must be 1 to {MAX_NAME} of a-z, 0-9, `_`, `-`, beginning with a letter"));
        }
        if self.version.is_empty() || self.version.len() > MAX_VERSION {
            return refuse(format!("`version` must be 1 to {MAX_VERSION} bytes"));
        }
        if self.version.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("`version` must have no spaces or control characters".into());
        }
        if self.description.is_empty() || self.description.len() > MAX_DESCRIPTION {
            return refuse(format!("`description` must be 1 to {MAX_DESCRIPTION} bytes"));
        }
        if self.capabilities.len() > MAX_CAPABILITIES {
            return refuse(format!("more than {MAX_CAPABILITIES} capabilities"));
        }
        for capability in &self.capabilities {
            capability.check().map_err(|why| ManifestError(format!("the capability `{capability}`: {why}")))?;
        }
        for (field, schema) in
            [("input-schema", Some(&self.input_schema)), ("output-schema", self.output_schema.as_ref())]
        {
            let Some(schema) = schema else { continue };
            if !schema.is_object() {
                return refuse(format!("`{field}` must be a JSON object"));
            }
            if schema.to_string().len() > MAX_SCHEMA {
                return refuse(format!("`{field}` is larger than {MAX_SCHEMA} bytes"));
            }
            crate::schema::Schema::compile(schema).map_err(|error| ManifestError(format!("`{field}`: {error}")))?;
        }
        if self.input_schema.get("type").and_then(Value::as_str) != Some("object") {
            return refuse("`input-schema` must have \"type\": \"object\"".into());
        }
        Ok(())
    }
}

fn valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Whose a tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolOwner {
    /// The operator: every tenant sees it.
    Operator,
    /// One tenant.
    Tenant(TenantId),
}

impl ToolOwner {
    /// Whether `tenant` may see and pin the tool.
    pub fn visible_to(self, tenant: TenantId) -> bool {
        match self {
            Self::Operator => true,
            Self::Tenant(owner) => owner == tenant,
        }
    }
}

/// Where a tool is on its way to being callable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ToolState {
    /// The component is stored and being compiled and described.
    Compiling,
    /// Can be pinned and called.
    Ready {
        /// What it said of itself.
        manifest: Arc<Manifest>,
        /// The compiled artefact.
        artifact: Artifact,
    },
    /// Can't be called, for this reason.
    Rejected {
        /// Stable, machine readable.
        code: String,
        /// What is missing or wrong.
        reason: String,
    },
}

impl ToolState {
    /// Whether it is not known yet what becomes of it.
    pub fn is_compiling(&self) -> bool {
        matches!(self, Self::Compiling)
    }

    /// The name of the state.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Compiling => "compiling",
            Self::Ready { .. } => "ready",
            Self::Rejected { .. } => "rejected",
        }
    }
}

/// A compiled component: what the host recorded when it was made, and checks
/// before it is loaded. A forged artefact would run as native code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// Digest of the component, the engine's version and its settings: the cache key.
    pub key: Digest,
    /// Digest of the artefact's own bytes.
    pub digest: Digest,
    /// Size of the artefact, in bytes.
    pub size: u64,
}

/// A registered tool. Immutable by digest: another component is another tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its id.
    pub id: ToolId,
    /// Whose it is.
    pub owner: ToolOwner,
    /// Digest of the component's bytes.
    pub digest: Digest,
    /// Size of the component, in bytes.
    pub size: u64,
    /// Where it is on its way.
    pub state: ToolState,
    /// When it was registered.
    pub created_at: Timestamp,
}

impl Tool {
    /// The manifest, once the tool is ready.
    pub fn manifest(&self) -> Option<&Arc<Manifest>> {
        match &self.state {
            ToolState::Ready { manifest, .. } => Some(manifest),
            ToolState::Compiling | ToolState::Rejected { .. } => None,
        }
    }
}

/// A tool as a task pins it: by digest, with what a call needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTool {
    /// The name it is called by in the task.
    pub name: String,
    /// The tool.
    pub id: ToolId,
    /// The component's digest: what was pinned stays what runs.
    pub digest: Digest,
}

/// The tools of a task, sorted by name. Content-addressed: tasks with the same
/// tools share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSet {
    /// Digest of the set.
    pub digest: Digest,
    /// The tools.
    pub tools: Vec<PinnedTool>,
}

impl ToolSet {
    /// Makes a set. Of two tools with one name the later given wins.
    pub fn new(tools: impl IntoIterator<Item = PinnedTool>) -> Self {
        let by_name: std::collections::BTreeMap<String, PinnedTool> =
            tools.into_iter().map(|tool| (tool.name.clone(), tool)).collect();
        let tools: Vec<_> = by_name.into_values().collect();
        let digest = Digest::of(serde_json::to_string(&tools).unwrap_or_default().as_bytes());
        Self { digest, tools }
    }

    /// The tool called `name`.
    pub fn get(&self, name: &str) -> Option<&PinnedTool> {
        self.tools.binary_search_by(|tool| tool.name.as_str().cmp(name)).ok().map(|index| &self.tools[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest() -> Manifest {
        Manifest {
            name: "read_file".into(),
            version: "0.1.0".into(),
            description: "Reads.".into(),
            input_schema: json!({"type": "object"}),
            output_schema: None,
            capabilities: vec![],
            idempotent: true,
        }
    }

    #[test]
    fn names_and_schemas_are_checked() {
        assert_eq!(manifest().check(), Ok(()));
        for name in ["", "1x", "Read", "a b", "../x", &"a".repeat(65)] {
            assert!(Manifest { name: name.into(), ..manifest() }.check().is_err(), "{name}");
        }
        for schema in [json!(true), json!({"type": "string"}), json!({"type": "object", "properties": 3})] {
            assert!(Manifest { input_schema: schema.clone(), ..manifest() }.check().is_err(), "{schema}");
        }
        let huge = json!({"type": "object", "description": "x".repeat(MAX_SCHEMA)});
        assert!(Manifest { input_schema: huge, ..manifest() }.check().is_err());
    }

    #[test]
    fn a_set_is_sorted_and_addressed_by_content() {
        let tool = |name: &str, n| PinnedTool {
            name: name.into(),
            id: ToolId::from_parts(n, 0),
            digest: Digest::of(name.as_bytes()),
        };
        let one = ToolSet::new([tool("b", 1), tool("a", 2), tool("b", 3)]);
        let two = ToolSet::new([tool("a", 2), tool("b", 3)]);
        assert_eq!(one, two);
        assert_eq!(one.get("b").map(|tool| tool.id), Some(ToolId::from_parts(3, 0)));
        assert!(one.get("c").is_none());
    }
}
