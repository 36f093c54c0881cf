//! What is done to the cluster, one thing at a time, each undone again.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::env::Cluster;
use crate::harm::{Cost, Deed, Span, Struck};
use crate::invariants::Witness;
use crate::load::Load;
use crate::mount::Mount;
use crate::network::{Network, Weather};
use crate::rng::Rng;
use crate::slow_runtime::SlowRuntime;
use crate::tasks::now_millis;
use crate::wait;

pub const NODES: [&str; 2] = ["a", "b"];
/// After so long a node is offline: heartbeats are sent every second.
pub const TIMEOUT_FACTOR: u32 = 5;
/// Longer than that.
const LONG: (u64, u64) = (7_000, 10_000);
const SHORT: (u64, u64) = (300, 3_000);
const RETURN: Duration = Duration::from_secs(90);
/// So many seconds Docker may take, on a machine full of others, to answer what costs it nothing; and what `timeout` ends with when
/// they are over.
const DEADLINE: &str = "90";
const TIMED_OUT: i32 = 124;
/// Digits of a task's id, and of how many tasks all is told.
const ID: usize = 19;
const MOST_TOLD: usize = 5;

/// All that is tortured; the fields' order is that of their end.
pub struct World {
    pub load: Load,
    pub witness: Arc<Witness>,
    pub cluster: Cluster,
    /// From each node to the Host.
    pub lines: [Network; 2],
    /// From the users.
    pub users: Arc<Network>,
    pub daemon: Daemon,
    /// What starts its containers.
    pub runtime: SlowRuntime,
    /// Where the Host's database is, and where the Runners keep their records: unmounted when this is dropped.
    pub _disks: [Mount; 2],
    pub host_folder: PathBuf,
    pub node_folder: PathBuf,
    /// Those that are still to come before any comes again.
    pub deck: Vec<&'static Fault>,
    /// Those that cost something, since everything came to rest.
    pub spans: Vec<Span>,
    /// When Docker was last seen to answer everything, and how often it did not any more.
    pub answered: i64,
    pub locked_up: usize,
    /// Its directory holds all of the above.
    pub _scratch: Cluster,
}

/// One way to do harm.
pub struct Fault {
    pub name: &'static str,
    pub cost: Cost,
    pub act: fn(&mut World, &mut Rng) -> Deed,
}

const fn fault(name: &'static str, act: fn(&mut World, &mut Rng) -> Deed) -> Fault {
    costly(name, Cost::Nothing, act)
}

const fn costly(name: &'static str, cost: Cost, act: fn(&mut World, &mut Rng) -> Deed) -> Fault {
    Fault { name, cost, act }
}

/// Every one of them.
pub static FAULTS: [Fault; 35] = [
    fault("Host killed", |world, rng| {
        world.cluster.kill9("host");
        pause(rng, SHORT);
        world.cluster.start_host();
        Deed::ALL
    }),
    fault("Host killed twice", |world, rng| {
        for _ in 0..2 {
            world.cluster.kill9("host");
            world.cluster.start_host();
            pause(rng, (1, 300));
        }
        Deed::ALL
    }),
    fault("Host stopped and started", |world, rng| {
        world.cluster.stop("host");
        pause(rng, SHORT);
        world.cluster.start_host();
        Deed::ALL
    }),
    fault("Host frozen", |world, rng| world.freeze("host", rng, SHORT)),
    fault("Host frozen beyond the time-out", |world, rng| world.freeze("host", rng, LONG)),
    fault("Runner killed", |world, rng| {
        let node = *rng.pick(&NODES);
        world.kill_runner(node);
        pause(rng, SHORT);
        world.start_runner(node);
        Deed::ALL
    }),
    fault("Runner away beyond the time-out", |world, rng| {
        let node = *rng.pick(&NODES);
        world.kill_runner(node);
        pause(rng, LONG);
        world.start_runner(node);
        Deed::ALL
    }),
    fault("Runner stopped and started", |world, rng| {
        let node = *rng.pick(&NODES);
        world.cluster.stop(&runner(node));
        pause(rng, SHORT);
        world.start_runner(node);
        Deed::ALL
    }),
    fault("Runner frozen beyond the time-out", |world, rng| {
        let node = *rng.pick(&NODES);
        world.freeze(&runner(node), rng, LONG)
    }),
    fault("Host and Runners killed", |world, rng| {
        for node in NODES {
            world.kill_runner(node);
        }
        world.cluster.kill9("host");
        pause(rng, SHORT);
        world.cluster.start_host();
        for node in NODES {
            world.start_runner(node);
        }
        Deed::ALL
    }),
    costly("Runner killed, its state lost", Cost::Unshipped, |world, rng| {
        let node = *rng.pick(&NODES);
        world.kill_runner(node);
        pause(rng, (1, 500));
        let name = world.cluster.node(node);
        remove_all(&world.node_folder.join(&name));
        world.start_runner(node);
        Deed::Done(Struck::Node(name))
    }),
    costly("supervisor killed", Cost::Supervised, |world, rng| {
        let all = world.cluster.supervisors();
        if all.is_empty() {
            return Deed::Nothing;
        }
        let pid = *rng.pick(&all);
        // Read before it is gone.
        let node = world.node_of(pid);
        match node.filter(|_| signal(pid, Signal::SIGKILL)) {
            Some(node) => Deed::Done(Struck::Node(node)),
            None => Deed::Nothing,
        }
    }),
    fault("supervisor frozen", |world, rng| {
        let all = world.cluster.supervisors();
        if all.is_empty() {
            return Deed::Nothing;
        }
        let pid = *rng.pick(&all);
        if !signal(pid, Signal::SIGSTOP) {
            return Deed::Nothing;
        }
        pause(rng, SHORT);
        signal(pid, Signal::SIGCONT);
        Deed::ALL
    }),
    fault("network slow", |world, rng| {
        let weather = Weather::Slow(rng.millis(20, 400));
        world.weather(weather, rng, SHORT)
    }),
    fault("network silent", |world, rng| world.weather(Weather::Silent, rng, SHORT)),
    fault("network silent beyond the time-out", |world, rng| world.weather(Weather::Silent, rng, LONG)),
    fault("network cut", |world, rng| world.weather(Weather::Cut, rng, SHORT)),
    fault("network cut beyond the time-out", |world, rng| world.weather(Weather::Cut, rng, LONG)),
    fault("network resets", |world, rng| world.weather(Weather::Reset, rng, SHORT)),
    fault("requests vanish", |world, rng| world.weather(Weather::Mute, rng, SHORT)),
    fault("requests vanish beyond the time-out", |world, rng| world.weather(Weather::Mute, rng, LONG)),
    fault("answers vanish", |world, rng| world.weather(Weather::Deaf, rng, SHORT)),
    fault("answers vanish beyond the time-out", |world, rng| world.weather(Weather::Deaf, rng, LONG)),
    fault("answers torn", |world, rng| {
        let weather = Weather::Torn(rng.below(4000));
        world.weather(weather, rng, SHORT)
    }),
    fault("Host's side gone, untold", |world, rng| world.weather(Weather::HostGone, rng, SHORT)),
    fault("other side gone, the Host untold", |world, rng| world.weather(Weather::PeerGone, rng, SHORT)),
    costly("dockerd restarted", Cost::Contained, |world, rng| {
        world.daemon.stop(Signal::SIGTERM);
        pause(rng, SHORT);
        world.daemon.start();
        Deed::ALL
    }),
    costly("dockerd killed", Cost::Contained, |world, rng| {
        world.daemon.stop(Signal::SIGKILL);
        pause(rng, SHORT);
        world.daemon.start();
        Deed::ALL
    }),
    costly("dockerd killed while it starts a container", Cost::Contained, |world, rng| {
        world.runtime.hold();
        // With the Host or a node away there may be none to start.
        let is_seen = world.runtime.sees_one(Duration::from_secs(5));
        world.daemon.stop(Signal::SIGKILL);
        if rng.chance(50) {
            pause(rng, SHORT);
        }
        world.runtime.release();
        world.daemon.start();
        if is_seen { Deed::ALL } else { Deed::Other(Struck::All) }
    }),
    fault("dockerd frozen", |world, rng| {
        let long = if rng.chance(50) { LONG } else { SHORT };
        world.daemon.freeze();
        pause(rng, long);
        world.daemon.thaw();
        Deed::ALL
    }),
    costly("container removed by hand", Cost::Contained, |world, rng| {
        let Some((container, task)) = world.any_container(rng) else { return Deed::Nothing };
        // It may be gone already, and then its id is not said.
        let output = world.daemon.command().args(["rm", "-f", "-v", &container]).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains(&container) {
            Deed::Done(Struck::Task(task))
        } else {
            Deed::Nothing
        }
    }),
    costly("shim killed", Cost::Contained, |world, rng| {
        let Some((container, task)) = world.any_container(rng) else { return Deed::Nothing };
        match world.daemon.shim_of(&container) {
            Some(shim) if signal(shim.unsigned_abs(), Signal::SIGKILL) => Deed::Done(Struck::Task(task)),
            _ => Deed::Nothing,
        }
    }),
    fault("shim killed while it makes a container", |world, _| {
        world.runtime.hold_creation();
        let is_killed = world.runtime.sees_one(Duration::from_secs(5)) && world.daemon.kill_maker();
        world.runtime.release();
        if is_killed { Deed::ALL } else { Deed::Nothing }
    }),
    fault("Host's disk full", |world, rng| {
        let fill = world.host_folder.join("fill");
        fill_up(&fill);
        pause(rng, SHORT);
        fs::remove_file(fill).unwrap();
        Deed::ALL
    }),
    costly("node's disk full", Cost::Unwritten, |world, rng| {
        let fill = world.node_folder.join("fill");
        fill_up(&fill);
        pause(rng, SHORT);
        fs::remove_file(fill).unwrap();
        Deed::ALL
    }),
];

fn pause(rng: &mut Rng, (from, to): (u64, u64)) {
    thread::sleep(rng.millis(from, to));
}

/// False: it has ended.
fn signal(pid: u32, signal: Signal) -> bool {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).is_ok()
}

fn runner(node: &str) -> String {
    format!("runner-{node}")
}

/// Others add to it while it goes.
fn remove_all(folder: &std::path::Path) {
    wait::until("the folder is gone", RETURN, || match fs::remove_dir_all(folder) {
        Err(fault) if fault.kind() != std::io::ErrorKind::NotFound => Err(fault.to_string()),
        _ => Ok(()),
    });
}

/// Until nothing more goes into the file system.
fn fill_up(path: &std::path::Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

impl World {
    pub fn start_runner(&mut self, node: &str) {
        self.cluster.write_runner_config(node);
        let path = self.cluster.config(node);
        let text = fs::read_to_string(&path).unwrap();
        let line = &self.lines[usize::from(node == NODES[1])];
        let text =
            text.replace(&format!("host_port = {}\n", self.cluster.api), &format!("host_port = {}\n", line.port));
        fs::write(&path, text).unwrap();
        self.cluster.spawn(&runner(node), &["runner", "--config", &path]);
    }

    fn kill_runner(&mut self, node: &str) {
        self.cluster.kill9(&runner(node));
    }

    fn freeze(&mut self, name: &str, rng: &mut Rng, how_long: (u64, u64)) -> Deed {
        self.cluster.signal(name, Signal::SIGSTOP);
        pause(rng, how_long);
        self.cluster.signal(name, Signal::SIGCONT);
        Deed::ALL
    }

    fn weather(&mut self, weather: Weather, rng: &mut Rng, how_long: (u64, u64)) -> Deed {
        let which = rng.below(4);
        let struck: Vec<&Network> = match which {
            0 => vec![&self.lines[0]],
            1 => vec![&self.lines[1]],
            2 => vec![&self.users],
            _ => vec![&self.lines[0], &self.lines[1], &self.users],
        };
        for network in &struck {
            network.set(weather);
        }
        pause(rng, how_long);
        for network in &struck {
            network.set(Weather::Clear);
        }
        Deed::ALL
    }

    /// The node of a supervisor: it is started with its name.
    fn node_of(&self, supervisor: u32) -> Option<String> {
        let line = fs::read(format!("/proc/{supervisor}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        NODES.iter().map(|node| self.cluster.node(node)).find(|name| line.split('\0').any(|word| word == name))
    }

    /// One that runs, and its task.
    fn any_container(&self, rng: &mut Rng) -> Option<(String, String)> {
        let format = "{{.ID}} {{.Label \"hakuriver.task\"}}";
        let output = self.daemon.command().args(["ps", "--no-trunc", "--format", format]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let all: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        let (container, task) = *(!all.is_empty()).then(|| rng.pick(&all))?;
        Some((container.to_owned(), task.to_owned()))
    }

    /// Docker 20.10 can lock itself up for good when it begins and ends many containers at once (libnetwork takes its locks in two orders:
    /// `SandboxDestroy` and `processEndpointDelete` wait for each other). That is no fault of ours, and whoever runs it kills it: so does
    /// this, and it is told. True: it was so.
    pub fn rouse(&mut self) -> bool {
        let answers = |daemon: &Daemon, args: &[&str]| {
            let docker = ["-k", "5", DEADLINE, "docker", "-H", &daemon.socket()].map(str::to_owned);
            let output = Command::new("timeout").args(docker).args(args).output().unwrap();
            (output.status.code() != Some(TIMED_OUT)).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        // Each needs a lock of its own: the list, the networks, every container.
        let list = answers(&self.daemon, &["ps", "-aq"]);
        let networks = answers(&self.daemon, &["network", "ls"]);
        let all: Vec<String> = list.iter().flat_map(|list| list.split_whitespace().map(str::to_owned)).collect();
        let inspect: Vec<&str> = std::iter::once("inspect").chain(all.iter().map(String::as_str)).collect();
        if list.is_some() && networks.is_some() && (all.is_empty() || answers(&self.daemon, &inspect).is_some()) {
            self.answered = now_millis();
            return false;
        }
        eprintln!("torture: dockerd has locked itself up: it is killed, and started again");
        self.locked_up += 1;
        self.daemon.stop(Signal::SIGKILL);
        self.daemon.start();
        self.spans.push(Span {
            name: "dockerd has locked itself up",
            cost: Cost::Contained,
            struck: Struck::All,
            begun: self.answered,
            over: now_millis(),
        });
        true
    }

    /// All that is known of the tasks that these lines name, for who looks into it: their directory goes with the test.
    pub fn evidence<'a>(&self, lines: impl Iterator<Item = &'a str>) {
        let words = lines.flat_map(|line| line.split(|char: char| !char.is_ascii_digit()));
        let ids: BTreeSet<&str> = words.filter(|word| word.len() == ID).collect();
        for id in ids.into_iter().take(MOST_TOLD) {
            eprintln!("torture: task {id}: {}", self.cluster.get(&format!("/status/{id}")));
            let label = format!("label=hakuriver.task={id}");
            let format = "{{.ID}} {{.Status}} {{.Label \"hakuriver.attempt\"}}";
            let list = ["docker", "-H", &self.daemon.socket(), "ps", "-a", "--filter", &label, "--format", format]
                .map(str::to_owned);
            let output = Command::new("timeout").arg(DEADLINE).args(list).output().unwrap();
            eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            for name in ["host", "runner-a", "runner-b"] {
                let log = self.cluster.log(name);
                log.lines().filter(|line| line.contains(id)).for_each(|line| eprintln!("{name}: {line}"));
            }
        }
    }

    /// Both nodes are heard, and have Docker.
    pub fn await_nodes(&mut self) {
        self.rouse();
        for node in NODES {
            if let Some(status) = self.cluster.ended(&runner(node)) {
                panic!("the Runner of {node} has ended by itself: {status}\n{}", self.cluster.log(&runner(node)));
            }
        }
        wait::until("both nodes are back", RETURN, || {
            let nodes = self.cluster.nodes();
            let fine = nodes.iter().filter(|node| node.status == "online" && node.problems.is_empty()).count();
            if fine == NODES.len() { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    }
}
