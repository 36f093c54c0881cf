//! Tasks straight on the node: as a plain process in a control group of ours, or inside a systemd scope. Used by the node's
//! supervisor, whose children they are.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::scope;
use crate::domain::cpuset::CpuSet;
use crate::domain::raw_text;
use crate::runner::supervise::protocol::{STDERR, STDOUT, Start};
use crate::sys::cgroup::{Cgroups, Group, Limits};
use crate::sys::fault;
use crate::sys::launch::{Launch, Launched, launch};
use crate::sys::process;

/// A task that was started.
#[derive(Debug)]
pub struct Running {
    pub process: Launched,
    /// None: this node has no control groups that we may use.
    pub group: Option<Group>,
    /// The systemd scope.
    pub unit: Option<String>,
}

/// What this node can do for tasks without a container. For the conditions of its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// systemd runs, and makes scopes for us.
    pub systemd: bool,
    /// A memory limit can be enforced, by systemd or by a control group of ours.
    pub memory_limit: bool,
    /// All of a task can be frozen at once; else it is stopped process by process.
    pub freezer: bool,
}

/// Tried once, then remembered: what a machine can do does not change while it runs. `folder` is the name of the group under
/// which those of our tasks are made: see [`group_folder`].
pub fn abilities(folder: &str) -> Abilities {
    #[cfg(test)]
    if crate::sys::simulated::world().is_some() {
        return Abilities { systemd: false, memory_limit: true, freezer: true };
    }
    static TRIED: OnceLock<Abilities> = OnceLock::new();
    *TRIED.get_or_init(|| {
        let cgroups = Cgroups::find(Path::new("/"), folder);
        let systemd = scope::is_available();
        // Even where limits are in systemd's hand, it needs the same controller: what we may not try, we cannot promise.
        let memory_limit = cgroups.limits_memory() || systemd && scope::limits_memory();
        Abilities { systemd, memory_limit, freezer: cgroups.freezes() || systemd && scope::freezes() }
    })
}

/// The name of the group under which those of a node's tasks are made: two nodes on one machine do not mix.
pub fn group_folder(cluster: &str, node: &str) -> String {
    // Enough of a cluster's id to tell two apart, in a name that people see.
    format!("hakuriver-{}-{node}", cluster.get(..8).unwrap_or(cluster))
}

/// Starts what `start` says, with its output where `start` wants it (the folder is made here if need be).
///
/// # Errors
/// For the user: which step failed, on what, and why. Nothing of it runs then.
pub fn start(start: &Start, cgroups: &Cgroups) -> Result<Running, String> {
    let prepared = prepare(start)?;
    if start.scope {
        return scope::start(start, prepared, cgroups);
    }
    let name = group_name(start.task, start.attempt);
    let limits = Limits { memory: start.memory, low_weight: !start.exclusive };
    let group = cgroups.make(&name, &limits).map_err(|fault| fault.to_string())?;
    let launched = group
        .entries()
        .map_err(|fault| fault.to_string())
        .and_then(|groups| launch(Launch { groups, ..prepared }).map_err(|fault| fault.to_string()));
    match launched {
        Ok(process) => Ok(Running { process, group: (!group.is_blind()).then_some(group), unit: None }),
        Err(fault) => {
            let _empty = group.remove();
            Err(fault)
        }
    }
}

/// The name of a task's control group, below ours.
pub fn group_name(task: u64, attempt: u32) -> String {
    format!("{task}.{attempt}")
}

/// The task and attempt of a control group's name.
pub fn of_group_name(name: &str) -> Option<(u64, u32)> {
    let (task, attempt) = name.split_once('.')?;
    Some((task.parse().ok()?, attempt.parse().ok()?))
}

/// Parses all of it and opens its files; in no group yet.
fn prepare(start: &Start) -> Result<Launch, String> {
    let files = open_output(&start.output, STDOUT).and_then(|stdout| Ok((stdout, open_output(&start.output, STDERR)?)));
    let (stdout, stderr) = files.map_err(|fault| format!("cannot open the task's output on the node: {fault}"))?;
    let launch = of_plan(start, stdout, stderr)?;
    if let Some((uid, gid)) = launch.user {
        // So that the task may open its own /dev/stdout again.
        for file in [&launch.stdout, &launch.stderr] {
            fchown(file, Some(uid), Some(gid))
                .map_err(|fault| format!("cannot give the output to user {uid}: {fault}"))?;
        }
    }
    Ok(launch)
}

/// The same with files that are open already.
///
/// # Errors
/// A list of CPUs or NUMA nodes that is none.
pub(super) fn of_plan(start: &Start, stdout: File, stderr: File) -> Result<Launch, String> {
    let user = user(start);
    Ok(Launch {
        argv: start.argv.iter().map(|word| bytes(word)).collect(),
        env: start.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        workdir: start.workdir.as_ref().map_or_else(|| PathBuf::from("/"), |path| PathBuf::from(bytes(path))),
        stdout,
        stderr,
        user,
        cpus: set(&start.cpus, "CPUs")?,
        mems: set(&start.mems, "NUMA nodes")?,
        groups: Vec::new(),
        keep: Vec::new(),
    })
}

/// A user without a group gets the group of the same number; a group alone keeps our user.
fn user(start: &Start) -> Option<(u32, u32)> {
    match (start.uid, start.gid) {
        (None, None) => None,
        (Some(uid), gid) => Some((uid, gid.unwrap_or(uid))),
        (None, Some(gid)) => Some((process::user_and_group().0, gid)),
    }
}

fn bytes(text: &str) -> OsString {
    OsString::from_vec(raw_text::decode(text).into_owned())
}

/// Empty: not bound.
fn set(list: &str, of: &str) -> Result<Option<CpuSet>, String> {
    let set: CpuSet = list.parse().map_err(|fault| format!("cannot bind to {of}: {fault}"))?;
    Ok((!set.is_empty()).then_some(set))
}

/// Appending, so that what a task's processes write does not overwrite each other, whoever of them opens it anew.
///
/// Two files beside those of all other tasks: a folder for each task would cost more than the task.
fn open_output(output: &str, stream: &str) -> io::Result<File> {
    let path = PathBuf::from(format!("{output}.{stream}"));
    let _step = fault::step("open", || stream.to_owned());
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    let opened = open().or_else(|fault| {
        if fault.kind() != io::ErrorKind::NotFound {
            return Err(fault);
        }
        let parent = path.parent().unwrap_or(&path);
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        open()
    });
    opened.map_err(|fault| io::Error::new(fault.kind(), format!("{}: {fault}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;
    use crate::sys::file::Scratch;

    fn task(scratch: &Scratch, argv: &[&str]) -> Start {
        Start {
            task: u64::from(std::process::id()),
            attempt: 1,
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            exclusive: true,
            workdir: Some(scratch.path().display().to_string()),
            output: scratch.path().join("made/7.1").display().to_string(),
            ..Start::default()
        }
    }

    fn wait(running: &Running) -> WaitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(running.process.pid).expect("a pid"));
        let status = waitpid(pid, None).expect("it is our child");
        if let Some(group) = &running.group {
            let end = Instant::now() + Duration::from_secs(10);
            while !group.remove().expect("it can be looked at") {
                assert!(Instant::now() < end, "{:?} live on", group.pids());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        status
    }

    #[test]
    fn output_stands_in_its_files_and_is_appended_to() {
        let scratch = Scratch::new();
        let cgroups = Cgroups::find(Path::new("/"), &format!("hakuriver-test-start-{}", std::process::id()));
        let argv = ["sh", "-c", "echo one; echo two >&2; echo three >>/dev/stdout; pwd; exit 3"];
        let running = start(&task(&scratch, &argv), &cgroups).expect("it starts");
        assert!(matches!(wait(&running), WaitStatus::Exited(_, 3)));
        let read =
            |name: &str| fs::read_to_string(scratch.path().join(format!("made/7.1.{name}"))).expect("it is there");
        assert_eq!(read(STDOUT), format!("one\nthree\n{}\n", scratch.path().display()));
        assert_eq!(read(STDERR), "two\n");
        let fault = start(&task(&scratch, &["no-such-program"]), &cgroups).expect_err("it cannot start");
        assert!(fault.starts_with("cannot run 'no-such-program'"), "{fault}");
        assert!(cgroups.left_over().expect("it is listed").is_empty(), "a failed start leaves no group");
        cgroups.close();
    }

    #[test]
    fn another_user_may_write_to_the_output_again() {
        if !process::is_root() {
            eprintln!("NOT TESTED: another_user_may_write_to_the_output_again needs root");
            return;
        }
        let scratch = Scratch::new();
        let mut task = task(&scratch, &["sh", "-c", "echo one >/dev/stdout; pwd; id -u; id -G"]);
        (task.uid, task.workdir) = (Some(4321), None);
        let running = start(&task, &Cgroups::none()).expect("it starts");
        assert!(running.group.is_none());
        assert!(matches!(wait(&running), WaitStatus::Exited(_, 0)));
        let text = fs::read_to_string(scratch.path().join(format!("made/7.1.{STDOUT}"))).expect("it is there");
        assert_eq!(text, "one\n/\n4321\n4321\n");
    }

    #[test]
    fn lists_that_are_none_are_refused() {
        let scratch = Scratch::new();
        let mut task = task(&scratch, &["true"]);
        task.cpus = "3-1".to_owned();
        let fault = start(&task, &Cgroups::none()).expect_err("no list");
        assert!(fault.starts_with("cannot bind to CPUs: "), "{fault}");
    }
}
