//! Tests of the batch: pure, without a store.

use super::*;
use crate::event::ChangeKind;
use crate::reached::Bound;

fn text_of(bodies: &[EventBody]) -> String {
    bodies
        .iter()
        .map(|body| match body {
            EventBody::CallOutput { text, .. } => text.as_str(),
            _ => "",
        })
        .collect()
}

#[test]
fn a_character_cut_between_chunks_is_whole_again() {
    let mut batch = Batch::default();
    let bytes = "naïve 🦀".as_bytes();
    for byte in bytes {
        batch.add(Emission::Output(Stream::Stdout, Bytes::copy_from_slice(&[*byte])));
    }
    let bodies = batch.take(true);
    assert_eq!(bodies.len(), 1);
    assert_eq!(text_of(&bodies), "naïve 🦀");
}

#[test]
fn a_cut_character_survives_a_flush_and_rubbish_is_replaced() {
    let mut batch = Batch::default();
    batch.add(Emission::Output(Stream::Stdout, Bytes::from_static(b"a\xe2\x82")));
    assert_eq!(text_of(&batch.take(false)), "a");
    batch.add(Emission::Output(Stream::Stdout, Bytes::from_static(b"\xacb\xffc\xe2")));
    batch.end_text();
    assert_eq!(text_of(&batch.take(true)), "€b\u{fffd}c\u{fffd}");
}

/// Whatever a worker sends: its own interval is not relied upon.
#[tokio::test(start_paused = true)]
async fn of_progress_the_last_is_told_now_and_then() {
    let mut batch = Batch::default();
    let told = |bodies: Vec<EventBody>| -> Vec<u64> {
        let done = |body: &EventBody| match body {
            EventBody::CallProgress { done, .. } => Some(*done),
            _ => None,
        };
        bodies.iter().filter_map(done).collect()
    };
    let mut flushed = Vec::new();
    for done in 1..=1_000 {
        batch.add(Emission::Progress { done, total: None, message: None });
        flushed.extend(told(batch.take(false)));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(flushed, [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]);
    assert_eq!(told(batch.take(true)), [1_000]);
}

#[test]
fn streams_keep_their_order() {
    let mut batch = Batch::default();
    for (stream, text) in [(Stream::Stdout, "1"), (Stream::Stderr, "2"), (Stream::Stdout, "3"), (Stream::Stdout, "4")] {
        batch.add(Emission::Output(stream, Bytes::from(text)));
    }
    let bodies = batch.take(true);
    assert_eq!(bodies.len(), 3);
    assert_eq!(text_of(&bodies), "1234");
}

/// Of a workspace the host knows what bounds it, and what is used.
#[test]
fn what_bounds_a_workspace_is_told_with_what_is_used_of_it() {
    let name = "quota.workspace_bytes_per_user";
    let bytes_bound = Bound { name, value: 20, used: Some(18) };
    let room = (Room { bytes_bound, ..Room::default() }, Lease::default());
    let mut batch = Batch { room: Some(room), ..Batch::default() };
    batch.add(Emission::Truncated { limit: "workspace_bytes", used: None });
    let [EventBody::CallTruncated(reached)] = &batch.take(true)[..] else { panic!("one event") };
    assert_eq!((&*reached.limit, reached.value, reached.used), (name, 20, Some(18)));
    let said = serde_json::to_value(EventBody::CallTruncated(reached.clone())).expect("serializes");
    assert_eq!(said["data"]["limit"], name);
}

#[test]
fn changes_are_split_and_counted_once() {
    let mut batch = Batch::default();
    for index in 0..CHANGES_PER_EVENT + 10 {
        batch.add(Emission::Changed(FileChange { path: format!("f{index}"), change: ChangeKind::Created }));
    }
    let counts = ChangeCounts { created: 5, modified: 0, deleted: 2 };
    batch.add(Emission::ChangedUnnamed(counts));
    let bodies = batch.take(true);
    let (mut named, mut created, mut deleted, mut flags) = (0, 0, 0, vec![]);
    for body in &bodies {
        let EventBody::FilesChanged { changes, counts, incomplete, .. } = body else { panic!("{body:?}") };
        named += changes.len();
        created += counts.created;
        deleted += counts.deleted;
        flags.push(*incomplete);
    }
    let Some(EventBody::FilesChanged { reached: Some(reached), .. }) = bodies.last() else { panic!("{bodies:?}") };
    assert_eq!((&*reached.limit, reached.value, reached.used), ("file_changes", 1_000, None));
    assert_eq!((named, created, deleted), (510, 515, 2));
    assert_eq!(flags, [false, true]);
    // Of the whole call, and not of what was stored last.
    batch.add(Emission::ChangedUnnamed(ChangeCounts { created: 0, modified: 600, deleted: 0 }));
    let [EventBody::FilesChanged { reached: Some(reached), .. }] = &batch.take(true)[..] else { panic!("one event") };
    assert_eq!(reached.used, Some(1_117));
    assert!(reached.message.contains("1117"), "{}", reached.message);
}

#[test]
fn what_came_and_went_is_not_told() {
    let mut batch = Batch::default();
    let mut add = |path: &str, change| batch.add(Emission::Changed(FileChange { path: path.into(), change }));
    add(".a.tmp", ChangeKind::Created);
    add("a", ChangeKind::Modified);
    add(".a.tmp", ChangeKind::Deleted);
    add("b", ChangeKind::Deleted);
    let bodies = batch.take(true);
    let [EventBody::FilesChanged { changes, counts, .. }] = &bodies[..] else { panic!("{bodies:?}") };
    let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(paths, ["a", "b"]);
    assert_eq!(*counts, ChangeCounts { created: 0, modified: 1, deleted: 1 });
}
