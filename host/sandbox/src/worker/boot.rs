//! How a worker comes up: alone with its socket, bound, then running.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::process::{Resource, Signal, nice, set_parent_process_death_signal};
use rustix::thread::set_no_new_privs;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use wasmtime::Engine;
use wasmtime::component::Linker;

use super::background::Background;
use super::firsts::Firsts;
use super::limiter::Budget;
use super::link::Link;
use super::load::linker;
use super::meter::Ticker;
use super::panics::vital;
use super::run::Shared;
use super::serve::{End, Server};
use super::state::State;
use super::tally::Tally;
use crate::bounds::MAX_TO_WORKER;
use crate::engine::{Pool, runner};
use crate::walls::{self, Apart, Code, Part, Reach, Walls, apart, bounds, close_inherited};
use crate::wire::{Bind, FromWorker, Inbox, Outbox, Received, ToWorker, decode, recv, send};

/// Slots beside those that calls are counted by: each thread of guests may have
/// one that ended, and was told to the host, and is being given back.
const SPARE: u32 = 2;

/// Memory of the worker itself: runtime, loaded code's data, host functions.
const OWN_MEMORY: u64 = 192 << 20;

/// The subcommand `worker`: serves the socket on standard input until it ends.
/// Standard input, because that is a descriptor which a parent can hand over
/// without unsafe code on either side.
pub fn worker_main() -> ExitCode {
    end(boot(&[], |_, _| ()))
}

/// The same, of a worker that is taken over before it runs its first guest: for
/// tests that show what it still reaches, `without` parts of the wall. What takes it over
/// is given what it was bound to.
#[cfg(feature = "probe")]
pub fn taken_over_worker_main(without: &[Part], exploit: impl FnOnce(Option<BorrowedFd<'_>>, &Walls)) -> ExitCode {
    end(boot(without, exploit))
}

fn end(end: wasmtime::Result<End>) -> ExitCode {
    match end {
        Ok(End::Told) => ExitCode::SUCCESS,
        Ok(End::Failed(reason)) => fail(&reason),
        Err(error) => fail(&format!("{error:#}")),
    }
}

#[expect(clippy::print_stderr, reason = "standard error is the worker's log; the host reads it")]
fn fail(reason: &str) -> ExitCode {
    eprintln!("worker: {reason}");
    ExitCode::FAILURE
}

/// Comes up, and serves, behind all of the wall but the parts named. `bound_to` is called once the walls are up, with the
/// directory that the worker was bound to.
fn boot(without: &[Part], bound_to: impl FnOnce(Option<BorrowedFd<'_>>, &Walls)) -> wasmtime::Result<End> {
    alone()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let (mut inbox, mut descriptors) = (Inbox::default(), VecDeque::new());
    let Some((bind, apart)) = bound(&socket, &mut inbox, &mut descriptors)? else { return Ok(End::Told) };
    let missing = || wasmtime::format_err!("the first message came without its descriptors");
    let artifacts = descriptors.pop_front().ok_or_else(missing)?;
    let domain = if bind.has_domain { Some(descriptors.pop_front().ok_or_else(missing)?) } else { None };
    let Bind { flavour, pagemap_scan, .. } = bind;
    let pool = Pool { flavour, slots: bind.slots.max(1) + SPARE, pagemap_scan };
    let nice = limits(&bind, pool)?;
    let left = if bind.leave_network { &[][..] } else { &[Part::NetworkNamespace] };
    let walls = walls::give_up(apart, bounds::WORKER_THREADS, &[without, left].concat());
    let engine = runner(pool)?;
    let linker = linker(&engine, flavour)?;
    // Made now, because making it takes calls that serving does not.
    let (runtime, second) = (runtime()?, second_runtime()?);
    // Likewise: the first look at a clock asks where the kernel maps it.
    let _ = clock_gettime(ClockId::Monotonic);
    let grants = [
        Some((artifacts.as_fd(), Reach::Artifacts)),
        domain.as_ref().map(|domain| (domain.as_fd(), Reach::Workspaces)),
    ];
    let walls = walls::shut_in(walls, grants.into_iter().flatten(), Code::Loaded, without);
    bound_to(domain.as_ref().map(AsFd::as_fd), &walls);
    drop((domain, artifacts));
    serve(socket, &bind, walls, Up { engine, linker, runtime, second, nice }, inbox, descriptors)
}

/// Lets go of everything but the socket, and dies with the host.
fn alone() -> wasmtime::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    set_no_new_privs(true)?;
    bounds::at_most(Resource::Core, 0)?;
    close_inherited()?;
    Ok(())
}

/// Waits for the first message, and for what comes before it.
fn bound(
    socket: &OwnedFd,
    inbox: &mut Inbox,
    descriptors: &mut VecDeque<OwnedFd>,
) -> wasmtime::Result<Option<(Bind, Option<Apart>)>> {
    let (mut leaving, mut apart) = (None, None);
    loop {
        if let Some((call, body)) = inbox.next(|_| MAX_TO_WORKER)? {
            match decode(call, body)? {
                ToWorker::Artifacts => {}
                ToWorker::Leave => {
                    leaving = apart::leave();
                    let mut outbox = Outbox::default();
                    outbox.push(0, &FromWorker::Left(leaving.is_some()));
                    // There is room: it is the first thing that this process says.
                    send(socket.as_fd(), &mut outbox)?;
                }
                ToWorker::Settled => {
                    let left = leaving.take().ok_or_else(|| wasmtime::format_err!("it had not left its user"))?;
                    apart = Some(left.settle()?);
                }
                ToWorker::Bind(bind) => return Ok(Some((bind, apart))),
                ToWorker::Shutdown => return Ok(None),
                _ => return Err(wasmtime::format_err!("the first message does not bind")),
            }
        } else if let Received::End = recv(socket.as_fd(), inbox, Some(descriptors), true)? {
            return Ok(None);
        }
    }
}

/// Sets its limits. Its niceness.
fn limits(bind: &Bind, pool: Pool) -> wasmtime::Result<i32> {
    bounds::bound()?;
    // Counts what is made writable, so it holds inside the reserved pool too.
    bounds::at_most(Resource::Data, bind.memory_bytes + OWN_MEMORY + pool.mapped())?;
    Ok(nice(i32::from(bind.nice))?)
}

/// What is made before the walls are up.
struct Up {
    engine: Engine,
    linker: Linker<State>,
    runtime: Runtime,
    /// That of the background.
    second: Runtime,
    nice: i32,
}

/// Guests take turns of a tick; the socket and timers are looked at between any
/// two, so that a spinning guest holds nothing up for longer.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .global_queue_interval(1)
        .event_interval(1)
        .max_blocking_threads(2)
        .build()
}

/// Has no socket. Whatever blocks there has the priority of its thread.
fn second_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_time().max_blocking_threads(2).build()
}

fn serve(
    socket: OwnedFd,
    bind: &Bind,
    walls: Walls,
    up: Up,
    inbox: Inbox,
    descriptors: VecDeque<OwnedFd>,
) -> wasmtime::Result<End> {
    debug_assert!(socket.as_raw_fd() > 2);
    let shared = Shared {
        // The first thread beside this one: behind the same walls.
        ticker: Arc::new(Ticker::start(up.engine.clone())?),
        background: Background::start(up.second, up.nice)?,
        budget: Arc::new(Budget::new(bind.memory_bytes)),
        syncs: Arc::default(),
        heavy: Arc::default(),
        spare: Tally::new(1),
        engine: up.engine,
    };
    let server = Server {
        shared: Arc::new(shared),
        linker: up.linker,
        link: Arc::new(Link::default()),
        inbox,
        descriptors,
        components: HashMap::new(),
        workspaces: HashMap::new(),
        parts: Vec::new(),
        firsts: Firsts::default(),
    };
    let end = vital(|| up.runtime.block_on(server.serve(socket, walls)));
    // Calls that run are ended with the process, not waited for.
    up.runtime.shutdown_background();
    Ok(end)
}
