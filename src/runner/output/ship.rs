//! The thread that ships: waits until somebody writes, and takes a part of each in turn.

use std::time::{Duration, Instant};

use super::flow::Part;
use super::{Inner, PACE, Place, Shared};
use crate::api::node::OutputHave;
use crate::domain::ids::{Attempt, TaskId};
use crate::domain::output::Stream;
use crate::runner::backoff::Backoff;
use crate::runner::link::{Link, LinkFault, Session};
use crate::sys::inotify::{WatchId, Written};
use crate::sys::shutdown::Stop;
use crate::{info, warning};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What cannot be watched (the kernel has no room) is looked at this often.
const UNWATCHED: Duration = Duration::from_secs(1);
/// A task whose output the Host cannot keep is tried again after this.
const REFUSED: Duration = Duration::from_secs(30);

/// One look at a task.
struct Look {
    task: TaskId,
    attempt: Attempt,
    place: Place,
    parts: Vec<Part>,
    ended: bool,
    is_watched: bool,
}

/// What a look at a stream brought.
enum Taken {
    /// Nothing is there that the Host has not.
    Nothing,
    /// A part was shipped: what the Host has, and whether there may be more.
    Part { have: u64, more: bool },
    /// It is not there, is no file, or cannot be read.
    Unreadable(String),
}

/// Until `stop`, or the end of the link.
pub(super) fn run(shared: &Shared, link: &Link, stop: &Stop) {
    let mut shipper = Shipper {
        shared,
        link,
        stop,
        buffer: Vec::new(),
        backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        fault: None,
    };
    while let Some(look) = shipper.next() {
        // Without a session there is nobody to ship to; None: the Runner ends.
        let Some(session) = link.session() else { return };
        shipper.look(&look, &session);
    }
}

struct Shipper<'a> {
    shared: &'a Shared,
    link: &'a Link,
    stop: &'a Stop,
    buffer: Vec<u8>,
    backoff: Backoff,
    /// As last said.
    fault: Option<String>,
}

impl Shipper<'_> {
    /// Waits for a task that is due; None: the Runner ends.
    fn next(&mut self) -> Option<Look> {
        loop {
            let mut inner = self.shared.lock();
            let now = Instant::now();
            let first = inner.due.first().copied();
            if let Some((_, task)) = first.filter(|(at, _)| *at <= now) {
                inner.do_not_look_at(task);
                let Some(flow) = inner.flows.get_mut(&task) else { continue };
                flow.looked = Some(now);
                if self.stop.is_set() {
                    return None;
                }
                return Some(Look {
                    task,
                    attempt: flow.attempt,
                    place: flow.place.clone(),
                    parts: flow.parts(),
                    ended: flow.ended,
                    is_watched: !flow.watches.is_empty(),
                });
            }
            let until = first.map(|(at, _)| at);
            inner.waits = Some(until);
            drop(inner);
            if until.is_none() {
                // Nothing is in sight: the memory is not needed.
                self.buffer = Vec::new();
            }
            let written = self.shared.watcher.wait(self.stop, until)?;
            self.notice(&written);
        }
    }

    /// Those that were written to are looked at, though none more often than it is its turn.
    fn notice(&self, written: &Written) {
        let mut guard = self.shared.lock();
        let inner = &mut *guard;
        inner.waits = None;
        let now = Instant::now();
        for place in &written.places {
            let Some(task) = inner.watches.remove(place) else { continue };
            let Some(flow) = inner.flows.get_mut(&task) else { continue };
            let at = flow.looked.map_or(now, |looked| now.max(looked + PACE));
            // One is enough: after the look all are watched anew.
            let others = std::mem::take(&mut flow.watches);
            inner.forget_watches(others, &self.shared.watcher);
            inner.look_at(task, at, &self.shared.watcher);
        }
        if written.anywhere {
            let watched: Vec<TaskId> = inner.watches.values().copied().collect();
            watched.into_iter().for_each(|task| inner.look_at(task, now, &self.shared.watcher));
        }
    }

    fn look(&mut self, look: &Look, session: &Session) {
        // Watched before it is read: what is written in between is seen either way.
        let watches = (!look.ended && !look.is_watched).then(|| look.place.watch_once(&self.shared.watcher).ok());
        let mut taken = Vec::new();
        let mut fault = None;
        for part in &look.parts {
            match self.take(look, *part, session) {
                Ok(result) => taken.push((part.stream, result)),
                Err(why) => {
                    fault = Some(why);
                    break;
                }
            }
        }
        let refused = matches!(fault, Some(LinkFault::Taken(_)));
        self.note(look, watches, taken, fault.as_ref());
        match fault {
            None => self.went_well(),
            Some(_) if refused => {}
            Some(fault) => self.went_badly(&fault),
        }
    }

    /// Ships one part of one stream.
    fn take(&mut self, look: &Look, part: Part, session: &Session) -> Result<Taken, LinkFault> {
        if let Err(fault) = look.place.read(part.stream, part.offset, part.length, &mut self.buffer) {
            return Ok(Taken::Unreadable(fault.to_string()));
        }
        if self.buffer.is_empty() {
            return Ok(if look.ended {
                Taken::Unreadable("it is shorter than it was".to_owned())
            } else {
                Taken::Nothing
            });
        }
        let OutputHave { have, .. } =
            self.link.ship(session, look.task, look.attempt, part.stream, part.offset, &self.buffer)?;
        let sent = part.offset + self.buffer.len() as u64;
        // Another answer than expected (it had more, or less) is followed up at once.
        Ok(Taken::Part { have, more: self.buffer.len() == part.length || have != sent })
    }

    /// What a look brought, and when the next one is.
    fn note(
        &self,
        look: &Look,
        watches: Option<Option<Vec<WatchId>>>,
        taken: Vec<(Stream, Taken)>,
        fault: Option<&LinkFault>,
    ) {
        let mut guard = self.shared.lock();
        let inner: &mut Inner = &mut guard;
        let Some(flow) = inner.flows.get_mut(&look.task).filter(|flow| flow.attempt == look.attempt) else {
            watches.flatten().unwrap_or_default().into_iter().for_each(|watch| self.shared.watcher.forget(watch));
            return;
        };
        let now = Instant::now();
        let mut at = None;
        for (stream, taken) in taken {
            let lane = flow.lane_mut(stream);
            match taken {
                Taken::Nothing => {}
                Taken::Part { have, more } => {
                    let before = look.parts.iter().find(|part| part.stream == stream).map_or(0, |part| part.offset);
                    lane.answered(have);
                    if more {
                        // A Host that takes nothing is not asked over and over.
                        at = Some(if have == before { now + UNWATCHED } else { now });
                    }
                }
                // While it runs, its file may be on its way, or be put back.
                Taken::Unreadable(why) if look.ended => {
                    warning!("task {}: the rest of its {stream} is missing: {why}", look.task);
                    lane.lose();
                }
                Taken::Unreadable(_) => {}
            }
        }
        match fault {
            Some(LinkFault::Taken(why)) => {
                if !std::mem::replace(&mut flow.complained, true) {
                    warning!("the Host cannot keep what task {} writes: {why}", look.task);
                }
                at = Some(now + REFUSED);
            }
            // Others first; the wait is the shipper's.
            Some(_) => at = Some(now),
            None => {}
        }
        let ended = flow.ended;
        match watches {
            Some(Some(watches)) if ended => watches.into_iter().for_each(|watch| self.shared.watcher.forget(watch)),
            Some(Some(watches)) => {
                inner.watches.extend(watches.iter().map(|watch| (*watch, look.task)));
                flow.watches = watches;
            }
            // No room, or nothing there yet.
            Some(None) => at = at.or(Some(now + UNWATCHED)),
            None => {}
        }
        let Some(flow) = inner.flows.get(&look.task) else { return };
        if flow.is_settled() {
            inner.do_not_look_at(look.task);
            self.shared.settle(inner, look.task);
        } else if ended && !look.ended {
            // It ended meanwhile, and has said when it is to be looked at.
        } else if let Some(at) = at.or(ended.then_some(now)) {
            inner.look_at(look.task, at, &self.shared.watcher);
        }
    }

    fn went_well(&mut self) {
        self.backoff.reset();
        if self.fault.take().is_some() {
            info!("the Host takes output again");
        }
    }

    /// Says so once, and waits before the next try.
    fn went_badly(&mut self, fault: &LinkFault) {
        if self.link.is_closed() {
            return;
        }
        // What these mean for the session is seen, and said, by the heartbeat.
        let is_news = !matches!(fault, LinkFault::NotRegistered | LinkFault::Superseded(_)) && self.fault.is_none();
        if is_news {
            warning!("the Host does not take output: {fault}; trying again until it does");
            self.fault = Some(fault.to_string());
        }
        self.stop.wait(self.backoff.wait());
    }
}
