//! The proxy over real sockets, before a server that stands in for sshd.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread::JoinHandle;

use crate::domain::ids::{Attempt, NodeName};
use crate::domain::node::Inventory;
use crate::domain::placement::Placement;
use crate::domain::spec::{Container, GpuRequest, Patience, TaskSpec};
use crate::domain::state::{Exit, Standing as TaskStanding, Want};
use crate::store::{NodeRecord, Store};

use super::super::view::{Changes, Figures, LiveTask, NodeEntry};
use super::*;

struct Proxy {
    folder: PathBuf,
    address: SocketAddr,
    view: Arc<View>,
    stop: Stop,
    worker: Option<JoinHandle<()>>,
    _store: Store,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.set();
        self.worker.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Proxy {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hakuriver-tunnel-{}", crate::sys::random::hex(8)));
        std::fs::create_dir(&folder).expect("folder");
        let store = Store::open(&folder.join("cluster.db")).expect("open");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let (address, view, stop) = (listener.local_addr().expect("bound"), Arc::new(View::new(0)), Stop::new());
        let tunnel =
            Arc::new(Tunnel { view: view.clone(), readers: store.readers(), tokens: Tokens::of("user", "node") });
        let ended = stop.clone();
        let worker = thread::spawn("proxy", move || serve(&listener, &tunnel, &ended)).expect("thread");
        Self { folder, address, view, stop, worker: Some(worker), _store: store }
    }

    /// Shows a task of node `n1` to the proxy.
    fn show(&self, id: u64, kind: TaskKind, state: State, port: Option<u16>, silent: bool) {
        let name: NodeName = "n1".parse().expect("name");
        let record = NodeRecord {
            name: name.clone(),
            address: "127.0.0.1".into(),
            machine_id: String::new(),
            boot_id: String::new(),
            instance: String::new(),
            session: String::new(),
            version: String::new(),
            inventory: Inventory::default(),
            inventoried: true,
            draining: false,
            silent,
            registered_ms: 0,
        };
        let node = NodeEntry {
            record: Arc::new(record),
            cores_in_use: 0,
            last_heartbeat_ms: None,
            figures: Arc::new(Figures::default()),
            conditions: None,
            unknown: Arc::new(BTreeSet::new()),
        };
        let spec = TaskSpec {
            kind,
            cores: 0,
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
        let id = TaskId::from_u64(id);
        let task = Task {
            id,
            batch: id,
            spec: Arc::new(spec),
            standing: TaskStanding {
                state,
                want: Want::Run,
                attempt: Attempt::FIRST,
                rev: 1,
                note: None,
                exit: Exit::default(),
            },
            placement: Some(Placement { node: name.clone(), numa: None, gpus: Vec::new(), in_line: false }),
            submitted_ms: 0,
            started_ms: None,
            completed_ms: None,
            ssh_port: port,
            host_keys: Vec::new(),
            stdout_bytes: None,
            stderr_bytes: None,
            unit: None,
        };
        let changes = Changes {
            tasks: vec![(id, Some(Arc::new(LiveTask { task, class: None })))],
            nodes: vec![(name, Some(Arc::new(node)))],
            ..Changes::default()
        };
        self.view.publish(changes, false);
    }

    fn ask(&self, line: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
        client.write_all(line.as_bytes()).expect("hello");
        client
    }

    /// All that comes until the proxy closes.
    fn answer(&self, line: &str) -> String {
        let mut text = String::new();
        self.ask(line).read_to_string(&mut text).expect("answer");
        text
    }
}

fn vps() -> TaskKind {
    TaskKind::Vps { keys: Vec::new() }
}

#[test]
fn every_refusal_is_in_the_protocols_own_words() {
    let proxy = Proxy::new();
    // Bound and not listened on by anyone else: refused.
    let closed = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound").port();
    let command = TaskKind::Command { program: "true".into(), arguments: Vec::new() };
    proxy.show(1, command, State::Running, None, false);
    proxy.show(2, vps(), State::Paused, Some(closed), false);
    proxy.show(3, vps(), State::Running, None, false);
    proxy.show(4, vps(), State::Running, Some(closed), false);
    for (line, reason) in [
        ("HELLO\n", "Invalid request format."),
        ("REQUEST_TUNNEL 4\n", "Not authorised."),
        ("REQUEST_TUNNEL 4 wrong\n", "Not authorised."),
        ("REQUEST_TUNNEL 4 node\n", "Not authorised."),
        ("REQUEST_TUNNEL x user\n", "Invalid task ID format."),
        ("REQUEST_TUNNEL 9 user\n", "Task 9 not found."),
        ("REQUEST_TUNNEL 1 user\n", "Task 1 is not a VPS task."),
        ("REQUEST_TUNNEL 2 user\n", "VPS task 2 is not active (status: paused)."),
        ("REQUEST_TUNNEL 3 user\n", "VPS task 3 has no SSH port assigned."),
        ("REQUEST_TUNNEL 4 user\n", "Connection refused by VPS task 4 on node n1."),
    ] {
        assert_eq!(proxy.answer(line), format!("ERROR {reason}\n"), "{line:?}");
    }
    proxy.show(5, vps(), State::Running, Some(closed), true);
    assert_eq!(proxy.answer("REQUEST_TUNNEL 5 user\n"), "ERROR Assigned node for VPS task 5 is not online.\n");
}

#[test]
fn one_who_is_refused_is_gone_soon_however_slowly_it_goes() {
    let proxy = Proxy::new();
    let mut socket = proxy.ask("garbage\n");
    let begin = Instant::now();
    // A byte now and then: each would be a reason to wait on.
    while socket.write_all(b"x").is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is still held");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_oldest_stranger_goes_and_those_that_are_gone_do_not_count() {
    let strangers = Arc::new(Strangers::default());
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let pair = || {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (client, Arc::new(listener.accept().expect("it has come").0))
    };
    let ((gone, dead), (mut alive, second)) = (pair(), pair());
    drop(gone);
    let begin = Instant::now();
    while dead.shutdown(Shutdown::Both).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(20), "its other end is closed");
        std::thread::yield_now();
    }
    alive.set_read_timeout(Some(Duration::from_secs(20))).expect("open");
    let _kept = [strangers.add(&dead), strangers.add(&second)];
    assert!(strangers.close_oldest(), "there is one that can make room");
    assert_eq!(alive.read(&mut [0; 1]).expect("the end"), 0);
    assert!(!strangers.close_oldest());
}

#[test]
fn bytes_go_both_ways_and_the_end_of_each_is_carried_through() {
    let proxy = Proxy::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("bind");
    proxy.show(7, vps(), State::Running, Some(server.local_addr().expect("bound").port()), false);
    // Answers only when it has seen the end of what was sent.
    let served = thread::spawn("echo", move || {
        let (mut socket, _) = server.accept().expect("accept");
        let mut all = Vec::new();
        socket.read_to_end(&mut all).expect("read");
        socket.write_all(&all).expect("write");
    })
    .expect("thread");
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut client = proxy.ask("REQUEST_TUNNEL 7 user\n");
    let mut head = [0; 8];
    client.read_exact(&mut head).expect("head");
    assert_eq!(&head, b"SUCCESS\n");
    client.write_all(&sent).expect("send");
    client.shutdown(Shutdown::Write).expect("half-close");
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("receive");
    assert!(got == sent, "{} bytes of {} came back as they were sent", got.len(), sent.len());
    served.join().expect("served");
}
