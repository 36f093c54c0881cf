//! The simulated cluster: one clock, one source of chance, and a step after another. Whoever waits (an operation of a Runner for
//! Docker, say) lets others act meanwhile: steps within a step, so that all of it runs on one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::check::Check;
use super::docker::{Around, DOWN, Health};
use super::machine::Machine;
use super::network::Network;
use super::random::Random;
use super::truth::Truth;
use super::users::Users;
use crate::domain::ids::TaskId;
use crate::host::simulated::SimHost;
use crate::sys::command::{CommandFault, Output};
use crate::sys::log::Level;
use crate::sys::simulated::{Thread, World};

/// How long a node may be silent.
pub(super) const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the Host holds a poll; how often a heartbeat comes.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// So many operations wait within each other at most.
const DEEPEST: usize = 8;
/// After the faults have stopped, everything has to come to an end within this time.
const PATIENCE: Duration = Duration::from_secs(600);

/// What does not hold.
pub(super) struct Violation(pub(super) String);

/// The Runner that was doing this is dead.
struct Dead;

/// Who acts: a machine, and its Runner's life.
type Actor = (usize, u64);

pub(super) struct Sim {
    began: Instant,
    passed: Cell<Duration>,
    /// By how much the clock on the wall was set.
    set_by: Cell<i64>,
    pub(super) random: Random,
    pub(super) machines: Vec<Machine>,
    pub(super) host: RefCell<SimHost>,
    pub(super) network: RefCell<Network>,
    pub(super) users: RefCell<Users>,
    pub(super) truth: RefCell<Truth>,
    pub(super) check: RefCell<Check>,
    history: RefCell<Vec<String>>,
    pub(super) tells: bool,
    actor: Cell<Option<Actor>>,
    depth: Cell<usize>,
    /// Steps with faults that are left.
    pub(super) left: Cell<usize>,
    /// No faults any more, since then.
    calm: Cell<Option<Instant>>,
    pub(super) steps: Cell<usize>,
    /// Tasks that the Host shows otherwise than they are, and since when.
    pub(super) odd: RefCell<BTreeMap<TaskId, Instant>>,
}

impl Sim {
    pub(super) fn new(seed: u64, steps: usize, folder: &Path, tells: bool) -> Self {
        let random = Random::new(seed);
        let began = Instant::now();
        let count = 1 + random.below(3);
        Self {
            machines: (0..count).map(|number| Machine::new(number, folder, began, &random)).collect(),
            host: RefCell::new(SimHost::new(folder, began, UNIX_MS, NODE_TIMEOUT, INTERVAL)),
            network: RefCell::default(),
            users: RefCell::default(),
            truth: RefCell::default(),
            check: RefCell::default(),
            began,
            passed: Cell::default(),
            set_by: Cell::new(0),
            random,
            history: RefCell::default(),
            tells,
            actor: Cell::new(None),
            depth: Cell::new(0),
            left: Cell::new(steps),
            calm: Cell::new(None),
            steps: Cell::new(0),
            odd: RefCell::default(),
        }
    }

    /// Everything: the faults, and then the calm, in which all comes to an end.
    pub(super) fn run(&self) {
        while self.left.get() > 0 {
            self.step();
        }
        self.begin_calm();
        while !self.is_over() {
            self.step();
        }
        self.check_end();
    }

    pub(super) fn history(&self) -> Vec<String> {
        self.history.take()
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.get().is_some()
    }

    /// How long there were no faults.
    pub(super) fn calm_for(&self) -> Duration {
        self.calm.get().map_or(Duration::ZERO, |since| self.now().saturating_duration_since(since))
    }

    /// A fault of this likelihood, in percent.
    pub(super) fn bad_luck(&self, percent: usize) -> bool {
        !self.is_calm() && self.random.percent(percent)
    }

    /// Something for the reader of a seed that fails.
    pub(super) fn tell(&self, text: impl FnOnce() -> String) {
        if self.tells {
            let at = self.passed.get().as_millis();
            let indent = "  ".repeat(self.depth.get());
            self.history.borrow_mut().push(format!("{at:>7} {indent}{}", text()));
        }
    }

    fn tell_unless(&self, is_dull: bool, text: impl FnOnce() -> String) {
        if !is_dull {
            self.tell(text);
        }
    }

    pub(super) fn violated(&self, text: String) -> ! {
        self.tell(|| format!("VIOLATION: {text}"));
        resume_unwind(Box::new(Violation(text)))
    }

    pub(super) fn now(&self) -> Instant {
        self.began + self.passed.get()
    }

    pub(super) fn unix(&self) -> u64 {
        let passed = i64::try_from(self.passed.get().as_millis()).expect("short");
        UNIX_MS.saturating_add_signed(passed + self.set_by.get())
    }

    pub(super) fn set_clock(&self, by: i64) {
        self.set_by.set(self.set_by.get() + by);
    }

    /// Gives what happens outside of our own programs its due.
    pub(super) fn around<T>(&self, act: impl FnOnce(&mut Around<'_>) -> T) -> T {
        let mut truth = self.truth.borrow_mut();
        act(&mut Around { now: self.now(), random: &self.random, truth: &mut truth, is_calm: self.is_calm() })
    }

    pub(super) fn advance(&self, by: Duration) {
        self.passed.set(self.passed.get() + by);
        for machine in &self.machines {
            self.around(|around| {
                machine.docker.borrow_mut().pass(around);
                machine.supervisor.borrow_mut().pass(around);
            });
        }
    }

    fn begin_calm(&self) {
        if self.is_calm() {
            return;
        }
        self.tell(|| "--- no more faults".to_owned());
        self.calm.set(Some(self.now()));
        self.host.borrow_mut().limit_growth(1_000_000);
        for machine in &self.machines {
            machine.cut_until.set(None);
            machine.docker.borrow_mut().health = Health::Up;
        }
    }

    /// One thing happens, and everything that must hold is looked at.
    pub(super) fn step(&self) {
        self.steps.set(self.steps.get() + 1);
        match self.calm.get() {
            Some(since) => {
                if self.now() > since + PATIENCE {
                    self.violated(format!("it does not come to an end: {}", self.what_is_left()));
                }
                self.calm_step();
            }
            None if self.left.get() == 0 => self.begin_calm(),
            None => {
                self.left.set(self.left.get() - 1);
                self.any_step();
            }
        }
        self.check();
    }

    /// May another operation begin while others wait?
    pub(super) fn has_room(&self) -> bool {
        self.depth.get() < DEEPEST
    }

    /// A Runner does this; if it is killed meanwhile, it is not done any further. None: it was.
    pub(super) fn act<T>(&self, machine: usize, act: impl FnOnce() -> T) -> Option<T> {
        let before = self.actor.replace(Some((machine, self.machines[machine].life.get())));
        let done = catch_unwind(AssertUnwindSafe(act));
        self.actor.set(before);
        match done {
            Ok(value) => Some(value),
            Err(reason) if reason.is::<Dead>() => None,
            Err(reason) => resume_unwind(reason),
        }
    }

    /// Ends what is done by a Runner that is dead.
    fn still_lives(&self) {
        if let Some((machine, life)) = self.actor.get()
            && self.machines[machine].life.get() != life
        {
            resume_unwind(Box::new(Dead));
        }
    }

    /// Others act, while whoever acts now waits.
    fn others(&self, steps: usize) {
        let actor = self.actor.replace(None);
        self.depth.set(self.depth.get() + 1);
        for _ in 0..steps {
            self.step();
        }
        self.depth.set(self.depth.get() - 1);
        self.actor.set(actor);
        self.still_lives();
    }

    /// The Runner that acts now may be killed here.
    fn may_die(&self, permille: usize, at: &str) {
        if !self.is_calm()
            && self.random.below(1_000) < permille
            && let Some((machine, _)) = self.actor.get()
        {
            self.tell(|| format!("node {machine}: its Runner is killed at {at}"));
            self.kill_runner(machine);
            self.still_lives();
        }
    }

    fn sometimes_others(&self) {
        if self.bad_luck(40) && self.has_room() {
            self.others(1 + self.random.below(4));
        } else {
            self.advance(Duration::from_millis(1));
        }
    }

    /// `docker run`: asked for, and waited for.
    fn docker_run(&self, machine: usize, argv: &[String]) -> Result<String, String> {
        let docker = &self.machines[machine].docker;
        let life = self.machines[machine].life.get();
        let number = self.around(|around| docker.borrow_mut().order(&argv[1..], life, around));
        loop {
            self.others(1);
            let mut daemon = docker.borrow_mut();
            let at = daemon.orders.iter().position(|order| order.number == number);
            let Some(at) = at else { return Err(DOWN.to_owned()) };
            if daemon.orders[at].done.is_some() {
                return daemon.orders.remove(at).done.expect("looked at");
            }
        }
    }

    fn docker_call(&self, machine: usize, argv: &[String]) -> Result<String, String> {
        let docker = &self.machines[machine].docker;
        self.sometimes_others();
        if argv.get(1).is_some_and(|verb| verb == "run") {
            return self.docker_run(machine, argv);
        }
        loop {
            let health = docker.borrow().health;
            match health {
                Health::Up => break,
                Health::Down => return Err(DOWN.to_owned()),
                Health::Hung => self.others(1),
            }
        }
        let done = self.around(|around| docker.borrow_mut().call(&argv[1..], around));
        if argv.get(1).is_some_and(|verb| verb == "stop") && done.is_ok() {
            let id = argv.last().expect("a container");
            while docker.borrow().is_ending(id) {
                self.others(1);
                if docker.borrow().health == Health::Down {
                    return Err(DOWN.to_owned());
                }
            }
        }
        self.sometimes_others();
        done
    }
}

/// When it all begins, on the clock on the wall.
const UNIX_MS: u64 = 1_800_000_000_000;

impl World for Sim {
    fn now(&self) -> Instant {
        Sim::now(self)
    }

    fn unix_ms(&self) -> u64 {
        self.unix()
    }

    fn random(&self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.random.next().to_le_bytes()[0]);
    }

    fn log(&self, level: Level, text: &str) {
        self.tell(|| match self.actor.get() {
            Some((machine, _)) => format!("node {machine} {level:?}: {text}"),
            None => format!("{level:?}: {text}"),
        });
    }

    fn start(&self, name: &str, thread: Thread) {
        let (machine, _) = self.actor.get().expect("only Runners start threads here");
        self.machines[machine].threads.borrow_mut().push_back((name.to_owned(), thread));
    }

    fn run(&self, argv: &[String]) -> Result<Output, CommandFault> {
        let machine: usize = argv[0].trim_start_matches("docker").parse().expect("docker, and the machine's number");
        self.may_die(4, "the beginning of a call of Docker");
        let done = self.docker_call(machine, argv);
        self.tell_unless(argv[1] == "ps" && done.is_ok(), || {
            let words: Vec<&str> = argv.iter().map(String::as_str).filter(|word| word.len() < 30).take(9).collect();
            let what = done.as_ref().map_or_else(|fault| format!(" FAILS: {fault}"), |_| String::new());
            format!("{}{what}", words.join(" "))
        });
        self.may_die(4, "the end of a call of Docker");
        let (code, stdout, stderr) = match done {
            Ok(stdout) => (0, stdout, String::new()),
            Err(stderr) => (1, String::new(), stderr),
        };
        let (stdout, stderr) = (stdout.into_bytes(), stderr.into_bytes());
        Ok(Output { argv: argv.to_vec(), code: Some(code), signal: None, stdout, stderr })
    }

    fn pass(&self, until: Option<Instant>) {
        if let Some(until) = until
            && self.is_calm()
            && self.depth.get() > 0
        {
            // Nothing else is to be seen from here: it is as well to be over at once.
            let rest = until.saturating_duration_since(self.now());
            self.advance(rest.min(Duration::from_millis(50)));
        }
        self.others(1);
    }

    fn answers(&self, address: SocketAddr) -> bool {
        let IpAddr::V4(ip) = address.ip() else { return false };
        let machine = usize::from(ip.octets()[3]) - 1;
        self.machines[machine].docker.borrow().answers(address.port(), self.now())
    }

    fn is_free(&self, address: SocketAddr) -> bool {
        let IpAddr::V4(ip) = address.ip() else { return false };
        let docker = self.machines[usize::from(ip.octets()[3]) - 1].docker.borrow();
        !docker.containers.iter().any(|container| container.lives() && container.port == Some(address.port()))
    }

    fn writes(&self, path: &Path) {
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        self.may_die(4, &format!("a write of {name}"));
    }
}
