//! Sessions.

use bulkhead_core::session::Session;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionBody {
    /// `ses_…`
    #[schema(value_type = String, examples("ses_01jd8n2m4v0000000000000000"))]
    pub id: String,
    /// A name for people.
    pub label: String,
    /// RFC 3339, UTC.
    pub created_at: String,
}

impl From<&Session> for SessionBody {
    fn from(session: &Session) -> Self {
        Self { id: session.id.to_string(), label: session.label.clone(), created_at: session.created_at.to_string() }
    }
}

/// What makes a session.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// A name for people; at most 200 bytes.
    #[serde(default)]
    pub label: String,
}
