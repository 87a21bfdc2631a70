//! What a call changed in its workspace: each path once per kind of change,
//! named up to the call's limit and counted beyond.

use std::collections::HashMap;

use bulkhead_core::event::{ChangeCounts, ChangeKind};

/// Bytes of paths per named change on average; beyond, changes are counted.
const BYTES_PER_CHANGE: u64 = 256;

/// The changes of one call.
pub(in crate::worker) struct Journal {
    names_left: u64,
    bytes_left: u64,
    last: HashMap<String, ChangeKind>,
    pending: Vec<(ChangeKind, String)>,
    unnamed: ChangeCounts,
}

impl Journal {
    /// A journal that names so many changes.
    pub(in crate::worker) fn new(names: u64) -> Self {
        Self {
            names_left: names,
            bytes_left: names.saturating_mul(BYTES_PER_CHANGE),
            last: HashMap::new(),
            pending: Vec::new(),
            unnamed: ChangeCounts::default(),
        }
    }

    /// Notes a change. True if there are enough for a frame.
    pub(in crate::worker) fn record(&mut self, kind: ChangeKind, path: Option<&str>) -> bool {
        let Some(path) = path else {
            self.unnamed.add(kind);
            return false;
        };
        match (self.last.get(path), kind) {
            (Some(before), _) if *before == kind => return false,
            // A new file is new however often it is written.
            (Some(ChangeKind::Created), ChangeKind::Modified) => return false,
            _ => {}
        }
        let bytes = path.len() as u64;
        if self.names_left == 0 || self.bytes_left < bytes {
            self.unnamed.add(kind);
            return false;
        }
        self.names_left -= 1;
        self.bytes_left -= bytes;
        self.last.insert(path.to_owned(), kind);
        self.pending.push((kind, path.to_owned()));
        self.pending.len() >= crate::bounds::CHANGES_PER_FRAME
    }

    /// The changes that are not sent yet.
    pub(in crate::worker) fn take(&mut self) -> Vec<(ChangeKind, String)> {
        std::mem::take(&mut self.pending)
    }

    /// Those that are only counted, and were not told yet.
    pub(in crate::worker) fn unnamed(&mut self) -> ChangeCounts {
        std::mem::take(&mut self.unnamed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ChangeKind::{Created, Deleted, Modified};

    #[test]
    fn a_path_is_named_once_per_change_and_counted_beyond_the_limit() {
        let mut journal = Journal::new(3);
        for (kind, path) in
            [(Created, "a"), (Modified, "a"), (Modified, "b"), (Modified, "b"), (Deleted, "a"), (Created, "c")]
        {
            journal.record(kind, Some(path));
        }
        journal.record(Modified, None);
        let named: Vec<_> = journal.take().into_iter().map(|(kind, path)| format!("{kind:?} {path}")).collect();
        assert_eq!(named, ["Created a", "Modified b", "Deleted a"]);
        assert_eq!(journal.unnamed(), ChangeCounts { created: 1, modified: 1, deleted: 0 });
        assert!(journal.take().is_empty());
    }
}
