//! What follows from Docker's view of a container for the task that it belongs to. Pure.

use super::executor::docker_parse::{Container, ContainerExit, ContainerState, Glimpse};
use super::record::{Outcome, Phase, Record};

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is as recorded.
    AsRecorded,
    /// Its start was interrupted: go on with it.
    GoOn,
    /// It runs, and its SSH server was not yet heard in this run of the container.
    Await,
    /// Someone else froze it.
    Frozen,
    /// Someone else thawed it, or it came back from a restart unfrozen.
    Thawed,
    /// It runs, and Docker would not start it again.
    LetRestart,
    /// Between two states: look again in a while.
    Between,
    /// It stays ended although it is to run: start it.
    StartAgain,
    /// It is over.
    Over(Outcome),
    /// A command's container has ended.
    Finished(ContainerExit),
    /// A command's container is in a state that none that ran is in.
    NeverRan(ContainerState),
}

/// Compares a record with the container, as Docker has it now (None: there is none). `patience_over`: it was found ended
/// some time ago, and Docker did not start it again.
pub fn judge(record: &Record, seen: Option<&Container>, patience_over: bool) -> Verdict {
    match &record.phase {
        Phase::Ended(_) => Verdict::AsRecorded,
        // Whatever becomes of it: the operation that stops it sees to it.
        _ if record.stopping => Verdict::AsRecorded,
        Phase::Starting { .. } => match seen {
            None if record.container.is_some() => removed(),
            _ => Verdict::GoOn,
        },
        Phase::Running { .. } | Phase::Paused => match seen {
            None => removed(),
            Some(seen) if record.is_command() => command_ran(record, seen),
            Some(seen) => ran(record, seen, patience_over),
        },
    }
}

/// The verdict on a task that ran.
fn ran(record: &Record, seen: &Container, patience_over: bool) -> Verdict {
    match &seen.state {
        // Not ours any more: ours ran.
        ContainerState::Created => removed(),
        ContainerState::Removing | ContainerState::Restarting => Verdict::Between,
        ContainerState::Paused if record.phase == Phase::Paused => Verdict::AsRecorded,
        ContainerState::Paused => Verdict::Frozen,
        ContainerState::Running if record.phase == Phase::Paused => Verdict::Thawed,
        ContainerState::Running if record.answered_since != seen.started_at => Verdict::Await,
        ContainerState::Running if !seen.restarts => Verdict::LetRestart,
        ContainerState::Running => Verdict::AsRecorded,
        // `docker restart`, and the daemon's own restart, go through "exited".
        ContainerState::Exited(_) if !patience_over => Verdict::Between,
        // A daemon that was killed finds its containers alive, stops them, and then takes them for stopped by a user
        // (seen with Docker 20.10): `unless-stopped` does not bring those back. Nor does it start one that ran, but whose Runner was
        // killed before it had said that it may be restarted. Nobody here asked for an end.
        ContainerState::Exited(_) => Verdict::StartAgain,
    }
}

/// The verdict on a command that ran: it runs once.
fn command_ran(record: &Record, seen: &Container) -> Verdict {
    match &seen.state {
        ContainerState::Running if record.phase == Phase::Paused => Verdict::Thawed,
        ContainerState::Paused if record.phase != Phase::Paused => Verdict::Frozen,
        ContainerState::Running | ContainerState::Paused => Verdict::AsRecorded,
        ContainerState::Exited(exit) => Verdict::Finished(exit.clone()),
        ContainerState::Removing | ContainerState::Restarting => Verdict::Between,
        ContainerState::Created => Verdict::NeverRan(ContainerState::Created),
    }
}

fn removed() -> Verdict {
    Verdict::Over(Outcome::failed("its container was removed behind our back"))
}

/// How a container ended, in words.
pub fn exit_text(code: i32, oom: bool) -> String {
    match (code, oom) {
        (0, _) => "its container ended with exit code 0".to_owned(),
        (_, true) => format!("its container ended with exit code {code}: the kernel killed it for want of memory"),
        (129..=192, false) => format!("its container ended with exit code {code} (signal {})", code - 128),
        (_, false) => format!("its container ended with exit code {code}"),
    }
}

/// Whether a glance at the list (None: not in it) is reason enough to look closer. The list is one cheap call, made at
/// each heartbeat; it finds what the stream of events might have missed.
pub fn is_odd(record: &Record, glimpse: Option<Glimpse>) -> bool {
    if record.stopping {
        return false;
    }
    match (&record.phase, glimpse) {
        (Phase::Running { .. }, Some(Glimpse::Running)) | (Phase::Paused, Some(Glimpse::Paused)) => false,
        (Phase::Running { .. } | Phase::Paused, _) => true,
        // Operations of their own watch over these.
        (Phase::Starting { .. } | Phase::Ended(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{Attempt, TaskId};
    use crate::runner::executor::Labels;
    use crate::runner::executor::docker_parse::ContainerExit;

    const RUN: &str = "2026-11-23T01:00:00Z";

    fn record(phase: Phase) -> Record {
        Record {
            phase,
            container: Some("abc".to_owned()),
            launched: true,
            answered_since: Some(RUN.to_owned()),
            ..Record::new(TaskId::from_u64(1), Attempt(1), "vps", "boot")
        }
    }

    fn seen(state: ContainerState) -> Container {
        Container {
            id: "abc".to_owned(),
            labels: Labels { task: TaskId::from_u64(1), attempt: Attempt(1), kind: "vps".to_owned() },
            state,
            restarts: true,
            published: None,
            cpus: String::new(),
            exclusive: false,
            started_at: Some(RUN.to_owned()),
            never_began: false,
            binary: "/s/bin/x".to_owned(),
        }
    }

    fn exited(code: i32) -> ContainerState {
        ContainerState::Exited(ContainerExit { code, oom: false, finished_at: None })
    }

    #[test]
    fn every_phase_against_every_state() {
        use ContainerState as C;
        use Verdict as V;
        let running = || Phase::Running { note: None };
        let starting = || Phase::Starting { progress: None };
        for (phase, state, expected) in [
            (running(), C::Running, V::AsRecorded),
            (running(), C::Paused, V::Frozen),
            (running(), C::Restarting, V::Between),
            (running(), exited(1), V::Between),
            (running(), C::Removing, V::Between),
            (running(), C::Created, removed()),
            (Phase::Paused, C::Paused, V::AsRecorded),
            (Phase::Paused, C::Running, V::Thawed),
            (Phase::Paused, exited(0), V::Between),
            (starting(), C::Running, V::GoOn),
            (starting(), C::Created, V::GoOn),
            (starting(), C::Paused, V::GoOn),
            (starting(), exited(1), V::GoOn),
            (Phase::Ended(Outcome::killed()), C::Running, V::AsRecorded),
        ] {
            let name = format!("{phase:?} {state:?}");
            assert_eq!(judge(&record(phase), Some(&seen(state)), false), expected, "{name}");
        }
        for phase in [running(), Phase::Paused, starting()] {
            assert_eq!(judge(&record(phase), None, false), removed());
        }
        let early = Record { container: None, ..record(starting()) };
        assert_eq!(judge(&early, None, false), V::GoOn, "it was never seen, so it was never removed");
    }

    #[test]
    fn a_restarted_container_is_awaited_again() {
        let later = Container { started_at: Some("2026-11-23T02:00:00Z".to_owned()), ..seen(ContainerState::Running) };
        assert_eq!(judge(&record(Phase::Running { note: None }), Some(&later), false), Verdict::Await);
    }

    #[test]
    fn one_that_docker_would_not_restart_is_put_right_while_it_runs_and_started_again_when_it_ended() {
        let no = |state| Container { restarts: false, ..seen(state) };
        let running = record(Phase::Running { note: None });
        assert_eq!(judge(&running, Some(&no(ContainerState::Running)), false), Verdict::LetRestart);
        assert_eq!(judge(&running, Some(&no(exited(137))), false), Verdict::Between);
        assert_eq!(judge(&running, Some(&no(exited(137))), true), Verdict::StartAgain);
    }

    #[test]
    fn one_that_stays_stopped_is_started_again() {
        for phase in [Phase::Paused, Phase::Running { note: None }] {
            assert_eq!(judge(&record(phase), Some(&seen(exited(0))), true), Verdict::StartAgain);
        }
    }

    #[test]
    fn what_is_being_stopped_is_left_to_that() {
        let stopping = Record { stopping: true, ..record(Phase::Running { note: None }) };
        assert_eq!(judge(&stopping, None, true), Verdict::AsRecorded);
        assert!(!is_odd(&stopping, None));
    }

    #[test]
    fn a_glance_finds_what_differs() {
        let running = record(Phase::Running { note: None });
        assert!(!is_odd(&running, Some(Glimpse::Running)));
        for odd in [None, Some(Glimpse::Exited), Some(Glimpse::Paused), Some(Glimpse::Restarting)] {
            assert!(is_odd(&running, odd), "{odd:?}");
        }
        assert!(is_odd(&record(Phase::Paused), Some(Glimpse::Running)));
        assert!(!is_odd(&record(Phase::Ended(Outcome::killed())), None));
    }
}
