//! A task's output on its way to a user: what is there, then what comes, in constant memory.
//!
//! A reader that stalls stalls only its own connection. Nothing polls: whoever waits is woken when bytes come, and when
//! something becomes of the task.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::ids::{Attempt, NodeName, TaskId};
use crate::domain::output::Stream;
use crate::store::{Readers, StoreFault, Task};

use super::super::directory::Silent;
use super::super::engine::ActFault;
use super::super::outputs::{Outputs, start_of_last_lines};
use super::super::signal::Woken;
use super::super::view::View;
use super::unreadable;

/// What is read and sent at once. A thousand readers that do not read may each hold so much.
const PART: usize = 64 << 10;
/// How long bytes that are still to come after a task's end may stay away.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a client that waits is looked at: it may be gone.
const LOOK: Duration = Duration::from_secs(15);
/// How long a question for the last lines waits for them to arrive: longer, and the client would take us for dead.
const TAIL_WAIT: Duration = Duration::from_secs(45);

/// Which part of it is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    /// In bytes.
    pub(super) offset: u64,
    /// So many lines from the end.
    pub(super) lines: Option<u64>,
    /// Also what is still to come.
    pub(super) follow: bool,
}

/// One stream of one task.
pub(super) struct Source {
    pub(super) outputs: Arc<Outputs>,
    pub(super) view: Arc<View>,
    pub(super) readers: Readers,
    pub(super) task: TaskId,
    pub(super) stream: Stream,
}

/// What is known of the task now.
struct Glance {
    attempt: Attempt,
    life: Life,
}

enum Life {
    Living,
    Ended {
        /// None: nobody knows, so nothing more is waited for.
        total: Option<u64>,
        node: Option<NodeName>,
    },
}

impl Source {
    fn glance(&self) -> Result<Glance, StoreFault> {
        if let Some(live) = self.view.task(self.task) {
            // A lost one may come back.
            return Ok(Glance { attempt: live.task.standing.attempt, life: Life::Living });
        }
        let stored: Option<Task> = self.readers.task(self.task)?;
        Ok(match stored {
            Some(task) => Glance {
                attempt: task.standing.attempt,
                life: Life::Ended {
                    total: match self.stream {
                        Stream::Stdout => task.stdout_bytes,
                        Stream::Stderr => task.stderr_bytes,
                    },
                    node: task.placement.map(|placement| placement.node),
                },
            },
            // Too old to be kept, since a moment ago.
            None => Glance { attempt: Attempt::FIRST, life: Life::Ended { total: None, node: None } },
        })
    }

    /// It has ended, and a part of what it wrote is still to come from a node that is there.
    fn is_awaited(&self, life: &Life, position: u64) -> bool {
        match life {
            Life::Ended { total: Some(total), node: Some(node) } => {
                position < *total && self.view.node(node).is_some_and(|node| !node.record.silent)
            }
            Life::Living | Life::Ended { .. } => false,
        }
    }

    /// Where the answer begins.
    pub(super) fn start(&self, range: &Range) -> Result<u64, ActFault> {
        let Some(lines) = range.lines else {
            // What cannot be read is told in words: once the answer has begun it could only break off, and the client would
            // come again for ever.
            let attempt = self.glance().map_err(unreadable)?.attempt;
            return match self.outputs.open(self.task, attempt, self.stream) {
                Ok(_) => Ok(range.offset),
                Err(fault) => Err(self.fault(&fault)),
            };
        };
        let watch = self.view.watchers.watch(self.task);
        let began = Instant::now();
        let (mut last, mut last_at) = (0, began);
        loop {
            let seen = watch.signal.number();
            let glance = self.glance().map_err(unreadable)?;
            let arrived = self.arrived(glance.attempt)?;
            if arrived != last {
                (last, last_at) = (arrived, Instant::now());
            }
            let silent = last_at.elapsed();
            if !self.is_awaited(&glance.life, arrived) || silent >= SILENCE {
                let file =
                    self.outputs.open(self.task, glance.attempt, self.stream).map_err(|fault| self.fault(&fault))?;
                let start = file.map(|file| start_of_last_lines(&file, arrived, lines)).transpose();
                let start = start.map_err(|fault| self.fault(&fault))?.unwrap_or(0);
                return Ok(start.max(range.offset));
            }
            let rest = TAIL_WAIT.saturating_sub(began.elapsed());
            let ended = watch.signal.wait(seen, (SILENCE - silent).min(rest)) == Woken::Closed;
            if rest.is_zero() || ended {
                return Err(ActFault::new(503, "its last lines are still on their way from its node: try again"));
            }
        }
    }

    fn fault(&self, fault: &io::Error) -> ActFault {
        let path = self.outputs.path(self.task, self.stream);
        // That of a dead file server passes.
        let status = if fault.kind() == io::ErrorKind::TimedOut { 503 } else { 500 };
        ActFault::new(status, format!("cannot read {}: {fault}", path.display()))
    }

    fn arrived(&self, attempt: Attempt) -> Result<u64, Silent> {
        self.outputs.arrived(self.task, attempt).map(|arrived| arrived[self.stream.index()])
    }

    /// Sends from `position` on; ends with what is there, or with all that will ever be.
    pub(super) fn send(&self, out: &mut dyn Write, mut position: u64, follow: bool) -> io::Result<()> {
        let watch = self.view.watchers.watch(self.task);
        let mut part = Vec::new();
        let mut last_at = Instant::now();
        let glance = || self.glance().map_err(|fault| io::Error::other(fault.to_string()));
        let mut seen = watch.signal.number();
        let mut now = glance()?;
        loop {
            // Of a task that goes on writing, an answer that does not follow is what was there when it began.
            let limit = match now.life {
                Life::Living if !follow => self.arrived(now.attempt)?,
                Life::Living | Life::Ended { .. } => u64::MAX,
            };
            if self.copy(out, now.attempt, &mut position, limit, &mut part)? {
                last_at = Instant::now();
            }
            let waits = match &now.life {
                Life::Living => follow,
                life @ Life::Ended { .. } => self.is_awaited(life, position) && last_at.elapsed() < SILENCE,
            };
            if !waits {
                return Ok(());
            }
            match watch.signal.wait(seen, LOOK) {
                // Not the end of the output: the client is to see that, and to come again.
                Woken::Closed => return Err(io::Error::other("the Host stops")),
                Woken::TimedOut => out.flush()?,
                Woken::Changed => {}
            }
            seen = watch.signal.number();
            let lived = matches!(now.life, Life::Living);
            if lived {
                now = glance()?;
            }
            if lived && !matches!(now.life, Life::Living) {
                last_at = Instant::now();
            }
        }
    }

    /// Sends what is there; true if that was anything.
    fn copy(
        &self,
        out: &mut dyn Write,
        attempt: Attempt,
        position: &mut u64,
        limit: u64,
        part: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let Some(file) = self.outputs.open(self.task, attempt, self.stream)? else { return Ok(false) };
        let mut any = false;
        while *position < limit {
            let most = usize::try_from(limit - *position).map_or(PART, |rest| rest.min(PART));
            part.resize(most, 0);
            let n = file.read_at(part, *position)?;
            if n == 0 {
                break;
            }
            out.write_all(&part[..n])?;
            *position += n as u64;
            any = true;
        }
        // Only for as long as something is read: thousands may wait.
        *part = Vec::new();
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::sys::file::Scratch;

    #[test]
    fn what_cannot_be_read_is_told_before_the_answer_begins() {
        let scratch = Scratch::new();
        let store = Store::open(&scratch.path().join("db")).expect("open");
        let (outputs, task) = (Arc::new(Outputs::below(scratch.path())), TaskId::from_u64(7));
        let (readers, stream) = (store.readers(), Stream::Stdout);
        let source = Source { outputs: outputs.clone(), view: Arc::default(), readers, task, stream };
        let all = Range { offset: 5, ..Range::default() };
        assert_eq!(source.start(&all), Ok(5), "nothing was written");
        outputs.files().append(task, Attempt::FIRST, stream, 0, b"x").expect("written");
        assert_eq!(source.start(&all), Ok(5));
        let path = outputs.path(task, stream);
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("made");
        for range in [all, Range { lines: Some(1), ..all }] {
            let fault = source.start(&range).expect_err("a link is not followed");
            assert!(fault.status == 500 && fault.detail.contains("7.out"), "{fault:?}");
        }
    }
}
