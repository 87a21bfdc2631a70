//! The bytes of components, for every host: one may have to compile what another
//! was sent.

use std::io::{Error, ErrorKind};

use async_trait::async_trait;
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::components::Components;
use bulkhead_core::ports::store::StoreError;
use bytes::Bytes;

use super::PostgresStore;
use super::run::Failed;
use super::statement::{Statement, Work};

#[async_trait]
impl Components for PostgresStore {
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        let known = Statement::new("SELECT 1 AS one FROM components WHERE digest = $1").bind_id(digest);
        Ok(!self.read(known).await.map_err(Error::other)?.rows.is_empty())
    }

    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        if self.has(digest).await? {
            return Ok(());
        }
        let insert = Statement::new("INSERT INTO components (digest, body) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        let insert = insert.bind_id(digest).bind(bytes.to_vec());
        let done = self.write(Work::write("component", insert)).await;
        done.map(drop).map_err(|Failed { error, .. }| Error::other(error))
    }

    /// Any host may be about to use one.
    async fn found(&self) -> Result<Vec<Digest>, Error> {
        Ok(Vec::new())
    }

    async fn remove(&self, _: Digest) -> Result<(), Error> {
        Ok(())
    }

    async fn get(&self, digest: Digest) -> Result<Bytes, Error> {
        let select = Statement::new("SELECT body FROM components WHERE digest = $1").bind_id(digest);
        let answer = self.read(select).await.map_err(Error::other)?;
        let body: Option<Vec<u8>> = answer.get("body").map_err(|error: StoreError| Error::other(error))?;
        let body = body.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no component {digest}")))?;
        if Digest::of(&body) != digest {
            return Err(Error::new(ErrorKind::InvalidData, format!("the component {digest} does not have its digest")));
        }
        Ok(body.into())
    }
}
