//! Guests that attack the host by WASI 0.3 and by asynchronous functions, chosen
//! by the argument `attack`. What the host must make of each stands in
//! `../../hostile/attacks.toml`.

use bulkhead_async_tool::serde_json::{Value, json};
use bulkhead_async_tool::{Outcome, ToolError};
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

/// More than any host should keep.
pub const MANY: usize = 1_000_000;

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

/// Makes `run: async fn(&str) -> Outcome` a tool.
#[macro_export]
macro_rules! attacks {
    ($name:literal, $run:path) => {
        struct Attacks;
        impl bulkhead_async_tool::AsyncTool for Attacks {
            type Args = $crate::Args;
            fn describe() -> bulkhead_async_tool::Description {
                let about = "Attacks the host by WASI 0.3, for its tests. Never offer this to anybody.";
                let name = concat!("hostile_", $name);
                bulkhead_async_tool::Description::of(name, "0.1.0", about, $crate::SCHEMA).writes_workspace()
            }
            async fn run(args: $crate::Args) -> bulkhead_async_tool::Outcome {
                $run(&args.attack).await
            }
        }
        bulkhead_async_tool::export!(Attacks);
    };
}

/// For the last arm of an attack's match.
pub fn unknown(attack: &str) -> Outcome {
    Err(ToolError::invalid("attack", format!("there is no attack `{attack}` in this component")))
}

/// What a guest that is still alive has to say.
pub fn survived(facts: &Value) -> Outcome {
    Ok(bulkhead_async_tool::json(facts))
}

/// That something was refused, after so much.
pub fn refused(kept: usize, refusal: ErrorCode) -> Outcome {
    survived(&json!({ "kept": kept, "refused": true, "refusal": format!("{refusal:?}") }))
}

/// The workspace.
pub fn root() -> Descriptor {
    get_directories().pop().expect("the workspace").0
}

/// A file of it, made if it is not there.
pub async fn open(root: &Descriptor, name: &str) -> Result<Descriptor, ErrorCode> {
    let rights = DescriptorFlags::READ | DescriptorFlags::WRITE;
    root.open_at(PathFlags::empty(), name.into(), OpenFlags::CREATE, rights).await
}
