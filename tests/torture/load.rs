//! The users: they submit, kill, pause and resume all the time, through a network of their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hakuriver::api::public::{SubmitAnswer, SubmitBody};
use nanoserde::{DeJson, SerJson};

use crate::http;
use crate::invariants::Witness;
use crate::rng::Rng;
use crate::tasks::null_body;

/// As long as an answer may take when everything is well again: the longest fault, and a Host's start.
const PATIENCE: Duration = Duration::from_secs(180);
/// So many VPS at a time.
const VPS: usize = 2;
const CODES: [i64; 4] = [0, 0, 3, 7];

/// A task that was accepted.
#[derive(Clone)]
pub struct Made {
    /// In its script, and in the name of the file to which it adds a line when it begins.
    pub number: u64,
    pub code: i64,
    pub vps: bool,
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
        crate::wait::until("the users have their answers", PATIENCE + Duration::from_secs(30), || {
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
        let vps = rng.chance(6);
        if vps && self.open.lock().unwrap().values().filter(|made| made.vps).count() >= VPS {
            return;
        }
        let key = format!("{:016x}", rng.next());
        let count = if !vps && rng.chance(20) { 1 + rng.below(30) } else { 1 };
        let in_container = vps || rng.chance(25);
        let made: Vec<Made> = (0..count)
            .map(|_| Made { number: self.numbers.fetch_add(1, Ordering::SeqCst), code: *rng.pick(&CODES), vps })
            .collect();
        let folder = if in_container { "/starts".to_owned() } else { self.starts.display().to_string() };
        let scripts: Vec<Vec<String>> = made
            .iter()
            .map(|one| {
                let seconds = if count == 1 && rng.chance(30) { rng.below(8) } else { 0 };
                let text = format!(
                    "echo $$ >>{folder}/{0}; echo begin {0}; sleep {seconds}; echo end {0}; exit {1}",
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

    fn command(&self, id: &str, action: &str) {
        let Some(reply) = self.ask(&format!("/command/{id}/{action}"), None) else { return };
        if !matches!(reply.status, 200..300 | 400 | 409) {
            self.wrong(format!("{action} of {id} was answered {}: {}", reply.status, reply.text()));
        }
    }

    /// Everybody goes home: VPS are killed, and what may be paused goes on.
    pub fn close(&self) {
        let open: Vec<(String, Made)> = self.open.lock().unwrap().clone().into_iter().collect();
        for (id, made) in open {
            if made.vps { self.kill_one(&id) } else { self.command(&id, "resume") }
        }
    }

    /// How often a task has begun.
    pub fn starts(&self, made: &Made) -> usize {
        let text = fs::read_to_string(self.starts.join(made.number.to_string()));
        text.unwrap_or_default().lines().count()
    }
}
