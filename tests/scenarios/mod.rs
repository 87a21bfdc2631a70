//! Scenarios: what users do, and what goes wrong meanwhile.

mod access;
mod admin;
mod audit;
mod barriers;
mod bounds;
mod builtins;
mod calls;
mod crash;
mod egress;
mod events;
mod faults;
mod files;
mod hostile;
mod hosts;
mod imports;
mod isolation;
mod parts;
mod policy;
mod postgres;
mod problems;
mod quota;
mod start;
mod streams;
mod tokens;
mod walls;
mod wasi_03;
