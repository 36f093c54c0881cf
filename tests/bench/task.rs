//! Command tasks: how many a second, how soon one has ended, and how fast they can be submitted.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hakuriver::api::public::{SubmitAnswer, SubmitBody};
use nanoserde::{DeJson, SerJson};

use crate::api::Caller;
use crate::env::{Cluster, Settings, image_file};
use crate::fake_node::{FakeNode, Hardware};
use crate::figure::{Figure, closely, seconds};
use crate::http;
use crate::program;
use crate::tasks::{ids, null_body};

/// Tasks of one batch.
const MANY: usize = 10_000;
const RUNS: usize = 5;
const CONTAINERS: usize = 100;

/// Tasks without a container.
pub fn measure() -> Vec<Figure> {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    // The first one pays for the supervisor's start.
    finish_batch(&cluster, &null_body("/bin/true", &[]), 1);
    let (mut rates, mut loops, mut over) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let ours = seconds(|| finish_batch(&cluster, &null_body("/bin/true", &[]), MANY));
        let bare = seconds(|| spawn_loop(MANY));
        rates.push(MANY as f64 / ours);
        loops.push(MANY as f64 / bare);
        // Two of either go on at once.
        over.push((ours - bare) / MANY as f64 * 2.0 * 1e6);
    }
    let mut events = Events::open(&cluster);
    let (mut client, mut api) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let args = ["task", "submit", "--container", "NULL", "--wait", "--", "/bin/true"];
        let mut command = cluster.cli_command(&args);
        let start = Instant::now();
        let output = command.output().expect("our own program starts");
        client.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        events.skip_to(&ids(&String::from_utf8_lossy(&output.stdout))[0]);
        let mut caller = Caller::new(&cluster);
        let body = null_body("/bin/true", &[]).serialize_json();
        api.push(seconds(|| events.skip_to(&submit(&mut caller, &body)[0])) * 1e3);
    }
    vec![
        Figure::new("tasks `true` without container, 10,000 on one node", "/s", &rates)
            .against("posix_spawn loop, 2 threads", &loops)
            .ratio_at_least(0.45),
        Figure::new("the same: what each costs beyond the loop", "µs", &over),
        Figure::new("one such task: submit to finished, `task submit --wait`", "ms", &client).at_most(5.0),
        Figure::new("one such task: submit to finished, API and events", "ms", &api).at_most(5.0),
    ]
}

/// Submission alone: the only node is draining, so nothing is started.
pub fn submits() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    cluster.cli(&["client", "drain", "n"]).ok();
    let waiting = SubmitBody { queue: true, targets: Some(vec!["n".to_owned()]), ..null_body("/bin/true", &[]) };
    let one = waiting.serialize_json();
    let (mut singles, mut commits, mut calls, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        singles.push(single_submits(&cluster, &one));
        commits.push(sqlite(&cluster, 2000, 1));
    }
    let mut caller = Caller::new(&cluster);
    let many = batch(&waiting, MANY).serialize_json();
    for _ in 0..RUNS {
        calls.push(seconds(|| assert_eq!(submit(&mut caller, &many).len(), MANY)));
        rows.push(MANY as f64 / sqlite(&cluster, MANY, MANY));
    }
    vec![
        Figure::new("single durable submits, 8 clients", "/s", &singles)
            .against("SQLite, WAL, FULL: commits", &commits)
            .at_least(3000.0),
        Figure::new("10,000 tasks submitted in one call", "s", &calls)
            .against("SQLite: so many rows", &rows)
            .at_most(0.3),
    ]
}

/// Tasks in containers, against Docker by hand.
pub fn containers() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let body =
        SubmitBody { required_cores: Some(0), container_name: Some("bare".to_owned()), ..null_body("/bin/true", &[]) };
    // The first one pays for the image.
    finish_batch(&cluster, &body, 1);
    let image = std::fs::read_to_string(image_file("bare.id")).expect("it stands beside the tarball");
    let by_hand = || {
        let args = ["run", "--rm", "--network", "host", image.trim(), "/bin/true"];
        program::run(Command::new("docker").args(args), Duration::from_secs(60)).ok();
    };
    let mut events = Events::open(&cluster);
    let (mut ones, mut hands, mut rates, mut docker_rates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let one = body.serialize_json();
    for _ in 0..7 {
        let mut caller = Caller::new(&cluster);
        let mut id = String::new();
        ones.push(seconds(|| {
            id = submit(&mut caller, &one).remove(0);
            events.skip_to(&id);
        }));
        cluster.await_no_container(&id);
        hands.push(seconds(by_hand));
    }
    for _ in 0..RUNS {
        rates.push(CONTAINERS as f64 / seconds(|| finish_batch(&cluster, &body, CONTAINERS)));
        closely("no container of ours", || {
            let label = format!("label=hakuriver.cluster={}", cluster.cluster_id()?);
            program::docker(&["ps", "-aq", "--filter", &label]).is_empty().then_some(())
        });
        let next = AtomicU64::new(0);
        let took = seconds(|| {
            thread::scope(|scope| {
                // More at once make Docker no faster.
                for _ in 0..8 {
                    scope.spawn(|| {
                        while next.fetch_add(1, Ordering::Relaxed) < CONTAINERS as u64 {
                            by_hand();
                        }
                    });
                }
            });
        });
        docker_rates.push(CONTAINERS as f64 / took);
    }
    vec![
        Figure::new("container task `true`: submit to completed", "s", &ones)
            .against("docker run --rm by hand", &hands)
            .ratio_at_most(1.15),
        Figure::new("100 container tasks `true` at once", "/s", &rates)
            .against("docker run --rm, 8 at a time", &docker_rates)
            .ratio_at_least(0.85),
    ]
}

/// So many of the same.
fn batch(body: &SubmitBody, count: usize) -> SubmitBody {
    SubmitBody { argument_sets: Some(vec![Vec::new(); count]), ..body.clone() }
}

fn submit(caller: &mut Caller, body: &str) -> Vec<String> {
    let reply = caller.call("POST", "/submit", Some(body));
    assert_eq!(reply.status, 202, "{}", reply.text());
    SubmitAnswer::deserialize_json(&reply.text()).expect("its own JSON").task_ids
}

/// Submits a batch in one call, and returns when the Host says of each that it has completed.
fn finish_batch(cluster: &Cluster, body: &SubmitBody, count: usize) {
    let mut caller = Caller::new(cluster);
    let ids = submit(&mut caller, &batch(body, count).serialize_json());
    let start = Instant::now();
    // Usually the last one is among the last to end: one look at it costs next to nothing.
    for (at, id) in ids.iter().rev().enumerate() {
        loop {
            let text = caller.call("GET", &format!("/status/{id}"), None).text();
            if text.contains("\"status\":\"completed\"") {
                break;
            }
            assert!(!text.contains("\"status\":\"failed\""), "{text}");
            assert!(start.elapsed() < Duration::from_secs(300), "task {id} of a batch of {count}: {text}");
            thread::sleep(Duration::from_millis(2));
        }
        // Without a container they end in order, two at once; containers as they come.
        if count > CONTAINERS && at >= 8 {
            break;
        }
    }
}

/// The Host's stream of events.
struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    fn open(cluster: &Cluster) -> Self {
        let mut socket = http::connect(cluster.api);
        let request = http::request("GET", "/events", Some(&cluster.token()), None);
        socket.write_all(request.as_bytes()).expect("the Host listens");
        let mut events = Self { lines: BufReader::new(socket) };
        while !events.line().contains(": events") {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.lines.read_line(&mut line).expect("the stream goes on");
        assert!(count > 0, "the stream ended");
        line
    }

    /// Reads on to the event of a task's end.
    fn skip_to(&mut self, id: &str) {
        loop {
            let line = self.line();
            if line.contains(id) && line.contains("\"to\":\"completed\"") {
                return;
            }
            assert!(!line.contains(id) || !line.contains("\"to\":\"failed\""), "{line}");
        }
    }
}

/// Durable submits a second, of one task each.
fn single_submits(cluster: &Cluster, body: &str) -> f64 {
    const RUN: Duration = Duration::from_secs(1);
    let done = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut caller = Caller::new(cluster);
                while start.elapsed() < RUN {
                    let reply = caller.call("POST", "/submit", Some(body));
                    assert_eq!(reply.status, 202, "{}", reply.text());
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Rows a second into a database of its own on the same disk, so many in a transaction.
fn sqlite(cluster: &Cluster, rows: usize, together: usize) -> f64 {
    let path = cluster.dir.join("reference.db");
    let mut database = rusqlite::Connection::open(&path).expect("its directory is there");
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, number INTEGER);",
        )
        .expect("plain SQL");
    let start = Instant::now();
    for _ in 0..rows / together {
        let transaction = database.transaction().expect("nobody else has it");
        for number in 0..i64::try_from(together).expect("a few thousand") {
            transaction
                .prepare_cached("INSERT INTO t (text, number) VALUES (?1, ?2)")
                .and_then(|mut insert| insert.execute((&"about as long as a task's row is, or so: /bin/true", number)))
                .expect("plain SQL");
        }
        transaction.commit().expect("the disk has room");
    }
    let took = start.elapsed().as_secs_f64();
    drop(database);
    std::fs::remove_file(&path).expect("it is ours");
    rows as f64 / took
}

/// Starts and waits for `/bin/true` so often, on two threads.
fn spawn_loop(count: usize) {
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..count / 2).for_each(|_| spawn_true()));
        }
    });
}

fn spawn_true() {
    let path = CString::new("/bin/true").expect("no NUL in it");
    let argv = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let envp = [std::ptr::null_mut()];
    let (mut pid, mut status) = (0, 0);
    // SAFETY: path, argv and envp are NUL-terminated and outlive both calls; pid and status are ours.
    let faults = unsafe {
        let spawned = libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr(),
            envp.as_ptr(),
        );
        (spawned, libc::waitpid(pid, &mut status, 0) != pid)
    };
    assert_eq!((faults, status), ((0, false), 0), "/bin/true");
}
