//! The integration tests, one binary: linking the whole host once costs less
//! than linking it per file. Each test starts its own server and ends it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test that fails should say where"
)]

mod barriers;
#[cfg(feature = "fuzz")]
mod corpus;
mod harness;
mod router;
mod scenarios;
mod snapshots;
mod tidy;
