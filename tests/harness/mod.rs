//! What every scenario needs: a real server process, a client, guests.

pub mod attacks;
pub mod client;
pub mod guests;
pub mod origin;
pub mod server;

pub use client::{Answer, Client};
pub use server::{Options, Server};
