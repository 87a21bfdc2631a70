use super::*;

#[tokio::test(start_paused = true)]
async fn an_estimate_is_not_kept_when_it_may_be_wrong() {
    let extent = |bytes, entries| Extent { bytes, entries };
    let known = |added| Known {
        measured: extent(60, 10),
        aside: extent(0, 0),
        added,
        at: Instant::now(),
        cost: Duration::from_millis(50),
    };
    let quota = extent(100, 20);
    assert!(known(extent(20, 5)).holds(quota));
    assert!(!known(extent(21, 0)).holds(quota), "half of the room may be an overestimate");
    assert!(!known(extent(0, 6)).holds(quota));
    let old = known(extent(0, 0));
    tokio::time::advance(Duration::from_millis(4_900)).await;
    assert!(old.holds(quota), "the walk took 50 ms");
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(!old.holds(quota));
}

/// Whatever is said of one task, what the others take is as it was.
#[test]
fn one_task_never_loses_what_the_others_take() {
    let task = |n| TaskId::from_parts(1, n);
    let (seven, most) = (Extent { bytes: 7, entries: 7 }, Extent { bytes: u64::MAX, entries: u64::MAX });
    let mut holdings = Holdings::default();
    holdings.set(task(1), seven);
    holdings.set(task(2), most);
    holdings.set(task(3), most);
    assert_eq!(holdings.sum.extent(), most, "as much as can be said");
    holdings.set(task(2), most);
    holdings.remove(task(3));
    assert_eq!(holdings.without(task(2)), seven);
    holdings.set(task(2), Extent { bytes: 1, entries: 2 });
    assert_eq!(holdings.sum.extent(), Extent { bytes: 8, entries: 9 });
    holdings.remove(task(2));
    assert_eq!(holdings.sum.extent(), seven);
}

#[test]
fn room_is_never_negative() {
    let full = Extent { bytes: 5, entries: 5 }.less(Extent { bytes: 9, entries: 1 });
    assert_eq!(full, Extent { bytes: 0, entries: 4 });
}
