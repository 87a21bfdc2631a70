//! Out of the workspace, and beyond what it may hold. Wanted: refusals that the
//! guest survives, and the host's files as they were.
#![cfg(target_arch = "wasm32")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use async_hostile::{MANY, open, refused, root, survived, unknown};
use bulkhead_async_tool::Outcome;
use bulkhead_async_tool::serde_json::{Value, json};
use wasip3::filesystem::types::{DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip3::wit_stream;

async_hostile::attacks!("async_files", run);

async fn run(attack: &str) -> Outcome {
    match attack {
        "escape" => escape().await,
        "links_beside_a_move" => links_beside_a_move().await,
        "names_beside_a_move" => names_beside_a_move().await,
        "quota_by_stream" => {
            let file = open(&root(), "file").await.expect("a file");
            file.set_size((1 << 30) - (1 << 20)).await.expect("sparse");
            let (mut writer, data) = wit_stream::new::<u8>();
            let written = file.append_via_stream(data);
            let left = writer.write_all(vec![7; 2 << 20]).await;
            drop(writer);
            match written.await {
                Err(refusal) => refused(left.len(), refusal),
                Ok(()) => survived(&json!({ "refused": false })),
            }
        }
        "many_entries" => {
            let root = root();
            for n in 0..MANY {
                if let Err(refusal) = root.create_directory_at(format!("d{n}")).await {
                    return refused(n, refusal);
                }
            }
            survived(&json!({ "refused": false }))
        }
        "many_open" => {
            let (root, mut kept) = (root(), Vec::new());
            loop {
                match open(&root, "file").await {
                    Ok(file) => kept.push(file),
                    Err(refusal) => return refused(kept.len(), refusal),
                }
            }
        }
        "many_streams" => {
            let file = open(&root(), "file").await.expect("a file");
            let kept: Vec<_> = (0..MANY).map(|_| file.read_via_stream(0)).collect();
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        "many_listings" => {
            let root = root();
            let mut kept = Vec::new();
            for _ in 0..MANY {
                let (mut entries, ended) = root.read_directory();
                if entries.next().await.is_none() && ended.await.is_err() {
                    return refused(kept.len(), ErrorCode::InsufficientMemory);
                }
                kept.push(entries);
            }
            survived(&json!({ "kept": kept.len(), "refused": false }))
        }
        // It is there, and short enough for the kernel: only our own bound refuses it.
        "long_path" => match root().stat_at(PathFlags::empty(), "./".repeat(1_000)).await {
            Err(refusal) => refused(0, refusal),
            Ok(_) => survived(&json!({ "refused": false })),
        },
        _ => unknown(attack),
    }
}

/// Every way by a path, a link and a rename.
async fn escape() -> Outcome {
    let root = root();
    let (mut attempts, mut escaped) = (Vec::new(), false);
    let mut note = |what: String, result: Result<(), ErrorCode>| {
        escaped |= result.is_ok();
        attempts.push(json!({ "attempt": what, "got": format!("{result:?}") }));
    };
    root.create_directory_at("d".into()).await.expect("a directory");
    for path in ["..", "../..", "/etc/passwd", "d/../../x", "../../../../etc/passwd"] {
        let opened = root.open_at(PathFlags::SYMLINK_FOLLOW, path.into(), OpenFlags::empty(), DescriptorFlags::READ);
        note(format!("open {path}"), opened.await.map(drop));
        note(format!("stat {path}"), root.stat_at(PathFlags::empty(), path.into()).await.map(drop));
        note(format!("mkdir {path}/x"), root.create_directory_at(format!("{path}/x")).await);
        let listed = root.open_at(PathFlags::empty(), path.into(), OpenFlags::DIRECTORY, DescriptorFlags::READ);
        note(format!("list {path}"), listed.await.map(drop));
        note(format!("move to {path}/x"), root.rename_at("d".into(), &root, format!("{path}/x")).await);
    }
    for target in ["/etc", "..", "d/../..", "../../etc/passwd"] {
        note(format!("link to {target}"), root.symlink_at(target.into(), format!("l{}", target.len())).await);
    }
    survived(&json!({ "escaped": escaped, "attempts": attempts }))
}

/// A directory is moved up, which its links are looked through for, and while
/// they are one is made in it that leads out from where it will lie.
async fn links_beside_a_move() -> Outcome {
    let root = root();
    for path in ["a", "a/b", "a/b/c", "a/b/c/first"] {
        root.create_directory_at(path.into()).await.expect("a directory");
    }
    for n in 0..3_000 {
        root.symlink_at(".".into(), format!("a/b/c/first/l{n}")).await.expect("a link");
    }
    let mut moving = pin!(root.rename_at("a/b/c".into(), &root, "moved".into()));
    let begun = poll_fn(|context| Poll::Ready(moving.as_mut().poll(context))).await;
    let mut made = Vec::<Value>::new();
    for n in 0..100 {
        let link = root.symlink_at("../../..".into(), format!("a/b/c/trap{n}")).await;
        made.push(format!("{link:?}").into());
        if link.is_ok() {
            break;
        }
    }
    let moved = match begun {
        Poll::Ready(moved) => moved,
        Poll::Pending => moving.await,
    };
    let trap = |n: usize| root.readlink_at(format!("moved/trap{n}"));
    let mut escaped = false;
    for n in 0..made.len() {
        escaped |= trap(n).await.is_ok();
    }
    let last = made.pop();
    survived(&json!({ "escaped": escaped, "moved": format!("{moved:?}"), "tries": made.len(), "last": last }))
}

/// The place that a directory is moved to lies deep, by a link, when its links are
/// looked at, and not so deep when it is moved.
async fn names_beside_a_move() -> Outcome {
    let root = root();
    for path in ["a", "a/b", "a/b/c", "a/b/c/d"] {
        root.create_directory_at(path.into()).await.expect("a directory");
    }
    for n in 0..3_000 {
        root.symlink_at(".".into(), format!("a/b/c/d/l{n}")).await.expect("a link");
    }
    root.symlink_at("../../..".into(), "a/b/c/d/trap".into()).await.expect("it leads to the workspace");
    root.symlink_at("a/b".into(), "way".into()).await.expect("a link");
    let mut moving = pin!(root.rename_at("a/b/c/d".into(), &root, "way/moved".into()));
    let begun = poll_fn(|context| Poll::Ready(moving.as_mut().poll(context))).await;
    let swapped = root.unlink_file_at("way".into()).await.and(root.create_directory_at("way".into()).await);
    let moved = match begun {
        Poll::Ready(moved) => moved,
        Poll::Pending => moving.await,
    };
    let escaped = swapped.is_ok() && root.readlink_at("way/moved/trap".into()).await.is_ok();
    survived(&json!({ "escaped": escaped, "moved": format!("{moved:?}"), "swapped": format!("{swapped:?}") }))
}
