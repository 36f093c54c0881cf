//! Lives of tasks, lived by a cluster of which anything may die at any moment: whatever is asked is asked again until it is answered,
//! and what has died is started again at once. So a life ends as it would have undisturbed, or that is what is told.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hakuriver::api::public::{NodeRow, SubmitAnswer, SubmitBody, TaskRecord};
use nanoserde::{DeJson, SerJson};

use crate::env::{Cluster, Settings, image_file};
use crate::http;
use crate::invariants::Witness;
use crate::program::docker;
use crate::tasks::{FINAL, Latches, null_body, processes_with, seen};

/// How long one step may take, with a death and a restart in it. (A Runner that comes back may find its own old call still going on.)
const STEP: Duration = Duration::from_secs(60);

/// What is lived through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// A cluster comes to be, and a command runs.
    Birth,
    /// A command without a container: run, paused, resumed, ended with 7.
    Command,
    /// The same in a container.
    Contained,
    /// Commands of both kinds, killed while they run.
    Killed,
    /// Submitted, reached, paused, resumed, restarted by hand, killed.
    Vps,
}

/// Who is killed, as the points name it. None: nobody.
pub type Victim<'a> = Option<&'a str>;

/// A cluster that goes on living.
pub struct World {
    pub cluster: Cluster,
    pub witness: Witness,
    latches: Latches,
    /// Names what belongs to one life.
    count: u32,
    serial: u32,
}

impl World {
    /// A new cluster, with a plan from its first moment.
    pub fn new(plan: Option<(&str, u32, &str)>) -> Result<Self, String> {
        let mut cluster = Cluster::new(Settings { fault_points: true, ..Settings::default() });
        cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
        fs::create_dir_all(cluster.faults()).unwrap();
        fs::write(cluster.faults().join("log"), "").unwrap();
        if let Some((role, count, name)) = plan {
            fs::write(cluster.faults().join("plan"), format!("0 {role} {count} {name}\n")).unwrap();
        }
        let begun = Instant::now();
        cluster.spawn_role("host");
        patiently(&mut cluster, begun, "the Host answers", &mut Cluster::meet)?;
        cluster.spawn_role("runner-a");
        let node = cluster.node("a");
        patiently(&mut cluster, begun, "the node is online", &mut |cluster| {
            let nodes: Vec<NodeRow> = read(cluster, "/nodes")?;
            let is_online = nodes.iter().any(|row| row.hostname == node && row.status == "online");
            if is_online { Ok(()) } else { Err(cluster.log("runner-a")) }
        })?;
        let witness = Witness::of(&cluster);
        let latches = Latches::new(&cluster);
        Ok(Self { cluster, witness, latches, count: 0, serial: 0 })
    }

    /// From now on that one is to die there; and what was hit is logged anew.
    pub fn plan(&mut self, plan: Option<(&str, u32, &str)>) {
        let folder = self.cluster.faults();
        for file in ["plan", "done"] {
            let _ = fs::remove_file(folder.join(file));
        }
        fs::write(folder.join("log"), "").unwrap();
        if let Some((role, count, name)) = plan {
            self.serial += 1;
            // Whole at once: it is read at each hit.
            fs::write(folder.join("next"), format!("{} {role} {count} {name}\n", self.serial)).unwrap();
            fs::rename(folder.join("next"), folder.join("plan")).unwrap();
        }
    }

    /// Somebody has died of the plan.
    pub fn is_done(&self) -> bool {
        self.cluster.faults().join("done").exists()
    }

    /// What was hit, a line each: `ROLE NAME`.
    pub fn hits(&self) -> Vec<String> {
        let text = fs::read_to_string(self.cluster.faults().join("log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub fn live(&mut self, life: Life, victim: Victim<'_>) -> Result<(), String> {
        self.count += 1;
        let ids = match life {
            Life::Birth | Life::Command => vec![self.command(false, victim)?],
            Life::Contained => vec![self.command(true, victim)?],
            Life::Killed => vec![self.killed(false, victim)?, self.killed(true, victim)?],
            Life::Vps => vec![self.vps(victim)?],
        };
        self.leaves_nothing(&ids)?;
        let broken = self.witness.violations();
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
    }

    fn command(&mut self, container: bool, victim: Victim<'_>) -> Result<String, String> {
        let (name, starts) = (format!("latch-{}", self.count), format!("starts-{}", self.count));
        let inside = if container { PathBuf::from("/latches") } else { self.latches.dir.clone() };
        let script = format!(
            "echo once >>{}\necho begin\n{}\necho end\nexit 7",
            inside.join(&starts).display(),
            self.latches.wait_in(&name, &inside)
        );
        let id = self.submit(&self.body(container, &script))?;
        let starts = self.latches.dir.join(starts);
        self.witness.expect(&id, 7, Some(starts.clone()));
        let mut record = self.reaches(&id, "running")?;
        for (action, state) in [("pause", "paused"), ("resume", "running")] {
            if !is_final(&record) {
                self.ask(&format!("/command/{id}/{action}"), &id)?;
                record = self.reaches(&id, state)?;
            }
        }
        let latch = self.latches.dir.join(&name);
        let record = self.until(&format!("task {id} ends"), &mut |world| {
            let record: TaskRecord = read(&world.cluster, &format!("/status/{id}"))?;
            if is_final(&record) {
                return Ok(record);
            }
            let pipe = fs::OpenOptions::new().write(true).custom_flags(libc_nonblock()).open(&latch);
            let told = pipe.and_then(|mut pipe| pipe.write_all(b"go\n"));
            Err(format!("{}; the latch: {told:?}", seen(&record)))
        })?;
        let began = fs::read_to_string(&starts).unwrap_or_default().lines().count();
        let unknown = record.error_message.as_deref().is_some_and(|text| text.contains("unknown"));
        match (record.status.as_str(), record.exit_code) {
            ("failed", Some(7)) if began == 1 => {}
            // With its supervisor a task ends too, and what became of it is not guessed.
            ("failed", None) if victim == Some("supervisor") && unknown && began <= 1 => return Ok(id),
            ("failed", None | Some(137)) if victim == Some("container") && began <= 1 => return Ok(id),
            _ => return Err(format!("it began {began} times: {}", seen(&record))),
        }
        self.until("its whole output", &mut |world| {
            let said = call(&world.cluster, "GET", &format!("/task/{id}/stdout"), None)?.text();
            if said == "begin\nend\n" { Ok(()) } else { Err(format!("{said:?}; {:?}", record.output_note)) }
        })?;
        Ok(id)
    }

    fn killed(&mut self, container: bool, victim: Victim<'_>) -> Result<String, String> {
        let mark = crate::tasks::mark();
        let id = self.submit(&self.body(container, &format!("sleep {mark} & sleep {mark}")))?;
        self.reaches(&id, "running")?;
        self.witness.killed(&id);
        self.ask(&format!("/kill/{id}"), &id)?;
        let record = self.reaches(&id, "killed")?;
        let is_so = match victim {
            Some("supervisor" | "container") => ["killed", "failed"].contains(&record.status.as_str()),
            _ => record.status == "killed",
        };
        let left = processes_with(&mark);
        if is_so && left.is_empty() { Ok(id) } else { Err(format!("{}; left: {left:?}", seen(&record))) }
    }

    fn vps(&mut self, victim: Victim<'_>) -> Result<String, String> {
        let key = fs::read_to_string(self.cluster.dir.join("key.pub")).unwrap();
        let id = self.submit(&SubmitBody {
            task_type: "vps".to_owned(),
            command: key.trim().to_owned(),
            required_cores: Some(1),
            ..SubmitBody::default()
        })?;
        let mut record = self.reaches(&id, "running")?;
        if is_final(&record) {
            // Its start was ended in the middle, and nobody was in it yet.
            let is_so = victim == Some("container") && record.status == "failed";
            return if is_so { Ok(id) } else { Err(seen(&record)) };
        }
        self.is_reached(&id)?;
        for (action, state) in [("pause", "paused"), ("resume", "running")] {
            self.ask(&format!("/command/{id}/{action}"), &id)?;
            record = self.reaches(&id, state)?;
            if record.status != state {
                return Err(seen(&record));
            }
        }
        self.is_reached(&id)?;
        let containers = self.cluster.containers(&id);
        let [container] = containers.as_slice() else { return Err(format!("containers: {containers:?}")) };
        docker(&["restart", "-t", "5", container]);
        self.is_reached(&id)?;
        if self.cluster.containers(&id) != containers {
            return Err("it is another container".to_owned());
        }
        self.ask(&format!("/kill/{id}"), &id)?;
        let record = self.reaches(&id, "killed")?;
        if record.status == "killed" { Ok(id) } else { Err(seen(&record)) }
    }

    /// Whoever connects to its port is greeted by an SSH server.
    fn is_reached(&mut self, id: &str) -> Result<(), String> {
        self.until(&format!("VPS {id} is reached"), &mut |world| {
            let record: TaskRecord = read(&world.cluster, &format!("/status/{id}"))?;
            let port = record.ssh_port.ok_or_else(|| seen(&record))?;
            let mut socket = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
            let mut greeting = [0; 4];
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.read_exact(&mut greeting).map_err(|e| format!("{e}; {}", seen(&record)))?;
            if &greeting == b"SSH-" { Ok(()) } else { Err(format!("{greeting:?}")) }
        })
    }

    fn body(&self, container: bool, script: &str) -> SubmitBody {
        SubmitBody {
            required_cores: Some(1),
            container_name: Some(if container { "bare" } else { "NULL" }.to_owned()),
            additional_mounts: container.then(|| vec![format!("{}:/latches:rw", self.latches.dir.display())]),
            ..null_body("/bin/sh", &["-c", script])
        }
    }

    /// As our own client does: the same call until it is answered, so that it is one task.
    fn submit(&mut self, body: &SubmitBody) -> Result<String, String> {
        self.count += 1;
        let key = format!("{}-{}", self.cluster.tag, self.count);
        let body = SubmitBody { idempotency_key: Some(key), ..body.clone() }.serialize_json();
        let id = self.until("the submission is answered", &mut |world| {
            let reply = call(&world.cluster, "POST", "/submit", Some(&body))?;
            let answer = SubmitAnswer::deserialize_json(&reply.text()).map_err(|e| format!("{e}: {}", reply.text()))?;
            answer.task_ids.first().cloned().ok_or_else(|| reply.text())
        })?;
        self.witness.acknowledged([&id]);
        self.cluster.remember(std::slice::from_ref(&id));
        Ok(id)
    }

    /// Until it is accepted, or the task has ended.
    fn ask(&mut self, path: &str, id: &str) -> Result<(), String> {
        self.until(path, &mut |world| {
            let reply = call(&world.cluster, "POST", path, Some("{}"))?;
            let record: TaskRecord = read(&world.cluster, &format!("/status/{id}"))?;
            let is_taken = [200, 202].contains(&reply.status) || is_final(&record);
            if is_taken { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.text())) }
        })
    }

    /// Until it is there, or has ended.
    fn reaches(&mut self, id: &str, state: &str) -> Result<TaskRecord, String> {
        self.until(&format!("task {id} is {state}"), &mut |world| {
            let record: TaskRecord = read(&world.cluster, &format!("/status/{id}"))?;
            if record.status == state || is_final(&record) { Ok(record) } else { Err(seen(&record)) }
        })
    }

    /// No container, no process, no file of it on the node, and nothing is held.
    fn leaves_nothing(&mut self, ids: &[String]) -> Result<(), String> {
        self.until("nothing is left", &mut |world| {
            let cluster = &world.cluster;
            let containers: Vec<String> = ids.iter().flat_map(|id| cluster.containers(id)).collect();
            let processes = cluster.task_processes();
            let mut files = Vec::new();
            named(&cluster.runner_dir("a"), ids, &mut files);
            let nodes: Vec<NodeRow> = read(cluster, "/nodes")?;
            let held: i64 = nodes.iter().map(|node| i64::from(node.cores_in_use)).sum();
            if containers.is_empty() && processes.is_empty() && files.is_empty() && held == 0 {
                return Ok(());
            }
            Err(format!("containers {containers:?}, processes {processes:?}, files {files:?}, {held} cores held"))
        })
    }

    fn until<T>(&mut self, what: &str, look: &mut dyn FnMut(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            self.cluster.revive()?;
            match look(self) {
                Ok(found) => return Ok(found),
                Err(seen) if begun.elapsed() > STEP => return Err(format!("{what}: not within {STEP:?}: {seen}")),
                Err(_) => std::thread::sleep(Duration::from_millis(25)),
            }
        }
    }
}

fn patiently(
    cluster: &mut Cluster,
    begun: Instant,
    what: &str,
    look: &mut dyn FnMut(&mut Cluster) -> Result<(), String>,
) -> Result<(), String> {
    loop {
        cluster.revive()?;
        match look(cluster) {
            Ok(()) => return Ok(()),
            Err(seen) if begun.elapsed() > STEP => return Err(format!("{what}: not within {STEP:?}: {seen}")),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// Files below a folder with one of these in their names.
fn named(folder: &Path, ids: &[String], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if ids.iter().any(|id| entry.file_name().to_string_lossy().contains(id)) {
            found.push(path);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            named(&path, ids, found);
        }
    }
}

fn call(cluster: &Cluster, method: &str, path: &str, body: Option<&str>) -> Result<http::Reply, String> {
    let token = fs::read_to_string(cluster.dir.join("token")).map_err(|e| e.to_string())?;
    http::try_call(cluster.api, method, path, Some(token.trim()), body).map_err(|e| e.to_string())
}

fn read<T: DeJson>(cluster: &Cluster, path: &str) -> Result<T, String> {
    let reply = call(cluster, "GET", path, None)?;
    T::deserialize_json(&reply.text()).map_err(|e| format!("{e}: {}", reply.text()))
}

fn is_final(record: &TaskRecord) -> bool {
    FINAL.contains(&record.status.as_str())
}

fn libc_nonblock() -> i32 {
    nix::fcntl::OFlag::O_NONBLOCK.bits()
}
