//! From the host's JSON text to the tool's arguments.

use crate::{Outcome, Tool, ToolError};

/// Reads the arguments and runs the tool.
pub fn call<T: Tool>(arguments: &str) -> Outcome {
    T::run(self::arguments(arguments)?)
}

/// The host has checked the arguments against the schema already, so a fault
/// here means that schema and code differ; it is still the caller who sees it.
pub fn arguments<A: serde::de::DeserializeOwned>(text: &str) -> Result<A, ToolError> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|fault| {
        let field = alloc::string::ToString::to_string(fault.path());
        match field.as_str() {
            "." => ToolError::new("invalid_arguments", alloc::format!("{}", fault.inner())),
            _ => ToolError::invalid(&field, fault.inner()),
        }
    })
}
