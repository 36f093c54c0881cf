//! Process 1 of a VPS, alone in a container: no Host, no Runner.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::env::{SOON, binary, keygen};
use crate::program::{self, Output, docker};
use crate::wait;

/// RFC 8032, section 7.1, test 1: a seed and the public key that belongs to it, as an SSH server shows it.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

/// A container with our binary as its entry point, as a Runner would make it.
struct Supervised {
    dir: PathBuf,
    name: String,
}

impl Supervised {
    /// `env` is the task's, as JSON; `options` are for `docker run`.
    fn start(test: &str, image: &str, env: &str, options: &[&str]) -> Self {
        let name = format!("hakuriver-test-supervisor-{test}-{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        let this = Self { dir, name };
        for folder in ["box", "out"] {
            fs::create_dir_all(this.dir.join(folder)).unwrap();
        }
        keygen(&this.dir.join("id"));
        let key = fs::read_to_string(this.dir.join("id.pub")).unwrap();
        let task = format!(
            r#"{{"kind":"vps","task_id":"42","keys":["{}"],"host_key_seed":"{SEED}","argv":[],"env":{env}}}"#,
            key.trim()
        );
        fs::write(this.dir.join("box/task.json"), task).unwrap();
        fs::write(this.dir.join("known_hosts"), format!("vps {HOST_KEY}\n")).unwrap();

        let mount = |from: &Path, to: &str, mode: &str| format!("{}:/.hakuriver/{to}:{mode}", from.display());
        let (program, task, out) = (
            mount(&binary(), "hakuriver", "ro"),
            mount(&this.dir.join("box"), "task", "ro"),
            mount(&this.dir.join("out"), "out", "rw"),
        );
        let mut argv = vec!["run", "-d", "--name", &this.name, "--stop-signal", "TERM", "-p", "127.0.0.1::22"];
        argv.extend(["-v", &program, "-v", &task, "-v", &out, "--entrypoint", "/.hakuriver/hakuriver"]);
        argv.extend(options);
        argv.extend([image, "supervise", "--in-container"]);
        docker(&argv);
        this
    }

    fn ssh(&self, options: &[&str], command: &str) -> Output {
        let address = docker(&["port", &self.name, "22/tcp"]);
        let port = address.trim().rsplit(':').next().unwrap();
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", port, "-i"]).arg(self.dir.join("id")).args(options);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.dir.join("known_hosts").display()));
        ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlias=vps", "-o", "IdentitiesOnly=yes"]);
        ssh.args(["-o", "BatchMode=yes", "root@127.0.0.1", command]);
        program::run(&mut ssh, SOON)
    }

    /// The output of a command in the VPS, once it answers.
    fn await_ssh(&self, command: &str) -> String {
        wait::until("ssh", SOON, || {
            let output = self.ssh(&[], command);
            if output.status == 0 { Ok(output.out()) } else { Err(format!("{output}\n{}", self.log())) }
        })
    }

    fn stop(&self) -> Duration {
        let start = Instant::now();
        docker(&["stop", &self.name]);
        start.elapsed()
    }

    fn await_exit(&self) -> String {
        let mut wait = Command::new("docker");
        program::run(wait.args(["wait", &self.name]), SOON).ok().trim().to_owned()
    }

    fn log(&self) -> String {
        let mut logs = Command::new("docker");
        let output = program::run(logs.args(["logs", &self.name]), SOON);
        output.out() + &output.stderr
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        let _gone = Command::new("docker").args(["rm", "-f", "-v", &self.name]).output();
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn sessions_get_the_environment_byte_for_byte_and_a_password_gets_nothing() {
    let env = r##"[["PLAIN","b c"],["NASTY","x\"y\\z#'$(id)`\t;\\"],["EMPTY",""]]"##;
    let vps = Supervised::start("env", "hakuriver-test/sshd:1", env, &["-e", "IMAGE=from the image"]);
    let seen =
        vps.await_ssh("printf '%s|' \"$PLAIN\" \"$NASTY\" \"${EMPTY-unset}\" \"$IMAGE\" $HAKURIVER_TASK_ID $HOME");
    assert_eq!(seen, "b c|x\"y\\z#'$(id)`\t;\\||from the image|42|/root|");
    let refused = vps.ssh(&["-o", "PubkeyAuthentication=no"], "true");
    assert_eq!(refused.status, 255, "{refused}");
    assert!(refused.stderr.contains("Permission denied (publickey)"), "{refused}");
}

#[test]
fn it_stops_at_once_with_all_that_runs_in_it_and_starts_again_as_it_was() {
    let vps = Supervised::start("stop", "hakuriver-test/sshd:1", "[]", &[]);
    // What survives its session, and what is stopped and so hears nothing until it is continued.
    vps.await_ssh("exec >/dev/null 2>&1 </dev/null; setsid sleep 1000 & setsid sleep 999 & kill -STOP $!; touch /kept");
    let before = vps.await_ssh("cat /etc/passwd /etc/shadow /etc/hakuriver/*");
    let time = vps.stop();
    assert!(time < Duration::from_secs(5), "{time:?}: Docker's grace of 10 s was not needed");
    assert_eq!(vps.await_exit(), "0");
    docker(&["start", &vps.name]);
    assert_eq!(vps.await_ssh("cat /etc/passwd /etc/shadow /etc/hakuriver/*; ls /kept"), before + "/kept\n");
}

#[test]
fn orphans_are_buried() {
    let vps = Supervised::start("orphans", "hakuriver-test/sshd:1", "[]", &[]);
    vps.await_ssh("exec >/dev/null 2>&1 </dev/null; for i in 1 2 3; do (setsid sleep 0.1 &); done");
    wait::until("no sleep, alive or dead", SOON, || {
        let found = vps.await_ssh("cat /proc/[0-9]*/stat | grep -F '(sleep)' || true");
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

#[test]
fn a_server_that_dies_ends_the_container_with_its_status() {
    let vps = Supervised::start("dies", "hakuriver-test/sshd:1", "[]", &[]);
    vps.await_ssh("true");
    docker(&["exec", &vps.name, "sh", "-c", "kill -9 $(cat /run/sshd.pid)"]);
    assert_eq!(vps.await_exit(), "137");
    assert!(vps.log().contains("the SSH server /usr/sbin/sshd ended with status 137"), "{}", vps.log());
}

#[test]
fn what_cannot_be_a_vps_says_what_to_do() {
    for (test, image, env, options, message) in [
        (
            "bare",
            "hakuriver-test/bare:1",
            "[]",
            [].as_slice(),
            "install openssh-server (or dropbear) in the environment",
        ),
        ("user", "hakuriver-test/sshd:1", "[]", ["--user", "1000"].as_slice(), "does not run as root"),
        ("line", "hakuriver-test/sshd:1", r#"[["A","b\nc"]]"#, [].as_slice(), "\"A\" has a line break"),
    ] {
        let vps = Supervised::start(test, image, env, options);
        assert_eq!(vps.await_exit(), "78", "{}", vps.log());
        let log = vps.log();
        assert!(log.trim_end().lines().last().is_some_and(|last| last.contains(message)), "{log}");
    }
}
