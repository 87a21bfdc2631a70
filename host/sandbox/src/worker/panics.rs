//! What a panic of the host's side ends: in a call that call, anywhere else the worker,
//! for a worker that has lost a part of itself would leave its calls without an end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::abort;

use futures::FutureExt as _;

use super::call::Call;
use crate::wire::{Done, Measured, Report};

/// Runs a call. If it panics it is dropped, with its store, and the host is told. What
/// it shared with others is consistent: numbers that only grow or are given back when
/// they are dropped, and queues behind locks under which nothing is called.
pub(super) async fn contained(call: &Call, running: impl Future<Output = ()>) {
    if AssertUnwindSafe(running).catch_unwind().await.is_ok() {
        return;
    }
    // The panic itself is in the worker's log by now.
    call.close();
    call.finish_changes();
    call.tell(Done { report: Report::Broke, measured: Measured::default() });
}

/// Does what the worker can't go on without.
pub(super) fn vital<T>(work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| abort())
}

/// The same of a task.
pub(super) async fn vital_task<T>(work: impl Future<Output = T>) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| abort())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use bulkhead_core::event::ChangeKind;
    use bulkhead_core::limits::Limits;
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Config, Engine, Store};

    use super::*;
    use crate::wire::{FromWorker, Inbox, decode};
    use crate::worker::fs::Syncs;
    use crate::worker::link::Link;

    /// A component whose export calls an import of the host.
    const CALLS_OUT: &str = r#"(component
        (import "out" (func $out))
        (core func $out (canon lower (func $out)))
        (core module $m (import "" "out" (func $out)) (func (export "run") call $out))
        (core instance $i (instantiate $m (with "" (instance (export "out" (func $out))))))
        (func (export "run") (canon lift (core func $i "run"))))"#;

    /// Runs a guest whose host function panics, as calls run: on a stack of its own.
    async fn panics_below_a_guest() {
        let engine = Engine::new(&Config::new()).expect("an engine");
        let component = Component::new(&engine, wat::parse_str(CALLS_OUT).expect("a text")).expect("a component");
        let mut linker = Linker::<()>::new(&engine);
        let panics = |_: wasmtime::StoreContextMut<'_, ()>, (): ()| -> wasmtime::Result<()> { panic!("on purpose") };
        linker.root().func_wrap("out", panics).expect("a function");
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate_async(&mut store, &component).await.expect("an instance");
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").expect("an export");
        let _ = run.call_async(&mut store, ()).await;
    }

    #[tokio::test]
    async fn a_panic_ends_its_call_and_the_host_is_told() {
        let link = Arc::new(Link::default());
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = Call::new(7, Limits::default(), (0, 0), deadline, link.clone(), Arc::<Syncs>::default().of(1));
        contained(&call, async {}).await;
        assert!(link.with_outbox(|outbox| outbox.nothing_queued()), "nothing is said of a call that went well");
        contained(&call, panics_below_a_guest()).await;
        let mut inbox = Inbox::default();
        link.with_outbox(|outbox| inbox.put(&outbox.queued()));
        let (number, body) = inbox.next(|_| 4096).expect("a frame").expect("whole");
        assert_eq!(number, 7);
        let message: FromWorker<'_> = decode(number, body).expect("a message");
        assert!(matches!(message, FromWorker::Done(Done { report: Report::Broke, .. })), "{message:?}");
        // One whose end was told already, and that panics as it is dropped, has no second one.
        contained(&call, async {
            call.changed(ChangeKind::Created, None);
            panic!("on purpose")
        })
        .await;
        link.with_outbox(|outbox| inbox.put(&outbox.queued()));
        let mut ends = 0;
        while let Some((number, _)) = inbox.next(|_| 4096).expect("frames") {
            ends += u32::from(number == 7);
        }
        assert_eq!(ends, 1, "the one of before, which is still in the queue");
    }

    /// The host kills a worker that counts a call's changes twice.
    #[tokio::test]
    async fn what_was_said_of_its_changes_before_a_panic_is_not_said_again() {
        let link = Arc::new(Link::default());
        let deadline = Instant::now() + Duration::from_secs(60);
        let call = Call::new(7, Limits::default(), (0, 0), deadline, link.clone(), Arc::<Syncs>::default().of(1));
        contained(&call, async {
            call.changed(ChangeKind::Created, None);
            call.finish_changes();
            panic!("on purpose")
        })
        .await;
        let mut inbox = Inbox::default();
        link.with_outbox(|outbox| inbox.put(&outbox.queued()));
        let mut said = Vec::new();
        while let Some((number, body)) = inbox.next(|_| 4096).expect("frames") {
            said.push(match decode(number, body).expect("a message") {
                FromWorker::ChangedUnnamed { created: 1, modified: 0, deleted: 0 } => "changes",
                FromWorker::Done(Done { report: Report::Broke, .. }) => "end",
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(said, ["changes", "end"]);
    }
}
