//! Tasks next in line on a node: who stands there, who does not, what they hold, and how they come back.

use super::*;

const COMPLETED: Observation =
    Observation::Exited { exit: Exit { code: Some(0), signal: None }, oom: false, message: None };

fn bare(cores: u32) -> TaskSpec {
    TaskSpec { container: Container::Null, ..command(cores) }
}

/// It ended after so many milliseconds.
fn ended(id: TaskId, ran_ms: u64) -> Seen {
    Seen { started_ms: Some(1_000), completed_ms: Some(1_000 + ran_ms), ..seen(id, 9, COMPLETED) }
}

/// A node with 4 cores, and tasks of one core each.
fn crowd(count: usize) -> (Bench, String, Vec<TaskId>) {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let ids = (0..count).map(|_| bench.submit(bare(1)).expect("accepted")).collect();
    (bench, session, ids)
}

impl Bench {
    fn in_line(&self) -> Vec<TaskId> {
        let core = self.core.as_ref().expect("started");
        core.nodes.values().flat_map(|node| node.in_line.keys().copied()).collect()
    }
}

#[test]
fn where_short_tasks_end_as_many_of_the_next_ones_line_up() {
    let (mut bench, session, ids) = crowd(12);
    assert!(bench.in_line().is_empty(), "nothing has ended yet");
    bench.observe("n1", &session, false, vec![ended(ids[0], 3), ended(ids[1], 50)]);
    assert_eq!(bench.in_line(), &ids[6..8], "two have ended, two took their place, and two are next");
    let list = bench.desired("n1", &session).tasks;
    let flags: Vec<bool> = list.iter().map(|task| task.spec.in_line).collect();
    assert_eq!(flags, [false, false, false, false, true, true]);
    // One that waits has what becomes free; what is left waits on.
    bench.observe("n1", &session, false, vec![ended(ids[2], 3)]);
    assert_eq!(bench.in_line(), [ids[6], ids[7], ids[8]], "the first of them holds a core by now");
    bench.observe("n1", &session, false, vec![seen(ids[6], 1, Observation::Running)]);
    assert_eq!(bench.in_line(), [ids[7], ids[8]]);
    // One that ends before it was ever seen to run.
    bench.observe("n1", &session, false, vec![ended(ids[7], 1), ended(ids[3], 1)]);
    assert_eq!(bench.state(ids[7]), State::Completed);
    // What was in line stays there when the Host starts anew.
    let before = bench.in_line();
    assert!(!before.is_empty());
    bench.start("epoch2");
    assert_eq!(bench.in_line(), before);
}

#[test]
fn nobody_lines_up_behind_long_tasks_or_past_an_older_one() {
    let (mut bench, session, ids) = crowd(8);
    bench.observe("n1", &session, false, vec![ended(ids[0], 51)]);
    assert!(bench.in_line().is_empty(), "it ran too long");
    let large = bench.submit(bare(4)).expect("accepted");
    let contained = bench.submit(command(1)).expect("accepted");
    let last = bench.submit(bare(1)).expect("accepted");
    bench.observe("n1", &session, false, (1..4).map(|at| ended(ids[at], 1)).collect());
    // ids[4..8] run; the large one is in line, the one in a container is next, and nobody passes it.
    assert_eq!(bench.in_line(), [large]);
    assert_eq!((bench.state(contained), bench.state(last)), (State::Pending, State::Pending));
    let node = bench.core().nodes.values().next().expect("a node");
    assert_eq!(node.held.cores, 4);
    bench.observe("n1", &session, false, vec![ended(ids[4], 1)]);
    assert_eq!(bench.state(contained), State::Pending, "the core that became free is kept for the line");
}

#[test]
fn what_waits_too_long_is_asked_back_and_waits_anew() {
    let (mut bench, session, ids) = crowd(9);
    bench.observe("n1", &session, false, vec![ended(ids[0], 1), ended(ids[1], 1)]);
    assert_eq!(bench.in_line(), [ids[6], ids[7]]);
    bench.pass(Duration::from_millis(400));
    bench.turn(Vec::new());
    let wants = |bench: &mut Bench, id: TaskId| {
        let list = bench.wants("n1", &session);
        list.into_iter().find(|(task, ..)| *task == id.to_string()).map(|(_, attempt, want)| (attempt, want))
    };
    assert_eq!(wants(&mut bench, ids[6]), Some((1, "run".to_owned())));
    let deadline = bench.core().next_deadline();
    assert!(deadline <= bench.now.instant + Duration::from_millis(100), "it wakes for that");
    bench.pass(Duration::from_millis(100));
    bench.turn(Vec::new());
    assert_eq!(wants(&mut bench, ids[6]), Some((1, "return".to_owned())));
    // The first was started just before it heard of that; the second comes back.
    let returned = seen(ids[7], 5, Observation::Returned);
    bench.observe("n1", &session, false, vec![seen(ids[6], 1, Observation::Running), returned.clone()]);
    assert_eq!(wants(&mut bench, ids[6]), Some((1, "run".to_owned())));
    let back = bench.task(ids[7]);
    assert_eq!((back.standing.state, back.standing.attempt, back.placement), (State::Pending, Attempt(2), None));
    assert!(bench.in_line().is_empty());
    // Said again it changes nothing; killed, it is gone at once.
    bench.observe("n1", &session, false, vec![returned]);
    assert_eq!(bench.task(ids[7]).standing.attempt, Attempt(2));
    bench.observe("n1", &session, false, (2..7).map(|at| ended(ids[at], 900)).collect());
    assert_eq!((bench.state(ids[7]), bench.state(ids[8])), (State::Assigning, State::Assigning));
    bench.kill(ids[8]).expect("killed");
    let gone = Seen { attempt: Attempt(1), ..seen(ids[8], 1, Observation::Returned) };
    bench.observe("n1", &session, false, vec![gone]);
    assert_eq!(bench.state(ids[8]), State::Killed, "one that is to end is not put back");
}

#[test]
fn who_is_not_to_wait_does_not_line_up() {
    let (mut bench, session, ids) = crowd(6);
    bench.observe("n1", &session, false, vec![ended(ids[0], 1), ended(ids[1], 1)]);
    let mut spec = bare(1);
    spec.patience.immediate = true;
    let refused = bench.submit(spec).expect_err("no core is free");
    assert!(refused.status == 503 && refused.detail.contains("n1"), "{refused:?}");
    assert!(bench.in_line().is_empty());
    bench.submit(bare(1)).expect("accepted");
    assert_eq!(bench.in_line().len(), 1, "who may wait does");
}

#[test]
fn patience_ends_for_one_that_comes_back_too() {
    let (mut bench, session, ids) = crowd(6);
    bench.observe("n1", &session, false, vec![ended(ids[0], 1), ended(ids[1], 1)]);
    let [short, long] = [200, 900].map(|patience| {
        let mut spec = bare(1);
        spec.patience.max_wait = Some(Duration::from_millis(patience));
        bench.submit(spec).expect("accepted")
    });
    assert_eq!(bench.in_line(), [short, long]);
    bench.pass(Duration::from_millis(500));
    bench.turn(Vec::new());
    let returned = [short, long].map(|id| seen(id, 1, Observation::Returned));
    bench.observe("n1", &session, false, returned.into());
    assert_eq!((bench.state(short), bench.state(long)), (State::Failed, State::Pending));
    assert!(bench.task(short).standing.note.expect("why").contains("waited longer"));
    assert_eq!(bench.core().give_up.len(), 1);
    bench.pass(Duration::from_millis(400));
    bench.turn(Vec::new());
    assert_eq!(bench.state(long), State::Failed);
    assert_eq!(bench.core().give_up.len(), 0);
}

#[test]
fn a_start_that_crosses_the_call_back_is_told_at_once() {
    let (mut bench, session, ids) = crowd(6);
    bench.observe("n1", &session, false, vec![ended(ids[0], 1), ended(ids[1], 1)]);
    let next = bench.submit(bare(1)).expect("accepted");
    bench.pass(Duration::from_millis(500));
    bench.turn(Vec::new());
    let known = bench.desired("n1", &session).version;
    let (reply, answer) = mpsc::sync_channel(1);
    let parked = Poll { known, changes: true, may_wait: true, ..poll(&session) };
    bench.turn(vec![Action::Desired("n1".parse().expect("name"), parked, reply)]);
    assert!(answer.try_recv().is_err(), "nothing is new");
    bench.observe("n1", &session, false, vec![seen(next, 1, Observation::Running)]);
    let list = answer.try_recv().expect("answered").expect("a list");
    assert_eq!(list.tasks.iter().map(|task| task.want.as_str()).collect::<Vec<_>>(), ["run"]);
}
