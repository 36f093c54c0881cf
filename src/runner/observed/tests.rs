use super::*;
use crate::runner::record::Outcome;

fn record(id: u64, rev: u64, phase: Phase) -> Record {
    Record { rev, phase, port: Some(30_000), ..Record::new(TaskId::from_u64(id), Attempt(1), "vps", "boot") }
}

fn receipt(id: &str, rev: u64) -> Acknowledged {
    Acknowledged { task_id: id.to_owned(), attempt: 1, rev }
}

#[test]
fn rows_say_what_is_seen() {
    let running = |note: Option<&str>| Phase::Running { note: note.map(ToOwned::to_owned) };
    for (phase, unknown, state, progress, port) in [
        (Phase::Starting { progress: Some("p".to_owned()) }, false, "starting", Some("p"), Some(30_000)),
        (running(None), false, "running", None, Some(30_000)),
        (running(Some("n")), false, "starting", Some("n"), Some(30_000)),
        (Phase::Paused, false, "paused", None, Some(30_000)),
        (running(None), true, "unknown", None, Some(30_000)),
        (Phase::Ended(Outcome::killed()), false, "killed", None, None),
        (Phase::Ended(Outcome::failed("x")), true, "failed", None, None),
    ] {
        let row = row(&record(1, 1, phase), unknown);
        assert_eq!((row.state.as_str(), row.progress.as_deref(), row.ssh_port), (state, progress, port));
    }
}

#[test]
fn what_is_not_acknowledged_stays_and_what_changed_meanwhile_too() {
    let outbox = Outbox::default();
    let put = |id, rev| outbox.put(TaskId::from_u64(id), row(&record(id, rev, Phase::Paused), false));
    put(2, 1);
    let batch = outbox.next().expect("there is something");
    assert_eq!((batch.complete, batch.tasks.len()), (false, 1));
    assert_eq!(outbox.taken(&batch, &[receipt("2", 1)]), [(TaskId::from_u64(2), Attempt(1), 1)]);
    put(1, 1);
    let batch = outbox.next().expect("another one");
    put(1, 2);
    assert!(outbox.taken(&batch, &[receipt("1", 1)]).is_empty(), "there is a later one");
    let batch = outbox.next().expect("the newer one");
    assert_eq!(batch.tasks.iter().map(|task| task.rev).collect::<Vec<_>>(), [2]);
    assert!(outbox.taken(&batch, &[]).is_empty());
    put(1, 2);
    put(3, 1);
    put(3, 2);
    outbox.remove(TaskId::from_u64(3));
    put(3, 2);
    let batch = outbox.next().expect("another one");
    let ids: Vec<_> = batch.tasks.iter().map(|task| task.task_id.as_str()).collect();
    assert_eq!(ids, ["3"], "what was taken and not acknowledged is not repeated at once");
    outbox.taken(&batch, &[receipt("3", 2)]);
    let due: Vec<_> = outbox.lock().due.iter().map(|(_, task)| task.get()).collect();
    assert_eq!(due, [1], "what is acknowledged or replaced is due no more");
}

#[test]
fn what_the_host_takes_for_old_is_said_once_more_as_later() {
    let outbox = Outbox::default();
    let id = TaskId::from_u64(1);
    outbox.put(id, absent(id, Attempt(1), 5, Absent::Returned));
    let batch = outbox.next().expect("the row");
    assert_eq!(outbox.taken(&batch, &[receipt("1", 90)]), [(id, Attempt(1), 90)]);
    outbox.surpass(id, 90);
    let batch = outbox.next().expect("once more");
    assert_eq!((batch.tasks[0].rev, batch.tasks[0].state.as_str()), (91, "returned"));
    assert_eq!(outbox.taken(&batch, &[receipt("1", 91)]), [(id, Attempt(1), 91)]);
    outbox.surpass(id, 90);
    assert!(outbox.lock().due.is_empty(), "it is later already");
}

#[test]
fn what_may_be_overtaken_waits_a_moment() {
    let outbox = Outbox::default();
    let put_soon = |id, rev| outbox.put_soon(TaskId::from_u64(id), row(&record(id, rev, Phase::Paused), false));
    put_soon(1, 1);
    put_soon(2, 1);
    outbox.put(TaskId::from_u64(2), row(&record(2, 2, Phase::Ended(Outcome::killed())), false));
    let told = |batch: Batch| batch.tasks.into_iter().map(|task| (task.task_id, task.rev)).collect::<Vec<_>>();
    assert_eq!(told(outbox.next().expect("the end")), [("2".to_owned(), 2)]);
    outbox.remove(TaskId::from_u64(2));
    assert_eq!(
        told(outbox.next().expect("the other one")),
        [("1".to_owned(), 1)],
        "it is told although nothing follows"
    );
}

#[test]
fn an_inventory_that_is_too_long_for_one_call_comes_in_several() {
    let outbox = Outbox::default();
    // Each fills a call.
    let long = |id, rev| {
        let phase = Phase::Ended(Outcome::failed("x".repeat(PART)));
        outbox.put(TaskId::from_u64(id), row(&record(id, rev, phase), false));
    };
    let next = || {
        let batch = outbox.now().expect("something to tell");
        let body = batch.body(&Session::default(), Vec::new());
        let ids = body.tasks.iter().map(|task| task.task_id.clone()).collect::<Vec<_>>().join(" ");
        (batch, (body.complete, ids, body.told.join(" ")))
    };
    let told = |complete, tasks: &str, told: &str| (complete, tasks.to_owned(), told.to_owned());
    [4, 3, 2, 1].into_iter().for_each(|id| long(id, 1));
    outbox.complete_allowed();
    let (batch, body) = next();
    assert_eq!(body, told(false, "4", ""), "what is due is cut as well, in the order in which it happened");
    outbox.taken(&batch, &[receipt("4", 1)]);
    outbox.registered(&Registered { takes_parts: true, ..Registered::default() });
    let (batch, body) = next();
    assert_eq!(body, told(false, "4", ""), "all is told");
    // Before it is answered the Host is another one: what was told counts for nothing.
    outbox.complete_due();
    outbox.taken(&batch, &[receipt("4", 1)]);
    for expected in ["4", "3"] {
        let (batch, body) = next();
        assert_eq!(body, told(false, expected, ""));
        outbox.taken(&batch, &[receipt(expected, 1)]);
    }
    // One is gone, and one has changed, since they were told.
    outbox.remove(TaskId::from_u64(4));
    long(3, 2);
    for expected in ["2", "1"] {
        let (batch, body) = next();
        assert_eq!(body, told(false, expected, ""));
        outbox.taken(&batch, &[]);
    }
    let (batch, body) = next();
    assert_eq!(body, told(true, "3", "1 2"), "those of which the calls before have told are here as well");
    outbox.taken(&batch, &[receipt("3", 2)]);
    assert!(outbox.now().is_none(), "what was taken and not acknowledged is not repeated at once");
    outbox.registered(&Registered::default());
    let (_, body) = next();
    assert_eq!(body, told(true, "2 1 3", ""), "a Host that does not know of parts gets it whole");
}

#[test]
fn an_inventory_is_complete_only_once_it_is_known_to_be() {
    let outbox = Outbox::default();
    outbox.complete_due();
    outbox.put(TaskId::from_u64(1), row(&record(1, 1, Phase::Paused), false));
    let batch = outbox.next().expect("the row");
    assert!(!batch.complete);
    outbox.taken(&batch, &[receipt("1", 1)]);
    outbox.complete_allowed();
    let batch = outbox.next().expect("the inventory");
    assert!(batch.complete && batch.tasks.len() == 1, "acknowledged rows are part of it");
    outbox.close();
    assert!(outbox.next().is_none());
}

#[test]
fn a_host_that_knows_nothing_of_what_was_never_begun_hears_that_it_is_gone() {
    let outbox = Outbox::default();
    outbox.complete_allowed();
    let id = TaskId::from_u64(7);
    outbox.put(id, absent(id, Attempt(1), 5, Absent::Unbegun));
    for (takes_unbegun, expected) in [(true, "unbegun"), (false, "gone")] {
        outbox.registered(&Registered { takes_unbegun, ..Registered::default() });
        let body = outbox.now().expect("an inventory is due").body(&Session::default(), Vec::new());
        assert_eq!(body.tasks[0].state, expected);
    }
}

#[test]
fn each_epoch_asks_for_an_inventory_of_its_own() {
    let outbox = Outbox::default();
    outbox.complete_allowed();
    outbox.registered(&Registered { host_epoch: "1".to_owned(), ..Registered::default() });
    let epoch = || outbox.now().map(|batch| batch.body(&Session::default(), Vec::new()).epoch);
    assert_eq!(epoch().as_deref(), Some("1"));
    outbox.heard("1");
    assert_eq!(epoch(), None, "it has that one");
    for next in ["2", "1", "2"] {
        outbox.heard(next);
        assert_eq!(epoch().as_deref(), Some(next));
    }
}
