//! The edges of Bulkhead and its composition root.
//!
//! Deliberately absent: decisions. What may be done is decided in
//! `bulkhead_core`, how it is done in the adapters; here requests, flags and
//! files are translated.

pub mod app;
pub mod audit;
pub mod builtin;
pub mod cli;
pub mod components;
pub mod config;
pub mod egress;
pub mod http;
pub mod metrics;
pub mod policy;
pub mod rates;
pub mod system;
pub mod tokens;
