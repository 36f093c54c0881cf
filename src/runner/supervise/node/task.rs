//! One task of the node's supervisor, from what is asked to the proof that nothing of it lives.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::runner::executor::process::Running;
use crate::runner::supervise::protocol::{End, Start, TaskState};
use crate::sys::cgroup::Group;
use crate::sys::children::Gone;
use crate::sys::{clock, process};

/// Between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// What is left when the main process has ended by itself gets TERM, and this long.
const FAREWELL: Duration = Duration::from_secs(5);
/// Between a KILL and the next one, for what was being born or hangs in the kernel.
const AGAIN: Duration = Duration::from_secs(1);

/// One attempt at a task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) state: TaskState,
    /// Until its start is begun.
    start: Option<Box<Start>>,
    /// Its start is begun, and not over.
    is_launching: bool,
    time_limit: Option<Duration>,
    group: Option<Group>,
    /// How the main process ended; the rest may still live.
    main: Option<Gone>,
    /// When it was seen to have ended, if nothing of it lived on: in milliseconds since 1970.
    main_ended_ms: Option<u64>,
    oom: bool,
    timed_out: bool,
    /// When its time is over.
    limit: Option<Instant>,
    /// When what lives is killed (again).
    kill_at: Option<Instant>,
}

impl Task {
    /// One that is to be started.
    pub(super) fn new(start: Box<Start>) -> Self {
        let state = TaskState {
            task: start.task,
            attempt: start.attempt,
            phase: "starting".to_owned(),
            cpus: start.cpus.clone(),
            exclusive: start.exclusive,
            ..TaskState::default()
        };
        let time_limit = start.time_limit_seconds.map(Duration::from_secs);
        Self { start: Some(start), time_limit, ..Self::known(state) }
    }

    /// One that is known from the journal.
    pub(super) fn known(state: TaskState) -> Self {
        Self {
            state,
            start: None,
            is_launching: false,
            time_limit: None,
            group: None,
            main: None,
            main_ended_ms: None,
            oom: false,
            timed_out: false,
            limit: None,
            kill_at: None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.end.is_some()
    }

    /// Its process is there, or what is left of it.
    pub(super) fn is_alive(&self) -> bool {
        self.state.pid.is_some() && !self.has_ended()
    }

    /// Its start begins. None: it was begun before, or there is nothing to start any more.
    pub(super) fn launch(&mut self) -> Option<Box<Start>> {
        let start = self.start.take();
        self.is_launching = start.is_some();
        start
    }

    /// It was started, or could not be.
    pub(super) fn started(&mut self, result: Result<Running, String>, now: Instant) {
        self.is_launching = false;
        self.start = None;
        match result {
            Ok(running) => {
                "running".clone_into(&mut self.state.phase);
                self.state.pid = Some(running.process.pid);
                self.state.started_ms = Some(clock::unix_ms());
                self.state.unit = running.unit;
                self.group = running.group;
                self.limit = self.time_limit.and_then(|limit| now.checked_add(limit));
                if self.state.stopping {
                    // It was asked to end while its start hung.
                    self.ask_to_end(now, GRACE);
                }
            }
            Err(fault) => self.end(End { fault: Some(fault), stopped: self.state.stopping, ..End::default() }),
        }
    }

    /// Ends what carries its mark: where there are no control groups, that is all that is known of it.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn kill_marked(&self) -> std::io::Result<()> {
        // The number itself may be another process's by now: only the mark counts.
        let marked = process::of_task(0, &self.mark())?;
        if marked.is_empty() { Ok(()) } else { process::signal_task(0, &self.mark(), process::SIGKILL) }
    }

    /// Its main process has ended.
    pub(super) fn main_ended(&mut self, gone: Gone) {
        self.main = Some(gone);
        self.main_ended_ms = Some(clock::unix_ms());
    }

    /// It is to end.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.state.stopping || self.has_ended() {
            return;
        }
        self.state.stopping = true;
        if self.start.take().is_some() {
            return self.end(End { stopped: true, ..End::default() });
        }
        // What is being made cannot be asked yet.
        if !self.is_launching {
            self.ask_to_end(now, GRACE);
        }
    }

    /// TERM to all of it, and KILL after `grace`.
    fn ask_to_end(&mut self, now: Instant, grace: Duration) {
        let at = now + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
        self.signal(process::SIGTERM);
        // What is frozen or stopped hears the other only then.
        self.thaw();
        self.signal(process::SIGCONT);
    }

    /// Freezes or thaws all of it; what the state is called then is what was done.
    pub(super) fn freeze(&mut self, frozen: bool) {
        let (from, to) = if frozen { ("running", "paused") } else { ("paused", "running") };
        if self.state.phase != from || self.state.stopping || self.main.is_some() {
            return;
        }
        let done = match self.group.as_ref().map(|group| group.freeze(frozen)) {
            Some(Ok(())) => Ok(()),
            Some(Err(fault)) if fault.kind() != ErrorKind::Unsupported => Err(fault),
            // This node has no freezer.
            Some(Err(_)) | None => {
                self.signal(if frozen { process::SIGSTOP } else { process::SIGCONT });
                Ok(())
            }
        };
        match done {
            Ok(()) => to.clone_into(&mut self.state.phase),
            Err(fault) => {
                crate::warning!("task {}: {fault}", self.state.task);
                // All of it or nothing.
                let _thawed = self.group.as_ref().map(|group| group.freeze(false));
            }
        }
    }

    fn thaw(&mut self) {
        if self.state.phase != "paused" {
            return;
        }
        "running".clone_into(&mut self.state.phase);
        match self.group.as_ref().map(|group| group.freeze(false)) {
            // It is gone with all that was in it.
            Some(Err(fault)) if !matches!(fault.kind(), ErrorKind::Unsupported | ErrorKind::NotFound) => {
                crate::warning!("task {}: {fault}", self.state.task);
            }
            _ => {}
        }
    }

    fn signal(&self, signal: i32) {
        let done = match (&self.group, self.main_pid()) {
            (Some(group), _) => group.signal(signal),
            (None, Some(pid)) => process::signal_task(pid, &self.mark(), signal),
            (None, None) => Ok(()),
        };
        if let Err(fault) = done {
            crate::warning!("task {}: {fault}", self.state.task);
        }
    }

    /// Its main process; 0, which is no process, once that was waited for: its number is anybody's then.
    fn main_pid(&self) -> Option<u32> {
        self.state.pid.map(|pid| if self.main.is_some() { 0 } else { pid })
    }

    /// What stands in the environment of every process of it.
    fn mark(&self) -> String {
        format!("HAKURIVER_TASK_ID={}", self.state.task)
    }

    /// Does what its clocks say; true if something was done.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        if !self.is_alive() {
            return false;
        }
        if self.limit.is_some_and(|limit| limit <= now) {
            self.limit = None;
            if self.main.is_none() && !self.state.stopping {
                self.timed_out = true;
                self.ask_to_end(now, GRACE);
            }
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = Some(now + AGAIN);
            self.signal(process::SIGKILL);
            self.thaw();
            return true;
        }
        false
    }

    /// When [`Task::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        if !self.is_alive() {
            return None;
        }
        [self.limit.filter(|_| self.main.is_none()), self.kill_at].into_iter().flatten().min()
    }

    /// Whether the main process has ended and the end is not told yet.
    pub(super) fn is_ending(&self) -> bool {
        self.main.is_some() && !self.has_ended()
    }

    /// If nothing of it lives any more, that is its end: true.
    pub(super) fn try_end(&mut self, now: Instant) -> bool {
        let Some(main) = self.main.filter(|_| !self.has_ended()) else { return false };
        let gone = match (&self.group, self.main_pid()) {
            (Some(group), _) => {
                // While the group is there: its record goes with it.
                self.oom |= group.oom_kills().is_ok_and(|count| count > 0);
                group.remove()
            }
            (None, Some(pid)) => process::of_task(pid, &self.mark()).map(|pids| pids.is_empty()),
            (None, None) => Ok(true),
        };
        match gone {
            Ok(true) => {}
            Ok(false) => {
                // A group may be busy for a moment more although nothing lives in it.
                if self.group.as_ref().is_none_or(|group| group.pids().is_ok_and(|pids| !pids.is_empty())) {
                    self.main_ended_ms = None;
                }
                if self.kill_at.is_none() {
                    self.ask_to_end(now, FAREWELL);
                }
                return false;
            }
            // What cannot be looked at cannot be waited for.
            Err(fault) => crate::warning!("task {}: {fault}", self.state.task),
        }
        self.end(End {
            code: Some(main.code),
            signal: main.signal,
            oom: self.oom,
            timed_out: self.timed_out,
            stopped: self.state.stopping,
            fault: None,
        });
        true
    }

    /// It is over.
    pub(super) fn end(&mut self, end: End) {
        "ended".clone_into(&mut self.state.phase);
        self.state.ended_ms = self.main_ended_ms.or_else(|| Some(clock::unix_ms()));
        self.state.end = Some(end);
        self.start = None;
        self.group = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_used_again_is_not_the_tasks() {
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().expect("it can be started");
        let state = TaskState {
            task: u64::from(other.id()) << 32,
            pid: Some(other.id()),
            phase: "running".to_owned(),
            ..TaskState::default()
        };
        let mut task = Task::known(state);
        task.main_ended(Gone { pid: other.id(), code: 0, signal: None });
        task.signal(process::SIGKILL);
        let has_ended = task.try_end(Instant::now());
        let lives = other.try_wait().expect("it is ours").is_none();
        other.kill().expect("it is ours");
        other.wait().expect("it is ours");
        assert!(has_ended && lives, "ended: {has_ended}, the other lives: {lives}");
    }
}
