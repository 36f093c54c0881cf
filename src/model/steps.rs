//! What can happen next: anything, or, once the faults have stopped, whatever brings all to its end.

use std::time::Duration;

use super::container::{Container, State};
use super::machine::MOMENT;
use super::sim::Sim;
use super::users::PATIENCE;
use crate::domain::ids::{NodeName, TaskId};
use crate::domain::spec::TaskKind;
use crate::domain::state::Want;
use crate::host::simulated::Call;

/// So long after the last fault the Host has heard of all that there is, also of what it was told once, and has not acknowledged.
const QUIET: Duration = Duration::from_secs(35);
/// And so long what it shows is looked at, before all is ended.
const SHOWN: Duration = Duration::from_secs(15);

impl Sim {
    /// One of all the things that can happen.
    pub(super) fn any_step(&self) {
        let by = match self.random.below(20) {
            0..=13 => self.random.ms(0, 5),
            14..=18 => self.random.ms(5, 100),
            _ => self.random.ms(100, 1_500),
        };
        self.advance(by);
        for number in 0..self.machines.len() {
            self.mend_docker(number);
        }
        if self.host.borrow().next_deadline() <= self.now() {
            return self.host_turn(Vec::new());
        }
        let number = self.random.below(self.machines.len());
        for _ in 0..6 {
            let done = match self.random.below(100) {
                0..=21 => self.deliver(),
                22..=41 => self.agent_turn(number),
                42..=55 => self.converse(number),
                56..=69 => self.operate(number),
                70..=79 => self.use_line(number),
                80..=87 => self.watch_docker(number),
                88..=90 => {
                    self.ship(number);
                    false
                }
                91..=92 => {
                    self.use_it();
                    true
                }
                93 if self.random.percent(60) => {
                    self.fault();
                    true
                }
                _ => self.begin_runner(number),
            };
            if done {
                return;
            }
        }
    }

    fn begin_runner(&self, number: usize) -> bool {
        let is_due = self.runner_is_due(number);
        if is_due {
            self.start_runner(number);
        }
        is_due
    }

    /// All that is to be done now, everywhere; then a moment passes, or so long that there is something to do.
    pub(super) fn calm_step(&self) {
        let mut is_busy = false;
        for _ in 0..20 {
            let mut did = self.deliver();
            for number in 0..self.machines.len() {
                self.mend_docker(number);
                did |= self.begin_runner(number);
                did |= self.use_line(number);
                did |= self.watch_docker(number);
                did |= self.agent_turn(number);
                did |= self.converse(number);
                did |= self.operate(number);
                self.ship(number);
            }
            is_busy |= did;
            if !did {
                break;
            }
        }
        if self.host.borrow().next_deadline() <= self.now() {
            self.host_turn(Vec::new());
        }
        if self.calm_for() > QUIET {
            self.check_shown();
        }
        if self.calm_for() > QUIET + SHOWN {
            self.end_all();
        }
        let longest = Duration::from_millis(if is_busy { 20 } else { 2_000 });
        let timers = (0..self.machines.len()).filter_map(|number| self.next_timer(number));
        let next = timers.chain(self.next_packet()).filter(|then| *then > self.now()).min();
        let wait = next.map_or(longest, |then| then.saturating_duration_since(self.now()).min(longest));
        self.advance(wait.max(MOMENT));
    }

    /// Users ask again for what was not answered, and kill what never ends by itself.
    fn end_all(&self) {
        if self.has_asked() {
            if self.next_packet().is_none() {
                self.advance(PATIENCE.min(Duration::from_millis(100)));
                self.ask_again();
            }
            return;
        }
        let draining: Vec<NodeName> = {
            let host = self.host.borrow();
            host.nodes().filter(|node| node.record.draining).map(|node| node.record.name.clone()).collect()
        };
        draining.into_iter().for_each(|name| self.ask(Call::Drain(name, false)));
        let endless: Vec<(TaskId, bool)> = {
            let host = self.host.borrow();
            host.live()
                .filter(|task| task.standing.want != Want::Stop)
                .filter_map(|task| match task.spec.kind {
                    TaskKind::Vps { .. } => Some((task.id, true)),
                    TaskKind::Command { .. } => (task.standing.want == Want::Pause).then_some((task.id, false)),
                })
                .collect()
        };
        for (task, is_vps) in endless {
            self.ask(if is_vps { Call::Kill(task) } else { Call::Control { task, pause: false } });
        }
    }

    /// Nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        let host = self.host.borrow();
        host.live().next().is_none()
            && !self.has_asked()
            && self.machines.iter().all(|machine| {
                let kept = |container: &Container| container.state == State::Exited && self.is_kept(container.task());
                self.is_idle(machine.number)
                    && machine.docker.borrow().orders.is_empty()
                    && machine.docker.borrow().containers.iter().all(kept)
                    && machine.supervisor.borrow().count() == 0
            })
            && host.nodes().all(|node| node.unknown.is_empty() && !node.record.silent)
    }

    /// A VPS that has failed and whose container the user may still want.
    fn is_kept(&self, task: u64) -> bool {
        let task = self.host.borrow().stored(TaskId::from_u64(task));
        task.is_some_and(|task| task.standing.note.is_some_and(|note| note.contains("kept")))
    }
}
