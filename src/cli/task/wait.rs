//! `task submit --wait`: until all of a batch have ended. The Host's events say so; nothing is asked again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::events;
use super::tally::{Standing, Tally};
use crate::api::public::{TaskRecord, TaskRow};
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::interrupt;
use crate::cli::output::{self, Progress};
use crate::cli::task_ref::TaskRef;
use crate::config::Loaded;
use crate::domain::ids::TaskId;
use crate::domain::state::State;

/// What ends a rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// Events come from here on. `has_gap`: some may have been missed before.
    Flowing { has_gap: bool },
    /// A task is in this state.
    Change { task: TaskId, state: State },
    /// No events come now.
    Silent,
    /// The signal.
    Interrupted(i32),
}

/// How long a Host that went away is waited for.
const AWAY: Duration = Duration::from_secs(300);
/// How long the submission is held back for the events to flow.
const OPENING: Duration = Duration::from_secs(5);
/// How many that did not complete are listed.
const LISTED: usize = 20;
/// Tasks in one page of the Host's list.
const PAGE: usize = 1_000;

/// Listens to the Host, from before the submission on: so nothing that becomes of the tasks is missed.
pub(super) struct Watch {
    wakes: Receiver<Wake>,
    is_flowing: bool,
    is_submitted: Arc<AtomicBool>,
    pause: Duration,
}

impl Watch {
    /// Begins to listen; `pause` is how often to look where no events can be had.
    pub(super) fn begin(loaded: &Loaded, pause: Duration) -> Self {
        let (sender, wakes) = mpsc::channel();
        let is_submitted = Arc::new(AtomicBool::new(false));
        let (interrupts, submitted) = (sender.clone(), Arc::clone(&is_submitted));
        interrupt::on_interrupt(move |signal| {
            if !submitted.load(Ordering::SeqCst) {
                output::error_line("interrupted; if the Host has accepted anything, 'hakuriver task list' shows it");
                std::process::exit(interrupt::status(signal).into());
            }
            // Nobody waits any more: the program is about to end.
            let _waiting = interrupts.send(Wake::Interrupted(signal));
        });
        Self::listening(loaded, pause, is_submitted, sender, wakes)
    }

    fn listening(
        loaded: &Loaded,
        pause: Duration,
        is_submitted: Arc<AtomicBool>,
        sender: Sender<Wake>,
        wakes: Receiver<Wake>,
    ) -> Self {
        let is_listening = events::listen(loaded.clone(), pause, sender);
        // A Host that is not there says so to the submission.
        let is_flowing = is_listening && matches!(wakes.recv_timeout(OPENING), Ok(Wake::Flowing { .. }));
        Self { wakes, is_flowing, is_submitted, pause }
    }

    /// The tasks are accepted, and will go on.
    pub(super) fn submitted(&self) {
        self.is_submitted.store(true, Ordering::SeqCst);
    }

    /// Waits until all have ended; a fault if one did not complete.
    pub(super) fn until_ended(mut self, mut host: Host, tasks: &[TaskId]) -> Result<(), Fault> {
        let mut tally = Tally::of(tasks.iter().copied());
        let mut progress = Progress::default();
        let mut away_since: Option<Instant> = None;
        let mut must_look = !self.is_flowing;
        loop {
            let mut seen = true;
            if must_look {
                match look(&host, &mut tally) {
                    Ok(()) => {
                        away_since = None;
                        must_look = !self.is_flowing;
                    }
                    Err(fault) => {
                        seen = false;
                        let why = fault.message().unwrap_or_default();
                        if away_since.get_or_insert_with(Instant::now).elapsed() > AWAY {
                            let text = format!("{why}\nthe tasks were accepted, and go on; {}", advice(&tally));
                            return Err(Fault::Unreachable(text));
                        }
                        progress.show(&format!("{}; the tasks go on; trying again", first_line(why)));
                        // Where its port is the system's choice, it returns with another one.
                        if let Ok(again) = Host::from_loaded(host.loaded.clone()) {
                            host = again;
                        }
                    }
                }
            }
            if tally.is_done() {
                progress.clear();
                return verdict(&host, &tally);
            }
            if seen {
                progress.show_in_place(&tally.progress());
            }
            // Once events flow and nothing was missed, only they have something to say.
            let first = if must_look { self.wakes.recv_timeout(self.pause).ok() } else { self.wakes.recv().ok() };
            for wake in first.into_iter().chain(self.wakes.try_iter()) {
                match wake {
                    Wake::Change { task, state } => tally.note_state(task, state),
                    Wake::Flowing { has_gap } => {
                        self.is_flowing = true;
                        must_look |= has_gap;
                    }
                    Wake::Silent => {
                        self.is_flowing = false;
                        must_look = true;
                    }
                    Wake::Interrupted(signal) => {
                        progress.clear();
                        output::error_line(&format!(
                            "interrupted: {}; the others go on; {}",
                            tally.progress(),
                            advice(&tally)
                        ));
                        return Err(Fault::Status(interrupt::status(signal)));
                    }
                }
            }
        }
    }
}

/// Asks for all of them, a page at a time: the Host's list has the newest first.
fn look(host: &Host, tally: &mut Tally) -> Result<(), Fault> {
    let Some((lowest, highest)) = tally.range() else { return Ok(()) };
    let mut before = highest.get().saturating_add(1);
    let mut found = BTreeSet::new();
    loop {
        let rows: Vec<TaskRow> = host.get_as(&format!("/tasks?limit={PAGE}&before={before}"))?;
        for row in &rows {
            let id: TaskId =
                row.task_id.parse().map_err(|_| Fault::Refused(format!("{:?} is no id of a task", row.task_id)))?;
            before = id.get();
            if let Some(state) = State::from_word(&row.status)
                && tally.has(id)
            {
                tally.note_state(id, state);
                found.insert(id);
            }
        }
        if rows.len() < PAGE || before <= lowest.get() {
            tally.note_missing(&found);
            return Ok(());
        }
    }
}

/// Says what did not complete.
fn verdict(host: &Host, tally: &Tally) -> Result<(), Fault> {
    let bad = tally.bad().count();
    let lines: Vec<String> = tally
        .bad()
        .take(LISTED)
        .map(|(id, standing)| match standing {
            Standing::Gone => format!("task {id}: the Host does not know it any more"),
            Standing::Living => format!("task {id}: has not ended"),
            Standing::Ended(state) => match TaskRef::Id(id).record(host) {
                Ok(record) => ending(&record),
                Err(_) => format!("task {id}: {}", state.word()),
            },
        })
        .collect();
    match lines.as_slice() {
        [] => Ok(()),
        [line] if tally.len() == 1 => Err(Fault::Refused(line.clone())),
        lines => {
            let mut text = format!("{bad} of {} tasks did not complete:\n  {}", tally.len(), lines.join("\n  "));
            if bad > lines.len() {
                text += &format!("\n  and {} more: see 'hakuriver task list'", bad - lines.len());
            }
            Err(Fault::Refused(text))
        }
    }
}

/// `task 7: failed, exit status 3: reason`; a number that the reason has is not said twice.
fn ending(record: &TaskRecord) -> String {
    let why = record.error_message.as_deref().map(first_line).unwrap_or_default();
    let (what, number) = match (record.exit_signal, record.exit_code) {
        (Some(signal), _) => ("signal", signal.to_string()),
        (None, Some(code)) => ("exit status", code.to_string()),
        (None, None) => ("", String::new()),
    };
    let is_said = why.split(|c: char| !c.is_ascii_digit()).any(|part| part == number);
    let mut text = format!("task {}: {}", record.task_id, record.status);
    if !number.is_empty() && !is_said {
        text += &format!(", {what} {number}");
    }
    if why.is_empty() { text } else { format!("{text}: {why}") }
}

/// How to see and end those that live.
fn advice(tally: &Tally) -> String {
    const NAMED: usize = 5;
    let ids: Vec<String> = tally.living().take(NAMED + 1).map(|id| id.to_string()).collect();
    let ids = if ids.len() > NAMED { "ID...".to_owned() } else { ids.join(" ") };
    format!("see them with 'hakuriver task list', end them with 'hakuriver task kill {ids}'")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
