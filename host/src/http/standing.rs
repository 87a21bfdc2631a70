//! Whether the credential that a stream was opened with still stands. A request is
//! checked once; a stream goes on for an hour, and a key may be revoked meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::key::KeyId;
use bulkhead_core::principal::Credential;
use tokio::time::Instant;

use super::Api;

/// Between two looks. Keys are believed for three seconds anyway.
const EVERY: Duration = Duration::from_secs(5);
/// What never comes, without an overflow.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// The credential of a stream.
pub(super) struct Standing {
    api: Arc<Api>,
    key: Option<KeyId>,
    due: Instant,
}

impl Standing {
    pub(super) fn new(api: &Arc<Api>, credential: &Credential) -> Self {
        let (key, left) = match credential {
            Credential::None => (None, NEVER),
            Credential::Key(id) => (Some(id.clone()), EVERY),
            Credential::Token { until, .. } => (None, Duration::from_millis(until.millis_since(api.ids.now()))),
        };
        Self { api: api.clone(), key, due: Instant::now() + left.min(NEVER) }
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Looks, if it is time to. False once it stands no more.
    pub(super) async fn holds(&mut self) -> bool {
        if self.due > Instant::now() {
            return true;
        }
        // A token that was due is over.
        let Some(key) = &self.key else { return false };
        // What can't be looked up now stood the last time.
        let stands = self.api.services.keys.stands(key).await.unwrap_or(true);
        self.due = Instant::now() + EVERY;
        stands
    }
}
