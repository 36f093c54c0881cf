//! Command tasks as the tests submit and watch them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hakuriver::api::public::{SubmitAnswer, SubmitBody, TaskRecord, TaskRow};
use nanoserde::{DeJson, SerJson};

use crate::env::{Cluster, SOON};
use crate::http;
use crate::program::{self, Output};
use crate::wait;

/// The states that never change.
pub const FINAL: [&str; 4] = ["completed", "failed", "killed", "killed_oom"];

impl Cluster {
    /// `task submit OPTIONS -- ARGV`.
    #[track_caller]
    pub fn task_submit(&self, options: &[&str], argv: &[&str]) -> Output {
        self.cli(&task_line(options, argv))
    }

    /// The id of the one task that this submits.
    #[track_caller]
    pub fn task(&self, options: &[&str], argv: &[&str]) -> String {
        let output = self.task_submit(options, argv);
        let ids = ids(&output.ok());
        self.remember(&ids);
        assert_eq!(ids.len(), 1, "one task: {output}");
        ids.into_iter().next().unwrap()
    }

    /// As [`Self::task`], without a container.
    #[track_caller]
    pub fn null_task(&self, options: &[&str], argv: &[&str]) -> String {
        let mut all = vec!["--container", "NULL"];
        all.extend(options);
        self.task(&all, argv)
    }

    /// A shell script as a task without a container.
    #[track_caller]
    pub fn script(&self, options: &[&str], script: &str) -> String {
        self.null_task(options, &["sh", "-c", script])
    }

    /// Submits through the API; every task must have been taken.
    #[track_caller]
    pub fn submit_body(&self, body: &SubmitBody) -> Vec<String> {
        let reply = self.post("/submit", &body.serialize_json());
        assert_eq!(reply.status, 202, "{}", reply.text());
        let answer = SubmitAnswer::deserialize_json(&reply.text()).unwrap();
        assert!(answer.failed_targets.is_empty(), "{answer:?}");
        self.remember(&answer.task_ids);
        answer.task_ids
    }

    /// One batch of shell scripts without a container, as the sets of arguments of one program.
    #[track_caller]
    pub fn scripts(&self, cores: u32, memory: Option<u64>, scripts: &[String]) -> Vec<String> {
        self.submit_body(&SubmitBody {
            required_cores: Some(cores),
            required_memory_bytes: memory,
            argument_sets: Some(scripts.iter().map(|text| vec!["-c".to_owned(), text.clone()]).collect()),
            ..null_body("sh", &[])
        })
    }

    /// Waits until it has ended, however.
    #[track_caller]
    pub fn await_end(&self, id: &str) -> TaskRecord {
        self.await_end_within(id, SOON)
    }

    #[track_caller]
    pub fn await_end_within(&self, id: &str, limit: Duration) -> TaskRecord {
        wait::until(&format!("task {id} has ended"), limit, || {
            let record = self.status(id);
            if FINAL.contains(&record.status.as_str()) { Ok(record) } else { Err(seen(&record)) }
        })
    }

    /// `GET /tasks`, which are the newest 1,000 without `query`.
    #[track_caller]
    pub fn task_rows(&self, query: &str) -> Vec<TaskRow> {
        let text = self.get(&format!("/tasks{query}"));
        Vec::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The bytes that the Host has of a stream now: `stdout` or `stderr`.
    #[track_caller]
    pub fn output(&self, id: &str, stream: &str) -> Vec<u8> {
        let reply = http::call(self.api, "GET", &format!("/task/{id}/{stream}"), Some(&self.token()), None);
        assert_eq!(reply.status, 200, "{stream} of {id}: {}", reply.text());
        reply.body
    }

    #[track_caller]
    pub fn stdout(&self, id: &str) -> String {
        String::from_utf8(self.output(id, "stdout")).unwrap()
    }

    /// Waits until the Host has this much of a task's standard output: so many whole lines.
    #[track_caller]
    pub fn await_lines(&self, id: &str, count: usize) -> Vec<String> {
        wait::until(&format!("{count} lines of task {id}"), SOON, || {
            let text = self.stdout(id);
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let lines: Vec<String> = whole.lines().map(str::to_owned).collect();
            if lines.len() >= count { Ok(lines) } else { Err(format!("{text:?}; {}", seen(&self.status(id)))) }
        })
    }

    /// Waits for the first line of a task's output, which is its process's number: `echo $$` or the like.
    #[track_caller]
    pub fn await_pid(&self, id: &str) -> u32 {
        let line = self.await_lines(id, 1).remove(0);
        line.trim().parse().unwrap_or_else(|_| panic!("task {id} prints its pid first, not {line:?}"))
    }

    /// The processes of the supervisors of this cluster's nodes, found by the names of their sockets.
    pub fn supervisors(&self) -> Vec<u32> {
        let Some(cluster) = self.cluster_id() else { return Vec::new() };
        let wanted = format!("@hakuriver-{cluster}-");
        let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        // Number, references, protocol, flags (0x10000: it listens), type, state, inode, path.
        let sockets: BTreeSet<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.len() == 8 && fields[3] == "00010000" && fields[7].starts_with(&wanted))
            .map(|fields| format!("socket:[{}]", fields[6]))
            .collect();
        if sockets.is_empty() {
            return Vec::new();
        }
        pids().into_iter().filter(|pid| descriptors(*pid).iter().any(|target| sockets.contains(target))).collect()
    }

    /// The one supervisor of this cluster.
    #[track_caller]
    pub fn supervisor(&self) -> u32 {
        let all = self.supervisors();
        assert_eq!(all.len(), 1, "supervisors: {all:?}");
        all[0]
    }

    /// Processes that a task of this cluster has started, by their environment, working directory or open files.
    pub fn task_processes(&self) -> Vec<u32> {
        let marks: Vec<String> = self.task_ids().into_iter().map(|id| format!("HAKURIVER_TASK_ID={id}")).collect();
        // The kernel tells where a file is without the links on the way.
        let folder = self.dir.join("runner");
        let folder = folder.canonicalize().unwrap_or(folder);
        let inside = |path: &str| Path::new(path).starts_with(&folder) && path.contains("/tasks/");
        let own: BTreeSet<u32> = self.supervisors().into_iter().chain([std::process::id()]).collect();
        pids()
            .into_iter()
            .filter(|pid| !own.contains(pid))
            .filter(|pid| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let environment = String::from_utf8_lossy(&environment);
                let marked = environment.split('\0').any(|variable| marks.iter().any(|mark| mark == variable));
                let there = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
                marked || inside(&there.to_string_lossy()) || descriptors(*pid).iter().take(3).any(|path| inside(path))
            })
            .collect()
    }
}

/// A batch of one task without a container on one core; tests change what they need.
pub fn null_body(program: &str, arguments: &[&str]) -> SubmitBody {
    SubmitBody {
        task_type: "command".to_owned(),
        command: program.to_owned(),
        arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
        container_name: Some("NULL".to_owned()),
        ..SubmitBody::default()
    }
}

fn task_line<'a>(options: &[&'a str], argv: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec!["task", "submit"];
    line.extend(options);
    line.push("--");
    line.extend(argv);
    line
}

/// Where a task stands, for messages.
pub fn seen(record: &TaskRecord) -> String {
    format!(
        "{} (want {}, exit {:?}, reason {:?}, error {:?})",
        record.status, record.want, record.exit_code, record.reason, record.error_message
    )
}

/// All task ids of a text, each once, in order.
pub fn ids(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in text.split(|c: char| !c.is_ascii_digit()).filter(|word| word.len() >= 15) {
        if !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    }
    found
}

/// Milliseconds since 1970 of an RFC 3339 time in UTC, as the API has it.
#[track_caller]
pub fn millis(time: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| time[range].parse::<i64>().unwrap_or_else(|_| panic!("{time:?}"));
    assert!(time.ends_with("+00:00"), "{time:?}");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days from the civil calendar, counted in years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + of_year - 719_468;
    let fraction = time[19..].trim_end_matches("+00:00").trim_start_matches('.');
    let millis = format!("{fraction:0<3}")[..3].parse::<i64>().unwrap();
    ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60_000 + number(17..19) * 1000 + millis
}

/// Now, as [`millis`].
pub fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A number that no other process has in its command line: seconds to sleep, few enough for any `sleep`.
pub fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let here = u64::from(std::process::id()) * 1000 + u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
    (2_000_000_000 + here % 2_000_000_000).to_string()
}

/// When a process was started, which with its number names it for good. None: it is gone, or nobody has waited for it.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (fields[0] != "Z" && fields[0] != "X").then(|| fields[19].parse().unwrap())
}

/// CPU time of a process (user and system) in clock ticks.
#[track_caller]
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|e| panic!("process {pid}: {e}"));
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Living processes with this text in their command line.
pub fn processes_with(mark: &str) -> Vec<u32> {
    let has = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(mark)
    };
    pids().into_iter().filter(|pid| *pid != std::process::id() && has(*pid) && start_time(*pid).is_some()).collect()
}

#[track_caller]
pub fn await_gone(what: &str, mark: &str) {
    wait::until_true(what, SOON, || {
        let left = processes_with(mark);
        (left.is_empty(), format!("{left:?}"))
    });
}

/// The numbers in a list of the kernel's: `0-2,5`.
pub fn cpu_list(text: &str) -> BTreeSet<u32> {
    let number = |text: &str| text.trim().parse::<u32>().unwrap_or_else(|_| panic!("{text:?} in a list"));
    text.trim()
        .split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| match part.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(part)..=number(part),
        })
        .collect()
}

/// Whose file it is.
#[track_caller]
pub fn owner(path: &Path) -> (u32, u32) {
    let meta = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (meta.uid(), meta.gid())
}

/// A program in the cluster's surroundings with a minute's time.
#[track_caller]
pub fn run_in(cluster: &Cluster, program: &Path, args: &[&str]) -> Output {
    program::run(cluster.command(program).args(args), Duration::from_secs(60))
}

pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What the descriptors of a process are, the lowest first.
pub fn descriptors(pid: u32) -> Vec<String> {
    let mut all: Vec<(u32, String)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        })
        .collect();
    all.sort_unstable();
    all.into_iter().map(|(_, target)| target).collect()
}

/// Named pipes at which tasks wait, without using the CPU, until the test lets them go on.
pub struct Latches {
    pub dir: PathBuf,
}

impl Latches {
    pub fn new(cluster: &Cluster) -> Self {
        let dir = cluster.dir.join("latches");
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    /// Makes one, and answers the line of a shell script that waits at it.
    pub fn wait(&self, name: &str) -> String {
        self.wait_in(name, &self.dir)
    }

    /// As [`Self::wait`], for a task that sees the folder somewhere else.
    pub fn wait_in(&self, name: &str, seen: &Path) -> String {
        let path = self.dir.join(name);
        if !path.exists() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        }
        format!("read line <{}", seen.join(name).display())
    }

    /// Lets the one that waits there go on, as soon as it waits.
    #[track_caller]
    pub fn open(&self, name: &str) {
        wait::until(&format!("a task waits at {name}"), SOON, || {
            let mut pipe = fs::OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(self.dir.join(name))
                .map_err(|e| e.to_string())?;
            pipe.write_all(b"go\n").map_err(|e| e.to_string())
        });
    }
}
