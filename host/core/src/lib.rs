//! Domain, use cases and ports of Bulkhead.
//!
//! The way of the data: an edge (HTTP, command line) authenticates, asks
//! [`access`] for a proof of ownership, and calls a use case in [`service`]
//! with it. Calls go through [`dispatch`], the only caller of the sandbox, and
//! come back as events in the store; [`hub`] tells subscribers.
//!
//! Deliberately absent: I/O, SQL, HTTP, wasmtime, the wall clock, randomness.
//! Those are [`ports`]. Timers (`tokio::time`) are used, because a test can
//! pause them; the time of day is not.

#![forbid(unsafe_code)]

pub mod access;
pub mod activity;
pub mod address;
pub mod audit;
pub mod call;
pub mod clock;
pub mod conditions;
pub mod digest;
pub mod dispatch;
pub mod error;
pub mod event;
pub mod files;
pub mod foreign;
#[cfg(feature = "fuzz")]
pub mod fuzzing;
pub mod grants;
pub mod hub;
pub mod id;
pub mod json;
pub mod key;
pub mod limits;
pub mod outcome;
pub mod path;
pub mod pause;
pub mod policy;
pub mod ports;
pub mod principal;
pub mod quota;
pub mod reached;
pub mod schema;
pub mod service;
pub mod session;
mod shares;
pub mod steps;
pub mod task;
pub mod ticket;
pub mod tool;

pub use error::Error;
