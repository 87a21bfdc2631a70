//! The sandbox as a whole: host, compiler and workers as processes, with
//! guests that behave, fail, and attack.

#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a failed test says where")]
#![allow(clippy::print_stdout, reason = "a test says what this machine keeps it from showing")]

#[cfg(feature = "probe")]
mod attempts;
#[cfg(feature = "probe")]
mod bounds;
mod calls;
mod cgroups;
#[cfg(feature = "contract")]
mod contract;
mod emissions;
#[cfg(feature = "probe")]
mod fairness;
mod fits;
mod guests;
mod harness;
mod http;
mod http_request;
mod lifecycle;
#[cfg(feature = "probe")]
mod own_user;
#[cfg(feature = "probe")]
mod walls;
mod wasi_03;
mod workers;
