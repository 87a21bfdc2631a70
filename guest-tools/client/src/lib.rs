//! HTTP requests for guests, over `wasi:http`: URLs, and one exchange at a
//! time. The host decides about every request, so a redirect is followed by
//! sending another one. Natively only URLs are of use.
#![no_std]
#![deny(missing_docs)]

extern crate alloc;

#[cfg(target_arch = "wasm32")]
mod exchange;
mod url;

#[cfg(target_arch = "wasm32")]
pub use exchange::{Response, Sending, start};
pub use url::Url;

use alloc::string::String;
use alloc::vec::Vec;

/// Fields of a head, in order.
pub type Header = Vec<(String, Vec<u8>)>;

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code of `wasi:http`, such as `HttpRequestDenied`.
    pub code: String,
}
