//! The tool `json_query`: a jq filter over JSON.

mod filter;
mod input;

use std::ops::ControlFlow;

use bulkhead_files::{Bounded, MAX_TEXT, Workspace, plural};
use bulkhead_tool::serde_json::{self, Value, json};
use bulkhead_tool::{Description, Outcome, Tool, text_and_json};
use jaq_json::Val;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    filter: String,
    path: Option<String>,
    input: Option<String>,
    #[serde(default)]
    slurp: bool,
    #[serde(default)]
    raw: bool,
    #[serde(default)]
    pretty: bool,
    max_results: Option<usize>,
}

/// The tool.
pub struct JsonQuery;

impl Tool for JsonQuery {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("json_query", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        query(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(JsonQuery);

fn query(workspace: &Workspace, args: &Args) -> Outcome {
    let filter = filter::compile(&args.filter)?;
    let text = input::text(workspace, args)?;
    let inputs = input::values(&text, args.slurp)?;
    let most = args.max_results.unwrap_or(1000);
    let mut results = Results { args, text: Bounded::new(MAX_TEXT), compact: Vec::new(), count: 0, truncated: false };
    for input in inputs {
        let flow = filter::run(&filter, input, |value| {
            if results.count == most || !results.add(&value) {
                results.truncated = true;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(results.into_parts())
}

struct Results<'a> {
    args: &'a Args,
    text: Bounded,
    compact: Vec<String>,
    count: usize,
    truncated: bool,
}

impl Results<'_> {
    /// Whether it fitted.
    fn add(&mut self, value: &Val) -> bool {
        let compact = value.to_string();
        let shown = match value {
            Val::TStr(text) if self.args.raw => String::from_utf8_lossy(text).into_owned(),
            value if self.args.pretty => filter::pretty(value),
            _ => compact.clone(),
        };
        let fits = self.text.push(&shown) && self.text.push("\n");
        if fits {
            self.count += 1;
            self.compact.push(compact);
        }
        fits
    }

    fn into_parts(self) -> Vec<bulkhead_tool::Content> {
        let mut facts = json!({ "count": self.count, "truncated": self.truncated });
        let size: usize = self.compact.iter().map(String::len).sum();
        let values: Option<Vec<Value>> = self.compact.iter().map(|value| serde_json::from_str(value).ok()).collect();
        if let (Some(values), true) = (values, size <= MAX_TEXT) {
            facts["results"] = values.into();
        }
        let remark = match (self.count, self.truncated) {
            (0, true) => "the first result is larger than 256 KiB; select less".into(),
            (0, false) => "the filter yielded nothing".into(),
            (n, true) => {
                format!("the first {}; there are more: select less or raise `max_results`", plural(n, "result"))
            }
            (_, false) => String::new(),
        };
        text_and_json(self.text.finish(&remark), &facts)
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::serde_json::{from_str, from_value};
    use bulkhead_tool::{Content, ToolError};

    use super::*;

    fn run(ws: &Workspace, args: Value) -> Result<(String, Value), ToolError> {
        match &query(ws, &from_value(args).expect("arguments"))?[..] {
            [Content::Text(text), Content::Json(facts)] => Ok((text.clone(), from_str(facts).expect("JSON"))),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<JsonQuery>(json!({ "filter": "." }));
    }

    #[test]
    fn files_and_texts() {
        let ws = TempWorkspace::with(&[("a.json", r#"{"items": [{"n": 1, "s": "x"}, {"n": 20, "s": "y\"z"}]}"#)]);
        let (text, facts) =
            run(&ws, json!({ "filter": ".items[] | select(.n > 1)", "path": "a.json" })).expect("success");
        assert_eq!(text, "{\"n\":20,\"s\":\"y\\\"z\"}\n");
        assert_eq!(facts, json!({ "results": [{ "n": 20, "s": "y\"z" }], "count": 1, "truncated": false }));
        let text = |args: Value| run(&ws, args).expect("success").0;
        assert_eq!(text(json!({ "filter": ".items[].s", "path": "a.json", "raw": true })), "x\ny\"z\n");
        assert_eq!(text(json!({ "filter": "add", "input": "1 2\n3", "slurp": true })), "6\n");
        assert_eq!(text(json!({ "filter": ". + 1", "input": "1 2" })), "2\n3\n");
        assert_eq!(
            text(json!({ "filter": ".", "input": "{\"a\":[1]}", "pretty": true })),
            "{\n  \"a\": [\n    1\n  ]\n}\n"
        );
        assert_eq!(text(json!({ "filter": "., halt", "input": "1 2" })), "1\n");
        assert_eq!(text(json!({ "filter": "empty", "input": "1" })), "[the filter yielded nothing]");
        assert_eq!(
            text(
                json!({ "filter": "[.[] | test(\"^a\") | tostring] | join(\",\")", "input": "[\"ab\", \"b\"]", "raw": true })
            ),
            "true,false\n"
        );
    }

    #[test]
    fn limits() {
        let ws = TempWorkspace::with(&[]);
        let (text, facts) =
            run(&ws, json!({ "filter": "repeat(1)", "input": "null", "max_results": 2 })).expect("success");
        assert!(text.starts_with("1\n1\n[the first 2 results;"), "{text}");
        assert_eq!(facts["truncated"], json!(true));
        let (text, facts) = run(&ws, json!({ "filter": "\"x\" * 300000", "input": "null" })).expect("success");
        assert!(text.starts_with("[the first result is larger"), "{}", text.len());
        assert_eq!(facts["count"], json!(0));
        let (_, facts) = run(&ws, json!({ "filter": "nan", "input": "null" })).expect("success");
        assert!(facts.get("results").is_none());
    }

    #[test]
    fn faults() {
        let ws = TempWorkspace::with(&[("bad.json", "{\"a\": }")]);
        let fault = |args: Value| run(&ws, args).expect_err("a failure");
        let syntax = fault(json!({ "filter": ".a | (", "input": "1" }));
        assert!(syntax.code == "invalid_filter" && syntax.message.contains("expected"), "{syntax:?}");
        let unknown = fault(json!({ "filter": "foo(1)", "input": "1" }));
        assert!(unknown.code == "invalid_filter" && unknown.message.contains("foo"), "{unknown:?}");
        assert_eq!(fault(json!({ "filter": ".a", "input": "1" })).code, "filter_failed");
        assert_eq!(fault(json!({ "filter": "halt(3)", "input": "1" })).code, "filter_failed");
        let parse = fault(json!({ "filter": ".", "path": "bad.json" }));
        assert!(parse.code == "invalid_json" && parse.message.contains("line 1"), "{parse:?}");
        assert_eq!(fault(json!({ "filter": ".", "input": "[".repeat(300) + &"]".repeat(300) })).code, "invalid_json");
        assert_eq!(fault(json!({ "filter": "." })).code, "invalid_arguments");
        assert_eq!(fault(json!({ "filter": ".", "path": "none.json" })).code, "not_found");
    }
}
