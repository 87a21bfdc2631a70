use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::testing::{Tree, fifo};

#[test]
fn links_are_removed_and_not_followed() {
    let (tree, outside) = (Tree::new(), Tree::new());
    fs::write(outside.path("kept"), "x").expect("writes");
    fs::create_dir_all(tree.path("a/b")).expect("makes");
    symlink(outside.path(""), tree.path("a/b/dir")).expect("links");
    symlink(outside.path("kept"), tree.path("a/file")).expect("links");
    fs::hard_link(outside.path("kept"), tree.path("a/hard")).expect("links");
    fifo(&tree.path("a/b/pipe"));
    assert_eq!(empty(tree.fd()), Ok(6));
    assert_eq!(tree.listing(), Vec::<String>::new());
    assert_eq!(fs::read(outside.path("kept")).expect("reads"), b"x");
}

#[test]
fn depth_costs_nothing() {
    let tree = Tree::new();
    let mut dir = rustix::fs::openat(tree.fd(), ".", rustix::fs::OFlags::RDONLY, Mode::empty()).expect("opens");
    for _ in 0..6000 {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).expect("makes");
        rustix::fs::mkdirat(&dir, "flat-0", Mode::RWXU).expect("makes");
        dir = beneath::open_dir(dir.as_fd(), b"d").expect("opens");
    }
    drop(dir);
    assert_eq!(empty(tree.fd()), Ok(12_000));
    assert_eq!(tree.listing(), Vec::<String>::new());
}

#[test]
fn rights_that_were_taken_do_not_protect() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("a/b/c")).expect("makes");
    fs::write(tree.path("a/b/c/f"), "x").expect("writes");
    fs::write(tree.path("a/f"), "x").expect("writes");
    for (dir, mode) in [("a/b/c", 0o000), ("a/b", 0o500), ("a", 0o000)] {
        fs::set_permissions(tree.path(dir), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    assert_eq!(empty(tree.fd()), Ok(5));
}

#[test]
fn unlocking_does_not_follow_links() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).expect("makes");
    fs::set_permissions(tree.path("d"), fs::Permissions::from_mode(0o000)).expect("chmod");
    symlink("d", tree.path("l")).expect("links");
    assert_eq!(unlock(tree.fd(), c"l"), Err(Errno::NOTDIR));
    unlock(tree.fd(), c"d").expect("unlocks");
    assert_eq!(fs::metadata(tree.path("d")).expect("stat").permissions().mode() & 0o777, 0o700);
}
