//! A Runner of the simulation: the real agent, its operations and conversations, driven step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::docker::Health;
use super::sim::{INTERVAL, Sim};
use super::talks::Turn;
use crate::config;
use crate::host::simulated::CLUSTER;
use crate::runner::Join;
use crate::runner::agent::Agent;
use crate::runner::depot::{Depot, DepotFault};
use crate::runner::executor::Owner;
use crate::runner::following::Following;
use crate::runner::home::Home;
use crate::runner::inventory::gpu::Watch;
use crate::runner::link::Link;
use crate::runner::message::Message;
use crate::runner::node::{Machine as Parts, Node};
use crate::runner::observed::{Batch, Outbox};
use crate::runner::output::Outputs;
use crate::runner::record::Records;
use crate::runner::shells::Shells;
use crate::runner::supervise::protocol::Ask;
use crate::runner::supervisor::{Questions, Supervisor};
use crate::runner::talk::{Mood, Notice, Reporting, Talk};
use crate::runner::watch;
use crate::sys::random;
use crate::sys::shutdown::Stop;

pub(super) struct Runner {
    pub(super) instance: String,
    pub(super) link: Arc<Link>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) notices: Receiver<Notice>,
    pub(super) notify: Sender<Notice>,
    pub(super) register: Turn,
    pub(super) is_registered: bool,
    pub(super) poll: Turn,
    pub(super) report: Turn,
    pub(super) beat: Turn,
    pub(super) following: Following,
    pub(super) list_mood: Mood,
    pub(super) reporting: Reporting,
    pub(super) mood: Mood,
    pub(super) batch: Option<Batch>,
    pub(super) body: Option<Body>,
}

/// What there is once the Runner knows its cluster.
pub(super) struct Body {
    /// None: it has its turn.
    pub(super) agent: Option<Agent>,
    pub(super) node: Arc<Node>,
    pub(super) tell: Sender<Message>,
    pub(super) inbox: Receiver<Message>,
    pub(super) heard: VecDeque<Message>,
    pub(super) talk: Talk,
    pub(super) outputs: Arc<Outputs>,
    pub(super) line: Line,
    /// How far the stream of Docker's events was followed; None: it broke.
    pub(super) events: Option<usize>,
    pub(super) glance_at: Instant,
}

/// The line to the supervisor.
pub(super) struct Line {
    pub(super) questions: Questions,
    pub(super) is_connected: bool,
    pub(super) owes_all: bool,
    pub(super) told: u64,
    pub(super) not_before: Instant,
}

struct NoDepot;

impl Depot for NoDepot {
    fn newest(&self, _: &str) -> Result<crate::archive::Manifest, DepotFault> {
        Err(DepotFault::Gone)
    }

    fn open(
        &self,
        _: &crate::archive::Manifest,
        _: usize,
        _: u64,
    ) -> Result<Box<dyn std::io::Read + Send>, DepotFault> {
        Err(DepotFault::Gone)
    }
}

fn in_short(ask: &Ask) -> String {
    match ask {
        Ask::Hello(_) => "hello".to_owned(),
        Ask::Start(start) => format!("start {}.{} on {}", start.task, start.attempt, start.cpus),
        Ask::Stop(which) => format!("stop {}.{}", which.task, which.attempt),
        Ask::Pause(which) => format!("pause {}.{}", which.task, which.attempt),
        Ask::Resume(which) => format!("resume {}.{}", which.task, which.attempt),
        Ask::Forget(which) => format!("forget {}.{}", which.task, which.attempt),
    }
}

impl Sim {
    pub(super) fn start_runner(&self, number: usize) {
        let machine = &self.machines[number];
        machine.life.set(machine.life.get() + 1);
        self.tell(|| format!("node {number}: a Runner starts"));
        let (notify, notices) = mpsc::channel();
        let turn = || Turn::new(self.now());
        let join = Join { host: "host.invalid:1".to_owned(), node_token: None };
        *machine.runner.borrow_mut() = Some(Runner {
            instance: random::hex(8),
            link: Arc::new(Link::new(&join, machine.name.as_str())),
            outbox: Arc::default(),
            notices,
            notify,
            register: turn(),
            is_registered: false,
            poll: turn(),
            report: turn(),
            beat: turn(),
            following: Following::default(),
            list_mood: Mood::new("its list"),
            reporting: Reporting::default(),
            mood: Mood::new("heartbeats"),
            batch: None,
            body: None,
        });
    }

    /// It is registered: it reads what it remembers, and begins.
    pub(super) fn give_body(&self, number: usize) {
        let body = self.act(number, || self.body(number)).flatten();
        let Some(body) = body else { return };
        if let Some(runner) = self.machines[number].runner.borrow_mut().as_mut() {
            runner.body = Some(body);
        }
    }

    fn body(&self, number: usize) -> Option<Body> {
        let machine = &self.machines[number];
        let (link, outbox, notify) = {
            let runner = machine.runner.borrow();
            let runner = runner.as_ref()?;
            (Arc::clone(&runner.link), Arc::clone(&runner.outbox), runner.notify.clone())
        };
        let mut config = config::defaults(&machine.folder);
        config.docker.command = format!("docker{number}");
        config.docker.start_timeout = Duration::from_secs(5);
        config.network.vps_ports = (30_000, 30_005);
        let home = Arc::new(Home::open(&machine.folder, &machine.name).expect("nobody else has it"));
        let records = Records::open(&home.tasks(), CLUSTER).expect("a folder");
        let owner = Owner { cluster: CLUSTER.to_owned(), node: machine.name.to_string() };
        let ending = Stop::new();
        let parts = Parts {
            boot_id: machine.boot_id(),
            binary: "/bin/hakuriver".into(),
            runner_user: None,
            gpus: Watch::of_none(),
            environments: home.environments().expect("a folder"),
            depot: Arc::new(NoDepot),
            ending: ending.clone(),
        };
        let node = Node::new(&config, owner, records, parts, machine.inventory.clone(), machine.address());
        let node = Arc::new(node);
        let (tell, inbox) = mpsc::channel();
        let (supervisor, questions) = Supervisor::to_a_test();
        let outputs = Outputs::to_a_test(tell.clone()).expect("an inotify instance");
        let agent =
            Agent::load(Arc::clone(&node), Arc::clone(&outbox), tell.clone(), home, supervisor, Arc::clone(&outputs));
        let talk = Talk {
            shells: Shells::to_a_test(Arc::clone(&node), Arc::clone(&link), ending.clone()),
            link,
            outbox,
            outputs: Arc::clone(&outputs),
            notices: notify,
            stop: ending,
            interval: INTERVAL,
        };
        let now = self.now();
        Some(Body {
            agent: Some(agent.expect("its folder can be read")),
            node,
            tell,
            inbox,
            heard: VecDeque::new(),
            talk,
            outputs,
            line: Line { questions, is_connected: false, owes_all: true, told: 0, not_before: now },
            events: None,
            glance_at: now + INTERVAL,
        })
    }

    fn with_body<T>(&self, number: usize, act: impl FnOnce(&mut Body) -> Option<T>) -> Option<T> {
        self.machines[number].runner.borrow_mut().as_mut().and_then(|runner| runner.body.as_mut()).and_then(act)
    }

    /// The agent hears some of what there is, and does what follows. False: there is nothing for it.
    pub(super) fn agent_turn(&self, number: usize) -> bool {
        let now = self.now();
        let taken = self.with_body(number, |body| {
            while let Ok(message) = body.inbox.try_recv() {
                body.heard.push_back(message);
            }
            let is_due = body.agent.as_ref()?.next_timer().is_some_and(|then| then <= now);
            if body.heard.is_empty() && !is_due {
                return None;
            }
            let count = if self.is_calm() { 100 } else { 1 + self.random.below(5) };
            let messages: Vec<Message> = body.heard.drain(..body.heard.len().min(count)).collect();
            Some((body.agent.take()?, messages))
        });
        let Some((agent, messages)) = taken else { return false };
        let life = self.machines[number].life.get();
        let agent = self.act(number, move || {
            let mut agent = agent;
            agent.hear_all(messages);
            agent
        });
        // Of another life, it is as dead as its Runner.
        if self.machines[number].life.get() == life {
            self.with_body(number, |body| {
                body.agent = agent;
                Some(())
            });
        }
        true
    }

    /// An operation begins, and runs to its end, while others act. False: there is none, or no room for it.
    pub(super) fn operate(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        if !self.has_room() {
            return false;
        }
        let Some((_, thread)) = machine.threads.borrow_mut().pop_front() else { return false };
        machine.under_way.set(machine.under_way.get() + 1);
        let life = machine.life.get();
        self.act(number, thread);
        if machine.life.get() == life {
            machine.under_way.set(machine.under_way.get() - 1);
        }
        true
    }

    /// The line to the supervisor: false: nothing is new on it.
    pub(super) fn use_line(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let now = self.now();
        let done = self.with_body(number, |body| {
            let mut supervisor = machine.supervisor.borrow_mut();
            let line = &mut body.line;
            if line.is_connected && (!supervisor.is_up || self.bad_luck(2)) {
                (line.is_connected, line.owes_all) = (false, true);
                line.questions.clear();
                line.not_before = now + self.random.ms(10, 300);
                body.heard.push_back(Message::Unsupervised("the line broke".to_owned()));
                return Some(());
            }
            if !line.is_connected {
                if line.not_before > now {
                    return None;
                }
                if supervisor.has_anything() || line.questions.has_start() {
                    self.around(|around| supervisor.start(around));
                    (line.is_connected, line.owes_all) = (true, true);
                    return Some(());
                }
                if std::mem::take(&mut line.owes_all) {
                    line.told += 1;
                    body.heard.push_back(Message::Supervised { states: Vec::new(), complete: Some(line.told) });
                    return Some(());
                }
                return None;
            }
            if std::mem::take(&mut line.owes_all) {
                line.told += 1;
                body.heard.push_back(Message::Supervised { states: supervisor.all(), complete: Some(line.told) });
                return Some(());
            }
            let asks = line.questions.take(line.told);
            let has_asked = !asks.is_empty();
            asks.iter().for_each(|ask| self.tell(|| format!("node {number} asks its supervisor: {}", in_short(ask))));
            self.around(|around| asks.into_iter().for_each(|ask| supervisor.ask(ask, around)));
            let states = supervisor.changed();
            if states.is_empty() {
                return has_asked.then_some(());
            }
            body.heard.push_back(Message::Supervised { states, complete: None });
            Some(())
        });
        done.is_some()
    }

    /// Docker's events, and the looks at its list. False: there is nothing to see.
    pub(super) fn watch_docker(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let now = self.now();
        let health = machine.docker.borrow().health;
        let follows = self.with_body(number, |body| {
            if health != Health::Up {
                let is_new = body.events.take().is_some();
                if health == Health::Down || self.random.percent(20) {
                    body.node.gate.set(Err("Docker does not answer".to_owned()));
                }
                return is_new.then_some(());
            }
            let next = body.events?;
            let docker = machine.docker.borrow();
            let (_, event) = docker.log.get(next)?;
            body.heard.push_back(Message::Event(event.clone()));
            body.events = Some(next + 1);
            Some(())
        });
        if follows.is_some() || health != Health::Up {
            return follows.is_some();
        }
        let wanted = self.with_body(number, |body| {
            let is_due = body.glance_at <= now;
            if is_due {
                body.glance_at = now + INTERVAL;
            }
            (is_due || body.events.is_none())
                .then(|| (Arc::clone(&body.node), body.tell.clone(), body.events.is_none()))
        });
        let Some((node, tell, is_stock)) = wanted.filter(|_| self.has_room()) else { return false };
        if is_stock {
            // What happened in the last seconds is told again.
            let since = now.checked_sub(Duration::from_secs(5)).unwrap_or(now);
            let first = {
                let docker = machine.docker.borrow();
                docker.log.iter().position(|(at, _)| *at >= since).unwrap_or(docker.log.len())
            };
            self.with_body(number, |body| {
                body.events = Some(first);
                Some(())
            });
            let life = machine.life.get();
            let found = self.act(number, || watch::stock(&node));
            if machine.life.get() != life {
                return true;
            }
            match found {
                Some(Ok(containers)) => {
                    node.gate.set(Ok(()));
                    let _lives = tell.send(Message::Truth(containers));
                }
                _ => {
                    self.with_body(number, |body| {
                        body.events = None;
                        Some(())
                    });
                }
            }
        } else if let Some(Ok(list)) = self.act(number, || node.docker.list()) {
            node.gate.set(Ok(()));
            let _lives = tell.send(Message::Glance(list));
        }
        true
    }

    /// The Host gets what it still lacks of what tasks wrote.
    pub(super) fn ship(&self, number: usize) {
        if self.machines[number].is_cut(self.now()) {
            return;
        }
        self.with_body(number, |body| {
            body.outputs.ship_all();
            Some(())
        });
    }

    /// When something is to be done there next.
    pub(super) fn next_timer(&self, number: usize) -> Option<Instant> {
        let slot = self.machines[number].runner.borrow();
        let runner = slot.as_ref()?;
        let body = runner.body.as_ref();
        let turns = [&runner.poll, &runner.report, &runner.beat].into_iter().map(|turn| turn.not_before);
        let timer = body.and_then(|body| body.agent.as_ref()).and_then(Agent::next_timer);
        turns.chain(timer).filter(|then| *then > self.now()).min()
    }

    /// Its Runner has nothing to do but what comes from elsewhere.
    pub(super) fn is_idle(&self, number: usize) -> bool {
        let machine = &self.machines[number];
        let slot = machine.runner.borrow();
        let body = slot.as_ref().and_then(|runner| runner.body.as_ref());
        machine.under_way.get() == 0
            && machine.threads.borrow().is_empty()
            && body.is_some_and(|body| body.heard.is_empty())
    }
}
