//! Describing a tool, a piece at a time.

use alloc::{string::String, vec::Vec};

use crate::{Capability, Description, WorkspaceAccess};

impl Description {
    /// A tool that wants nothing and must not be run twice. `description` is
    /// what a model chooses by; `input_schema` is a JSON Schema object.
    pub fn of(name: &str, version: &str, description: &str, input_schema: &str) -> Self {
        Description {
            name: name.into(),
            version: version.into(),
            description: description.trim().into(),
            input_schema: input_schema.into(),
            output_schema: None,
            capabilities: Vec::new(),
            idempotent: false,
        }
    }

    /// The schema of the `json` part of the result.
    pub fn output(mut self, schema: &str) -> Self {
        self.output_schema = Some(String::from(schema));
        self
    }

    /// The tool reads files.
    pub fn reads_workspace(self) -> Self {
        self.wants(Capability::Workspace(WorkspaceAccess::Read))
    }

    /// The tool changes files.
    pub fn writes_workspace(self) -> Self {
        self.wants(Capability::Workspace(WorkspaceAccess::ReadWrite))
    }

    /// The tool wants one thing more. Wanting grants nothing.
    pub fn wants(mut self, capability: Capability) -> Self {
        self.capabilities.push(capability);
        self
    }

    /// Running a call twice has the effect of running it once.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}
