//! A Docker daemon of the simulation's making: what it has, what it does when it is told something, and what happens by itself.

use std::path::PathBuf;
use std::time::Instant;

use super::container::{Container, Ordered, State, how_it_ends};
use super::random::Random;
use super::truth::{End, Run, Truth};
use crate::runner::executor::docker_parse::{DockerAction, DockerEvent};
use crate::runner::executor::{self, Labels};
use crate::runner::supervise::box_file;
use crate::sys::clock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    Down,
    /// It takes calls, and answers none.
    Hung,
}

/// A `docker run` under way.
pub(super) struct Order {
    pub(super) number: u64,
    argv: Vec<String>,
    create_at: Instant,
    start_at: Instant,
    container: Option<String>,
    /// The Runner's life that waits for it.
    pub(super) life: u64,
    pub(super) done: Option<Result<String, String>>,
}

/// The life of no Runner.
const NOBODY: u64 = u64::MAX;

pub(super) struct Daemon {
    machine: usize,
    pub(super) health: Health,
    pub(super) containers: Vec<Container>,
    pub(super) orders: Vec<Order>,
    pub(super) log: Vec<(Instant, DockerEvent)>,
    pub(super) removals: Vec<(Instant, String)>,
    next: u64,
}

pub(super) const DOWN: &str =
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";

/// What a call goes through: the clocks, chance, and what really happens.
pub(super) struct Around<'a> {
    pub(super) now: Instant,
    pub(super) random: &'a Random,
    pub(super) truth: &'a mut Truth,
    pub(super) is_calm: bool,
}

impl Daemon {
    pub(super) fn new(machine: usize) -> Self {
        Self {
            machine,
            health: Health::Up,
            containers: Vec::new(),
            orders: Vec::new(),
            log: Vec::new(),
            removals: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn at(&self, handle: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.id == handle || container.name == handle)
    }

    pub(super) fn tell(&mut self, at: usize, action: DockerAction, now: Instant) {
        let container = &self.containers[at];
        let event = DockerEvent {
            container: container.id.clone(),
            labels: Labels {
                task: crate::domain::ids::TaskId::from_u64(container.task()),
                attempt: crate::domain::ids::Attempt(container.attempt()),
                kind: container.label(executor::KIND).to_owned(),
            },
            is_named: true,
            action,
            exit_code: (action == DockerAction::Die).then_some(container.code),
            at_ms: Some(clock::unix_ms()),
        };
        self.log.push((now, event));
    }

    /// Takes a `docker run`, which is done in its time.
    pub(super) fn order(&mut self, argv: &[String], life: u64, around: &Around<'_>) -> u64 {
        self.next += 1;
        let longest = if around.is_calm { 50 } else { 400 };
        let create_at = around.now + around.random.ms(1, longest);
        self.orders.push(Order {
            number: self.next,
            argv: argv.to_vec(),
            create_at,
            start_at: create_at + around.random.ms(1, longest),
            container: None,
            life,
            done: None,
        });
        self.next
    }

    /// The Runner of that life waits no more: its programs may go on without it.
    pub(super) fn abandon(&mut self, life: u64, random: &Random) {
        self.orders.retain(|order| order.life != life || random.percent(50));
        self.orders.iter_mut().filter(|order| order.life == life).for_each(|order| order.life = NOBODY);
    }

    /// The rest of a `docker run` whose time has come.
    fn carry_out(&mut self, around: &mut Around<'_>) {
        for index in 0..self.orders.len() {
            let order = &self.orders[index];
            if order.done.is_some() {
                continue;
            }
            if order.container.is_none() && order.create_at <= around.now {
                let made = self.create(&self.orders[index].argv.clone());
                match made {
                    Ok(id) => self.orders[index].container = Some(id),
                    Err(fault) => self.orders[index].done = Some(Err(fault)),
                }
            }
            let order = &self.orders[index];
            if order.done.is_none()
                && order.start_at <= around.now
                && let Some(id) = order.container.clone()
            {
                let done = match self.at(&id).filter(|at| self.containers[*at].state == State::Created) {
                    Some(at) => {
                        self.start(at, around);
                        Ok(id)
                    }
                    None => Err(format!("docker: Error response from daemon: No such container: {id}")),
                };
                self.orders[index].done = Some(done);
            }
        }
        self.orders.retain(|order| order.life != NOBODY || order.done.is_none());
    }

    fn create(&mut self, argv: &[String]) -> Result<String, String> {
        let order = Ordered { argv };
        let name = order.one("--name").expect("every container has a name");
        if let Some(at) = self.at(&name) {
            let id = &self.containers[at].id;
            return Err(format!(
                "docker: Error response from daemon: Conflict. The container name \"/{name}\" is already in use by container \"{id}\"."
            ));
        }
        if let Some((_, port)) = order.published()
            && self.containers.iter().any(|other| other.lives() && other.port == Some(port))
        {
            return Err("docker: Error response from daemon: driver failed programming external connectivity on endpoint x (y): \
                Bind for z failed: port is already allocated"
                .to_owned());
        }
        self.next += 1;
        let id = format!("{:012x}", self.next);
        self.containers.push(Container::ordered(id.clone(), &order));
        Ok(id)
    }

    pub(super) fn start(&mut self, at: usize, around: &mut Around<'_>) {
        let random = around.random;
        let container = &mut self.containers[at];
        container.state = State::Running;
        container.started = Some(clock::rfc3339(clock::unix_ms()));
        container.restart_at = None;
        container.kill_at = None;
        container.stopped = false;
        if container.is_vps() {
            let is_sound = around.is_calm || random.percent(93);
            container.answers = is_sound.then(|| around.now + random.ms(10, 800));
            container.dies =
                (!around.is_calm && random.percent(4)).then(|| (around.now + random.ms(10, 3_000), 1, false));
        } else {
            let (code, oom) = how_it_ends(random);
            container.dies = Some((around.now + random.ms(1, 3_000), code, oom));
        }
        match container.run {
            Some(run) => {
                let run = around.truth.of(run);
                (run.alive, run.frozen) = (true, false);
            }
            None => {
                let run = Run {
                    machine: self.machine,
                    attempt: container.attempt(),
                    is_vps: container.is_vps(),
                    cpus: (container.shares == 0).then(|| container.cpus.parse().expect("a list")),
                    gpus: container.gpus.clone(),
                    alive: true,
                    frozen: false,
                    end: None,
                    excused: false,
                    forgotten: false,
                };
                container.run = Some(around.truth.begin(container.task(), run));
            }
        }
        self.tell(at, DockerAction::Start, around.now);
    }

    /// Its processes are gone.
    pub(super) fn die(&mut self, at: usize, code: i32, oom: bool, by_itself: bool, around: &mut Around<'_>) {
        let container = &mut self.containers[at];
        container.state = State::Exited;
        container.finished = Some(clock::rfc3339(clock::unix_ms()));
        (container.code, container.oom) = (code, oom);
        (container.dies, container.kill_at, container.answers) = (None, None, None);
        if let Some(run) = container.run {
            let run = around.truth.of(run);
            run.alive = false;
            run.end = Some(End { code: Some(code), oom, by_itself });
        }
        let is_told = !container.is_vps() && code != 137 && code != 255;
        if let Some(out) = container.mounts.get(box_file::OUT).filter(|_| is_told) {
            let signal = if code == 143 { "15" } else { "null" };
            let text = format!(
                r#"{{"code":{code},"signal":{signal},"timed_out":false,"stopped":{},"started_ms":null,"ended_ms":null,"fault":null}}"#,
                !by_itself
            );
            container.said = box_file::last_word(code);
            // Its folder may have been removed behind its back.
            let _lost = std::fs::write(PathBuf::from(out).join(box_file::EXIT), text);
        }
        if container.restarts && !container.stopped {
            container.state = State::Restarting;
            container.restart_at = Some(around.now + around.random.ms(50, 1_000));
        }
        self.tell(at, DockerAction::Die, around.now);
    }

    pub(super) fn remove(&mut self, at: usize, around: &mut Around<'_>) {
        if self.containers[at].lives() {
            self.die(at, 137, false, false, around);
        }
        self.tell(at, DockerAction::Destroy, around.now);
        self.containers.remove(at);
    }

    /// What happens by itself until now.
    pub(super) fn pass(&mut self, around: &mut Around<'_>) {
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            match container.state {
                State::Running | State::Paused if container.kill_at.is_some_and(|(then, _)| then <= around.now) => {
                    let code = container.kill_at.map_or(137, |(_, code)| code);
                    self.die(at, code, false, false, around);
                }
                State::Running => {
                    if let Some((_, code, oom)) = container.dies.filter(|(then, ..)| *then <= around.now) {
                        self.die(at, code, oom, true, around);
                    }
                }
                _ => {}
            }
        }
        if self.health != Health::Up {
            return;
        }
        self.carry_out(around);
        for at in 0..self.containers.len() {
            let container = &self.containers[at];
            if container.state == State::Restarting && container.restart_at.is_some_and(|then| then <= around.now) {
                self.start(at, around);
            }
        }
        let (due, later): (Vec<_>, _) =
            std::mem::take(&mut self.removals).into_iter().partition(|(then, _)| *then <= around.now);
        self.removals = later;
        for (_, id) in due {
            if let Some(at) = self.at(&id) {
                self.remove(at, around);
            }
        }
    }

    /// The daemon is gone; what it was doing is not done. Its containers go on, or end, as it was killed or stopped.
    pub(super) fn down(&mut self, takes_all: bool, around: &mut Around<'_>) {
        self.health = Health::Down;
        for order in self.orders.iter_mut().filter(|order| order.done.is_none()) {
            order.done = Some(Err(DOWN.to_owned()));
        }
        self.removals.clear();
        for at in 0..self.containers.len() {
            if self.containers[at].state == State::Removing {
                self.containers[at].state = State::Exited;
            }
            if takes_all && self.containers[at].lives() {
                let code = if around.random.percent(50) { 143 } else { 137 };
                self.die(at, code, false, false, around);
            }
            if self.containers[at].state == State::Restarting && around.random.percent(40) {
                // It takes it for stopped by a user.
                self.containers[at].state = State::Exited;
                self.containers[at].restart_at = None;
            }
        }
    }

    /// The machine is started anew.
    pub(super) fn reboot(&mut self, around: &mut Around<'_>) {
        self.down(false, around);
        self.orders.clear();
        for at in 0..self.containers.len() {
            if self.containers[at].lives() {
                let code = *around.random.pick(&[255, 137, 143]).expect("some");
                self.die(at, code, false, false, around);
                if let Some(run) = self.containers[at].run {
                    around.truth.of(run).end = Some(End { code: None, oom: false, by_itself: false });
                }
            }
        }
    }

    pub(super) fn is_ending(&self, id: &str) -> bool {
        self.at(id).is_some_and(|at| self.containers[at].lives() && self.containers[at].kill_at.is_some())
    }

    pub(super) fn answers(&self, port: u16, now: Instant) -> bool {
        let mine = self.containers.iter().find(|container| container.lives() && container.port == Some(port));
        mine.is_some_and(|container| container.state == State::Running && container.answers.is_some_and(|at| at <= now))
    }
}
