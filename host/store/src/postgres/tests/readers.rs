//! Readers of a task's log that are called off, as a heartbeat does it.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::hub::Hub;
use bulkhead_core::ports::store::Store as _;

use super::server::postgres;
use super::{database, open};
use crate::contract::world::{World, event, log, owner};

/// Who was woken has not read what it was woken for until it has it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_called_off_while_it_reads_misses_nothing() {
    let store = open(&postgres().socket_url(&database())).await;
    let task = World::new(store.clone()).ready_task(owner(1)).await;
    let begun = log(&*store, task.id).await.len() as u64;
    let hub = Arc::new(Hub::default());
    let mut reader = hub.subscribe(store.clone(), (task.owner.tenant, task.id), begun);
    for number in 1..=3 {
        // It has read all that there is, and waits.
        let read = tokio::time::timeout(Duration::from_secs(1), reader.next()).await;
        assert!(read.is_err(), "there is nothing to be read");
        // Written by another host: what it is told of is in the store alone.
        let appended = store.append_events(task.id, vec![event(number)]).await.unwrap().unwrap();
        hub.notice(task.id, &[], appended.last);
        {
            let read = std::pin::pin!(reader.next());
            assert!(futures::poll!(read).is_pending(), "the store answers at once: this shows nothing");
        }
        let read = tokio::time::timeout(Duration::from_secs(20), reader.next()).await;
        let read = read.expect("it waits for what is there").unwrap().unwrap();
        assert_eq!(read.iter().map(|event| event.seq).collect::<Vec<_>>(), [appended.last]);
    }
}
