//! What a Runner has to do: the difference between what its node should have and what it has.

use std::cmp::Ordering;

use super::ids::{Attempt, TaskId};
use super::state::Want;

/// One line of the Host's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    pub attempt: Attempt,
    pub want: Want,
    /// It was seen on this node: where it is not here, it is gone, and not started a second time.
    pub seen: bool,
    /// Where it is not here, it is not to be started yet.
    pub no_start: bool,
}

/// What the node has of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Had {
    pub attempt: Attempt,
    pub phase: Phase,
}

/// How far a task is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recorded, its container or process is not running yet (waiting for an image, being created, sshd not ready).
    Starting,
    Running,
    Paused,
    /// Being stopped.
    Stopping,
    /// Ended; `acknowledged` when the Host has stored that.
    Ended {
        acknowledged: bool,
    },
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write its record and start it.
    Start(TaskId, Attempt),
    Pause(TaskId),
    Resume(TaskId),
    Stop(TaskId),
    /// Asked to stop what is not here, or to have what was here and is no more: report `gone`.
    ReportGone(TaskId, Attempt),
    /// Here, but not in the list: reported as unknown, and left alone.
    ReportUnknown(TaskId),
    /// Ended and acknowledged, and no longer in the list (or an attempt that a newer one replaces): remove container
    /// and record.
    Forget(TaskId),
}

/// The difference in one task. Absence from the list (`desired` is None) stops nothing.
///
/// At most one action: what comes after it (to pause what is only starting, to start a new attempt once the old one is
/// gone) follows from the next comparison. An end that is not acknowledged asks for nothing here: its report is repeated
/// anyway until the Host has it, in the list or not.
pub fn action(id: TaskId, desired: Option<&Desired>, had: Option<&Had>) -> Option<Action> {
    match (desired, had) {
        (None, None) => None,
        (None, Some(had)) => match had.phase {
            Phase::Starting | Phase::Running | Phase::Paused | Phase::Stopping => Some(Action::ReportUnknown(id)),
            Phase::Ended { acknowledged: true } => Some(Action::Forget(id)),
            Phase::Ended { acknowledged: false } => None,
        },
        (Some(desired), None) => match desired.want {
            Want::Run | Want::Pause if desired.seen => Some(Action::ReportGone(id, desired.attempt)),
            // What an earlier Runner has begun may still be found here: the node's inventory comes first.
            Want::Run | Want::Pause if desired.no_start => None,
            Want::Run | Want::Pause => Some(Action::Start(id, desired.attempt)),
            Want::Stop => Some(Action::ReportGone(id, desired.attempt)),
        },
        (Some(desired), Some(had)) => match desired.attempt.cmp(&had.attempt) {
            // A list from before this attempt was given out.
            Ordering::Less => None,
            Ordering::Equal => towards(id, desired.want, had.phase),
            // Two attempts share a container's name and must never run side by side.
            Ordering::Greater => match had.phase {
                Phase::Starting | Phase::Running | Phase::Paused => Some(Action::Stop(id)),
                Phase::Stopping => None,
                Phase::Ended { acknowledged: true | false } => Some(Action::Forget(id)),
            },
        },
    }
}

fn towards(id: TaskId, want: Want, phase: Phase) -> Option<Action> {
    match (want, phase) {
        (Want::Run, Phase::Paused) => Some(Action::Resume(id)),
        (Want::Pause, Phase::Running) => Some(Action::Pause(id)),
        (Want::Stop, Phase::Starting | Phase::Running | Phase::Paused) => Some(Action::Stop(id)),
        (Want::Run, Phase::Starting | Phase::Running)
        | (Want::Pause, Phase::Starting | Phase::Paused)
        | (Want::Run | Want::Pause | Want::Stop, Phase::Stopping | Phase::Ended { .. }) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TaskId = TaskId::from_u64(7);
    const STARTING: Phase = Phase::Starting;
    const ENDED: Phase = Phase::Ended { acknowledged: false };
    const RECEIVED: Phase = Phase::Ended { acknowledged: true };
    const PHASES: [Phase; 6] = [STARTING, Phase::Running, Phase::Paused, Phase::Stopping, ENDED, RECEIVED];

    fn one(desired: Option<(u32, Want)>, had: Option<(u32, Phase)>) -> Option<Action> {
        let desired =
            desired.map(|(attempt, want)| Desired { attempt: Attempt(attempt), want, seen: false, no_start: false });
        let had = had.map(|(attempt, phase)| Had { attempt: Attempt(attempt), phase });
        action(ID, desired.as_ref(), had.as_ref())
    }

    #[test]
    fn what_is_not_here_is_started_or_reported_gone() {
        assert_eq!(one(Some((3, Want::Run)), None), Some(Action::Start(ID, Attempt(3))));
        assert_eq!(one(Some((3, Want::Pause)), None), Some(Action::Start(ID, Attempt(3))));
        assert_eq!(one(Some((3, Want::Stop)), None), Some(Action::ReportGone(ID, Attempt(3))));
    }

    #[test]
    fn what_was_seen_here_is_never_started_a_second_time() {
        for (want, no_start) in [Want::Run, Want::Pause, Want::Stop].into_iter().zip([false, true].into_iter().cycle())
        {
            let desired = Desired { attempt: Attempt(3), want, seen: true, no_start };
            assert_eq!(action(ID, Some(&desired), None), Some(Action::ReportGone(ID, Attempt(3))), "{want:?}");
            let had = Had { attempt: Attempt(3), phase: Phase::Starting };
            let stop = (want == Want::Stop).then_some(Action::Stop(ID));
            assert_eq!(action(ID, Some(&desired), Some(&had)), stop, "what is here goes its way");
        }
    }

    #[test]
    fn before_the_inventory_nothing_is_started() {
        for (want, expected) in
            [(Want::Run, None), (Want::Pause, None), (Want::Stop, Some(Action::ReportGone(ID, Attempt(3))))]
        {
            let desired = Desired { attempt: Attempt(3), want, seen: false, no_start: true };
            assert_eq!(action(ID, Some(&desired), None), expected, "{want:?}");
        }
    }

    #[test]
    fn absence_from_the_list_stops_nothing() {
        let unknown = Some(Action::ReportUnknown(ID));
        let expected = [unknown, unknown, unknown, unknown, None, Some(Action::Forget(ID))];
        for (phase, expected) in PHASES.into_iter().zip(expected) {
            assert_eq!(one(None, Some((1, phase))), expected, "{phase:?}");
        }
    }

    #[test]
    fn the_same_attempt_goes_to_what_is_wanted() {
        let (stop, pause, resume) = (Some(Action::Stop(ID)), Some(Action::Pause(ID)), Some(Action::Resume(ID)));
        let table = [
            (Want::Run, [None, None, resume, None, None, None]),
            (Want::Pause, [None, pause, None, None, None, None]),
            (Want::Stop, [stop, stop, stop, None, None, None]),
        ];
        for (want, expected) in table {
            for (phase, expected) in PHASES.into_iter().zip(expected) {
                assert_eq!(one(Some((2, want)), Some((2, phase))), expected, "{want:?} {phase:?}");
            }
        }
    }

    #[test]
    fn a_newer_attempt_waits_until_the_old_one_is_gone() {
        let (stop, forget) = (Some(Action::Stop(ID)), Some(Action::Forget(ID)));
        let expected = [stop, stop, stop, None, forget, forget];
        for want in [Want::Run, Want::Pause, Want::Stop] {
            for (phase, expected) in PHASES.into_iter().zip(expected) {
                assert_eq!(one(Some((2, want)), Some((1, phase))), expected, "{want:?} {phase:?}");
            }
        }
    }

    #[test]
    fn an_older_attempt_in_the_list_is_ignored() {
        for want in [Want::Run, Want::Pause, Want::Stop] {
            for phase in PHASES {
                assert_eq!(one(Some((1, want)), Some((2, phase))), None, "{want:?} {phase:?}");
            }
        }
    }
}
