//! Tickets for streams.

use std::sync::Arc;

use bulkhead_core::digest::Digest;
use bulkhead_core::id::TaskId;
use bulkhead_core::ports::store::Store;
use bulkhead_core::principal::Credential;
use bulkhead_core::ticket::TicketRecord;
use futures::future::join_all;

use super::world::{at, audit, owner};

fn ticket(name: &str, task: u64, until: i64) -> TicketRecord {
    TicketRecord {
        hash: Digest::of(name.as_bytes()),
        owner: owner(1),
        credential: Credential::Token { until: at(until), id: Some("a:b".into()) },
        task: TaskId::from_parts(task, 0),
        expires_at: at(until),
    }
}

pub(super) async fn are_taken_once_in_time_for_their_task(store: Arc<dyn Store>) {
    let [one, late] = [ticket("one", 1, 60), ticket("late", 1, 60)];
    for ticket in [&one, &late] {
        assert!(store.create_ticket(ticket, 9, at(0), audit()).await.unwrap());
    }
    let take = |hash, task, now| store.take_ticket(hash, TaskId::from_parts(task, 0), at(now));
    assert_eq!(take(one.hash, 2, 1).await.unwrap(), None, "of another task");
    assert_eq!(take(Digest::of(b"no"), 1, 1).await.unwrap(), None);
    let tries = join_all((0..8).map(|_| take(one.hash, 1, 59))).await;
    let taken: Vec<_> = tries.into_iter().filter_map(|taken| taken.unwrap()).collect();
    assert_eq!(taken, [(owner(1), one.credential.clone())], "once, however many try");
    assert_eq!(take(late.hash, 1, 60).await.unwrap(), None, "too late");
}

pub(super) async fn are_so_many_of_an_owner(store: Arc<dyn Store>) {
    for number in 0..2 {
        assert!(store.create_ticket(&ticket(&number.to_string(), 1, 60), 2, at(0), audit()).await.unwrap());
    }
    assert!(!store.create_ticket(&ticket("third", 1, 60), 2, at(1), audit()).await.unwrap());
    let other = TicketRecord { owner: owner(2), ..ticket("other", 1, 60) };
    assert!(store.create_ticket(&other, 2, at(1), audit()).await.unwrap());
    // Those that are too old make room.
    assert!(store.create_ticket(&ticket("later", 1, 120), 2, at(60), audit()).await.unwrap());
}
