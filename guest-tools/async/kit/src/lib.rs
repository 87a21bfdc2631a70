//! The guest SDK for tools whose `call` is asynchronous, for WASI 0.3. What a
//! tool is, returns and says is as in `bulkhead-tool`; files, clocks and streams
//! come from the crate `wasip3`.
//!
//! ```ignore
//! use bulkhead_async_tool::{AsyncTool, Description, Outcome, text};
//!
//! #[derive(serde::Deserialize)]
//! struct Args { milliseconds: u64 }
//!
//! struct Nap;
//! impl AsyncTool for Nap {
//!     type Args = Args;
//!     fn describe() -> Description {
//!         Description::of("nap", "0.1.0", "Waits.", include_str!("schema.json"))
//!     }
//!     async fn run(args: Args) -> Outcome {
//!         wasip3::clocks::monotonic_clock::wait_for(args.milliseconds * 1_000_000).await;
//!         Ok(text("awake"))
//!     }
//! }
//! bulkhead_async_tool::export!(Nap);
//! ```
#![deny(missing_docs)]

pub use bulkhead_tool::{Description, Outcome, ToolError, host, json, serde_json, text, text_and_json};

#[doc(hidden)]
#[allow(missing_docs, unused_qualifications, clippy::undocumented_unsafe_blocks, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../../../wit", "../../../wit/async"],
        world: "bulkhead:async-tool/tool",
        with: {
            "bulkhead:tool/types@0.1.0": bulkhead_tool::bindings::bulkhead::tool::types,
            "bulkhead:tool/output@0.1.0": bulkhead_tool::bindings::bulkhead::tool::output,
            "bulkhead:tool/progress@0.1.0": bulkhead_tool::bindings::bulkhead::tool::progress,
            "bulkhead:tool/log@0.1.0": bulkhead_tool::bindings::bulkhead::tool::log,
            "bulkhead:tool/cancellation@0.1.0": bulkhead_tool::bindings::bulkhead::tool::cancellation,
        },
        pub_export_macro: true,
        export_macro_name: "export_tool",
        default_bindings_module: "bulkhead_async_tool::bindings",
        runtime_path: "wit_bindgen::rt",
    });
}

/// One tool. The host makes a fresh instance for every call, so there is no
/// `self`: what should last goes into the workspace.
pub trait AsyncTool {
    /// The arguments, as the tool's schema describes them.
    type Args: serde::de::DeserializeOwned;

    /// What the tool says about itself. Called once, at registration.
    fn describe() -> Description;

    /// Runs one call. It is over when this returns.
    fn run(args: Self::Args) -> impl Future<Output = Outcome>;
}

#[doc(hidden)]
pub async fn call<T: AsyncTool>(arguments: String) -> Outcome {
    T::run(bulkhead_tool::arguments(&arguments)?).await
}

/// Makes a type that implements [`AsyncTool`] the component's tool. Nothing
/// happens in native builds.
#[macro_export]
macro_rules! export {
    ($tool:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            impl $crate::bindings::exports::bulkhead::async_tool::guest::Guest for Exported {
                fn describe() -> $crate::Description {
                    <$tool as $crate::AsyncTool>::describe()
                }
                async fn call(arguments: String) -> $crate::Outcome {
                    $crate::call::<$tool>(arguments).await
                }
            }
    $crate::bindings::export_tool!(Exported with_types_in $crate::bindings);
        };
    };
}
