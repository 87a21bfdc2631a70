//! The port to the bytes of components, by digest.

use async_trait::async_trait;
use bytes::Bytes;

use crate::digest::Digest;

/// Components, immutable and addressed by content.
#[async_trait]
pub trait Components: Send + Sync + 'static {
    /// Whether a component lies where every host finds it.
    async fn has(&self, digest: Digest) -> Result<bool, std::io::Error>;
    /// Stores a component durably. Fine if it is there.
    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), std::io::Error>;
    /// Reads a component and checks that its bytes have the digest.
    async fn get(&self, digest: Digest) -> Result<Bytes, std::io::Error>;
    /// Those that lie here and that this host alone may remove.
    async fn found(&self) -> Result<Vec<Digest>, std::io::Error>;
    /// Removes one of those. Fine if it is gone.
    async fn remove(&self, digest: Digest) -> Result<(), std::io::Error>;
}
