//! Standard output and error: bytes leave as they come, capped. A guest over
//! its cap is not failed; the bytes are counted and dropped.

use std::sync::Arc;

use bulkhead_core::event::Stream;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::call::Call;

/// One of the two streams. Every handle of a guest shares the call's counters.
#[derive(Clone)]
pub(super) struct Standard {
    pub(super) call: Arc<Call>,
    pub(super) stream: Stream,
}

impl IsTerminal for Standard {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Standard {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.1 and 0.3 ask for this, and neither is linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
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
