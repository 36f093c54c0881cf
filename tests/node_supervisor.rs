//! The parent of tasks without a container, on its own: with the Runner's line to it, and no Host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use hakuriver::runner::executor::Owner;
use hakuriver::runner::message::Message;
use hakuriver::runner::supervise::protocol::{End, Start, TaskState, Which};
use hakuriver::runner::supervisor::Supervisor;
use hakuriver::sys::shutdown::Stop;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{SOON, binary};
use crate::wait;

/// A supervisor's surroundings, and a Runner's line to it.
struct Line {
    owner: Owner,
    folder: PathBuf,
    supervisor: Supervisor,
    messages: Receiver<Message>,
    stop: Stop,
    states: BTreeMap<u64, TaskState>,
    heard_all: bool,
}

impl Line {
    fn new(name: &str) -> Self {
        let tag = format!("hrt-{}-{name}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&tag);
        fs::create_dir_all(&folder).unwrap();
        Self::open(Owner { cluster: format!("c{:08x}", std::process::id()), node: tag }, folder)
    }

    fn open(owner: Owner, folder: PathBuf) -> Self {
        let (tell, messages) = channel();
        let stop = Stop::new();
        let supervisor = Supervisor::open(&owner, &folder, &binary(), tell, &stop).unwrap();
        Self { owner, folder, supervisor, messages, stop, states: BTreeMap::new(), heard_all: false }
    }

    /// A new Runner's line to the same supervisor.
    fn again(self) -> Self {
        self.stop.set();
        let again = Self::open(self.owner.clone(), self.folder.clone());
        std::mem::forget(self);
        again
    }

    fn order(&self, task: u64, argv: &[&str]) -> Start {
        Start {
            task,
            attempt: 1,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: [("PATH", "/usr/bin:/bin"), ("HAKURIVER_TASK_ID", &task.to_string())]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            output: self.folder.join(format!("outputs/{task}.1")).to_str().unwrap().to_owned(),
            ..Start::default()
        }
    }

    fn start(&self, task: u64, argv: &[&str]) {
        self.supervisor.start(self.order(task, argv));
    }

    /// Hears until `done`, with the last states in the message if that does not come.
    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&BTreeMap<u64, TaskState>, bool) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(&self.states, self.heard_all) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(Message::Supervised { states, complete }) => {
                    if complete.is_some() {
                        self.heard_all = true;
                        self.states.clear();
                    }
                    self.states.extend(states.into_iter().map(|state| (state.task, state)));
                }
                Ok(_) => {}
                Err(_) => panic!("{what} did not come; the last states: {:#?}\nlog: {}", self.states, self.log()),
            }
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("supervisor/log")).unwrap_or_default()
    }

    #[track_caller]
    fn end(&mut self, task: u64) -> End {
        self.until(&format!("the end of {task}"), |states, _| {
            states.get(&task).is_some_and(|state| state.end.is_some())
        });
        self.states[&task].end.clone().unwrap()
    }

    #[track_caller]
    fn phase(&mut self, task: u64, phase: &str) -> u32 {
        self.until(&format!("{task} {phase}"), |states, _| states.get(&task).is_some_and(|state| state.phase == phase));
        self.states[&task].pid.unwrap_or_default()
    }

    fn stdout(&self, task: u64) -> Vec<u8> {
        fs::read(self.folder.join(format!("outputs/{task}.1.stdout"))).unwrap()
    }

    fn which(task: u64) -> Which {
        Which { task, attempt: 1 }
    }

    fn pid(&self) -> i32 {
        supervisor_pid(&self.owner.node).expect("it runs")
    }
}

impl Drop for Line {
    /// Nobody forgets what the supervisor holds any more: it is killed, and all that is in its groups.
    fn drop(&mut self) {
        self.stop.set();
        if let Some(pid) = supervisor_pid(&self.owner.node) {
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            let groups = left_groups(&self.owner.node);
            if groups.is_empty() {
                break;
            }
            groups.iter().for_each(|group| clear(group));
            std::thread::sleep(Duration::from_millis(10));
        }
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

/// Kills what is in a group and below it, and removes what is empty.
fn clear(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        clear(&entry.path());
    }
    for pid in pids(group) {
        let _gone = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
    }
    let _busy = fs::remove_dir(group);
}

fn supervisor_pid(node: &str) -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        (words.get(1) == Some(&&b"supervise"[..]) && words.contains(&node.as_bytes())).then_some(pid)
    })
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

#[test]
fn a_thousand_tasks_end_with_their_exit_codes() {
    let mut line = Line::new("thousand");
    for task in 0..1_000 {
        line.start(task, &["/bin/sh", "-c", "echo $HAKURIVER_TASK_ID; exit $((HAKURIVER_TASK_ID % 7))"]);
    }
    line.until("a thousand ends", |states, _| {
        states.len() == 1_000 && states.values().all(|state| state.end.is_some())
    });
    for task in 0..1_000 {
        let end = line.end(task);
        assert_eq!((end.code, end.signal, end.oom), (Some(i32::try_from(task % 7).unwrap()), None, false), "{end:?}");
        assert_eq!(line.stdout(task), format!("{task}\n").as_bytes());
        line.supervisor.forget(Line::which(task));
    }
    // It holds nothing: when the Runner goes, it goes too.
    let node = line.owner.node.clone();
    line.stop.set();
    wait::until("the supervisor has ended", SOON, || match supervisor_pid(&node) {
        None => Ok(()),
        Some(pid) => Err(format!("it runs as {pid}")),
    });
    assert_eq!(left_groups(&node), Vec::<PathBuf>::new());
}

/// Control groups of that node that are there.
fn left_groups(node: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, depth: u32, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            if entry.file_name().to_string_lossy().ends_with(name) {
                found.push(entry.path());
            } else if depth > 0 {
                below(&entry.path(), depth - 1, name, found);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), 4, node, &mut found);
    found
}

#[test]
fn signals_faults_and_limits_are_told_apart() {
    let mut line = Line::new("ends");
    line.start(1, &["/bin/sh", "-c", "kill -SEGV $$"]);
    line.start(2, &["no-such-program"]);
    line.supervisor.start(Start { workdir: Some("/no/such/folder".to_owned()), ..line.order(3, &["true"]) });
    line.supervisor.start(Start { time_limit_seconds: Some(1), ..line.order(4, &["sleep", "100"]) });
    line.start(5, &["sleep", "100"]);
    line.phase(5, "running");
    line.supervisor.stop(Line::which(5));
    let end = line.end(1);
    assert_eq!((end.code, end.signal), (Some(139), Some(11)));
    assert!(line.end(2).fault.is_some_and(|fault| fault.contains("no such program on the PATH")), "{:?}", line.end(2));
    assert!(line.end(3).fault.is_some_and(|fault| fault.contains("/no/such/folder")), "{:?}", line.end(3));
    let end = line.end(4);
    assert_eq!((end.timed_out, end.stopped, end.signal), (true, false, Some(15)));
    let end = line.end(5);
    assert_eq!((end.timed_out, end.stopped, end.signal), (false, true, Some(15)));
}

#[test]
fn a_forest_is_frozen_whole_and_ended_whole() {
    let mut line = Line::new("forest");
    // Double forks with sessions of their own, one that ignores TERM, and a busy loop.
    let script =
        "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM; while :; do :; done' &) ; done; echo up; exec sleep 1000";
    line.start(1, &["/bin/sh", "-c", script]);
    line.phase(1, "running");
    let children = || {
        let mark = format!("hrt-{}-forest", std::process::id());
        left_groups(&mark).iter().flat_map(|group| pids(&group.join("1.1"))).collect::<Vec<u32>>()
    };
    wait::until("the forest has grown", SOON, || {
        let pids = children();
        if pids.len() >= 4 { Ok(()) } else { Err(format!("{pids:?}")) }
    });
    line.supervisor.pause(Line::which(1));
    line.phase(1, "paused");
    let cpu = |pids: &[u32]| pids.iter().map(|pid| ticks(*pid)).sum::<u64>();
    let pids = children();
    let before = cpu(&pids);
    wait::holds_for("a frozen loop uses no CPU", Duration::from_millis(300), || {
        let now = cpu(&pids);
        if now == before { Ok(()) } else { Err(format!("{before} ticks became {now}")) }
    });
    line.supervisor.resume(Line::which(1));
    line.phase(1, "running");
    wait::until("it goes on", SOON, || if cpu(&pids) > before { Ok(()) } else { Err(format!("{before} ticks")) });
    line.supervisor.pause(Line::which(1));
    line.phase(1, "paused");
    // From frozen to gone, in one.
    line.supervisor.stop(Line::which(1));
    let end = line.end(1);
    assert!(end.stopped, "{end:?}");
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
}

fn pids(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// CPU time in ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    [11, 12].iter().filter_map(|field| fields.get(*field)?.parse::<u64>().ok()).sum()
}

#[test]
fn it_outlives_runners_and_a_removed_state_directory() {
    let mut line = Line::new("outlives");
    line.start(1, &["/bin/sh", "-c", "exit 5"]);
    line.start(2, &["sleep", "1000"]);
    line.end(1);
    let pid = line.phase(2, "running");
    fs::remove_dir_all(&line.folder).unwrap();
    fs::create_dir_all(&line.folder).unwrap();
    let mut line = line.again();
    line.until("all", |_, all| all);
    assert_eq!(line.states[&1].end.as_ref().and_then(|end| end.code), Some(5));
    assert_eq!((line.states[&2].phase.as_str(), line.states[&2].pid), ("running", Some(pid)));
    // The journal is there again: one that is killed now is followed by one that knows of both.
    kill(Pid::from_raw(line.pid()), Signal::SIGKILL).unwrap();
    line.until("the next one's word", |states, _| states.get(&2).is_some_and(|state| state.end.is_some()));
    let end = line.states[&2].end.clone().unwrap();
    assert!(end.fault.is_some_and(|fault| fault.contains("supervisor")), "its result is not known");
    assert_eq!(line.states[&1].end.as_ref().and_then(|end| end.code), Some(5), "this one's is");
    assert!(!is_alive(pid), "nothing runs of which nobody knows");
}

#[test]
fn garbage_ends_its_own_connection_and_a_second_supervisor_ends_itself() {
    use std::io::{Read as _, Write as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixStream};

    let mut line = Line::new("garbage");
    line.start(1, &["sleep", "1000"]);
    let task = line.phase(1, "running");
    let pid = line.pid();
    let name = hakuriver::runner::supervise::protocol::socket_name(&line.owner.cluster, &line.owner.node);
    let address = SocketAddr::from_abstract_name(name).unwrap();
    for garbage in [&[0xff; 8][..], b"\x02\0\0\0{]", b"\x0e\0\0\0{\"Unknown\":[]}"] {
        let mut socket = UnixStream::connect_addr(&address).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.write_all(garbage).unwrap();
        let mut told = Vec::new();
        // Closed with something unread is a reset.
        if let Err(fault) = socket.read_to_end(&mut told) {
            assert_eq!(fault.kind(), std::io::ErrorKind::ConnectionReset, "{garbage:?}");
        }
    }
    let second = std::process::Command::new(binary())
        .args(["supervise", "--node", &line.owner.node, "--cluster", &line.owner.cluster, "--folder"])
        .arg(&line.folder)
        .output()
        .unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("another process listens"), "{text}");
    // The Runner's line has come back by itself, to the same process, with the task in it.
    line.start(2, &["/bin/sh", "-c", "exit 4"]);
    let deadline = Instant::now() + SOON;
    while line.states.get(&2).and_then(|state| state.end.clone()).and_then(|end| end.code) != Some(4) {
        assert!(Instant::now() < deadline, "{:?}", line.states);
        // What was asked while the line was broken is asked again, as the agent does.
        line.start(2, &["/bin/sh", "-c", "exit 4"]);
        if let Ok(Message::Supervised { states, .. }) = line.messages.recv_timeout(Duration::from_millis(100)) {
            line.states.extend(states.into_iter().map(|state| (state.task, state)));
        }
    }
    assert_eq!((line.pid(), line.states[&1].pid, is_alive(task)), (pid, Some(task), true));
}

#[test]
#[ignore = "a figure, not a promise"]
fn rate() {
    let line = Line::new("rate");
    let began = Instant::now();
    const N: u64 = 3_000;
    for task in 0..N {
        line.start(task, &["/bin/true"]);
    }
    let mut ended = 0;
    while ended < N {
        let Ok(Message::Supervised { states, .. }) = line.messages.recv() else { continue };
        for state in states.iter().filter(|state| state.end.is_some()) {
            ended += 1;
            line.supervisor.forget(Line::which(state.task));
        }
    }
    eprintln!("{:.0} tasks/s", N as f64 / began.elapsed().as_secs_f64());
}
