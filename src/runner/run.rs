//! The wiring: what runs in which thread, and how it ends.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::agent::Agent;
use super::alone::Alone;
use super::backoff::Backoff;
use super::depot::Depot;
use super::executor::Owner;
use super::home::Home;
use super::inventory::gpu::Watch;
use super::inventory::usage::Sampler;
use super::link::{Link, LinkFault};
use super::message::Message;
use super::node::{Machine, Node};
use super::observed::Outbox;
use super::output::Outputs;
use super::record::Records;
use super::shells::Shells;
use super::supervisor::Supervisor;
use super::talk::{DOCKER_CHECK, Notice, Talk};
use super::{Join, Ready, RunnerFault, inventory, on_node, watch};
use crate::api::node::{Register, Registered};
use crate::config::Config;
use crate::domain::ids::NodeName;
use crate::domain::node::Inventory;
use crate::sys::shutdown::Stop;
use crate::sys::{file, process, random, thread};
use crate::{info, warning};

/// How long to wait between tries to register.
const REGISTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A wrong token is put right by a person.
const DENIED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Who this Runner is: the same for its whole life.
struct Identity {
    hostname: NodeName,
    instance: String,
    machine_id: String,
    boot_id: String,
}

/// See [`super::run`].
pub(super) fn run(config: &Config, join: &Join, stop: &Stop, ready: &mut dyn FnMut(&Ready)) -> Result<(), RunnerFault> {
    let identity = identity(config)?;
    let home = Arc::new(Home::open(&config.paths.state_dir, &identity.hostname)?);
    let binary = home.binary().map_err(|fault| RunnerFault(fault.to_string()))?;
    // Containers mount it, also under other users; like /tmp.
    file::make_dir(&config.paths.local_temp_dir, 0o1777).map_err(|fault| RunnerFault(fault.to_string()))?;

    // Ended together with this function, or by the user.
    let ending = Stop::new();
    let (notify, notices) = mpsc::channel();
    let changed = {
        let notify = notify.clone();
        // The receiver is gone if the Runner has already ended.
        move || drop(notify.send(Notice::Hardware))
    };
    let gpus = Watch::start(config.timing.resource_check_interval.max(Duration::from_secs(1)), &ending, changed);
    let link = Arc::new(Link::new(join, identity.hostname.as_str()));
    let outbox = Arc::new(Outbox::default());
    wake_on(stop, &notify, &ending, &link, &outbox)?;

    let result = Life {
        config,
        join,
        stop,
        identity: &identity,
        link: &link,
        outbox: &outbox,
        gpus: &gpus,
        ending: &ending,
        notify,
    }
    .serve(&home, &binary, &notices, ready);
    ending.set();
    link.close();
    outbox.close();
    result
}

fn identity(config: &Config) -> Result<Identity, RunnerFault> {
    let root = Path::new("/");
    let hostname = match &config.network.runner_hostname {
        Some(name) => name.clone(),
        None => process::hostname(root).map_err(|fault| RunnerFault(fault.to_string()))?,
    };
    let hostname =
        hostname.parse().map_err(|fault| RunnerFault(format!("{fault}; set network.runner_hostname in the config")))?;
    let boot_id = process::boot_id(root).map_err(|fault| RunnerFault(fault.to_string()))?;
    // A machine without an id of its own is at least not another one as long as it runs.
    let machine_id = process::machine_id(root).unwrap_or_else(|| boot_id.clone());
    Ok(Identity { hostname, instance: random::hex(16), machine_id, boot_id })
}

/// A thread that turns the user's wish to end into what wakes everyone who waits here.
fn wake_on(
    stop: &Stop,
    notify: &Sender<Notice>,
    ending: &Stop,
    link: &Arc<Link>,
    outbox: &Arc<Outbox>,
) -> Result<(), RunnerFault> {
    let (stop, notify, ending) = (stop.clone(), notify.clone(), ending.clone());
    let (link, outbox) = (Arc::clone(link), Arc::clone(outbox));
    let started = thread::spawn("runner-stop", move || {
        stop.wait(Duration::MAX);
        ending.set();
        link.close();
        outbox.close();
        // The receiver is gone if the Runner has already ended.
        let _ended = notify.send(Notice::Stop);
    });
    started.map(drop).map_err(|fault| RunnerFault(format!("cannot start a thread: {fault}")))
}

/// What one run of the Runner works with.
struct Life<'a> {
    config: &'a Config,
    join: &'a Join,
    stop: &'a Stop,
    identity: &'a Identity,
    link: &'a Arc<Link>,
    outbox: &'a Arc<Outbox>,
    gpus: &'a Watch,
    ending: &'a Stop,
    notify: Sender<Notice>,
}

/// What runs once the cluster is known.
struct Started {
    node: Arc<Node>,
    cluster: String,
    tell: Sender<Message>,
    shells: Arc<Shells>,
    /// Those that must have ended before the next Runner may begin.
    threads: Vec<JoinHandle<()>>,
}

impl Life<'_> {
    /// Registers, again and again if need be, until the end.
    fn serve(
        &self,
        home: &Arc<Home>,
        binary: &Path,
        notices: &Receiver<Notice>,
        ready: &mut dyn FnMut(&Ready),
    ) -> Result<(), RunnerFault> {
        let mut started = None::<Started>;
        let mut alone = None;
        let result = loop {
            let (registered, inventory, address) = match self.register(notices, &mut alone) {
                Ok(Some(registration)) => registration,
                Ok(None) => break Ok(()),
                Err(fault) => break Err(fault),
            };
            match &started {
                Some(started) if started.cluster != registered.cluster_id => {
                    break Err(RunnerFault(format!(
                        "the Host at {} is now of another cluster ({}, before {}): the tasks of the old one are left alone; \
                         start the Runner again to join the new one",
                        self.link.host(),
                        registered.cluster_id,
                        started.cluster
                    )));
                }
                Some(started) => started.node.registered(inventory, address),
                None => match self.start(home, binary, &registered, inventory, address) {
                    Ok(new) => started = Some(new),
                    Err(fault) => break Err(fault),
                },
            }
            self.outbox.registered(&registered);
            self.link.wait_heartbeat(DOCKER_CHECK);
            info!("registered at {} as node '{}'", self.link.host(), self.identity.hostname);
            ready(&Ready { hostname: self.identity.hostname.to_string(), address: address.to_string() });
            match notices.recv() {
                Ok(Notice::SessionLost) => info!("the Host does not know this node any more: registering anew"),
                // The same session goes on: the Host learns what it may give out from now on.
                Ok(Notice::Hardware) => info!("the GPUs of this machine have changed: registering anew"),
                Ok(Notice::Fault(reason)) => break Err(RunnerFault(reason)),
                Ok(Notice::Stop) | Err(_) => break Ok(()),
            }
        };
        self.ending.set();
        self.link.close();
        self.outbox.close();
        if let Some(started) = started {
            // It listens until it hears this.
            let _ended = started.tell.send(Message::Stop);
            for thread in started.threads {
                let _panicked = thread.join();
            }
            started.shells.farewell();
        }
        result
    }

    /// Tries until the Host takes it; None: the Runner is to end.
    fn register(
        &self,
        notices: &Receiver<Notice>,
        alone: &mut Option<Alone>,
    ) -> Result<Option<(Registered, Inventory, IpAddr)>, RunnerFault> {
        let mut backoff = Backoff::new(REGISTER.0, REGISTER.1);
        let mut denied = Backoff::new(DENIED.0, DENIED.1);
        let mut told = None;
        while !self.stop.is_set() {
            let inventory = inventory::read(Path::new("/"), &self.gpus.latest())
                .map_err(|fault| RunnerFault(format!("cannot read this machine's hardware: {fault}")))?;
            // Before the first registration, by which the Runner that is registered now would be told to end.
            let cluster = if alone.is_none() { self.link.cluster().map(Some) } else { Ok(None) };
            if let Ok(Some(cluster)) = &cluster {
                *alone = Some(Alone::take(cluster, &self.identity.hostname)?);
            }
            let fault = match cluster.and_then(|_| self.link.register(&self.introduction(&inventory))) {
                Ok(registered) => match registered.address.parse() {
                    Ok(address) => return Ok(Some((registered, inventory, address))),
                    Err(_) => LinkFault::Misfit(format!(
                        "the Host says that this node is reached at {:?}, which is no address",
                        registered.address
                    )),
                },
                Err(fault) => fault,
            };
            let text = self.advice(&fault);
            if told.as_ref() != Some(&text) {
                warning!("cannot register: {text}");
                told = Some(text);
            }
            let wait = match fault {
                LinkFault::Denied(_) | LinkFault::Misfit(_) => denied.wait(),
                _ => backoff.wait(),
            };
            match notices.recv_timeout(wait) {
                Ok(Notice::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
                // Of the session before; the hardware is read anew at each try.
                Ok(Notice::SessionLost | Notice::Hardware | Notice::Fault(_)) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(None)
    }

    fn introduction(&self, inventory: &Inventory) -> Register {
        Register {
            hostname: self.identity.hostname.to_string(),
            instance: self.identity.instance.clone(),
            machine_id: self.identity.machine_id.clone(),
            boot_id: self.identity.boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            address: self.config.network.runner_address.map(|address| address.to_string()),
            inventory: inventory::to_wire(inventory),
        }
    }

    /// What is wrong, and what to do.
    fn advice(&self, fault: &LinkFault) -> String {
        match fault {
            LinkFault::Denied(text) => {
                let what = if self.join.node_token.is_some() { "wrong" } else { "missing" };
                format!(
                    "{text}; the node token is {what}: copy the file 'node-token' from the Host's state directory to {} here \
                     (auth.node_token_file), and start the Runner again",
                    self.config.auth.node_token_file.display()
                )
            }
            LinkFault::Unreachable(text) => format!("{text}; trying until the Host answers"),
            LinkFault::Taken(text) => format!("{text}; trying until that one is gone"),
            other => other.to_string(),
        }
    }

    /// Starts all that needs to know the cluster.
    fn start(
        &self,
        home: &Arc<Home>,
        binary: &Path,
        registered: &Registered,
        inventory: Inventory,
        address: IpAddr,
    ) -> Result<Started, RunnerFault> {
        let cluster = registered.cluster_id.clone();
        let failed = |fault: std::io::Error| RunnerFault(fault.to_string());
        let records = Records::open(&home.tasks(), &cluster).map_err(failed)?;
        let owner = Owner { cluster: cluster.clone(), node: self.identity.hostname.to_string() };
        let boot_id = self.identity.boot_id.clone();
        let runner_user = on_node::configured_user(&self.config.runner_user).map_err(RunnerFault)?;
        let machine = Machine {
            boot_id,
            binary: binary.to_owned(),
            runner_user,
            gpus: self.gpus.clone(),
            environments: home.environments().map_err(failed)?,
            depot: Arc::clone(self.link) as Arc<dyn Depot>,
            ending: self.ending.clone(),
        };
        let node = Arc::new(Node::new(self.config, owner.clone(), records, machine, inventory, address));
        node.look();
        node.images.recall();
        let (tell, inbox) = mpsc::channel();
        let supervisor = Supervisor::open(&owner, home.folder(), binary, tell.clone(), self.ending).map_err(failed)?;
        let outputs = Outputs::open(Arc::clone(self.link), tell.clone(), self.ending).map_err(failed)?;
        let agent = Agent::load(
            Arc::clone(&node),
            Arc::clone(self.outbox),
            tell.clone(),
            Arc::clone(home),
            supervisor,
            Arc::clone(&outputs),
        )
        .map_err(failed)?;
        let mut used = agent.binaries();
        used.push(binary.to_owned());
        // Where records were lost, it is not known what the containers use.
        if home.is_of(&cluster) {
            home.tidy(&used);
        }

        let shells = Shells::new(Arc::clone(&node), Arc::clone(self.link), self.ending.clone());
        let talk = Talk {
            link: Arc::clone(self.link),
            outbox: Arc::clone(self.outbox),
            outputs,
            shells: Arc::clone(&shells),
            notices: self.notify.clone(),
            stop: self.ending.clone(),
            interval: self.config.timing.heartbeat_interval,
        };
        let mut threads = Vec::new();
        threads.push(thread::spawn_vital("agent", move || agent.run(&inbox)));
        threads.push(thread::spawn_vital("docker-events", {
            let (node, tell, stop) = (Arc::clone(&node), tell.clone(), self.ending.clone());
            move || watch::follow(&node, &tell, &stop)
        }));
        // These may be inside a call to the Host or to a daemon that hangs: nobody waits for them at the end.
        thread::spawn_vital("docker-check", {
            let (node, tell, stop) = (Arc::clone(&node), tell.clone(), self.ending.clone());
            let interval = self.config.timing.heartbeat_interval;
            move || watch::glance(&node, &tell, interval, &stop)
        });
        thread::spawn_vital("poll", {
            let (talk, tell) = (talk.clone(), tell.clone());
            move || talk.poll(&tell)
        });
        thread::spawn_vital("report", {
            let (talk, tell) = (talk.clone(), tell.clone());
            move || talk.report(&tell)
        });
        thread::spawn_vital("heartbeat", {
            let (node, gpus) = (Arc::clone(&node), self.gpus.clone());
            let mut sampler = Sampler::new(Path::new("/"));
            move || talk.heartbeat(&node, &gpus, &mut sampler)
        });
        Ok(Started { node, cluster, tell, shells, threads })
    }
}
