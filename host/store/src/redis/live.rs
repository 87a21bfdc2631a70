//! Events: told to other hosts when they are stored, and kept hot.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::event::{Event, NewEvent, PURGED, Seq};
use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::live::{Heard, Live};
use redis::Pipeline;
use tokio::sync::mpsc;

use super::{Redis, Shared, lock};

/// Most publications of one transaction.
const AT_ONCE: usize = 64;

/// A publication over this size is told and not kept: its readers ask the store.
const HOT_BYTES: u64 = 64 * 1024;

/// Events that are fetched at once.
const FETCHED: usize = 256;

/// Events on their way out.
pub(super) struct Told {
    tenant: TenantId,
    task: TaskId,
    events: Vec<Arc<Event>>,
}

#[async_trait]
impl Live for Redis {
    fn publish(&self, tenant: TenantId, task: TaskId, events: Vec<Arc<Event>>) {
        let shared = &self.shared;
        if events.is_empty() || !shared.ears.is_up() {
            return;
        }
        if shared.tell.try_send(Told { tenant, task, events }).is_err() {
            shared.untold.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn watch(&self, tenant: TenantId, task: TaskId) {
        let channel = self.shared.key(tenant, &format!("task:{task}"));
        lock(&self.shared.ears.wanted).insert(channel.into(), (tenant, task));
        self.shared.ears.changed.notify_one();
    }

    fn unwatch(&self, tenant: TenantId, task: TaskId) {
        let channel = self.shared.key(tenant, &format!("task:{task}"));
        lock(&self.shared.ears.wanted).remove(channel.as_str());
        self.shared.ears.changed.notify_one();
    }

    async fn tail(&self, tenant: TenantId, task: TaskId, after: Seq) -> Vec<Event> {
        let key = self.shared.key(tenant, &format!("tail:{task}"));
        let fetched = self.shared.ask(async |mut manager| {
            let mut range = redis::cmd("XRANGE");
            range.arg(key).arg(format!("{}-0", after.saturating_add(1))).arg("+").arg("COUNT").arg(FETCHED);
            range.query_async::<Vec<Entry>>(&mut manager).await
        });
        let entries = fetched.await.unwrap_or_default();
        // Up to the first gap: something was not told, or not kept.
        let task = task.to_string();
        let run = entries.into_iter().map_while(|entry| event(&task, entry)).zip(after.saturating_add(1)..);
        run.take_while(|(event, seq)| event.seq == *seq).map(|(event, _)| event).collect()
    }

    async fn heard(&self) -> Heard {
        if self.shared.ears.overheard.swap(false, Ordering::AcqRel) {
            return Heard::LookAtAll;
        }
        match self.heard.lock().await.recv().await {
            Some(heard) => heard,
            // Its sender lives as long as this.
            None => std::future::pending().await,
        }
    }

    fn is_up(&self) -> bool {
        self.shared.ears.is_up()
    }
}

/// An entry of a stream: its id, and names and values.
type Entry = (String, Vec<String>);

fn event(task: &str, (id, fields): Entry) -> Option<Event> {
    let seq = id.strip_suffix("-0")?.parse().ok()?;
    let value = |name: &str| fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    if value("task")? != task {
        return None;
    }
    let call = match value("call")? {
        "" => None,
        id => Some(id.parse().ok()?),
    };
    let at = Timestamp::from_millis(value("at")?.parse().ok()?);
    Some(Event { seq, body: NewEvent { at, call, kind: value("kind")?.into(), data: value("data")?.into() } })
}

/// Sends what is told, several at a time.
pub(super) async fn tell(shared: Arc<Shared>, mut to_tell: mpsc::Receiver<Told>) {
    let mut batch = Vec::with_capacity(AT_ONCE);
    while to_tell.recv_many(&mut batch, AT_ONCE).await > 0 {
        let mut transaction = redis::pipe();
        // A tail, its time, and its message agree. Two commits may come in the wrong
        // order: then the server refuses the older entry, and readers find a gap.
        transaction.atomic().ignore_errors();
        for told in batch.drain(..) {
            add(&mut transaction, &shared, &told);
        }
        shared
            .ask(async |mut manager| transaction.query_async::<redis::Value>(&mut manager).await.map(drop))
            .await
            .unwrap_or_default();
    }
}

fn add(transaction: &mut Pipeline, shared: &Shared, Told { tenant, task, events }: &Told) {
    let Some(last) = events.last().map(|event| event.seq) else { return };
    let tail = shared.key(*tenant, &format!("tail:{task}"));
    if events.iter().any(|event| event.body.kind == PURGED) {
        // What somebody wanted gone does not stay here until its time is over.
        transaction.cmd("UNLINK").arg(&tail);
    } else if events.iter().map(|event| event.body.size()).sum::<u64>() <= HOT_BYTES {
        let name = task.to_string();
        for Event { seq, body } in events.iter().map(|event| &**event) {
            let call = body.call.map(|call| call.to_string()).unwrap_or_default();
            let entry = transaction.cmd("XADD").arg(&tail).arg("MAXLEN").arg("~").arg(shared.config.tail_events);
            entry
                .arg(format!("{seq}-0"))
                .arg("task")
                .arg(&name)
                .arg("at")
                .arg(body.at.as_millis())
                .arg("call")
                .arg(call);
            entry.arg("kind").arg(&body.kind).arg("data").arg(&*body.data);
        }
        let ttl = u64::try_from(shared.config.tail_ttl.as_millis()).unwrap_or(u64::MAX);
        transaction.cmd("PEXPIRE").arg(&tail).arg(ttl);
    }
    transaction.cmd("PUBLISH").arg(shared.key(*tenant, &format!("task:{task}"))).arg(last);
}
