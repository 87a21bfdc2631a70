//! Keeping hand-written schemas true, in a tool's native tests.

use alloc::{format, string::String, vec::Vec};

use serde_json::Value;

use crate::{Description, Tool};

/// Panics unless the tool's description keeps the rules of `tool.wit` and its
/// schema and its arguments name the same fields: every property is a field
/// with a description, `minimal` (the required fields, with values) parses,
/// each required field is missed, and an unknown one is refused.
pub fn check<T: Tool>(minimal: Value) {
    let description = T::describe();
    check_description(&description);
    let schema = object(&description.input_schema);
    assert_eq!(schema["type"], "object", "an object schema");
    assert_eq!(schema["additionalProperties"], false, "closed schema");
    let properties = schema["properties"].as_object().expect("properties");
    for (name, property) in properties {
        assert!(property["description"].is_string(), "`{name}` has no description");
    }

    let fault =
        parse::<T>(&with(&minimal, "no_such_field", Value::Null)).err().expect("deny_unknown_fields on the arguments");
    let mut fields: Vec<_> = fault.split('`').skip(3).step_by(2).map(String::from).collect();
    fields.retain(|field| field != "no_such_field");
    fields.sort();
    let named: Vec<_> = properties.keys().cloned().collect();
    assert_eq!(fields, named, "fields of the arguments and properties of the schema");

    if let Err(fault) = parse::<T>(&minimal) {
        panic!("the minimal arguments do not parse: {fault}");
    }
    let minimal = minimal.as_object().expect("minimal is an object");
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for name in minimal.keys() {
        assert!(required.contains(&name.as_str()), "`{name}` is not required");
        let mut without = minimal.clone();
        without.remove(name);
        assert!(parse::<T>(&Value::Object(without)).is_err(), "`{name}` is not missed");
    }
    assert_eq!(required.len(), minimal.len(), "minimal has all required fields: {required:?}");
}

fn parse<T: Tool>(value: &Value) -> Result<T::Args, String> {
    serde_json::from_value(value.clone()).map_err(|fault| format!("{fault}"))
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[name] = value;
    object
}

fn object(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).expect("the schema is JSON");
    assert!(value.is_object(), "the schema is an object");
    value
}

fn check_description(description: &Description) {
    let name = description.name.as_bytes();
    let allowed = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-".contains(c);
    assert!((1..=64).contains(&name.len()) && name[0].is_ascii_lowercase(), "name");
    assert!(name.iter().all(allowed), "name");
    assert!(description.version.len() <= 64, "version");
    assert!((80..=8 * 1024).contains(&description.description.len()), "description");
    assert!(description.input_schema.len() <= 64 * 1024, "input schema");
    if let Some(schema) = &description.output_schema {
        assert!(schema.len() <= 64 * 1024, "output schema");
        object(schema);
    }
}
