//! The arguments of a call from the command line: `--arg name=value`, read as
//! the tool's input schema says, so that `--arg count=3` is a number for one
//! tool and a text for another.

use std::collections::BTreeSet;

use bulkhead_core::schema::Schema;
use serde_json::{Map, Value};

/// References to follow from a property to its type; more is a loop.
const MAX_DEPTH: usize = 8;

/// Puts the arguments together: `base`, a JSON object as text, then `pairs`.
///
/// # Errors
/// What does not fit, and what would.
pub(super) fn assemble(
    base: Option<&str>,
    pairs: &[(String, String)],
    schema: &Value,
) -> Result<Map<String, Value>, String> {
    let mut arguments = match base.map(serde_json::from_str::<Value>) {
        None => Map::new(),
        Some(Ok(Value::Object(map))) => map,
        Some(Ok(_)) => return Err("--args-json must be a JSON object".into()),
        Some(Err(error)) => return Err(format!("--args-json is not valid JSON: {error}")),
    };
    for (name, text) in pairs {
        let property = schema.get("properties").and_then(|properties| properties.get(name));
        let types = property.map(|property| types(property, schema, MAX_DEPTH)).unwrap_or_default();
        arguments.insert(name.clone(), typed(name, text, &types)?);
    }
    Ok(arguments)
}

/// The types that a property may have, as far as the schema says so plainly.
fn types<'a>(property: &'a Value, root: &'a Value, depth: usize) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    if depth == 0 {
        return found;
    }
    match property.get("type") {
        Some(Value::String(name)) => {
            found.insert(name.as_str());
        }
        Some(Value::Array(names)) => found.extend(names.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for choice in ["anyOf", "oneOf"].iter().filter_map(|word| property.get(word)?.as_array()).flatten() {
        found.extend(types(choice, root, depth - 1));
    }
    let values = property.get("enum").and_then(Value::as_array).into_iter().flatten().chain(property.get("const"));
    for value in values {
        found.insert(kind(value));
    }
    let reference = property.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    if let Some(target) = reference.and_then(|pointer| root.pointer(pointer)) {
        found.extend(types(target, root, depth - 1));
    }
    found
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A property that may be a text is one: what was typed is what the tool gets.
fn typed(name: &str, text: &str, types: &BTreeSet<&str>) -> Result<Value, String> {
    if types.is_empty() || types.contains("string") {
        return Ok(text.into());
    }
    let value: Option<Value> = serde_json::from_str(text).ok();
    let fits = |value: &Value| {
        types.contains(kind(value))
            || (types.contains("number") && value.is_number())
            || (types.contains("integer") && whole(value))
    };
    value.filter(fits).ok_or_else(|| {
        let wanted: Vec<&str> = types.iter().copied().collect();
        format!("--arg {name}: the tool takes {} here, as JSON; `{text}` is none", wanted.join(" or "))
    })
}

/// JSON Schema takes `3.0` for an integer.
fn whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// Checks the arguments as the server would.
///
/// # Errors
/// Where they don't fit, one place a line.
pub(super) fn check(arguments: &Value, schema: &Value) -> Result<(), String> {
    let compiled = Schema::compile(schema).map_err(|error| format!("the tool's input schema is not valid: {error}"))?;
    compiled.check(arguments).map_err(|mismatches| {
        let mut text = String::from("the arguments do not fit the tool's input schema:");
        for mismatch in mismatches {
            let place = if mismatch.pointer.is_empty() { "/" } else { &mismatch.pointer };
            text.push_str(&format!("\n  {place}: {}", mismatch.message));
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let names: Vec<&str> = properties.keys().map(String::as_str).collect();
            text.push_str(&format!("\n  the tool takes: {}", names.join(", ")));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "count": {"type": "integer"},
                "ratio": {"type": ["number", "null"]},
                "all": {"type": "boolean"},
                "edits": {"type": "array", "items": {"type": "object"}},
                "options": {"$ref": "#/$defs/options"},
                "range": {"anyOf": [{"type": "integer"}, {"type": "array"}]},
                "name": {"type": ["string", "null"]},
                "level": {"enum": [1, 2]},
                "loop": {"$ref": "#/properties/loop"},
            },
            "$defs": {"options": {"type": "object"}},
            "additionalProperties": false,
        })
    }

    fn one(name: &str, text: &str) -> Result<Value, String> {
        assemble(None, &[(name.into(), text.into())], &schema()).map(|mut map| map.remove(name).expect("was put in"))
    }

    #[test]
    fn values_are_read_as_the_schema_says() {
        for (name, text, value) in [
            ("path", "3", json!("3")),
            ("path", "true", json!("true")),
            ("count", "3", json!(3)),
            ("count", "-3", json!(-3)),
            ("count", "3.0", json!(3.0)),
            ("ratio", "0.5", json!(0.5)),
            ("ratio", "2", json!(2)),
            ("ratio", "null", json!(null)),
            ("all", "true", json!(true)),
            ("edits", r#"[{"old": "a"}]"#, json!([{"old": "a"}])),
            ("options", r#"{"a": 1}"#, json!({"a": 1})),
            ("range", "[1, 2]", json!([1, 2])),
            ("range", "7", json!(7)),
            ("name", "null", json!("null")),
            ("level", "2", json!(2)),
            ("loop", "x", json!("x")),
            ("unknown", "3", json!("3")),
        ] {
            assert_eq!(one(name, text), Ok(value), "{name}={text}");
        }
    }

    #[test]
    fn what_is_no_value_of_its_type_is_refused() {
        for (name, text) in
            [("count", "three"), ("count", "3.5"), ("all", "1"), ("edits", "a"), ("options", "[]"), ("range", "\"x\"")]
        {
            let error = one(name, text).expect_err(text);
            assert!(error.contains(name) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn pairs_add_to_the_base() {
        let pairs = [("count".to_owned(), "4".to_owned())];
        let map = assemble(Some(r#"{"path": "a", "count": 3}"#), &pairs, &schema()).expect("fits");
        assert_eq!(Value::Object(map), json!({"path": "a", "count": 4}));
        for base in ["[]", "{", "3"] {
            assert!(assemble(Some(base), &[], &schema()).is_err(), "{base}");
        }
    }

    #[test]
    fn a_mismatch_names_the_place_and_what_is_known() {
        assert_eq!(check(&json!({"count": 3}), &schema()), Ok(()));
        let error = check(&json!({"pathh": "a"}), &schema()).expect_err("unknown name");
        assert!(error.contains("pathh") && error.contains("the tool takes: ") && error.contains("path"), "{error}");
    }
}
