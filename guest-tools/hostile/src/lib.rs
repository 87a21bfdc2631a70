//! Guests that attack the host. Each file in `attacks/` is a component with a
//! few attacks of one kind, chosen by the argument `attack`; each in `liars/`
//! is one that lies when it is asked to describe itself. What the host must
//! make of each of them stands in its module doc, and for the tests in
//! `attacks.toml`. Attacks that Rust cannot express are made by `../raw`.
#![no_std]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_tool::serde_json::{Value, json};
use bulkhead_tool::{Outcome, ToolError};

/// More than any host should take at once, and less than a guest may have.
pub const BIG: usize = 48 << 20;

/// The arguments of every attack.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Which one.
    pub attack: String,
}

/// Their schema.
pub const SCHEMA: &str = r#"{
  "type": "object",
  "properties": { "attack": { "type": "string", "description": "Which attack to run." } },
  "required": ["attack"],
  "additionalProperties": false
}"#;

/// Makes `run: fn(&str) -> Outcome` a tool.
#[macro_export]
macro_rules! attacks {
    ($name:literal, $run:path) => {
        struct Attacks;
        impl bulkhead_tool::Tool for Attacks {
            type Args = $crate::Args;
            fn describe() -> bulkhead_tool::Description {
                let about = "Attacks the host, for its tests. Never offer this to anybody.";
                let name = concat!("hostile_", $name);
                bulkhead_tool::Description::of(name, "0.1.0", about, $crate::SCHEMA).writes_workspace()
            }
            fn run(args: $crate::Args) -> bulkhead_tool::Outcome {
                $run(&args.attack)
            }
        }
        bulkhead_tool::export!(Attacks);
    };
}

/// Makes `describe: fn() -> Description` a tool that is never called.
#[macro_export]
macro_rules! liar {
    ($describe:path) => {
        struct Liar;
        impl bulkhead_tool::Tool for Liar {
            type Args = bulkhead_tool::serde_json::Value;
            fn describe() -> bulkhead_tool::Description {
                $describe()
            }
            fn run(_: Self::Args) -> bulkhead_tool::Outcome {
                Ok(bulkhead_tool::text("called"))
            }
        }
        bulkhead_tool::export!(Liar);
    };
}

/// A truthful description, for a liar to change.
pub fn honest(name: &str) -> bulkhead_tool::Description {
    let about = "Lies about itself, for the host's tests. Never offer this to anybody.";
    bulkhead_tool::Description::of(name, "0.1.0", about, r#"{"type": "object"}"#)
}

/// For the last arm of an attack's match.
pub fn unknown(attack: &str) -> Outcome {
    Err(ToolError::invalid("attack", alloc::format!("there is no attack `{attack}` in this component")))
}

/// What a guest that is still alive has to say.
pub fn survived(facts: &Value) -> Outcome {
    Ok(bulkhead_tool::json(facts))
}

/// Attempts that the host should refuse, and what came of them.
#[derive(Default)]
pub struct Attempts {
    all: Vec<Value>,
    escaped: bool,
}

impl Attempts {
    /// An attempt whose success is an escape.
    pub fn must_fail<T, E: core::fmt::Debug>(&mut self, what: &str, result: Result<T, E>) {
        self.escaped |= result.is_ok();
        self.note(what, result);
    }

    /// An attempt that may or may not succeed by itself.
    pub fn note<T, E: core::fmt::Debug>(&mut self, what: &str, result: Result<T, E>) {
        let (refused, got) = match result {
            Ok(_) => (false, "succeeded".to_string()),
            Err(error) => (true, alloc::format!("{error:?}")),
        };
        self.all.push(json!({ "attempt": what, "refused": refused, "got": got }));
    }

    /// `{"escaped": false, "attempts": [..]}`.
    pub fn finish(self) -> Outcome {
        survived(&json!({ "escaped": self.escaped, "attempts": self.all }))
    }
}
