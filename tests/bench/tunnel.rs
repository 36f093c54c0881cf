//! Bytes per second, set-up and round trip through the tunnel, against the port itself and against socat.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::env::{Cluster, Settings, first_id};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::figure::{Figure, closely, median};

const RUNS: usize = 7;
/// One stream's length; at 2 GB/s half a second.
const BYTES: u64 = 1_000_000_000;
const ROUND_TRIPS: usize = 10_000;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJaJOWZ8FQPFlx9LfTg5Yhrg0cmPZDOzSbMEZzkqV3gF bench";

pub fn measure() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    let node = FakeNode::silent(&cluster, "n", &Hardware::cores("0-7", &[]));
    let source = serve(|mut socket| {
        let block = vec![0x5a; 256 * 1024];
        while socket.write_all(&block).is_ok() {}
    });
    let echo = serve(|mut socket| {
        let mut byte = [0; 1];
        while socket.read_exact(&mut byte).is_ok() && socket.write_all(&byte).is_ok() {}
    });
    let source_task = vps_at(&cluster, &node, source);
    let echo_task = vps_at(&cluster, &node, echo);
    let socat_port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let mut socat = Command::new("socat")
        .args([
            "-b",
            "65536",
            &format!("TCP-LISTEN:{socat_port},bind=127.0.0.1,reuseaddr,fork"),
            &format!("TCP:127.0.0.1:{source}"),
        ])
        .stdin(Stdio::null())
        // It complains of every stream that we leave.
        .stderr(Stdio::null())
        .spawn()
        .expect("socat (make bench installs it)");
    closely("socat listens", || TcpStream::connect(("127.0.0.1", socat_port)).ok());

    let (mut direct, mut ours, mut by_socat) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        direct.push(rate(connect(source)));
        ours.push(rate(tunnel(&cluster, &source_task)));
        by_socat.push(rate(connect(socat_port)));
    }
    // Ours to stop: started here.
    socat.kill().expect("it is our child");
    socat.wait().expect("it is our child");

    let (mut opened, mut connected) = (Vec::new(), Vec::new());
    for _ in 0..101 {
        opened.push(first_echo(|| tunnel(&cluster, &echo_task)));
        connected.push(first_echo(|| connect(echo)));
    }
    let added: Vec<f64> = opened.iter().zip(&connected).map(|(a, b)| a - b).collect();

    // Everybody on one processor, so that what is counted is work and not the way between processors.
    let host = cluster.pid("host");
    pin_all(host);
    pin_all(std::process::id());
    let (mut far, mut near) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        far.push(round_trip(tunnel(&cluster, &echo_task)));
        near.push(round_trip(connect(echo)));
    }
    let added_trip: Vec<f64> = far.iter().map(|far| far - median(&near)).collect();
    release_all(std::process::id());

    vec![
        Figure::new("tunnel: one stream", "MB/s", &ours).against("the port itself", &direct).ratio_at_least(0.55),
        Figure::new("tunnel: one stream", "MB/s", &ours).against("socat -b 65536", &by_socat).ratio_at_least(1.4),
        Figure::new("tunnel: set-up, added to connect", "ms", &added).at_most(1.0),
        Figure::new("tunnel: round trip added, one CPU", "µs", &added_trip).against("direct", &near).at_most(26.0),
    ]
}

/// A server on a thread each connection; the answer is its port.
fn serve(with: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            socket.set_nodelay(true).expect("a socket");
            thread::spawn(move || with(socket));
        }
    });
    port
}

/// A VPS that is said to run at that port.
fn vps_at(cluster: &Cluster, node: &FakeNode, port: u16) -> String {
    let id = first_id(&cluster.cli(&["vps", "submit", "--no-wait", "--public-key-string", KEY]).ok());
    cluster.await_status(&id, "assigning");
    node.observe(false, vec![observed(&id, 1, 1, "running", Some(port))]);
    cluster.await_status(&id, "running");
    id
}

fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    socket.set_nodelay(true).expect("a socket");
    socket
}

fn tunnel(cluster: &Cluster, id: &str) -> TcpStream {
    let mut socket = connect(cluster.tunnel);
    socket.write_all(format!("REQUEST_TUNNEL {id} {}\n", cluster.token()).as_bytes()).expect("it listens");
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"SUCCESS\n");
    socket
}

fn rate(mut socket: TcpStream) -> f64 {
    let mut buffer = vec![0; 256 * 1024];
    let mut got = 0_u64;
    let start = Instant::now();
    while got < BYTES {
        let count = socket.read(&mut buffer).expect("a stream without end");
        assert!(count > 0, "a stream without end ended");
        got += count as u64;
    }
    got as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Milliseconds from nothing to the first byte back.
fn first_echo(open: impl FnOnce() -> TcpStream) -> f64 {
    let start = Instant::now();
    let mut socket = open();
    ping(&mut socket);
    start.elapsed().as_secs_f64() * 1e3
}

/// Microseconds for one byte there and back.
fn round_trip(mut socket: TcpStream) -> f64 {
    ping(&mut socket);
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        ping(&mut socket);
    }
    start.elapsed().as_secs_f64() * 1e6 / ROUND_TRIPS as f64
}

fn ping(socket: &mut TcpStream) {
    socket.write_all(b"x").expect("an echo");
    socket.read_exact(&mut [0; 1]).expect("an echo");
}

fn pin_all(process: u32) {
    let mut first = CpuSet::new();
    first.set(0).expect("every machine has a processor 0");
    affinity(process, &first);
}

fn release_all(process: u32) {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count().min(thread::available_parallelism().map_or(1, usize::from).max(2)) {
        all.set(cpu).expect("below the count");
    }
    affinity(process, &all);
}

/// Of every thread; later ones inherit it.
fn affinity(process: u32, cpus: &CpuSet) {
    for entry in std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten() {
        if let Ok(thread) = entry.file_name().to_string_lossy().parse() {
            // A thread may end meanwhile.
            let _ = sched_setaffinity(Pid::from_raw(thread), cpus);
        }
    }
}
