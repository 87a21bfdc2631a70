//! A directory from elsewhere, whose names nobody vouches for.

use std::fs;

use super::*;
use crate::testing::{ROOMY, Space, body, path};

fn over(error: &WorkspaceError) -> Option<&'static str> {
    match error {
        WorkspaceError::OverLimit { what, .. } => Some(what),
        _ => None,
    }
}

#[tokio::test]
async fn what_arrives_is_there_as_a_whole() {
    let space = Space::new().await;
    let mut tree = space.all.arrive(space.root(), ROOMY).await.expect("begins");
    tree.directory(&path("a")).await.expect("makes");
    tree.file(&path("a/f"), true, body(b"content")).await.expect("writes");
    tree.link(&path("l"), b"../beyond".to_vec()).await.expect("links");
    assert_eq!(fs::read_dir(&space.dir).expect("reads").count(), 0, "nothing is seen of it");
    let copied = tree.put(&path("x/d"), 3).await.expect("puts");
    assert_eq!((copied.extent, copied.created, copied.left_out), (Extent { bytes: 7, entries: 4 }, true, 3));
    assert_eq!(space.read("x/d/a/f").await.expect("reads"), b"content");
    assert!(space.stat("x/d/a/f").await.expect("is there").executable);
    assert_eq!(space.stat("x/d/l").await.expect("is there").target.as_deref(), Some(b"../beyond".as_slice()));
    // Where something is, it does not come; and what does not come leaves nothing.
    let second = space.all.arrive(space.root(), ROOMY).await.expect("begins");
    assert!(matches!(second.put(&path("x/d"), 0).await, Err(WorkspaceError::Exists(_))));
    let third = space.all.arrive(space.root(), ROOMY).await.expect("begins");
    assert!(matches!(third.put(&WorkspacePath::root(), 0).await, Err(WorkspaceError::BadPath { .. })));
    space.nothing_is_left().await;
}

#[tokio::test]
async fn what_names_lead_elsewhere_does_not_arrive() {
    let space = Space::new().await;
    fs::write(space.data.path().join("secret"), b"the host's").expect("writes");
    let outside = space.data.path().to_str().expect("text").as_bytes().to_vec();
    let mut tree = space.all.arrive(space.root(), ROOMY).await.expect("begins");
    tree.link(&path("out"), outside).await.expect("links");
    tree.file(&path("f"), false, body(b"x")).await.expect("writes");
    // Through a link, over it, below a file, twice, the directory itself.
    assert!(tree.file(&path("out/secret"), false, body(b"taken")).await.is_err());
    assert!(tree.file(&path("out"), false, body(b"taken")).await.is_err());
    assert!(tree.directory(&path("out/d")).await.is_err());
    assert!(tree.link(&path("out/l"), b"x".to_vec()).await.is_err());
    assert!(tree.file(&path("f/g"), false, body(b"x")).await.is_err());
    assert!(matches!(tree.file(&path("f"), false, body(b"y")).await, Err(WorkspaceError::Exists(_))));
    assert!(tree.directory(&WorkspacePath::root()).await.is_err());
    for target in [b"".as_slice(), b"a\0b", &[b'x'; 5_000]] {
        assert!(tree.link(&path("odd"), target.to_vec()).await.is_err());
    }
    assert_eq!(fs::read(space.data.path().join("secret")).expect("reads"), b"the host's");
    drop(tree);
    space.nothing_is_left().await;
}

#[tokio::test]
async fn no_more_arrives_than_there_is_room_for() {
    let space = Space::new().await;
    let room = |bytes, entries| space.all.arrive(space.root(), Extent { bytes, entries });
    assert_eq!(room(9, 0).await.err().as_ref().and_then(over), Some("the entries of the copy"));
    let mut tree = room(9, 3).await.expect("begins");
    tree.file(&path("a"), false, body(b"12345")).await.expect("fits");
    let refused = tree.file(&path("b"), false, body(b"67890")).await.expect_err("one byte too many");
    assert_eq!(over(&refused), Some("the bytes of the copy"));
    let refused = tree.directory(&path("c")).await.expect_err("one entry too many");
    assert_eq!(over(&refused), Some("the entries of the copy"));
    drop(tree);
    space.nothing_is_left().await;
}
