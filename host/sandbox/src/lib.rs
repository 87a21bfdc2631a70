//! Backends that run tools. Today one: WebAssembly components in worker
//! processes.
//!
//! The host side ([`WasmSandbox`]) holds no engine: it compiles in a child
//! process ([`compile_main`]), runs guests in worker processes
//! ([`worker_main`]), one set of workers per tenant, and believes nothing that
//! a worker says. Both children are this same executable, called with another
//! subcommand.
//!
//! Deliberately absent: retries (who asks for a run decides), knowledge of the
//! event log (emissions leave through the sink), and any way for a guest to
//! reach the network by itself (its HTTP requests leave through the sink too,
//! which decides about each).

mod bounds;
mod compile;
mod config;
#[cfg(feature = "contract")]
pub mod contract;
mod engine;
#[cfg(feature = "fuzz")]
pub mod fuzzing;
mod host;
mod walls;
mod wire;
mod worker;

pub use compile::{Inspection, Problem, compile_main, inspect_component};
pub use config::{Isolation, WasmConfig};
pub use host::{CgroupParent, CgroupReport, WasmSandbox, WasmStats};
#[cfg(feature = "probe")]
pub use walls::put_up;
pub use walls::{Part, Walls, close_inherited};
#[cfg(feature = "bench")]
pub use worker::ColdCalls;
#[cfg(feature = "probe")]
pub use worker::taken_over_worker_main;
pub use worker::worker_main;
