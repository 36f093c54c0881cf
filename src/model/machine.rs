//! A machine: its hardware, its disk, its Docker, its supervisor, and the Runner on it while that lives.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::docker::{Daemon, Health};
use super::random::Random;
use super::runner::Runner;
use super::sim::Sim;
use super::supervisor::Supervisor;
use crate::domain::ids::{GpuId, NodeName};
use crate::domain::node::{Gpu, Inventory};
use crate::sys::simulated::Thread;

pub(super) struct Machine {
    pub(super) number: usize,
    pub(super) name: NodeName,
    /// The state directory of its Runner.
    pub(super) folder: PathBuf,
    pub(super) inventory: Inventory,
    pub(super) boots: Cell<u32>,
    /// No packet passes until then.
    pub(super) cut_until: Cell<Option<Instant>>,
    pub(super) docker: RefCell<Daemon>,
    pub(super) docker_until: Cell<Instant>,
    pub(super) supervisor: RefCell<Supervisor>,
    pub(super) runner: RefCell<Option<Runner>>,
    /// Counts the starts of a Runner, and its deaths.
    pub(super) life: Cell<u64>,
    /// When the next one is started.
    pub(super) starts_at: Cell<Instant>,
    /// Operations that have not begun.
    pub(super) threads: RefCell<VecDeque<(String, Thread)>>,
    /// Operations that have begun, and wait.
    pub(super) under_way: Cell<usize>,
}

impl Machine {
    pub(super) fn new(number: usize, folder: &Path, now: Instant, random: &Random) -> Self {
        let cpus = *random.pick(&["0-1", "0-3", "0-3"]).expect("some");
        let gpus = if random.percent(50) { 2 } else { 0 };
        let gpu = |id| Gpu { id: GpuId(id), uuid: format!("GPU-{number}-{id}"), numa: None };
        Self {
            number,
            name: format!("n{number}").parse().expect("a name"),
            folder: folder.join(format!("n{number}")),
            inventory: Inventory {
                cpus: cpus.parse().expect("a list"),
                memory: 8_000_000_000,
                gpus: (0..gpus).map(gpu).collect(),
                ..Inventory::default()
            },
            boots: Cell::new(1),
            cut_until: Cell::new(None),
            docker: RefCell::new(Daemon::new(number)),
            docker_until: Cell::new(now),
            supervisor: RefCell::new(Supervisor::new(number)),
            runner: RefCell::new(None),
            life: Cell::new(0),
            starts_at: Cell::new(now),
            threads: RefCell::default(),
            under_way: Cell::new(0),
        }
    }

    pub(super) fn is_cut(&self, now: Instant) -> bool {
        self.cut_until.get().is_some_and(|until| now < until)
    }

    pub(super) fn address(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(self.number + 1).expect("few")))
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot{}", self.boots.get())
    }
}

impl Sim {
    /// Its process ends at once. What it had asked of Docker may go on, or not.
    pub(super) fn kill_runner(&self, number: usize) {
        let machine = &self.machines[number];
        let life = machine.life.get();
        machine.life.set(life + 1);
        machine.under_way.set(0);
        drop(machine.runner.take());
        drop(std::mem::take(&mut *machine.threads.borrow_mut()));
        let longest = if self.random.percent(80) { 3_000 } else { 14_000 };
        machine.starts_at.set(self.now() + self.random.ms(10, longest));
        machine.docker.borrow_mut().abandon(life, &self.random);
    }

    /// Something bad happens to a machine, or to the Host.
    pub(super) fn fault(&self) {
        let machine = self.random.pick(&self.machines).expect("at least one");
        let number = machine.number;
        match self.random.below(14) {
            0..=1 => {
                self.tell(|| format!("node {number}: its Runner is killed"));
                self.kill_runner(number);
            }
            2..=3 => {
                let long = self.random.ms(500, 25_000);
                self.tell(|| format!("node {number}: cut off for {long:?}"));
                machine.cut_until.set(Some(self.now() + long));
            }
            4 => self.reboot(number),
            5..=6 => self.docker_fault(number),
            7 => {
                self.tell(|| format!("node {number}: its supervisor is killed"));
                self.around(|around| machine.supervisor.borrow_mut().kill(around));
            }
            8 => self.lose_folder(number),
            9 => self.restart_host("between two turns"),
            10 => self.meddle(number),
            11 => {
                let by = *self.random.pick(&[-86_400_000, -5_000, 5_000, 86_400_000]).expect("some");
                self.tell(|| format!("the clocks on the wall are set by {by} ms"));
                self.set_clock(by);
            }
            12 => {
                let pages = if self.random.percent(50) { 0 } else { 100_000 };
                self.tell(|| format!("the Host's disk has room for {pages} pages"));
                self.host.borrow_mut().limit_growth(pages);
            }
            _ => {
                let long = self.random.ms(100, 5_000);
                self.tell(|| format!("nothing runs anywhere for {long:?}"));
                self.advance(long);
            }
        }
    }

    fn reboot(&self, number: usize) {
        self.tell(|| format!("node {number}: the machine is started anew"));
        let machine = &self.machines[number];
        self.kill_runner(number);
        machine.boots.set(machine.boots.get() + 1);
        self.around(|around| {
            machine.docker.borrow_mut().reboot(around);
            machine.supervisor.borrow_mut().reboot(around);
            around.truth.excuse(number);
        });
        machine.docker_until.set(self.now() + self.random.ms(100, 3_000));
    }

    fn docker_fault(&self, number: usize) {
        let machine = &self.machines[number];
        let long = self.random.ms(200, 12_000);
        machine.docker_until.set(self.now() + long);
        if self.random.percent(40) {
            self.tell(|| format!("node {number}: Docker hangs for {long:?}"));
            machine.docker.borrow_mut().health = Health::Hung;
        } else {
            let takes_all = self.random.percent(60);
            self.tell(|| format!("node {number}: Docker is gone for {long:?}, with its containers: {takes_all}"));
            self.around(|around| machine.docker.borrow_mut().down(takes_all, around));
        }
    }

    /// The Runner's state directory is lost with all that was in it, while no Runner runs. Where no supervisor remembers what was in
    /// its journal, nobody can know what ran.
    fn lose_folder(&self, number: usize) {
        let machine = &self.machines[number];
        {
            let supervisor = machine.supervisor.borrow();
            if !supervisor.is_up && supervisor.count() > 0 {
                return;
            }
        }
        self.tell(|| format!("node {number}: the Runner is killed, and its state directory lost"));
        self.kill_runner(number);
        self.truth.borrow_mut().forget(number);
        let _absent = std::fs::remove_dir_all(&machine.folder);
    }

    /// Somebody on the node does something to a container.
    fn meddle(&self, number: usize) {
        let mut docker = self.machines[number].docker.borrow_mut();
        let ids: Vec<String> = docker.containers.iter().map(|container| container.id.clone()).collect();
        let Some(id) = self.random.pick(&ids).cloned() else { return };
        if docker.health != Health::Up {
            return;
        }
        let verbs: [&[&str]; 5] = [&["rm", "--force", "--volumes"], &["stop"], &["pause"], &["unpause"], &["kill"]];
        let verb = *self.random.pick(&verbs).expect("some");
        self.tell(|| format!("node {number}: somebody does docker {} {id}", verb[0]));
        self.around(|around| {
            let run = docker.containers.iter().find(|container| container.id == id).and_then(|container| container.run);
            if let Some(run) = run {
                around.truth.of(run).excused = true;
            }
            let argv: Vec<String> = verb.iter().map(|word| (*word).to_owned()).chain([id.clone()]).collect();
            if verb == ["kill"] {
                let at = docker.containers.iter().position(|container| container.id == id && container.lives());
                if let Some(at) = at {
                    docker.die(at, 137, false, false, around);
                }
            } else {
                let _complaint = docker.call(&argv, around);
            }
        });
    }

    /// Docker comes back where its time has come.
    pub(super) fn mend_docker(&self, number: usize) {
        let machine = &self.machines[number];
        let mut docker = machine.docker.borrow_mut();
        if docker.health != Health::Up && machine.docker_until.get() <= self.now() {
            self.tell(|| format!("node {number}: Docker answers again"));
            docker.health = Health::Up;
        }
    }

    /// How long nothing is to be expected there.
    pub(super) fn runner_is_due(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        machine.runner.borrow().is_none() && machine.starts_at.get() <= self.now()
    }
}

/// A moment in which little happens.
pub(super) const MOMENT: Duration = Duration::from_millis(20);
