use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;
use crate::testing::{Tree, device, fifo};

#[test]
fn nothing_leads_out() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).expect("makes");
    fs::write(tree.path("d/f"), "x").expect("writes");
    symlink("/etc", tree.path("abs")).expect("links");
    symlink("..", tree.path("up")).expect("links");
    symlink("d", tree.path("in")).expect("links");
    symlink("/proc/self/root", tree.path("magic")).expect("links");
    assert!(open_file(tree.fd(), b"d/f").is_ok());
    for (path, errno) in [
        (&b"../x"[..], Errno::XDEV),
        (b"d/../../x", Errno::XDEV),
        (b"/etc/passwd", Errno::XDEV),
        (b"abs/passwd", Errno::LOOP),
        (b"abs", Errno::LOOP),
        (b"up/x", Errno::LOOP),
        (b"in/f", Errno::LOOP),
        (b"magic/etc/passwd", Errno::LOOP),
        (b"d/f/x", Errno::NOTDIR),
        (b"d", Errno::ISDIR),
        (b"none", Errno::NOENT),
    ] {
        assert_eq!(open_file(tree.fd(), path).map(drop), Err(errno), "{}", path.escape_ascii());
    }
    for path in [&b"abs"[..], b"up", b"in", b"../", b"/"] {
        assert!(open_dir(tree.fd(), path).is_err(), "{}", path.escape_ascii());
    }
}

#[test]
fn special_files_are_never_opened() {
    let tree = Tree::new();
    fifo(&tree.path("pipe"));
    assert_eq!(open_file(tree.fd(), b"pipe").map(drop), Err(Errno::LOOP));
    let _listener = UnixListener::bind(tree.path("socket")).expect("binds");
    assert_eq!(open_file(tree.fd(), b"socket").map(drop), Err(Errno::LOOP));
    if device(&tree.path("null")) {
        assert_eq!(open_file(tree.fd(), b"null").map(drop), Err(Errno::LOOP));
    }
}

#[test]
fn another_mount_is_not_entered() {
    let root: OwnedFd = fs::File::open("/").expect("opens").into();
    assert_eq!(open_dir(root.as_fd(), b"proc/self").map(drop), Err(Errno::XDEV));
}

#[test]
fn directories_are_made_once_and_never_through_links() {
    let tree = Tree::new();
    assert_eq!(make_dirs(tree.fd(), b"a/b/c", false).expect("makes").made, 3);
    assert_eq!(make_dirs(tree.fd(), b"a/b/d", true).expect("makes").made, 1);
    assert_eq!(make_dirs(tree.fd(), b"a/b/d", true).expect("is there").made, 0);
    assert_eq!(make_dirs(tree.fd(), b"", true).expect("the root").made, 0);
    symlink("a", tree.path("l")).expect("links");
    let error = make_dirs(tree.fd(), b"l/x/y", false).expect_err("a link");
    assert_eq!(error, MakeError { errno: Errno::LOOP, at: 1 });
    fs::write(tree.path("a/f"), "").expect("writes");
    let error = make_dirs(tree.fd(), b"a/f/y", false).expect_err("a file");
    assert_eq!(error, MakeError { errno: Errno::NOTDIR, at: 3 });
}

#[test]
fn a_file_is_made_only_where_nothing_is() {
    let tree = Tree::new();
    symlink("../must-not-be-made", tree.path("l")).expect("links");
    assert_eq!(create_file(tree.fd(), b"l").map(drop), Err(Errno::EXIST));
    create_file(tree.fd(), b"f").expect("makes");
    assert_eq!(create_file(tree.fd(), b"f").map(drop), Err(Errno::EXIST));
}
