use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, mkdirat, renameat};

use super::*;
use crate::testing::Tree;

/// What [`tower`] makes for each level.
const EACH: Extent = Extent { bytes: 7, entries: 4 };

fn times(extent: Extent, count: u64) -> Extent {
    Extent { bytes: extent.bytes * count, entries: extent.entries * count }
}

fn make_dir(parent: &impl AsFd, name: &str) -> OwnedFd {
    mkdirat(parent, name, Mode::RWXU).expect("makes");
    beneath::open_dir(parent.as_fd(), name.as_bytes()).expect("opens")
}

fn make_file(parent: &impl AsFd, name: &str, content: &[u8]) {
    let file = beneath::create_file(parent.as_fd(), name.as_bytes()).expect("makes");
    rustix::io::write(file, content).expect("writes");
}

/// Directories below each other, with something beside the next one in each, in
/// whatever order it is read. From the highest to the lowest.
fn tower(top: &impl AsFd, name: &str, height: usize) -> Vec<OwnedFd> {
    let mut levels: Vec<OwnedFd> = Vec::new();
    for _ in 0..height {
        let level = levels.last().map_or_else(|| make_dir(top, name), |above| make_dir(above, name));
        make_file(&level, "file", b"123");
        make_file(&make_dir(&level, "beside"), "file", b"4567");
        levels.push(level);
    }
    levels
}

/// So that what is left to the test's end is not too deep for it.
fn clear(tree: &Tree) {
    remove::empty(tree.fd()).expect("removes");
}

fn finish(mut measuring: Measuring<'_>) -> Extent {
    while measuring.step().expect("goes on") {}
    measuring.found
}

#[test]
fn what_no_path_leads_to_is_measured() {
    let tree = Tree::new();
    // Each moved below the foot of the one before: deeper than names may be, and so far
    // that no path leads there.
    let name = "n".repeat(100);
    let mut foot: Option<OwnedFd> = None;
    for n in 0..30 {
        let (top, below) = (format!("{name}{n}"), tower(&tree.fd(), &format!("{name}{n}"), 100).pop());
        if let Some(foot) = &foot {
            renameat(tree.fd(), &top, foot, &top).expect("moves");
        }
        foot = below;
    }
    assert_eq!(measure(tree.fd()).expect("walks"), times(EACH, 3_000));
    clear(&tree);
}

#[test]
fn directories_beside_each_other_are_counted_however_many() {
    let tree = Tree::in_memory();
    for n in 0..100_100 {
        mkdirat(tree.fd(), format!("{n}"), Mode::RWXU).expect("makes");
    }
    assert_eq!(measure(tree.fd()).expect("walks"), Extent { bytes: 0, entries: 100_100 });
    clear(&tree);
}

/// Goes down a tower of so many levels, to the lowest.
fn at_the_foot(tree: &Tree, height: usize) -> Measuring<'_> {
    let mut measuring = Measuring::begin(tree.fd()).expect("begins");
    while measuring.levels.len() <= height {
        assert!(measuring.step().expect("goes on"), "is not there yet");
    }
    assert_eq!(measuring.held.len(), HELD, "no more are held open");
    measuring
}

/// Directories at the top, which lie in some order with a tower that is beside them.
fn places(tree: &Tree) -> Vec<OwnedFd> {
    (0..32).map(|n| make_dir(&tree.fd(), &format!("place-{n}"))).collect()
}

/// One that the walk has yet to come to. It is hardly ever none.
fn ahead<'a>(measuring: &Measuring<'_>, places: &'a [OwnedFd]) -> Option<&'a OwnedFd> {
    places.iter().find(|place| !measuring.entered.contains(&id_of(place.as_fd()).expect("stat")))
}

#[test]
fn a_directory_that_is_moved_is_counted_once_and_so_is_what_it_was_in() {
    let tree = Tree::new();
    let (levels, places) = (tower(&tree.fd(), "d", 100), places(&tree));
    let measuring = at_the_foot(&tree, 100);
    let Some(ahead) = ahead(&measuring, &places) else { return clear(&tree) };
    renameat(&levels[48], "d", ahead, "moved").expect("moves");
    let all = Extent { entries: EACH.entries * 100 + 32, bytes: EACH.bytes * 100 };
    assert_eq!(finish(measuring), all);
    assert_eq!(measure(tree.fd()).expect("walks"), all);
    clear(&tree);
}

#[test]
fn what_was_not_read_to_its_end_is_read_on_where_it_is_met() {
    let tree = Tree::new();
    let (levels, places) = (tower(&tree.fd(), "d", 100), places(&tree));
    let measuring = at_the_foot(&tree, 100);
    let Some(ahead) = ahead(&measuring, &places) else { return clear(&tree) };
    renameat(&levels[73], "d", tree.fd(), "moved").expect("moves");
    renameat(&levels[23], "d", ahead, "moved").expect("moves");
    let all = Extent { entries: EACH.entries * 100 + 32, bytes: EACH.bytes * 100 };
    assert_eq!(finish(measuring), all);
    assert_eq!(measure(tree.fd()).expect("walks"), all);
    clear(&tree);
}

#[test]
fn a_tree_that_keeps_changing_is_not_measured_for_ever_nor_twice() {
    let tree = Tree::new();
    let levels = tower(&tree.fd(), "d", 150);
    let (stop, all) = (AtomicBool::new(false), times(EACH, 150));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for level in [20, 40, 60, 80, 100, 120] {
                    let _ = renameat(&levels[level], "d", tree.fd(), format!("moved-{level}"));
                }
                for level in [120, 80, 40, 100, 60, 20] {
                    let _ = renameat(tree.fd(), format!("moved-{level}"), &levels[level], "d");
                }
            }
        });
        let outcomes: Vec<_> = (0..100).map(|_| measure(tree.fd())).collect();
        stop.store(true, Ordering::Relaxed);
        for outcome in outcomes {
            match outcome {
                Ok(found) => assert!(found.entries <= all.entries && found.bytes <= all.bytes, "{found:?}"),
                Err(WorkspaceError::OverLimit { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!(measure(tree.fd()).expect("walks"), all);
    clear(&tree);
}

#[test]
fn what_has_no_end_has_no_measure() {
    let tree = Tree::new();
    let below = tower(&tree.fd(), "d", 3).pop().expect("has levels");
    assert_eq!(measure_within(tree.fd(), 12).expect("walks"), times(EACH, 3));
    make_file(&below, "more", b"");
    assert!(matches!(measure_within(tree.fd(), 12), Err(WorkspaceError::OverLimit { limit: 12, .. })));
}
