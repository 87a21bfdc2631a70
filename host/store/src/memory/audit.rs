//! The audit log in memory.

use std::collections::BTreeMap;

use bulkhead_core::audit::chain::{ChainState, Columns, Place, Stored};
use bulkhead_core::audit::{Audit, AuditFilter, NewAudit};
use bulkhead_core::clock::Timestamp;
use bulkhead_core::principal::Owner;

/// All chains, by name.
#[derive(Debug, Default)]
pub(super) struct Chains(BTreeMap<String, Kept>);

/// A chain.
#[derive(Debug)]
struct Kept {
    state: ChainState,
    records: Vec<(NewAudit, Place)>,
}

impl Chains {
    pub(super) fn append(&mut self, record: NewAudit) {
        let columns = Columns::from(&record);
        let name = columns.chain.clone();
        let kept = self.0.entry(name.clone()).or_insert_with(|| Kept {
            state: ChainState { chain: name, kept_after: Place::START, head: Place::START },
            records: Vec::new(),
        });
        kept.state.head = kept.state.head.next(&columns.leaf());
        kept.records.push((record, kept.state.head));
    }

    pub(super) fn list(&self, owner: Owner, filter: &AuditFilter, after: u64, limit: u32) -> Vec<Audit> {
        let Some(kept) = self.0.get(&owner.tenant.to_string()) else { return Vec::new() };
        let wanted = |(record, place): &&(NewAudit, Place)| {
            place.number > after
                && record.user == Some(owner.user)
                && (filter.task.is_none() || record.task == filter.task)
                && !(filter.but_ends && record.kind == "call.ended")
                && filter.kind.as_ref().is_none_or(|kind| *kind == record.kind)
                && filter.since.is_none_or(|since| record.at >= since)
                && filter.until.is_none_or(|until| record.at < until)
                && filter.up_to.is_none_or(|up_to| place.number <= up_to)
        };
        let found = kept.records.iter().filter(wanted).take(limit as usize);
        found.map(|(record, place)| Audit { number: place.number, record: record.clone() }).collect()
    }

    pub(super) fn states(&self) -> Vec<ChainState> {
        self.0.values().map(|kept| kept.state.clone()).collect()
    }

    pub(super) fn stored(&self, chain: &str, after: u64, limit: u32) -> Vec<Stored> {
        let records = self.0.get(chain).map(|kept| kept.records.as_slice()).unwrap_or_default();
        let later = records.iter().filter(|(_, place)| place.number > after).take(limit as usize);
        let stored = later.map(|(record, place)| Stored {
            number: place.number,
            columns: record.into(),
            hash: place.hash.as_bytes().to_vec(),
        });
        stored.collect()
    }

    /// Removes the beginning of each chain, as far as it is older. How many records.
    pub(super) fn shorten(&mut self, before: Timestamp) -> u64 {
        let mut removed = 0;
        for kept in self.0.values_mut() {
            let old = kept.records.iter().take_while(|(record, _)| record.at < before).count();
            if let Some((_, last)) = kept.records.drain(..old).next_back() {
                kept.state.kept_after = last;
            }
            removed += old as u64;
        }
        removed
    }
}
