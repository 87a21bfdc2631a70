//! How much work it is to check a value against a schema, before it is done.
//! The validator has no budget of its own, and both sides are an attacker's:
//! two references at each of thirty levels are a thousand million steps, a
//! chain of references at each level of a deep value is more stack than a
//! thread has. So the same way is gone first, counting, and cut off.
//!
//! The count takes every branch, where the validator stops at the first that
//! decides: it errs towards too much.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::SchemaError;

/// Most steps of a check; some twenty million take a second. A megabyte of
/// arguments has some hundred thousand values, each under a few subschemas.
const MAX_STEPS: u64 = 1_000_000;
/// Beyond this a value is not searched for what does not fit: each branch that
/// fails makes a message of its own.
const MAX_EXPLAINED: u64 = 50_000;
/// Deepest way through a schema; a thread has stack for some ten thousand. JSON
/// is 128 deep at most, and a level of it is three of a recursive schema.
const MAX_DEPTH: u32 = 512;
/// To learn what is not evaluated yet, the validator goes through the
/// subschemas at the same place once more, and may again for what it finds.
const UNEVALUATED: u64 = 3;

const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// Values, not schemas: what looks like a keyword in them is none.
const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];

/// How much a check may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// It may be done, and what does not fit be looked for.
    Little,
    /// It may be done.
    Much,
    /// It must not be done.
    TooMuch,
}

/// A schema, to be gone through.
#[derive(Debug)]
pub(super) struct Work {
    root: Value,
    /// Where the anchors are, as JSON Pointers.
    anchors: HashMap<String, String>,
    /// Values in it.
    nodes: u64,
    /// Whether a place may be gone through more than once.
    repeats: bool,
}

impl Work {
    pub(super) fn new(root: &Value) -> Result<Self, SchemaError> {
        let mut work = Self { root: root.clone(), anchors: HashMap::new(), nodes: 0, repeats: false };
        work.scan(root, &mut String::new());
        let mut references = Vec::new();
        references_in(root, &mut references);
        match references.into_iter().find(|reference| work.target(reference).is_none()) {
            Some(reference) => {
                let text =
                    format!("the reference `{reference}` is not one to a place in the schema, as `#/$defs/…` is");
                Err(SchemaError(super::shortened(text)))
            }
            None => Ok(work),
        }
    }

    fn scan(&mut self, at: &Value, pointer: &mut String) {
        self.nodes += 1;
        let end = pointer.len();
        if let Value::Object(entries) = at {
            for (name, value) in entries {
                if let (true, Value::String(anchor)) = (matches!(&**name, "$anchor" | "$dynamicAnchor"), value) {
                    self.anchors.insert(anchor.clone(), pointer.clone());
                }
                self.repeats |= REFERENCES.contains(&&**name) || name.starts_with("unevaluated");
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                self.scan(value, pointer);
                pointer.truncate(end);
            }
        }
        if let Value::Array(items) = at {
            for (index, value) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                self.scan(value, pointer);
                pointer.truncate(end);
            }
        }
    }

    /// What a reference leads to.
    fn target(&self, reference: &str) -> Option<&Value> {
        let fragment = unescaped(reference.strip_prefix('#')?)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(&fragment);
        }
        self.root.pointer(self.anchors.get(&fragment)?)
    }

    /// What the check of `value` costs.
    pub(super) fn cost(&self, value: &Value) -> Cost {
        // Without repetition each subschema meets each value once.
        if !self.repeats && self.nodes.saturating_mul(size(value)) <= MAX_EXPLAINED {
            return Cost::Little;
        }
        let mut walk = Walk { work: self, left: MAX_STEPS };
        match walk.visit(&self.root, value, 0) {
            None => Cost::TooMuch,
            Some(()) if walk.left < MAX_STEPS - MAX_EXPLAINED => Cost::Much,
            Some(()) => Cost::Little,
        }
    }
}

/// Every reference in a schema; those of a part with an identifier of its own
/// would be to somewhere else, so it counts as one that leads nowhere.
fn references_in<'a>(at: &'a Value, all: &mut Vec<&'a str>) {
    if let Value::Array(items) = at {
        items.iter().for_each(|item| references_in(item, all));
    }
    let Value::Object(entries) = at else { return };
    for (name, value) in entries.iter().filter(|(name, _)| !VALUES.contains(&&***name)) {
        match value {
            Value::String(reference) if REFERENCES.contains(&&**name) => all.push(reference),
            value => references_in(value, all),
        }
        if let Value::Object(inner) = value
            && let Some(Value::String(id)) = inner.get("$id")
        {
            all.push(id);
        }
    }
}

/// Percent-encoded bytes as what they are.
fn unescaped(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let taken = match first {
            b'%' => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(more.get(..2)?).ok()?, 16).ok()?);
                2
            }
            other => {
                bytes.push(*other);
                0
            }
        };
        rest = more.get(taken..)?;
    }
    String::from_utf8(bytes).ok()
}

/// Values in a value; long texts count as several.
fn size(value: &Value) -> u64 {
    let below = match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(entries) => entries.iter().map(|(name, value)| text(name) + size(value)).sum(),
        Value::String(string) => text(string),
        _ => 0,
    };
    below + 1
}

/// What a text costs whoever looks at it, for example for a pattern.
fn text(string: &str) -> u64 {
    string.len() as u64 / 64
}

struct Walk<'a> {
    work: &'a Work,
    left: u64,
}

/// None: there is no more budget.
type Left = Option<()>;

impl Walk<'_> {
    fn spend(&mut self, steps: u64) -> Left {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }

    fn visit(&mut self, schema: &Value, value: &Value, depth: u32) -> Left {
        self.spend(1)?;
        let Value::Object(keywords) = schema else { return Some(()) };
        if depth > MAX_DEPTH {
            return None;
        }
        if let Value::String(string) = value {
            self.spend(text(string))?;
        }
        let unevaluated = keywords.keys().any(|name| name.starts_with("unevaluated"));
        let times = if unevaluated { UNEVALUATED } else { 1 };
        for (name, keyword) in keywords {
            match value {
                Value::Object(entries) => self.entries(name, keyword, entries, depth + 1)?,
                Value::Array(items) => self.items(name, keyword, items, depth + 1)?,
                _ => {}
            }
            for _ in 0..times {
                self.same_place(name, keyword, value, depth + 1)?;
            }
        }
        Some(())
    }

    /// A keyword whose subschemas are for the same value.
    fn same_place(&mut self, name: &str, keyword: &Value, value: &Value, depth: u32) -> Left {
        match (name, keyword) {
            ("allOf" | "anyOf" | "oneOf", Value::Array(schemas)) => {
                schemas.iter().try_for_each(|schema| self.visit(schema, value, depth))
            }
            ("not" | "if" | "then" | "else", schema) => self.visit(schema, value, depth),
            ("dependentSchemas" | "dependencies", Value::Object(schemas)) => {
                schemas.values().try_for_each(|schema| self.visit(schema, value, depth))
            }
            ("enum", Value::Array(choices)) => self.spend(choices.len() as u64 / 8),
            (name, Value::String(reference)) if REFERENCES.contains(&name) => {
                let work = self.work;
                self.visit(work.target(reference)?, value, depth)
            }
            _ => Some(()),
        }
    }

    /// A keyword whose subschemas are for the entries of an object.
    fn entries(&mut self, name: &str, keyword: &Value, entries: &Map<String, Value>, depth: u32) -> Left {
        match (name, keyword) {
            ("properties", Value::Object(schemas)) => {
                self.spend(schemas.len() as u64 / 8)?;
                let known = schemas.iter().filter_map(|(name, schema)| Some((schema, entries.get(name)?)));
                for (schema, value) in known {
                    self.visit(schema, value, depth)?;
                }
            }
            ("patternProperties", Value::Object(schemas)) => {
                for schema in schemas.values() {
                    for (name, value) in entries {
                        self.spend(text(name))?;
                        self.visit(schema, value, depth)?;
                    }
                }
            }
            ("additionalProperties" | "unevaluatedProperties", schema) => {
                entries.values().try_for_each(|value| self.visit(schema, value, depth))?;
            }
            ("propertyNames", schema) => {
                for name in entries.keys() {
                    self.visit(schema, &Value::String(name.clone()), depth)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    /// A keyword whose subschemas are for the items of an array.
    fn items(&mut self, name: &str, keyword: &Value, items: &[Value], depth: u32) -> Left {
        match (name, keyword) {
            ("prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter().zip(items).try_for_each(|(schema, value)| self.visit(schema, value, depth))
            }
            ("items" | "additionalItems" | "unevaluatedItems" | "contains", schema) => {
                items.iter().try_for_each(|value| self.visit(schema, value, depth))
            }
            _ => Some(()),
        }
    }
}
