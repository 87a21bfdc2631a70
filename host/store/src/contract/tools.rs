//! Tools and tool sets.

use std::sync::Arc;

use bulkhead_core::digest::Digest;
use bulkhead_core::ports::store::Store;
use bulkhead_core::quota::Extent;
use bulkhead_core::task::TaskState;
use bulkhead_core::tool::{Tool, ToolOwner, ToolSet, ToolState};

use super::world::{World, at, audit, owner, page, pinned, ready};

const OPERATOR: ToolOwner = ToolOwner::Operator;

fn tenant(number: u128) -> ToolOwner {
    ToolOwner::Tenant(owner(number).tenant)
}

pub(super) async fn the_same_component_is_stored_once(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let first = world.tool(tenant(1), "a", ToolState::Compiling);
    assert_eq!(store.create_tool(&first, audit()).await.unwrap(), None);
    let again = world.tool(tenant(1), "a", ToolState::Compiling);
    assert_eq!(store.create_tool(&again, audit()).await.unwrap(), Some(first.clone()));
    assert_eq!(store.tool(None, again.id).await.unwrap(), None);

    let state = ready("a", "does");
    assert!(store.finish_tool(first.id, &state).await.unwrap());
    assert_eq!(store.create_tool(&again, audit()).await.unwrap(), Some(Tool { state, ..first }));

    let (known, unknown) = (again.digest, Digest::of(b"of no tool"));
    assert_eq!(store.components_of_tools(&[unknown, known]).await.unwrap(), [known]);
    assert_eq!(store.components_of_tools(&[unknown]).await.unwrap(), []);
    assert_eq!(store.tools_beside(tenant(1), known).await.unwrap(), Extent::default());
    let beside = Extent { bytes: first.size, entries: 1 };
    assert_eq!(store.tools_beside(tenant(1), unknown).await.unwrap(), beside);
    assert_eq!(store.tools_beside(tenant(2), unknown).await.unwrap(), Extent::default());

    // Another owner may have the same component.
    for owner in [tenant(2), OPERATOR] {
        let other = world.tool(owner, "a", ToolState::Compiling);
        assert_eq!(store.create_tool(&other, audit()).await.unwrap(), None);
        assert_eq!(store.tool(None, other.id).await.unwrap(), Some(other));
    }
}

pub(super) async fn a_rejected_one_is_replaced(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let first = world.tool(tenant(1), "a", ToolState::Compiling);
    store.create_tool(&first, audit()).await.unwrap();
    let rejected = ToolState::Rejected { code: "no_world".into(), reason: "exports nothing".into() };
    assert!(store.finish_tool(first.id, &rejected).await.unwrap());
    assert_eq!(store.tool(None, first.id).await.unwrap().map(|tool| tool.state), Some(rejected));

    let again = world.tool(tenant(1), "a", ToolState::Compiling);
    assert_eq!(store.create_tool(&again, audit()).await.unwrap(), None);
    assert_eq!(store.tool(None, first.id).await.unwrap(), None);
    assert_eq!(store.list_tools(owner(1).tenant, page(None, 9)).await.unwrap(), [again]);
}

pub(super) async fn are_seen_by_those_who_may(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let operators = world.ready_tool(OPERATOR, "a", "a").await;
    let mine = world.ready_tool(tenant(1), "b", "b").await;
    let theirs = world.ready_tool(tenant(2), "c", "c").await;
    let me = owner(1).tenant;

    for (tool, seen) in [(&operators, true), (&mine, true), (&theirs, false)] {
        assert_eq!(store.tool(Some(me), tool.id).await.unwrap().is_some(), seen);
        assert_eq!(store.tool(None, tool.id).await.unwrap().as_ref(), Some(tool));
    }
    assert_eq!(store.list_tools(me, page(None, 9)).await.unwrap(), [mine.clone(), operators.clone()]);
    assert_eq!(store.list_tools(me, page(None, 1)).await.unwrap(), std::slice::from_ref(&mine));
    assert_eq!(store.list_tools(me, page(Some(mine.id), 9)).await.unwrap(), std::slice::from_ref(&operators));
    assert_eq!(store.pinnable_tools(me).await.unwrap(), [operators.clone(), mine.clone()]);

    assert!(!store.delete_tool(tenant(1), theirs.id, audit()).await.unwrap());
    assert!(!store.delete_tool(tenant(1), operators.id, audit()).await.unwrap());
    assert!(!store.delete_tool(OPERATOR, mine.id, audit()).await.unwrap());
    assert!(store.delete_tool(tenant(1), mine.id, audit()).await.unwrap());
    assert!(!store.delete_tool(tenant(1), mine.id, audit()).await.unwrap());
}

pub(super) async fn the_newest_of_each_name_can_be_pinned(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    world.ready_tool(tenant(1), "grep", "mine, old").await;
    let mine = world.ready_tool(tenant(1), "grep", "mine, new").await;
    world.ready_tool(OPERATOR, "cat", "operator, old").await;
    let cat = world.ready_tool(OPERATOR, "cat", "operator, new").await;
    // Newer than mine, and yet mine comes first.
    let operators = world.ready_tool(OPERATOR, "grep", "operator").await;
    let broken = world.tool(tenant(1), "broken", ToolState::Compiling);
    store.create_tool(&broken, audit()).await.unwrap();
    let rejected = ToolState::Rejected { code: "x".into(), reason: "y".into() };
    store.finish_tool(broken.id, &rejected).await.unwrap();
    store.create_tool(&world.tool(tenant(1), "slow", ToolState::Compiling), audit()).await.unwrap();

    assert_eq!(store.pinnable_tools(owner(1).tenant).await.unwrap(), [cat.clone(), mine]);
    assert_eq!(store.pinnable_tools(owner(2).tenant).await.unwrap(), [cat, operators]);
}

pub(super) async fn a_large_manifest_is_kept(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let mut tool = world.tool(OPERATOR, "a", ToolState::Compiling);
    store.create_tool(&tool, audit()).await.unwrap();
    tool.state = ready("a", &"long ".repeat(1_500));
    assert!(store.finish_tool(tool.id, &tool.state).await.unwrap());
    assert_eq!(store.tool(None, tool.id).await.unwrap().as_ref(), Some(&tool));
    assert_eq!(store.pinnable_tools(owner(1).tenant).await.unwrap(), [tool.clone()]);
    assert!(store.delete_tool(OPERATOR, tool.id, audit()).await.unwrap());
    assert_eq!(store.tool(None, tool.id).await.unwrap(), None);
}

pub(super) async fn a_pinned_one_is_not_deleted(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let one = world.ready_tool(OPERATOR, "a", "a").await;
    let two = world.ready_tool(OPERATOR, "b", "b").await;
    let set = ToolSet::new([pinned(&one), pinned(&two)]);
    assert_eq!(store.tool_set(set.digest).await.unwrap(), None);
    let tasks = [world.task(owner(1), TaskState::Ready), world.task(owner(2), TaskState::Ready)];
    for task in &tasks {
        let task = bulkhead_core::task::Task { tool_set: set.digest, ..task.clone() };
        store.create_task(&task, &set, vec![], audit()).await.unwrap();
    }
    assert_eq!(store.tool_set(set.digest).await.unwrap(), Some(set));
    for task in &tasks {
        assert!(!store.delete_tool(OPERATOR, one.id, audit()).await.unwrap());
        store.move_task(task.id, TaskState::Deleted, None, at(1), vec![], None).await.unwrap().unwrap();
    }
    assert!(store.delete_tool(OPERATOR, one.id, audit()).await.unwrap());
}

pub(super) async fn compiling_ones_are_found_and_finished_once(store: Arc<dyn Store>) {
    let world = World::new(store.clone());
    let tools: Vec<_> = ["a", "b", "c"].map(|content| world.tool(tenant(1), content, ToolState::Compiling)).into();
    for tool in &tools {
        store.create_tool(tool, audit()).await.unwrap();
    }
    assert!(store.finish_tool(tools[1].id, &ready("b", "does")).await.unwrap());
    assert!(!store.finish_tool(tools[1].id, &ready("other", "does")).await.unwrap());
    assert_eq!(store.compiling_tools().await.unwrap(), [tools[0].clone(), tools[2].clone()]);
    let unknown = world.tool(tenant(1), "d", ToolState::Compiling);
    assert!(!store.finish_tool(unknown.id, &ready("d", "does")).await.unwrap());
}
