//! Standard output and error: bytes leave as they come, capped. A guest over
//! its cap is not failed; the bytes are counted and dropped.

use std::sync::Arc;

use bulkhead_core::event::Stream;
use bytes::Bytes;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::call::Call;
use super::tally::Held;

/// A handle of one of the two streams. All of a guest's share the call's counters.
pub(super) struct Standard {
    pub(super) call: Arc<Call>,
    pub(super) stream: Stream,
    pub(super) _held: Held,
}

#[async_trait::async_trait]
impl Pollable for Standard {
    async fn ready(&mut self) {
        self.call.until_writable(self.stream).await;
    }
}

impl OutputStream for Standard {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.call.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.call.writable(self.stream))
    }
}
