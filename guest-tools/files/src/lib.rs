//! What the tools that work on files share: the workspace's paths, errors that
//! a model can act on, atomic writing and bounded output.
//!
//! A tool sees its files through a [`Workspace`], which in a component is `/`
//! and in a native test a temporary directory. The host confines the guest in
//! any case; the checks here make clear errors of what it would refuse.
#![deny(missing_docs)]

mod atomic;
mod bounds;
mod fault;
mod path;
mod suggest;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use atomic::{create_beside, write_atomically, write_beside};
pub use bounds::{Bounded, MAX_TEXT, looks_binary, plural, size};
pub use fault::io_fault;
pub use path::{Place, Workspace};
