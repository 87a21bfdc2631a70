//! The rules of the door that a migration may soften: what they would refuse
//! is let through and written down, each for itself.
//!
//! Whose a thing is is no such rule: another owner's is not there, in no mode.
//! Neither are the scopes that reach past one's own things.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::audit::{AuditBody, NewAudit};
use crate::clock::Ids;
use crate::ports::meter::Meter;
use crate::ports::store::{Store, StoreError};
use crate::principal::Owner;

/// A principal's records of one rule and operation are this far apart.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Pairs of principal and operation that are remembered for it.
const TOLD: u64 = 10_000;

/// What a rule does with what it refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// It refuses.
    #[default]
    Enforce,
    /// It lets it through and writes it down.
    Audit,
}

/// A rule of the door that can be softened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An operation demands its scope.
    Scopes,
    /// A key that has expired opens nothing.
    ExpiredKeys,
    /// An administrator says why another's thing is looked at.
    AdminReason,
}

impl Rule {
    /// Every rule.
    pub const ALL: &'static [Rule] = &[Rule::Scopes, Rule::ExpiredKeys, Rule::AdminReason];

    /// The name, as configuration, records and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scopes => "scopes",
            Self::ExpiredKeys => "expired_keys",
            Self::AdminReason => "admin_reason",
        }
    }
}

/// What each rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// [`Rule::Scopes`].
    pub scopes: Enforcement,
    /// [`Rule::ExpiredKeys`].
    pub expired_keys: Enforcement,
    /// [`Rule::AdminReason`].
    pub admin_reason: Enforcement,
}

impl Rules {
    /// What `rule` does.
    pub fn of(&self, rule: Rule) -> Enforcement {
        match rule {
            Rule::Scopes => self.scopes,
            Rule::ExpiredKeys => self.expired_keys,
            Rule::AdminReason => self.admin_reason,
        }
    }

    /// The rules that refuse nothing.
    pub fn softened(&self) -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(|rule| self.of(*rule) == Enforcement::Audit)
    }
}

/// Asks the rules, and writes down what they let through.
pub(crate) struct Softened {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ids: Arc<dyn Ids>,
    meter: Arc<dyn Meter>,
    rules: Rules,
    told: Cache<(Rule, Owner, &'static str), ()>,
}

impl Softened {
    pub(crate) fn new(store: Arc<dyn Store>, ids: Arc<dyn Ids>, meter: Arc<dyn Meter>, rules: Rules) -> Self {
        let told = Cache::builder().max_capacity(TOLD).time_to_live(TOLD_EVERY).build();
        Self { store, ids, meter, rules, told }
    }

    /// Whether what `rule` refuses `who` is let through. Then it is on record:
    /// at most once in a while for one principal, rule and operation, so that
    /// a busy client fills no disk; the metric counts each.
    pub(crate) async fn lets_through(
        &self,
        rule: Rule,
        who: Owner,
        operation: &'static str,
        what: &str,
    ) -> Result<bool, StoreError> {
        if self.rules.of(rule) == Enforcement::Enforce {
            return Ok(false);
        }
        self.meter.access_would_refuse(rule.name());
        if !self.told.contains_key(&(rule, who, operation)) {
            let body = AuditBody::AccessWouldRefuse {
                rule: rule.name().into(),
                operation: operation.into(),
                what: what.to_owned(),
            };
            let record = NewAudit::new(self.ids.now(), who, None, None, &body);
            self.store.append_audit(vec![record]).await?;
            self.told.insert((rule, who, operation), ());
            tracing::warn!(
                rule = rule.name(), operation, tenant = %who.tenant, user = %who.user, what,
                "let through what will be refused once the rule is enforced"
            );
        }
        Ok(true)
    }

    /// Counts that an administrator was given another's thing.
    pub(crate) fn admin_accessed(&self) {
        self.meter.admin_accessed();
    }

    pub(crate) fn enforces(&self, rule: Rule) -> bool {
        self.rules.of(rule) == Enforcement::Enforce
    }
}
