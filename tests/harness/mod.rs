//! What every scenario needs: a real server process, a client, guests.

pub mod attacks;
pub mod client;
pub mod guests;
#[allow(dead_code, reason = "shared with the tests of tokens")]
pub mod issuer;
pub mod origin;
pub mod pair;
#[allow(dead_code, reason = "shared with the tests of the store")]
pub mod postgres;
#[allow(dead_code, reason = "the load benchmark uses a part of it")]
pub mod provider;
#[allow(dead_code, reason = "shared with the tests of the store")]
pub mod proxy;
#[allow(dead_code, reason = "shared with the tests of the store")]
pub mod redis;
pub mod server;
#[allow(dead_code, reason = "the load benchmark uses a part of it")]
pub mod tail;
#[allow(dead_code, reason = "shared with the load benchmark")]
pub mod users;

pub use client::{Answer, Client};
pub use server::{Options, Server};
