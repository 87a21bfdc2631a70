//! Sessions: labels that group the tasks of one conversation. A session is
//! never an authority; ownership sits on each row.

use crate::clock::Timestamp;
use crate::id::SessionId;
use crate::principal::Owner;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub owner: Owner,
    /// A name for people; at most 200 bytes.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Largest label, in bytes.
pub const MAX_LABEL: usize = 200;
