//! WASI 0.3, beside 0.2: what a worker of that flavour links more. Clocks,
//! random bytes, the environment and the exit are the stock ones, which give
//! what a call's state has for both; standard streams and files are those of
//! 0.2 in another form (`fs::p3`), with the same bounds. Sockets and HTTP are
//! not linked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bulkhead_core::event::Stream;
use wasmtime::component::{
    Access, Destination, FutureReader, HasData, Linker, Source, StreamConsumer, StreamProducer, StreamReader,
    StreamResult, VecBuffer,
};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::p3::bindings::cli::types::ErrorCode;
use wasmtime_wasi::p3::bindings::cli::{
    environment, exit, stderr, stdin, stdout, terminal_input, terminal_output, terminal_stderr, terminal_stdin,
    terminal_stdout,
};

use super::call::Call;
use super::fs;
use super::state::State;
use super::tally::Held;

/// How a stream ended.
type Told = FutureReader<Result<(), ErrorCode>>;

/// Links what there is.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::clocks::add_to_linker(linker)?;
    wasmtime_wasi::p3::random::add_to_linker(linker)?;
    exit::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    environment::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    terminal_input::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    terminal_output::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    terminal_stdin::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    terminal_stdout::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    terminal_stderr::add_to_linker::<_, WasiCli>(linker, State::cli)?;
    stdin::add_to_linker::<State, Standard>(linker, of)?;
    stdout::add_to_linker::<State, Standard>(linker, of)?;
    stderr::add_to_linker::<State, Standard>(linker, of)?;
    fs::p3::link(linker)
}

/// Bounds what the engine keeps for a guest's tasks, streams and futures: so many
/// entries of its own table, of which a stream takes three and a task two. Does
/// nothing to a store without them.
pub(super) fn bound(store: &mut Store<State>, most: usize) {
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(most);
    }
}

/// Names the call for the linker.
struct Standard;

/// The call that standard streams belong to.
struct Streams<'a>(&'a Arc<Call>);

impl HasData for Standard {
    type Data<'a> = Streams<'a>;
}

fn of(state: &mut State) -> Streams<'_> {
    Streams(&state.call)
}

impl stdin::Host for Streams<'_> {}
impl stdout::Host for Streams<'_> {}
impl stderr::Host for Streams<'_> {}

/// There is none.
struct Nothing(#[expect(dead_code, reason = "held until the stream is dropped")] Held);

impl<D> StreamProducer<D> for Nothing {
    type Item = u8;
    type Buffer = VecBuffer<u8>;

    fn poll_produce<'a>(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        _store: StoreContextMut<'a, D>,
        _destination: Destination<'a, Self::Item, Self::Buffer>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl<U: 'static> stdin::HostWithStore<U> for Standard {
    fn read_via_stream(mut store: Access<'_, U, Self>) -> wasmtime::Result<(StreamReader<u8>, Told)> {
        let held = store.get().0.stream()?;
        let stream = StreamReader::new(&mut store, Nothing(held))?;
        Ok((stream, FutureReader::new(&mut store, async { wasmtime::error::Ok(Ok(())) })?))
    }
}

impl<U: 'static> stdout::HostWithStore<U> for Standard {
    fn write_via_stream(store: Access<'_, U, Self>, data: StreamReader<u8>) -> wasmtime::Result<Told> {
        print(store, data, Stream::Stdout)
    }
}

impl<U: 'static> stderr::HostWithStore<U> for Standard {
    fn write_via_stream(store: Access<'_, U, Self>, data: StreamReader<u8>) -> wasmtime::Result<Told> {
        print(store, data, Stream::Stderr)
    }
}

/// Joins a guest's stream to one of the two. Nothing written there fails: what
/// is over its limit is counted and dropped.
fn print<U: 'static>(
    mut store: Access<'_, U, Standard>,
    data: StreamReader<u8>,
    stream: Stream,
) -> wasmtime::Result<Told> {
    let call = store.get().0.clone();
    let held = call.stream()?;
    let (ended, told) = tokio::sync::oneshot::channel::<()>();
    data.pipe(&mut store, Printed { call, stream, waits: None, _held: held, _ended: ended })?;
    FutureReader::new(&mut store, async {
        // It is never sent, but dropped with the stream.
        let _ = told.await;
        wasmtime::error::Ok(Ok(()))
    })
}

/// What a guest writes to standard output or error.
struct Printed {
    call: Arc<Call>,
    stream: Stream,
    /// Until there is room.
    waits: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _held: Held,
    _ended: tokio::sync::oneshot::Sender<()>,
}

impl<D: 'static> StreamConsumer<D> for Printed {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let this = &mut *self;
        let room = loop {
            let room = this.call.writable(this.stream);
            if room > 0 {
                this.waits = None;
                break room;
            }
            if finish {
                return Poll::Ready(Ok(StreamResult::Cancelled));
            }
            let (call, stream) = (this.call.clone(), this.stream);
            let waits = this.waits.get_or_insert_with(|| Box::pin(async move { call.until_writable(stream).await }));
            ready!(waits.as_mut().poll(context));
            this.waits = None;
        };
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let taken = bytes.len().min(room);
        // None: the guest asks whether it may write.
        if taken > 0 {
            this.call.write(this.stream, &bytes[..taken]);
            source.mark_read(taken);
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
