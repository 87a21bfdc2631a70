//! What was refused at the door, on its way into the log.
//!
//! The first refusal of a kind to a principal is written down before it is answered,
//! and is not answered if it can't be (`access`). Those of the same kind that follow are
//! counted here and written every so often, and so is all that is refused to strangers
//! (no key, or none that is good), by reason and where they come from: who is refused
//! must not be able to make the host write. What does not fit is counted together. If
//! those records can't be written the counts stay and the host goes on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{AuditBody, NewAudit};
use crate::clock::Timestamp;
use crate::id::TenantId;
use crate::principal::{Owner, Scope};

/// Strangers told apart between two records: what they can make the host write.
const STRANGERS: usize = 32;
/// Refusals of principals told apart: of all, and of one tenant, so that its users can't
/// take the room of others.
const PRINCIPALS: usize = 4096;
const OF_A_TENANT: usize = 256;
/// Ids that a record of refusals names, of the things that were asked for.
const NAMED: usize = 4;

/// Where a stranger is said to come from when there are too many of them.
const ELSEWHERE: &str = "elsewhere";

/// Counts refusals.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    since: Option<Timestamp>,
    strangers: HashMap<(&'static str, Arc<str>), u64>,
    principals: HashMap<(Owner, Refused), Named>,
    /// How many of them are of each tenant.
    tenants: HashMap<TenantId, usize>,
    /// Those of principals that did not fit.
    others: u64,
}

/// What was refused to a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// A thing of this kind that is not there, or another's.
    NotFound(&'static str),
    /// What needs this scope.
    Scope(Scope),
    /// Everything, for this reason: its key, whose secret it knows, is not good any more.
    Key(&'static str),
}

impl Counts {
    /// Where refusals of this kind are counted; none if there is no room.
    fn named(&mut self, owner: Owner, what: Refused) -> Option<&mut Named> {
        let full = self.principals.len() >= PRINCIPALS;
        match self.principals.entry((owner, what)) {
            Entry::Occupied(there) => Some(there.into_mut()),
            Entry::Vacant(place) => {
                // No entry for those without room: they may be any number of tenants.
                let of_tenant = self.tenants.get(&owner.tenant).copied().unwrap_or_default();
                if full || of_tenant >= OF_A_TENANT {
                    return None;
                }
                self.tenants.insert(owner.tenant, of_tenant + 1);
                Some(place.insert(Named::default()))
            }
        }
    }

    fn principal(&mut self, owner: Owner, what: Refused, count: u64, ids: impl IntoIterator<Item = String>) {
        match self.named(owner, what) {
            Some(named) => named.add(count, ids),
            None => self.others += count,
        }
    }

    fn stranger(&mut self, reason: &'static str, source: Arc<str>, count: u64) {
        let mut key = (reason, source);
        if self.strangers.len() >= STRANGERS && !self.strangers.contains_key(&key) {
            key.1 = ELSEWHERE.into();
        }
        *self.strangers.entry(key).or_default() += count;
    }
}

impl Refused {
    /// The record of such refusals.
    fn record(self, owner: Owner, at: Timestamp, named: &Named, since: Option<String>) -> NewAudit {
        let (what, reason) = match self {
            Self::NotFound(kind) => (kind.to_owned(), "not_found"),
            Self::Scope(scope) => (scope.to_string(), "missing_scope"),
            Self::Key(reason) => ("key".to_owned(), reason),
        };
        let (reason, ids, count) = (reason.into(), named.ids.clone(), named.count);
        NewAudit::new(at, owner, None, None, &AuditBody::AccessRefused { what, reason, ids, count, since })
    }
}

#[derive(Debug, Default)]
struct Named {
    /// Whether one is written down already; if not, the next one has to be.
    told: bool,
    /// Those that are not.
    count: u64,
    ids: Vec<String>,
}

impl Named {
    fn add(&mut self, count: u64, ids: impl IntoIterator<Item = String>) {
        self.count += count;
        for id in ids {
            if self.ids.len() < NAMED && !self.ids.contains(&id) {
                self.ids.push(id);
            }
        }
    }
}

/// A refusal that is written down before it is answered. One that is dropped before
/// that is counted, and the next one of its kind has to be.
#[derive(Debug)]
pub(crate) struct First<'a> {
    refusals: &'a Refusals,
    owner: Owner,
    what: Refused,
    id: Option<String>,
    at: Timestamp,
    stored: bool,
}

impl First<'_> {
    /// Its record.
    pub(crate) fn record(&self) -> NewAudit {
        let named = Named { count: 1, ids: self.id.iter().cloned().collect(), told: false };
        self.what.record(self.owner, self.at, &named, None)
    }

    /// It is written down: from now on the like of it is counted.
    pub(crate) fn stored(mut self) {
        self.stored = true;
        if let Some(named) = self.refusals.counts().named(self.owner, self.what) {
            named.told = true;
        }
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        if !self.stored {
            self.refusals.counts().principal(self.owner, self.what, 1, self.id.take());
        }
    }
}

impl Refusals {
    /// A stranger was refused, for a reason (a problem's code), from somewhere.
    pub fn stranger(&self, reason: &'static str, source: &str) {
        self.counts().stranger(reason, source.into(), 1);
    }

    /// A principal was refused something, of this id if it has one. What must be written
    /// down before that is answered; none if it was counted.
    #[must_use = "it is written down before it is answered"]
    pub(crate) fn principal(
        &self,
        owner: Owner,
        what: Refused,
        id: Option<String>,
        at: Timestamp,
    ) -> Option<First<'_>> {
        let mut counts = self.counts();
        match counts.named(owner, what) {
            Some(named) if !named.told => Some(First { refusals: self, owner, what, id, at, stored: false }),
            Some(named) => {
                named.add(1, id);
                None
            }
            None => {
                counts.others += 1;
                None
            }
        }
    }

    /// The records of what was counted, with what to count again should they not
    /// be written. Those of a chain stand together.
    pub fn take(&self, now: Timestamp) -> Taken {
        let mut counts = self.counts();
        let since = counts.since.replace(now);
        let taken = std::mem::replace(&mut *counts, Counts { since: Some(now), ..Counts::default() });
        drop(counts);
        Taken { counts: Counts { since, ..taken }, now }
    }

    /// Counts again what could not be written.
    pub fn put_back(&self, taken: Taken) {
        let mut counts = self.counts();
        counts.since = taken.counts.since;
        for ((reason, source), count) in taken.counts.strangers {
            counts.stranger(reason, source, count);
        }
        for ((owner, what), named) in taken.counts.principals {
            counts.principal(owner, what, named.count, named.ids);
        }
        counts.others += taken.counts.others;
    }

    /// No code panics while it holds the lock.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was counted, on its way into the log.
#[derive(Debug)]
pub struct Taken {
    counts: Counts,
    now: Timestamp,
}

impl Taken {
    /// The records, one after the other those of a chain.
    pub fn records(&self) -> Vec<NewAudit> {
        let since = self.counts.since.map(|at| at.to_string());
        let (now, counts) = (self.now, &self.counts);
        let mut records: Vec<NewAudit> = Vec::new();
        for ((reason, source), count) in &counts.strangers {
            let (reason, source) = ((*reason).to_owned(), source.to_string());
            let body = AuditBody::StrangersRefused { reason, source, count: *count, since: since.clone() };
            records.push(NewAudit::of_operator(now, &body));
        }
        if counts.others > 0 {
            let body = AuditBody::AccessRefused {
                what: "others".into(),
                reason: "too many to tell apart".into(),
                ids: Vec::new(),
                count: counts.others,
                since: since.clone(),
            };
            records.push(NewAudit::of_operator(now, &body));
        }
        for ((owner, what), named) in counts.principals.iter().filter(|(_, named)| named.count > 0) {
            records.push(what.record(*owner, now, named, since.clone()));
        }
        records.sort_by_key(|record| record.chain);
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{TenantId, UserId};

    fn owner(number: u64) -> Owner {
        Owner { tenant: TenantId::from_parts(number, 0), user: UserId::from_parts(number, 0) }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_flood_makes_a_bounded_number_of_records() {
        let refusals = Refusals::default();
        let mut first = 0;
        for number in 0..100_000_u64 {
            refusals.stranger("unauthenticated", &format!("10.{}.{}.0/24", number / 256 % 256, number % 256));
            first += usize::from(write(not_found(&refusals, owner(number), "task", number)));
            // Again, of another thing of the kind: it is counted.
            assert!(!write(not_found(&refusals, owner(number), "task", number + 1)));
        }
        assert_eq!(first, PRINCIPALS);
        let records = refusals.take(at(1)).records();
        assert_eq!(records.len(), STRANGERS + 1 + 1 + PRINCIPALS);
        let counted = |kind: &str| -> u64 {
            let of_kind = records.iter().filter(|record| record.kind == kind);
            let count = |record: &NewAudit| {
                let data: serde_json::Value = serde_json::from_str(&record.data).expect("JSON");
                data["count"].as_u64().expect("a number")
            };
            of_kind.map(count).sum()
        };
        let all = 200_000 - first as u64;
        assert_eq!((counted("strangers.refused"), counted("access.refused")), (100_000, all));
        assert!(refusals.take(at(2)).records().is_empty());
    }

    fn not_found<'a>(refusals: &'a Refusals, owner: Owner, kind: &'static str, id: impl ToString) -> Option<First<'a>> {
        refusals.principal(owner, Refused::NotFound(kind), Some(id.to_string()), at(0))
    }

    /// Writes it down, if it has to be.
    fn write(first: Option<First<'_>>) -> bool {
        first.map(First::stored).is_some()
    }

    #[test]
    fn users_of_a_tenant_take_no_room_of_others() {
        let refusals = Refusals::default();
        let of = |tenant, user| Owner { tenant: TenantId::from_parts(tenant, 0), user: UserId::from_parts(user, 0) };
        let told = (0..10_000).filter(|user| write(not_found(&refusals, of(1, *user), "task", user))).count();
        assert_eq!(told, OF_A_TENANT);
        assert!(write(not_found(&refusals, of(2, 0), "task", 0)), "another tenant");
        for tenant in 3..10_000 {
            write(not_found(&refusals, of(tenant, 0), "task", 0));
        }
        assert_eq!(refusals.counts().tenants.len(), PRINCIPALS - OF_A_TENANT + 1, "none is kept of those without room");
        let records = refusals.take(at(1)).records();
        assert_eq!((records.len(), records[0].user), (1, None), "all others together, for the operator");
        assert!(write(not_found(&refusals, of(1, 10_000), "task", 0)), "there is room again");
    }

    #[test]
    fn what_could_not_be_written_is_counted_again() {
        let refusals = Refusals::default();
        assert!(write(refusals.principal(owner(1), Refused::Scope(Scope::CallsRun), None, at(0))));
        for id in ["call_0", "call_1"] {
            write(not_found(&refusals, owner(1), "call", id));
        }
        refusals.stranger("unauthenticated", "10.0.0.0/24");
        let taken = refusals.take(at(1));
        // Of another interval: written down at once.
        assert!(write(not_found(&refusals, owner(1), "call", "call_2")));
        assert!(!write(not_found(&refusals, owner(1), "call", "call_3")));
        refusals.put_back(taken);
        let records = refusals.take(at(2)).records();
        assert_eq!(records.len(), 2);
        assert_eq!(&*records[1].data, r#"{"what":"call","reason":"not_found","ids":["call_3","call_1"],"count":2}"#);
        assert_eq!((records[0].user, records[1].user), (None, Some(owner(1).user)), "the operator's chain is first");
    }

    #[test]
    fn the_first_of_a_kind_has_to_be_written_down_until_one_is() {
        let refusals = Refusals::default();
        let first = not_found(&refusals, owner(1), "call", "call_1").expect("the first");
        assert_eq!(&*first.record().data, r#"{"what":"call","reason":"not_found","ids":["call_1"],"count":1}"#);
        let second = not_found(&refusals, owner(1), "call", "call_2").expect("the first is not written down yet");
        // It could not be, or who asked went away.
        drop(first);
        second.stored();
        assert!(not_found(&refusals, owner(1), "call", "call_3").is_none());
        // Others, and other things, have firsts of their own.
        assert!(not_found(&refusals, owner(2), "call", "call_1").is_some());
        assert!(not_found(&refusals, owner(1), "task", "task_1").is_some());
        let all: Vec<_> = refusals.take(at(1)).records().into_iter().map(|record| record.data).collect();
        assert_eq!(all.len(), 3, "those that were dropped, too: {all:?}");
        assert!(all.iter().any(|data| data.contains(r#""ids":["call_1","call_3"],"count":2"#)), "{all:?}");
    }
}
