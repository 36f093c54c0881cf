//! A database that was put back from a backup, or has a row that nobody can read.

use super::*;
use crate::store::{Prepared, Source, back_up, prepare};

impl Bench {
    fn back_up(&self) -> PathBuf {
        let to = self.folder.join("backup");
        back_up(&self.folder.join("cluster.db"), &to, true, self.now.unix_ms).expect("written");
        to
    }

    fn restore(&mut self, file: &std::path::Path, is_current: bool) {
        self.core = None;
        let source = Source::Backup { file, is_current };
        prepare(&self.folder.join("cluster.db"), source, 1).and_then(Prepared::commit).expect("restored");
        self.followed.clear();
        self.start("epoch2");
    }

    fn session_of(&mut self, name: &str, instance: &str) -> String {
        self.register(name, instance, "machine1").expect("registered").session
    }

    fn edit(&self, sql: &str) {
        let conn = rusqlite::Connection::open(self.folder.join("cluster.db")).expect("open");
        conn.execute_batch(sql).expect("edited");
    }
}

fn done(id: TaskId, rev: u64) -> Seen {
    seen(id, rev, Observation::Exited { exit: Exit::status(0), oom: false, message: None })
}

#[test]
fn what_a_backup_says_of_tasks_is_not_taken_for_what_is_so_now() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [lives, ended, starts] = [1, 1, 2].map(|cores| bench.submit(command(cores)).expect("accepted"));
    let waits = bench.submit(command(1)).expect("accepted");
    bench.observe(
        "n1",
        &session,
        false,
        vec![seen(lives, 1, Observation::Running), seen(ended, 1, Observation::Running)],
    );
    assert_eq!([lives, ended, starts, waits].map(|id| bench.state(id)), {
        use State::{Assigning, Pending, Running};
        [Running, Running, Assigning, Pending]
    });
    let backup = bench.back_up();
    // What it does not know: one ends and is forgotten, the last two run in its place, another one comes.
    bench.observe("n1", &session, false, vec![done(ended, 2), seen(starts, 1, Observation::Running)]);
    bench.observe("n1", &session, false, vec![seen(waits, 1, Observation::Running)]);
    let later = bench.submit(command(0)).expect("accepted");
    bench.observe("n1", &session, false, vec![seen(later, 1, Observation::Running)]);

    bench.restore(&backup, false);
    assert_eq!([lives, ended, starts].map(|id| bench.state(id)), [State::Lost; 3]);
    let waited = bench.task(waits).standing;
    assert_eq!(waited.state, State::Failed);
    assert!(waited.note.as_ref().is_some_and(|note| note.starts_with("result unknown: ")), "{waited:?}");
    let list = bench.desired("n1", &session).tasks;
    assert_eq!(list.len(), 3, "{list:?}");
    assert!(list.iter().all(|task| task.seen), "none of them is started a second time: {list:?}");
    // The node tells what it has, and that it has not the one that has ended.
    let has = vec![lives, starts, waits, later];
    let told = has.into_iter().map(|id| seen(id, 1, Observation::Running)).collect();
    bench.observe("n1", &session, true, told);
    bench.observe("n1", &session, false, vec![seen(ended, 900, Observation::Gone)]);
    assert_eq!([lives, starts].map(|id| bench.state(id)), [State::Running; 2]);
    let gone = bench.task(ended).standing;
    assert_eq!((gone.state, gone.exit.code), (State::Failed, None), "never a guessed success: {gone:?}");
    assert!(gone.note.is_some_and(|note| note.contains("result unknown")));
    assert_eq!(bench.unknown("n1"), [waits.get(), later.get()], "listed, and left alone");
    assert!(bench.wants("n1", &session).iter().all(|(_, _, want)| want == "run"));
    let next = bench.submit(command(0)).expect("accepted");
    assert!(next > later, "{next} after {later}");

    // It was taken in once: the next start finds things as they are.
    bench.followed.clear();
    bench.start("epoch3");
    assert_eq!([lives, starts].map(|id| bench.state(id)), [State::Running; 2]);
    // Nor is it forgotten that it was: what a node has no record of may have ended.
    let session = bench.session_of("n1", "instance9");
    bench.beat("n1", &session).expect("known");
    bench.observe("n1", &session, true, [lives, starts].map(|id| seen(id, 1, Observation::Running)).into());
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    assert_eq!(bench.state(starts), State::Lost);
    bench.observe("n1", &session, false, vec![seen(starts, 900, Observation::Unbegun)]);
    assert_eq!(bench.state(starts), State::Failed, "not started a second time");
}

#[test]
fn a_backup_since_which_no_host_ran_goes_on_where_it_was() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [runs, waits] = [4, 1].map(|cores| bench.submit(command(cores)).expect("accepted"));
    bench.observe("n1", &session, false, vec![seen(runs, 1, Observation::Running)]);
    bench.core = None;
    let backup = bench.back_up();
    bench.restore(&backup, true);
    assert_eq!([runs, waits].map(|id| bench.state(id)), [State::Running, State::Pending]);
}

#[test]
fn a_runner_that_registered_after_the_backup_registers_again() {
    let mut bench = Bench::new();
    let old = bench.node("n1");
    let backup = bench.back_up();
    let later = bench.session_of("n1", "instance2");
    let fresh = bench.session_of("n2", "instance1");
    assert_eq!(bench.beat("n1", &old).expect_err("it is over").status, 410);
    bench.restore(&backup, false);
    assert_eq!(bench.beat("n1", &later).expect_err("not known").status, 404, "it is not over");
    assert_eq!(bench.beat("n2", &fresh).expect_err("not known").status, 404);
    let again = bench.session_of("n1", "instance2");
    bench.beat("n1", &again).expect("known");
    assert_eq!(bench.beat("n1", &old).expect_err("over").status, 410);
}

#[test]
fn numbers_of_ids_and_events_go_on_behind_those_that_the_backup_does_not_know() {
    let mut bench = Bench::new();
    bench.node("n1");
    bench.submit(command(0)).expect("accepted");
    let backup = bench.back_up();
    let mut given: Vec<TaskId> = (0..20).map(|_| bench.submit(command(0)).expect("accepted")).collect();
    let last = bench.view.events.number();
    for restored in 0..3 {
        // Also when the clock was set back meanwhile.
        bench.now.unix_ms -= 3_600_000;
        bench.restore(&backup, false);
        let new = bench.submit(command(0)).expect("accepted");
        assert!(given.iter().all(|id| *id < new), "{new} was given before, after {restored} restores");
        given.push(new);
        let readers = bench.core().store.readers();
        let (rows, _) = readers.events_after(last, 100, &EventFilter::default()).expect("events");
        assert!(rows.iter().all(|row| row.seq > last + 1_000) && !rows.is_empty(), "{rows:?}");
        assert_eq!(readers.has_event(last), Ok(false), "who followed is told that there is a gap");
    }
}

#[test]
fn ids_that_nodes_have_are_never_given_again() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let foreign = TaskId::from_u64((bench.now.unix_ms + 5_000) << 22);
    bench.observe("n1", &session, true, vec![seen(foreign, 1, Observation::Running)]);
    assert!(bench.submit(command(0)).expect("accepted") > foreign);
    // But a node does not use them up.
    bench.observe("n1", &session, true, vec![seen(TaskId::from_u64(i64::MAX as u64), 1, Observation::Running)]);
    assert!(bench.submit(command(0)).expect("accepted").get() >> 22 < bench.now.unix_ms + 60_000);
}

#[test]
fn a_row_that_cannot_be_read_fails_nobody_elses_request() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [odd, other] = [1, 1].map(|cores| bench.submit(command(cores)).expect("accepted"));
    bench.observe("n1", &session, false, vec![done(odd, 1), seen(other, 1, Observation::Running)]);
    bench.edit(&format!("UPDATE tasks SET spec = '{{' WHERE id = {odd}"));
    let (reply, refused) = mpsc::sync_channel(1);
    let (reply_other, killed) = mpsc::sync_channel(1);
    let (reply_list, observed) = mpsc::sync_channel(1);
    // Its node has not had the receipt, and tells its end again.
    let snapshot = Snapshot {
        session: session.clone(),
        complete: true,
        tasks: vec![done(odd, 1), seen(other, 2, Observation::Paused)],
        told: Default::default(),
        epoch: String::new(),
    };
    bench.turn(vec![
        Action::Kill(odd, reply),
        Action::Kill(other, reply_other),
        Action::Observed("n1".parse().expect("name"), snapshot, reply_list),
    ]);
    let fault = refused.try_recv().expect("answered").expect_err("it cannot be read");
    assert!(fault.status == 500 && fault.detail.contains(&odd.to_string()), "{fault:?}");
    killed.try_recv().expect("answered").expect("the other one can");
    let (receipts, _) = observed.try_recv().expect("answered").expect("the node is heard");
    assert_eq!(receipts.len(), 2, "that it ended is known: {receipts:?}");
    assert_eq!(bench.state(other), State::Paused);
}

#[test]
fn pages_of_ended_tasks_that_cannot_be_read_fail_no_turn() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let mut ended = Vec::new();
    for _ in 0..60 {
        let id = bench.submit(command(1)).expect("accepted");
        bench.observe("n1", &session, false, vec![done(id, 1)]);
        ended.push(id);
    }
    let lives = bench.submit(command(1)).expect("accepted");
    bench.edit("PRAGMA wal_checkpoint(TRUNCATE)");
    // Leaves of the table of tasks (their first byte is 13), as a disk would damage them: those on which all have ended.
    let content = std::fs::read(bench.folder.join("cluster.db")).expect("read");
    let has = |page: &[u8], text: &str| page.windows(text.len()).any(|found| found == text.as_bytes());
    let is_old =
        |page: &[u8]| page[0] == 13 && has(page, "completed") && has(page, "\"kind\"") && !has(page, "assigning");
    let pages: Vec<u64> =
        (1..).zip(content.chunks(4_096)).filter(|(_, page)| is_old(page)).map(|(page, _)| page).collect();
    assert!(pages.len() > 2, "{pages:?}");
    let file = std::fs::OpenOptions::new().write(true).open(bench.folder.join("cluster.db")).expect("open");
    for page in &pages {
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 4_096], (page - 1) * 4_096).expect("damaged");
    }
    let (reply, refused) = mpsc::sync_channel(1);
    // They are also due to be removed.
    bench.now.instant += Duration::from_secs(86_400 * 2);
    bench.now.unix_ms += 86_400_000 * 2;
    let now = bench.now;
    let core = bench.core();
    core.turn(vec![Action::Kill(ended[0], reply)], now);
    let fault = refused.try_recv().expect("answered").expect_err("it has ended, or cannot be read");
    assert!(matches!(fault.status, 409 | 500), "{fault:?}");
    core.turn(vec![Action::Kill(lives, mpsc::sync_channel(1).0)], now);
    assert_eq!(core.tasks[&lives].task.standing.want, crate::domain::state::Want::Stop, "the turn was stored");
}

#[test]
fn a_clock_that_is_set_ahead_removes_nothing() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let [ended, _last] = [0, 0].map(|cores| bench.submit(command(cores)).expect("accepted"));
    bench.observe("n1", &session, false, vec![done(ended, 1)]);
    bench.now.unix_ms += 50 * 86_400_000;
    bench.pass(Duration::from_secs(20));
    bench.turn(Vec::new());
    assert_eq!(bench.state(ended), State::Completed);
    bench.pass(Duration::from_secs(2 * 86_400));
    bench.turn(Vec::new());
    assert_eq!(bench.core().store.has_task(ended), Ok(false), "time that has passed does");
}

#[test]
fn a_wait_is_measured_and_no_task_ends_before_it_began() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let patience = Patience { max_wait: Some(Duration::from_secs(100)), ..Patience::default() };
    let runs = bench.submit(command(4)).expect("accepted");
    let waits = bench.submit(TaskSpec { patience, ..command(4) }).expect("accepted");
    bench.observe("n1", &session, false, vec![Seen { started_ms: Some(9_000), ..seen(runs, 1, Observation::Running) }]);
    for step_ms in [86_400_000_i64, -2 * 86_400_000, 86_400_000] {
        bench.now.unix_ms = bench.now.unix_ms.saturating_add_signed(step_ms);
        bench.pass(Duration::from_secs(10));
        bench.beat("n1", &session).expect("heard");
        assert_eq!(bench.state(waits), State::Pending, "a day forth and back is no time that has passed");
    }
    // The node's clock was set back while it ran.
    bench.observe("n1", &session, false, vec![Seen { completed_ms: Some(5_000), ..done(runs, 2) }]);
    assert_eq!((bench.task(runs).started_ms, bench.task(runs).completed_ms), (Some(9_000), Some(9_000)));
    // It was placed, its node never got it, and it waits again: with the time that it had left.
    assert_eq!(bench.state(waits), State::Assigning);
    bench.now.unix_ms += 86_400_000;
    let session = bench.session_of("n1", "instance2");
    bench.observe("n1", &session, true, Vec::new());
    bench.turn(Vec::new());
    assert_ne!(bench.state(waits), State::Failed, "{:?}", bench.task(waits).standing);
}
