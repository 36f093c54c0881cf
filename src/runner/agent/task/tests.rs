use super::*;
use crate::domain::ids::{Attempt, TaskId};
use crate::runner::executor::Labels;
use crate::runner::executor::docker_parse::ContainerExit;
use crate::runner::record::Outcome;

const ID: TaskId = TaskId::from_u64(7);

fn record(phase: Phase) -> Record {
    Record { phase, launched: true, ..Record::new(ID, Attempt(2), "vps", "boot") }
}

fn task(phase: Phase) -> Task {
    Task::new(record(phase))
}

fn running() -> Phase {
    Phase::Running { note: None }
}

fn starting() -> Phase {
    Phase::Starting { progress: None }
}

fn wanted(attempt: u32, want: Want) -> Wanted {
    Wanted {
        attempt: Attempt(attempt),
        want,
        recalled: false,
        seen: false,
        no_start: false,
        kind: "vps".to_owned(),
        order: Err("no order".to_owned()),
    }
}

/// The job's name, for comparison.
fn word(job: Option<Job>) -> &'static str {
    match job {
        None => "nothing",
        Some(Job::Start(_)) => "start",
        Some(Job::Look { patience_over: false }) => "look",
        Some(Job::Look { patience_over: true }) => "last look",
        Some(Job::Finish(_)) => "finish",
        Some(Job::Pause) => "pause",
        Some(Job::Resume) => "resume",
        Some(Job::Stop) => "stop",
        Some(Job::GiveUp) => "give up",
        Some(Job::Forget) => "forget",
        Some(Job::Sweep { .. }) => "sweep",
        Some(Job::Discard) => "discard",
    }
}

#[test]
fn a_start_that_was_interrupted_goes_on_while_it_is_wanted() {
    for (want, expected) in [
        (Some(wanted(2, Want::Run)), "start"),
        (Some(wanted(2, Want::Pause)), "start"),
        (Some(wanted(2, Want::Stop)), "nothing"),
        (Some(wanted(3, Want::Run)), "nothing"),
        (Some(wanted(1, Want::Run)), "nothing"),
        (None, "nothing"),
    ] {
        let text = want.as_ref().map(|wanted| (wanted.attempt, wanted.want));
        assert_eq!(word(own_job(&mut task(starting()), want.as_ref(), true, Instant::now())), expected, "{text:?}");
    }
}

#[test]
fn a_stop_that_was_begun_is_finished_whatever_the_list_says() {
    for phase in [starting(), running(), Phase::Paused] {
        let mut stopping = Task::new(Record { stopping: true, ..record(phase) });
        for want in [None, Some(wanted(2, Want::Run)), Some(wanted(2, Want::Stop))] {
            assert_eq!(word(own_job(&mut stopping, want.as_ref(), false, Instant::now())), "stop");
        }
    }
    let mut ended = Task::new(Record { stopping: true, ..record(Phase::Ended(Outcome::killed())) });
    assert_eq!(word(own_job(&mut ended, None, true, Instant::now())), "nothing");
}

#[test]
fn a_container_is_looked_at_when_it_is_time_and_given_up_after_five_deaths() {
    let now = Instant::now();
    let mut task = task(running());
    assert_eq!(word(own_job(&mut task, None, false, now)), "nothing");
    assert_eq!(word(own_job(&mut task, None, true, now)), "look");
    task.between = Some(now);
    assert_eq!(word(own_job(&mut task, None, true, now + PATIENCE)), "look");
    assert_eq!(word(own_job(&mut task, None, true, now + PATIENCE + Duration::from_secs(1))), "last look");
    task.deaths = std::iter::repeat_n(now, DEATHS - 1).collect();
    assert_eq!(word(own_job(&mut task, None, true, now)), "look");
    task.deaths.push_back(now);
    assert_eq!(word(own_job(&mut task, None, false, now)), "give up");
}

#[test]
fn the_death_of_a_command_that_was_started_again_is_told_once() {
    let now = Instant::now();
    let mut task = task(running());
    COMMAND.clone_into(&mut task.record.kind);
    task.death = Some(Death { code: 137, at_ms: None });
    assert_eq!(word(own_job(&mut task, None, false, now)), "finish");
    assert_eq!(word(own_job(&mut task, None, false, now)), "nothing", "it would be asked of Docker without end");
    assert_eq!(task.look, Some(now + AGAIN), "what could not be seen is looked at again");
}

#[test]
fn what_cannot_be_frozen_is_looked_at_before_it_is_tried_again() {
    let (now, soon) = (Instant::now(), Instant::now() + AGAIN);
    for (look, not_before, wanted, expected) in [
        (None, None, Kind::Pause, false),
        (Some(soon), None, Kind::Pause, false),
        (Some(now), None, Kind::Pause, true),
        (None, Some(soon), Kind::Resume, true),
        (None, Some(now), Kind::Resume, false),
        (Some(now), Some(soon), Kind::End, false),
    ] {
        let task = Task { look, not_before, ..task(running()) };
        assert_eq!(has_to_wait(&task, wanted, now), expected, "{look:?} {not_before:?} {wanted:?}");
    }
    for (kind, phase, expected) in [
        (Kind::Pause, running(), true),
        (Kind::Pause, Phase::Paused, false),
        (Kind::Pause, Phase::Ended(Outcome::killed()), false),
        (Kind::Resume, Phase::Paused, true),
        (Kind::Resume, running(), false),
        (Kind::Look, running(), false),
    ] {
        assert_eq!(fell_short(kind, &phase), expected, "{kind:?} {phase:?}");
    }
}

#[test]
fn a_kill_interrupts_all_but_another_end() {
    for kind in [Kind::Start, Kind::Look, Kind::Pause, Kind::Resume] {
        assert!(gives_way(kind, Kind::End), "{kind:?}");
        assert!(!gives_way(Kind::End, kind), "{kind:?}");
    }
    assert!(!gives_way(Kind::End, Kind::End));
    assert!(!gives_way(Kind::Start, Kind::Pause), "it is paused when it has started");
    assert!(gives_way(Kind::Look, Kind::Pause), "a server that is waited for may be frozen");
    assert!(gives_way(Kind::Pause, Kind::Resume) && !gives_way(Kind::Pause, Kind::Pause));
}

#[test]
fn a_lost_record_is_made_again_from_the_container() {
    let container = |state, restarts| Container {
        id: "abc".to_owned(),
        labels: Labels { task: ID, attempt: Attempt(2), kind: "vps".to_owned() },
        state,
        restarts,
        published: Some(("127.0.0.1".to_owned(), 30_001)),
        cpus: "0-1".to_owned(),
        exclusive: true,
        started_at: Some("2026-11-23T01:00:00Z".to_owned()),
        never_began: false,
        binary: "/s/bin/x".to_owned(),
    };
    let exited = || ContainerState::Exited(ContainerExit { code: 1, oom: false, finished_at: None });
    for (state, restarts, expected) in [
        (ContainerState::Running, true, "running"),
        (ContainerState::Running, false, "starting"),
        (ContainerState::Created, false, "starting"),
        (ContainerState::Restarting, true, "running"),
        (exited(), true, "running"),
        (exited(), false, "starting"),
        (ContainerState::Paused, true, "paused"),
    ] {
        let container = container(state, restarts);
        let record = rebuilt(&container, "boot", 1_795_000_000_000);
        let phase = match record.phase {
            Phase::Starting { .. } => "starting",
            Phase::Running { .. } => "running",
            Phase::Paused => "paused",
            Phase::Ended(_) => "ended",
        };
        assert_eq!(phase, expected, "{:?}", container.state);
        assert_eq!((record.task, record.attempt, record.port), (ID, Attempt(2), Some(30_001)));
        assert_eq!((record.cpus.to_string(), record.exclusive), ("0-1".to_owned(), true));
        assert_eq!((record.host_keys, record.answered_since), (None, None), "its server is to be heard again");
        assert_eq!(record.rev, 1_795_000_000_000, "later than any that counted up from 1");
        assert_eq!(record.container.as_deref(), Some("abc"));
    }
}

#[test]
fn the_difference_sees_each_phase() {
    use reconcile::Phase as P;
    let acknowledged = Task { acknowledged: true, ..task(Phase::Ended(Outcome::killed())) };
    let stopping = Task::new(Record { stopping: true, ..record(Phase::Paused) });
    for (task, expected) in [
        (task(starting()), P::Starting),
        (task(running()), P::Running),
        (task(Phase::Paused), P::Paused),
        (stopping, P::Stopping),
        (task(Phase::Ended(Outcome::killed())), P::Ended { acknowledged: false }),
        (acknowledged, P::Ended { acknowledged: true }),
    ] {
        assert_eq!(task.had(), Had { attempt: Attempt(2), phase: expected });
    }
}
