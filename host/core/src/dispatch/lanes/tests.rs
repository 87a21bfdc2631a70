//! Tests of the lanes.

use super::*;
use crate::id::{TenantId, UserId};

const LIMITS: LaneLimits = LaneLimits {
    running: 4,
    running_per_owner: 3,
    running_per_tenant: 4,
    queued_per_owner: 3,
    queued_per_task: 2,
    queued: 3,
};

fn owner(n: u64) -> Owner {
    Owner { tenant: TenantId::from_parts(n, 0), user: UserId::from_parts(n, 0) }
}

fn claim(task: u64, owner_of: u64, access: WorkspaceAccess) -> Claim {
    Claim { task: TaskId::from_parts(task, 0), owner: owner(owner_of), access }
}

use WorkspaceAccess::{None as Free, Read, ReadWrite as Write};

#[test]
fn one_writer_or_many_readers() {
    let mut lanes = Lanes::<u32>::new(LIMITS);
    let (read, write) = (claim(1, 1, Read), claim(1, 1, Write));
    assert_eq!(lanes.admit(read), Admission::Slot);
    assert_eq!(lanes.admit(read), Admission::Slot);
    assert_eq!(lanes.admit(write), Admission::Queue);
    lanes.enqueue(write, 1);
    // A reader that comes after a waiting writer waits behind it.
    assert_eq!(lanes.admit(read), Admission::Queue);
    lanes.enqueue(read, 2);
    assert!(lanes.next().is_none());
    lanes.release(read);
    assert!(lanes.next().is_none());
    lanes.release(read);
    assert_eq!(lanes.next(), Some((write, 1)));
    assert!(lanes.next().is_none(), "the reader waits for the writer");
    lanes.release(write);
    assert_eq!(lanes.next(), Some((read, 2)));
    lanes.release(read);
    assert_eq!(lanes.load(), (0, 0));
    assert!(lanes.lanes.is_empty() && lanes.turns.is_empty());
    assert!(lanes.running_by_owner.is_empty() && lanes.running_by_tenant.is_empty());
}

#[test]
fn a_call_without_workspace_runs_beside_a_writer() {
    let mut lanes = Lanes::<u32>::new(LIMITS);
    assert_eq!(lanes.admit(claim(1, 1, Write)), Admission::Slot);
    assert_eq!(lanes.admit(claim(1, 1, Free)), Admission::Slot);
}

#[test]
fn an_owner_at_its_cap_leaves_room_for_others() {
    let mut lanes = Lanes::<u32>::new(LIMITS);
    for task in 1..=3 {
        assert_eq!(lanes.admit(claim(task, 1, Write)), Admission::Slot);
    }
    assert_eq!(lanes.admit(claim(4, 1, Write)), Admission::Queue);
    lanes.enqueue(claim(4, 1, Write), 7);
    assert_eq!(lanes.admit(claim(5, 2, Write)), Admission::Slot);
    assert!(lanes.next().is_none());
    lanes.release(claim(1, 1, Write));
    assert_eq!(lanes.next().map(|(_, item)| item), Some(7));
}

#[test]
fn a_tenant_of_many_users_leaves_room_for_others() {
    let mut lanes = Lanes::<u32>::new(LaneLimits { running_per_tenant: 2, ..LIMITS });
    let tenant = TenantId::from_parts(1, 0);
    let of_user = |user| Claim { owner: Owner { tenant, user: UserId::from_parts(user, 0) }, ..claim(user, 1, Write) };
    assert_eq!(lanes.admit(of_user(1)), Admission::Slot);
    assert_eq!(lanes.admit(of_user(2)), Admission::Slot);
    assert_eq!(lanes.admit(of_user(3)), Admission::Queue);
    lanes.enqueue(of_user(3), 7);
    assert_eq!(lanes.admit(claim(9, 2, Write)), Admission::Slot, "another tenant");
    assert!(lanes.next().is_none());
    lanes.release(of_user(1));
    assert_eq!(lanes.next(), Some((of_user(3), 7)));
}

#[test]
fn full_queues_refuse_and_reservations_come_back() {
    let mut lanes = Lanes::<u32>::new(LIMITS);
    let write = claim(1, 1, Write);
    assert_eq!(lanes.admit(write), Admission::Slot);
    assert_eq!(lanes.admit(write), Admission::Queue);
    assert_eq!(lanes.admit(write), Admission::Queue);
    let Admission::Refused(full) = lanes.admit(write) else { panic!("two wait in this task") };
    assert!(
        full.to_string()
            .contains("2 calls wait in this task; the limit `dispatch.queued_per_task` of this server is 2 calls"),
        "{full}"
    );
    lanes.forsake(write);
    assert_eq!(lanes.admit(write), Admission::Queue);
    let other = claim(2, 2, Write);
    assert_eq!(lanes.admit(other), Admission::Slot);
    assert_eq!(lanes.admit(other), Admission::Queue);
    assert!(matches!(lanes.admit(other), Admission::Refused(_)), "three wait in all");
    assert_eq!(lanes.load(), (2, 3));
}

#[test]
fn tasks_take_turns() {
    let limits = LaneLimits { running: 1, queued_per_task: 9, queued: 9, ..LIMITS };
    let mut lanes = Lanes::<&str>::new(limits);
    assert_eq!(lanes.admit(claim(9, 9, Write)), Admission::Slot);
    for item in ["a1", "a2"] {
        assert_eq!(lanes.admit(claim(1, 1, Write)), Admission::Queue);
        lanes.enqueue(claim(1, 1, Write), item);
    }
    assert_eq!(lanes.admit(claim(2, 2, Write)), Admission::Queue);
    lanes.enqueue(claim(2, 2, Write), "b1");
    let mut order = vec![];
    lanes.release(claim(9, 9, Write));
    while let Some((claim, item)) = lanes.next() {
        order.push(item);
        lanes.release(claim);
    }
    assert_eq!(order, ["a1", "b1", "a2"]);
}

#[test]
fn owners_take_turns_however_many_tasks_they_have() {
    let mut lanes =
        Lanes::<u32>::new(LaneLimits { running: 1, queued_per_owner: 20, queued_per_task: 9, queued: 99, ..LIMITS });
    let running = claim(100, 9, Free);
    assert_eq!(lanes.admit(running), Admission::Slot);
    // Twenty tasks of one, then one of each of two others.
    let many = (1..=20).map(|task| claim(task, 1, Free));
    let all: Vec<Claim> = many.chain([claim(30, 2, Free), claim(31, 3, Free)]).collect();
    for (number, claim) in all.iter().enumerate() {
        assert_eq!(lanes.admit(*claim), Admission::Queue);
        lanes.enqueue(*claim, number as u32);
    }
    let mut held = running;
    let mut order = Vec::new();
    while lanes.load().1 > 0 {
        lanes.release(held);
        let (claim, _) = lanes.next().expect("one may run");
        assert!(lanes.next().is_none(), "one at a time");
        order.push(claim.owner);
        held = claim;
    }
    assert_eq!(order[..4], [owner(1), owner(2), owner(3), owner(1)]);
    assert_eq!(order.len(), 22);
    lanes.release(held);
    assert!(lanes.turns.is_empty() && lanes.lanes.is_empty() && lanes.queued_by_owner.is_empty());
}

#[test]
fn an_owner_can_not_fill_the_queue_of_all() {
    let mut lanes = Lanes::<u32>::new(LaneLimits { running: 1, queued_per_owner: 2, queued: 9, ..LIMITS });
    assert_eq!(lanes.admit(claim(9, 9, Free)), Admission::Slot);
    for task in 1..=2 {
        assert_eq!(lanes.admit(claim(task, 1, Free)), Admission::Queue);
        lanes.enqueue(claim(task, 1, Free), 0);
    }
    let Admission::Refused(full) = lanes.admit(claim(3, 1, Free)) else { panic!("two wait for this owner") };
    assert!(
        full.to_string()
            .contains("2 calls of this user wait; the limit `dispatch.queued_per_owner` of this server is 2 calls"),
        "{full}"
    );
    assert_eq!(lanes.admit(claim(4, 2, Free)), Admission::Queue, "another owner");
}

#[test]
fn what_waits_is_withdrawn_where_nothing_runs() {
    let mut lanes = Lanes::<u32>::new(LaneLimits { running: 1, ..LIMITS });
    let (busy, waits) = (claim(1, 1, Write), claim(2, 1, Write));
    assert_eq!(lanes.admit(busy), Admission::Slot);
    for (claim, item) in [(busy, 1), (waits, 2), (waits, 3)] {
        assert_eq!(lanes.admit(claim), Admission::Queue);
        lanes.enqueue(claim, item);
    }
    assert_eq!(lanes.withdraw(), [(waits, 2), (waits, 3)]);
    assert_eq!((lanes.load(), lanes.withdraw()), ((1, 1), vec![]));
    lanes.enqueue_stored(waits, 2);
    lanes.release(busy);
    let mut rest = lanes.withdraw();
    rest.sort_by_key(|(_, item)| *item);
    assert_eq!(rest, [(busy, 1), (waits, 2)]);
    assert_eq!(lanes.load(), (0, 0));
    assert!(lanes.lanes.is_empty() && lanes.turns.is_empty() && lanes.queued_by_owner.is_empty());
}
