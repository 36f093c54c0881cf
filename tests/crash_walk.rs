//! The life of a task, again and again: each time one process is killed at another point of it, before or after something durable
//! or something asked of others, and started again. It must come to the end that it comes to undisturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hakuriver::api::public::{SubmitAnswer, SubmitBody, TaskRecord};
use nanoserde::{DeJson, SerJson};

use crate::env::{Cluster, Settings, image_file};
use crate::http;
use crate::invariants::Witness;
use crate::tasks::{FINAL, Latches, null_body, seen};

/// Between two looks of a life.
const STEP: Duration = Duration::from_millis(30);
/// A life that is disturbed.
const LIFE: Duration = Duration::from_secs(90);
/// Lives at once.
const AT_ONCE: usize = 2;
const CODE: i32 = 7;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Vps,
    Contained,
    Bare,
}

/// Where a process ends: its role, the point, and at which hit of it.
type Place = (String, String, u32);

/// A cluster in which a life is led.
struct Life {
    kind: Kind,
    cluster: Cluster,
    witness: Witness,
    latches: Latches,
    faults: PathBuf,
    end: Instant,
}

impl Life {
    fn new(kind: Kind, kill: Option<&Place>) -> Self {
        let faults = std::env::temp_dir().join(format!("hrt-faults-{}", random()));
        fs::create_dir_all(&faults).unwrap();
        let variable = ("HAKURIVER_FAULT_DIR".to_owned(), faults.display().to_string());
        let settings = Settings { no_environment: kind != Kind::Vps, variables: vec![variable], ..Settings::default() };
        let mut cluster = Cluster::new(settings);
        if kind == Kind::Contained {
            cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
        }
        // What happens before the cluster stands is not of this life.
        cluster.start_host();
        cluster.start_runner("a");
        for name in ["host", "runner-a"] {
            cluster.kill9(name);
        }
        let _ = fs::remove_file(faults.join("hits"));
        if let Some((role, point, number)) = kill {
            fs::write(faults.join("kill"), format!("{role} {number} {point}\n")).unwrap();
        }
        let config = cluster.config("config");
        cluster.spawn("host", &["host", "--config", &config]);
        cluster.spawn_runner("a");
        let (witness, latches) = (Witness::of(&cluster), Latches::new(&cluster));
        Self { kind, cluster, witness, latches, faults, end: Instant::now() + LIFE }
    }

    /// Whoever was killed is started again, as by a service manager.
    fn revive(&mut self) {
        let config = self.cluster.config("config");
        if self.cluster.ended("host").is_some() {
            self.cluster.forget("host");
            self.cluster.spawn("host", &["host", "--config", &config]);
        }
        if self.cluster.ended("runner-a").is_some() {
            self.cluster.forget("runner-a");
            self.cluster.spawn_runner("a");
        }
    }

    /// Looks until `look` finds what it looks for.
    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Result<T, String>) -> T {
        loop {
            self.revive();
            match look(self) {
                Ok(found) => return found,
                Err(seen) if Instant::now() > self.end => panic!("{what}: not in time; last seen: {seen}"),
                Err(_) => thread::sleep(STEP),
            }
        }
    }

    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<http::Reply, String> {
        let reply = http::try_call(self.cluster.api, method, path, Some(&self.cluster.token()), body);
        reply.map_err(|fault| fault.to_string())
    }

    fn status(&self, id: &str) -> Result<TaskRecord, String> {
        let reply = self.call("GET", &format!("/status/{id}"), None)?;
        TaskRecord::deserialize_json(&reply.text()).map_err(|fault| format!("{fault}: {}", reply.text()))
    }

    /// Asked until it is answered.
    fn ask(&mut self, path: &str, body: Option<&str>) -> http::Reply {
        let path = path.to_owned();
        self.until(&path, |life| match life.call("POST", &path, body)? {
            reply if reply.status >= 500 => Err(reply.text()),
            reply => Ok(reply),
        })
    }

    /// Another final state ends the wait.
    fn await_state(&mut self, id: &str, wanted: &[&str]) -> TaskRecord {
        let what = format!("the task is {wanted:?}");
        self.until(&what, |life| {
            let record = life.status(id)?;
            let is_there = wanted.contains(&record.status.as_str()) || FINAL.contains(&record.status.as_str());
            if is_there { Ok(record) } else { Err(seen(&record)) }
        })
    }

    fn submit(&mut self) -> String {
        let key = fs::read_to_string(self.cluster.dir.join("key.pub")).unwrap();
        let starts = if self.kind == Kind::Contained { "/latches".into() } else { self.latches.dir.clone() };
        let script = format!(
            "echo begin; echo $$ >>{}; {}; echo end; exit {CODE}",
            starts.join("starts").display(),
            self.latches.wait_in("go", &starts)
        );
        let mounts = vec![format!("{}:/latches:rw", self.latches.dir.display())];
        let body = match self.kind {
            Kind::Vps => SubmitBody { task_type: "vps".to_owned(), command: key, ..SubmitBody::default() },
            Kind::Contained => SubmitBody {
                container_name: Some("bare".to_owned()),
                additional_mounts: Some(mounts),
                ..null_body("/bin/sh", &["-c", &script])
            },
            Kind::Bare => null_body("/bin/sh", &["-c", &script]),
        };
        // So that it may be asked for twice.
        let body = SubmitBody { idempotency_key: Some("one".to_owned()), ..body };
        let reply = self.ask("/submit", Some(&body.serialize_json()));
        assert_eq!(reply.status, 202, "{}", reply.text());
        let answer = SubmitAnswer::deserialize_json(&reply.text()).unwrap();
        let id = answer.task_ids[0].clone();
        self.cluster.remember(std::slice::from_ref(&id));
        self.witness.acknowledged([&id]);
        if self.kind != Kind::Vps {
            self.witness.expect(&id, CODE.into(), Some(self.latches.dir.join("starts")));
        }
        id
    }

    /// From its submission to nothing being left of it.
    fn live(mut self, killed: Option<&Place>) -> Vec<(String, String)> {
        let id = self.submit();
        let may_be_lost = killed.is_some_and(|(role, _, _)| role == "supervise");
        let record = self.await_state(&id, &["running"]);
        let has_ended = |record: &TaskRecord| FINAL.contains(&record.status.as_str());
        if !has_ended(&record) {
            self.ask(&format!("/command/{id}/pause"), None);
            self.await_state(&id, &["paused"]);
            self.witness.check();
            self.ask(&format!("/command/{id}/resume"), None);
            let record = self.await_state(&id, &["running"]);
            if self.kind == Kind::Vps {
                self.ask(&format!("/kill/{id}"), None);
                self.witness.killed(&id);
            } else if !has_ended(&record) {
                self.until("it goes on", |life| life.try_open(&id));
            }
        }
        let record = self.await_state(&id, &[]);
        let end = (record.status.as_str(), record.exit_code);
        match self.kind {
            Kind::Vps => assert_eq!(end.0, "killed", "{}", seen(&record)),
            _ if may_be_lost && end == ("failed", None) => {
                let message = record.error_message.clone().unwrap_or_default();
                assert!(message.contains("result unknown"), "{}", seen(&record));
            }
            _ => {
                assert_eq!(end, ("failed", Some(CODE)), "{}", seen(&record));
                self.until("its output is whole", |life| {
                    let text = life.call("GET", &format!("/task/{id}/stdout"), None)?.text();
                    if text == "begin\nend\n" { Ok(()) } else { Err(format!("{text:?}")) }
                });
            }
        }
        // Killed before anything of it was begun, it is begun as the next attempt.
        assert!(record.attempt <= 2, "{}", seen(&record));
        self.until("nothing is left on the node", |life| life.is_tidy(&id));
        self.witness.check();
        self.hits()
    }

    /// Lets the task go on, as soon as it waits; one that has ended needs it no more.
    fn try_open(&self, id: &str) -> Result<(), String> {
        let pipe = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(self.latches.dir.join("go"));
        let Err(fault) = pipe.and_then(|mut pipe| pipe.write_all(b"go\n")) else { return Ok(()) };
        let record = self.status(id)?;
        if FINAL.contains(&record.status.as_str()) { Ok(()) } else { Err(format!("{fault}; {}", seen(&record))) }
    }

    fn is_tidy(&self, id: &str) -> Result<(), String> {
        let containers = self.cluster.containers(id);
        let folder = self.cluster.runner_dir("a").join("tasks");
        let records: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let processes = self.cluster.task_processes();
        if containers.is_empty() && records.is_empty() && processes.is_empty() {
            return Ok(());
        }
        Err(format!("containers {containers:?}, records {records:?}, processes {processes:?}"))
    }

    /// Role and point of each hit, in order.
    fn hits(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.faults.join("hits")).unwrap_or_default();
        let split = |line: &str| line.split_once(' ').map(|(role, point)| (role.to_owned(), point.to_owned()));
        text.lines().filter_map(split).collect()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.faults);
    }
}

fn random() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Leads the life undisturbed, then once for each point of it: at its first hit, or with `all` at every one up to that.
fn walk(kind: Kind, all: u32) {
    let hits = Life::new(kind, None).live(None);
    let mut counts: BTreeMap<(String, String), u32> = BTreeMap::new();
    for hit in hits {
        *counts.entry(hit).or_default() += 1;
    }
    let roles: BTreeSet<&str> = counts.keys().map(|(role, _)| role.as_str()).collect();
    assert!(roles.contains("host") && roles.contains("runner"), "{roles:?}");
    assert!(kind != Kind::Bare || roles.contains("supervise"), "{roles:?}");
    let places: Vec<Place> = counts
        .iter()
        .flat_map(|((role, point), count)| {
            (1..=(*count).min(all)).map(move |number| (role.clone(), point.clone(), number))
        })
        .collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(place) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let lived = std::panic::catch_unwind(|| Life::new(kind, Some(place)).live(Some(place)));
                    if lived.is_err() {
                        wrong.lock().unwrap().push(place.clone());
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!("{kind:?}: {} points, {} kills, {} wrong", counts.len(), places.len(), wrong.len());
    assert!(wrong.is_empty(), "killed there, it does not come to its end: {wrong:#?}");
}

#[test]
fn a_vps_comes_to_its_end_wherever_a_process_is_killed() {
    walk(Kind::Vps, 1);
}

#[test]
fn a_command_in_a_container_comes_to_its_end_wherever_a_process_is_killed() {
    walk(Kind::Contained, 1);
}

#[test]
fn a_command_without_a_container_comes_to_its_end_wherever_a_process_is_killed() {
    walk(Kind::Bare, 1);
}

#[test]
#[ignore = "every hit of every point takes an hour: make torture"]
fn every_hit() {
    for kind in [Kind::Bare, Kind::Contained, Kind::Vps] {
        walk(kind, 10);
    }
}
