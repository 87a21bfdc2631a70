//! Writes of clients end with the lease: what takes long to arrive may come to its
//! place only while this host holds the workspace.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::Files;
use crate::error::Error;
use crate::ports::cluster::Cluster;
use crate::ports::store::StoreError;
use crate::ports::workspace::ByteStream;

impl Files {
    /// Whether this host holds what it held when the request came.
    pub(super) fn in_time(&self) -> Result<(), Error> {
        if self.parts.ports.cluster.is_late() {
            return Err(late().into());
        }
        Ok(())
    }

    /// A body that breaks off at its end, if the lease was lost meanwhile.
    pub(super) fn while_held(&self, body: ByteStream) -> ByteStream {
        Box::pin(WhileHeld { body, cluster: self.parts.ports.cluster.clone() })
    }
}

fn late() -> StoreError {
    StoreError::Unavailable("this host lost its lease while the request was under way; nothing was changed".into())
}

struct WhileHeld {
    body: ByteStream,
    cluster: Arc<dyn Cluster>,
}

impl AsyncRead for WhileHeld {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = self.body.as_mut().poll_read(context, into);
        let is_end = matches!(read, Poll::Ready(Ok(()))) && into.filled().len() == before;
        if is_end && self.cluster.is_late() {
            return Poll::Ready(Err(io::Error::other(late())));
        }
        read
    }
}
