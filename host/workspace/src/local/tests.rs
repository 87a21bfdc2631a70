use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bulkhead_core::event::ChangeKind;
use bulkhead_core::ports::workspace::EntryKind;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::*;
use bulkhead_core::conditions::Conditions;
use bulkhead_core::digest::Digest;

use crate::KernelQuota;
use crate::testing::{ROOMY, Space, body, device, fifo, options, path, task, tenant};

#[tokio::test]
async fn a_workspace_comes_and_goes() {
    let space = Space::new().await;
    space.all.create(tenant(), task(), ROOMY).await.expect("is there already");
    assert_eq!(fs::metadata(&space.dir).expect("stat").permissions().mode() & 0o777, 0o700);
    space.write("a/b/c", b"x").await.expect("writes");
    space.all.remove(tenant(), task()).await.expect("removes");
    assert!(!space.dir.exists());
    space.all.remove(tenant(), task()).await.expect("is gone already");
    assert!(matches!(space.all.open(tenant(), task()).await, Err(WorkspaceError::NotFound(_))));
    let other = TenantId::from_parts(9, 9);
    space.all.remove(other, task()).await.expect("was never there");
    assert!(matches!(space.all.open(other, task()).await, Err(WorkspaceError::NotFound(_))));
    space.nothing_is_left().await;
}

#[tokio::test]
async fn an_archive_that_was_to_stop_takes_no_workspace() {
    let space = Space::new().await;
    space.write("a", b"x").await.expect("writes");
    let layout = &space.all.layout;
    let stop = CancellationToken::new();
    let pack = |stop: &CancellationToken| {
        let (file, temporary) = layout.staging.file().expect("a file");
        layout.keep_archive(tenant(), task(), file.as_fd(), temporary, stop).expect("no error").is_some()
    };
    stop.cancel();
    assert!(!pack(&stop));
    assert_eq!(fs::read(space.dir.join("a")).expect("is there"), b"x");
    assert!(layout.open_archive(tenant(), task()).is_err());
    assert!(pack(&CancellationToken::new()) && !space.dir.exists());
    space.nothing_is_left().await;
}

#[tokio::test]
async fn a_domain_is_a_tenants_directory_or_one_workspace() {
    let space = Space::new().await;
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("stat"));
    let of = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("stat").st_ino;
    let tenants = space.all.domain(tenant(), None).await.expect("opens");
    assert_eq!(of(&tenants), inode(space.dir.parent().expect("a parent")));
    let tasks = space.all.domain(tenant(), Some(task())).await.expect("opens");
    assert_eq!(of(&tasks), inode(&space.dir));
    // Of a tenant without a workspace it is made; of a task it is not.
    let other = TenantId::from_parts(9, 9);
    space.all.domain(other, None).await.expect("makes");
    assert!(matches!(space.all.domain(other, Some(task())).await, Err(WorkspaceError::NotFound(_))));
}

#[tokio::test]
async fn everything_is_measured_once() {
    let space = Space::new().await;
    assert_eq!(space.all.measure(space.root()).await.expect("walks"), Extent::default());
    space.write("a/b/c", b"12345").await.expect("writes");
    space.write("d", b"678").await.expect("writes");
    fs::hard_link(space.dir.join("d"), space.dir.join("e")).expect("links");
    symlink("/etc", space.dir.join("out")).expect("links");
    fifo(&space.dir.join("pipe"));
    // Each link counts, nothing is followed, and sizes are as they are told.
    let sparse = fs::File::create(space.dir.join("sparse")).expect("makes");
    sparse.set_len(1 << 30).expect("grows");
    let wanted = Extent { bytes: 5 + 3 + 3 + (1 << 30), entries: 8 };
    assert_eq!(space.all.measure(space.root()).await.expect("walks"), wanted);
}

#[tokio::test]
async fn a_crash_leaves_nothing() {
    let space = Space::new().await;
    fs::create_dir_all(space.data.path().join("trash/77-0/x0/tree/a")).expect("makes");
    fs::create_dir_all(space.data.path().join("staging/77-0")).expect("makes");
    fs::write(space.data.path().join("staging/77-0/x0"), "half").expect("writes");
    let _second = LocalWorkspaces::new(space.data.path(), KernelQuota::Off).expect("opens beside the first");
    assert_eq!(space.leftovers(), 0);
    space.write("f", b"x").await.expect("the first goes on");
}

#[tokio::test]
async fn writing_is_atomic_and_keeps_the_execute_bit() {
    let space = Space::new().await;
    let written = space.write("d/f", b"one").await.expect("writes");
    assert_eq!((written.created, written.size, written.digest), (true, 3, Digest::of(b"one")));
    let all = &space.all;
    let write = |executable, replace: bool| {
        let conditions = if replace { Conditions::default() } else { Conditions::absent() };
        let how = WriteOptions { conditions, executable, ..options(3) };
        all.write(space.root(), PATH.get_or_init(|| path("d/f")), body(b"two"), how)
    };
    static PATH: std::sync::OnceLock<WorkspacePath> = std::sync::OnceLock::new();
    assert!(matches!(write(None, false).await, Err(WorkspaceError::Precondition(_))));
    assert!(!write(Some(true), true).await.expect("writes").created);
    assert!(space.stat("d/f").await.expect("stat").executable);
    write(None, true).await.expect("writes");
    assert!(space.stat("d/f").await.expect("stat").executable, "kept");
    write(Some(false), true).await.expect("writes");
    assert!(!space.stat("d/f").await.expect("stat").executable);
    assert_eq!(space.read("d/f").await.expect("reads"), b"two");
    assert!(matches!(space.write("d", b"").await, Err(WorkspaceError::IsADirectory(_))));
    assert!(matches!(space.write("d/f/g", b"").await, Err(WorkspaceError::NotADirectory(at)) if at == "d/f"));
    let nowhere = space.all.write(space.root(), &WorkspacePath::root(), body(b""), options(1)).await;
    assert!(matches!(nowhere, Err(WorkspaceError::BadPath { .. })));
}

/// Gives one byte and then fails.
struct Broken(bool);

impl AsyncRead for Broken {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionReset.into()));
        }
        to.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_too_large_changes_nothing() {
    let space = Space::new().await;
    space.write("f", b"old").await.expect("writes");
    let at = path("f");
    let broken = space.all.write(space.root(), &at, Box::pin(Broken(false)), options(10)).await;
    assert!(matches!(broken, Err(WorkspaceError::BrokenOff)));
    let large = space.all.write(space.root(), &at, body(&[0; 11]), options(10)).await;
    assert!(matches!(large, Err(WorkspaceError::OverLimit { what: "the file", limit: 10 })));
    let new = path("new/g");
    let large = space.all.write(space.root(), &new, Box::pin(tokio::io::repeat(0)), options(3 << 20)).await;
    assert!(matches!(large, Err(WorkspaceError::OverLimit { .. })));
    assert_eq!(space.read("f").await.expect("reads"), b"old");
    assert!(matches!(space.stat("new").await, Err(WorkspaceError::NotFound(_))));
    space.nothing_is_left().await;
}

#[tokio::test]
async fn special_files_are_listed_but_not_served() {
    let space = Space::new().await;
    fs::create_dir(space.dir.join("d")).expect("makes");
    fs::write(space.dir.join("d/f"), "x").expect("writes");
    symlink("/etc/passwd", space.dir.join("file")).expect("links");
    symlink("d", space.dir.join("dir")).expect("links");
    fifo(&space.dir.join("pipe"));
    let mut names = vec!["file", "pipe"];
    if device(&space.dir.join("null")) {
        names.push("null");
    }
    for name in names {
        assert!(matches!(space.read(name).await, Err(WorkspaceError::NotRegular(_))), "{name}");
        assert!(matches!(space.write(name, b"").await, Err(WorkspaceError::NotRegular(_))), "{name}");
    }
    for inside in ["dir/f", "file/x"] {
        assert!(matches!(space.read(inside).await, Err(WorkspaceError::NotRegular(_))), "{inside}");
        assert!(matches!(space.write(inside, b"").await, Err(WorkspaceError::NotRegular(_))), "{inside}");
        assert!(matches!(space.stat(inside).await, Err(WorkspaceError::NotRegular(_))), "{inside}");
        let deleted = space.all.delete(space.root(), &path(inside), Removal::recursive()).await;
        assert!(matches!(deleted, Err(WorkspaceError::NotRegular(_))), "{inside}");
    }
    let link = space.stat("file").await.expect("stat");
    assert_eq!((link.kind, link.target), (EntryKind::Symlink, Some(b"/etc/passwd".to_vec())));
    assert_eq!(space.stat("pipe").await.expect("stat").kind, EntryKind::Other);
    let listed = space.all.list(space.root(), &path("dir"), None, 10).await;
    assert!(matches!(listed, Err(WorkspaceError::NotRegular(_))));
    assert_eq!(space.all.delete(space.root(), &path("dir"), Removal::recursive()).await.expect("deletes the link"), 1);
    assert!(space.dir.join("d/f").exists());
}

#[tokio::test]
async fn pages_are_sorted_by_bytes_and_complete() {
    let space = Space::new().await;
    let count = 20_000;
    let mut names: BTreeSet<Vec<u8>> =
        (0..count).map(|n| format!("{:x}-{n}", n * 7919 % 65_537).into_bytes()).collect();
    for name in &names {
        fs::File::create(space.dir.join(std::ffi::OsStr::from_bytes(name))).expect("makes");
    }
    let odd = b"caf\xe9\n\xff".to_vec();
    fs::write(space.dir.join(std::ffi::OsStr::from_bytes(&odd)), "x").expect("writes");
    names.insert(odd);
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = space.all.list(space.root(), &WorkspacePath::root(), after, 1_999).await.expect("lists");
        seen.extend(page.entries.iter().map(|entry| entry.path.as_bytes().to_vec()));
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    assert!(seen.iter().eq(names.iter()));
    let file = space.all.list(space.root(), &path("0-0"), None, 1).await;
    assert!(matches!(file, Err(WorkspaceError::NotADirectory(_))));
}

#[tokio::test]
async fn ranges() {
    let space = Space::new().await;
    let content: Vec<u8> = (0..700_000u32).map(|n| (n % 251) as u8).collect();
    space.write("f", &content).await.expect("writes");
    let size = content.len() as u64;
    for (range, expected) in [
        (None, Some((0, size))),
        (Some(ByteRange::From(0, Some(0))), Some((0, 1))),
        (Some(ByteRange::From(5, None)), Some((5, size - 5))),
        (Some(ByteRange::From(5, Some(u64::MAX))), Some((5, size - 5))),
        (Some(ByteRange::Last(3)), Some((size - 3, 3))),
        (Some(ByteRange::Last(u64::MAX)), Some((0, size))),
        (Some(ByteRange::From(size, None)), None),
        (Some(ByteRange::From(7, Some(6))), None),
        (Some(ByteRange::Last(0)), None),
    ] {
        match (space.all.read(space.root(), &path("f"), range).await, expected) {
            (Ok(mut open), Some((offset, length))) => {
                assert_eq!((open.offset, open.length), (offset, length), "{range:?}");
                let mut got = Vec::new();
                open.stream.read_to_end(&mut got).await.expect("reads");
                assert!(got == content[offset as usize..(offset + length) as usize], "{range:?}");
            }
            (Err(WorkspaceError::BadRange { size: told }), None) => assert_eq!(told, size),
            (result, _) => panic!("{range:?}: {:?}", result.err()),
        }
    }
    space.write("empty", b"").await.expect("writes");
    assert_eq!(space.read("empty").await.expect("reads"), b"");
    let mut open = space.all.read(space.root(), &path("f"), None).await.expect("opens");
    fs::write(space.dir.join("f"), "short").expect("cuts");
    assert!(open.stream.read_to_end(&mut Vec::new()).await.is_err(), "what was promised can't be sent");
}

#[tokio::test]
async fn a_parent_that_becomes_a_link_does_not_lead_out() {
    let space = Space::new().await;
    let outside = space.data.path().join("outside");
    fs::create_dir(&outside).expect("makes");
    fs::create_dir(space.dir.join("d")).expect("makes");
    symlink(&outside, space.dir.join("l")).expect("links");
    let stop = Arc::new(AtomicBool::new(false));
    let (dir, stopped) = (space.dir.clone(), Arc::clone(&stop));
    let guest = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for (from, to) in [("d", "x"), ("l", "d"), ("d", "l"), ("x", "d")] {
                let _ = fs::rename(dir.join(from), dir.join(to));
            }
        }
    });
    let mut written = 0;
    for n in 0..300 {
        written += u32::from(space.write(&format!("d/f{n}"), b"secret").await.is_ok());
        let _ = space.all.make_dir(space.root(), &path(&format!("d/m{n}"))).await;
        let _ = space.all.rename(space.root(), &path("d/f0"), &path("d/r"), true).await;
        let _ = space.all.delete(space.root(), &path("d/m0"), Removal::recursive()).await;
    }
    stop.store(true, Ordering::Relaxed);
    guest.join().expect("ends");
    assert!(written > 0);
    assert_eq!(fs::read_dir(&outside).expect("reads").count(), 0);
}

#[tokio::test]
async fn directories_moves_and_deletions() {
    let space = Space::new().await;
    let make = async |at: &str| space.all.make_dir(space.root(), &path(at)).await;
    let rename =
        async |from: &str, to: &str, replace| space.all.rename(space.root(), &path(from), &path(to), replace).await;
    let delete = async |at: &str, recursive| {
        space.all.delete(space.root(), &path(at), Removal { recursive, ..Removal::default() }).await
    };
    assert!(make("a/b").await.expect("makes"));
    assert!(!make("a/b").await.expect("is there"));
    assert!(!make("").await.expect("is there"));
    space.write("f", b"f").await.expect("writes");
    assert!(matches!(make("f").await, Err(WorkspaceError::Exists(_))));
    assert!(matches!(make("f/x").await, Err(WorkspaceError::NotADirectory(at)) if at == "f"));

    rename("f", "n/e/w", false).await.expect("moves");
    space.write("g", b"g").await.expect("writes");
    assert!(matches!(rename("g", "n/e/w", false).await, Err(WorkspaceError::Exists(_))));
    rename("g", "n/e/w", true).await.expect("replaces");
    assert_eq!(space.read("n/e/w").await.expect("reads"), b"g");
    assert!(matches!(rename("none", "p/q", true).await, Err(WorkspaceError::NotFound(at)) if at == "none"));
    assert!(matches!(space.stat("p").await, Err(WorkspaceError::NotFound(_))));
    assert!(matches!(rename("n", "n/e/x", true).await, Err(WorkspaceError::BadPath { .. })));
    assert!(matches!(rename("n/e/w", "a", true).await, Err(WorkspaceError::IsADirectory(_))));
    assert!(matches!(rename("a", "n", true).await, Err(WorkspaceError::NotEmpty(_))));
    rename("a", "ab", true).await.expect("a prefix is no parent");
    for (from, to) in [("", "x"), ("n", "")] {
        assert!(matches!(rename(from, to, true).await, Err(WorkspaceError::BadPath { .. })));
    }

    assert!(matches!(delete("n", false).await, Err(WorkspaceError::NotEmpty(_))));
    assert!(matches!(delete("", true).await, Err(WorkspaceError::BadPath { .. })));
    assert!(matches!(delete("none", true).await, Err(WorkspaceError::NotFound(_))));
    assert_eq!(delete("n", true).await.expect("deletes"), 3);
    assert_eq!(delete("ab/b", false).await.expect("deletes"), 1);
    assert_eq!(fs::read_dir(&space.dir).expect("reads").count(), 1);
}

#[tokio::test]
async fn hard_links_show_only_what_is_there() {
    let space = Space::new().await;
    space.write("f", b"one").await.expect("writes");
    fs::hard_link(space.dir.join("f"), space.dir.join("g")).expect("links");
    space.write("f", b"two").await.expect("writes");
    assert_eq!(space.read("g").await.expect("reads"), b"one", "a write never reaches through a hard link");
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "compared with what the kernel's clock wrote")]
async fn what_changed_is_found() {
    let space = Space::new().await;
    for name in ["old", "touched", "sub/old", "%"] {
        space.write(name, b"x").await.expect("writes");
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let since = Timestamp::from_millis(now.as_millis() as i64);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::write(space.dir.join("touched"), "y").expect("writes");
    fs::write(space.dir.join("sub/new"), "y").expect("writes");
    fs::create_dir(space.dir.join("dir")).expect("makes");
    symlink("nowhere", space.dir.join("link")).expect("links");
    fifo(&space.dir.join("pipe"));
    let walked = space.all.changed_since(space.root(), since, 10).await.expect("walks");
    let told: Vec<_> = walked.changes.iter().map(|change| (change.path.as_str(), change.change)).collect();
    let expected = [
        ("dir", ChangeKind::Created),
        ("link", ChangeKind::Created),
        ("touched", ChangeKind::Modified),
        ("sub/new", ChangeKind::Created),
    ];
    assert_eq!(told, expected);
    assert!(!walked.more);
    let capped = space.all.changed_since(space.root(), since, 2).await.expect("walks");
    assert_eq!(capped.changes.len(), 2);
    assert!(capped.more);
    let all = space.all.changed_since(space.root(), Timestamp::from_millis(0), 100).await.expect("walks");
    assert!(all.changes.iter().any(|change| change.path == "%25"));
}

#[tokio::test]
async fn what_can_not_be_named_is_more() {
    let space = Space::new().await;
    let (a, b) = (vec!["a"; 100].join("/"), vec!["b"; 100].join("/"));
    fs::create_dir_all(space.dir.join(&a)).expect("makes");
    fs::create_dir_all(space.dir.join(&b)).expect("makes");
    fs::rename(space.dir.join("b"), space.dir.join(&a).join("b")).expect("moves");
    let walked = space.all.changed_since(space.root(), Timestamp::from_millis(0), 1000).await.expect("walks");
    assert_eq!(walked.changes.len(), 128);
    assert!(walked.more);
    assert_eq!(space.all.measure(space.root()).await.expect("walks"), Extent { bytes: 0, entries: 200 });
}
