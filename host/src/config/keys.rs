//! The table of keys: what each is called, what it takes, what it is for. The
//! structs, the checks, `config show` and docs/CONFIGURATION.md are all made
//! from it, so that they can't say different things.

use bulkhead_core::limits::Limits;

use super::sections;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A path; a relative one is taken from the working directory.
    Path,
    /// A path, or nothing.
    OptionalPath,
    /// An IP address with a port.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number.
    Number {
        /// What it counts.
        unit: &'static str,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// `true` or `false`.
    Switch,
    /// A list of texts, each of this kind.
    List(&'static str),
    /// Where a server of HTTP is reached, `http://10.0.0.5:8080`, or nothing.
    OptionalOrigin,
    /// A short name: letters, digits, `-` and `_`.
    Name,
    /// A filter of log lines: `info,bulkhead=debug`.
    Filter,
    /// This word and no other, and why.
    Always(&'static str, &'static str),
    /// An `https` URL, or nothing.
    OptionalUrl,
    /// Issuers of tokens: tables in the file, JSON elsewhere.
    Issuers,
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The section; empty for the keys at the top.
    pub section: &'static str,
    /// The name within the section.
    pub field: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is for, with the reason for its default.
    pub doc: &'static str,
}

impl Key {
    /// The whole name: `limits.wall_time_ms`.
    pub fn name(&self) -> String {
        if self.section.is_empty() { self.field.into() } else { format!("{}.{}", self.section, self.field) }
    }

    /// The environment variable: `BULKHEAD_LIMITS__WALL_TIME_MS`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name().replace('.', "__").to_uppercase())
    }
}

/// What the variables of all keys begin with.
pub(super) const PREFIX: &str = "BULKHEAD_";

/// Every key, in the order of the documentation.
pub fn all() -> Vec<Key> {
    let limits = Limits::SPECS.iter().map(|spec| Key {
        section: "limits",
        field: spec.name,
        kind: Kind::Number { unit: spec.unit, min: least(spec.name), max: spec.max },
        doc: spec.reason,
    });
    let mut keys: Vec<Key> = sections::TOP.to_vec();
    keys.extend(sections::Http::KEYS);
    keys.extend(limits);
    keys.extend(sections::rest());
    keys
}

/// Without these no guest can run at all; the others may be nothing.
fn least(limit: &str) -> u64 {
    match limit {
        "wall_time_ms" | "cpu_time_ms" => 1,
        "memory_bytes" => 64 * 1024,
        "result_bytes" | "host_memory_bytes" => 1024,
        "handles" => 8,
        _ => 0,
    }
}

/// The key called `name`.
pub(super) fn find(name: &str) -> Option<Key> {
    all().into_iter().find(|key| key.name() == name)
}

/// The key that `name` was most likely meant to be.
pub(super) fn nearest(name: &str) -> Option<Key> {
    let field = name.rsplit('.').next().unwrap_or(name);
    let scored = all().into_iter().map(|key| {
        // The right key in the wrong section is as likely as a typing error.
        let by_field = if key.field == field { 1 } else { usize::MAX };
        (distance(name, &key.name()).min(by_field), key)
    });
    let (score, key) = scored.min_by_key(|(score, _)| *score)?;
    (score <= 2 + name.len() / 4).then_some(key)
}

/// How many letters must be added, dropped or replaced to make `b` of `a`.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        for (typed, meant) in [
            ("limits.wall_tme_ms", "limits.wall_time_ms"),
            ("wall_time_ms", "limits.wall_time_ms"),
            ("http.heartbeat", "http.heartbeat_ms"),
            ("lisen", "listen"),
            ("worker.idle_ms", "workers.idle_ms"),
        ] {
            assert_eq!(nearest(typed).map(|key| key.name()).as_deref(), Some(meant), "{typed}");
        }
        assert_eq!(nearest("completely.different_thing"), None);
    }

    #[test]
    fn every_key_has_its_own_name_and_a_reason() {
        let keys = all();
        let mut variables: Vec<_> = keys.iter().map(Key::variable).collect();
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), keys.len());
        for key in keys {
            assert!(key.doc.trim().ends_with('.'), "{}: {:?}", key.name(), key.doc);
        }
    }
}
