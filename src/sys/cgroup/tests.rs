//! Real groups on this machine (where it has any), and trees of files for the version that it has not.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::file::Scratch;
use crate::sys::launch::{Launch, Launched, launch};

/// Groups of one test, removed at its end whatever happens.
struct Mine(Cgroups);

impl Mine {
    fn find(test: &str) -> Option<Self> {
        let cgroups = Cgroups::find(Path::new("/"), &format!("hakuriver-test-{test}-{}", std::process::id()));
        if !crate::sys::process::is_root() || !cgroups.freezes() || !cgroups.limits_memory() {
            eprintln!("NOT TESTED: {test} needs root, and control groups that freeze and limit memory: {cgroups:?}");
            return None;
        }
        Some(Self(cgroups))
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        for (_, group) in self.0.left_over().unwrap_or_default() {
            let _gone = group.signal(libc::SIGKILL);
            let end = Instant::now() + Duration::from_secs(5);
            while !group.remove().unwrap_or(true) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.0.close();
    }
}

fn start(group: &Group, argv: &[&str]) -> Launched {
    let null = || fs::File::options().write(true).open("/dev/null").expect("it can be opened");
    launch(Launch {
        argv: argv.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        workdir: "/".into(),
        stdout: null(),
        stderr: null(),
        user: None,
        cpus: None,
        mems: None,
        groups: group.entries().expect("they can be opened"),
        keep: Vec::new(),
    })
    .expect("it starts")
}

fn wait(launched: Launched) -> i32 {
    use nix::sys::wait::{WaitStatus, waitpid};
    match waitpid(nix::unistd::Pid::from_raw(i32::try_from(launched.pid).expect("a pid")), None).expect("our child") {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        other => panic!("{other:?}"),
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// User and system time of these processes together, in clock ticks.
fn cpu_time(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<u64> =
            stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        Some(fields.iter().sum::<u64>())
    };
    pids.iter().filter_map(of).sum()
}

/// Holds this many megabytes; the child alone where it is one.
const HOG: &str = "head -c 200000000 /dev/zero | tail >/dev/null";

#[test]
fn a_memory_limit_kills_and_the_kernel_tells_it() {
    let Some(mine) = Mine::find("oom") else { return };
    let limits = Limits { memory: Some(32 << 20), low_weight: true };
    let group = mine.0.make("7.1", &limits).expect("it is made");
    let hog = start(&group, &["tail", "/dev/zero"]);
    assert_eq!(wait(hog), 137);
    assert_eq!(group.oom_kills().expect("it is counted"), 1);
    assert!(group.remove().expect("it can be removed"));

    let group = mine.0.make("7.2", &limits).expect("it is made");
    let parent = start(&group, &["sh", "-c", &format!("{HOG}; exit 0")]);
    assert_eq!(wait(parent), 0);
    assert!(group.oom_kills().expect("it is counted") >= 1, "the child's end is told as well");
    assert!(group.remove().expect("it can be removed"));

    let group = mine.0.make("7.3", &limits).expect("it is made");
    let killed = start(&group, &["sleep", "1000"]);
    group.signal(libc::SIGKILL).expect("it is sent");
    assert_eq!(wait(killed), 137);
    assert_eq!(group.oom_kills().expect("it is counted"), 0, "137 alone proves nothing");
    assert!(group.remove().expect("it can be removed"));
}

/// Busy grandchildren that have left their session, and whose parents have ended.
const FOREST: &str = "for i in 1 2 3; do (setsid sh -c 'while :; do :; done' &) & done; wait; exec sleep 1000";

fn freezes_and_ends_a_forest(group: &Group) {
    let main = start(group, &["sh", "-c", FOREST]);
    // The main process, and three that are busy.
    let is_there = |pids: &Vec<u32>| pids.len() >= 4 && cpu_time(pids) > 4;
    until("a busy forest", || group.pids().ok().filter(is_there));
    assert!(!group.remove().expect("that something lives in it is no error"));
    group.freeze(true).expect("it freezes");
    let pids = group.pids().expect("they are listed");
    let before = cpu_time(&pids);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(cpu_time(&pids), before, "frozen processes use no CPU");
    group.signal(libc::SIGUSR1).expect("it waits for the thaw");
    let is_v1 = group.freezer.as_ref().is_some_and(|place| place.version == Version::V1);
    if is_v1 {
        assert_eq!(group.pids().expect("they are listed"), pids, "a signal does not thaw");
    }
    group.freeze(false).expect("it thaws");
    let _killed_by_usr1 = wait(main);
    until("the end of all by SIGUSR1", || group.pids().ok().filter(Vec::is_empty));

    let main = start(group, &["sh", "-c", FOREST]);
    until("a busy forest", || group.pids().ok().filter(is_there));
    group.freeze(true).expect("it freezes");
    group.signal(libc::SIGKILL).expect("it kills what is frozen");
    assert_eq!(wait(main), 137);
    until("an empty group", || group.remove().expect("it can be looked at").then_some(()));
}

#[test]
fn a_forest_of_double_forks_is_frozen_and_ended() {
    let Some(mine) = Mine::find("forest") else { return };
    freezes_and_ends_a_forest(&mine.0.make("8.1", &Limits::default()).expect("it is made"));
}

#[test]
fn no_fork_escapes_the_kill() {
    let Some(mine) = Mine::find("forks") else { return };
    let group = mine.0.make("9.1", &Limits::default()).expect("it is made");
    // Replaces itself by a child again and again; the number of processes stays small.
    let main =
        start(&group, &["sh", "-c", "f() { (f &) & }; while :; do (setsid sh -c 'sleep 0.01 & sleep 0.01' &); done"]);
    until("forks", || group.pids().ok().filter(|pids| pids.len() > 3));
    group.signal(libc::SIGKILL).expect("it is sent");
    assert_eq!(wait(main), 137);
    until("an empty group", || group.remove().expect("it can be looked at").then_some(()));
}

/// A machine that has version 2 alone, made of this one's unified hierarchy, which may have no controllers.
#[test]
fn version_2_freezes_and_ends_a_forest() {
    let own = table::read_text(Path::new("/proc/self/mountinfo")).expect("/proc is mounted");
    let unified = table::parse_mounts(&own).into_iter().find(|mount| mount.unified);
    let Some(unified) = unified.filter(|_| crate::sys::process::is_root()) else {
        eprintln!("NOT TESTED: version_2_freezes_and_ends_a_forest needs root and a mounted hierarchy of version 2");
        return;
    };
    let scratch = Scratch::new();
    let root = scratch.path();
    fs::create_dir_all(root.join("proc/self")).expect("it can be made");
    std::os::unix::fs::symlink(&unified.point, root.join("unified")).expect("it can be made");
    fs::write(root.join("proc/self/mountinfo"), "9 1 0:9 / /unified rw - cgroup2 cgroup2 rw\n")
        .expect("it can be written");
    fs::write(root.join("proc/self/cgroup"), "0::/\n").expect("it can be written");
    let mine = Mine(Cgroups::find(root, &format!("hakuriver-test-v2-{}", std::process::id())));
    if !mine.0.freezes() {
        eprintln!(
            "NOT TESTED: version_2_freezes_and_ends_a_forest: this hierarchy cannot be used: {mine:?}",
            mine = mine.0
        );
        return;
    }
    let group = mine.0.make("1.1", &Limits::default()).expect("it is made");
    assert_eq!(mine.0.left_over().expect("it is listed").len(), 1);
    freezes_and_ends_a_forest(&group);
}

/// A tree of files in which one version 2 group exists already, as far as the kernel would have filled it.
fn tree_v2(scratch: &Scratch, controllers: &str) -> std::path::PathBuf {
    let root = scratch.path();
    fs::create_dir_all(root.join("proc/self")).expect("it can be made");
    fs::write(root.join("proc/self/mountinfo"), "9 1 0:9 / /cg rw - cgroup2 cgroup2 rw\n").expect("it can be written");
    fs::write(root.join("proc/self/cgroup"), "0::/system.slice/us.service\n").expect("it can be written");
    let probe = format!("probe-{}", std::process::id());
    for name in ["", "haku", &format!("haku/{probe}"), "haku/5.1"] {
        let folder = root.join("cg").join(name);
        fs::create_dir_all(&folder).expect("it can be made");
        for (file, content) in [
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", ""),
            ("cgroup.freeze", "0"),
            ("cgroup.events", "populated 0\nfrozen 0\n"),
            ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n"),
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("cpu.weight", "100"),
        ] {
            fs::write(folder.join(file), content).expect("it can be written");
        }
    }
    root.join("cg/haku/5.1")
}

#[test]
fn version_2_writes_limits_weight_and_reads_the_record() {
    let scratch = Scratch::new();
    let folder = tree_v2(&scratch, "cpuset cpu io memory pids");
    let cgroups = Cgroups::find(scratch.path(), "haku");
    assert!(cgroups.limits_memory() && cgroups.freezes(), "{cgroups:?}");
    let group = cgroups.make("5.1", &Limits { memory: Some(4096), low_weight: true }).expect("it is made");
    let read = |file: &str| fs::read_to_string(folder.join(file)).expect("it is there");
    // A file of the kernel takes a value whole; a plain one keeps what the shorter value does not cover.
    assert!(read("memory.max").starts_with("4096"));
    assert!(read("memory.swap.max").starts_with('0'));
    assert!(read("cpu.weight").starts_with("10"));
    assert_eq!(group.oom_kills().expect("it is read"), 2);
    assert_eq!(group.entries().expect("they open").len(), 1, "one hierarchy, one file");
    fs::write(folder.join("cgroup.procs"), "0\n41\n42\n").expect("it can be written");
    assert_eq!(group.pids().expect("they are listed"), [41, 42]);
    assert!(!group.remove().expect("it is looked at"));
    let fault = cgroups.make("5.1", &Limits::default()).expect_err("something lives in it");
    assert!(fault.to_string().contains("something lives in it"), "{fault}");
}

#[test]
fn without_the_memory_controller_a_limit_is_refused() {
    let scratch = Scratch::new();
    tree_v2(&scratch, "cpu");
    let cgroups = Cgroups::find(scratch.path(), "haku");
    assert!(!cgroups.limits_memory() && cgroups.freezes());
    let fault = cgroups.make("5.1", &Limits { memory: Some(1), low_weight: false }).expect_err("no limit");
    assert_eq!(fault.kind(), ErrorKind::Unsupported);
    cgroups.make("5.1", &Limits::default()).expect("without a limit it is made");
}

#[test]
fn a_scope_of_version_2_keeps_the_record_above_its_task() {
    let scratch = Scratch::new();
    tree_v2(&scratch, "memory");
    let cgroups = Cgroups::find(scratch.path(), "haku");
    let process = |pid: u32, path: &str| {
        fs::create_dir_all(scratch.path().join(format!("proc/{pid}"))).expect("it can be made");
        fs::write(scratch.path().join(format!("proc/{pid}/cgroup")), format!("0::{path}\n"))
            .expect("it can be written");
        cgroups.of_process(pid).expect("it is read")
    };
    let group = process(41, "/hakuriver.slice/hakuriver-task-5.scope/task");
    let top = scratch.path().join("cg/hakuriver.slice/hakuriver-task-5.scope");
    assert_eq!(group.memory.expect("it has one").path, top);
    assert_eq!(group.freezer.expect("it has one").path, top.join("task"));
    assert!(group.ours.is_empty(), "it is systemd's to remove");
    assert!(process(42, "/").is_blind(), "the whole machine is nobody's task");
    assert!(process(43, "/system.slice/us.service").is_blind(), "nor are we ourselves");
    assert!(process(44, "/system.slice").is_blind(), "nor what we are in");
}

#[test]
fn version_1_is_found_as_far_as_it_is_there() {
    let scratch = Scratch::new();
    let root = scratch.path();
    fs::create_dir_all(root.join("proc/self")).expect("it can be made");
    fs::write(root.join("proc/self/mountinfo"), "9 1 0:9 / /m rw - cgroup cgroup rw,memory\n")
        .expect("it can be written");
    let folder = root.join(format!("m/haku/probe-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("it can be made");
    assert!(!Cgroups::find(root, "haku").limits_memory(), "mounted, but it cannot be written");
    fs::create_dir_all(&folder).expect("it can be made");
    fs::write(folder.join("memory.limit_in_bytes"), "").expect("it can be written");
    let cgroups = Cgroups::find(root, "haku");
    assert!(cgroups.limits_memory() && !cgroups.freezes());
    let group = root.join("m/haku/6.1");
    fs::create_dir_all(&group).expect("it can be made");
    for (file, content) in [("cgroup.procs", ""), ("memory.limit_in_bytes", ""), ("memory.memsw.limit_in_bytes", "")] {
        fs::write(group.join(file), content).expect("it can be written");
    }
    let made = cgroups.make("6.1", &Limits { memory: Some(777), low_weight: true }).expect("it is made");
    assert_eq!(fs::read_to_string(group.join("memory.memsw.limit_in_bytes")).expect("it is there"), "777");
    fs::write(group.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\n").expect("it can be written");
    assert!(made.oom_kills().expect_err("too old").to_string().contains("Linux 4.13"));
    fs::write(group.join("memory.oom_control"), "under_oom 0\noom_kill 4\n").expect("it can be written");
    assert_eq!(made.oom_kills().expect("it is counted"), 4);
    assert_eq!(made.freeze(true).expect_err("no freezer").kind(), ErrorKind::Unsupported);
}
