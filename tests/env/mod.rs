//! Real Hosts and Runners on free ports in temporary directories. All that a test starts ends with it, also when it fails.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hakuriver::api::public::{NodeRow, TaskRecord};
use nanoserde::DeJson;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::http;
use crate::invariants;
use crate::program::{self, Output};
use crate::wait;

#[cfg(feature = "fault-points")]
mod doomed;

/// How long anything that is not slow by nature may take on a loaded and slow machine: no promise, only when to give up.
pub const SOON: Duration = Duration::from_secs(120);

/// The program under test; `HAKURIVER_TEST_BINARY` puts another in its place.
pub fn binary() -> PathBuf {
    std::env::var_os("HAKURIVER_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_hakuriver")), PathBuf::from)
}

/// A file under `target/test-images`, made by `scripts/test-image.sh`.
#[track_caller]
pub fn image_file(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-images").join(name);
    assert!(path.exists(), "{} is missing: run scripts/test-image.sh (make test does)", path.display());
    path
}

/// What a cluster's configuration has beside names and ports.
pub struct Settings {
    /// `timing.heartbeat_interval` is 1 s; after this many a silent node is offline.
    pub timeout_factor: u32,
    /// `docker.command` of the Runners, if it is not docker.
    pub docker_command: Option<PathBuf>,
    /// Lines of TOML for the end of the Host's file (tables of their own).
    pub host_lines: String,
    /// Lines for the `[docker]` table of every file.
    pub docker_lines: String,
    /// Without the environment's tarball.
    pub no_environment: bool,
    /// Stands before PATH: programs that stand in for others.
    pub path_first: Option<PathBuf>,
    /// Where the Host's database is, if not in the state directory.
    pub database: Option<PathBuf>,
    /// Its processes look into [`Cluster::faults`] for the point at which they are to die.
    pub fault_points: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // Ten silent seconds: the tests load the machine heavily, and only some want to see a node lost.
        Self {
            timeout_factor: 10,
            docker_command: None,
            host_lines: String::new(),
            docker_lines: String::new(),
            no_environment: false,
            path_first: None,
            database: None,
            fault_points: false,
        }
    }
}

/// A directory, ports, configuration files, and the processes started with them.
pub struct Cluster {
    /// `hrt-<pid>-<n>`: begins the names of the nodes, so that scripts/clean.sh knows them.
    pub tag: String,
    pub dir: PathBuf,
    pub api: u16,
    pub tunnel: u16,
    vps_ports: (u16, u16),
    settings: Settings,
    processes: BTreeMap<String, Child>,
    /// The Host's `cluster_id`, the label of our containers.
    cluster_id: Option<String>,
    /// Command tasks that were submitted: their processes carry these in their environment.
    tasks: Mutex<Vec<String>>,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A slice of ports that no other cluster of this process has and nobody listens on: API, tunnel, and 60 for VPS.
fn ports() -> (u16, u16, (u16, u16)) {
    const FIRST: u32 = 10_000;
    const SIZE: u32 = 64;
    const SLICES: u32 = 300;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..SLICES {
        // Two test processes at once begin at different slices.
        let slice = (std::process::id().wrapping_mul(37) + NEXT.fetch_add(1, Ordering::Relaxed)) % SLICES;
        let base = u16::try_from(FIRST + slice * SIZE).unwrap();
        if (base..base + 8).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return (base, base + 1, (base + 4, base + 63));
        }
    }
    panic!("no free ports between {FIRST} and {}", FIRST + SIZE * SLICES)
}

impl Cluster {
    /// Directory and files; nothing runs.
    pub fn new(settings: Settings) -> Self {
        let tag = format!("hrt-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&tag);
        fs::create_dir_all(dir.join("shared/hakuriver-containers")).unwrap();
        let (api, tunnel, vps_ports) = ports();
        let cluster = Self {
            tag,
            dir,
            api,
            tunnel,
            vps_ports,
            settings,
            processes: BTreeMap::new(),
            cluster_id: None,
            tasks: Mutex::default(),
        };
        cluster.write_config("config", None);
        keygen(&cluster.key());
        if !cluster.settings.no_environment {
            cluster.add_environment("hakuriver-base", 1_700_000_000, &image_file("sshd.tar"));
        }
        cluster
    }

    /// `hakuriver up`, with its node online and the environment in place.
    pub fn up() -> Self {
        Self::up_with(Settings::default())
    }

    pub fn up_with(settings: Settings) -> Self {
        let mut cluster = Self::new(settings);
        cluster.start_up();
        cluster
    }

    /// Host and one Runner as two processes.
    pub fn host_and_runner(settings: Settings) -> Self {
        let mut cluster = Self::new(settings);
        cluster.start_host();
        cluster.start_runner("a");
        cluster
    }

    pub fn start_up(&mut self) {
        self.write_config("config", Some("a"));
        let state = self.dir.to_str().unwrap().to_owned();
        self.spawn("up", &["up", "--state-dir", &state]);
        self.await_host("up");
        self.await_node("a", "online");
    }

    pub fn start_host(&mut self) {
        let config = self.config("config");
        self.spawn("host", &["host", "--config", &config]);
        self.await_host("host");
    }

    pub fn start_runner(&mut self, short: &str) {
        self.spawn_runner(short);
        self.await_node(short, "online");
    }

    /// Without waiting for it to be online.
    pub fn spawn_runner(&mut self, short: &str) {
        self.write_config(short, Some(short));
        let config = self.config(short);
        self.spawn(&format!("runner-{short}"), &["runner", "--config", &config]);
    }

    fn await_host(&mut self, name: &str) {
        let token_file = self.dir.join("token");
        let api = self.api;
        let mut child = self.processes.remove(name).unwrap();
        let log = self.dir.join(format!("{name}.log"));
        wait::until(&format!("{name} is ready"), SOON, || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended with {status}:\n{}", fs::read_to_string(&log).unwrap());
            }
            let reply = http::try_call(api, "GET", "/healthz", None, None).map_err(|e| e.to_string())?;
            if reply.status == 200 && token_file.exists() { Ok(()) } else { Err(format!("{reply:?}")) }
        });
        self.processes.insert(name.to_owned(), child);
        let text = self.get("/version");
        let version =
            hakuriver::api::public::Version::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        self.cluster_id = Some(version.cluster_id);
    }

    /// Starts the program with its log in `<name>.log`, in a process group of its own.
    pub fn spawn(&mut self, name: &str, args: &[&str]) {
        self.spawn_program(name, &binary(), args);
    }

    /// The same with another program, which becomes ours.
    pub fn spawn_program(&mut self, name: &str, program: &Path, args: &[&str]) {
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join(format!("{name}.log"))).unwrap();
        let child = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        assert!(self.processes.insert(name.to_owned(), child).is_none(), "{name} runs already");
    }

    /// A command in this cluster's surroundings: its home directory, and nothing of the user's.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.dir.join("home"))
            .env_remove("HAKURIVER_TOKEN")
            .env_remove("HAKURIVER_CONFIG")
            .env_remove("SSH_AUTH_SOCK");
        if self.settings.fault_points {
            command.env("HAKURIVER_FAULTS", self.faults());
        }
        if let Some(first) = &self.settings.path_first {
            command.env("PATH", format!("{}:{}", first.display(), std::env::var("PATH").unwrap()));
        }
        command
    }

    pub fn config(&self, name: &str) -> String {
        self.dir.join(format!("{name}.toml")).to_str().unwrap().to_owned()
    }

    /// The file of a Runner that the test starts in its own way.
    pub fn write_runner_config(&self, short: &str) {
        self.write_config(short, Some(short));
    }

    /// The configuration of Host and clients, or of a Runner: the same but for the node's name and Docker.
    fn write_config(&self, name: &str, node: Option<&str>) {
        let Self { api, tunnel, vps_ports: (first, last), settings, .. } = self;
        let mut text =
            format!("[network]\nhost_port = {api}\nhost_ssh_proxy_port = {tunnel}\nvps_ports = \"{first}-{last}\"\n");
        if let Some(node) = node {
            text.push_str(&format!("runner_hostname = \"{}\"\n", self.node(node)));
            // Without it the address that routes to the Host: the same one here.
            text.push_str("runner_address = \"127.0.0.1\"\n");
        }
        text.push_str(&format!(
            "[timing]\nheartbeat_interval = 1\nheartbeat_timeout_factor = {}\ncleanup_check_interval = 1\n[docker]\n{}",
            settings.timeout_factor, settings.docker_lines
        ));
        // There is no registry; and who wants a default environment says so.
        if !settings.docker_lines.contains("initial_base_image") {
            text.push_str("initial_base_image = \"\"\n");
        }
        if let Some(docker) = &settings.docker_command {
            text.push_str(&format!("command = \"{}\"\n", docker.display()));
        }
        if let Some(path) = &settings.database {
            text.push_str(&format!("[database]\ndb_file = \"{}\"\n", path.display()));
        }
        text.push_str(&settings.host_lines);
        fs::create_dir_all(self.dir.join("home")).unwrap();
        fs::write(self.dir.join(format!("{name}.toml")), text).unwrap();
    }

    /// The node's whole name: `a` is `hrt-<pid>-<n>-a`; names with a capital letter stay as they are.
    pub fn node(&self, short: &str) -> String {
        if short.chars().any(char::is_uppercase) { short.to_owned() } else { format!("{}-{short}", self.tag) }
    }

    /// Puts a tarball where environments lie, by link where that goes.
    pub fn add_environment(&self, name: &str, unix: u64, tarball: &Path) {
        let to = self.dir.join(format!("shared/hakuriver-containers/{name}-{unix}.tar"));
        if fs::hard_link(tarball, &to).is_err() {
            fs::copy(tarball, &to).unwrap();
        }
    }

    // Processes.

    /// SIGKILL, at once.
    pub fn kill9(&mut self, name: &str) {
        let mut child = self.processes.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and its end is awaited; it must be status 0.
    #[track_caller]
    pub fn stop(&mut self, name: &str) {
        let mut child = self.processes.remove(name).unwrap_or_else(|| panic!("{name} does not run"));
        kill(pid(&child), Signal::SIGTERM).unwrap();
        let status = wait::until(&format!("{name} stops"), SOON, || match child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err("running".to_owned()),
        });
        assert!(status.success(), "{name} was asked to stop and ended with {status}\n{}", self.log(name));
    }

    /// How it has ended by itself, if it has.
    pub fn ended(&mut self, name: &str) -> Option<std::process::ExitStatus> {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("{name} was not started")).try_wait().unwrap()
    }

    /// Where fault points are planned and told of; containers have it as well.
    pub fn faults(&self) -> PathBuf {
        self.dir.join("shared/shared_data/.faults")
    }

    /// SIGSTOP and SIGCONT.
    pub fn signal(&self, name: &str, signal: Signal) {
        kill(pid(&self.processes[name]), signal).unwrap();
    }

    pub fn pid(&self, name: &str) -> u32 {
        self.processes[name].id()
    }

    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Remembers command tasks, so that their processes are found when all ends.
    pub fn remember(&self, ids: &[String]) {
        self.tasks.lock().unwrap().extend_from_slice(ids);
    }

    /// The tasks that are remembered, and those that a Runner has a folder of.
    pub fn task_ids(&self) -> Vec<String> {
        let mut all = self.tasks.lock().map(|ids| ids.clone()).unwrap_or_default();
        for node in fs::read_dir(self.dir.join("runner")).into_iter().flatten().flatten() {
            for folder in fs::read_dir(node.path().join("tasks")).into_iter().flatten().flatten() {
                all.extend(folder.file_name().to_string_lossy().split('.').next().map(str::to_owned));
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The Host's.
    pub fn database(&self) -> PathBuf {
        self.settings.database.clone().unwrap_or_else(|| self.dir.join("cluster.db"))
    }

    /// What a Runner keeps on its node.
    pub fn runner_dir(&self, short: &str) -> PathBuf {
        self.dir.join("runner").join(self.node(short))
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn rss(&self, name: &str) -> u64 {
        rss(self.pid(name))
    }

    // The command line.

    /// `hakuriver ROLE --config … ARGS…` with a minute's time.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        program::run(&mut self.cli_command(args), Duration::from_secs(60))
    }

    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = self.command(&binary());
        command.arg(args[0]).args(["--config", &self.config("config")]).args(&args[1..]);
        command
    }

    /// The private key that the VPS of this cluster are made for.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// Submits with this cluster's key and waits until it accepts SSH.
    #[track_caller]
    pub fn submit(&self, options: &[&str]) -> String {
        let public = self.dir.join("key.pub");
        let mut args = vec!["vps", "submit", "--public-key-file", public.to_str().unwrap()];
        args.extend(options);
        first_id(&self.cli(&args).ok())
    }

    #[track_caller]
    pub fn submit_no_wait(&self, options: &[&str]) -> String {
        let mut all = vec!["--no-wait"];
        all.extend(options);
        self.submit(&all)
    }

    /// `hakuriver ssh ID …` with the cluster's key.
    #[track_caller]
    pub fn ssh(&self, id: &str, args: &[&str]) -> Output {
        program::run(&mut self.ssh_command(id, args), Duration::from_secs(60))
    }

    pub fn ssh_command(&self, id: &str, args: &[&str]) -> Command {
        let key = self.key();
        let mut all = vec!["ssh", id, "-i", key.to_str().unwrap(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"];
        all.extend(args);
        self.cli_command(&all)
    }

    // The API.

    pub fn token(&self) -> String {
        fs::read_to_string(self.dir.join("token")).unwrap().trim().to_owned()
    }

    pub fn node_token(&self) -> String {
        fs::read_to_string(self.dir.join("node-token")).unwrap().trim().to_owned()
    }

    /// The body of a GET that must be 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let reply = http::call(self.api, "GET", path, Some(&self.token()), None);
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        reply.text()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> http::Reply {
        http::call(self.api, "POST", path, Some(&self.token()), Some(body))
    }

    #[track_caller]
    pub fn status(&self, id: &str) -> TaskRecord {
        let text = self.get(&format!("/status/{id}"));
        TaskRecord::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[track_caller]
    pub fn nodes(&self) -> Vec<NodeRow> {
        let text = self.get("/nodes");
        Vec::deserialize_json(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    #[track_caller]
    pub fn await_node(&self, short: &str, status: &str) {
        let name = self.node(short);
        wait::until(&format!("node {name} is {status}"), SOON, || {
            let nodes = self.nodes();
            match nodes.iter().find(|node| node.hostname == name) {
                Some(node) if node.status == status => Ok(()),
                other => {
                    Err(format!("{:?}; its log:\n{}", other.map(|n| &n.status), self.log(&format!("runner-{short}"))))
                }
            }
        });
    }

    /// Waits for a state; another final state fails at once, with its message.
    #[track_caller]
    pub fn await_status(&self, id: &str, wanted: &str) -> TaskRecord {
        const FINAL: [&str; 4] = ["completed", "failed", "killed", "killed_oom"];
        wait::until(&format!("task {id} is {wanted}"), SOON, || {
            let record = self.status(id);
            if record.status == wanted {
                return Ok(record);
            }
            let seen = format!(
                "{} (want {}, reason {:?}, error {:?})",
                record.status, record.want, record.reason, record.error_message
            );
            assert!(!FINAL.contains(&record.status.as_str()), "task {id} should become {wanted}, and is {seen}");
            Err(seen)
        })
    }

    // Docker.

    /// The ids of all containers of a task, running or not.
    pub fn containers(&self, id: &str) -> Vec<String> {
        let cluster = format!("label=hakuriver.cluster={}", self.cluster_id.as_deref().unwrap());
        let task = format!("label=hakuriver.task={id}");
        let ids = program::docker(&["ps", "-aq", "--no-trunc", "--filter", &cluster, "--filter", &task]);
        ids.lines().map(str::to_owned).collect()
    }

    /// The one container of a task.
    #[track_caller]
    pub fn container(&self, id: &str) -> String {
        let all = self.containers(id);
        assert_eq!(all.len(), 1, "containers of task {id}: {all:?}");
        all.into_iter().next().unwrap()
    }

    #[track_caller]
    pub fn await_no_container(&self, id: &str) {
        wait::until_true(&format!("no container of task {id}"), SOON, || {
            let all = self.containers(id);
            (all.is_empty(), format!("{all:?}"))
        });
    }

    /// `vps kill`, then `killed` and no container.
    #[track_caller]
    pub fn kill_vps(&self, id: &str) {
        self.cli(&["vps", "kill", id]).ok();
        self.await_status(id, "killed");
        self.await_no_container(id);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let broken = if failed { Vec::new() } else { invariants::at_the_end(self) };
        for child in self.processes.values_mut() {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        if failed || !broken.is_empty() {
            self.print_logs();
        }
        self.end_tasks();
        if let Some(cluster) = &self.cluster_id {
            remove_containers(&format!("label=hakuriver.cluster={cluster}"));
        }
        if !(failed && std::env::var_os("HAKURIVER_TEST_KEEP").is_some()) {
            let _ = fs::remove_dir_all(&self.dir);
        }
        assert!(broken.is_empty(), "what must always hold does not:\n{}", broken.join("\n"));
    }
}

impl Cluster {
    /// The nodes' supervisors, and whatever they started: nothing of it may panic, since a failed test may be unwinding.
    fn end_tasks(&self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let mut all = self.supervisors();
            all.extend(self.task_processes());
            if all.is_empty() {
                break;
            }
            for pid in all.into_iter().filter_map(|pid| i32::try_from(pid).ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thaw(&self.tag, self.cluster_id());
            std::thread::sleep(Duration::from_millis(10));
        }
        for group in groups(&self.tag, self.cluster_id()) {
            let _ = fs::remove_dir(group);
        }
    }

    fn print_logs(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log")) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {} (last 40 lines)", path.display());
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// The control groups of a cluster, the deepest first: folders whose name has its nodes' tag or its id.
fn groups(tag: &str, cluster_id: Option<&str>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, bool, u32)> = vec![(PathBuf::from("/sys/fs/cgroup"), false, 0)];
    while let Some((folder, ours, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // A hierarchy may be a link to another one's name.
            if depth >= 6 || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = ours
                || name.contains("hakuriver")
                    && (name.contains(&format!("{tag}-")) || cluster_id.is_some_and(|id| name.contains(id)));
            if ours {
                found.push(entry.path());
            }
            folders.push((entry.path(), ours, depth + 1));
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    found
}

/// What is frozen does not end.
fn thaw(tag: &str, cluster_id: Option<&str>) {
    for group in groups(tag, cluster_id) {
        for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            if group.join(file).exists() {
                let _ = fs::write(group.join(file), text);
            }
        }
    }
}

/// Not through [`program::run`]: this runs while a failed test unwinds, where a second panic would abort everything.
fn remove_containers(filter: &str) {
    let Ok(list) = Command::new("docker").args(["ps", "-aq", "--filter", filter]).output() else { return };
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let ids: Vec<&str> = list.split_whitespace().collect();
    if !ids.is_empty() {
        let _ = Command::new("docker").args(["rm", "-f", "-v"]).args(ids).stdout(Stdio::null()).status();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// Resident memory of a process in bytes.
pub fn rss(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// A fresh Ed25519 key pair without a passphrase: `path` and `path.pub`.
pub fn keygen(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path);
    program::run(&mut command, SOON).ok();
}

/// The first word of decimal digits that is long enough for a task id.
#[track_caller]
pub fn first_id(text: &str) -> String {
    text.split(|c: char| !c.is_ascii_digit())
        .find(|word| word.len() >= 15)
        .unwrap_or_else(|| panic!("no task id in {text:?}"))
        .to_owned()
}

/// An executable file, for programs that stand in for another one.
pub fn write_script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    // "Text file busy" (a parallel test forked while this was open for writing) cannot happen to a script's reader, but
    // exec of the script itself waits for every writer: opening it for reading makes sure that it is whole.
    drop(File::open(path).unwrap());
}
