//! What was refused at the door, counted until it is written down.
//!
//! A refusal does nothing, so it need not wait for its record; and who is refused
//! must not be able to make the host write. So refusals are counted here, in
//! bounded maps, and written every so often: those of strangers (no key, or none
//! that is good) by reason and where they come from, those of principals by
//! who, what and why. What does not fit is counted together. If the records can't
//! be written the counts stay and the host goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{AuditBody, NewAudit};
use crate::clock::Timestamp;
use crate::principal::{Owner, Scope};

/// Strangers told apart between two records: what they can make the host write.
const STRANGERS: usize = 32;
/// Refusals of principals told apart.
const PRINCIPALS: usize = 1024;
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
    /// Those of principals that did not fit.
    others: u64,
}

/// What was refused to a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refused {
    /// A thing of this kind that is not there, or another's.
    NotFound(&'static str),
    /// What needs this scope.
    Scope(Scope),
}

impl Counts {
    fn stranger(&mut self, reason: &'static str, source: Arc<str>, count: u64) {
        let mut key = (reason, source);
        if self.strangers.len() >= STRANGERS && !self.strangers.contains_key(&key) {
            key.1 = ELSEWHERE.into();
        }
        *self.strangers.entry(key).or_default() += count;
    }
}

#[derive(Debug, Default)]
struct Named {
    count: u64,
    ids: Vec<String>,
}

impl Refusals {
    /// A stranger was refused, for a reason (a problem's code), from somewhere.
    pub fn stranger(&self, reason: &'static str, source: &str) {
        self.counts().stranger(reason, source.into(), 1);
    }

    /// A principal asked for a thing that is not there, or another's.
    pub(crate) fn not_found(&self, owner: Owner, kind: &'static str, id: &dyn ToString) {
        self.principal(owner, Refused::NotFound(kind), Some(id));
    }

    /// A principal's key lacks a scope.
    pub(crate) fn scope(&self, owner: Owner, scope: Scope) {
        self.principal(owner, Refused::Scope(scope), None);
    }

    fn principal(&self, owner: Owner, what: Refused, id: Option<&dyn ToString>) {
        let mut counts = self.counts();
        if counts.principals.len() >= PRINCIPALS && !counts.principals.contains_key(&(owner, what)) {
            counts.others += 1;
            return;
        }
        let named = counts.principals.entry((owner, what)).or_default();
        named.count += 1;
        if let Some(id) = id.filter(|_| named.ids.len() < NAMED) {
            let id = id.to_string();
            if !named.ids.contains(&id) {
                named.ids.push(id);
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
        for (key, named) in taken.counts.principals {
            if counts.principals.len() >= PRINCIPALS && !counts.principals.contains_key(&key) {
                counts.others += named.count;
                continue;
            }
            let kept = counts.principals.entry(key).or_default();
            kept.count += named.count;
            let room = NAMED.saturating_sub(kept.ids.len());
            kept.ids.extend(named.ids.into_iter().take(room));
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
        for ((owner, refused), named) in &counts.principals {
            let (what, reason) = match refused {
                Refused::NotFound(kind) => ((*kind).to_owned(), "not_found"),
                Refused::Scope(scope) => (scope.to_string(), "missing_scope"),
            };
            let body = AuditBody::AccessRefused {
                what,
                reason: reason.into(),
                ids: named.ids.clone(),
                count: named.count,
                since: since.clone(),
            };
            records.push(NewAudit::new(now, *owner, None, None, &body));
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
        for number in 0..100_000_u64 {
            refusals.stranger("unauthenticated", &format!("10.{}.{}.0/24", number / 256 % 256, number % 256));
            refusals.not_found(owner(number), "task", &number);
        }
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
        assert_eq!((counted("strangers.refused"), counted("access.refused")), (100_000, 100_000));
        assert!(refusals.take(at(2)).records().is_empty());
    }

    #[test]
    fn what_could_not_be_written_is_counted_again() {
        let refusals = Refusals::default();
        refusals.scope(owner(1), Scope::CallsRun);
        refusals.not_found(owner(1), "call", &"call_1");
        refusals.stranger("unauthenticated", "10.0.0.0/24");
        let taken = refusals.take(at(1));
        refusals.not_found(owner(1), "call", &"call_2");
        refusals.put_back(taken);
        let records = refusals.take(at(2)).records();
        assert_eq!(records.len(), 3);
        let call = records.iter().find(|record| record.data.contains("call_1")).expect("is told");
        assert_eq!(&*call.data, r#"{"what":"call","reason":"not_found","ids":["call_2","call_1"],"count":2}"#);
        assert_eq!((records[0].user, records[1].user), (None, Some(owner(1).user)), "the operator's chain is first");
    }
}
