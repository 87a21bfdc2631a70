//! Sessions: create, list, delete.

use super::Ports;
use crate::access::{OwnedSession, Permit};
use crate::clock::NewId as _;
use crate::error::Error;
use crate::id::SessionId;
use crate::ports::store::Page;
use crate::session::{MAX_LABEL, Session};

/// The use cases of sessions.
pub struct Sessions {
    ports: Ports,
}

impl Sessions {
    pub(super) fn new(ports: Ports) -> Self {
        Self { ports }
    }

    /// Makes a session.
    ///
    /// # Errors
    /// If the label is too long, or the store fails.
    pub async fn create(&self, permit: &Permit, label: String) -> Result<Session, Error> {
        check_label(&label)?;
        let id = self.ports.ids.session_id();
        let session = Session { id, owner: permit.owner(), label, created_at: self.ports.ids.now() };
        self.ports.store.create_session(&session).await?;
        Ok(session)
    }

    /// The owner's sessions, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, permit: &Permit, page: Page<SessionId>) -> Result<Vec<Session>, Error> {
        Ok(self.ports.store.list_sessions(permit.owner(), page).await?)
    }

    /// Deletes a session; its tasks stay, without it.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn delete(&self, session: &OwnedSession) -> Result<(), Error> {
        let Session { owner, id, .. } = *session.session();
        self.ports.store.delete_session(owner, id).await?;
        Ok(())
    }
}

pub(super) fn check_label(label: &str) -> Result<(), Error> {
    if label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        return Err(Error::invalid("label", format!("must be at most {MAX_LABEL} bytes without control characters")));
    }
    Ok(())
}
