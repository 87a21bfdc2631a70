//! Time and randomness as ports: core reads neither by itself, so that a test
//! decides both.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::{Iso8601, Rfc3339};

use crate::id::{
    AccessId, CallId, DeletedId, GrantId, HostId, QuestionId, RequestId, SessionId, TaskId, TenantId, ToolId, UploadId,
    UserId, VolumeId,
};

/// RFC 3339 with milliseconds always written, so that text sorts as time does.
const MILLISECONDS: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: std::num::NonZeroU8::new(3) }).encode();

/// Milliseconds since 1970-01-01T00:00:00Z. As text RFC 3339, in UTC, with
/// three digits after the second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// This time and `millis` later (earlier, if negative).
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this; 0 if it is not earlier.
    pub fn millis_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|time| time.format(&Iso8601::<MILLISECONDS>).ok());
        // Only years outside 0..=9999 have no RFC 3339 form.
        f.write_str(text.as_deref().unwrap_or("invalid-time"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)?;
        let millis = time.unix_timestamp_nanos() / 1_000_000;
        i64::try_from(millis).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The wall clock.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The source of randomness; must be fit for secrets.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes` with random bits.
    fn fill(&self, bytes: &mut [u8]);
}

/// Clock and randomness together make ids.
pub trait Ids: Clock + Entropy {
    /// 80 random bits, in the low bits.
    fn random80(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes[6..]);
        u128::from_be_bytes(bytes)
    }
}

impl<T: Clock + Entropy + ?Sized> Ids for T {}

macro_rules! new_ids {
    ($($fn:ident -> $id:ident;)*) => {
        /// Makes ids of each kind.
        pub trait NewId: Ids {$(
            /// A new id of this kind.
            fn $fn(&self) -> $id {
                $id::from_parts(u64::try_from(self.now().as_millis()).unwrap_or(0), self.random80())
            }
        )*}
    };
}

new_ids! {
    tenant_id -> TenantId;
    user_id -> UserId;
    session_id -> SessionId;
    task_id -> TaskId;
    call_id -> CallId;
    grant_id -> GrantId;
    question_id -> QuestionId;
    deleted_id -> DeletedId;
    upload_id -> UploadId;
    access_id -> AccessId;
    request_id -> RequestId;
    tool_id -> ToolId;
    host_id -> HostId;
    volume_id -> VolumeId;
}

impl<T: Ids + ?Sized> NewId for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339() {
        let time = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
        // Text sorts as time does: no digit is left out.
        assert_eq!(Timestamp::from_millis(1_700_000_000_120).to_string(), "2023-11-14T22:13:20.120Z");
        assert_eq!(Timestamp::from_millis(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "invalid-time");
        let json = serde_json::to_string(&time).expect("timestamps serialize");
        assert_eq!(serde_json::from_str::<Timestamp>(&json).expect("and parse"), time);
    }
}
