use std::fs;

use super::*;
use crate::testing::Tree;

#[test]
fn leftovers_of_the_dead_go_and_those_of_the_living_stay() {
    let tree = Tree::new();
    let living = Scratch::open(&tree.path("s")).expect("opens");
    let (_file, upload) = living.file().expect("makes");
    fs::create_dir_all(tree.path("s/1-0/x1/deep/tree")).expect("makes");
    fs::write(tree.path("s/1-0/x0"), "x").expect("writes");
    fs::write(tree.path("s/stray"), "x").expect("writes");
    let second = Scratch::open(&tree.path("s")).expect("opens");
    let left = tree.listing();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(upload.path().exists());
    drop((upload, living, second));
    assert_eq!(tree.listing(), ["s/"]);
}

#[test]
fn what_is_dropped_goes_and_what_is_kept_stays() {
    let tree = Tree::new();
    let scratch = Scratch::open(&tree.path("s")).expect("opens");
    let (_, file) = scratch.file().expect("makes");
    let bin = scratch.bin().expect("makes");
    fs::create_dir_all(bin.path().join("a/b")).expect("makes");
    assert_eq!(bin.empty(), Ok(2));
    fs::create_dir_all(bin.path().join("a/b")).expect("makes");
    let (_, kept) = scratch.file().expect("makes");
    let at = kept.path();
    kept.keep();
    drop((file, bin));
    assert!(at.exists());
    assert_eq!(tree.listing().len(), 3);
}
