//! What happens to containers behind the Runner's back, and to Docker itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Cluster, SOON, Settings, write_script};
use crate::program::{self, docker};
use crate::wait;

#[track_caller]
fn await_ssh(cluster: &Cluster, id: &str) {
    wait::until("ssh works", SOON, || {
        let result = cluster.ssh(id, &["--", "echo in"]);
        if result.status == 0 { Ok(()) } else { Err(result.to_string()) }
    });
}

#[test]
fn a_restarted_container_is_running_again_with_port_and_keys_unchanged() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id);
    let container = cluster.container(&id);
    docker(&["restart", "-t", "5", &container]);
    await_ssh(&cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(cluster.container(&id), container);
    cluster.kill_vps(&id);
}

#[test]
fn a_container_stopped_behind_our_back_is_started_again() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id);
    let container = cluster.container(&id);
    docker(&["stop", "-t", "5", &container]);
    await_ssh(&cluster, &id);
    let after = cluster.await_status(&id, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(cluster.container(&id), container);
    cluster.kill_vps(&id);
}

#[test]
fn a_container_removed_behind_our_back_is_failed_and_says_so() {
    let cluster = Cluster::up();
    let id = cluster.submit(&["--cores", "1"]);
    docker(&["rm", "-f", "-v", &cluster.container(&id)]);
    let record = cluster.await_status(&id, "failed");
    assert!(record.error_message.as_deref().is_some_and(|m| m.contains("removed")), "{record:?}");
    wait::until_true("its core is free", SOON, || (cluster.nodes()[0].cores_in_use == 0, "in use".to_owned()));
    let next = cluster.submit(&["--cores", "1"]);
    cluster.kill_vps(&next);
}

#[test]
fn a_vps_that_keeps_dying_is_failed_and_its_container_kept() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let container = cluster.container(&id);
    wait::until("it is given up", Duration::from_secs(90), || {
        let record = cluster.status(&id);
        if record.status == "failed" {
            return Ok(());
        }
        // Its first process dies as by a crash: Docker starts the container again, by its restart policy.
        let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container]);
        if let Ok(pid @ 1..) = pid.parse::<i32>() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Err(format!("{} {:?}", record.status, record.reason))
    });
    let record = cluster.status(&id);
    assert!(record.error_message.as_deref().is_some_and(|m| m.contains("five times")), "{record:?}");
    wait::until_true("the container is kept, stopped", SOON, || {
        let state = docker(&["inspect", "-f", "{{.State.Status}}", &container]);
        (state == "exited", state)
    });
}

/// A Docker daemon of the test's own, so that it can be restarted without disturbing anybody.
struct Daemon {
    tag: String,
    /// Short, for the sockets in it.
    run: PathBuf,
    data: PathBuf,
    bridge: String,
    child: Option<Child>,
}

impl Daemon {
    fn new(scratch: &Cluster) -> Self {
        let number = scratch.tag.rsplit('-').next().unwrap();
        let bridge = format!("hrt{}x{number}", std::process::id() % 100_000);
        let daemon = Self {
            tag: scratch.tag.clone(),
            run: std::env::temp_dir().join(&scratch.tag),
            data: scratch.dir.join("docker-data"),
            bridge,
            child: None,
        };
        fs::create_dir_all(&daemon.run).unwrap();
        ip(&["link", "add", "name", &daemon.bridge, "type", "bridge"]);
        // A network that nobody else here has.
        let third = std::process::id() % 200;
        ip(&["address", "add", &format!("10.213.{third}.1/24"), "dev", &daemon.bridge]);
        ip(&["link", "set", &daemon.bridge, "up"]);
        daemon
    }

    fn socket(&self) -> String {
        format!("unix://{}/d.sock", self.run.display())
    }

    fn start(&mut self) {
        // One that was killed leaves these; the daemon takes a zombie that nobody has reaped yet for one that runs.
        for left in ["pid", "exec/containerd/containerd.pid"].map(|file| self.run.join(file)) {
            let Ok(pid) = fs::read_to_string(&left) else { continue };
            wait::until("the killed daemon's processes are reaped", SOON, || {
                if std::path::Path::new("/proc").join(pid.trim()).exists() {
                    Err(format!("{pid} exists"))
                } else {
                    Ok(())
                }
            });
            fs::remove_file(&left).unwrap();
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.run.join("dockerd.log")).unwrap();
        let child = Command::new("dockerd")
            .args(["-H", &self.socket(), "--bridge", &self.bridge])
            // The tables of the kernel belong to the machine's own daemon; the user-space proxy carries published ports.
            .args(["--iptables=false", "--ip-masq=false"])
            .arg("--data-root")
            .arg(&self.data)
            .arg("--exec-root")
            .arg(self.run.join("exec"))
            .arg("--pidfile")
            .arg(self.run.join("pid"))
            .args([
                "--containerd-namespace",
                &self.tag,
                "--containerd-plugins-namespace",
                &format!("{}-plugins", self.tag),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start dockerd (package docker.io): {e}"));
        self.child = Some(child);
        wait::until("the daemon answers", Duration::from_secs(60), || {
            let mut command = self.command();
            let output = command.args(["version", "--format", "{{.Server.Version}}"]).output().unwrap();
            if output.status.success() {
                Ok(())
            } else {
                Err(fs::read_to_string(self.run.join("dockerd.log"))
                    .unwrap_or_default()
                    .lines()
                    .last()
                    .unwrap_or("")
                    .to_owned())
            }
        });
    }

    fn stop(&mut self, signal: Signal) {
        let mut child = self.child.take().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        wait::until("the daemon ends", Duration::from_secs(60), || {
            child.try_wait().unwrap().map(drop).ok_or_else(|| "running".to_owned())
        });
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket()]);
        command
    }

    #[track_caller]
    fn docker(&self, args: &[&str]) -> String {
        program::run(self.command().args(args), Duration::from_secs(60)).ok().trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let list =
                self.command().args(["ps", "-aq"]).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            let ids: Vec<String> = list.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            let _ = self.command().args(["rm", "-f", "-v"]).args(ids).output();
        }
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)), Signal::SIGTERM);
            let _ = child.wait();
        }
        // One that was killed, and not started again, has left its containers to nobody.
        for shim in processes_naming(&format!("-namespace\0{}\0", self.tag)) {
            let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
            for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([shim]) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip").args(["link", "delete", &self.bridge]).status();
        // What a daemon that was killed left mounted.
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = |path: &&str| [&self.run, &self.data].iter().any(|dir| std::path::Path::new(path).starts_with(dir));
        for path in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(ours) {
            let _ = Command::new("umount").args(["-l", path]).status();
        }
        let _ = fs::remove_dir_all(&self.run);
        let _ = fs::remove_dir_all(&self.data);
    }
}

/// Numbers of the processes with these words, each followed by a zero, in their command line.
fn processes_naming(words: &str) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = all.filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(words)
    });
    named.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args), SOON).ok();
}

/// A cluster on a daemon of its own; the fields' order is that of their end.
struct Private {
    cluster: Cluster,
    daemon: Daemon,
    _scratch: Cluster,
}

impl Private {
    fn new() -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let mut daemon = Daemon::new(&scratch);
        daemon.start();
        let wrapper = scratch.dir.join("docker");
        write_script(&wrapper, &format!("#!/bin/sh\nexec docker -H {} \"$@\"\n", daemon.socket()));
        let cluster = Cluster::up_with(Settings { docker_command: Some(wrapper), ..Settings::default() });
        Self { cluster, daemon, _scratch: scratch }
    }

    fn containers(&self) -> Vec<String> {
        let list = self.daemon.docker(&["ps", "-aq", "--no-trunc"]);
        let mut ids: Vec<_> = list.lines().map(str::to_owned).collect();
        ids.sort_unstable();
        ids
    }

    /// One VPS that runs, and one that is paused.
    fn two(&self) -> (String, String) {
        let (runs, paused) = (self.cluster.submit(&[]), self.cluster.submit(&[]));
        self.cluster.cli(&["vps", "command", &paused, "pause"]).ok();
        self.cluster.await_status(&paused, "paused");
        (runs, paused)
    }

    #[track_caller]
    fn kill_all(&self, ids: [&str; 2]) {
        for id in ids {
            self.cluster.cli(&["vps", "kill", id]).ok();
            self.cluster.await_status(id, "killed");
        }
        wait::until_true("no container is left", SOON, || {
            let left = self.containers();
            (left.is_empty(), left.join(" "))
        });
    }
}

#[test]
fn a_restart_of_the_daemon_brings_every_vps_back_as_it_was() {
    let mut private = Private::new();
    let (runs, paused) = private.two();
    let before = private.cluster.status(&runs);
    let containers = private.containers();

    private.daemon.stop(Signal::SIGTERM);
    wait::until("the node says that Docker is away", SOON, || {
        let problems = private.cluster.nodes()[0].problems.join("; ");
        if problems.to_lowercase().contains("docker") { Ok(()) } else { Err(problems) }
    });
    private.daemon.start();
    let cluster = &private.cluster;
    await_ssh(cluster, &runs);
    let after = cluster.await_status(&runs, "running");
    assert_eq!((after.ssh_port, after.host_keys, after.attempt), (before.ssh_port, before.host_keys, 1));
    assert_eq!(private.containers(), containers, "the same containers");
    cluster.await_status(&paused, "paused");
    wait::until("the paused one is frozen again", SOON, || {
        let list = private.daemon.docker(&["ps", "-q", "--filter", "status=paused"]);
        if list.lines().count() == 1 { Ok(()) } else { Err(list) }
    });
    cluster.cli(&["vps", "command", &paused, "resume"]).ok();
    await_ssh(cluster, &paused);
    private.kill_all([&runs, &paused]);
}

#[test]
fn a_crash_of_the_daemon_costs_no_vps() {
    let mut private = Private::new();
    let (runs, paused) = private.two();
    let containers = private.containers();
    private.daemon.stop(Signal::SIGKILL);
    // What is killed meanwhile is killed when it is back.
    private.cluster.cli(&["vps", "kill", &paused]).ok();
    private.daemon.start();
    private.cluster.await_status(&paused, "killed");
    await_ssh(&private.cluster, &runs);
    assert!(containers.contains(&private.containers()[0]), "the same container");
    private.kill_all([&runs, &private.cluster.submit(&[])]);
}
