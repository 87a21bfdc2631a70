//! The guest SDK: everything a Bulkhead tool written in Rust needs.
//!
//! A tool is a type that implements [`Tool`] and is handed to [`export!`]:
//!
//! ```ignore
//! use bulkhead_tool::{Description, Outcome, Tool, text};
//!
//! #[derive(serde::Deserialize)]
//! struct Args { name: String }
//!
//! struct Greet;
//! impl Tool for Greet {
//!     type Args = Args;
//!     fn describe() -> Description {
//!         Description::of("greet", "0.1.0", "Greets somebody by name.", include_str!("schema.json"))
//!     }
//!     fn run(args: Args) -> Outcome {
//!         Ok(text(format!("Hello, {}!", args.name)))
//!     }
//! }
//! bulkhead_tool::export!(Greet);
//! ```
//!
//! The crate is `no_std`, so that a tool which needs no files can leave the
//! standard library out (see [`slim!`]): each imported function costs the host
//! some 80 ns a call, and `std` on WASI imports dozens. A tool that does need
//! files just uses `std::fs`.
//!
//! Schemas are written by hand, as `schema.json` beside the code, not derived:
//! they are read by models, so their wording is a feature, and as text they
//! cost nothing at run time. `schema::check` keeps them true in tests.
#![no_std]
#![deny(missing_docs)]

extern crate alloc;

#[doc(hidden)]
#[allow(missing_docs, unused_qualifications, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "tool",
        pub_export_macro: true,
        export_macro_name: "export_tool",
        default_bindings_module: "bulkhead_tool::bindings",
        runtime_path: "wit_bindgen::rt",
    });
}

mod answer;
mod call;
mod describe;
mod error;
pub mod host;
#[cfg(not(target_arch = "wasm32"))]
pub mod schema;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod slim;

pub use answer::{blob, json, text, text_and_json};
pub use bindings::bulkhead::tool::types::{Blob, Capability, Content, Description, ToolError, WorkspaceAccess};
#[doc(hidden)]
pub use call::{arguments, call};
pub use serde_json;

/// What a call ends with: the parts of its result, or a failure that the
/// caller can act on.
pub type Outcome = Result<alloc::vec::Vec<Content>, ToolError>;

/// One tool. The host makes a fresh instance for every call, so there is no
/// `self`: what should last goes into the workspace.
pub trait Tool {
    /// The arguments, as the tool's schema describes them.
    type Args: serde::de::DeserializeOwned;

    /// What the tool says about itself. Called once, at registration.
    fn describe() -> Description;

    /// Runs one call.
    fn run(args: Self::Args) -> Outcome;
}

/// Makes a type that implements [`Tool`] the component's tool. Nothing happens
/// in native builds, where only the tool's logic is tested.
#[macro_export]
macro_rules! export {
    ($tool:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            impl $crate::bindings::exports::bulkhead::tool::guest::Guest for Exported {
                fn describe() -> $crate::Description {
                    <$tool as $crate::Tool>::describe()
                }
                fn call(
                    arguments: $crate::__private::String,
                ) -> Result<$crate::__private::Vec<$crate::Content>, $crate::ToolError> {
                    $crate::call::<$tool>(&arguments)
                }
            }
    $crate::bindings::export_tool!(Exported with_types_in $crate::bindings);
        };
    };
}

#[doc(hidden)]
pub mod __private {
    pub use alloc::{string::String, vec::Vec};
}
