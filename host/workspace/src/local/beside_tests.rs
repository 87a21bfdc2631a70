//! Entity tags and digests; what lies beside a workspace; copies.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bulkhead_core::conditions::{Conditions, Tags};
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::workspace::EntryKind;

use super::*;
use crate::testing::{ROOMY, Space, body, fifo, options, path, task, tenant};

fn deleted() -> DeletedId {
    DeletedId::from_parts(1, 7)
}

fn us() -> (TenantId, TaskId) {
    (tenant(), task())
}

fn matching(tag: &str) -> Conditions {
    Conditions { if_match: Some(Tags::one(tag.into())), if_none_match: None }
}

#[tokio::test]
async fn a_tag_is_of_one_content() {
    let space = Space::new().await;
    let first = space.write("f", b"one").await.expect("writes").etag;
    assert_eq!(space.stat("f").await.expect("stat").etag.as_deref(), Some(&*first));
    let conditional = |tag: &str, content: &'static [u8]| {
        let how = WriteOptions { conditions: matching(tag), ..options(9) };
        let (at, root) = (path("f"), space.root());
        let all = &space.all;
        async move { all.write(root, &at, body(content), how).await }
    };
    let second = conditional(&first, b"two").await.expect("it is still that one").etag;
    assert_ne!(first, second);
    assert!(matches!(conditional(&first, b"six").await, Err(WorkspaceError::Precondition(at)) if at == "f"));
    assert_eq!(space.read("f").await.expect("reads"), b"two");
    // A guest writes in place, and can't give the old tag back with the times.
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let file = fs::File::options().write(true).open(space.dir.join("f")).expect("opens");
    let times = file.metadata().expect("stat").modified().expect("has one");
    fs::write(space.dir.join("f"), "2wo").expect("writes");
    file.set_modified(times).expect("sets");
    assert!(matches!(conditional(&second, b"six").await, Err(WorkspaceError::Precondition(_))));
    space.nothing_is_left().await;
}

#[tokio::test]
async fn another_content_than_was_said_changes_nothing() {
    let space = Space::new().await;
    let said = WriteOptions { digest: Some(Digest::of(b"said")), ..options(9) };
    let refused = space.all.write(space.root(), &path("d/f"), body(b"sent"), said.clone()).await;
    assert!(matches!(refused, Err(WorkspaceError::DigestMismatch { found }) if found == Digest::of(b"sent")));
    assert!(space.stat("d").await.is_err());
    space.all.write(space.root(), &path("d/f"), body(b"said"), said.clone()).await.expect("writes");
    // A copy is hashed, too: the source may have changed since somebody knew it.
    fs::write(space.dir.join("d/f"), "else").expect("writes");
    let copy = |how| {
        let (all, root, from, to) = (&space.all, space.root(), path("d/f"), path("copy"));
        async move { all.write_copy(root.clone(), &to, (root, &from), how).await }
    };
    assert!(matches!(copy(said).await, Err(WorkspaceError::DigestMismatch { .. })));
    let copied = copy(options(4)).await.expect("copies");
    assert_eq!((copied.size, copied.digest), (4, Digest::of(b"else")));
    assert!(matches!(copy(options(3)).await, Err(WorkspaceError::OverLimit { .. })));
    // Never the same file: a guest writes in place.
    let inode = |name: &str| fs::metadata(space.dir.join(name)).expect("stat").ino();
    assert_ne!(inode("d/f"), inode("copy"));
    fs::write(space.dir.join("d/f"), "gone").expect("writes");
    assert_eq!(space.read("copy").await.expect("reads"), b"else");
    space.nothing_is_left().await;
}

#[tokio::test]
async fn what_is_deleted_lies_beside_and_comes_back() {
    let space = Space::new().await;
    for name in ["d/a", "d/e/b"] {
        space.write(name, b"12345").await.expect("writes");
    }
    symlink("/etc/passwd", space.dir.join("d/link")).expect("links");
    let all = &space.all;
    let put = |at: &str, recursive| {
        let (at, root) = (path(at), space.root());
        let how = Removal { recursive, ..Removal::default() };
        async move { all.put_aside(us(), root, &at, deleted(), how).await }
    };
    assert!(matches!(put("d", false).await, Err(WorkspaceError::NotEmpty(_))));
    assert!(matches!(put("nothing", true).await, Err(WorkspaceError::NotFound(_))));
    fs::set_permissions(space.dir.join("d"), fs::Permissions::from_mode(0o500)).expect("sets");
    let aside = put("d", true).await.expect("puts");
    assert_eq!(aside, PutAside { kind: EntryKind::Directory, extent: Extent { bytes: 10, entries: 5 } });
    assert!(!space.dir.join("d").exists());
    assert_eq!(all.aside(us(), deleted()).await.expect("looks"), Some(aside));
    assert_eq!(all.measure_aside(us()).await.expect("walks"), aside.extent);
    // Outside of what a worker of the tenant reaches.
    let lies = space.data.path().join(format!("deleted/{}/{}/{}", tenant(), task(), deleted()));
    assert!(lies.is_dir());
    let back = |at: &str, replace| {
        let (at, root) = (path(at), space.root());
        async move { all.bring_back(us(), root, &at, deleted(), replace).await }
    };
    space.write("d", b"in the way").await.expect("writes");
    for replace in [false, true] {
        assert!(matches!(back("d", replace).await, Err(WorkspaceError::Exists(_))), "{replace}");
    }
    back("x/y", false).await.expect("comes back");
    assert_eq!(space.read("x/y/e/b").await.expect("reads"), b"12345");
    assert!(matches!(back("z", false).await, Err(WorkspaceError::NotFound(_))));
    // A file may take the place of a file.
    put("d", false).await.expect("puts");
    space.write("d", b"another").await.expect("writes");
    back("d", true).await.expect("comes back");
    assert_eq!(space.read("d").await.expect("reads"), b"in the way");
    put("x", true).await.expect("puts");
    all.purge(us(), deleted()).await.expect("purges");
    all.purge(us(), deleted()).await.expect("is gone already");
    assert_eq!(all.aside(us(), deleted()).await.expect("looks"), None);
    space.nothing_is_left().await;
}

#[tokio::test]
async fn only_what_is_as_the_conditions_want_it_is_removed() {
    let space = Space::new().await;
    let all = &space.all;
    let matching = |tag: &str| Removal { recursive: true, conditions: matching(tag) };
    let old = space.write("f", b"old").await.expect("writes").etag;
    let new = space.write("f", b"new").await.expect("writes").etag;
    all.make_dir(space.root(), &path("d")).await.expect("makes");
    for (at, tag) in [("f", &old), ("d", &new)] {
        let refused = all.delete(space.root(), &path(at), matching(tag)).await;
        assert!(matches!(refused, Err(WorkspaceError::Precondition(_))), "{at}: {refused:?}");
        let refused = all.put_aside(us(), space.root(), &path(at), deleted(), matching(tag)).await;
        assert!(matches!(refused, Err(WorkspaceError::Precondition(_))), "{at}: {refused:?}");
    }
    assert_eq!(space.read("f").await.expect("is there"), b"new");
    let anything =
        Removal { conditions: Conditions { if_match: Some(Tags::Any), if_none_match: None }, ..matching("") };
    assert_eq!(all.delete(space.root(), &path("d"), anything.clone()).await.expect("deletes"), 1);
    let gone = all.delete(space.root(), &path("d"), anything).await;
    assert!(matches!(gone, Err(WorkspaceError::NotFound(_))), "{gone:?}");
    all.put_aside(us(), space.root(), &path("f"), deleted(), matching(&new)).await.expect("puts");
}

#[tokio::test]
async fn a_removed_workspace_takes_along_what_lies_beside_it() {
    let space = Space::new().await;
    space.write("f", b"x").await.expect("writes");
    space.all.put_aside(us(), space.root(), &path("f"), deleted(), Removal::default()).await.expect("puts");
    let upload = UploadId::from_parts(1, 9);
    space.all.begin_upload(us(), upload).await.expect("begins");
    space.all.remove(tenant(), task()).await.expect("removes");
    for beside in ["deleted", "uploads"] {
        let left = fs::read_dir(space.data.path().join(beside).join(tenant().to_string())).expect("reads").count();
        assert_eq!(left, 0, "{beside}");
    }
    assert_eq!(space.all.measure_aside(us()).await.expect("walks"), Extent::default());
    space.nothing_is_left().await;
}

#[tokio::test]
async fn a_copy_has_files_directories_and_links_and_follows_none() {
    let space = Space::new().await;
    for name in ["d/a", "d/e/b"] {
        space.write(name, b"12345").await.expect("writes");
    }
    symlink("/etc", space.dir.join("d/out")).expect("links");
    fs::hard_link(space.dir.join("d/a"), space.dir.join("d/same")).expect("links");
    fifo(&space.dir.join("d/pipe"));
    let other = TaskId::from_parts(1, 3);
    space.all.create(tenant(), other, ROOMY).await.expect("makes");
    let target = space.all.open(tenant(), other).await.expect("opens");
    let room = Extent { bytes: 15, entries: 6 };
    let copy = |from: &str, to: &str, replace, room| {
        let (from_root, to_root) = (space.root(), target.clone());
        space.all.copy(Copy { from_root, from: path(from), to_root, to: path(to), replace, room })
    };
    let copied = copy("d", "x/y", false, room).await.expect("copies");
    assert_eq!((copied.kind, copied.extent, copied.left_out), (EntryKind::Directory, room, 1));
    let dir = space.data.path().join(format!("workspaces/{}/{other}/x/y", tenant()));
    assert_eq!(fs::read(dir.join("e/b")).expect("reads"), b"12345");
    assert_eq!(fs::read_link(dir.join("out")).expect("a link").as_os_str(), "/etc");
    assert!(!dir.join("pipe").exists());
    let inode = |path: &Path| fs::metadata(path).expect("stat").ino();
    assert_ne!(inode(&dir.join("a")), inode(&dir.join("same")), "a hard link is a file of its own");
    assert_ne!(inode(&dir.join("a")), inode(&space.dir.join("d/a")));
    // Over the room nothing is there at all.
    for room in [Extent { bytes: 14, ..room }, Extent { entries: 5, ..room }] {
        assert!(matches!(copy("d", "z", false, room).await, Err(WorkspaceError::OverLimit { .. })));
        assert!(space.all.stat(target.clone(), &path("z")).await.is_err());
    }
    assert!(matches!(copy("d", "x/y", true, room).await, Err(WorkspaceError::Exists(_))));
    assert!(matches!(copy("d/pipe", "p", true, room).await, Err(WorkspaceError::NotRegular(_))));
    assert!(matches!(copy("d/out/passwd", "p", true, room).await, Err(WorkspaceError::NotRegular(_))));
    let link = copy("d/out", "link", false, room).await.expect("copies");
    assert_eq!((link.kind, link.extent.entries), (EntryKind::Symlink, 1));
    copy("d/a", "link", true, room).await.expect("a file may replace a link, and does not follow it");
    assert!(fs::symlink_metadata(dir.join("../../link")).expect("stat").is_file());
    space.nothing_is_left().await;
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was() {
    let space = Space::new().await;
    let (all, id) = (&space.all, UploadId::from_parts(1, 9));
    all.begin_upload(us(), id).await.expect("begins");
    let add = |offset, most, content: &'static [u8]| all.add_to_upload(us(), id, offset, most, body(content));
    assert_eq!(add(0, 10, b"abc").await.expect("adds").size, 3);
    assert!(matches!(add(2, 10, b"x").await, Err(WorkspaceError::BadRange { size: 3 })));
    let over = add(3, 5, b"defg").await.expect("adds what there is room for");
    assert!((over.size == 5) && matches!(over.error, Some(WorkspaceError::OverLimit { .. })), "{over:?}");
    assert_eq!(all.upload_size(us(), id).await.expect("looks"), Some(5));
    assert_eq!(all.measure_aside(us()).await.expect("walks"), Extent { bytes: 5, entries: 1 });
    // Two at once: one of them is told.
    let (reader, mut writer) = tokio::io::duplex(1);
    let slow = all.add_to_upload(us(), id, 5, 10, Box::pin(reader));
    let meanwhile = async {
        // Once the second byte has room the first was taken: it is being added to.
        tokio::io::AsyncWriteExt::write_all(&mut writer, b"fg").await.expect("sends");
        let second = all.add_to_upload(us(), id, 5, 10, body(b"x")).await;
        assert!(matches!(second, Err(WorkspaceError::InUse)), "{second:?}");
        drop(writer);
    };
    let (slow, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(slow.expect("adds").size, 7);
    let said = WriteOptions { digest: Some(Digest::of(b"something else")), ..options(9) };
    let finish = |how| {
        let (at, root) = (path("d/f"), space.root());
        async move { all.finish_upload(us(), id, root, &at, how).await }
    };
    assert!(matches!(finish(said).await, Err(WorkspaceError::DigestMismatch { .. })));
    let written = finish(options(9)).await.expect("completes");
    assert_eq!((written.size, written.digest, written.created), (7, Digest::of(b"abcdefg"), true));
    assert_eq!(space.read("d/f").await.expect("reads"), b"abcdefg");
    assert!(matches!(add(7, 10, b"x").await, Err(WorkspaceError::NotFound(_))));
    assert_eq!(all.upload_size(us(), id).await.expect("looks"), None);
    all.drop_upload(us(), id).await.expect("is gone already");
    space.nothing_is_left().await;
}
