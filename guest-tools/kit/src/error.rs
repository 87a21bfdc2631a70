//! Making the failures that a caller can act on.

use alloc::{format, string::String};
use core::fmt;

use crate::ToolError;

impl ToolError {
    /// A failure that will stay until the caller changes something. `code` is
    /// of `a-z`, `0-9`, `_`, `.` and `-`, and stays the same for ever.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        ToolError { code: code.into(), message: message.into(), retryable: false, details: None }
    }

    /// A failure of one argument that the schema cannot express.
    pub fn invalid(field: &str, why: impl fmt::Display) -> Self {
        ToolError::new("invalid_arguments", format!("`{field}`: {why}")).details(&serde_json::json!({ "field": field }))
    }

    /// The same call may succeed later.
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Facts for programs beside the message.
    pub fn details(mut self, details: &impl serde::Serialize) -> Self {
        self.details = serde_json::to_string(details).ok();
        self
    }
}
