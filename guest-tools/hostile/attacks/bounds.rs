//! Names paths that are too long or too deep, and lists directories that never
//! end. Wanted: `succeeded`, refused (`"refused"`, or `escaped` false) at the
//! limit, with each refusal in the guest's own words.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use bulkhead_tool::serde_json::json;
use hostile::Attempts;
use wasip2::clocks::wall_clock::Datetime;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};

hostile::attacks!("bounds", run);

/// Bytes that the tests allow a path, and names; entries of a listing.
const BYTES: usize = 1_024;
const NAMES: usize = 32;
const ENTRIES: usize = 600;

fn run(attack: &str) -> Outcome {
    let root = get_directories().pop().expect("the workspace").0;
    match attack {
        // Of names that lead nowhere, so that all of it would be well but its length.
        "long_paths" => every_path(&root, &"./".repeat(BYTES / 2 + 1)),
        "deep_paths" => every_path(&root, &deep(&root)),
        "long_targets" => targets(&root, &("./".repeat(BYTES / 2) + "file")),
        "deep_targets" => targets(&root, &("d/".repeat(NAMES) + "file")),
        "deep_descriptors" => {
            let mut at = root;
            climb(|_| {
                at.create_directory_at("d")?;
                at = at.open_at(PathFlags::empty(), "d", OpenFlags::DIRECTORY, rights())?;
                Ok(())
            })
        }
        "long_listing" => {
            fill(&root, ENTRIES + 200);
            list(&root, || {})
        }
        // Two more for each that is read.
        "growing_listing" => {
            fill(&root, ENTRIES - 100);
            let mut made = 0;
            list(&root, || {
                made += 1;
                let _ = touch(&root, &format!("more-{made}"));
                let _ = touch(&root, &format!("{made}-more"));
            })
        }
        // What is gone by then is no part of a listing that was begun before:
        // it is read as it is asked for.
        "listing_of_removed" => {
            fill(&root, ENTRIES - 100);
            let listing = root.read_directory().expect("a listing");
            let first = listing.read_directory_entry().expect("an entry").expect("an entry");
            for n in 0..ENTRIES {
                let _ = root.unlink_file_at(&name(n));
            }
            let mut listed = 1;
            while let Ok(Some(_)) = listing.read_directory_entry() {
                listed += 1;
            }
            hostile::survived(&json!({ "refused": listed < ENTRIES / 2, "listed": listed, "first": first.name }))
        }
        // Begun again and again, without reading on: nothing is read for nothing.
        "listings_begun" => {
            fill(&root, 3 * ENTRIES);
            let begun = (0..15_000).take_while(|_| root.read_directory().is_ok()).count();
            hostile::survived(&json!({ "begun": begun }))
        }
        _ => hostile::unknown(attack),
    }
}

fn rights() -> DescriptorFlags {
    DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY
}

fn touch(root: &Descriptor, name: &str) -> Result<(), ErrorCode> {
    root.open_at(PathFlags::empty(), name, OpenFlags::CREATE, DescriptorFlags::WRITE).map(drop)
}

fn name(n: usize) -> String {
    format!("a-name-that-takes-some-room-{n}")
}

fn fill(root: &Descriptor, files: usize) {
    (0..files).for_each(|n| touch(root, &name(n)).expect("a file"));
}

/// Up to ten times as deep as may be.
fn climb(mut step: impl FnMut(usize) -> Result<(), ErrorCode>) -> Outcome {
    for n in 0..10 * NAMES {
        if let Err(error) = step(n) {
            return hostile::survived(&json!({ "done": n, "refused": true, "got": format!("{error:?}") }));
        }
    }
    hostile::survived(&json!({ "done": 10 * NAMES, "refused": false }))
}

/// Lists to the end; refused is what ends by an error, and near the limit.
fn list(root: &Descriptor, mut each: impl FnMut()) -> Outcome {
    let listing = root.read_directory().expect("a listing");
    for listed in 0..10 * ENTRIES {
        match listing.read_directory_entry() {
            Ok(Some(_)) => each(),
            Ok(None) => return hostile::survived(&json!({ "listed": listed, "refused": false })),
            Err(error) => {
                let over = listing.read_directory_entry();
                let refused = listed <= ENTRIES && matches!(over, Ok(None));
                return hostile::survived(
                    &json!({ "listed": listed, "refused": refused, "got": format!("{error:?}") }),
                );
            }
        }
    }
    hostile::survived(&json!({ "listed": 10 * ENTRIES, "refused": false }))
}

/// A directory that is there and deeper than may be named, with a `/` after it:
/// made by moving one half below the other.
fn deep(root: &Descriptor) -> String {
    let half = |name: &str| {
        let path = vec![name; NAMES - 2].join("/");
        let parents = (1..=path.len()).filter(|end| path.as_bytes().get(*end).is_none_or(|byte| *byte == b'/'));
        parents.for_each(|end| root.create_directory_at(&path[..end]).expect("a directory"));
        path
    };
    let (upper, lower) = (half("u"), half("l"));
    root.rename_at("l", root, &format!("{upper}/l")).expect("a move");
    format!("{upper}/{lower}/")
}

/// Every function that takes a path, where `before` is all that is wrong with it.
fn every_path(root: &Descriptor, before: &str) -> Outcome {
    let mut attempts = Attempts::default();
    let (none, follow) = (PathFlags::empty(), PathFlags::SYMLINK_FOLLOW);
    for name in ["stat", "link", "from", "gone"] {
        attempts.note(name, touch(root, name));
    }
    attempts.note("dir", root.create_directory_at("dir"));
    attempts.note("symlink", root.symlink_at("stat", "symlink"));
    let path = |name: &str| format!("{before}{name}");
    let now = || NewTimestamp::Timestamp(Datetime { seconds: 1, nanoseconds: 0 });
    let new = path("new");
    attempts.must_fail("open", touch(root, &new));
    attempts.must_fail("open a directory", root.open_at(none, before, OpenFlags::DIRECTORY, rights()));
    attempts.must_fail("make a directory", root.create_directory_at(&path("new-dir")));
    attempts.must_fail("make a link", root.symlink_at("stat", &path("new-symlink")));
    attempts.must_fail("link to", root.link_at(none, "link", root, &path("new-link")));
    attempts.must_fail("move to", root.rename_at("from", root, &path("to")));
    if before.starts_with('.') {
        attempts.must_fail("link from", root.link_at(none, &path("link"), root, "new-link"));
        attempts.must_fail("stat", root.stat_at(follow, &path("stat")));
        attempts.must_fail("hash", root.metadata_hash_at(follow, &path("stat")));
        attempts.must_fail("set times", root.set_times_at(follow, &path("stat"), now(), now()));
        attempts.must_fail("read a link", root.readlink_at(&path("symlink")));
        attempts.must_fail("move", root.rename_at(&path("from"), root, "to"));
        attempts.must_fail("remove a directory", root.remove_directory_at(&path("dir")));
        attempts.must_fail("remove a file", root.unlink_file_at(&path("gone")));
    } else {
        attempts.must_fail("stat", root.stat_at(follow, before));
        attempts.must_fail("remove a directory", root.remove_directory_at(before));
    }
    attempts.finish()
}

fn targets(root: &Descriptor, target: &str) -> Outcome {
    let mut attempts = Attempts::default();
    attempts.must_fail("a link to it", root.symlink_at(target, "link"));
    attempts.finish()
}
