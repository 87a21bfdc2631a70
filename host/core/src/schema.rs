//! JSON Schema (2020-12) of arguments. The schema comes from a guest, so it is
//! hostile: no reference leaves it, and patterns run in linear time.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema(Validator);

/// Why a schema or a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SchemaError(pub String);

/// One place where a value does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON Pointer (RFC 6901) into the value.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
}

/// More mismatches than this help nobody.
const MAX_MISMATCHES: usize = 8;
/// A message may quote the value; it must not echo a megabyte back.
const MAX_MESSAGE: usize = 300;

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// If it is not a valid schema, or refers to something outside itself.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(1 << 20).dfa_size_limit(1 << 20))
            .build(schema)
            .map(Self)
            .map_err(|error| SchemaError(shortened(error.to_string())))
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The first few places where it does not fit.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Mismatch>> {
        if self.0.is_valid(value) {
            return Ok(());
        }
        Err(self
            .0
            .iter_errors(value)
            .take(MAX_MISMATCHES)
            .map(|error| Mismatch { pointer: error.instance_path().to_string(), message: shortened(error.to_string()) })
            .collect())
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_checked_with_a_pointer() {
        let schema = Schema::compile(&json!({
            "type": "object", "properties": {"path": {"type": "string"}},
            "required": ["path"], "additionalProperties": false,
        }))
        .expect("valid schema");
        assert_eq!(schema.check(&json!({"path": "a"})), Ok(()));
        let errors = schema.check(&json!({"path": 3})).expect_err("a number");
        assert_eq!(errors[0].pointer, "/path");
        assert!(schema.check(&json!({})).is_err());
        assert!(schema.check(&json!({"path": "a", "x": 1})).is_err());
    }

    #[test]
    fn hostile_schemas_end() {
        assert!(Schema::compile(&json!({"$ref": "https://example.com/schema"})).is_err());
        assert!(Schema::compile(&json!({"$ref": "file:///etc/passwd"})).is_err());
        let schema = Schema::compile(&json!({"properties": {"a": {"pattern": "^(a+)+$"}}})).expect("compiles");
        assert!(schema.check(&json!({"a": format!("{}!", "a".repeat(50_000))})).is_err());
    }

    #[test]
    fn a_mismatch_does_not_echo_the_value() {
        let schema = Schema::compile(&json!({"type": "object"})).expect("valid schema");
        let errors = schema.check(&json!("x".repeat(100_000))).expect_err("a string");
        assert!(errors[0].message.len() < 400);
    }
}
