//! The engine driven turn by turn, with a clock that only the test moves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::api::node::{Acknowledged, DesiredAnswer, DesiredTask, Registered};
use crate::domain::ids::{Attempt, TaskName};
use crate::domain::node::{Conditions, Inventory};
use crate::domain::size::Bytes;
use crate::domain::spec::{Container, EnvVar, GpuRequest, Patience, TaskKind, TaskSpec};
use crate::domain::state::{Exit, Observation, State};
use crate::domain::target;
use crate::store::{EventFilter, Task};

use super::super::view::Figures;
use super::*;

mod inventory;
mod line;
mod random;
mod refusal;
mod restored;
mod shells;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What a node knows of its list.
#[derive(Default)]
struct Followed {
    version: String,
    through: Option<TaskId>,
    list: BTreeMap<TaskId, String>,
}

/// An engine on a database of its own.
struct Bench {
    folder: PathBuf,
    /// For each node what one knows of its list who was told the differences alone, with the version.
    followed: BTreeMap<NodeName, Followed>,
    core: Option<Core>,
    view: Arc<View>,
    now: Now,
}

/// Asks for the whole list, and does not wait.
fn poll(session: &str) -> Poll {
    Poll {
        session: session.to_owned(),
        known: String::new(),
        changes: false,
        parts: false,
        through: None,
        may_wait: false,
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.core = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("hakuriver-engine-{}", crate::sys::random::hex(8)));
        std::fs::create_dir(&folder).expect("temporary folder");
        let now = Now { instant: Instant::now(), unix_ms: 1_800_000_000_000 };
        let mut bench = Self { folder, followed: BTreeMap::new(), core: None, view: Arc::default(), now };
        bench.start("epoch1");
        bench
    }

    fn start(&mut self, epoch: &str) {
        self.core = None;
        let store = Store::open(&self.folder.join("cluster.db")).expect("open");
        let settings = Settings {
            cluster_id: "cluster".into(),
            ids: self.folder.join("ids"),
            epoch: epoch.into(),
            node_timeout: TIMEOUT,
            retention: Duration::from_secs(86_400),
            cleanup_interval: Duration::from_secs(10),
            most_nodes: 20,
            removed: std::sync::mpsc::channel().0,
        };
        let (core, view) = Core::load(store, settings, self.now).expect("load");
        self.core = Some(core);
        self.view = view;
        self.turn(Vec::new());
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().expect("started")
    }

    fn turn(&mut self, actions: Vec<Action>) {
        let now = self.now;
        self.core().turn(actions, now);
        self.check();
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.unix_ms += u64::try_from(time.as_millis()).expect("small");
    }

    fn ask<T>(&mut self, action: impl FnOnce(Reply<T>) -> Action) -> Result<T, ActFault> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.turn(vec![action(reply)]);
        answer.try_recv().expect("answered when the turn is over")
    }

    /// What must hold after every turn: memory is what the database says, and what is held follows from the tasks.
    fn check(&mut self) {
        let core = self.core.as_ref().expect("started");
        let stored = core.store.live_tasks().expect("read");
        let held: Vec<&Task> = core.tasks.values().map(|live| &live.task).collect();
        assert_eq!(stored.iter().collect::<Vec<_>>(), held, "memory and database differ");
        for task in &stored {
            assert_eq!(core.queue.contains(task.id), task.standing.state == State::Pending);
            let node = task.placement.as_ref().and_then(|placement| core.nodes.get(&placement.node));
            assert!(node.is_none_or(|node| node.tasks.contains(&task.id)), "{} is on its node's list", task.id);
            assert_eq!(task.standing.state == State::Pending, task.placement.is_none());
            let shown = core.view.task(task.id).expect("readers see it");
            assert_eq!(&shown.task, task, "readers see what is stored");
        }
        for node in core.nodes.values() {
            let (line, firm): (Vec<&Task>, Vec<&Task>) = node
                .tasks
                .iter()
                .filter_map(|id| core.tasks.get(id))
                .map(|live| &live.task)
                .partition(|task| apply::is_in_line(task));
            assert!(line.iter().map(|task| task.id).eq(node.in_line.keys().copied()), "the line is who stands in it");
            let sum = |tasks: &[&Task]| tasks.iter().map(|task| task.spec.cores).sum::<u32>();
            // Those in line hold what is free, and no more.
            let cores = sum(&firm).max((sum(&firm) + sum(&line)).min(4));
            assert_eq!(node.held.cores, cores, "{}", node.record.name);
            assert_eq!(core.view.node(&node.record.name).expect("seen").cores_in_use, cores);
            let waits_for_nothing = node.parked.as_ref().is_none_or(|parked| !node.has_news(&parked.poll, "epoch1"));
            assert!(
                waits_for_nothing || core.settings.epoch != "epoch1",
                "who waits for {} is woken",
                node.record.name
            );
            let name = &node.record.name;
            let poll = |known: &str, changes, through| Poll {
                session: node.record.session.clone(),
                known: known.to_owned(),
                changes,
                parts: changes,
                through,
                may_wait: false,
            };
            let whole = core.list(name, &poll("", false, None)).expect("a list");
            let followed = self.followed.entry(name.clone()).or_default();
            // One part of a long list each time: what changes in between is told with the next.
            let news = core.list(name, &poll(&followed.version, true, followed.through)).expect("news");
            if news.base.is_none() {
                followed.list.clear();
            }
            let id = |text: &str| text.parse::<TaskId>().expect("an id");
            // What it may do before the inventory, and that it was seen, is told with the next list that is whole: who has a
            // task need not know.
            let line = |task: DesiredTask| {
                (id(&task.task_id), format!("{:?}", DesiredTask { seen: false, no_start: false, ..task }))
            };
            followed.list.extend(news.tasks.into_iter().map(line));
            news.removed.iter().for_each(|task| drop(followed.list.remove(&id(task))));
            followed.through = news.through.as_deref().map(id);
            let is_here = |task: &TaskId| followed.through.is_none_or(|through| *task <= through);
            followed.list.retain(|task, _| is_here(task));
            let expected = whole.tasks.into_iter().map(line).filter(|(task, _)| is_here(task)).collect();
            assert_eq!(followed.list, expected, "who follows the differences knows the list");
            assert_eq!((news.version.as_str(), whole.through), (whole.version.as_str(), None));
            followed.version = news.version;
        }
    }

    fn register(&mut self, name: &str, instance: &str, machine: &str) -> Result<Registered, ActFault> {
        let registration = Registration {
            name: name.parse().expect("name"),
            instance: instance.into(),
            machine_id: machine.into(),
            boot_id: "boot".into(),
            version: "1".into(),
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            inventory: Inventory { cpus: "0-3".parse().expect("cpus"), memory: 8_000_000_000, ..Inventory::default() },
        };
        self.ask(|reply| Action::Register(Box::new(registration), reply))
    }

    fn beat(&mut self, name: &str, session: &str) -> Result<String, ActFault> {
        let conditions = Conditions { docker: true, systemd: true, memory_limit: true, freezer: true };
        let beat =
            Beat { session: session.into(), figures: Figures::default(), conditions, gpus_gone: Default::default() };
        self.ask(|reply| Action::Heartbeat(name.parse().expect("name"), Box::new(beat), reply))
    }

    fn observe(&mut self, name: &str, session: &str, complete: bool, tasks: Vec<Seen>) -> Vec<Acknowledged> {
        let snapshot =
            Snapshot { session: session.into(), complete, tasks, told: Default::default(), epoch: String::new() };
        self.ask(|reply| Action::Observed(name.parse().expect("name"), snapshot, reply)).expect("taken").0
    }

    /// A node with 4 cores that takes tasks; returns its session.
    fn node(&mut self, name: &str) -> String {
        let session = self.register(name, "instance1", "machine1").expect("registered").session;
        self.beat(name, &session).expect("heartbeat");
        self.observe(name, &session, true, Vec::new());
        session
    }

    fn submit(&mut self, spec: TaskSpec) -> Result<TaskId, ActFault> {
        self.submit_with(spec, None).map(|ids| ids[0])
    }

    fn submit_with(&mut self, spec: TaskSpec, key: Option<(&str, u8)>) -> Result<Vec<TaskId>, ActFault> {
        let (action, answer) = submission(spec, key);
        self.turn(vec![action]);
        answer.try_recv().expect("answered").map(|Submitted(body)| ids_in(&body))
    }

    fn task(&self, id: TaskId) -> Task {
        self.core.as_ref().expect("started").store.task(id).expect("read").expect("there")
    }

    fn state(&self, id: TaskId) -> State {
        self.task(id).standing.state
    }

    fn desired(&mut self, name: &str, session: &str) -> DesiredAnswer {
        self.ask(|reply| Action::Desired(name.parse().expect("name"), poll(session), reply)).expect("list")
    }

    fn wants(&mut self, name: &str, session: &str) -> Vec<(String, u32, String)> {
        self.desired(name, session).tasks.into_iter().map(|task| (task.task_id, task.attempt, task.want)).collect()
    }

    fn kill(&mut self, id: TaskId) -> Result<String, ActFault> {
        self.ask(|reply| Action::Kill(id, reply))
    }

    fn control(&mut self, id: TaskId, control: Control) -> Result<String, ActFault> {
        self.ask(|reply| Action::Control(id, control, reply))
    }

    fn unknown(&self, name: &str) -> Vec<u64> {
        self.view.node(&name.parse().expect("name")).expect("node").unknown.iter().map(|id| id.get()).collect()
    }
}

fn submission(spec: TaskSpec, key: Option<(&str, u8)>) -> (Action, mpsc::Receiver<Result<Submitted, ActFault>>) {
    let (reply, answer) = mpsc::sync_channel(1);
    let submission = Submission {
        name: spec.name.clone(),
        tasks: vec![("auto".into(), Arc::new(spec))],
        refused: Vec::new(),
        idempotency: key.map(|(key, body)| Idempotency { key: key.into(), body_hash: vec![body] }),
    };
    (Action::Submit(Box::new(submission), reply), answer)
}

fn ids_in(body: &str) -> Vec<TaskId> {
    let list = body.split("\"task_ids\":[").nth(1).and_then(|rest| rest.split(']').next()).expect("task_ids");
    list.split(',').map(|id| id.trim_matches('"').parse().expect("id")).collect()
}

fn command(cores: u32) -> TaskSpec {
    TaskSpec {
        kind: TaskKind::Command { program: "true".into(), arguments: vec!["x".into()] },
        cores,
        memory: None,
        gpus: GpuRequest::None,
        target: None,
        container: Container::Environment {
            name: "base".parse().expect("name"),
            privileged: false,
            mounts: Vec::new(),
        },
        name: None,
        env: [].into(),
        patience: Patience::default(),
        time_limit: None,
        workdir: None,
        user: None,
    }
}

fn named(name: &str) -> TaskSpec {
    TaskSpec { name: Some(name.parse::<TaskName>().expect("name")), ..command(1) }
}

fn seen(id: TaskId, rev: u64, observation: Observation) -> Seen {
    Seen {
        id,
        attempt: Attempt::FIRST,
        rev,
        what: What::Report(observation),
        ssh_port: None,
        host_keys: None,
        started_ms: None,
        completed_ms: None,
        stdout_bytes: None,
        stderr_bytes: None,
        unit: None,
        nothing_left: false,
    }
}

fn stopped() -> Observation {
    Observation::Stopped { exit: Exit { code: Some(143), signal: Some(15) }, message: None }
}

#[test]
fn a_task_goes_from_submit_through_pause_to_killed() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let id = bench.submit(command(2)).expect("accepted");
    assert_eq!(bench.state(id), State::Assigning);
    assert_eq!(bench.wants("n1", &session), [(id.to_string(), 1, "run".to_owned())]);

    let running = Seen {
        ssh_port: Some(30_001),
        host_keys: Some(vec!["ssh-ed25519 AAAA".into()]),
        ..seen(id, 1, Observation::Running)
    };
    let receipts = bench.observe("n1", &session, false, vec![running]);
    assert_eq!((receipts.len(), receipts[0].rev), (1, 1));
    let task = bench.task(id);
    assert_eq!((task.standing.state, task.ssh_port), (State::Running, Some(30_001)));
    assert_eq!(task.host_keys, ["ssh-ed25519 AAAA"]);
    assert_eq!(task.started_ms, Some(bench.now.unix_ms));

    for _ in 0..2 {
        bench.control(id, Control::Pause).expect("pause, repeated or not");
    }
    assert_eq!(bench.wants("n1", &session)[0].2, "pause");
    bench.observe("n1", &session, false, vec![seen(id, 2, Observation::Paused)]);
    assert_eq!(bench.state(id), State::Paused);
    // What is so already is not said to be outstanding.
    let answer = bench.control(id, Control::Pause).expect("pause, repeated");
    assert!(answer.ends_with("is paused already."), "{answer}");
    bench.control(id, Control::Resume).expect("resume");
    bench.control(id, Control::Pause).expect("pause again");
    for _ in 0..2 {
        bench.kill(id).expect("kill of a paused task, repeated or not");
    }
    assert_eq!(bench.state(id), State::Paused, "a kill is a want until nothing of it lives");
    assert_eq!(bench.core().nodes.values().next().expect("node").held.cores, 2, "held until that report");
    assert_eq!(bench.wants("n1", &session)[0].2, "stop");
    let receipts = bench.observe("n1", &session, false, vec![seen(id, 3, stopped())]);
    assert_eq!(receipts.len(), 1);
    assert_eq!(bench.state(id), State::Killed);
    assert!(bench.wants("n1", &session).is_empty());
    assert_eq!(bench.kill(id).expect_err("final").status, 409);
    assert_eq!(bench.control(id, Control::Pause).expect_err("final").status, 400);
    assert_eq!(bench.kill(TaskId::from_u64(5)).expect_err("unknown").status, 404);

    // Repeated, late and reordered reports change nothing, and are acknowledged.
    for report in [seen(id, 2, Observation::Running), seen(id, 3, stopped())] {
        assert_eq!(bench.observe("n1", &session, false, vec![report]).len(), 1);
        assert_eq!(bench.state(id), State::Killed);
    }
}

#[test]
fn what_does_not_fit_now_waits_with_a_reason_and_is_placed_when_room_is_freed() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let first = bench.submit(command(4)).expect("accepted");
    let second = bench.submit(command(3)).expect("accepted");
    assert_eq!((bench.state(first), bench.state(second)), (State::Assigning, State::Pending));
    let waiting = bench.view.reason(&bench.view.task(second).expect("live")).expect("a reason");
    assert!(waiting.contains("n1"), "{waiting}");
    assert_eq!(bench.control(second, Control::Pause).expect_err("waiting").status, 400);
    bench.kill(first).expect("kill");
    assert_eq!(bench.state(second), State::Pending, "a kill alone frees nothing");
    bench.observe("n1", &session, false, vec![seen(first, 1, stopped())]);
    assert_eq!(bench.state(second), State::Assigning);
    let third = bench.submit(command(2)).expect("waits");
    bench.kill(third).expect("killed at once");
    assert_eq!(bench.state(third), State::Killed);
    let refused = bench.submit(command(5)).expect_err("larger than any node");
    assert_eq!(refused.status, 503);
    assert!(refused.detail.contains("n1"), "{}", refused.detail);
}

#[test]
fn no_node_gets_tasks_before_its_first_complete_inventory() {
    let mut bench = Bench::new();
    let session = bench.register("n1", "i1", "m1").expect("registered").session;
    bench.beat("n1", &session).expect("heartbeat");
    let id = bench.submit(command(1)).expect("accepted");
    assert_eq!(bench.state(id), State::Pending);
    bench.observe("n1", &session, false, Vec::new());
    assert_eq!(bench.state(id), State::Pending, "a part is no inventory");
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!(bench.state(id), State::Assigning);
}

#[test]
fn an_attempt_that_a_new_session_lacks_was_never_started() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let id = bench.submit(command(1)).expect("accepted");
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!(bench.task(id).standing.attempt, Attempt::FIRST, "in the same session it is only not seen yet");

    let again = bench.register("n1", "instance2", "machine1").expect("same machine takes over").session;
    assert_ne!(session, again);
    let old = bench.ask(|reply| Action::Desired("n1".parse().expect("name"), poll(&session), reply));
    assert_eq!(old.expect_err("the old session is over").status, 410);
    bench.beat("n1", &again).expect("heartbeat");
    assert!(bench.desired("n1", &again).tasks[0].no_start, "not before the inventory");
    bench.observe("n1", &again, true, Vec::new());
    let task = bench.task(id);
    assert_eq!((task.standing.state, task.standing.attempt), (State::Assigning, Attempt(2)), "placed anew");
    assert_eq!(bench.wants("n1", &again), [(id.to_string(), 2, "run".to_owned())]);
    assert!(!bench.desired("n1", &again).tasks[0].no_start);
    // A report of the first attempt comes late.
    assert_eq!(bench.observe("n1", &again, false, vec![seen(id, 9, Observation::Running)]).len(), 1);
    assert_eq!(bench.state(id), State::Assigning);
}

#[test]
fn a_repeated_registration_keeps_the_session() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let again = bench.register("n1", "instance1", "machine1").expect("again");
    assert_eq!(again.session, session);
    bench.submit(command(1)).expect("accepted");
    assert_eq!(bench.wants("n1", &session).len(), 1);
}

#[test]
fn a_name_that_is_heard_from_another_machine_is_refused_until_it_is_silent() {
    let mut bench = Bench::new();
    bench.node("n1");
    let fault = bench.register("n1", "instance9", "machine9").expect_err("taken");
    assert_eq!(fault.status, 409);
    assert!(fault.detail.contains("n1") && fault.detail.contains("10.0.0.1"), "{}", fault.detail);
    bench.pass(TIMEOUT);
    bench.register("n1", "instance9", "machine9").expect("the first is silent");
}

#[test]
fn another_machine_does_not_speak_for_tasks_of_the_one_before() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    // One that may have been started although nobody has heard of it, too.
    let [ran, given] = [1, 1].map(|cores| bench.submit(command(cores)).expect("accepted"));
    bench.observe("n1", &session, false, vec![seen(ran, 1, Observation::Running)]);
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    assert_eq!([ran, given].map(|id| bench.state(id)), [State::Lost, State::Lost]);
    let fault = bench.register("n1", "instance9", "machine9").expect_err("it knows nothing of them");
    assert!(fault.status == 409 && fault.detail.contains("client forget n1"), "{}", fault.detail);
    bench.register("n1", "instance2", "machine1").expect("the same machine may");
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    bench.ask(|reply| Action::Forget("n1".parse().expect("name"), reply)).expect("a user says that it is gone");
    bench.register("n1", "instance9", "machine9").expect("a new node");
    assert_eq!([ran, given].map(|id| bench.state(id)), [State::Failed, State::Failed]);
}

#[test]
fn what_a_complete_inventory_lacks_though_it_was_seen_has_an_unknown_result() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let (gone, killed) = (bench.submit(command(1)).expect("accepted"), bench.submit(command(1)).expect("accepted"));
    bench.observe(
        "n1",
        &session,
        false,
        vec![seen(gone, 1, Observation::Running), seen(killed, 1, Observation::Running)],
    );
    bench.kill(killed).expect("kill");
    bench.observe("n1", &session, false, Vec::new());
    assert_eq!(bench.state(gone), State::Running, "absence from a part says nothing");
    let epoch = bench.beat("n1", &session).expect("heartbeat");
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!(bench.state(gone), State::Running, "one inventory may be a late copy of an old call");
    assert_ne!(bench.beat("n1", &session).expect("heartbeat"), epoch, "so the node is asked once more");
    let alive = [seen(gone, 1, Observation::Running), seen(killed, 1, Observation::Running)];
    bench.observe("n1", &session, true, alive.into());
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!(bench.state(gone), State::Running, "it was there in between");
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!((bench.state(gone), bench.state(killed)), (State::Failed, State::Killed));
    assert!(bench.task(gone).standing.note.expect("why").contains("unknown"));
}

#[test]
fn a_silent_node_loses_its_tasks_keeps_what_they_hold_and_gives_them_back() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let living = bench.submit(command(2)).expect("accepted");
    let ended = bench.submit(command(1)).expect("accepted");
    let killed = bench.submit(command(1)).expect("accepted");
    let running: Vec<Seen> = [living, ended, killed].map(|id| seen(id, 1, Observation::Running)).into();
    bench.observe("n1", &session, false, running);
    let epoch = bench.beat("n1", &session).expect("heartbeat");

    bench.pass(TIMEOUT - Duration::from_millis(1));
    bench.turn(Vec::new());
    assert_eq!(bench.state(living), State::Running);
    let deadline = bench.core().next_deadline();
    assert!(deadline <= bench.now.instant + Duration::from_millis(1), "the engine wakes for it");
    bench.pass(Duration::from_millis(1));
    bench.turn(Vec::new());
    assert_eq!(bench.view.node(&"n1".parse().expect("name")).expect("node").status(), "offline");
    assert_eq!([living, ended, killed].map(|id| bench.state(id)), [State::Lost; 3]);
    assert_eq!(bench.core().nodes.values().next().expect("node").held.cores, 4);
    bench.kill(killed).expect("a lost task can be killed");
    assert_eq!(bench.state(killed), State::Lost);
    assert_eq!(bench.control(living, Control::Pause).expect_err("lost").status, 400);

    let new_epoch = bench.beat("n1", &session).expect("it is back");
    assert_ne!(epoch, new_epoch, "it is asked for all that it has");
    assert_eq!(bench.state(living), State::Lost, "until it says so");
    assert_eq!(bench.wants("n1", &session).len(), 3, "lost tasks stay on its list");
    let exited = Observation::Exited { exit: Exit { code: Some(3), signal: None }, oom: false, message: None };
    let inventory = vec![seen(living, 1, Observation::Running), seen(ended, 2, exited), seen(killed, 2, stopped())];
    bench.observe("n1", &session, true, inventory);
    assert_eq!([living, ended, killed].map(|id| bench.state(id)), [State::Running, State::Failed, State::Killed]);
    assert_eq!(bench.task(ended).standing.exit.code, Some(3));
}

#[test]
fn a_restart_of_the_host_loses_nothing_and_gives_nodes_a_full_time_out() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let (running, waiting) = (bench.submit(command(4)).expect("accepted"), bench.submit(command(1)).expect("waits"));
    bench.observe("n1", &session, false, vec![seen(running, 1, Observation::Running)]);
    bench.pass(TIMEOUT * 10);
    bench.start("epoch2");
    assert_eq!((bench.state(running), bench.state(waiting)), (State::Running, State::Pending));
    bench.pass(TIMEOUT - Duration::from_millis(1));
    bench.turn(Vec::new());
    assert_eq!(bench.state(running), State::Running);
    let epoch = bench.beat("n1", &session).expect("sessions survive a restart");
    assert!(epoch.starts_with("epoch2"));
    bench.kill(running).expect("kill");
    bench.observe("n1", &session, false, vec![seen(running, 2, stopped())]);
    assert_eq!(bench.state(waiting), State::Pending, "not before a complete inventory");
    bench.observe("n1", &session, true, Vec::new());
    assert_eq!(bench.state(waiting), State::Assigning);
    let newest = bench.submit(command(1)).expect("accepted");
    assert!(newest > waiting);
}

#[test]
fn the_same_key_and_body_get_the_first_answer_and_another_body_is_refused() {
    let mut bench = Bench::new();
    bench.node("n1");
    let first = bench.submit_with(named("dev"), Some(("key", 1))).expect("accepted");
    assert_eq!(bench.submit_with(named("dev"), Some(("key", 1))), Ok(first.clone()), "its own name is no clash");
    assert_eq!(bench.submit_with(command(1), Some(("key", 2))).expect_err("another body").status, 409);
    bench.start("epoch2");
    assert_eq!(bench.submit_with(named("dev"), Some(("key", 1))), Ok(first));
    // Refusals are not kept.
    let mut large = command(99);
    assert_eq!(bench.submit_with(large.clone(), Some(("later", 1))).expect_err("too large").status, 503);
    large.cores = 1;
    bench.submit_with(large, Some(("later", 2))).expect("now it is accepted");

    // Both in one turn.
    let (one, first) = submission(command(1), Some(("twice", 1)));
    let (two, second) = submission(command(1), Some(("twice", 1)));
    let (three, third) = submission(command(1), Some(("twice", 2)));
    bench.turn(vec![one, two, three]);
    let answer = |answer: mpsc::Receiver<Result<Submitted, ActFault>>| answer.try_recv().expect("answered");
    assert_eq!(answer(first), answer(second));
    assert_eq!(answer(third).expect_err("another body").status, 409);
}

#[test]
fn a_name_is_held_until_its_task_is_settled() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let first = bench.submit(named("dev")).expect("accepted");
    let clash = bench.submit(named("dev")).expect_err("held");
    assert_eq!(clash.status, 409);
    assert!(clash.detail.contains(&first.to_string()) && clash.detail.contains("n1"), "{}", clash.detail);
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    assert_eq!(bench.state(first), State::Lost);
    assert_eq!(bench.submit(named("dev")).expect_err("a lost task holds it").status, 409);
    bench.beat("n1", &session).expect("back");
    bench.observe("n1", &session, true, vec![seen(first, 1, stopped())]);
    let second = bench.submit(named("dev")).expect("free again");
    assert_eq!(bench.view.holder(&"dev".parse().expect("name")).expect("holder").task.id, second);
}

#[test]
fn a_turn_that_cannot_be_stored_is_refused_whole_and_the_engine_goes_on() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let kept = bench.submit(command(1)).expect("accepted");
    bench.core().store.limit_growth(0);
    let mut large = command(1);
    large.env = [
        EnvVar::new("A", &"x".repeat(100_000)).expect("variable"),
        EnvVar::new("B", &"x".repeat(100_000)).expect("variable"),
    ]
    .into();
    let (one, first) = submission(large.clone(), Some(("key", 1)));
    let (two, second) = submission(command(1), None);
    bench.turn(vec![two, one]);
    for answer in [first, second] {
        let fault = answer.try_recv().expect("answered").expect_err("not stored");
        assert_eq!(fault.status, 503);
        assert!(fault.detail.contains("full"), "{}", fault.detail);
    }
    assert_eq!(bench.state(kept), State::Assigning, "reads go on");
    bench.beat("n1", &session).expect("and so do heartbeats");
    assert_eq!(bench.core().tasks.len(), 1);
    bench.core().store.limit_growth(10_000);
    bench.pass(Duration::from_secs(1));
    bench.submit_with(large, Some(("key", 1))).expect("it recovers by itself");
    assert_eq!(bench.core().tasks.len(), 2);
}

#[test]
fn patience_ends_and_impatience_is_refused_at_once() {
    let mut bench = Bench::new();
    bench.node("n1");
    bench.submit(command(4)).expect("accepted");
    let mut patient = command(1);
    patient.patience.max_wait = Some(Duration::from_secs(20));
    let waiting = bench.submit(patient).expect("waits");
    let mut immediate = named("now");
    immediate.patience.immediate = true;
    let refused = bench.submit(immediate).expect_err("no room now");
    assert_eq!(refused.status, 503);
    assert!(refused.detail.contains("n1"), "{}", refused.detail);
    assert!(bench.view.holder(&"now".parse().expect("name")).is_none());
    bench.pass(Duration::from_secs(19));
    bench.start("epoch2");
    assert_eq!(bench.state(waiting), State::Pending);
    bench.pass(Duration::from_secs(1));
    bench.turn(Vec::new());
    assert_eq!(bench.state(waiting), State::Failed);
    assert!(bench.task(waiting).standing.note.expect("why").contains("waited longer"));
}

#[test]
fn patience_is_remembered_only_for_those_that_wait() {
    let mut bench = Bench::new();
    let mut patient = command(3);
    patient.patience.max_wait = Some(Duration::from_secs(86_400));
    let waiting: Vec<TaskId> = (0..3).map(|_| bench.submit(patient.clone()).expect("waits")).collect();
    assert_eq!(bench.core().give_up.len(), 3);
    bench.kill(waiting[2]).expect("killed");
    assert_eq!(bench.core().give_up.len(), 2);
    bench.node("n1");
    assert_eq!((bench.state(waiting[0]), bench.core().give_up.len()), (State::Assigning, 1));
    bench.start("epoch2");
    assert_eq!(bench.core().give_up.len(), 1);
}

#[test]
fn what_the_database_does_not_know_is_listed_and_never_acknowledged() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let mine = bench.submit(command(1)).expect("accepted");
    let foreign = TaskId::from_u64(77);
    let unknown = |id: TaskId| Seen { what: What::Unknown, ..seen(id, 1, Observation::Running) };
    let receipts = bench.observe("n1", &session, true, vec![unknown(foreign), unknown(mine)]);
    assert!(receipts.is_empty());
    assert_eq!(bench.unknown("n1"), [77], "what is on the list is not unknown");
    let receipts = bench.observe("n1", &session, false, vec![seen(foreign, 2, stopped())]);
    assert!(receipts.is_empty(), "a receipt would have it removed");
    assert_eq!(bench.unknown("n1"), [77], "its result is there");
    let gone = Seen { nothing_left: true, ..seen(foreign, 3, stopped()) };
    let receipts = bench.observe("n1", &session, false, vec![gone]);
    assert!(receipts.is_empty(), "it is told to whoever knows it");
    assert!(bench.unknown("n1").is_empty(), "and until then nothing is there");
    bench.observe("n1", &session, true, vec![unknown(foreign)]);
    assert_eq!(bench.unknown("n1"), [77]);
    bench.observe("n1", &session, true, vec![seen(mine, 1, Observation::Running)]);
    assert!(bench.unknown("n1").is_empty());
}

#[test]
fn a_node_is_drained_and_forgotten() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let name = || "n1".parse::<NodeName>().expect("name");
    let running = bench.submit(command(1)).expect("accepted");
    bench.observe("n1", &session, false, vec![seen(running, 1, Observation::Running)]);
    bench.ask(|reply| Action::Drain(name(), true, reply)).expect("drained");
    assert_eq!(bench.view.node(&name()).expect("node").status(), "draining");
    let waits = bench.submit(command(1)).expect("waits");
    assert_eq!((bench.state(running), bench.state(waits)), (State::Running, State::Pending));
    let mut named_node = command(1);
    named_node.target = Some(target::parse("n1").expect("target").0);
    assert!(bench.submit(named_node.clone()).expect_err("draining").detail.contains("drain"));
    named_node.patience.queue = true;
    let queued = bench.submit(named_node).expect("waits for it");
    bench.ask(|reply| Action::Drain(name(), false, reply)).expect("undrained");
    assert_eq!((bench.state(waits), bench.state(queued)), (State::Assigning, State::Assigning));

    let fault = bench.ask(|reply| Action::Forget(name(), reply)).expect_err("online");
    assert_eq!(fault.status, 409);
    let fault = bench.ask(|reply| Action::Forget("n2".parse().expect("name"), reply)).expect_err("unknown");
    assert!(fault.status == 404 && fault.detail.contains("n1"), "{fault:?}");
    bench.pass(TIMEOUT);
    bench.turn(Vec::new());
    bench.ask(|reply| Action::Forget(name(), reply)).expect("forgotten");
    for id in [running, waits, queued] {
        assert_eq!(bench.state(id), State::Failed);
        assert!(bench.task(id).standing.note.expect("why").contains("forgotten"));
    }
    let fault = bench.beat("n1", &session).expect_err("it has to register anew");
    assert_eq!(fault.status, 404);
}

#[test]
fn every_change_is_an_event_with_its_cause() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let since = bench.core().store.last_event().expect("read");
    let mut spec = command(1);
    spec.memory = Some(Bytes(1_000));
    let id = bench.submit(spec).expect("accepted");
    bench.observe("n1", &session, false, vec![seen(id, 1, Observation::Running)]);
    bench.kill(id).expect("kill");
    bench.observe("n1", &session, false, vec![seen(id, 2, stopped())]);
    let events = bench.core().store.readers().events_after(since, 100, &EventFilter::default()).expect("events").0;
    let told: Vec<(Option<&str>, &str)> =
        events.iter().map(|event| (event.from.as_deref(), event.to.as_str())).collect();
    let expected = [
        (None, "pending"),
        (Some("pending"), "assigning"),
        (Some("assigning"), "running"),
        (Some("running"), "running"),
        (Some("running"), "killed"),
    ];
    assert_eq!(told, expected);
    assert!(events.iter().all(|event| event.task == Some(id) && !event.cause.is_empty()));
    assert_eq!(bench.view.events.number(), events.last().expect("last").seq, "who waits for events is woken");
}

#[test]
fn what_is_too_old_is_told_so_that_its_files_go_too() {
    let mut bench = Bench::new();
    let (tell, removed) = std::sync::mpsc::channel();
    bench.core().settings.removed = tell;
    bench.node("n1");
    let [old, newest] = [(); 2].map(|()| {
        let id = bench.submit(command(1)).expect("accepted");
        bench.kill(id).expect("kill");
        id
    });
    let session = bench.core().nodes.values().next().expect("there").record.session.clone();
    bench.observe("n1", &session, false, vec![seen(old, 1, stopped()), seen(newest, 1, stopped())]);
    assert_eq!([old, newest].map(|id| bench.state(id)), [State::Killed; 2]);
    bench.pass(Duration::from_secs(11));
    bench.turn(Vec::new());
    assert!(removed.try_recv().is_err(), "not old enough");
    bench.pass(Duration::from_secs(2 * 86_400));
    bench.turn(Vec::new());
    assert_eq!(removed.try_recv(), Ok(vec![old]), "the newest stays, so that ids never repeat");
}

/// A poll that knows the newest version is answered by the turn that makes another one, with the difference; and nobody's
/// waits for ever.
#[test]
fn a_poll_is_answered_when_there_is_something_new() {
    let mut bench = Bench::new();
    let session = bench.node("n1");
    let name: NodeName = "n1".parse().expect("name");
    let park = |bench: &mut Bench, session: &str, known: &str| {
        let (reply, answer) = mpsc::sync_channel(1);
        let poll = Poll { known: known.to_owned(), changes: true, may_wait: true, ..poll(session) };
        bench.turn(vec![Action::Desired(name.clone(), poll, reply)]);
        answer
    };
    let first = park(&mut bench, &session, "").try_recv().expect("at once").expect("a list");
    assert!(first.base.is_none() && first.tasks.is_empty());
    let answer = park(&mut bench, &session, &first.version);
    bench.beat("n1", &session).expect("heartbeat");
    assert!(answer.try_recv().is_err(), "nothing is new");
    let (one, two) = (bench.submit(command(1)).expect("placed"), bench.submit(command(1)).expect("placed"));
    let second = answer.try_recv().expect("woken").expect("news");
    assert_eq!(
        (second.base.as_deref(), second.tasks.len()),
        (Some(first.version.as_str()), 1),
        "the first alone was there"
    );
    assert_eq!(second.tasks[0].task_id, one.to_string());
    let third = park(&mut bench, &session, &second.version).try_recv().expect("at once").expect("news");
    assert_eq!(third.tasks.iter().map(|task| task.task_id.clone()).collect::<Vec<_>>(), [two.to_string()]);
    // What ends is gone from the list.
    let answer = park(&mut bench, &session, &third.version);
    let end = Observation::Exited { exit: Exit::status(0), oom: false, message: None };
    bench.observe("n1", &session, false, vec![seen(one, 1, end)]);
    let fourth = answer.try_recv().expect("woken").expect("news");
    assert_eq!((fourth.tasks.len(), fourth.removed), (0, vec![one.to_string()]));
    // A second poll of the same node answers the first.
    let answer = park(&mut bench, &session, &fourth.version);
    let other = park(&mut bench, &session, &fourth.version);
    assert_eq!(answer.try_recv().expect("answered").expect("nothing new").version, fourth.version);
    // Another session ends it.
    let session = bench.register("n1", "instance2", "machine1").expect("registered").session;
    assert_eq!(other.try_recv().expect("answered").expect_err("over").status, 410);
    bench.observe("n1", &session, true, Vec::new());
    let fifth = park(&mut bench, &session, &fourth.version).try_recv().expect("at once").expect("a list");
    assert_eq!(fifth.base, None, "what was known in an earlier session counts for nothing");
    // A Host that stops lets everyone go, and parks nobody.
    let answer = park(&mut bench, &session, &fifth.version);
    bench.turn(vec![Action::LetGo]);
    assert!(answer.try_recv().expect("answered").is_ok());
    assert!(park(&mut bench, &session, &fifth.version).try_recv().is_ok());
}
