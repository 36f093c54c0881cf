//! The users: they submit, kill, pause and resume all the time, through a network of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, UNIX_EPOCH};

use hakuriver::api::public::{SubmitAnswer, SubmitBody, TaskRecord};
use nanoserde::{DeJson, SerJson};

use crate::env::Cluster;
use crate::harm::Kind;
use crate::http;
use crate::invariants::Witness;
use crate::rng::Rng;
use crate::tasks::{FINAL, now_millis, null_body, seen};
use crate::wait;

/// As long as an answer may take when everything is well again: the longest fault, and a Host's start.
const PATIENCE: Duration = Duration::from_secs(180);
/// So many tasks at a time that nobody has seen to end: what a slow machine falls behind with is waited for in the next rest.
const MOST: usize = 1_500;
/// So many VPS at a time.
const VPS: usize = 2;
const CODES: [i64; 4] = [0, 0, 3, 7];

/// A task that was accepted.
#[derive(Clone)]
pub struct Made {
    /// In its script, and in the name of the file to which it adds a line when it begins.
    pub number: u64,
    pub code: i64,
    pub kind: Kind,
    /// Before it was submitted, in milliseconds since 1970.
    pub begun: i64,
    /// The Host was seen to have its result and all that it wrote.
    pub whole: Option<i64>,
}

impl Made {
    /// What it prints.
    pub fn output(&self) -> String {
        format!("begin {0}\nend {0}\n", self.number)
    }

    /// It has ended by itself, as it does when it is left alone.
    pub fn is_result(&self, record: &TaskRecord) -> bool {
        let ended = ["completed", "failed"].contains(&record.status.as_str());
        ended && self.kind != Kind::Vps && record.exit_code.map(i64::from) == Some(self.code)
    }
}

pub struct Load {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

pub struct Shared {
    /// The network's, behind which is the Host.
    port: u16,
    token: String,
    key: String,
    starts: PathBuf,
    witness: Arc<Witness>,
    /// Nothing new begins.
    pub quiet: AtomicBool,
    stop: AtomicBool,
    /// Threads that are at work now.
    busy: AtomicU64,
    numbers: AtomicU64,
    /// What may still be open.
    pub open: Mutex<BTreeMap<String, Made>>,
    /// Those whose kill was asked for, answered or not.
    pub doomed: Mutex<BTreeSet<String>>,
    pub wrong: Mutex<Vec<String>>,
    pub submitted: AtomicU64,
    pub kills: AtomicU64,
    pub repeated: AtomicU64,
}

impl Load {
    pub fn start(port: u16, token: String, key: String, starts: PathBuf, witness: Arc<Witness>, rng: &mut Rng) -> Self {
        let shared = Arc::new(Shared {
            port,
            token,
            key,
            starts,
            witness,
            quiet: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            busy: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            open: Mutex::default(),
            doomed: Mutex::default(),
            wrong: Mutex::default(),
            submitted: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        });
        let users: [fn(&Shared, &mut Rng); 4] = [Shared::submit, Shared::submit, Shared::kill, Shared::pause];
        let threads = users.into_iter().map(|act| {
            let (shared, mut rng) = (shared.clone(), Rng(rng.next()));
            thread::spawn(move || {
                while !shared.stop.load(Ordering::SeqCst) {
                    thread::sleep(rng.millis(20, 900));
                    shared.busy.fetch_add(1, Ordering::SeqCst);
                    if !shared.quiet.load(Ordering::SeqCst) {
                        act(&shared, &mut rng);
                    }
                    shared.busy.fetch_sub(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), shared }
    }

    /// Nothing new begins until [`Self::go_on`]; what was begun has been answered.
    pub fn quiesce(&self) {
        self.shared.quiet.store(true, Ordering::SeqCst);
        wait::until("the users have their answers", PATIENCE + Duration::from_secs(30), || {
            match self.shared.busy.load(Ordering::SeqCst) {
                0 => Ok(()),
                count => Err(format!("{count} wait")),
            }
        });
    }

    pub fn go_on(&self) {
        self.shared.quiet.store(false, Ordering::SeqCst);
    }

    pub fn end(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

impl Shared {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Asks until there is an answer: a user who repeats a call that may have come through.
    fn ask(&self, path: &str, body: Option<&str>) -> Option<http::Reply> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match http::try_call(self.port, "POST", path, Some(&self.token), body) {
                Ok(reply) if reply.status < 500 => return Some(reply),
                Ok(_) | Err(_) => {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(200));
                }
            }
        }
        self.wrong(format!("POST {path}: no answer within {} s", PATIENCE.as_secs()));
        None
    }

    fn submit(&self, rng: &mut Rng) {
        if self.open.lock().unwrap().values().filter(|made| made.whole.is_none()).count() >= MOST {
            return;
        }
        let vps = rng.chance(6);
        if vps && self.open.lock().unwrap().values().filter(|made| made.kind == Kind::Vps).count() >= VPS {
            return;
        }
        let key = format!("{:016x}", rng.next());
        let count = if !vps && rng.chance(20) { 1 + rng.below(30) } else { 1 };
        let in_container = vps || rng.chance(25);
        let kind = match (vps, in_container) {
            (true, _) => Kind::Vps,
            (false, true) => Kind::Contained,
            (false, false) => Kind::Null,
        };
        let begun = now_millis();
        let made: Vec<Made> = (0..count)
            .map(|_| {
                let number = self.numbers.fetch_add(1, Ordering::SeqCst);
                Made { number, code: *rng.pick(&CODES), kind, begun, whole: None }
            })
            .collect();
        let folder = if in_container { "/starts".to_owned() } else { self.starts.display().to_string() };
        let scripts: Vec<Vec<String>> = made
            .iter()
            .map(|one| {
                let seconds = if count == 1 && rng.chance(30) { rng.below(8) } else { 0 };
                let text = format!(
                    "echo $$ >>{folder}/{0}; echo begin {0}; sleep {seconds}; echo end {0}; : >{folder}/{0}.over; exit {1}",
                    one.number, one.code
                );
                vec!["-c".to_owned(), text]
            })
            .collect();
        let body = if vps {
            SubmitBody {
                task_type: "vps".to_owned(),
                command: self.key.clone(),
                idempotency_key: Some(key),
                additional_mounts: Some(Vec::new()),
                ..SubmitBody::default()
            }
        } else {
            SubmitBody {
                required_cores: Some(u32::from(rng.chance(40))),
                required_memory_bytes: rng.chance(30).then_some(64 << 20),
                container_name: Some(if in_container { "bare" } else { "NULL" }.to_owned()),
                additional_mounts: in_container.then(|| vec![format!("{}:/starts:rw", self.starts.display())]),
                argument_sets: Some(scripts),
                idempotency_key: Some(key),
                ..null_body("/bin/sh", &[])
            }
        };
        let Some(reply) = self.ask("/submit", Some(&body.serialize_json())) else { return };
        if reply.status != 202 {
            return self.wrong(format!("a submission was answered {}: {}", reply.status, reply.text()));
        }
        let answer = SubmitAnswer::deserialize_json(&reply.text()).unwrap();
        if answer.task_ids.len() != made.len() {
            return self.wrong(format!("{} tasks submitted: {answer:?}", made.len()));
        }
        self.witness.acknowledged(&answer.task_ids);
        for (id, one) in answer.task_ids.into_iter().zip(made) {
            if !vps {
                self.witness.expect(&id, one.code, Some(self.starts.join(one.number.to_string())));
            }
            self.open.lock().unwrap().insert(id, one);
            self.submitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn any(&self, rng: &mut Rng) -> Option<String> {
        let open = self.open.lock().unwrap();
        // Mostly one of the newest: the older ones have ended.
        let newest: Vec<&String> = open.keys().rev().take(12).collect();
        (!newest.is_empty()).then(|| (*rng.pick(&newest)).clone())
    }

    fn kill(&self, rng: &mut Rng) {
        if rng.chance(60)
            && let Some(id) = self.any(rng)
        {
            self.kill_one(&id);
        }
    }

    pub fn kill_one(&self, id: &str) {
        // Before it is asked: the answer may be lost.
        self.doomed.lock().unwrap().insert(id.to_owned());
        let Some(reply) = self.ask(&format!("/kill/{id}"), None) else { return };
        match reply.status {
            200..300 => {
                self.witness.killed(id);
                self.kills.fetch_add(1, Ordering::Relaxed);
            }
            // It has ended.
            409 => {}
            _ => self.wrong(format!("the kill of {id} was answered {}: {}", reply.status, reply.text())),
        }
    }

    fn pause(&self, rng: &mut Rng) {
        let Some(id) = self.any(rng).filter(|_| rng.chance(50)) else { return };
        self.command(&id, "pause");
        thread::sleep(rng.millis(0, 1500));
        self.command(&id, "resume");
    }

    /// True: it is taken.
    fn command(&self, id: &str, action: &str) -> bool {
        let Some(reply) = self.ask(&format!("/command/{id}/{action}"), None) else { return false };
        if !matches!(reply.status, 200..300 | 400 | 409) {
            self.wrong(format!("{action} of {id} was answered {}: {}", reply.status, reply.text()));
        }
        (200..300).contains(&reply.status)
    }

    /// Everybody goes home: VPS are killed, and what may be paused goes on.
    pub fn close(&self, cluster: &Cluster) {
        let open: Vec<(String, Made)> = self.open.lock().unwrap().clone().into_iter().collect();
        for (id, made) in open {
            if made.kind == Kind::Vps {
                self.kill_one(&id);
                continue;
            }
            // One that is still called lost is refused, and goes back to being paused when its node has told of it.
            wait::until(&format!("task {id} is to run"), PATIENCE, || {
                let is_taken = self.command(&id, "resume");
                let record = cluster.status(&id);
                // Nobody else asks for anything any more.
                if is_taken && record.want == "pause" {
                    self.wrong(format!("the resume of {id} was taken, and is forgotten: {}", seen(&record)));
                }
                let is_so = record.want == "run" || FINAL.contains(&record.status.as_str());
                if is_so || record.want == "stop" { Ok(()) } else { Err(seen(&record)) }
            });
        }
    }

    /// Those of which the Host has the result and everything that they wrote: from now on nothing explains that it has not.
    pub fn note_whole(&self, cluster: &Cluster) {
        let open: Vec<(String, Made)> = self.open.lock().unwrap().clone().into_iter().collect();
        for (id, made) in open.into_iter().filter(|(_, made)| made.kind != Kind::Vps && made.whole.is_none()) {
            let get = |path: &str| {
                let reply = http::try_call(cluster.api, "GET", path, Some(&self.token), None).ok()?;
                (reply.status == 200).then(|| reply.text())
            };
            let record = get(&format!("/status/{id}")).and_then(|text| TaskRecord::deserialize_json(&text).ok());
            if record.is_some_and(|record| made.is_result(&record))
                && get(&format!("/task/{id}/stdout")) == Some(made.output())
                && let Some(made) = self.open.lock().unwrap().get_mut(&id)
            {
                made.whole = Some(now_millis());
            }
        }
    }

    /// When a task's process came to its end, in milliseconds since 1970; None: it did not.
    pub fn over(&self, made: &Made) -> Option<i64> {
        let changed = fs::metadata(self.starts.join(format!("{}.over", made.number))).ok()?.modified().ok()?;
        i64::try_from(changed.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// How often a task has begun.
    pub fn starts(&self, made: &Made) -> usize {
        let text = fs::read_to_string(self.starts.join(made.number.to_string()));
        text.unwrap_or_default().lines().count()
    }
}
