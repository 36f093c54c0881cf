//! Users: they submit, kill, pause, resume, drain; they repeat what was not answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::network::BROKEN;
use super::sim::Sim;
use crate::domain::ids::TaskId;
use crate::domain::size::Bytes;
use crate::domain::spec::{Container, GpuRequest, Patience, TaskKind, TaskSpec};
use crate::domain::ssh_key::PublicKey;
use crate::domain::target;
use crate::host::simulated::{Answer, Call, Outcome};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here";

#[derive(Default)]
pub(super) struct Users {
    /// Calls without an answer yet.
    asked: BTreeMap<u64, Call>,
    keys: u64,
    /// What was answered with an id, by its key.
    answered: BTreeMap<String, Vec<TaskId>>,
    pub(super) accepted: BTreeSet<TaskId>,
    pub(super) killed: BTreeSet<TaskId>,
}

impl Sim {
    pub(super) fn use_it(&self) {
        let known: Vec<TaskId> = self.users.borrow().accepted.iter().copied().collect();
        let recent = &known[known.len().saturating_sub(8)..];
        let call = match (self.random.below(100), self.random.pick(recent)) {
            (0..=39, _) | (_, None) => self.submission(),
            (40..=59, Some(task)) => Call::Kill(*task),
            (60..=89, Some(task)) => Call::Control { task: *task, pause: self.random.percent(50) },
            (_, Some(_)) => {
                let machine = self.random.pick(&self.machines).expect("at least one");
                Call::Drain(machine.name.clone(), self.random.percent(40))
            }
        };
        self.ask(call);
    }

    pub(super) fn ask(&self, call: Call) {
        self.tell(|| match &call {
            Call::Submit { specs, .. } => {
                format!("a user submits {}", specs.iter().map(in_short).collect::<Vec<_>>().join(", "))
            }
            Call::Kill(task) => format!("a user kills {task}"),
            Call::Control { task, pause } => format!("a user {} {task}", if *pause { "pauses" } else { "resumes" }),
            Call::Drain(node, draining) => format!("a user drains {node}: {draining}"),
            _ => String::new(),
        });
        let number = self.send(None, call.clone());
        self.users.borrow_mut().asked.insert(number, call);
    }

    fn submission(&self) -> Call {
        let random = &self.random;
        let mut users = self.users.borrow_mut();
        users.keys += 1;
        let key = format!("key{}", users.keys);
        let environment =
            || Container::Environment { name: "base".parse().expect("a name"), privileged: false, mounts: Vec::new() };
        let bare = TaskSpec {
            kind: TaskKind::Command { program: "true".into(), arguments: Vec::new() },
            cores: u32::try_from(1 + random.below(2)).expect("few"),
            memory: None,
            gpus: GpuRequest::None,
            target: None,
            container: Container::Null,
            name: None,
            env: [].into(),
            patience: Patience::default(),
            time_limit: None,
            workdir: None,
            user: None,
        };
        let mut spec = match random.below(10) {
            0..=3 => bare,
            4 => TaskSpec { cores: 0, memory: Some(Bytes(1_000_000_000)), ..bare },
            5..=7 => TaskSpec { container: environment(), ..bare },
            _ => {
                let keys = vec![PublicKey::parse(KEY).expect("a key")];
                let cores = u32::try_from(random.below(2)).expect("few");
                TaskSpec { kind: TaskKind::Vps { keys }, container: environment(), cores, ..bare }
            }
        };
        // What no node has is waited for without end.
        if self.machines.iter().all(|machine| !machine.inventory.gpus.is_empty()) && random.percent(25) {
            spec.gpus = GpuRequest::Any(1);
        }
        if random.percent(25) {
            let machine = random.pick(&self.machines).expect("at least one");
            spec.target = Some(target::parse(machine.name.as_str()).expect("a target").0);
            spec.patience.queue = random.percent(60);
        }
        if random.percent(10) {
            spec.patience.immediate = true;
        } else if random.percent(10) {
            spec.patience.max_wait = Some(random.ms(100, 5_000));
        }
        let is_command = matches!(spec.kind, TaskKind::Command { .. });
        let count = if is_command && random.percent(30) { 2 + random.below(5) } else { 1 };
        Call::Submit { specs: vec![spec; count], key: Some(key) }
    }

    pub(super) fn user_hears(&self, number: u64, outcome: Outcome) {
        let Some(call) = self.users.borrow_mut().asked.remove(&number) else { return };
        match (call, outcome) {
            (Call::Submit { key: Some(key), .. }, Ok(Answer::Submitted(ids))) => {
                let mut users = self.users.borrow_mut();
                self.tell(|| format!("accepted: {ids:?}"));
                let first = users.answered.entry(key).or_insert_with(|| ids.clone());
                if *first != ids {
                    let text = format!("one submission has two answers: {first:?}, {ids:?}");
                    self.violated(text);
                }
                users.accepted.extend(ids);
            }
            (Call::Kill(task), Ok(_)) => {
                self.users.borrow_mut().killed.insert(task);
            }
            // Nobody knows what became of it: it is said again. A drain may be another one by now.
            (call @ (Call::Submit { .. } | Call::Kill(_)), Err((BROKEN, _))) => self.ask(call),
            _ => {}
        }
    }

    /// Those that went unanswered are asked again.
    pub(super) fn ask_again(&self) {
        let lost = std::mem::take(&mut self.users.borrow_mut().asked);
        for call in lost.into_values() {
            self.ask(call);
        }
    }

    pub(super) fn has_asked(&self) -> bool {
        !self.users.borrow().asked.is_empty()
    }
}

/// How long a user waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

fn in_short(spec: &TaskSpec) -> String {
    let place = if spec.container == Container::Null { "bare" } else { "contained" };
    format!("{} {place} cores {}", spec.kind.word(), spec.cores)
}
