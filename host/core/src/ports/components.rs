//! The port to the bytes of components, by digest.

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::Digest;

/// Components, immutable and addressed by content.
#[async_trait]
pub trait Components: Send + Sync + 'static {
    /// Stores a component durably. Fine if it is there.
    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), std::io::Error>;
    /// Reads a component and checks that its bytes have the digest.
    async fn get(&self, digest: Digest) -> Result<Bytes, std::io::Error>;
}
