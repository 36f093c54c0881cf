//! A task in a systemd scope: `systemd-run --scope` turns itself into `hakuriver supervise --enter` inside the scope, and
//! that turns itself into the task: one process, one pid, a child of the supervisor from the beginning.
//!
//! What the task is goes over a socket that is inherited, never through arguments, which everybody can read. It is also no
//! environment of systemd-run's: a user's LD_PRELOAD must not run in it as root. Over the same socket comes what went wrong.
//!
//! An anchor, a process that only waits, stays in the scope: a scope that is empty is removed by systemd at once, and the
//! kernel's record of what it killed for want of memory with it. It ends when the supervisor closes its end of the socket.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nanoserde::{DeJson, SerJson};

use super::process::{self as plain, Running, group_name};
use crate::runner::supervise::protocol::Start;
use crate::sys::cgroup::{self, Cgroups, Group};
use crate::sys::command::Program;
use crate::sys::launch::{Launch, Launched, anchor, become_it, inherited, launch, reap};
use crate::sys::process;

/// All scopes of tasks are below it.
pub const SLICE: &str = "hakuriver.slice";
/// The group of the task, below the scope's: what is done to the task leaves the anchor alone (version 2 only).
pub const INNER: &str = "task";
/// systemd answers within a few milliseconds, or is in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

/// The scope's name.
pub fn unit_name(task: u64) -> String {
    format!("hakuriver-task-{task}.scope")
}

/// The folder of its control group, below the top of version 2's hierarchy.
pub fn folder(task: u64) -> PathBuf {
    let (uid, _) = process::user_and_group();
    let top = if Manager::here().user { user_folder(uid) } else { PathBuf::new() };
    top.join(SLICE).join(unit_name(task))
}

/// The folder of a user's own systemd.
fn user_folder(uid: u32) -> PathBuf {
    PathBuf::from(format!("user.slice/user-{uid}.slice/user@{uid}.service"))
}

/// Whose systemd, and what it can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager {
    /// The user's own (`--user`): we are not root.
    pub user: bool,
    /// The whole machine has control groups of version 2 alone.
    pub unified: bool,
}

impl Manager {
    fn here() -> Self {
        Self { user: !process::is_root(), unified: Path::new("/sys/fs/cgroup/cgroup.controllers").exists() }
    }
}

/// What a scope enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    pub memory: Option<u64>,
    /// List form; empty: all.
    pub cpus: String,
    pub mems: String,
    pub low_weight: bool,
}

/// The arguments of systemd-run, up to and with the two dashes. Source: systemd-run(1), systemd.resource-control(5).
pub fn arguments(manager: Manager, unit: &str, properties: &Properties) -> Vec<String> {
    let mut argv: Vec<String> = ["systemd-run", "--scope", "--quiet", "--collect"].map(str::to_owned).into();
    if manager.user {
        argv.push("--user".to_owned());
    }
    argv.push(format!("--slice={SLICE}"));
    argv.push(format!("--unit={unit}"));
    let mut property = |text: String| argv.extend(["-p".to_owned(), text]);
    // A scope may be limited to a few thousand by default: a task is not.
    property("TasksMax=infinity".to_owned());
    if let Some(bytes) = properties.memory {
        property(format!("MemoryMax={bytes}"));
        // Version 1 takes MemoryMax as its limit, and has no limit for swap alone.
        if manager.unified {
            property("MemorySwapMax=0".to_owned());
        }
    }
    if manager.unified {
        // The task gets a group below the scope's, which systemd must leave alone.
        property("Delegate=yes".to_owned());
        if !properties.cpus.is_empty() {
            property(format!("AllowedCPUs={}", properties.cpus));
        }
        if !properties.mems.is_empty() {
            property(format!("AllowedMemoryNodes={}", properties.mems));
        }
    }
    if properties.low_weight {
        property(if manager.unified { "CPUWeight=10".to_owned() } else { "CPUShares=102".to_owned() });
    }
    argv.push("--".to_owned());
    argv
}

/// What the `--enter` stage is told. Descriptors by number: they are inherited.
#[derive(Clone, DeJson, SerJson)]
struct Plan {
    start: Start,
    stderr: i32,
    /// The end of the socket that the anchor waits at.
    line: i32,
}

/// systemd runs here, and makes a scope for us.
pub fn is_available() -> bool {
    if !is_there() {
        return false;
    }
    let unit = format!("hakuriver-probe-{}.scope", std::process::id());
    let mut argv = arguments(Manager::here(), &unit, &Properties::default());
    argv.push("/bin/true".to_owned());
    match Program::new(argv, PATIENCE).run().and_then(|output| output.ok().map(|_| ())) {
        Ok(()) => true,
        Err(fault) => {
            crate::warning!("systemd runs, but makes no scope for tasks: {fault}");
            false
        }
    }
}

/// The user's own systemd may limit memory. (Where we are root, control groups of our own are tried for that.)
pub fn limits_memory() -> bool {
    let manager = Manager::here();
    let (uid, _) = process::user_and_group();
    let file = Path::new("/sys/fs/cgroup").join(user_folder(uid)).join("cgroup.controllers");
    let has_memory = |text: String| text.split_whitespace().any(|name| name == "memory");
    manager.user && manager.unified && fs::read_to_string(file).is_ok_and(has_memory)
}

/// A scope's own group freezes, on version 2.
pub fn freezes() -> bool {
    Manager::here().unified
}

/// Starts a task in its scope; `prepared` has its files.
///
/// # Errors
/// For the user: either that systemd-run failed, with its argv, status and last words, or that the task cannot be run.
pub(super) fn start(start: &Start, prepared: Launch, cgroups: &Cgroups) -> Result<Running, String> {
    let manager = Manager::here();
    let unit = unit_name(start.task);
    let properties = Properties {
        memory: start.memory,
        cpus: start.cpus.clone(),
        mems: start.mems.clone(),
        low_weight: !start.exclusive,
    };
    let mut argv = arguments(manager, &unit, &properties);
    let (report, theirs) = UnixStream::pair().map_err(|fault| cannot("make a socket", &fault))?;
    let (line, anchored) = UnixStream::pair().map_err(|fault| cannot("make a socket", &fault))?;
    let (words, its_words) = io::pipe().map_err(|fault| cannot("make a pipe", &fault))?;
    let exe = own_program().map_err(|fault| cannot("find our own program", &fault))?;
    argv.extend([exe, "supervise".to_owned(), "--enter".to_owned(), theirs.as_raw_fd().to_string()]);
    let plan = Plan { start: start.clone(), stderr: prepared.stderr.as_raw_fd(), line: anchored.as_raw_fd() };

    // On version 1 systemd leaves the freezer alone: a group of ours, into which systemd-run is put before it begins.
    let freezer = cgroups.make_freezer(&group_name(start.task, start.attempt)).map_err(|fault| fault.to_string())?;
    let groups = freezer.as_ref().map_or(Ok(Vec::new()), Group::entries).map_err(|fault| fault.to_string())?;
    let launched = launch(Launch {
        argv: argv.iter().map(Into::into).collect(),
        env: manager_env(manager),
        workdir: "/".into(),
        stdout: prepared.stdout,
        stderr: File::from(OwnedFd::from(its_words)),
        user: None,
        cpus: None,
        mems: None,
        groups,
        keep: vec![File::from(OwnedFd::from(theirs)), File::from(OwnedFd::from(anchored)), prepared.stderr],
    });
    let started = match launched {
        Err(fault) => Err((fault.to_string(), None)),
        Ok(launched) => converse(&plan, &report).map(|anchor| (launched, anchor)).map_err(|problem| {
            let status = reap(launched);
            match problem {
                Problem::Task(fault, anchor) => (fault, anchor),
                Problem::Systemd(what) => (systemd_fault(&argv, &status, &what, words), None),
            }
        }),
    };
    match started {
        Ok((launched, anchor)) => Ok(running(launched, start, unit, cgroups, anchor, line)),
        Err((fault, anchor)) => {
            let group = match anchor {
                Some(anchor) => freezer.map(|group| group.with_anchor(anchor, line)),
                None => freezer,
            };
            if let Some(group) = group {
                // Empty but for the anchor.
                let _gone = group.remove();
            }
            Err(fault)
        }
    }
}

/// The groups of a task that has begun. One that has ended already is in none: then it has nothing but its anchor.
fn running(
    process: Launched,
    start: &Start,
    unit: String,
    cgroups: &Cgroups,
    anchor: Option<u32>,
    line: UnixStream,
) -> Running {
    // The anchor is where the task is, and surely lives; on version 2 it is in the scope's own group, above the task's.
    let of = |pid: u32| cgroups.of_process(pid).unwrap_or_default();
    let group = match anchor {
        Some(anchor) => of(anchor).below(INNER).with_anchor(anchor, line),
        None => of(process.pid),
    };
    if let Some(bytes) = start.memory
        && let Err(fault) = group.limit_swap(bytes)
    {
        crate::warning!("task {} may swap beyond its memory limit: {fault}", start.task);
    }
    Running { process, group: (!group.is_blind()).then_some(group), unit: Some(unit) }
}

enum Problem {
    /// What the `--enter` stage says; and its anchor, if it has left one.
    Task(String, Option<u32>),
    /// It never came so far.
    Systemd(String),
}

/// Gives the plan, and reads what comes of it: the anchor's pid, then the end of the stream with exec, or a fault.
fn converse(plan: &Plan, report: &UnixStream) -> Result<Option<u32>, Problem> {
    let silent = |fault: &io::Error| Problem::Systemd(format!("it did not come to the task: {fault}"));
    report.set_read_timeout(Some(PATIENCE)).map_err(|fault| silent(&fault))?;
    report.set_write_timeout(Some(PATIENCE)).map_err(|fault| silent(&fault))?;
    let text = plan.serialize_json();
    let size = u32::try_from(text.len()).expect("a plan has passed the protocol's own limit");
    let mut stream = report;
    let given = stream.write_all(&size.to_le_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
    let (mut anchor, mut entered) = (None, false);
    for line in BufReader::new(report).lines() {
        let line = line.map_err(|fault| silent(&fault))?;
        match line.split_once(' ') {
            Some(("anchor", pid)) => (anchor, entered) = (pid.parse().ok(), true),
            Some(("fault", text)) => return Err(Problem::Task(text.replace('\u{1e}', "\n"), anchor)),
            _ => entered = true,
        }
    }
    match given {
        Ok(()) if entered => Ok(anchor),
        Ok(()) => Err(Problem::Systemd("it ended before the task began".to_owned())),
        Err(fault) => Err(silent(&fault)),
    }
}

fn systemd_fault(argv: &[String], status: &str, what: &str, mut words: io::PipeReader) -> String {
    let mut said = Vec::new();
    // It has been waited for: nobody writes any more. What cannot be read was not said.
    let _nothing = words.by_ref().take(64 << 10).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<_> = said.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    format!("systemd-run failed ({status}): {what}: {}\n{last}", argv.join(" ")).trim_end().to_owned()
}

fn cannot(what: &str, fault: &io::Error) -> String {
    format!("cannot {what} to start a task in a systemd scope: {fault}")
}

/// Where it was replaced by a newer one, the file that we run still has this name.
fn own_program() -> io::Result<String> {
    let exe = std::env::current_exe()?;
    // A test's own program knows no roles; beside its folder stands the one that does.
    #[cfg(test)]
    let exe = exe.ancestors().nth(2).unwrap_or(&exe).join("hakuriver");
    let text = if exe.exists() { exe.display().to_string() } else { format!("/proc/{}/exe", std::process::id()) };
    Ok(text)
}

/// systemd is this machine's init.
pub fn is_there() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What stands before a command line to have it in a scope of its own, which no task is in; nothing where systemd does not run.
pub fn own_scope(unit: &str) -> Vec<String> {
    if !is_there() {
        return Vec::new();
    }
    let mut argv: Vec<String> = ["systemd-run", "--scope", "--quiet", "--collect"].map(str::to_owned).into();
    if Manager::here().user {
        argv.push("--user".to_owned());
    }
    argv.extend([format!("--unit={unit}-{}", crate::sys::random::hex(4)), "--".to_owned()]);
    argv
}

/// What systemd-run needs to find the manager.
fn manager_env(manager: Manager) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let names: &[&str] =
        if manager.user { &["PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] } else { &["PATH"] };
    names.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect()
}

/// The `--enter` stage: this process is in the scope now, and becomes the task. Returns only if that fails, when it has been
/// told.
pub fn enter(report: i32) -> i32 {
    match entered(report) {
        Ok(never) => match never {},
        Err((report, fault)) => {
            if let Some(mut report) = report {
                let line = format!("fault {}\n", fault.replace('\n', "\u{1e}"));
                // Nobody listens: then nobody wants to know.
                let _told = report.write_all(line.as_bytes());
            }
            127
        }
    }
}

fn entered(report: i32) -> Result<std::convert::Infallible, (Option<File>, String)> {
    let mut report = inherited(report).map_err(|fault| (None, fault.to_string()))?;
    match prepared(&mut report) {
        Ok(launch) => {
            let fault = become_it(launch).to_string();
            Err((Some(report), fault))
        }
        Err(fault) => Err((Some(report), fault)),
    }
}

fn prepared(report: &mut File) -> Result<Launch, String> {
    let told = |fault: io::Error| format!("the plan of the task did not come: {fault}");
    let mut size = [0; 4];
    report.read_exact(&mut size).map_err(told)?;
    let mut text = vec![0; u32::from_le_bytes(size) as usize];
    report.read_exact(&mut text).map_err(told)?;
    let text = String::from_utf8(text).map_err(|fault| told(io::Error::other(fault)))?;
    let plan: Plan =
        crate::api::json::decode(text.as_bytes()).map_err(|fault| told(io::Error::other(fault.to_string())))?;
    let line = inherited(plan.line).map_err(told)?;
    let pid = anchor::leave(&line).map_err(|fault| format!("cannot leave a process in the systemd scope: {fault}"))?;
    writeln!(report, "anchor {pid}").map_err(told)?;
    if Manager::here().unified {
        cgroup::move_below(Path::new("/"), INNER).map_err(|fault| fault.to_string())?;
    }
    let stdout = inherited(1).map_err(told)?;
    let stderr = inherited(plan.stderr).map_err(told)?;
    plain::of_plan(&plan.start, stdout, stderr)
}

#[cfg(test)]
mod tests;
