//! `wasi:io` and the standard streams, with what the stock implementation does
//! not bound: how many streams are open at once, and how many things one poll
//! waits for. Either ends the guest, because the interfaces have no error for it.

use bytes::Bytes;
use thiserror::Error;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::cli::WasiCliView as _;
use wasmtime_wasi::p2::bindings::cli::stdin::Host as _;
use wasmtime_wasi::p2::pipe::{ClosedInputStream, ClosedOutputStream};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, InputStream, OutputStream, Pollable, StreamResult,
};
use wasmtime_wasi_io::bindings::wasi::io::poll::Host as _;

use bulkhead_core::event::Stream;

use super::call::Call;
use super::output::Standard;
use super::state::State;
use super::tally::Held;

/// The interfaces as the stock implementation names them.
const POLL: &str = "wasi:io/poll@0.2.12";
const STDIN: &str = "wasi:cli/stdin@0.2.12";
const STDOUT: &str = "wasi:cli/stdout@0.2.12";
const STDERR: &str = "wasi:cli/stderr@0.2.12";

/// A limit that ends the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Over {
    /// One stream more than may be open.
    #[error("too many streams at once")]
    Streams,
    /// A list for `poll` that is too long.
    #[error("{listed} things in one poll")]
    PollList {
        /// How long it was.
        listed: u64,
    },
}

impl Call {
    /// A place for one more stream.
    pub(super) fn stream(&self) -> Result<Held, Over> {
        self.streams.take().ok_or(Over::Streams)
    }
}

/// Puts these functions in the place of the stock ones; the linker must allow it.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(POLL)?.func_wrap_async("poll", |store, (list,)| Box::new(poll(store, list)))?;
    linker.instance(STDIN)?.func_wrap("get-stdin", |mut store: StoreContextMut<'_, State>, (): ()| {
        let held = store.data().call.stream()?;
        let stream = store.data_mut().cli().get_stdin()?;
        counted_input(store.data_mut(), &stream, held)?;
        Ok((stream,))
    })?;
    linker.instance(STDOUT)?.func_wrap("get-stdout", |store, (): ()| standard(store, Stream::Stdout))?;
    linker.instance(STDERR)?.func_wrap("get-stderr", |store, (): ()| standard(store, Stream::Stderr))
}

fn standard(mut store: StoreContextMut<'_, State>, stream: Stream) -> wasmtime::Result<(Resource<DynOutputStream>,)> {
    let call = store.data().call.clone();
    let held = call.stream()?;
    let stream: DynOutputStream = Box::new(Standard { call, stream, _held: held });
    Ok((store.data_mut().table.push(stream)?,))
}

async fn poll(
    mut store: StoreContextMut<'_, State>,
    list: Vec<Resource<DynPollable>>,
) -> wasmtime::Result<(Vec<u32>,)> {
    let listed = list.len() as u64;
    if listed > store.data().call.limits.poll_list {
        return Err(Over::PollList { listed }.into());
    }
    Ok((store.data_mut().table.poll(list).await?,))
}

/// Has a stock stream hold a place.
pub(super) fn counted_input(state: &mut State, stream: &Resource<DynInputStream>, held: Held) -> wasmtime::Result<()> {
    let at = state.table.get_mut(stream)?;
    let stream = std::mem::replace(at, Box::new(ClosedInputStream));
    *at = Box::new(Input { stream, _held: held });
    Ok(())
}

/// The same for one that is written to.
pub(super) fn counted_output(
    state: &mut State,
    stream: &Resource<DynOutputStream>,
    held: Held,
) -> wasmtime::Result<()> {
    let at = state.table.get_mut(stream)?;
    let stream = std::mem::replace(at, Box::new(ClosedOutputStream));
    *at = Box::new(Output { stream, _held: held });
    Ok(())
}

/// A stream that is read, and its place.
struct Input {
    stream: DynInputStream,
    _held: Held,
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.stream.blocking_read(size).await
    }

    fn skip(&mut self, bytes: usize) -> StreamResult<usize> {
        self.stream.skip(bytes)
    }

    async fn blocking_skip(&mut self, bytes: usize) -> StreamResult<usize> {
        self.stream.blocking_skip(bytes).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

/// A stream that is written to, and its place.
struct Output {
    stream: DynOutputStream,
    _held: Held,
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.stream.blocking_write_and_flush(bytes).await
    }

    fn write_zeroes(&mut self, bytes: usize) -> StreamResult<()> {
        self.stream.write_zeroes(bytes)
    }

    async fn write_ready(&mut self) -> StreamResult<usize> {
        self.stream.write_ready().await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
