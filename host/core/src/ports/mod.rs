//! Ports: what core needs of the outside, as traits. Adapters implement them;
//! only the composition root names an adapter.

pub mod archive;
pub mod cluster;
pub mod components;
pub mod egress;
pub mod files;
pub mod import;
pub mod live;
pub mod meter;
pub mod rates;
pub mod sandbox;
pub mod store;
pub mod workspace;
