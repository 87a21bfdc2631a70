//! Guests whose schema hurts whoever checks arguments against it.

use crate::component::Guest;

pub fn guests() -> [Guest; 4] {
    [
        // Two ways at each of forty levels.
        with("raw_schema_doubles", chain(40, |next| format!(r#"{{"allOf":[{next},{next}]}}"#), "{}")),
        // A thousand references for each level of the value: more than a stack.
        with(
            "raw_schema_deep",
            chain(1_000, |next| next.into(), r##"{"additionalProperties":{"$ref":"#/$defs/d0"}}"##),
        ),
        // What no subschema has looked at is asked for anew at each level.
        with(
            "raw_schema_unevaluated",
            (0..40).fold(r#"{"properties":{"a":{}}}"#.to_string(), |inner, _| {
                format!(r#"{{"allOf":[{inner}],"unevaluatedProperties":false}}"#)
            }),
        ),
        with("raw_schema_circle", r##"{"allOf":[{"$ref":"#"}]}"##.into()),
    ]
}

fn with(name: &'static str, schema: String) -> Guest {
    let mut guest = Guest::named(name);
    guest.schema = schema.replacen('{', r#"{"type":"object","#, 1);
    guest.pages = 4;
    guest
}

fn chain(length: usize, link: impl Fn(&str) -> String, last: &str) -> String {
    let next = |n: usize| format!(r##"{{"$ref":"#/$defs/d{}"}}"##, n + 1);
    let links = (0..length).map(|n| format!(r#""d{n}":{},"#, link(&next(n)))).collect::<String>();
    format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{links}"d{length}":{last}}}}}"##)
}
