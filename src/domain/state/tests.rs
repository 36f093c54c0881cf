use super::*;

const REV: u64 = 5;

fn standing(state: State, want: Want) -> Standing {
    Standing { state, want, attempt: Attempt(2), rev: REV, note: None, exit: Exit::default() }
}

fn report(rev: u64, observation: Observation) -> Event {
    Event::Reported(Report { attempt: Attempt(2), rev, observation })
}

/// Every event, reports with a newer revision, in the order of the table's rows.
fn events() -> Vec<(&'static str, Event)> {
    let exited = |exit, oom| report(REV + 1, Observation::Exited { exit, oom, message: None });
    vec![
        ("placed", Event::Placed),
        ("given-up", Event::GivenUp { reason: "too long".to_owned() }),
        ("kill", Event::Kill),
        ("pause", Event::Pause),
        ("resume", Event::Resume),
        ("silent", Event::NodeSilent),
        ("never-started", Event::NeverStarted),
        ("missing", Event::Missing),
        ("restored", Event::Restored { reason: "restored".to_owned() }),
        ("starting", report(REV + 1, Observation::Starting { progress: Some("loading image (43%)".to_owned()) })),
        ("running", report(REV + 1, Observation::Running)),
        ("paused", report(REV + 1, Observation::Paused)),
        ("exit-0", exited(Exit::status(0), false)),
        ("exit-0-oom", exited(Exit::status(0), true)),
        ("exit-1", exited(Exit::status(1), false)),
        ("signal-9", exited(Exit::signal(9), false)),
        ("signal-9-oom", exited(Exit::signal(9), true)),
        ("stopped", report(REV + 1, Observation::Stopped { exit: Exit::signal(15), message: None })),
        ("failed", report(REV + 1, Observation::Failed { exit: Exit::default(), message: "no image".to_owned() })),
        ("returned", report(REV + 1, Observation::Returned)),
        ("unbegun", report(REV + 1, Observation::Unbegun)),
        ("gone", report(REV + 1, Observation::Gone)),
        ("gone-rev-0", report(0, Observation::Gone)),
        ("same-rev", report(REV, Observation::Running)),
        ("older-rev", report(REV - 1, Observation::Running)),
        (
            "older-attempt",
            Event::Reported(Report { attempt: Attempt(1), rev: REV + 9, observation: Observation::Running }),
        ),
        ("newer-attempt", Event::Reported(Report { attempt: Attempt(3), rev: 1, observation: Observation::Running })),
    ]
}

/// What came out, as one word: the new state (and want, where that changed), or why not.
fn outcome(now: &Standing, event: &Event) -> String {
    match step(now, event) {
        Ok(Step::Same) => "=".to_owned(),
        Ok(Step::Changed(next)) => {
            assert_ne!(&next, now, "{event:?}: a change that changes nothing");
            let mut word = next.state.word().to_owned();
            if next.want != now.want {
                word += &format!("+{}", next.want.word());
            }
            if next.attempt != now.attempt {
                word += &format!("#{}", next.attempt);
            }
            word
        }
        Err(Refusal::Ended(state)) => {
            assert_eq!(state, now.state);
            "ended".to_owned()
        }
        Err(Refusal::NotYet) => "not-yet".to_owned(),
        Err(Refusal::Stale) => "stale".to_owned(),
        Err(Refusal::OutOfPlace(state)) => {
            assert_eq!(state, now.state);
            "!".to_owned()
        }
    }
}

/// Checks one table: a row for every event, a column for every state in [`State::ALL`].
fn check(want: Want, table: &str) {
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).filter(|row: &Vec<&str>| !row.is_empty()).collect();
    let events = events();
    assert_eq!(rows.len(), events.len(), "a row for every event");
    for (row, (name, event)) in rows.iter().zip(&events) {
        assert_eq!(row.len(), 1 + State::ALL.len(), "{name}: a column for every state");
        assert_eq!(row[0], *name);
        for (expected, state) in row[1..].iter().zip(State::ALL) {
            let found = outcome(&standing(state, want), event);
            assert_eq!(&found, expected, "{} ({}) × {name}", state.word(), want.word());
        }
    }
}

#[test]
fn every_state_and_event_while_it_is_wanted_to_run() {
    check(
        Want::Run,
        "
                 
placed         assigning   !              !             !             !      !      !      !      !
given-up       failed      !              !             !             !      !      !      !      !
kill           killed+stop assigning+stop running+stop  paused+stop   ended  ended  ended  ended  lost+stop
pause          not-yet     assigning+pause running+pause paused+pause ended  ended  ended  ended  ended
resume         not-yet     =              =             =             ended  ended  ended  ended  ended
silent         !           lost           lost          lost          !      !      !      !      =
never-started  !           pending#3      !             !             !      !      !      !      !
missing        !           !              failed        failed        !      !      !      !      failed
restored       failed         lost           lost          lost          !      !      !      !      lost
starting       !           assigning      running       paused        ended  ended  ended  ended  assigning
running        !           running        running       running       ended  ended  ended  ended  running
paused         !           paused         paused        paused        ended  ended  ended  ended  paused
exit-0         !           completed      completed     completed     ended  ended  ended  ended  completed
exit-0-oom     !           completed      completed     completed     ended  ended  ended  ended  completed
exit-1         !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9       !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9-oom   !           killed_oom     killed_oom    killed_oom    ended  ended  ended  ended  killed_oom
stopped        !           failed         failed        failed        ended  ended  ended  ended  failed
failed         !           failed         failed        failed        ended  ended  ended  ended  failed
returned       !           pending#3      stale         stale         ended  ended  ended  ended  pending#3
unbegun        !           pending#3      failed        failed        ended  ended  ended  ended  pending#3
gone           !           failed         failed        failed        ended  ended  ended  ended  failed
gone-rev-0     !           failed         failed        failed        stale  stale  stale  stale  failed
same-rev       !           =              =             =             =      =      =      =      running
older-rev      !           stale          stale         stale         stale  stale  stale  stale  stale
older-attempt  stale       stale          stale         stale         stale  stale  stale  stale  stale
newer-attempt  !           running#3      running#3     running#3     ended  ended  ended  ended  running#3
",
    );
}

#[test]
fn every_state_and_event_while_its_end_is_wanted() {
    check(
        Want::Stop,
        "
placed         assigning   !              !             !             !      !      !      !      !
given-up       failed      !              !             !             !      !      !      !      !
kill           killed      =              =             =             ended  ended  ended  ended  =
pause          not-yet     =              =             =             ended  ended  ended  ended  ended
resume         not-yet     =              =             =             ended  ended  ended  ended  ended
silent         !           lost           lost          lost          !      !      !      !      =
never-started  !           killed         !             !             !      !      !      !      !
missing        !           !              killed        killed        !      !      !      !      killed
restored       failed         lost           lost          lost          !      !      !      !      lost
starting       !           assigning      running       paused        ended  ended  ended  ended  assigning
running        !           running        running       running       ended  ended  ended  ended  running
paused         !           paused         paused        paused        ended  ended  ended  ended  paused
exit-0         !           completed      completed     completed     ended  ended  ended  ended  completed
exit-0-oom     !           completed      completed     completed     ended  ended  ended  ended  completed
exit-1         !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9       !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9-oom   !           killed_oom     killed_oom    killed_oom    ended  ended  ended  ended  killed_oom
stopped        !           killed         killed        killed        ended  ended  ended  ended  killed
failed         !           failed         failed        failed        ended  ended  ended  ended  failed
returned       !           killed         stale         stale         ended  ended  ended  ended  killed
unbegun        !           killed         killed        killed        ended  ended  ended  ended  killed
gone           !           killed         killed        killed        ended  ended  ended  ended  killed
gone-rev-0     !           killed         killed        killed        stale  stale  stale  stale  killed
same-rev       !           =              =             =             =      =      =      =      running
older-rev      !           stale          stale         stale         stale  stale  stale  stale  stale
older-attempt  stale       stale          stale         stale         stale  stale  stale  stale  stale
newer-attempt  !           running#3      running#3     running#3     ended  ended  ended  ended  running#3
",
    );
}

#[test]
fn every_state_and_event_while_a_pause_is_wanted() {
    check(
        Want::Pause,
        "
placed         assigning   !              !             !             !      !      !      !      !
given-up       failed      !              !             !             !      !      !      !      !
kill           killed+stop assigning+stop running+stop  paused+stop   ended  ended  ended  ended  lost+stop
pause          not-yet     =              =             =             ended  ended  ended  ended  ended
resume         not-yet     assigning+run  running+run   paused+run    ended  ended  ended  ended  ended
silent         !           lost           lost          lost          !      !      !      !      =
never-started  !           pending#3      !             !             !      !      !      !      !
missing        !           !              failed        failed        !      !      !      !      failed
restored       failed         lost           lost          lost          !      !      !      !      lost
starting       !           assigning      running       paused        ended  ended  ended  ended  assigning
running        !           running        running       running       ended  ended  ended  ended  running
paused         !           paused         paused        paused        ended  ended  ended  ended  paused
exit-0         !           completed      completed     completed     ended  ended  ended  ended  completed
exit-0-oom     !           completed      completed     completed     ended  ended  ended  ended  completed
exit-1         !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9       !           failed         failed        failed        ended  ended  ended  ended  failed
signal-9-oom   !           killed_oom     killed_oom    killed_oom    ended  ended  ended  ended  killed_oom
stopped        !           failed         failed        failed        ended  ended  ended  ended  failed
failed         !           failed         failed        failed        ended  ended  ended  ended  failed
returned       !           pending#3      stale         stale         ended  ended  ended  ended  pending#3
unbegun        !           pending#3      failed        failed        ended  ended  ended  ended  pending#3
gone           !           failed         failed        failed        ended  ended  ended  ended  failed
gone-rev-0     !           failed         failed        failed        stale  stale  stale  stale  failed
same-rev       !           =              =             =             =      =      =      =      running
older-rev      !           stale          stale         stale         stale  stale  stale  stale  stale
older-attempt  stale       stale          stale         stale         stale  stale  stale  stale  stale
newer-attempt  !           running#3      running#3     running#3     ended  ended  ended  ended  running#3
",
    );
}

/// Applies events to a new task; a refused one changes nothing.
fn life(events: &[Event]) -> Standing {
    let start = Standing {
        state: State::Pending,
        want: Want::Run,
        attempt: Attempt::FIRST,
        rev: 0,
        note: None,
        exit: Exit::default(),
    };
    events.iter().fold(start, |now, event| match step(&now, event) {
        Ok(Step::Changed(next)) => next,
        Ok(Step::Same) | Err(_) => now,
    })
}

fn first(rev: u64, observation: Observation) -> Event {
    Event::Reported(Report { attempt: Attempt::FIRST, rev, observation })
}

#[test]
fn a_kill_before_it_runs_is_remembered_and_carried_out() {
    let killed = life(&[
        Event::Placed,
        Event::Kill,
        first(1, Observation::Running),
        first(2, Observation::Stopped { exit: Exit::signal(15), message: None }),
        first(3, Observation::Exited { exit: Exit::status(0), oom: false, message: None }),
    ]);
    assert_eq!((killed.state, killed.exit, killed.rev), (State::Killed, Exit::signal(15), 2));
}

#[test]
fn pause_resume_and_kill_in_any_order_and_twice() {
    let actions = [Event::Pause, Event::Resume, Event::Kill];
    for state in [State::Assigning, State::Running, State::Paused] {
        for first in &actions {
            for second in &actions {
                for third in &actions {
                    let mut now = standing(state, Want::Run);
                    for event in [first, first, second, second, third, third] {
                        match step(&now, event).expect("taken in every live state") {
                            Step::Changed(next) => now = next,
                            Step::Same => {}
                        }
                    }
                    assert_eq!(now.state, state);
                    let killed = [first, second, third].contains(&&Event::Kill);
                    let last = match third {
                        Event::Pause => Want::Pause,
                        Event::Resume => Want::Run,
                        other => {
                            assert_eq!(*other, Event::Kill);
                            Want::Stop
                        }
                    };
                    assert_eq!(now.want, if killed { Want::Stop } else { last });
                }
            }
        }
    }
}

#[test]
fn a_silent_node_that_returns_brings_its_tasks_back_with_the_same_revision() {
    for (seen, state) in [(Observation::Running, State::Running), (Observation::Paused, State::Paused)] {
        let back = life(&[Event::Placed, first(4, seen.clone()), Event::NodeSilent, first(4, seen)]);
        assert_eq!((back.state, back.rev, back.note), (state, 4, None));
    }
    let ended = life(&[
        Event::Placed,
        first(4, Observation::Running),
        Event::NodeSilent,
        first(5, Observation::Exited { exit: Exit::status(3), oom: false, message: None }),
    ]);
    assert_eq!((ended.state, ended.exit), (State::Failed, Exit::status(3)));
}

#[test]
fn a_task_killed_while_lost_stays_lost_until_its_node_reports() {
    let mut events = vec![Event::Placed, first(4, Observation::Running), Event::NodeSilent, Event::Kill];
    let lost = life(&events);
    assert_eq!((lost.state, lost.want), (State::Lost, Want::Stop));
    events.push(first(4, Observation::Running));
    assert_eq!(life(&events).state, State::Running);
    events.push(first(5, Observation::Stopped { exit: Exit::signal(9), message: None }));
    assert_eq!(life(&events).state, State::Killed);
}

#[test]
fn a_task_that_was_never_started_goes_back_with_the_next_attempt_and_no_revision() {
    let again = life(&[Event::Placed, Event::NeverStarted]);
    assert_eq!((again.state, again.attempt, again.rev), (State::Pending, Attempt(2), 0));
    // A late report of the first attempt is passed over, before and after the second is placed.
    let late = first(7, Observation::Running);
    assert_eq!(step(&again, &late), Err(Refusal::Stale));
    let placed = life(&[Event::Placed, Event::NeverStarted, Event::Placed]);
    assert_eq!((placed.state, step(&placed, &late)), (State::Assigning, Err(Refusal::Stale)));
}

#[test]
fn a_task_lost_before_its_node_spoke_of_it_is_not_missing() {
    let lost = life(&[Event::Placed, Event::NodeSilent]);
    assert_eq!(step(&lost, &Event::Missing), Err(Refusal::OutOfPlace(State::Lost)));
}

#[test]
fn notes_say_how_it_ended() {
    let note = |observation| {
        let now = standing(State::Running, Want::Run);
        match step(&now, &report(REV + 1, observation)) {
            Ok(Step::Changed(next)) => next.note.unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    };
    let exited =
        |exit, oom, message: Option<&str>| Observation::Exited { exit, oom, message: message.map(str::to_owned) };
    assert_eq!(note(exited(Exit::status(0), false, None)), "");
    assert_eq!(note(exited(Exit::status(3), false, None)), "exited with status 3");
    assert_eq!(note(exited(Exit::status(137), false, None)), "exited with status 137");
    assert_eq!(note(exited(Exit::signal(9), false, None)), "killed by signal 9 (exit code 137)");
    assert_eq!(note(exited(Exit::signal(9), true, None)), "the kernel killed it for want of memory (exit code 137)");
    assert_eq!(note(exited(Exit::status(3), false, Some("no such file"))), "no such file");
    assert_eq!(note(exited(Exit::default(), false, None)), "result unknown: the node reported no exit status");
    assert_eq!(note(Observation::Starting { progress: Some("loading image (43%)".into()) }), "loading image (43%)");
    assert!(note(Observation::Gone).starts_with("result unknown"));
    assert!(note(Observation::Stopped { exit: Exit::default(), message: None }).contains("nobody asked"));
}

#[test]
fn a_signal_goes_with_code_128_and_more_whatever_was_reported_beside_it() {
    for code in [None, Some(0), Some(9), Some(143)] {
        let observation = Observation::Exited { exit: Exit { code, signal: Some(15) }, oom: false, message: None };
        match step(&standing(State::Running, Want::Run), &report(REV + 1, observation)) {
            Ok(Step::Changed(next)) => assert_eq!((next.state, next.exit), (State::Failed, Exit::signal(15))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn words_are_read_back() {
    for state in State::ALL {
        assert_eq!(State::from_word(state.word()), Some(state));
    }
    for want in [Want::Run, Want::Pause, Want::Stop] {
        assert_eq!(Want::from_word(want.word()), Some(want));
    }
    assert_eq!((State::from_word("Running"), Want::from_word("")), (None, None));
}
