//! How a command's end is told. Pure.

use super::record::{Ending, Outcome};
use super::supervise::protocol::End;

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
    use super::*;

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
