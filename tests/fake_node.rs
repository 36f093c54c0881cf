//! A Runner that is a thread of the test: it registers, keeps alive, and reports as running what it is told to run.
//! With it the Host is tested on nodes of any size, and in moments that a real node passes too quickly.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hakuriver::api::node::{
    Acknowledged, ConditionsWire, DesiredAnswer, GpuWire, Heartbeat, InventoryWire, NodeEnvironment, Observed,
    ObservedAnswer, ObservedTask, OutputChunk, OutputHave, Register, Registered,
};
use hakuriver::api::public::NumaRow;
use nanoserde::{DeJson, SerJson};

use crate::env::Cluster;
use crate::http;

/// What the machine pretends to be.
#[derive(Clone)]
pub struct Hardware {
    pub cpus: &'static str,
    pub memory_bytes: u64,
    pub numa: Vec<NumaRow>,
    pub gpus: u32,
    /// A limit of memory can be enforced without a container.
    pub memory_limit: bool,
}

impl Hardware {
    /// So many cores in one NUMA node, 64 GB, no GPU.
    pub fn cores(cpus: &'static str, numa: &[&[u32]]) -> Self {
        let rows = numa.iter().enumerate().map(|(id, cores)| NumaRow {
            id: u32::try_from(id).unwrap(),
            cores: cores.to_vec(),
            memory_bytes: 64_000_000_000,
        });
        Self { cpus, memory_bytes: 64_000_000_000, numa: rows.collect(), gpus: 0, memory_limit: true }
    }
}

/// One node. Dropped, it falls silent.
pub struct FakeNode {
    pub name: String,
    api: u16,
    token: String,
    pub session: String,
    /// As which it has registered.
    pub register: Register,
    memory_limit: bool,
    environments: Arc<Mutex<Vec<NodeEnvironment>>>,
    stop: Arc<AtomicBool>,
    /// The desired list as last seen.
    pub desired: Arc<Mutex<DesiredAnswer>>,
    threads: Vec<JoinHandle<()>>,
    /// Where its VPS "run": connections are accepted by the kernel, and nothing more.
    _listener: TcpListener,
}

impl FakeNode {
    /// Registers with an empty inventory, and does nothing by itself but the heartbeat.
    pub fn silent(cluster: &Cluster, name: &str, hardware: &Hardware) -> Self {
        Self::returning(cluster, name, hardware, Vec::new())
    }

    /// As [`Self::silent`], with tasks that it has.
    pub fn returning(cluster: &Cluster, name: &str, hardware: &Hardware, has: Vec<ObservedTask>) -> Self {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let token = cluster.node_token();
        let register = Register {
            hostname: name.to_owned(),
            instance: format!("start-{}-of-{name}", STARTS.fetch_add(1, Ordering::Relaxed)),
            machine_id: format!("machine-of-{name}"),
            boot_id: "boot".to_owned(),
            version: "test".to_owned(),
            address: Some("127.0.0.1".to_owned()),
            inventory: InventoryWire {
                cpus: hardware.cpus.to_owned(),
                memory_bytes: hardware.memory_bytes,
                siblings: Vec::new(),
                numa: hardware.numa.clone(),
                gpus: (0..hardware.gpus).map(|id| GpuWire { id, uuid: format!("GPU-{id}"), numa: Some(0) }).collect(),
            },
        };
        let reply = http::call(cluster.api, "POST", "/register", Some(&token), Some(&register.serialize_json()));
        assert_eq!(reply.status, 200, "register: {}", reply.text());
        let registered = Registered::deserialize_json(&reply.text()).unwrap();
        let mut node = Self {
            name: name.to_owned(),
            api: cluster.api,
            token,
            session: registered.session,
            register,
            memory_limit: hardware.memory_limit,
            environments: Arc::default(),
            stop: Arc::default(),
            desired: Arc::default(),
            threads: Vec::new(),
            _listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        };
        node.observe(true, has);
        node.beat();
        node.keep_beating();
        node
    }

    /// As [`Self::silent`], and carries out what it is told: runs, pauses, stops, at once.
    pub fn obedient(cluster: &Cluster, name: &str, hardware: &Hardware) -> Self {
        let mut node = Self::silent(cluster, name, hardware);
        let (api, token, name, session) = (node.api, node.token.clone(), node.name.clone(), node.session.clone());
        let (stop, desired) = (Arc::clone(&node.stop), Arc::clone(&node.desired));
        let port = node._listener.local_addr().unwrap().port();
        node.threads.push(std::thread::spawn(move || {
            let mut revs: BTreeMap<(String, u32), (u64, String)> = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                let version = desired.lock().unwrap().version.clone();
                let path = format!("/runner/{name}/desired?session={session}&version={version}");
                let Ok(reply) = http::try_call(api, "GET", &path, Some(&token), None) else { break };
                if reply.status != 200 {
                    break;
                }
                let answer = DesiredAnswer::deserialize_json(&reply.text()).unwrap();
                let mut tasks = Vec::new();
                for task in &answer.tasks {
                    let state = match task.want.as_str() {
                        "run" => "running",
                        "pause" => "paused",
                        _ => "killed",
                    };
                    let known = revs.entry((task.task_id.clone(), task.attempt)).or_default();
                    if known.1 == state {
                        continue;
                    }
                    *known = (known.0 + 1, state.to_owned());
                    tasks.push(observed(&task.task_id, task.attempt, known.0, state, Some(port)));
                }
                *desired.lock().unwrap() = answer;
                if !tasks.is_empty() {
                    let body = Observed {
                        session: session.clone(),
                        complete: false,
                        tasks,
                        outputs: Vec::new(),
                        ..Observed::default()
                    }
                    .serialize_json();
                    let path = format!("/runner/{name}/observed");
                    let Ok(reply) = http::try_call(api, "PUT", &path, Some(&token), Some(&body)) else { break };
                    assert_eq!(reply.status, 200, "observed: {}", reply.text());
                }
            }
        }));
        node
    }

    /// Sends what it "saw".
    pub fn observe(&self, complete: bool, tasks: Vec<ObservedTask>) -> Vec<Acknowledged> {
        let body =
            Observed { session: self.session.clone(), complete, tasks, outputs: Vec::new(), ..Observed::default() }
                .serialize_json();
        let path = format!("/runner/{}/observed", self.name);
        let reply = http::call(self.api, "PUT", &path, Some(&self.token), Some(&body));
        assert_eq!(reply.status, 200, "observed: {}", reply.text());
        ObservedAnswer::deserialize_json(&reply.text()).unwrap().acknowledged
    }

    /// Sends a piece of what a task wrote, as bytes.
    pub fn ship(&self, task: &str, attempt: u32, stream: &str, offset: u64, bytes: &[u8]) -> http::Reply {
        let client =
            hakuriver::net::http_client::Client::new(&format!("http://127.0.0.1:{}", self.api), Some(&self.token));
        let (name, session) = (&self.name, &self.session);
        let path = format!("/runner/{name}/output/{task}/{attempt}/{stream}?session={session}&offset={offset}");
        let answer = client.put_bytes(&path, bytes, Duration::from_secs(30)).unwrap();
        http::Reply { status: answer.status, headers: Vec::new(), body: answer.body }
    }

    /// As [`Self::ship`]: how much the Host has.
    #[track_caller]
    pub fn shipped(&self, task: &str, attempt: u32, stream: &str, offset: u64, bytes: &[u8]) -> u64 {
        let reply = self.ship(task, attempt, stream, offset, bytes);
        assert_eq!(reply.status, 200, "{}", reply.text());
        OutputHave::deserialize_json(&reply.text()).unwrap().have
    }

    /// Reports with output: what the Host has of that.
    pub fn report(&self, tasks: Vec<ObservedTask>, outputs: Vec<OutputChunk>) -> Vec<OutputHave> {
        let body = Observed { session: self.session.clone(), complete: false, tasks, outputs, ..Observed::default() }
            .serialize_json();
        let reply =
            http::call(self.api, "PUT", &format!("/runner/{}/observed", self.name), Some(&self.token), Some(&body));
        assert_eq!(reply.status, 200, "observed: {}", reply.text());
        ObservedAnswer::deserialize_json(&reply.text()).unwrap().outputs
    }

    /// The desired list now.
    pub fn look(&self) -> DesiredAnswer {
        let path = format!("/runner/{}/desired?session={}&version=", self.name, self.session);
        let reply = http::call(self.api, "GET", &path, Some(&self.token), None);
        assert_eq!(reply.status, 200, "desired: {}", reply.text());
        DesiredAnswer::deserialize_json(&reply.text()).unwrap()
    }

    /// Says from now on that it has these environments, or is loading them.
    pub fn has(&self, environments: Vec<NodeEnvironment>) {
        *self.environments.lock().unwrap() = environments;
        self.beat();
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            session: self.session.clone(),
            conditions: ConditionsWire { docker: true, systemd: true, memory_limit: self.memory_limit, freezer: true },
            ..Heartbeat::default()
        }
    }

    fn beat(&self) {
        let reply = beat(self.api, &self.name, &self.token, self.heartbeat(), &self.environments).unwrap();
        assert_eq!(reply.status, 200, "heartbeat: {}", reply.text());
    }

    fn keep_beating(&mut self) {
        let (api, name, token, heartbeat) = (self.api, self.name.clone(), self.token.clone(), self.heartbeat());
        let (stop, environments) = (Arc::clone(&self.stop), Arc::clone(&self.environments));
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // The Host may be down: a real Runner goes on too.
                let _ = beat(api, &name, &token, heartbeat.clone(), &environments);
                std::thread::park_timeout(Duration::from_millis(500));
            }
        }));
    }
}

/// The lock is held until the Host has it: what is said later arrives later.
fn beat(
    api: u16,
    name: &str,
    token: &str,
    heartbeat: Heartbeat,
    environments: &Mutex<Vec<NodeEnvironment>>,
) -> std::io::Result<http::Reply> {
    let environments = environments.lock().unwrap();
    let body = Heartbeat { environments: environments.clone(), ..heartbeat };
    http::try_call(api, "PUT", &format!("/heartbeat/{name}"), Some(token), Some(&body.serialize_json()))
}

/// One line of an observed snapshot.
pub fn observed(id: &str, attempt: u32, rev: u64, state: &str, port: Option<u16>) -> ObservedTask {
    ObservedTask {
        task_id: id.to_owned(),
        attempt,
        rev,
        state: state.to_owned(),
        ssh_port: port,
        started_at: Some("2026-01-01T00:00:00+00:00".to_owned()),
        ..ObservedTask::default()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Nobody waits for them: the one that polls ends with its poll, or with the Host.
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }
}

/// A listener whose queue of waiting connections is full: further ones are neither taken nor refused.
pub struct Deaf {
    pub port: u16,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Deaf {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // SAFETY: the descriptor is open as long as `listener` lives; listen(2) on a listening socket only sets its backlog.
        let result = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
        assert_eq!(result, 0);
        let mut waiting = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(socket);
            assert!(waiting.len() < 100, "the backlog does not fill");
        }
        Self { port: address.port(), _listener: listener, _waiting: waiting }
    }
}
