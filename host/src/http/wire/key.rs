//! API keys and who holds them.

use bulkhead_core::key::KeyRecord;
use serde::Serialize;
use utoipa::ToSchema;

/// What the caller's key may do.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhoAmI {
    /// `ten_…`
    pub tenant: String,
    /// `usr_…`
    pub user: String,
    /// Scopes of the key.
    pub scopes: Vec<&'static str>,
}

/// A key, without its secret.
#[derive(Debug, Serialize)]
pub struct KeyBody {
    /// The public id.
    pub id: String,
    /// A name for people.
    pub label: String,
    /// What it may do.
    pub scopes: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The user it belongs to.
    pub user: String,
    /// When it was made.
    pub created_at: String,
    /// From when on it is refused.
    pub expires_at: Option<String>,
    /// Since when it is revoked.
    pub revoked_at: Option<String>,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<String>,
}

impl From<&KeyRecord> for KeyBody {
    fn from(key: &KeyRecord) -> Self {
        Self {
            id: key.id.to_string(),
            label: key.label.clone(),
            scopes: key.scopes.to_string(),
            tenant: key.owner.tenant.to_string(),
            user: key.owner.user.to_string(),
            created_at: key.created_at.to_string(),
            expires_at: key.expires_at.map(|at| at.to_string()),
            revoked_at: key.revoked_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
        }
    }
}
