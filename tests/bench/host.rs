//! The Host alone: a node that needs no time for its tasks shows what each costs the Host.

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use hakuriver::api::node::{DesiredAnswer, Observed, ObservedTask};
use hakuriver::api::public::{SubmitAnswer, SubmitBody};
use nanoserde::{DeJson, SerJson};

use crate::env::{Cluster, Settings};
use crate::fake_node::{FakeNode, Hardware};
use crate::figure::Figure;
use crate::http;
use crate::tasks::null_body;

const RUNS: usize = 5;
const MANY: usize = 10_000;
/// Tasks that wait behind those that are measured.
const BEHIND: usize = 100_000;

pub fn measure() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let mut figures = Vec::new();
    for (name, cpus, cores, what) in
        [("two", "0-1", 1, "two at once"), ("large", "0-127", 1, "128 at once"), ("all", "0-1", 0, "10,000 at once")]
    {
        let node = Quick::new(&cluster, name, cpus);
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (seconds, cpu) = node.run(&cluster, &body(name, cores), MANY, usize::MAX);
            rates.push(MANY as f64 / seconds);
            costs.push(cpu * 1e6 / MANY as f64);
        }
        figures.push(Figure::new(&format!("Host and a node without work, tasks {what}"), "/s", &rates));
        figures.push(
            Figure::new(&format!("the same: CPU time of the Host for each, {what}"), "µs", &costs).at_most(250.0),
        );
    }
    // Ten thousand stand in the list, and ten end at a time: each answer is to tell of those alone.
    let node = Quick::new(&cluster, "long", "0-1");
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (seconds, cpu) = node.run(&cluster, &body("long", 0), MANY, 10);
        rates.push(MANY as f64 / seconds);
        costs.push(cpu * 1e6 / MANY as f64);
    }
    figures.push(Figure::new("10,000 in a node's list, ten end at a time", "/s", &rates));
    figures.push(Figure::new("the same: CPU time of the Host for each", "µs", &costs).at_most(250.0));
    // The same with a long queue that asks for something else, and can have nothing.
    let _held = FakeNode::silent(&cluster, "held", &Hardware::cores("0-3", &[]));
    cluster.cli(&["client", "drain", "held"]).ok();
    let waiting = SubmitBody {
        queue: true,
        required_cores: Some(4),
        targets: Some(vec!["held".to_owned()]),
        argument_sets: Some(vec![Vec::new(); BEHIND]),
        ..null_body("/bin/true", &[])
    };
    submit(&cluster, &waiting);
    let node = Quick::new(&cluster, "front", "0-1");
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (seconds, cpu) = node.run(&cluster, &body("front", 1), MANY, usize::MAX);
        rates.push(MANY as f64 / seconds);
        costs.push(cpu * 1e6 / MANY as f64);
    }
    figures.push(Figure::new("the same with 100,000 tasks waiting, two at once", "/s", &rates));
    figures.push(Figure::new("the same with 100,000 tasks waiting: CPU time of the Host for each", "µs", &costs));
    figures.push(Figure::new("memory: Host with 100,000 tasks waiting", "MB", &[cluster.rss("host") as f64 / 1e6]));
    figures
}

fn body(node: &str, cores: u32) -> SubmitBody {
    SubmitBody { required_cores: Some(cores), targets: Some(vec![node.to_owned()]), ..null_body("/bin/true", &[]) }
}

fn submit(cluster: &Cluster, body: &SubmitBody) -> Vec<String> {
    let reply = http::call(cluster.api, "POST", "/submit", Some(&cluster.token()), Some(&body.serialize_json()));
    assert_eq!(reply.status, 202, "{}", reply.text());
    SubmitAnswer::deserialize_json(&reply.text()).expect("its own JSON").task_ids
}

/// A node whose tasks have completed as soon as it hears of them.
struct Quick {
    node: FakeNode,
}

impl Quick {
    fn new(cluster: &Cluster, name: &str, cpus: &'static str) -> Self {
        Self { node: FakeNode::silent(cluster, name, &Hardware::cores(cpus, &[])) }
    }

    /// Seconds from the submission to the last receipt, and of the Host's CPU time in between. No more than `together` end
    /// at once.
    fn run(&self, cluster: &Cluster, body: &SubmitBody, count: usize, together: usize) -> (f64, f64) {
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let (name, session, token) = (&self.node.name, &self.node.session, cluster.node_token());
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let (mut poll, mut report) = (http::connect(cluster.api), http::connect(cluster.api));
                let (mut version, mut told, mut running) = (String::new(), BTreeSet::new(), VecDeque::new());
                while done.load(Ordering::Relaxed) < count as u64 && !stop.load(Ordering::Relaxed) {
                    let path = format!("/runner/{name}/desired?session={session}&version={version}&changes=1");
                    let text = call(&mut poll, "GET", &path, &token, None);
                    let answer = DesiredAnswer::deserialize_json(&text).expect("its own JSON");
                    version = answer.version;
                    running.extend(answer.tasks.into_iter().filter(|task| told.insert(task.task_id.clone())));
                    let ended = running.drain(..running.len().min(together));
                    let tasks: Vec<ObservedTask> = ended
                        .map(|task| ObservedTask {
                            task_id: task.task_id,
                            attempt: task.attempt,
                            rev: 1,
                            state: "completed".to_owned(),
                            exit_code: Some(0),
                            started_at: Some("2026-01-01T00:00:00+00:00".to_owned()),
                            completed_at: Some("2026-01-01T00:00:00+00:00".to_owned()),
                            stdout_bytes: Some(0),
                            stderr_bytes: Some(0),
                            ..ObservedTask::default()
                        })
                        .collect();
                    if tasks.is_empty() {
                        continue;
                    }
                    let ended = tasks.len() as u64;
                    let body = Observed {
                        session: session.clone(),
                        complete: false,
                        tasks,
                        outputs: Vec::new(),
                        ..Observed::default()
                    };
                    let path = format!("/runner/{name}/observed");
                    call(&mut report, "PUT", &path, &token, Some(&body.serialize_json()));
                    done.fetch_add(ended, Ordering::Relaxed);
                }
            });
            let (cpu, start) = (cpu_seconds(cluster), Instant::now());
            submit(cluster, &SubmitBody { argument_sets: Some(vec![Vec::new(); count]), ..body.clone() });
            worker.join().expect("the node's thread");
            (start.elapsed().as_secs_f64(), cpu_seconds(cluster) - cpu)
        })
    }
}

fn call(socket: &mut TcpStream, method: &str, path: &str, token: &str, body: Option<&str>) -> String {
    socket.write_all(http::request(method, path, Some(token), body).as_bytes()).expect("the Host listens");
    let reply = http::read_reply(socket).expect("an answer");
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.text()
}

/// CPU time of the Host's process so far.
fn cpu_seconds(cluster: &Cluster) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.pid("host"))).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("its name in brackets").split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
    // Of the kernel's interface, whatever its own clock is.
    ticks / 100.0
}
