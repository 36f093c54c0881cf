//! A node where systemd runs: tasks without a container are scopes of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::program::{self, Output, docker};
use crate::tasks::{cpu_list, mark, seen};
use crate::wait;

const IMAGE: &str = "hakuriver-test/systemd:1";

/// A container in which systemd is process 1, and the Runner one of its services. The Host is outside.
struct Node {
    cluster: Cluster,
    container: String,
}

impl Node {
    fn new() -> Self {
        Self::of(Settings { no_environment: true, ..Settings::default() })
    }

    fn of(settings: Settings) -> Self {
        let mut cluster = Cluster::new(settings);
        cluster.start_host();
        let dir = cluster.dir.display().to_string();
        let docker_program = String::from_utf8(Command::new("which").arg("docker").output().unwrap().stdout).unwrap();
        // systemd makes groups of its own below its container's, and needs no more than this for it.
        let container = docker(&[
            "run",
            "-d",
            "--name",
            &format!("{}-systemd", cluster.tag),
            "--label",
            "hakuriver.node=hrt-systemd",
            "--network",
            "host",
            "--cap-add",
            "SYS_ADMIN",
            "--cap-add",
            "NET_ADMIN",
            "--cap-add",
            "SYS_PTRACE",
            "--cap-add",
            "SYS_NICE",
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "apparmor=unconfined",
            "-v",
            "/sys/fs/cgroup:/sys/fs/cgroup",
            "--cgroupns=host",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
            "-v",
            &format!("{dir}:{dir}"),
            "-v",
            &format!("{}:/usr/bin/hakuriver:ro", binary().display()),
            "-v",
            &format!("{}:/usr/bin/docker:ro", docker_program.trim()),
            "-v",
            "/var/run/docker.sock:/docker.sock",
            IMAGE,
        ]);
        let node = Self { cluster, container };
        node.await_systemd();
        node.write_runner();
        node.exec(&["systemctl", "start", "hakuriver-runner"]).ok();
        node.cluster.await_node("s", "online");
        node
    }

    fn exec(&self, argv: &[&str]) -> Output {
        let mut command = Command::new("docker");
        program::run(command.args(["exec", &self.container]).args(argv), SOON)
    }

    fn await_systemd(&self) {
        wait::until("systemd runs in the container", SOON, || {
            let output = self.exec(&["systemctl", "is-system-running"]);
            let state = output.out().trim().to_owned();
            if state == "running" || state == "degraded" { Ok(()) } else { Err(output.to_string()) }
        });
    }

    /// Configuration and unit of the Runner. Its state is in the cluster's directory, which both sides see.
    fn write_runner(&self) {
        self.cluster.write_runner_config("s");
        // The machine's own Docker, where this container sees it.
        self.exec(&["mkdir", "-p", "/etc/systemd/system/hakuriver-runner.service.d"]).ok();
        let drop_in = self.cluster.dir.join("docker.conf");
        std::fs::write(&drop_in, "[Service]\nEnvironment=DOCKER_HOST=unix:///docker.sock\n").unwrap();
        self.exec(&["cp", drop_in.to_str().unwrap(), "/etc/systemd/system/hakuriver-runner.service.d/"]).ok();
        let config = self.cluster.config("s");
        let said = self.exec(&["hakuriver", "init", "service", "--runner", "--runner-config", &config]).ok();
        assert!(said.contains("systemctl enable --now hakuriver-runner.service"), "{said}");
    }

    fn shown(&self, unit: &str, property: &str) -> String {
        self.exec(&["systemctl", "show", "-p", property, "--value", unit]).ok().trim().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = Command::new("docker")
                .args(["exec", &self.container, "journalctl", "-n", "60", "--no-pager", "-o", "cat"])
                .output();
            eprintln!(
                "--- journal\n{}",
                journal.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
            );
        }
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.container]).output();
    }
}

#[test]
fn a_task_is_a_scope_with_its_limits_and_its_binding() {
    let node = Node::new();
    let cluster = &node.cluster;
    let script = "cat /proc/self/status /proc/self/cgroup; grep -c bind: /proc/self/numa_maps; echo; sleep 1000";
    let row = cluster.nodes().remove(0);
    let numa = row.numa_topology.as_ref().and_then(|all| all.keys().next().cloned());
    let target = format!("{}{}", row.hostname, numa.as_ref().map_or_else(String::new, |id| format!(":{id}")));
    let id = cluster.script(&["--target", &target, "--memory", "128M", "--cores", "1"], script);
    let record = cluster.await_status(&id, "running");
    let unit = record.systemd_unit_name.clone().unwrap_or_default();
    assert_eq!(unit, format!("hakuriver-task-{id}.scope"), "{record:?}");
    assert_eq!(node.shown(&unit, "ActiveState"), "active");
    // The name of the property depends on the kernel's control groups.
    let limits = [node.shown(&unit, "MemoryMax"), node.shown(&unit, "MemoryLimit")];
    assert!(limits.iter().any(|limit| limit == "128000000"), "{limits:?}");
    let lines = cluster.await_lines(&id, 40).join("\n");
    let field =
        |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(cpu_list(&field("Cpus_allowed_list:")).len(), 1, "bound to a core of its own: {lines}");
    assert!(lines.contains(&format!("/{unit}")), "in the scope's group: {lines}");
    if numa.is_some() {
        let bound: u32 = lines.lines().filter_map(|line| line.parse().ok()).next_back().unwrap_or(0);
        assert!(bound > 0, "its memory policy binds: {lines}");
    }
    cluster.cli(&["task", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    wait::until_true("the scope goes", SOON, || {
        let state = node.shown(&unit, "ActiveState");
        (state == "inactive", state)
    });
}

#[test]
fn out_of_memory_in_a_scope() {
    let node = Node::new();
    let cluster = &node.cluster;
    let greedy = "my $x = 'x' x 300_000_000; sleep 60";
    let id = cluster.null_task(&["--memory", "64M"], &["perl", "-e", greedy]);
    let record = cluster.await_status(&id, "killed_oom");
    assert_eq!((record.exit_code, record.exit_signal), (Some(137), Some(9)), "{}", seen(&record));
    let script = format!("perl -e \"{}\"; echo $?; exit 0", greedy.replace('$', "\\$"));
    let id = cluster.script(&["--memory", "64M"], &script);
    cluster.await_status(&id, "completed");
    assert_eq!(cluster.stdout(&id), "137\n", "the child alone was killed");
    let by_hand = cluster.script(&["--memory", "64M"], "kill -9 $$");
    let record = cluster.await_status(&by_hand, "failed");
    assert!(record.error_message.as_deref().unwrap_or_default().contains("killed by signal 9"), "{}", seen(&record));
    let plain = cluster.script(&["--memory", "64M"], "exit 137");
    assert_eq!(cluster.await_status(&plain, "failed").exit_signal, None);
}

#[test]
fn a_restart_of_the_runners_unit_leaves_tasks_alive() {
    let node = Node::new();
    let cluster = &node.cluster;
    let flags = cluster.dir.join("flags");
    std::fs::create_dir(&flags).unwrap();
    let script = |at: usize, code: usize| {
        let flag: PathBuf = flags.join(at.to_string());
        format!("echo $$; while [ ! -e {} ]; do sleep 0.1; done; echo end; exit {code}", Path::display(&flag))
    };
    let scripts: Vec<String> = (0..4).map(|at| script(at, at + 3)).collect();
    let ids = cluster.scripts(0, None, &scripts);
    let pids: Vec<String> = ids
        .iter()
        .map(|id| {
            cluster.await_status(id, "running");
            cluster.await_lines(id, 1).remove(0)
        })
        .collect();
    let started: Vec<String> = pids
        .iter()
        .map(|pid| node.exec(&["cat", &format!("/proc/{pid}/stat")]).ok())
        .map(|stat| start(&stat))
        .collect();
    // One ends while the Runner is stopped.
    node.exec(&["systemctl", "stop", "hakuriver-runner"]).ok();
    std::fs::write(flags.join("0"), "").unwrap();
    wait::until_true("it has ended", SOON, || {
        let there = node.exec(&["cat", &format!("/proc/{}/stat", pids[0])]);
        (there.status != 0, there.to_string())
    });
    node.exec(&["systemctl", "start", "hakuriver-runner"]).ok();
    let record = cluster.await_status(&ids[0], "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(3), 1), "{}", seen(&record));
    node.exec(&["systemctl", "restart", "hakuriver-runner"]).ok();
    cluster.await_node("s", "online");
    for at in 1..4 {
        cluster.await_status(&ids[at], "running");
        let stat = node.exec(&["cat", &format!("/proc/{}/stat", pids[at])]).ok();
        assert_eq!(start(&stat), started[at], "the same process");
        std::fs::write(flags.join(at.to_string()), "").unwrap();
        let record = cluster.await_status(&ids[at], "failed");
        assert_eq!((record.exit_code, record.attempt), (Some(at as i32 + 3), 1), "{}", seen(&record));
        assert_eq!(cluster.stdout(&ids[at]), format!("{}\nend\n", pids[at]));
    }
}

#[test]
fn a_restart_of_the_runners_unit_leaves_a_vps_alive() {
    let node = Node::of(Settings::default());
    let cluster = &node.cluster;
    let id = cluster.submit(&[]);
    cluster.await_status(&id, "running");
    let container = cluster.container(&id);
    let state = || docker(&["inspect", "-f", "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}}", &container]);
    let before = state();
    assert!(before.starts_with("running "), "{before}");
    node.exec(&["systemctl", "restart", "hakuriver-runner"]).ok();
    node.exec(&["systemctl", "stop", "hakuriver-runner"]).ok();
    assert_eq!(state(), before);
    node.exec(&["systemctl", "start", "hakuriver-runner"]).ok();
    cluster.await_node("s", "online");
    let record = cluster.await_status(&id, "running");
    assert_eq!((record.attempt, state()), (1, before), "{}", seen(&record));
    cluster.cli(&["vps", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    cluster.await_no_container(&id);
}

#[test]
fn units_are_written_again_and_again_and_systemd_finds_no_fault() {
    let node = Node::new();
    let dir = node.cluster.dir.join("a host's own 100% $dir");
    std::fs::create_dir(&dir).unwrap();
    let config = dir.join("config.toml");
    std::fs::write(&config, "[network]\nhost_port = 0\nhost_ssh_proxy_port = 0\n").unwrap();
    let config = config.to_str().unwrap();
    let both = ["hakuriver", "init", "service", "--all", "--host-config", config, "--runner-config", config];
    let units = ["/etc/systemd/system/hakuriver-host.service", "/etc/systemd/system/hakuriver-runner.service"];
    let texts = || units.map(|unit| node.exec(&["cat", unit]).ok());
    node.exec(&both).ok();
    let first = texts();
    node.exec(&both).ok();
    assert_eq!(texts(), first);
    let verify = node.exec(&["systemd-analyze", "verify", units[0], units[1]]);
    assert_eq!((verify.status, verify.out().as_str(), verify.stderr.as_str()), (0, "", ""));
    // It is started when it is ready, not before.
    node.exec(&["systemctl", "start", "hakuriver-host"]).ok();
    let journal = || node.exec(&["journalctl", "-u", "hakuriver-host", "--no-pager", "-o", "cat"]).ok();
    assert!(journal().contains("hakuriver host: ready:"), "{}", journal());
    assert_eq!(node.shown("hakuriver-host", "ActiveState"), "active");
    node.exec(&["systemctl", "restart", "hakuriver-host"]).ok();
    node.exec(&["systemctl", "stop", "hakuriver-host"]).ok();
    assert_eq!(node.shown("hakuriver-host", "Result"), "success", "{}", journal());
    assert!(dir.join("cluster.db").exists());
    // A configuration that is wrong is told of, and not tried for ever.
    std::fs::write(config, "[network]\nhost_port = \"x\"\n").unwrap();
    let failed = node.exec(&["systemctl", "start", "hakuriver-host"]);
    assert_ne!(failed.status, 0);
    wait::until("it is given up", SOON, || match node.shown("hakuriver-host", "ActiveState").as_str() {
        "failed" => Ok(()),
        other => Err(other.to_owned()),
    });
    assert!(journal().contains("host_port"), "{}", journal());
    node.exec(&["hakuriver", "init", "service", "--host", "--host-config", "/no/such.toml"])
        .fails(2, &["/no/such.toml"]);
    node.exec(&["hakuriver", "init", "service"]).fails(2, &["--host, --runner, or --all"]);
}

/// The start time of a line of /proc/PID/stat.
fn start(stat: &str) -> String {
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned()
}

#[test]
fn pause_and_kill_reach_all_of_a_scope() {
    let node = Node::new();
    let cluster = &node.cluster;
    let mark = mark();
    let script = format!(
        "setsid sh -c 'sleep {mark} & while :; do :; done' & ( ( setsid sleep {mark} & ) & ) ; echo ready; sleep {mark}"
    );
    let id = cluster.script(&[], &script);
    cluster.await_lines(&id, 1);
    cluster.await_status(&id, "running");
    cluster.cli(&["task", "command", &id, "pause"]).ok();
    cluster.await_status(&id, "paused");
    let all = crate::tasks::processes_with(&mark);
    assert!(all.len() >= 4, "{all:?}");
    let before: Vec<u64> = all.iter().map(|pid| crate::tasks::cpu_ticks(*pid)).collect();
    wait::holds_for("no CPU", Duration::from_millis(500), || {
        let now: Vec<u64> = all.iter().map(|pid| crate::tasks::cpu_ticks(*pid)).collect();
        if now == before { Ok(()) } else { Err(format!("{before:?} became {now:?}")) }
    });
    cluster.cli(&["task", "kill", &id]).ok();
    cluster.await_status(&id, "killed");
    assert_eq!(crate::tasks::processes_with(&mark), [] as [u32; 0]);
}
