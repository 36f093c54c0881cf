//! How a command ended, and how that is told. Pure.

use super::executor::docker_parse::ContainerExit;
use super::record::{Ending, Outcome};
use super::supervise::box_file::{ExitFile, NOT_RUN, UNSEEN, UNUSABLE, WORD, said_code};
use super::supervise::protocol::End;

/// What a container may say of itself, in characters.
const LONGEST_FAULT: usize = 1_000;

/// How a command in a container ended: as Docker saw it, and what our supervisor in the container has written of it (None:
/// nothing that can be read). That file could be the task's own work; so it only explains what Docker saw, which the
/// task could have brought about as well. `restarted`: the machine was, since the command was last known to run.
pub fn end_of(exit: &ContainerExit, told: Option<&ExitFile>, restarted: bool) -> End {
    let seen = End {
        code: Some(exit.code),
        signal: (129..=192).contains(&exit.code).then(|| exit.code - 128),
        oom: exit.oom,
        ..End::default()
    };
    let lost = || End { fault: Some("node restarted while it ran: result unknown".to_owned()), ..End::default() };
    match told {
        Some(ExitFile { code: None, fault: Some(fault), .. }) if exit.code == NOT_RUN => {
            End { fault: Some(one_line(fault)), ..seen }
        }
        Some(told) if told.code == Some(exit.code) => match told {
            // The machine was shut down in good order, and asked every container to end.
            ExitFile { stopped: true, .. } if restarted => lost(),
            _ => End {
                // What ends with 137 by itself was killed by nobody.
                signal: signal_of(told.signal, exit.code),
                timed_out: told.timed_out,
                ..seen
            },
        },
        // Docker gives a code of its own to those that it finds dead.
        _ if restarted && exit.code != 0 => lost(),
        // It was killed, and did not see this end: then what was written in the container is all that there is.
        Some(ExitFile { stopped: true, .. }) if restarted && may_be_unseen(exit) => lost(),
        Some(ExitFile { code: Some(code), signal, timed_out, .. }) if may_be_unseen(exit) => {
            End { code: Some(*code), signal: signal_of(*signal, *code), timed_out: *timed_out, ..seen }
        }
        Some(ExitFile { fault: Some(fault), .. }) if may_be_unseen(exit) => {
            End { code: Some(NOT_RUN), fault: Some(one_line(fault)), ..seen }
        }
        _ if exit.code == UNSEEN || exit.code == 0 && exit.finished_at.is_none() => unseen(),
        _ => seen,
    }
}

/// Docker gives a code of its own to an end that it has not seen: containerd's for "unknown", or, where containerd has forgotten the
/// container as well when dockerd comes back, the 0 with which it began, and no time or that of its own return (found by the torture:
/// commands that had ended with 3 were `completed`). Our supervisor ends with what it has written, so where that is another code, Docker
/// has not seen it.
fn may_be_unseen(exit: &ContainerExit) -> bool {
    matches!(exit.code, UNSEEN | 0)
}

fn unseen() -> End {
    End { fault: Some("result unknown: Docker did not see how its container ended".to_owned()), ..End::default() }
}

/// The signal that the task says it was ended by, if there is such a signal and it fits its exit code.
fn signal_of(told: Option<i32>, code: i32) -> Option<i32> {
    told.filter(|signal| (1..=64).contains(signal) && code == 128 + signal)
}

/// Whether more than Docker's word is needed for an end of which the container has written nothing: see [`without_record`].
pub fn is_doubtful(exit: &ContainerExit) -> bool {
    matches!(exit.code, UNUSABLE | 0)
}

/// What is to be made of such an end. Our supervisor says in the last of these `lines` how the command ended, or what kept it from
/// running or from writing that down.
///
/// - It says a code: with 0, which Docker gives to ends that it has not seen, that code is the command's.
/// - With [`UNUSABLE`] it says something else: that is its own code, and the command never ran. It says nothing, or that code: it is
///   the command's (an earlier version says nothing).
/// - With 0 it says anything else, or nothing: it never came so far, and Docker has not seen how it ended.
/// - The lines cannot be had (Err: why): it could be either.
pub fn without_record(end: End, lines: Result<&str, &str>) -> End {
    let lines = match lines {
        Ok(lines) => lines,
        Err(fault) => {
            let text = format!(
                "result unknown: Docker says that its container ended with exit code {}, which may not be its command's; and its \
                 log cannot be read: {}",
                end.code.unwrap_or_default(),
                one_line(fault)
            );
            return End { fault: Some(text), ..End::default() };
        }
    };
    let last = lines.lines().next_back().filter(|line| line.starts_with(WORD));
    match (end.code, last.and_then(said_code)) {
        (Some(0), Some(code)) => {
            End { code: Some(code), signal: (129..=192).contains(&code).then(|| code - 128), ..end }
        }
        (Some(0), None) => unseen(),
        (_, None) if last.is_some() => {
            End { fault: Some(with_lines("its container was started, and could not run it", lines)), ..End::default() }
        }
        _ => end,
    }
}

/// A reason, and what the container said last.
pub fn with_lines(reason: &str, lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| printable(line, 500)).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { reason.to_owned() } else { format!("{reason}; its last lines:\n{}", lines.join("\n")) }
}

/// Without control characters, and not longer than `limit` characters.
pub fn printable(line: &str, limit: usize) -> String {
    line.chars().filter(|c| !c.is_control()).take(limit).collect::<String>().trim().to_owned()
}

fn one_line(text: &str) -> String {
    text.chars().take(LONGEST_FAULT).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// The outcome of a command that ended like that; `limit`: its time limit in seconds.
pub fn of(end: &End, limit: Option<u64>) -> Outcome {
    let (state, reason) = match end {
        End { stopped: true, .. } => (Ending::Killed, None),
        End { fault: Some(fault), .. } => (Ending::Failed, Some(fault.clone())),
        End { timed_out: true, .. } => (Ending::Failed, Some(too_long(limit))),
        End { code: Some(0), .. } => (Ending::Completed, None),
        // The kernel's record, and an end that is no success: 137 alone would prove nothing.
        End { oom: true, .. } => {
            (Ending::KilledOom, Some("the kernel killed it, or a part of it, for want of memory".to_owned()))
        }
        End { signal: Some(signal), .. } => (Ending::Failed, Some(format!("killed by signal {signal}"))),
        End { code: Some(code), .. } => (Ending::Failed, Some(format!("exit code {code}"))),
        End { code: None, .. } => (Ending::Failed, Some("result unknown".to_owned())),
    };
    Outcome { state, reason, exit_code: end.code, exit_signal: end.signal, kept: false }
}

fn too_long(limit: Option<u64>) -> String {
    match limit {
        Some(seconds) => format!("ran longer than its time limit of {} and was ended", duration(seconds)),
        None => "ran longer than its time limit and was ended".to_owned(),
    }
}

/// `2h30m`, as it is written on the command line.
fn duration(seconds: u64) -> String {
    let parts = [(seconds / 3600, "h"), (seconds % 3600 / 60, "m"), (seconds % 60, "s")];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::supervise::box_file::last_word;
    use super::*;

    #[test]
    fn docker_decides_and_the_container_explains() {
        let exit = |code, oom| ContainerExit { code, oom, finished_at: Some("2026-11-29T10:00:00Z".to_owned()) };
        let forgotten = || ContainerExit { finished_at: None, ..exit(0, false) };
        let told = |code, signal| ExitFile { code: Some(code), signal, ..ExitFile::default() };
        let end = |code, signal| End { code: Some(code), signal, ..End::default() };
        let not_run = ExitFile { fault: Some("cannot run 'x':\nno".to_owned()), ..ExitFile::default() };
        let late = ExitFile { timed_out: true, ..told(143, Some(15)) };
        let stopped = ExitFile { stopped: true, ..told(143, Some(15)) };
        let fault = |end: End, text: &str| End { fault: Some(text.to_owned()), ..end };
        let lost = || fault(End::default(), "node restarted while it ran: result unknown");
        for (exit, told, restarted, expected) in [
            (exit(0, false), Some(told(0, None)), false, end(0, None)),
            (exit(0, false), None, true, end(0, None)),
            (exit(137, false), Some(told(137, Some(9))), false, end(137, Some(9))),
            (exit(137, false), Some(told(137, None)), false, end(137, None)),
            (exit(137, false), Some(told(137, Some(3))), false, end(137, None)),
            (exit(137, true), Some(told(137, Some(9))), false, End { oom: true, ..end(137, Some(9)) }),
            (exit(143, false), Some(late), false, End { timed_out: true, ..end(143, Some(15)) }),
            (exit(143, false), Some(stopped.clone()), false, end(143, Some(15))),
            (exit(127, false), Some(not_run.clone()), false, fault(end(127, None), "cannot run 'x': no")),
            // It has ended with what it says.
            (exit(0, false), Some(not_run.clone()), false, fault(end(127, None), "cannot run 'x': no")),
            (exit(0, false), Some(told(3, None)), false, end(3, None)),
            (exit(0, false), Some(told(3, None)), true, end(3, None)),
            (exit(0, false), Some(stopped.clone()), true, lost()),
            // What it says is not what happened.
            (exit(3, false), Some(told(0, None)), false, end(3, None)),
            (exit(137, false), Some(told(0, None)), false, end(137, Some(9))),
            // Killed together with its supervisor.
            (exit(137, false), None, false, end(137, Some(9))),
            (exit(255, false), None, true, lost()),
            (exit(255, false), Some(told(0, None)), true, lost()),
            (exit(143, false), Some(stopped), true, lost()),
            (exit(7, false), Some(told(7, None)), true, end(7, None)),
            (exit(255, false), Some(told(255, None)), false, end(255, None)),
            (exit(255, false), Some(told(7, None)), false, end(7, None)),
            (exit(255, false), Some(told(143, Some(15))), false, end(143, Some(15))),
            // It says what cannot be.
            (exit(255, false), Some(told(1, Some(999))), false, end(1, None)),
            (exit(255, false), Some(told(1, Some(i32::MAX))), false, end(1, None)),
            (exit(255, false), Some(told(128, Some(0))), false, end(128, None)),
            (exit(128, false), Some(told(128, Some(0))), false, end(128, None)),
            (exit(255, false), None, false, unseen()),
            (forgotten(), Some(told(3, None)), false, end(3, None)),
            (forgotten(), Some(told(0, None)), false, end(0, None)),
            (forgotten(), None, false, unseen()),
            (exit(255, false), Some(ExitFile::default()), false, unseen()),
            (exit(255, false), Some(not_run.clone()), false, fault(end(127, None), "cannot run 'x': no")),
        ] {
            assert_eq!(end_of(&exit, told.as_ref(), restarted), expected, "{exit:?} {told:?} {restarted}");
        }
        let long = ExitFile { fault: Some("\u{1b}[2J".repeat(1_000)), ..ExitFile::default() };
        let text = end_of(&exit(127, false), Some(&long), false).fault.expect("it says why");
        assert!(text.chars().count() == LONGEST_FAULT && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_code_that_nobody_has_written_down_is_the_commands_if_the_container_says_so() {
        let of = |code| End { code: Some(code), ..End::default() };
        let by = |code, lines: &str| without_record(of(code), Ok(lines));
        for code in [0, UNUSABLE] {
            assert_eq!(by(code, &format!("hakuriver: a warning\n{}", last_word(code))), of(code));
            let either = without_record(of(code), Err("no such log"));
            let says = |text: &str| either.fault.as_ref().is_some_and(|fault| fault.contains(text));
            assert!(
                either.code.is_none() && says("result unknown") && says(&code.to_string()) && says("no such log"),
                "{either:?}"
            );
        }
        let never = by(UNUSABLE, "noise\nhakuriver: cannot read /.hakuriver/task/task.json: gone");
        assert!(never.code.is_none() && never.fault.is_some_and(|fault| fault.contains("task.json: gone")));
        assert_eq!(by(0, &last_word(3)), of(3), "Docker has not seen it");
        assert_eq!(by(0, &last_word(137)), End { signal: Some(9), ..of(137) });
        for lines in ["", "hakuriver: a warning\nits own last line", "not hakuriver: x"] {
            assert_eq!(by(UNUSABLE, lines), of(UNUSABLE), "an earlier version: {lines:?}");
        }
        for lines in [
            "",
            "its own last line",
            "hakuriver: cannot write exit.json: full",
            "hakuriver: the command has ended with exit code x",
        ] {
            assert_eq!(by(0, lines), unseen(), "{lines:?}");
        }
        let exit = |code| ContainerExit { code, oom: false, finished_at: None };
        assert_eq!([0, 1, UNUSABLE, UNSEEN].map(|code| is_doubtful(&exit(code))), [true, false, true, false]);
    }

    #[test]
    fn what_a_container_says_is_told_without_what_would_harm_a_terminal() {
        assert_eq!(with_lines("why", ""), "why");
        assert_eq!(with_lines("why", "a\n\n\x07b\n"), "why; its last lines:\na\nb");
    }

    #[test]
    fn every_end_has_its_word() {
        let end = End::default;
        let code = |code| End { code: Some(code), ..end() };
        let kill = || End { signal: Some(9), ..code(137) };
        for (end, state, reason) in [
            (code(0), Ending::Completed, None),
            (End { oom: true, ..code(0) }, Ending::Completed, None),
            (code(3), Ending::Failed, Some("exit code 3")),
            (kill(), Ending::Failed, Some("killed by signal 9")),
            (code(137), Ending::Failed, Some("exit code 137")),
            (
                End { oom: true, ..kill() },
                Ending::KilledOom,
                Some("the kernel killed it, or a part of it, for want of memory"),
            ),
            (
                End { oom: true, ..code(1) },
                Ending::KilledOom,
                Some("the kernel killed it, or a part of it, for want of memory"),
            ),
            (
                End { timed_out: true, signal: Some(15), ..code(143) },
                Ending::Failed,
                Some("ran longer than its time limit of 2h30m and was ended"),
            ),
            (End { stopped: true, ..kill() }, Ending::Killed, None),
            (End { stopped: true, timed_out: true, ..kill() }, Ending::Killed, None),
            (End { fault: Some("why".to_owned()), ..end() }, Ending::Failed, Some("why")),
        ] {
            let outcome = of(&end, Some(9_000));
            assert_eq!((outcome.state, outcome.reason.as_deref()), (state, reason), "{end:?}");
            assert_eq!((outcome.exit_code, outcome.exit_signal), (end.code, end.signal), "{end:?}");
        }
        for (seconds, text) in [(1, "1s"), (60, "1m"), (3_661, "1h1m1s"), (86_400, "24h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
