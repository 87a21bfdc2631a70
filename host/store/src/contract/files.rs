//! What is known of files.

use std::sync::Arc;

use bulkhead_core::call::Call;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::{ChangeCounts, ChangeKind, ChangedBy, EventBody, FileChange, NewEvent};
use bulkhead_core::files::{
    Access, AccessKind, DeletedFile, DeletedState, FileFacts, HistoryEntry, Place, Upload, changed_by_client,
    entries_of,
};
use bulkhead_core::id::{AccessId, DeletedId, UploadId};
use bulkhead_core::ports::files::{FileRetention, FileStep, HistoryPage};
use bulkhead_core::ports::store::{Appended, HeldTask, Store};
use bulkhead_core::ports::workspace::EntryKind;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{Task, TaskState};
use futures::future::join_all;

use super::world::{NOW, World, at, end, event, log, owner, page};

fn facts(content: &[u8]) -> FileFacts {
    let size = content.len() as u64;
    FileFacts { size, digest: Digest::of(content), media_type: "text/plain".into(), etag: format!("\"{size}\"") }
}

fn changes(paths: &[&str]) -> Vec<FileChange> {
    paths.iter().map(|path| FileChange { path: (*path).into(), change: ChangeKind::Created }).collect()
}

/// A client has put this content into the last of these paths.
pub(crate) fn sent(task: &Task, millis: i64, paths: &[&str], content: &[u8]) -> NewEvent {
    let user = task.owner.user;
    let body = changed_by_client(user, changes(paths), ChangeCounts::default(), false, Some(facts(content)));
    NewEvent::new(at(millis), None, &body)
}

fn by_call(call: &Call, paths: &[&str]) -> NewEvent {
    let body = EventBody::files_changed(ChangedBy::Call, changes(paths), ChangeCounts::default(), false);
    NewEvent::new(at(5), Some(call.id), &body)
}

pub(super) fn all() -> HistoryPage {
    HistoryPage { path: None, before: None, limit: 10_000 }
}

async fn history(store: &dyn Store, task: &Task, page: HistoryPage) -> Vec<HistoryEntry> {
    store.file_history(task.id, page).await.unwrap()
}

fn extent(bytes: u64, entries: u64) -> Extent {
    Extent { bytes, entries }
}

/// Every way by which an event comes into a log makes the entries that it tells.
pub(super) async fn each_change_is_in_the_history(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let task = world.ready_task(owner(1)).await;
    let other = world.ready_task(owner(2)).await;
    let long = "ü%0A".repeat(3_000);
    let events = vec![event(1), sent(&task, 2, &["a", "b"], b"one"), event(3), sent(&task, 4, &[&long], b"two")];
    store.append_events(task.id, events.clone()).await.unwrap();
    let call = world.running_call(&task);
    world.accept(&call).await;
    let mut ending = end(&call, "done");
    ending.events.insert(0, by_call(&call, &["a"]));
    let ended = ending.events.clone();
    let last = store.end_call(ending).await.unwrap().unwrap();
    let changed = store.change_files(task.id, FileStep::Alone, Some(extent(7, 2)), vec![sent(&task, 9, &["a"], b"")]);
    let changed = changed.await.unwrap().unwrap();
    assert_eq!(changed, Appended { first: last.last + 1, last: last.last + 1 });
    let kept: Vec<_> = store.task_extents(owner(1)).await.unwrap();
    assert_eq!(kept, [HeldTask { task: task.id, extent: extent(7, 2), kept: false }]);

    let mut expected: Vec<_> = (1..).zip(&events).flat_map(|(seq, event)| entries_of(event, seq)).collect();
    expected.extend((last.first..).zip(&ended).flat_map(|(seq, event)| entries_of(event, seq)));
    expected.extend(entries_of(&sent(&task, 9, &["a"], b""), changed.last));
    expected.reverse();
    assert_eq!(history(&*store, &task, all()).await, expected);
    assert_eq!(expected.len(), 5);
    assert_eq!(expected[1].call, Some(call.id));
    let of = |path: &str| HistoryPage { path: Some(path.into()), ..all() };
    let of_a: Vec<_> = expected.iter().filter(|entry| entry.path == "a").cloned().collect();
    assert_eq!(history(&*store, &task, of("a")).await, of_a);
    assert_eq!(history(&*store, &task, of(&long)).await.len(), 1);
    let rest = HistoryPage { before: Some(of_a[0].place), limit: 1, ..of("a") };
    assert_eq!(history(&*store, &task, rest).await, of_a[1..2]);
    let within = HistoryPage { before: Some(Place { seq: 2, number: 2 }), ..all() };
    assert_eq!(history(&*store, &task, within).await, expected[4..]);
    assert_eq!(history(&*store, &other, all()).await, []);
    let unknown = world.task(owner(1), TaskState::Ready).id;
    assert_eq!(store.change_files(unknown, FileStep::Alone, None, vec![event(1)]).await.unwrap(), None);
}

pub(super) async fn a_content_is_found_by_its_owner_alone(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (one, two) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let other = world.ready_task(owner(2)).await;
    for (task, millis, path) in [(&one, 1, "old"), (&two, 2, "new"), (&other, 3, "theirs")] {
        store.append_events(task.id, vec![sent(task, millis, &["x", path], b"same")]).await.unwrap();
    }
    let found = store.contents(owner(1), Digest::of(b"same"), 9).await.unwrap();
    let places: Vec<_> = found.iter().map(|place| (place.task, &*place.path, &place.facts)).collect();
    assert_eq!(places, [(two.id, "new", &facts(b"same")), (one.id, "old", &facts(b"same"))]);
    assert_eq!(store.contents(owner(1), Digest::of(b"same"), 1).await.unwrap(), found[..1]);
    assert_eq!(store.contents(owner(1), Digest::of(b"else"), 9).await.unwrap(), []);
    assert_eq!(store.contents(owner(3), Digest::of(b"same"), 9).await.unwrap(), []);
}

pub(super) async fn a_history_outlives_events_and_is_bounded(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (long, old) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let appends = (0..1_300).map(|number| store.append_events(long.id, vec![sent(&long, 1_000 + number, &["a"], b"")]));
    assert!(join_all(appends).await.into_iter().all(|appended| appended.unwrap().is_some()));
    for millis in [1, 2, 3_000] {
        store.append_events(old.id, vec![sent(&old, millis, &["b", "c"], b"")]).await.unwrap();
    }
    let keep = FileRetention { history_before: at(0), history_per_task: 2_000, accesses_before: at(0) };
    let retain = async |retention| {
        let mut history = 0;
        loop {
            let removed = store.retain_files(retention).await.unwrap();
            if removed == Default::default() {
                return history;
            }
            history += removed.history;
        }
    };
    assert_eq!(retain(keep).await, 0);
    assert_eq!(retain(FileRetention { history_before: at(3), ..keep }).await, 4);
    let left: Vec<_> = history(&*store, &old, all()).await.iter().map(|entry| entry.place.seq).collect();
    assert_eq!(left, [3, 3]);
    assert_eq!(retain(FileRetention { history_per_task: 100, ..keep }).await, 1_200);
    let left = history(&*store, &long, all()).await;
    assert_eq!((left.len(), left[0].place.seq, left[99].place.seq), (100, 1_300, 1_201));
    // What is counted is what is there.
    store.append_events(long.id, vec![sent(&long, 9_999, &["a"], b"")]).await.unwrap();
    assert_eq!(retain(FileRetention { history_per_task: 100, ..keep }).await, 1);
    assert_eq!(log(&*store, long.id).await.len(), 1_301, "events have a time of their own");
}

pub(crate) fn deleted(world: &World, task: &Task, path: &str) -> DeletedFile {
    let number = world.number();
    DeletedFile {
        id: DeletedId::from_parts(NOW as u64 + number, 0),
        task: task.id,
        owner: task.owner,
        state: DeletedState::Leaving,
        path: path.into(),
        target: None,
        kind: EntryKind::Directory,
        extent: Extent::default(),
        at: at(number as i64),
    }
}

pub(super) async fn a_deleted_entry_goes_its_way(store: Arc<dyn Store>) {
    use DeletedState::*;
    let world = World::new(store.clone());
    let (task, other) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let files: Vec<_> = ["a", "b", "c"].iter().map(|path| deleted(&world, &task, path)).collect();
    for file in &files {
        assert!(store.put_deleted(file).await.unwrap());
    }
    let nowhere = world.task(owner(1), TaskState::Ready);
    assert!(!store.put_deleted(&deleted(&world, &nowhere, "x")).await.unwrap());
    assert_eq!(store.list_deleted(task.id, page(None, 9)).await.unwrap(), [], "none is kept yet");
    let told = |millis| vec![sent(&task, millis, &["a"], b"")];
    let keep = |id, task| store.change_files(task, FileStep::Kept(id, extent(5, 2)), None, told(1));
    assert_eq!(keep(files[0].id, other.id).await.unwrap(), None);
    for file in &files[..2] {
        assert!(keep(file.id, task.id).await.unwrap().is_some());
        assert_eq!(keep(file.id, task.id).await.unwrap(), None, "once");
    }
    assert_eq!(log(&*store, other.id).await, []);
    assert_eq!(history(&*store, &task, all()).await.len(), 2);
    let kept = |file: &DeletedFile| DeletedFile { state: Kept, extent: extent(5, 2), ..file.clone() };
    let listed = store.list_deleted(task.id, page(None, 9)).await.unwrap();
    assert_eq!(listed, [kept(&files[1]), kept(&files[0])]);
    assert_eq!(store.list_deleted(task.id, page(Some(files[1].id), 9)).await.unwrap(), [kept(&files[0])]);
    assert_eq!(store.list_deleted(other.id, page(None, 9)).await.unwrap(), []);
    assert_eq!(store.deleted(task.id, files[0].id).await.unwrap(), Some(kept(&files[0])));
    assert_eq!(store.deleted(other.id, files[0].id).await.unwrap(), None);
    // One of many who want it back has it.
    let returning = (0..8).map(|_| store.move_deleted(task.id, files[0].id, Kept, Returning, Some("t")));
    let won = join_all(returning).await.into_iter().filter(|moved| *moved.as_ref().unwrap()).count();
    assert_eq!(won, 1);
    assert!(!store.move_deleted(other.id, files[1].id, Kept, Purging, None).await.unwrap());
    let returning = DeletedFile { state: Returning, target: Some("t".into()), ..kept(&files[0]) };
    // What is on its way, and what is old.
    let tended = store.deleted_to_tend(at(0), None, 9).await.unwrap();
    assert_eq!(tended, [returning.clone(), files[2].clone()]);
    assert_eq!(store.deleted_to_tend(at(0), Some(files[0].id), 9).await.unwrap(), [files[2].clone()]);
    let old = store.deleted_to_tend(at(1_000), None, 2).await.unwrap();
    assert_eq!(old, [returning, kept(&files[1])]);
    let gone = |id| store.change_files(task.id, FileStep::Gone(id), None, told(2));
    assert!(gone(files[0].id).await.unwrap().is_some());
    assert_eq!(gone(files[0].id).await.unwrap(), None);
    assert_eq!(store.deleted(task.id, files[0].id).await.unwrap(), None);
}

pub(crate) fn upload(world: &World, task: &Task) -> Upload {
    let number = world.number();
    Upload {
        id: UploadId::from_parts(NOW as u64 + number, 0),
        task: task.id,
        owner: task.owner,
        path: "d/f".into(),
        length: 1 << 40,
        replace: number.is_multiple_of(2),
        executable: Some(number.is_multiple_of(2)),
        media_type: "text/plain".into(),
        digest: Some(Digest::of(b"x")),
        created_at: at(number as i64),
        expires_at: at(number as i64 + 100),
        completed_at: None,
    }
}

pub(super) async fn uploads_are_few_and_complete_once(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (task, other) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    let (one, two) = (upload(&world, &task), Upload { digest: None, executable: None, ..upload(&world, &task) });
    assert!(store.put_upload(&one, 2).await.unwrap() && store.put_upload(&two, 2).await.unwrap());
    let three = upload(&world, &task);
    assert!(!store.put_upload(&three, 2).await.unwrap());
    assert!(store.put_upload(&upload(&world, &other), 2).await.unwrap());
    assert_eq!(store.upload(task.id, one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(store.upload(task.id, two.id).await.unwrap(), Some(two.clone()));
    assert_eq!(store.upload(other.id, one.id).await.unwrap(), None);
    let complete = |task: &Task, id| {
        store.change_files(task.id, FileStep::Completed(id, at(50)), None, vec![sent(task, 5, &["d/f"], b"x")])
    };
    assert_eq!(complete(&other, one.id).await.unwrap(), None);
    let completed = join_all((0..4).map(|_| complete(&task, one.id))).await;
    assert_eq!(completed.into_iter().filter(|done| done.as_ref().unwrap().is_some()).count(), 1);
    let done = Upload { completed_at: Some(at(50)), ..one.clone() };
    assert_eq!(store.upload(task.id, one.id).await.unwrap(), Some(done.clone()));
    assert!(store.put_upload(&three, 2).await.unwrap(), "a complete one makes room");
    let expired = store.expired_uploads(two.expires_at, None, 9).await.unwrap();
    assert_eq!(expired, [done]);
    assert_eq!(store.expired_uploads(at(9_999), Some(one.id), 1).await.unwrap(), [two]);
    assert!(!store.remove_upload(other.id, one.id).await.unwrap());
    assert!(store.remove_upload(task.id, one.id).await.unwrap());
    assert!(!store.remove_upload(task.id, one.id).await.unwrap());
}

pub(super) fn access(number: u64, task: &Task, kind: AccessKind) -> Access {
    Access {
        id: AccessId::from_parts(NOW as u64 + number, 0),
        task: task.id,
        owner: task.owner,
        by: owner(9),
        at: at(number as i64),
        kind,
        path: format!("p{}", number % 2),
        bytes: number,
        status: "ok".into(),
        edge: "http".into(),
    }
}

pub(super) async fn accesses_are_listed_and_go(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let (task, other) = (world.ready_task(owner(1)).await, world.ready_task(owner(1)).await);
    use AccessKind::*;
    let kinds = [Read, Write, Delete, Restore, Move, Copy];
    let mut entries: Vec<_> = (0..).zip(kinds).map(|(number, kind)| access(number, &task, kind)).collect();
    entries.push(access(7, &other, Read));
    store.append_accesses(&entries).await.unwrap();
    store.append_accesses(&entries[..2]).await.unwrap();
    store.append_accesses(&[]).await.unwrap();
    let mut ours = entries[..6].to_vec();
    ours.reverse();
    assert_eq!(store.list_accesses(task.id, None, page(None, 99)).await.unwrap(), ours);
    assert_eq!(store.list_accesses(task.id, None, page(Some(ours[1].id), 2)).await.unwrap(), ours[2..4]);
    let of_one = store.list_accesses(task.id, Some("p1"), page(None, 99)).await.unwrap();
    assert_eq!(of_one.iter().map(|access| access.bytes).collect::<Vec<_>>(), [5, 3, 1]);
    let retention = FileRetention { history_before: at(0), history_per_task: 9, accesses_before: at(4) };
    assert_eq!(store.retain_files(retention).await.unwrap().accesses, 4);
    assert_eq!(store.list_accesses(task.id, None, page(None, 99)).await.unwrap(), ours[..2]);
}
