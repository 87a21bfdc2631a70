//! Tools, and what a task pins.

use std::sync::Arc;

use bulkhead_core::service::tools::Progress;
use bulkhead_core::tool::{PinnedTool, Tool, ToolOwner, ToolState};
use serde::Serialize;
use utoipa::ToSchema;

/// A tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolBody {
    /// `tool_…`
    pub id: String,
    /// `operator` or `tenant`.
    pub owner: &'static str,
    /// Digest of the component.
    #[schema(examples("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"))]
    pub digest: String,
    /// Size of the component, in bytes.
    pub size: u64,
    /// `compiling`, `ready` or `rejected`.
    pub state: &'static str,
    /// How far it is, while it is `compiling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressBody>,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejection: Option<Rejection>,
    /// What it says of itself, once ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ManifestBody>)]
    pub manifest: Option<Arc<bulkhead_core::tool::Manifest>>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// How far a tool is on its way.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProgressBody {
    /// `queued`, `inspecting`, `compiling` or `describing`.
    pub stage: &'static str,
    /// Milliseconds since this stage began.
    pub stage_ms: u64,
    /// Milliseconds since it was registered, or the server was started again.
    pub elapsed_ms: u64,
}

impl From<Progress> for ProgressBody {
    fn from(progress: Progress) -> Self {
        let Progress { stage, stage_ms, elapsed_ms } = progress;
        Self { stage: stage.name(), stage_ms, elapsed_ms }
    }
}

/// Why a component can't become a tool.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rejection {
    /// Stable, machine readable.
    pub code: String,
    /// What is missing or wrong.
    pub reason: String,
}

/// What a tool says of itself.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "describes the JSON of core's `Manifest` for the document")]
pub struct ManifestBody {
    name: String,
    version: String,
    description: String,
    /// JSON Schema of the arguments.
    #[schema(value_type = Object)]
    input_schema: (),
    /// JSON Schema of the `json` part of a result.
    #[schema(value_type = Option<Object>)]
    output_schema: (),
    /// The ceiling of what the tool will ever use.
    #[schema(value_type = Vec<Object>)]
    capabilities: (),
    /// Whether running a call twice has the effect of running it once.
    idempotent: bool,
}

impl From<&Tool> for ToolBody {
    fn from(tool: &Tool) -> Self {
        let rejection = match &tool.state {
            ToolState::Rejected { code, reason } => Some(Rejection { code: code.clone(), reason: reason.clone() }),
            ToolState::Compiling | ToolState::Ready { .. } => None,
        };
        Self {
            id: tool.id.to_string(),
            owner: match tool.owner {
                ToolOwner::Operator => "operator",
                ToolOwner::Tenant(_) => "tenant",
            },
            digest: tool.digest.to_string(),
            size: tool.size,
            state: tool.state.name(),
            progress: None,
            rejection,
            manifest: tool.manifest().cloned(),
            created_at: tool.created_at.to_string(),
        }
    }
}

/// A tool as a task pins it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PinnedToolBody {
    /// The name it is called by.
    pub name: String,
    /// `tool_…`
    pub id: String,
    /// Digest of the component.
    pub digest: String,
}

impl From<&PinnedTool> for PinnedToolBody {
    fn from(tool: &PinnedTool) -> Self {
        Self { name: tool.name.clone(), id: tool.id.to_string(), digest: tool.digest.to_string() }
    }
}
