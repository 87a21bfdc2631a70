//! The task beside each worker process: moves frames, checks them, watches the
//! clock, and buries the process when it is gone.

use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr};
use tokio::task::JoinHandle;

use super::cgroups::Cell;
use super::guard::{Accepted, Violation};
use super::spent;
use super::worker::{Happened, Inner, Loading, Phase, Why, Worker};
use crate::bounds::{MAX_CONTROL, MAX_WAITING};
use crate::walls::NO_NAMESPACE;
use crate::wire::{FrameError, FromWorker, Inbox, Received, Socket, ToWorker, decode};

/// Most of a worker's standard error that is logged.
const MAX_STDERR: usize = 16 * 1024;

/// Of one that the kernel ended for the memory that its group, or all of them, may use.
const OUT_OF_MEMORY: &str = "the kernel ended it because workers ran out of memory; an operator may raise \
     `workers.memory_bytes` or `workers.memory_per_worker_bytes`";

/// Why a worker is gone.
#[derive(Debug)]
pub(super) enum Gone {
    /// It was told to end, or ended when nothing ran.
    Ended,
    /// It died, for example of a signal.
    Died(String),
    /// It broke the protocol.
    Violated(String),
    /// A call did not end in time.
    Overdue,
    /// It was killed by the host.
    Killed,
    /// It could not work in the namespaces it had made.
    NoNamespace,
}

/// Runs until the worker is gone, which is `placed` in its control group
/// meanwhile; the group comes back, to be removed.
pub(super) async fn pump(
    worker: &Worker,
    socket: OwnedFd,
    mut child: Child,
    placed: JoinHandle<Option<Cell>>,
) -> (Gone, Option<Cell>) {
    let errors = child.stderr.take().map(|stderr| tokio::spawn(log_errors(stderr, child.id())));
    let mut gone = match Socket::new(socket) {
        Ok(socket) => serve(worker, &socket).await,
        Err(error) => Gone::Died(format!("its socket can't be watched: {error}")),
    };
    worker.close();
    // It may be dead already, and then this changes nothing of how it ended: its end of
    // the socket is its standard input, too, and closes as it exits. One that closed it
    // by itself would go on, with nobody to watch its time.
    let _ = child.start_kill();
    // Before it is waited for: then its id may be another's.
    let used = child.id().and_then(spent::of_process).unwrap_or_default();
    let cell = placed.await.ok().flatten();
    let ended = child.wait().await;
    if cell.as_ref().is_some_and(Cell::ran_out) && !matches!(gone, Gone::Violated(_)) {
        gone = Gone::Died(OUT_OF_MEMORY.into());
    }
    match ended {
        // Believed only of one that ran nobody's code yet: it takes walls from those that follow.
        Ok(status) if status.code() == Some(NO_NAMESPACE) && *worker.phase.borrow() == Phase::Starting => {
            gone = Gone::NoNamespace;
        }
        Ok(status) if !status.success() && matches!(gone, Gone::Ended) => gone = Gone::Died(status.to_string()),
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "a worker could not be waited for"),
    }
    if let Some(errors) = errors {
        // The pipe closes with the process.
        let _ = errors.await;
    }
    bury(worker, &gone, used);
    (gone, cell)
}

/// Tells everybody who waits for the worker that it is gone, having `used` so much processor time.
pub(super) fn bury(worker: &Worker, gone: &Gone, used: Duration) {
    let why: Arc<str> = match gone {
        Gone::Ended => "it ended".into(),
        Gone::Died(how) => how.as_str().into(),
        Gone::Violated(_) => "it broke the protocol and was killed".into(),
        Gone::Overdue => "it was killed with a call that did not end in time".into(),
        Gone::Killed => "it was killed".into(),
        Gone::NoNamespace => "it could not work in a namespace of its own; the next one does without".into(),
    };
    let now = Instant::now();
    let (calls, rest) = {
        let mut inner = worker.inner();
        // With the calls, so that none can come between.
        inner.open = false;
        inner.components.clear();
        (std::mem::take(&mut inner.calls), used.saturating_sub(inner.told))
    };
    let ran: Vec<Duration> = calls.values().map(|slot| now - slot.started).collect();
    for (slot, cpu) in calls.into_values().zip(spent::shares(rest, &ran)) {
        let overdue = matches!(gone, Gone::Overdue) && slot.is_overdue(now);
        let why = if overdue { Why::Overdue } else { Why::Gone(why.clone()) };
        // Whoever waited may be gone too.
        let _ = slot.happened.send(Happened::Lost { why, cpu });
    }
    worker.phase.send_replace(Phase::Gone(why));
}

/// Logs what the worker prints: its own errors, never a guest's.
async fn log_errors(mut stderr: ChildStderr, pid: Option<u32>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let room = MAX_STDERR.saturating_sub(text.len());
        text.extend_from_slice(&buffer[..read.min(room)]);
    }
    if !text.is_empty() {
        tracing::warn!(pid, printed = %one_line(&String::from_utf8_lossy(&text)), "a worker printed errors");
    }
}

/// A worker's text for a log: one that was taken over must not write lines there that
/// look like the server's, nor what a terminal would obey.
fn one_line(text: &str) -> String {
    text.trim().chars().flat_map(char::escape_debug).collect()
}

async fn serve(worker: &Worker, socket: &Socket) -> Gone {
    let mut inbox = Inbox::default();
    let timer = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(timer);
    loop {
        let (sent, kill_at, deaf) = {
            let mut inner = worker.inner();
            (socket.send(&mut inner.outbox), inner.next_kill(), is_deaf(&inner))
        };
        let sent = match sent {
            Ok(sent) => sent,
            // The end itself is read below, with what was said before it.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => true,
            Err(error) => return Gone::Died(format!("sending to it failed: {error}")),
        };
        if deaf {
            return Gone::Violated("it does not read what it has the host say".into());
        }
        if let Some(kill_at) = kill_at.map(tokio::time::Instant::from_std)
            && timer.deadline() != kill_at
        {
            timer.as_mut().reset(kill_at);
        }
        tokio::select! {
            biased;
            () = worker.kill.cancelled() => {
                return killed(&mut worker.inner());
            }
            ready = socket.readable() => {
                if ready.is_err() {
                    return Gone::Died("its socket can't be watched".into());
                }
                if let Err(gone) = receive(worker, socket, &mut inbox) {
                    return gone;
                }
            }
            () = worker.wake.notified() => {}
            ready = socket.writable(), if !sent => {
                if ready.is_err() {
                    return Gone::Died("its socket can't be watched".into());
                }
            }
            () = &mut timer, if kill_at.is_some() => {
                let now = Instant::now();
                if worker.inner().next_kill().is_some_and(|kill_at| kill_at <= now) {
                    return Gone::Overdue;
                }
            }
        }
    }
}

/// Whether more waits to be read by it than a worker leaves that reads: much of what it
/// says has an answer, if only of credit, so it could fill the host's memory with them.
fn is_deaf(inner: &Inner) -> bool {
    inner.outbox.waiting() > MAX_WAITING * (inner.calls.len() + 1)
}

/// Why a worker was killed by the host.
fn killed(inner: &mut Inner) -> Gone {
    match (inner.violation, inner.unfit.take()) {
        (Some(what), _) => Gone::Violated(what.into()),
        (None, Some(why)) => Gone::Died(why),
        (None, None) => Gone::Killed,
    }
}

/// Reads what there is and handles it.
fn receive(worker: &Worker, socket: &Socket, inbox: &mut Inbox) -> Result<(), Gone> {
    // The host takes no descriptors: the kernel closes what a worker sends.
    match socket.recv(inbox, None) {
        Ok(Received::Some(_)) => {}
        Ok(Received::Nothing) => return Ok(()),
        Ok(Received::End) => return Err(Gone::Ended),
        Err(rustix::io::Errno::CONNRESET) => return Err(Gone::Ended),
        Err(error) => return Err(Gone::Died(format!("receiving from it failed: {error}"))),
    }
    let mut inner = worker.inner();
    loop {
        let max = |call: u32| match call {
            0 => MAX_CONTROL,
            call => inner.calls.get(&call).map_or(0, |slot| slot.guard.max_frame()),
        };
        let (call, body) = match inbox.next(max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Gone::Violated(error.to_string())),
        };
        let handled = match call {
            0 => control(worker, &mut inner, body),
            call => about_call(worker, &mut inner, call, body),
        };
        handled.map_err(Gone::Violated)?;
    }
}

/// A message that is not about a call.
fn control(worker: &Worker, inner: &mut Inner, body: &[u8]) -> Result<(), String> {
    let message = decode(0, body).map_err(|error: FrameError| error.to_string())?;
    let (component, loading) = match message {
        FromWorker::Ready(walls) => {
            if !worker.shut_in(inner, walls) {
                return Ok(());
            }
            let first = worker.phase.send_if_modified(|phase| {
                let starting = *phase == Phase::Starting;
                if starting {
                    *phase = Phase::Ready;
                }
                starting
            });
            return if first { Ok(()) } else { Err("it was ready twice".into()) };
        }
        FromWorker::Loaded { component } => (component, Loading::Loaded),
        FromWorker::LoadFailed { component, reason } => {
            let reason: String = reason.chars().take(2000).collect();
            (component, Loading::Failed(one_line(&reason).into()))
        }
        _ => return Err("a message about a call came without one".into()),
    };
    if !inner.answered_load() {
        return Err("it answered what was not asked".into());
    }
    // One that was pushed out meanwhile is of no interest any more.
    inner.components.settle(component, loading);
    Ok(())
}

fn about_call(worker: &Worker, inner: &mut Inner, call: u32, body: &[u8]) -> Result<(), String> {
    let Entry::Occupied(mut slot) = inner.calls.entry(call) else {
        return Err(format!("a message about call {call}, which does not run here"));
    };
    let message = decode(call, body).map_err(|error: FrameError| error.to_string())?;
    if let FromWorker::Done(done) = &message {
        // No more than a thread can have used: it may be made up.
        let ran = slot.get().started.elapsed();
        inner.told += Duration::from_micros(done.measured.cpu_us).min(ran);
        slot.get().lease.took(done.measured.taken.into());
    }
    let accepted = slot.get_mut().guard.accept(message).map_err(|Violation(what)| what.to_owned())?;
    // Whoever waited for the call may be gone; its emissions go with it.
    let tell = |slot: &super::worker::Slot, happened| drop(slot.happened.send(happened));
    match accepted {
        Accepted::Emissions(emissions, cost) => tell(slot.get(), Happened::Emitted(emissions, cost)),
        Accepted::Part(part, cost) => tell(slot.get(), Happened::Part(part, cost)),
        Accepted::Request(asked, cost) => tell(slot.get(), Happened::Asked(asked, cost)),
        Accepted::Took(taken) => slot.get().lease.took(taken),
        Accepted::Exchange(0) => {}
        Accepted::Exchange(unwanted) => {
            slot.get_mut().guard.credited(unwanted);
            let bytes = u32::try_from(unwanted).unwrap_or(u32::MAX);
            inner.outbox.push(call, &ToWorker::Credit { bytes });
        }
        Accepted::Done => {
            tell(&slot.remove(), Happened::Done(body.to_vec()));
            inner.idle_since = Instant::now();
            worker.ended();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::Isolation;

    #[test]
    fn a_worker_can_not_write_lines_of_the_log() {
        let printed = "worker: no\n2026-01-01T00:00:00Z ERROR forged\r\x1b[2J\u{202e}\u{2028}x\n";
        let line = one_line(printed);
        assert_eq!(line, "worker: no\\n2026-01-01T00:00:00Z ERROR forged\\r\\u{1b}[2J\\u{202e}\\u{2028}x");
    }

    #[tokio::test]
    async fn one_that_reads_nothing_is_ended_before_much_waits_for_it() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let socket = Socket::new(ours.into()).expect("it is watched");
        let worker = Worker::new(Duration::ZERO, Isolation::Required, false, Arc::default());
        let while_it_waits = Duration::from_millis(50);
        worker.inner().outbox.push_frame(&vec![0; MAX_WAITING]);
        let served = tokio::time::timeout(while_it_waits, serve(&worker, &socket)).await;
        assert!(served.is_err(), "{served:?}");
        // What the kernel took of it does not wait here any more.
        worker.inner().outbox.push_frame(&vec![0; MAX_WAITING]);
        let served = tokio::time::timeout(Duration::from_secs(10), serve(&worker, &socket)).await;
        assert!(matches!(served, Ok(Gone::Violated(_))), "{served:?}");
    }
}
