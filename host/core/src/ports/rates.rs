//! How often: a port, because several hosts may have to count together.

use std::time::Duration;

use async_trait::async_trait;

use crate::principal::Owner;

/// What is counted, each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// Requests of any kind.
    Requests,
    /// Calls that are asked for.
    Calls,
}

impl Counted {
    /// The name of its policy in header fields, keys and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Calls => "calls",
        }
    }
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counts {
    /// One user.
    User,
    /// All users of a tenant together.
    Tenant,
}

impl Counts {
    /// How it is named in keys of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Tenant => "tenant",
        }
    }
}

/// How often something may be done: evenly over time, some of it at once
/// (GCRA, the generic cell rate algorithm of ITU-T I.371).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a minute; not 0.
    pub per_minute: u32,
    /// At once, after a pause; not 0.
    pub burst: u32,
}

/// Where a principal stands with one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The rate.
    pub rate: Rate,
    /// What is counted.
    pub counted: Counted,
    /// Whose allowance it is.
    pub of: Counts,
    /// How many more would be allowed at once, now.
    pub remaining: u32,
    /// When all of the burst would be allowed again.
    pub reset: Duration,
}

impl Standing {
    /// The key of the configuration that sets the rate.
    pub fn key(&self) -> &'static str {
        match (self.counted, self.of) {
            (Counted::Requests, Counts::User) => "rate.requests_per_user",
            (Counted::Requests, Counts::Tenant) => "rate.requests_per_tenant",
            (Counted::Calls, Counts::User) => "rate.calls_per_user",
            (Counted::Calls, Counts::Tenant) => "rate.calls_per_tenant",
        }
    }
}

/// What became of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Nothing is counted here.
    Unlimited,
    /// Allowed; the tightest of the rates that were asked.
    Allowed(Standing),
    /// Refused by this rate.
    Refused {
        /// Where the principal stands.
        standing: Standing,
        /// When one more will be allowed.
        retry_after: Duration,
    },
}

/// Counts.
#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Takes one of what an owner, and its tenant, may do. Never fails: if
    /// those who count together can't, each counts for itself.
    async fn take(&self, counted: Counted, owner: Owner) -> Taken;
    /// Forgets those who have not been seen for so long that nothing is left to count.
    fn tidy(&self);
}
