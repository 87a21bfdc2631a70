//! Ids. Each kind is its own type with its own prefix, so that a task's id
//! can't be passed where a call's is wanted, and a log line says what it names.
//!
//! The text form is `<prefix>_<ULID>` in lower case (26 characters, Crockford
//! base 32, <https://github.com/ulid/spec>): sortable by creation, no secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use ulid::{ULID_LEN, Ulid};

use crate::digest::Digest;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a valid id: expected `{prefix}_` followed by 26 characters of base 32")]
pub struct IdError {
    prefix: &'static str,
}

fn parse(text: &str, prefix: &'static str) -> Result<Ulid, IdError> {
    let error = IdError { prefix };
    let rest = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(error.clone())?;
    let ulid = Ulid::from_string(rest).map_err(|_| error.clone())?;
    // The decoder also takes spellings that it would not print (upper case, I, L, O): they
    // would give one id two spellings, and with them two cache keys.
    if Text::of("", ulid).digits() == rest { Ok(ulid) } else { Err(error) }
}

/// The text of an id, without an allocation: a call writes some dozens.
struct Text {
    bytes: [u8; Text::LONGEST_PREFIX + 1 + ULID_LEN],
    prefix: usize,
}

impl Text {
    const LONGEST_PREFIX: usize = 8;

    fn of(prefix: &'static str, ulid: Ulid) -> Self {
        let mut digits = [0; ULID_LEN];
        ulid.array_to_str(&mut digits).make_ascii_lowercase();
        let mut bytes = [b'_'; Self::LONGEST_PREFIX + 1 + ULID_LEN];
        let prefix = prefix.as_bytes();
        bytes[..prefix.len()].copy_from_slice(prefix);
        bytes[prefix.len() + 1..][..ULID_LEN].copy_from_slice(&digits);
        Self { bytes, prefix: prefix.len() }
    }

    fn as_str(&self) -> &str {
        // Only letters and digits were put in.
        std::str::from_utf8(&self.bytes[..self.prefix + 1 + ULID_LEN]).unwrap_or_default()
    }

    fn digits(&self) -> &str {
        &self.as_str()[self.prefix + 1..]
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Ulid);

        // Else its text would not fit.
        const _: () = assert!($prefix.len() <= Text::LONGEST_PREFIX);

        impl $name {
            /// What the text form begins with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from a time (milliseconds since 1970) and 80 random bits.
            pub fn from_parts(millis: u64, random: u128) -> Self {
                Self(Ulid::from_parts(millis, random))
            }

            /// Makes an id from a digest: the same from the same. Its first bit
            /// is set, which as a time lies after the year 6400, so that it
            /// never meets an id that was made from a clock.
            pub fn derived(digest: &Digest) -> Self {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest.as_bytes()[..16]);
                bytes[0] |= 0x80;
                Self(Ulid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(Text::of($prefix, self.0).as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse(text, $prefix).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(Text::of($prefix, self.0).as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// The wall between customers.
    TenantId = "ten";
    /// A user of a tenant.
    UserId = "usr";
    /// A label that groups tasks.
    SessionId = "ses";
    /// A data directory, and the servers that run on it one after the other.
    HostId = "host";
    /// A directory of workspaces that several hosts reach.
    VolumeId = "vol";
    /// The unit of isolation.
    TaskId = "task";
    /// One invocation of a tool.
    CallId = "call";
    /// A registered tool, one version of it.
    ToolId = "tool";
    /// A grant that an owner gave to a task.
    GrantId = "grant";
    /// An entry of a workspace that was deleted and is kept.
    DeletedId = "del";
    /// An upload that goes on over several requests.
    UploadId = "upl";
    /// An entry of a task's access log.
    AccessId = "acc";
    /// A question to the owner of a call.
    QuestionId = "question";
    /// A request to the host, in its log.
    RequestId = "req";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let id = TaskId::from_parts(1_700_000_000_000, 42);
        let text = id.to_string();
        assert_eq!(text.len(), "task_".len() + 26);
        assert_eq!(text.parse::<TaskId>(), Ok(id));
        assert_eq!(serde_json::to_string(&id).expect("ids serialize"), format!("\"{text}\""));
    }

    #[test]
    fn another_kind_and_another_spelling_are_refused() {
        let id = TaskId::from_parts(1_700_000_000_000, 42).to_string();
        assert!(id.parse::<CallId>().is_err());
        assert!(id.to_ascii_uppercase().parse::<TaskId>().is_err());
        assert!(id.replace('0', "o").parse::<TaskId>().is_err());
        for text in ["", "task_", "task", "task_01", "../../etc/passwd", "task_\u{1f600}"] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }

    #[test]
    fn derived_ids_are_ids_apart_from_all_others() {
        for text in ["a", "b", "c", ""] {
            let id = UserId::derived(&Digest::of(text.as_bytes()));
            assert_eq!(id, UserId::derived(&Digest::of(text.as_bytes())));
            assert_eq!(id.to_string().parse(), Ok(id));
            // Later than any clock of ours.
            assert!(id > UserId::from_parts((1 << 47) - 1, u128::MAX >> 48), "{id}");
        }
    }

    #[test]
    fn ids_sort_by_time() {
        assert!(CallId::from_parts(1, u128::MAX >> 48) < CallId::from_parts(2, 0));
    }
}
