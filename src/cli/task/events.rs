//! The Host's events, read in a thread of their own, gone on with after a break where they broke.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::wait::Wake;
use crate::api::json;
use crate::api::public::EventData;
use crate::cli::host_api::Host;
use crate::config::Loaded;
use crate::domain::state::State;
use crate::sys::thread;

/// The Host sends a comment now and then; after this silence the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(60);

/// Sends what comes, from now on. After a break it tries again every `pause`. False if there is no thread to do it: then no wake ever
/// comes of it.
pub(super) fn listen(loaded: Loaded, pause: Duration, sender: Sender<Wake>) -> bool {
    let work = move || {
        let mut position = Position::default();
        let mut is_first = true;
        loop {
            let path = position.path();
            // Where its port is the system's choice, it returns with another one.
            let answer =
                Host::from_loaded(loaded.clone()).ok().and_then(|host| host.client().stream(&path, SILENCE).ok());
            let is_gone = match answer {
                Some((200, stream)) => {
                    // Without a number there was nothing to go on from.
                    let has_gap = !is_first && position.last.is_none();
                    if sender.send(Wake::Flowing { has_gap }).is_err() || !pass_on(stream, &mut position, &sender) {
                        return;
                    }
                    false
                }
                Some((410, _)) => true,
                Some(_) | None => false,
            };
            is_first = false;
            if sender.send(Wake::Silent).is_err() {
                return;
            }
            if is_gone {
                position = Position::default();
            } else {
                std::thread::sleep(pause);
            }
        }
    };
    thread::spawn("events", work).is_ok()
}

/// Where in the Host's events one has come to.
#[derive(Debug, Default)]
struct Position {
    /// The number of the last event that came whole.
    last: Option<u64>,
    /// The number of the one that is coming.
    coming: Option<u64>,
}

impl Position {
    fn path(&self) -> String {
        match self.last {
            Some(last) => format!("/events?since={last}"),
            None => "/events".to_owned(),
        }
    }
}

/// Passes events on until the stream breaks; false if nobody listens any more.
fn pass_on(stream: impl Read, position: &mut Position, sender: &Sender<Wake>) -> bool {
    let mut lines = BufReader::with_capacity(64 << 10, stream);
    let mut line = Vec::new();
    position.coming = None;
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return true,
            // A line without its end was cut.
            Ok(_) if !line.ends_with(b"\n") => return true,
            Ok(_) => {}
        }
        if let Some(number) = line.strip_prefix(b"id: ") {
            position.coming = std::str::from_utf8(number).ok().and_then(|number| number.trim().parse().ok());
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            if ends(data)
                && let Some(change) = change(data)
                && sender.send(change).is_err()
            {
                return false;
            }
        } else if line == b"\n" {
            position.last = position.coming.take().or(position.last);
        }
    }
}

/// Can this be the end of a task, or the return of one that was lost? Most events are not: they need not be decoded.
fn ends(data: &[u8]) -> bool {
    let words = State::ALL.into_iter().filter(|state| state.is_final()).map(State::word);
    words.into_iter().any(|word| data.windows(word.len()).any(|part| part == word.as_bytes()))
}

fn change(data: &[u8]) -> Option<Wake> {
    let event: EventData = json::decode(data.trim_ascii_end()).ok()?;
    let task = event.task_id?.parse().ok()?;
    State::from_word(&event.to).map(|state| Wake::Change { task, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TaskId;

    fn event(seq: u64, task: &str, from: &str, to: &str) -> String {
        let data = EventData {
            seq,
            task_id: (!task.is_empty()).then(|| task.to_owned()),
            from: Some(from.to_owned()),
            to: to.to_owned(),
            cause: "it said \"completed\"\n".to_owned(),
            ..EventData::default()
        };
        format!("id: {seq}\nevent: task\ndata: {}\n\n", json::encode(&data))
    }

    #[test]
    fn ends_are_passed_on_and_the_place_is_kept() {
        let (sender, wakes) = std::sync::mpsc::channel();
        let mut position = Position::default();
        assert_eq!(position.path(), "/events");
        let text = [
            ": events\n\n".to_owned(),
            event(4, "7", "running", "completed"),
            event(5, "", "online", "offline"),
            ": still here\n\n".to_owned(),
            event(6, "8", "lost", "running"),
            event(7, "9", "pending", "novel"),
            event(8, "10", "running", "failed"),
        ]
        .concat();
        // Cut before the end of the last one: it is not counted as come, though it may be acted on.
        assert!(pass_on(&text.as_bytes()[..text.len() - 1], &mut position, &sender));
        assert_eq!(position.path(), "/events?since=7");
        let change = |task, state| Wake::Change { task: TaskId::from_u64(task), state };
        let expected = [change(7, State::Completed), change(8, State::Running), change(10, State::Failed)];
        assert_eq!(wakes.try_iter().collect::<Vec<_>>(), expected);
        assert!(pass_on(event(8, "10", "running", "failed").as_bytes(), &mut position, &sender));
        assert_eq!(position.path(), "/events?since=8");
        drop(wakes);
        assert!(!pass_on(text.as_bytes(), &mut position, &sender), "nobody listens");
    }

    #[test]
    fn only_what_may_be_an_end_is_decoded() {
        for (data, expected) in [
            (r#"{"from":"pending","to":"assigning"}"#, false),
            (r#"{"from":"assigning","to":"running"}"#, false),
            (r#"{"from":"running","to":"killed_oom"}"#, true),
            (r#"{"from":"lost","to":"running"}"#, true),
        ] {
            assert_eq!(ends(data.as_bytes()), expected, "{data}");
        }
    }
}
