//! The one file layer of Bulkhead: what the host itself reads and writes in a
//! task's workspace, and how a new workspace is filled.
//!
//! Guests write these directories, so everything in them is hostile: links
//! that point outside, pipes that hang a reader, directories that are swapped
//! for links between a check and its use. Three rules answer all of it:
//!
//! 1. Paths are resolved by the kernel below a descriptor, and never through a
//!    link ([`beneath`]). There is no check of a path before its use.
//! 2. What is half made lies outside of the guest's view and is moved in at
//!    once ([`LocalWorkspaces`]).
//! 3. What comes from outside (archives, git) is unpacked by a confined child
//!    process ([`import`]), of which the host reads one line of JSON; so are whole
//!    workspaces packed and unpacked ([`ChildArchiver`]).
//!
//! Deliberately absent: quotas of what a guest writes (the sandbox keeps them,
//! because it sees each write), and following of links for anybody.

#![deny(unsafe_code)]

mod archive;
pub mod beneath;
mod error;
mod gate;
pub mod import;
mod local;
mod remove;
mod scratch;

pub use archive::ChildArchiver;
pub use local::{KernelQuota, LocalWorkspaces, kernel_quota_of};

#[cfg(test)]
mod testing;
