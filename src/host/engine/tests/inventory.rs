//! What is known of a node before, and without, its first complete inventory.

use super::*;

#[test]
fn an_inventory_that_could_not_be_stored_opens_no_node() {
    let mut bench = Bench::new();
    let session = bench.register("n1", "instance1", "machine1").expect("registered").session;
    bench.beat("n1", &session).expect("heartbeat");
    bench.core().store.limit_growth(0);
    let large = TaskSpec { env: [EnvVar::new("A", &"x".repeat(200_000)).expect("variable")].into(), ..command(1) };
    let (submit, _answer) = submission(large, None);
    let (reply, inventory) = mpsc::sync_channel(1);
    let snapshot = Snapshot { session: session.clone(), complete: true, tasks: Vec::new() };
    bench.turn(vec![Action::Observed("n1".parse().expect("name"), snapshot, reply), submit]);
    assert_eq!(inventory.try_recv().expect("answered").expect_err("not stored").status, 503);
    bench.core().store.limit_growth(10_000);
    bench.pass(Duration::from_secs(2));
    let id = bench.submit(command(1)).expect("accepted");
    assert_eq!(bench.state(id), State::Pending, "nobody has said what that node has");
    bench.observe("n1", &session, true, Vec::new());
    let task = bench.task(id);
    assert_eq!((task.standing.state, task.standing.attempt), (State::Assigning, Attempt::FIRST));
}

#[test]
fn numbers_that_a_node_makes_up_do_not_fill_the_memory() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    for round in 0..6 {
        let first = round * 4_000;
        let seen = (first..first + 4_000).map(|id| {
            let id = TaskId::from_u64(1_000_000 + id);
            Seen { what: What::Unknown, ..seen(id, 1, Observation::Running) }
        });
        bench.observe("n1", &session, false, seen.collect());
    }
    let listed = bench.unknown("n1");
    assert_eq!((listed.len(), listed.last()), (10_000, Some(&1_023_999)), "the newest are listed");
    bench.observe("n1", &session, true, Vec::new());
    assert!(bench.unknown("n1").is_empty());
}

#[test]
fn names_that_somebody_makes_up_do_not_fill_the_memory() {
    let mut bench = Bench::new();
    for number in 0..20 {
        bench.register(&format!("n{number}"), "instance", "machine").expect("there is room");
    }
    let full = bench.register("one-more", "instance", "machine").expect_err("full");
    assert!(full.status == 503 && full.detail.contains("forget"), "{full:?}");
    bench.register("n7", "another", "machine").expect("those that are known come again");
}
