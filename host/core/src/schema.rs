//! JSON Schema (2020-12) of arguments. The schema comes from a guest, so it is
//! hostile: no reference leaves it, patterns run in linear time, and what would
//! be too much work is refused before it is begun.

mod work;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use thiserror::Error;

use work::{Cost, Work};

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    work: Work,
}

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
        let work = Work::new(schema)?;
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(1 << 20).dfa_size_limit(1 << 20))
            .build(schema)
            .map_err(|error| SchemaError(shortened(error.to_string())))?;
        Ok(Self { validator, work })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The first few places where it does not fit.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Mismatch>> {
        let whole = |message: &str| Err(vec![Mismatch { pointer: String::new(), message: message.into() }]);
        let cost = self.work.cost(value);
        if cost == Cost::TooMuch {
            return whole("it is too much work to check this: too large or too deep for this schema");
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        if cost == Cost::Much {
            return whole("it does not fit the schema, and is too large to say where");
        }
        Err(self
            .validator
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

    /// A value `depth` arrays deep.
    fn nested(depth: usize) -> Value {
        (0..depth).fold(json!(1), |inner, _| json!([inner]))
    }

    /// Named schemas, each made of a reference to the next.
    fn chain(length: usize, link: impl Fn(Value) -> Value, last: Value) -> Value {
        let next = |n: usize| json!({"$ref": format!("#/$defs/d{}", n + 1)});
        let mut defs: serde_json::Map<_, _> = (0..length).map(|n| (format!("d{n}"), link(next(n)))).collect();
        defs.insert(format!("d{length}"), last);
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    }

    #[test]
    fn what_would_be_too_much_work_is_not_begun() {
        let again = |schema: Value, times| {
            (0..times).fold(schema, |inner, _| json!({"allOf": [inner], "unevaluatedProperties": false}))
        };
        let consts: Vec<_> = (0..2_000).map(|n| json!({"const": n})).collect();
        let types = json!({"type": ["array", "object"]});
        for (what, schema, value) in [
            (
                "two ways at each of forty levels",
                chain(40, |next| json!({"allOf": [next.clone(), next]}), types),
                json!({}),
            ),
            (
                "two ways at each level of the value",
                json!({"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}),
                nested(100),
            ),
            (
                "more stack than there is",
                chain(1_000, |next| next, json!({"items": {"$ref": "#/$defs/d0"}})),
                nested(100),
            ),
            ("a circle", json!({"allOf": [{"$ref": "#"}]}), json!({})),
            ("what is unevaluated, again and again", again(json!({"properties": {"a": true}}), 40), json!({"a": 1})),
            ("many by many", json!({"items": {"anyOf": consts}}), json!(vec![-1; 50_000])),
        ] {
            let schema = Schema::compile(&schema).expect(what);
            let errors = schema.check(&value).expect_err(what);
            assert!(errors[0].message.contains("too much work"), "{what}: {errors:?}");
        }
    }

    #[test]
    fn recursive_schemas_and_large_values_are_fine() {
        let tree = json!({"$defs": {"a/b c": {"$anchor": "tree", "anyOf": [
            {"type": "number"}, {"type": "array", "items": {"$ref": "#/$defs/a~1b%20c"}}]}}, "$ref": "#tree"});
        let schema = Schema::compile(&tree).expect("compiles");
        assert_eq!(schema.check(&nested(100)), Ok(()));
        assert!(schema.check(&json!([[["text"]]])).is_err());
        let list = json!({"type": "array", "items": {"type": "object", "properties": {"n": {"type": "number"}}}});
        let schema = Schema::compile(&list).expect("compiles");
        let many = |last: Value| json!((0..30_000).map(|n| json!({"n": n})).chain([last]).collect::<Vec<_>>());
        assert_eq!(schema.check(&many(json!({"n": 1}))), Ok(()));
        assert!(schema.check(&many(json!({"n": "text"}))).expect_err("a text")[0].message.contains("too large to say"));
    }

    #[test]
    fn a_reference_leads_to_a_place_in_the_schema() {
        for schema in [
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "https://json-schema.org/draft/2020-12/schema"}),
            json!({"$ref": "#nowhere"}),
            json!({"properties": {"a": {"$id": "https://example.com/other", "$ref": "#/x"}}}),
        ] {
            assert!(Schema::compile(&schema).is_err(), "{schema}");
        }
        assert!(Schema::compile(&json!({"const": {"$ref": "elsewhere"}, "properties": {"$ref": {}}})).is_ok());
    }

    #[test]
    fn a_mismatch_does_not_echo_the_value() {
        let schema = Schema::compile(&json!({"type": "object"})).expect("valid schema");
        let errors = schema.check(&json!("x".repeat(100_000))).expect_err("a string");
        assert!(errors[0].message.len() < 400);
    }
}
