//! A Docker daemon of a test's own: a second machine's, or one that can be killed without disturbing anybody.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Cluster, SOON};
use crate::program;
use crate::wait;

/// The daemon, with all that it needs.
pub struct Daemon {
    tag: String,
    /// Short, for the sockets in it.
    run: PathBuf,
    pub data: PathBuf,
    bridge: String,
    /// What starts its containers, if not runc itself.
    runtime: Option<PathBuf>,
    child: Option<Child>,
}

impl Daemon {
    pub fn new(scratch: &Cluster) -> Self {
        let number = scratch.tag.rsplit('-').next().unwrap();
        // Also where no container uses it: without one (`--bridge none`) dockerd removes docker0, the machine's own.
        let bridge = format!("hrt{}x{number}", std::process::id() % 100_000);
        let daemon = Self {
            tag: scratch.tag.clone(),
            run: std::env::temp_dir().join(&scratch.tag),
            data: scratch.dir.join("docker-data"),
            bridge,
            runtime: None,
            child: None,
        };
        fs::create_dir_all(&daemon.run).unwrap();
        ip(&["link", "add", "name", &daemon.bridge, "type", "bridge"]);
        // A network that nobody else here has.
        let third = (std::process::id() + number.parse::<u32>().unwrap()) % 250;
        ip(&["address", "add", &format!("10.213.{third}.1/24"), "dev", &daemon.bridge]);
        ip(&["link", "set", &daemon.bridge, "up"]);
        daemon
    }

    /// Its containers are started by this program, which has runc's arguments.
    pub fn with_runtime(mut self, program: PathBuf) -> Self {
        self.runtime = Some(program);
        self
    }

    pub fn socket(&self) -> String {
        format!("unix://{}/d.sock", self.run.display())
    }

    pub fn start(&mut self) {
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
        let mut command = Command::new("dockerd");
        if let Some(program) = &self.runtime {
            command.arg(format!("--add-runtime=ours={}", program.display())).arg("--default-runtime=ours");
        }
        let child = command
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

    pub fn stop(&mut self, signal: Signal) {
        let mut child = self.child.take().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        wait::until("the daemon ends", Duration::from_secs(60), || {
            child.try_wait().unwrap().map(drop).ok_or_else(|| "running".to_owned())
        });
    }

    /// It answers nobody, and ends nothing.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the daemon runs");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.socket()]);
        command
    }

    /// The shims of its containers, whether it knows these or not.
    fn shims(&self) -> Vec<i32> {
        processes_naming(&format!("containerd-shim-runc-v2\0-namespace\0{}\0", self.tag))
    }

    /// The shim of one container, while it is there.
    pub fn shim_of(&self, container: &str) -> Option<i32> {
        processes_naming(&format!("containerd-shim-runc-v2\0-namespace\0{}\0-id\0{container}\0", self.tag)).pop()
    }

    /// Kills one shim that is making a container, with what it has begun for that, which would wait for ever for somebody to go on
    /// with it. False: there is none.
    pub fn kill_maker(&self) -> bool {
        let making = processes_naming("create\0--bundle\0");
        for shim in self.shims() {
            if let Some(runtime) = children(shim).into_iter().find(|pid| making.contains(pid)) {
                let is_killed = kill(Pid::from_raw(shim), Signal::SIGKILL).is_ok();
                // It may have ended with that.
                let _ = kill(Pid::from_raw(runtime), Signal::SIGKILL);
                return is_killed;
            }
        }
        false
    }

    /// Whoever knows how they have ended, or would, goes; it is down already. As if it had died between an end that it had been told of
    /// and its own record of that: containerd has let go of the container by then.
    pub fn kill_shims(&self) {
        for shim in self.shims() {
            // It may have gone by itself.
            let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
        }
        let containers = self.run.join("exec/containerd/daemon/io.containerd.runtime.v2.task");
        for namespace in fs::read_dir(containers).unwrap() {
            fs::remove_dir_all(namespace.unwrap().path()).unwrap();
        }
    }

    /// Our first processes in its containers, whether it knows these or not.
    pub fn firsts(&self) -> Vec<i32> {
        let ours = processes_naming("supervise\0--in-container\0");
        self.shims().into_iter().flat_map(children).filter(|pid| ours.contains(pid)).collect()
    }

    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        program::run(self.command().args(args), Duration::from_secs(60)).ok().trim().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            // A test may have failed while it was frozen.
            self.thaw();
            // And it may have locked itself up.
            let ask = |args: &[&str]| {
                let output = Command::new("timeout").args(["60", "docker", "-H", &self.socket()]).args(args).output();
                output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
            };
            let list = ask(&["ps", "-aq"]);
            let ids = list.split_whitespace();
            ask(&["rm", "-f", "-v"].into_iter().chain(ids).collect::<Vec<_>>());
        }
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
            let _ = kill(pid, Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(30);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(25));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        // One that was killed, and not started again, has left its containers to nobody.
        for shim in self.shims() {
            for pid in children(shim).into_iter().chain([shim]) {
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

fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
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
