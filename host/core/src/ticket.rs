//! Tickets: what a browser shows where it can't send a key. `EventSource` and
//! `WebSocket` set no header, and a key in a URL ends up in logs and histories;
//! a ticket opens one stream of one task, once, and soon.

use std::fmt;

use thiserror::Error;

use crate::clock::{Entropy, Timestamp};
use crate::digest::Digest;
use crate::id::TaskId;
use crate::key;
use crate::principal::{Credential, Owner};

const PREFIX: &str = "bht_";
/// Characters of the secret: 192 bits need 38.4.
const SECRET_CHARS: usize = 39;

/// How long a ticket can be used, in milliseconds.
pub const TICKET_TTL_MS: i64 = 60_000;
/// Tickets of one user that can be used at once.
pub const MAX_TICKETS: u32 = 256;

/// A ticket as its holder has it. Shown once, never stored, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(String);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

impl Ticket {
    /// Makes one.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Self(key::random_text(entropy, SECRET_CHARS))
    }

    /// From the text that its holder sent; none if it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let secret = text.strip_prefix(PREFIX)?;
        (secret.len() == SECRET_CHARS && key::is_text(secret)).then(|| Self(secret.to_owned()))
    }

    /// The whole ticket, to be shown once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }

    /// What is stored of it: it has full entropy, so a plain digest tells nothing.
    pub fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// A ticket as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketRecord {
    /// Its digest.
    pub hash: Digest,
    /// Whose.
    pub owner: Owner,
    /// What its owner was recognised by: its stream ends with that.
    pub credential: Credential,
    /// The task whose events it shows.
    pub task: TaskId,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

/// A ticket that opens nothing: unknown, used, expired, or for another task.
/// Nobody is told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no such ticket for this task: it may have been used, or be older than a minute; ask for another one")]
pub struct TicketRefused;

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting;
    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.iter_mut().zip(1..).for_each(|(byte, number)| *byte = number);
        }
    }

    #[test]
    fn round_trip_and_nothing_in_logs() {
        let ticket = Ticket::generate(&Counting);
        let text = ticket.reveal();
        assert_eq!(text.len(), 43);
        assert_eq!(Ticket::parse(&text), Some(ticket.clone()));
        for bad in ["", "bht_", &text[..42], &text.to_uppercase(), &text.replace("bht_", "bh_")] {
            assert_eq!(Ticket::parse(bad), None, "{bad}");
        }
        assert_eq!(format!("{ticket:?}"), "Ticket(…)");
    }
}
