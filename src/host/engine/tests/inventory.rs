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
    let snapshot = Snapshot {
        session: session.clone(),
        complete: true,
        tasks: Vec::new(),
        told: Default::default(),
        epoch: String::new(),
    };
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
fn what_ran_is_never_to_be_started_again() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let (ran, waits) = (bench.submit(command(1)).expect("accepted"), bench.submit(command(1)).expect("accepted"));
    let starting = || Observation::Starting { progress: None };
    bench.observe("n1", &session, false, vec![seen(ran, 2, Observation::Running), seen(waits, 1, starting())]);
    // Its Runner comes back without its records, while the containers are gone as well.
    let again = bench.register("n1", "instance2", "machine1").expect("registered").session;
    let may_start = |bench: &mut Bench| -> Vec<bool> {
        bench.desired("n1", &again).tasks.iter().map(|task| !task.no_start && !task.seen).collect()
    };
    assert_eq!(may_start(&mut bench), [false, false], "it is not known what is there");
    bench.beat("n1", &again).expect("heartbeat");
    bench.observe("n1", &again, true, Vec::new());
    let attempt = bench.task(waits).standing.attempt;
    assert_eq!((may_start(&mut bench), attempt), (vec![false, true], Attempt(2)));
    bench.observe("n1", &again, true, Vec::new());
    assert_eq!(bench.state(ran), State::Failed);
}

#[test]
fn one_that_was_lost_before_it_ran_is_not_missing() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let id = bench.submit(command(1)).expect("accepted");
    bench.observe("n1", &session, false, vec![seen(id, 1, Observation::Starting { progress: None })]);
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    assert_eq!(bench.state(id), State::Lost);
    let again = bench.register("n1", "instance2", "machine1").expect("registered").session;
    bench.beat("n1", &again).expect("heartbeat");
    // The second of these may have been made just before it was begun there.
    for _ in 0..2 {
        bench.observe("n1", &again, true, Vec::new());
        assert_eq!(bench.state(id), State::Lost);
    }
    bench.observe("n1", &again, false, vec![seen(id, 3, Observation::Running)]);
    assert_eq!(bench.state(id), State::Running);
}

#[test]
fn a_late_copy_of_a_report_makes_nothing_unknown() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let id = bench.submit(command(1)).expect("accepted");
    let end = Observation::Exited { exit: Exit::status(0), oom: false, message: None };
    bench.observe("n1", &session, false, vec![seen(id, 3, end)]);
    bench.observe("n1", &session, false, vec![seen(id, 2, Observation::Running)]);
    assert!(bench.unknown("n1").is_empty(), "it said so before it ended");
    bench.observe("n1", &session, false, vec![seen(id, 4, Observation::Running)]);
    assert_eq!(bench.unknown("n1"), [id.get()], "it lives although it is over");
}

#[test]
fn a_poll_in_a_turn_that_could_not_be_stored_holds_nobody_up() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    bench.core().store.limit_growth(0);
    let large = TaskSpec { env: [EnvVar::new("A", &"x".repeat(200_000)).expect("variable")].into(), ..command(1) };
    let (submit, refused) = submission(large, None);
    let (reply, answer) = mpsc::sync_channel(1);
    let known = bench.core().list(&"n1".parse().expect("name"), &poll(&session)).expect("a list").version;
    let waits = Poll { known, changes: true, may_wait: true, ..poll(&session) };
    // Memory is made anew, so there is news for it; and the turn has failed. Both are told, to one who takes one answer.
    bench.turn(vec![Action::Desired("n1".parse().expect("name"), waits, reply), submit]);
    assert_eq!(refused.try_recv().expect("answered").expect_err("not stored").status, 503);
    assert!(answer.try_recv().is_ok() && answer.try_recv().is_err(), "once");
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

#[test]
fn an_inventory_in_several_calls_is_one() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [told, last, absent] = [1; 3].map(|cores| bench.submit(command(cores)).expect("accepted"));
    let foreign = [TaskId::from_u64(7), TaskId::from_u64(8)];
    let runs = |id| Seen { started_ms: Some(1), ..seen(id, 2, Observation::Running) };
    let unknown = |id| Seen { what: What::Unknown, ..runs(id) };
    bench.observe("n1", &session, false, vec![runs(told), runs(last), runs(absent)]);
    // Whoever lacks a task twice has it no more; the first of the two calls of each inventory tells the others.
    for _ in 0..2 {
        bench.observe("n1", &session, false, vec![runs(told), unknown(foreign[0]), unknown(foreign[1])]);
        let rest = Snapshot {
            session: session.clone(),
            complete: true,
            tasks: vec![runs(last)],
            told: [told, foreign[0]].into(),
            epoch: String::new(),
        };
        bench.ask(|reply| Action::Observed("n1".parse().expect("name"), rest, reply)).expect("taken");
    }
    assert_eq!([told, last, absent].map(|id| bench.state(id)), [State::Running, State::Running, State::Failed]);
    assert_eq!(bench.unknown("n1"), [7], "what the inventory has, and the list has not");
}

/// A Runner says so of what it has no record of, where its records are older than what it was given.
#[test]
fn one_that_was_lost_and_never_began_waits_anew_unless_it_ran() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [waits, ran] = [(); 2].map(|()| bench.submit(command(1)).expect("accepted"));
    let running = Seen { started_ms: Some(5), ..seen(ran, 2, Observation::Running) };
    bench.observe("n1", &session, false, vec![seen(waits, 1, Observation::Starting { progress: None }), running]);
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    assert_eq!([waits, ran].map(|id| bench.state(id)), [State::Lost; 2]);
    let again = bench.register("n1", "instance2", "machine1").expect("registered").session;
    bench.beat("n1", &again).expect("heartbeat");
    bench.observe("n1", &again, true, Vec::new());
    let not_begun = |id, rev| seen(id, rev, Observation::Unbegun);
    bench.observe("n1", &again, false, vec![not_begun(ran, 1)]);
    assert_eq!(bench.state(ran), State::Lost, "older than what is known");
    bench.observe("n1", &again, false, vec![not_begun(waits, 9), not_begun(ran, 9)]);
    let task = bench.task(waits).standing;
    assert_eq!((task.state, task.attempt), (State::Assigning, Attempt(2)), "{task:?}");
    let task = bench.task(ran).standing;
    assert_eq!(task.state, State::Failed);
    assert!(task.note.is_some_and(|note| note.starts_with("result unknown")));
}

#[test]
fn what_comes_late_says_of_nothing_that_it_is_not_there() {
    let mut bench = Bench::new();
    let first = bench.register("n1", "instance1", "machine1").expect("registered");
    let session = first.session;
    bench.beat("n1", &session).expect("heartbeat");
    bench.observe("n1", &session, true, Vec::new());
    let id = bench.submit(command(1)).expect("accepted");
    bench.observe("n1", &session, false, vec![Seen { started_ms: Some(1), ..seen(id, 2, Observation::Running) }]);
    let tell = |bench: &mut Bench, epoch: &str| -> String {
        let snapshot = Snapshot {
            session: session.clone(),
            complete: true,
            tasks: Vec::new(),
            told: Default::default(),
            epoch: epoch.to_owned(),
        };
        bench.ask(|reply| Action::Observed("n1".parse().expect("name"), snapshot, reply)).expect("taken").1
    };
    // Both were made before it was begun, and given up.
    let now = tell(&mut bench, &first.host_epoch);
    assert_ne!(now, first.host_epoch, "it is asked for once more");
    assert_eq!(tell(&mut bench, &first.host_epoch), now);
    assert_eq!(bench.state(id), State::Running);
    // And this is the answer.
    tell(&mut bench, &now);
    assert_eq!(bench.state(id), State::Failed);
}
