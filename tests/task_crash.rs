//! What was running goes on, and what ended meanwhile has its true result, whoever is killed.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use hakuriver::api::public::{HealthRow, SubmitBody, TaskRecord};
use hakuriver::runner::supervise::protocol::socket_name;
use nanoserde::DeJson;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::invariants::Witness;
use crate::program::docker;
use crate::tasks::{Latches, mark, millis, now_millis, null_body, seen, start_time};
use crate::wait;

/// Who is killed beside the Runner, and what is lost.
#[derive(Clone, Copy, PartialEq)]
enum Also {
    Nothing,
    /// The Runner's state directory is deleted.
    State,
    /// The Host is killed in the same moment.
    Host,
}

/// With or without a container: so many run, as many wait, and half of the running ones end meanwhile.
struct Crash {
    container: bool,
    running: usize,
    also: Also,
}

/// One that is being watched.
struct Watched {
    id: String,
    /// Process number and start time, or the container's id and start time.
    life: (String, String),
}

impl Crash {
    fn run(&self) {
        let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
        cluster.start_host();
        cluster.start_runner("a");
        let latches = Latches::new(&cluster);
        let witness = Witness::of(&cluster);
        let ids = self.submit(&cluster, &latches);
        witness.acknowledged(&ids);
        for (at, id) in ids.iter().enumerate() {
            witness.expect(id, code(at).into(), Some(latches.dir.join(format!("start-{at}"))));
        }
        let (first, waiting) = ids.split_at(self.running);
        let ending = self.running / 2;
        let watched: Vec<Watched> = first
            .iter()
            .map(|id| {
                cluster.await_status(id, "running");
                cluster.await_lines(id, 2);
                Watched { id: id.clone(), life: self.life(&cluster, id).expect("it runs") }
            })
            .collect();
        for id in waiting {
            assert_eq!(cluster.status(id).status, "pending", "the memory is all held");
        }

        cluster.kill9("runner-a");
        if self.also == Also::Host {
            cluster.kill9("host");
        }
        let before = now_millis();
        for (at, one) in watched.iter().enumerate().take(ending) {
            latches.open(&at.to_string());
            wait::until_true(&format!("task {} has ended", one.id), SOON, || {
                (!self.lives(&cluster, one), "it lives".to_owned())
            });
        }
        let after = now_millis();
        witness.check();
        if self.also == Also::State {
            fs::remove_dir_all(cluster.runner_dir("a")).unwrap();
        }
        if self.also == Also::Host {
            cluster.start_host();
        }
        cluster.start_runner("a");

        for (at, one) in watched.iter().enumerate().take(ending) {
            let record = cluster.await_end(&one.id);
            let status = if at == 0 { "completed" } else { "failed" };
            assert_eq!((record.status.as_str(), record.exit_code), (status, Some(at as i32)), "{}", seen(&record));
            assert_eq!((record.attempt, record.exit_signal), (1, None), "{record:?}");
            let ended = millis(record.completed_at.as_ref().expect("a time"));
            // Its parent hears of an end a moment after everybody can see it; on a machine full of tests, a long moment.
            assert!((before - 1..=after + 1_000).contains(&ended), "{ended} is not between {before} and {after}");
            self.check_output(&cluster, at, one);
        }
        for one in &watched[ending..] {
            cluster.await_status(&one.id, "running");
            assert!(self.lives(&cluster, one), "the same process goes on: {:?}", one.life);
            assert_eq!(cluster.status(&one.id).attempt, 1);
        }
        for (at, id) in ids.iter().enumerate().skip(ending) {
            latches.open(&at.to_string());
            let record = cluster.await_end(id);
            assert_eq!(record.exit_code, Some(code(at)), "{}", seen(&record));
            assert_eq!(record.attempt, 1, "{record:?}");
            match watched.get(at) {
                Some(one) => self.check_output(&cluster, at, one),
                None => {
                    let lines = cluster.await_lines(id, 3);
                    assert_eq!(lines[1..], [format!("begin {at}"), format!("end {at}")]);
                }
            }
        }
        witness.settles(&cluster, SOON);
    }

    fn submit(&self, cluster: &Cluster, latches: &Latches) -> Vec<String> {
        let node: Vec<HealthRow> =
            DeJson::deserialize_json(&cluster.get(&format!("/health?hostname={}", cluster.node("a")))).unwrap();
        // So much each that no more fit, though they have no cores of their own.
        let memory = node[0].memory_total_bytes.expect("the node tells") / self.running as u64;
        let seen = if self.container { Path::new("/latches") } else { &*latches.dir };
        let script = |at: usize| {
            format!(
                "echo $$ | tee -a {}\necho begin {at}\n{}\necho end {at}\necho error {at} >&2\nexit {}",
                seen.join(format!("start-{at}")).display(),
                latches.wait_in(&at.to_string(), seen),
                code(at)
            )
        };
        let sets = (0..2 * self.running).map(|at| vec!["-c".to_owned(), script(at)]).collect();
        cluster.submit_body(&SubmitBody {
            required_cores: Some(0),
            required_memory_bytes: Some(memory),
            container_name: Some(if self.container { "bare" } else { "NULL" }.to_owned()),
            additional_mounts: self.container.then(|| vec![format!("{}:/latches:rw", latches.dir.display())]),
            argument_sets: Some(sets),
            ..null_body("/bin/sh", &[])
        })
    }

    /// What names the process or container that runs now.
    fn life(&self, cluster: &Cluster, id: &str) -> Option<(String, String)> {
        if self.container {
            let container = cluster.containers(id).pop()?;
            let state = docker(&["inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", &container]);
            let started = state.strip_prefix("true ")?;
            return Some((container, started.to_owned()));
        }
        let pid = cluster.await_pid(id);
        start_time(pid).map(|start| (pid.to_string(), start.to_string()))
    }

    /// It is still that process or container.
    fn lives(&self, cluster: &Cluster, one: &Watched) -> bool {
        if self.container {
            return self.life(cluster, &one.id).as_ref() == Some(&one.life);
        }
        start_time(one.life.0.parse().unwrap()).is_some_and(|start| start.to_string() == one.life.1)
    }

    fn check_output(&self, cluster: &Cluster, at: usize, one: &Watched) {
        let record = cluster.status(&one.id);
        if self.also == Also::State {
            // What had been shipped is there; what was written later went with the directory, and that is said.
            let text = cluster.stdout(&one.id);
            assert!(text.contains(&format!("begin {at}\n")), "{text:?}");
            let said = format!("{:?} {:?}", record.error_message, record.reason);
            assert!(said.contains("output"), "the missing output is reported: {}", seen(&record));
            return;
        }
        let pid = if self.container { cluster.await_lines(&one.id, 1).remove(0) } else { one.life.0.clone() };
        wait::until("every byte of both streams", SOON, || {
            let streams = (cluster.stdout(&one.id), String::from_utf8(cluster.output(&one.id, "stderr")).unwrap());
            let wanted = (format!("{pid}\nbegin {at}\nend {at}\n"), format!("error {at}\n"));
            if streams == wanted { Ok(()) } else { Err(format!("{streams:?}")) }
        });
    }
}

/// The exit code of a task: 0 to 9.
fn code(at: usize) -> i32 {
    (at % 10) as i32
}

#[test]
fn runner_killed() {
    Crash { container: false, running: 20, also: Also::Nothing }.run();
}

#[test]
fn runner_killed_and_its_state_deleted() {
    Crash { container: false, running: 20, also: Also::State }.run();
}

#[test]
fn runner_and_host_killed() {
    Crash { container: false, running: 20, also: Also::Host }.run();
}

#[test]
fn runner_killed_with_containers() {
    Crash { container: true, running: 20, also: Also::Nothing }.run();
}

#[test]
fn runner_killed_and_its_state_deleted_with_containers() {
    Crash { container: true, running: 6, also: Also::State }.run();
}

#[test]
fn runner_and_host_killed_with_containers() {
    Crash { container: true, running: 6, also: Also::Host }.run();
}

#[test]
fn supervisor_killed() {
    let mark = mark();
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let forest = format!("echo $$\nsetsid sh -c 'sleep {mark} & sleep {mark}' &\nsleep {mark}\nexit 0");
    let ids = cluster.scripts(0, None, &vec![forest; 3]);
    for id in &ids {
        cluster.await_pid(id);
        cluster.await_status(id, "running");
    }
    let witness = Witness::of(&cluster);
    witness.acknowledged(&ids);
    let ended = cluster.script(&["--cores", "0"], "exit 4");
    assert_eq!(cluster.await_status(&ended, "failed").exit_code, Some(4));
    kill(Pid::from_raw(cluster.supervisor() as i32), Signal::SIGKILL).unwrap();
    for id in &ids {
        let record = cluster.await_status(id, "failed");
        assert!(record.error_message.as_deref().unwrap_or_default().contains("result unknown"), "{}", seen(&record));
        assert_eq!(record.exit_code, None, "{record:?}");
    }
    assert_eq!(crate::tasks::processes_with(&mark), [] as [u32; 0], "nothing of them lives");
    assert_eq!(cluster.status(&ended).exit_code, Some(4), "what was told stays");
    // And the next ones run.
    let next = cluster.script(&[], "exit 0");
    cluster.await_status(&next, "completed");
    witness.settles(&cluster, SOON);
}

/// From then on a new task goes to the node at once, and the Runner has seen that no supervisor is there.
fn await_inventory(cluster: &Cluster) {
    wait::until("the Host knows which tasks are there", SOON, || {
        let log = cluster.log("runner-a");
        if log.contains("the Host knows which tasks are here") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_supervisor_that_cannot_be_had_is_what_a_task_waits_for() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    // Something else has its place, and hangs up.
    await_inventory(&cluster);
    let name = socket_name(cluster.cluster_id().expect("the Host has told it"), &cluster.node("a"));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let thief = UnixListener::bind_addr(&address).unwrap();
    thief.set_nonblocking(true).unwrap();
    let id = cluster.script(&[], "exit 7");
    wait::until("it says what it waits for", SOON, || {
        drop(thief.accept());
        let record = cluster.status(&id);
        let reason = record.reason.clone().unwrap_or_default();
        if reason.contains("waiting for the supervisor of this node's tasks") { Ok(()) } else { Err(seen(&record)) }
    });
    drop(thief);
    let record = cluster.await_status(&id, "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(7), 1), "{}", seen(&record));
}

/// What a node has of its records after its Runner died.
#[derive(Clone, Copy, PartialEq)]
enum Records {
    Whole,
    Lost,
    /// A line of the supervisor's journal cannot be read.
    Damaged,
}

/// The Host hears that its node gets a task ready, and then for longer than the time-out nothing. What it had of it, nobody has begun.
fn runner_gone_before_it_began(records: Records) -> TaskRecord {
    let settings = Settings { no_environment: true, timeout_factor: 3, ..Settings::default() };
    let mut cluster = Cluster::host_and_runner(settings);
    await_inventory(&cluster);
    let noted = cluster.runner_dir("a").join("first-list");
    wait::until_true("it has heard the Host's list", SOON, || (noted.exists(), noted.display().to_string()));
    let name = socket_name(cluster.cluster_id().expect("the Host has told it"), &cluster.node("a"));
    let thief = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    thief.set_nonblocking(true).unwrap();
    let ran = cluster.dir.join("ran");
    let id = cluster.script(&[], &format!("echo ran >>{}; exit 7", ran.display()));
    wait::until("it says what it waits for", SOON, || {
        drop(thief.accept());
        let record = cluster.status(&id);
        let reason = record.reason.clone().unwrap_or_default();
        if reason.contains("waiting for the supervisor of this node's tasks") { Ok(()) } else { Err(seen(&record)) }
    });
    cluster.kill9("runner-a");
    cluster.await_status(&id, "lost");
    let folder = cluster.runner_dir("a");
    match records {
        Records::Whole => {}
        Records::Lost => fs::remove_dir_all(folder).unwrap(),
        Records::Damaged => {
            fs::create_dir_all(folder.join("supervisor")).unwrap();
            fs::write(folder.join("supervisor/journal"), "no line\nnor this\n").unwrap();
        }
    }
    drop(thief);
    cluster.start_runner("a");
    let record = cluster.await_end(&id);
    let times = fs::read_to_string(&ran).unwrap_or_default().lines().count();
    assert_eq!(times, usize::from(records == Records::Whole), "{}", seen(&record));
    record
}

#[test]
fn what_a_node_had_not_begun_when_its_runner_died_is_begun_after_a_silence_too() {
    let record = runner_gone_before_it_began(Records::Whole);
    assert_eq!((record.exit_code, record.attempt), (Some(7), 2), "{}", seen(&record));
}

#[test]
fn what_a_node_cannot_know_any_more_is_not_begun_a_second_time() {
    for records in [Records::Lost, Records::Damaged] {
        let record = runner_gone_before_it_began(records);
        let end = (record.status.as_str(), record.exit_code, record.attempt);
        assert_eq!(end, ("failed", None, 1), "{}", seen(&record));
        assert!(record.error_message.as_deref().unwrap_or_default().contains("result unknown"), "{}", seen(&record));
    }
}

#[test]
fn a_task_that_is_killed_while_it_waits_for_the_supervisor_never_starts() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    await_inventory(&cluster);
    let name = socket_name(cluster.cluster_id().expect("the Host has told it"), &cluster.node("a"));
    let thief = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let ran = cluster.dir.join("ran");
    let id = cluster.script(&[], &format!("touch {}", ran.display()));
    cluster.await_status(&id, "assigning");
    let witness = Witness::of(&cluster);
    cluster.cli(&["task", "kill", &id]).ok();
    witness.killed(&id);
    witness.check();
    drop(thief);
    let record = cluster.await_status(&id, "killed");
    assert_eq!((record.exit_code, &record.error_message), (None, &None), "{}", seen(&record));
    // One after it runs, so this one would have.
    let next = cluster.script(&[], "exit 0");
    cluster.await_status(&next, "completed");
    assert!(!ran.exists());
}

#[test]
fn a_runner_that_lost_count_of_its_reports_is_believed_all_the_same() {
    let mut cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let latches = Latches::new(&cluster);
    let witness = Witness::of(&cluster);
    let script = |at: i32| format!("echo $$; {}; exit {at}", latches.wait(&at.to_string()));
    let ids = cluster.scripts(0, None, &[script(3), script(4)]);
    ids.iter().for_each(|id| drop(cluster.await_status(id, "running")));
    // What the Host has heard is later than all that this node's clock can make: it was set back, or ran ahead once.
    cluster.kill9("host");
    let database = rusqlite::Connection::open(cluster.dir.join("cluster.db")).unwrap();
    database.execute("UPDATE tasks SET rev = rev + 100000000", []).unwrap();
    drop(database);
    cluster.kill9("runner-a");
    fs::remove_dir_all(cluster.runner_dir("a")).unwrap();
    cluster.start_host();
    cluster.start_runner("a");
    for (id, code) in ids.iter().zip([3, 4]) {
        latches.open(&code.to_string());
        let record = cluster.await_status(id, "failed");
        assert_eq!((record.exit_code, record.attempt), (Some(code), 1), "{}", seen(&record));
    }
    witness.settles(&cluster, SOON);
}
