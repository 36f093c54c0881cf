//! Requests per second on the lists, with one and with ten thousand finished tasks behind them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::env::{Cluster, Settings, first_id};
use crate::fake_node::{FakeNode, Hardware};
use crate::figure::Figure;
use crate::http;

const CONNECTIONS: u64 = 8;
const RUNS: usize = 5;
const RUN: Duration = Duration::from_secs(1);
const FINISHED: u64 = 10_000;
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJaJOWZ8FQPFlx9LfTg5Yhrg0cmPZDOzSbMEZzkqV3gF bench";

pub fn measure() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    cluster.cli(&["client", "drain", "n"]).ok();
    finish(&cluster, 1);
    let few = ["/nodes", "/vps/status"].map(|path| rates(&cluster, path));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| finish(&cluster, FINISHED / CONNECTIONS));
        }
    });
    let pairs = FINISHED as f64 / start.elapsed().as_secs_f64();
    let many = ["/nodes", "/vps/status"].map(|path| rates(&cluster, path));
    vec![
        Figure::new("GET /nodes, 1 finished task", "/s", &few[0]).at_least(15_000.0),
        Figure::new("GET /vps/status, 1 finished task", "/s", &few[1]).at_least(15_000.0),
        Figure::new("GET /nodes, 10,000 finished tasks", "/s", &many[0]).against("with 1", &few[0]).ratio_at_least(0.9),
        Figure::new("GET /vps/status, 10,000 finished tasks", "/s", &many[1])
            .against("with 1", &few[1])
            .ratio_at_least(0.9),
        Figure::new("durable submit and kill, 8 clients", "pairs/s", &[pairs]),
    ]
}

/// Submits and kills so many VPS: they wait for a drained node, so a kill ends them at once.
fn finish(cluster: &Cluster, count: u64) {
    let mut caller = Caller::new(cluster);
    let body = format!("{{\"task_type\": \"vps\", \"command\": \"{KEY}\", \"queue\": true, \"targets\": [\"n\"]}}");
    for _ in 0..count {
        let answer = caller.call("POST", "/submit", Some(&body));
        assert_eq!(answer.status, 202, "{}", answer.text());
        let id = first_id(&answer.text());
        let answer = caller.call("POST", &format!("/kill/{id}"), Some("{}"));
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

/// One connection that is kept.
pub struct Caller {
    socket: TcpStream,
    token: String,
}

impl Caller {
    pub fn new(cluster: &Cluster) -> Self {
        Self { socket: http::connect(cluster.api), token: cluster.token() }
    }

    pub fn call(&mut self, method: &str, path: &str, body: Option<&str>) -> http::Reply {
        let request = http::request(method, path, Some(&self.token), body);
        self.socket.write_all(request.as_bytes()).expect("the Host listens");
        http::read_reply(&mut self.socket).expect("an answer")
    }
}

/// Answers per second over all connections, run by run.
fn rates(cluster: &Cluster, path: &str) -> Vec<f64> {
    (0..RUNS).map(|_| rate(cluster, path)).collect()
}

fn rate(cluster: &Cluster, path: &str) -> f64 {
    let answers = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let request = http::request("GET", path, Some(&cluster.token()), None);
                let mut socket = http::connect(cluster.api);
                let mut count = 0;
                // The first answer tells how long all are, so that the client's own parsing costs nothing.
                socket.write_all(request.as_bytes()).expect("the Host listens");
                let mut buffer = vec![0; 1 << 20];
                while start.elapsed() < RUN {
                    let mut got = socket.read(&mut buffer).expect("an answer");
                    let wanted = length(&buffer[..got]);
                    while got < wanted {
                        got += socket.read(&mut buffer[got..]).expect("an answer");
                    }
                    count += 1;
                    socket.write_all(request.as_bytes()).expect("the Host listens");
                }
                answers.fetch_add(count, Ordering::Relaxed);
            });
        }
    });
    answers.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Head and body of an answer whose head is in the buffer.
fn length(buffer: &[u8]) -> usize {
    let head_end = buffer.windows(4).position(|w| w == b"\r\n\r\n").expect("the head comes in one piece") + 4;
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a length");
    head_end + length.trim().parse::<usize>().expect("a number")
}
