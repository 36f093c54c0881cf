//! What happens to a machine: it restarts, its disk is full, its file server is dead.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::env::{Cluster, SOON, Settings, binary, image_file, write_script};
use crate::http;
use crate::invariants::Witness;
use crate::mount::Mount;
use crate::program;
use crate::tasks::{Latches, seen};
use crate::wait;

/// The Runner, in a mount namespace in which the kernel tells of another boot.
fn boot(cluster: &mut Cluster, number: u32) {
    let file = cluster.dir.join("boot-id");
    fs::write(&file, format!("00000000-0000-4000-8000-{number:012}\n")).unwrap();
    cluster.write_runner_config("a");
    let config = cluster.config("a");
    let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let (file, binary) = (file.to_str().unwrap().to_owned(), binary());
    cluster.spawn_program(
        "runner-a",
        Path::new("unshare"),
        &["-m", "sh", "-c", script, &file, binary.to_str().unwrap(), "runner", "--config", &config],
    );
    cluster.await_node("a", "online");
}

#[test]
fn after_a_restart_of_the_machine_vps_come_back_and_processes_are_told_as_gone() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let mut daemon = Daemon::new(&scratch);
    daemon.start();
    let wrapper = scratch.dir.join("docker");
    write_script(&wrapper, &format!("#!/bin/sh\nexec docker -H {} \"$@\"\n", daemon.socket()));
    let mut cluster = Cluster::new(Settings { docker_command: Some(wrapper), ..Settings::default() });
    cluster.start_host();
    boot(&mut cluster, 1);
    let witness = Witness::of(&cluster).with_docker(&["docker", "-H", &daemon.socket()]);
    let (runs, paused) = (cluster.submit(&[]), cluster.submit(&[]));
    cluster.cli(&["vps", "command", &paused, "pause"]).ok();
    cluster.await_status(&paused, "paused");
    let before = cluster.status(&runs);
    let ended = cluster.script(&["--cores", "0"], "exit 4");
    cluster.await_status(&ended, "failed");
    let process = cluster.script(&["--cores", "0"], "echo $$; exec sleep 600");
    let pid = cluster.await_pid(&process);
    witness.acknowledged([&runs, &paused, &ended, &process]);
    witness.check();

    // The power goes, and comes back.
    let supervisor = cluster.supervisor();
    cluster.kill9("runner-a");
    for pid in [supervisor, pid] {
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
    daemon.stop(Signal::SIGTERM);
    daemon.start();
    boot(&mut cluster, 2);

    let record = cluster.await_status(&process, "failed");
    let message = record.error_message.clone().unwrap_or_default();
    assert!(message.contains("node restarted") && record.exit_code.is_none(), "{}", seen(&record));
    wait::until("the VPS is reached again", SOON, || {
        let result = cluster.ssh(&runs, &["--", "echo in"]);
        if result.status == 0 { Ok(()) } else { Err(format!("{result}; {}", seen(&cluster.status(&runs)))) }
    });
    let after = cluster.await_status(&runs, "running");
    assert_eq!((after.ssh_port, after.attempt), (before.ssh_port, 1), "{}", seen(&after));
    cluster.await_status(&paused, "paused");
    wait::until("the paused one is frozen again", SOON, || {
        let list = daemon.docker(&["ps", "-q", "--filter", "status=paused"]);
        if list.lines().count() == 1 { Ok(()) } else { Err(list) }
    });
    assert_eq!(cluster.status(&ended).exit_code, Some(4), "what had ended has its result");
    for id in [&runs, &paused] {
        cluster.cli(&["vps", "kill", id]).ok();
        witness.killed(id);
    }
    witness.settles(&cluster, SOON);
}

/// A file system whose server can be stopped: then every call to it hangs, as with a dead NFS server.
struct Served {
    server: Child,
    at: PathBuf,
}

impl Served {
    fn new(folder: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut command = Command::new("bindfs");
        command.args(["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]).arg(folder).arg(at);
        let server = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start bindfs (package bindfs): {e}"));
        let served = Self { server, at: at.to_owned() };
        wait::until("the file system is there", SOON, || {
            let mounts = fs::read_to_string("/proc/mounts").unwrap();
            if mounts.contains(at.to_str().unwrap()) { Ok(()) } else { Err(mounts) }
        });
        served
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.server.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Those who hang get an error, and go on.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

#[test]
fn a_dead_file_server_holds_up_nothing_that_does_not_need_it() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 4, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    let served = Served::new(&cluster.dir.join("shared"), &cluster.dir.join("mounted"));
    start_runner_with(&mut cluster, &served.at);
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let sees = cluster.task(&["--container", "bare"], &["sh", "-c", "touch /shared/here && pwd"]);
    cluster.await_status(&sees, "completed");
    assert!(cluster.dir.join("shared/shared_data/here").exists(), "the shared directory is there");
    let runs = cluster.script(&["--cores", "0"], &format!("echo one; {}; echo two; exit 3", latches.wait("go")));
    cluster.await_lines(&runs, 1);
    let runs_too = cluster.task(&["--cores", "0", "--container", "bare"], &["sleep", "600"]);
    cluster.await_status(&runs_too, "running");

    served.signal(Signal::SIGSTOP);
    // What needs it may wait or fail; the node, and what needs it not, go on.
    let wants = cluster.task(&["--cores", "0", "--container", "bare"], &["true"]);
    // Its working directory is there, as long as nobody says otherwise.
    let hangs = cluster.script(&["--cores", "0"], "exit 4");
    let goes = cluster.script(&["--cores", "0", "--workdir", "/tmp"], "exit 5");
    latches.open("go");
    let record = cluster.await_status(&runs, "failed");
    assert_eq!(record.exit_code, Some(3), "{}", seen(&record));
    assert_eq!(cluster.await_lines(&runs, 2), ["one", "two"]);
    assert_eq!(cluster.await_status(&goes, "failed").exit_code, Some(5));
    cluster.cli(&["task", "kill", &runs_too]).ok();
    witness.killed(&runs_too);
    cluster.await_status(&runs_too, "killed");
    wait::holds_for("the node is heard", Duration::from_secs(6), || {
        let status = cluster.nodes()[0].status.clone();
        if status == "online" { Ok(()) } else { Err(status) }
    });
    let last = cluster.script(&["--cores", "0", "--workdir", "/tmp"], "exit 6");
    assert_eq!(cluster.await_status(&last, "failed").exit_code, Some(6));
    witness.check();

    served.signal(Signal::SIGCONT);
    let record = cluster.await_end(&wants);
    assert_eq!(record.status, "completed", "{}", seen(&record));
    let record = cluster.await_end(&hangs);
    assert_eq!((record.exit_code, record.attempt), (Some(4), 1), "{}", seen(&record));
    let again = cluster.task(&["--container", "bare"], &["ls", "/shared/here"]);
    cluster.await_status(&again, "completed");
    witness.settles(&cluster, SOON);
    cluster.stop("runner-a");
}

/// Writes into a configuration where the shared directory is.
fn share(config: &str, folder: &Path) {
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, format!("{text}[paths]\nshared_dir = \"{}\"\n", folder.display())).unwrap();
}

/// Runner `a`, with a shared directory of its own.
fn start_runner_with(cluster: &mut Cluster, shared: &Path) {
    cluster.write_runner_config("a");
    let config = cluster.config("a");
    share(&config, shared);
    cluster.spawn("runner-a", &["runner", "--config", &config]);
    cluster.await_node("a", "online");
}

/// Waits for a state as `GET /tasks` has it, which no file is read for.
#[track_caller]
fn await_row(cluster: &Cluster, id: &str, status: &str) -> Option<i32> {
    wait::until(&format!("task {id} is {status}"), SOON, || {
        let row = cluster.task_rows("").into_iter().find(|row| row.task_id == id).ok_or("it is not listed")?;
        if row.status == status { Ok(row.exit_code) } else { Err(format!("{row:?}")) }
    })
}

/// How many threads a process has.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn a_dead_file_server_of_the_host_costs_what_needs_it_and_nothing_else() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 4, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    let served = Served::new(&cluster.dir.join("shared"), &cluster.dir.join("mounted"));
    share(&cluster.config("config"), &served.at);
    cluster.start_host();
    let elsewhere = cluster.dir.join("elsewhere");
    start_runner_with(&mut cluster, &elsewhere);
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let writes = cluster.script(&["--cores", "0"], &format!("echo one; {}; seq 1 200000", latches.wait("go")));
    assert_eq!(cluster.await_lines(&writes, 1), ["one"]);
    let killed = cluster.script(&["--cores", "0"], "exec sleep 600");
    cluster.await_status(&killed, "running");
    let before = threads(cluster.pid("host"));

    served.signal(Signal::SIGSTOP);
    let ends = cluster.script(&["--cores", "0"], "echo x; exit 3");
    witness.acknowledged([&writes, &killed, &ends]);
    assert_eq!(await_row(&cluster, &ends, "failed"), Some(3));
    cluster.cli(&["task", "kill", &killed]).ok();
    witness.killed(&killed);
    await_row(&cluster, &killed, "killed");
    latches.open("go");
    await_row(&cluster, &writes, "completed");
    let directory = served.at.to_str().unwrap();
    let submission = r#"{"task_type":"command","command":"true","container_name":"bare"}"#;
    let (user, node) = (cluster.token(), cluster.node_token());
    let calls = [
        ("GET", format!("/status/{ends}"), &user, None, 200),
        ("GET", format!("/task/{ends}/stdout"), &user, None, 503),
        ("GET", format!("/task/{writes}/stdout?tail=1"), &user, None, 503),
        ("GET", "/docker/list".to_owned(), &user, None, 503),
        ("POST", "/submit".to_owned(), &user, Some(submission), 503),
        ("GET", "/environments/bare".to_owned(), &node, None, 503),
    ];
    std::thread::scope(|scope| {
        for (method, path, token, body, status) in calls.iter().cycle().take(60) {
            let cluster = &cluster;
            scope.spawn(move || {
                let began = Instant::now();
                let reply = http::call(cluster.api, method, path, Some(token), *body);
                assert_eq!(reply.status, *status, "{path}: {}", reply.text());
                assert!(reply.text().contains(directory), "{path}: {}", reply.text());
                assert!(began.elapsed() < Duration::from_secs(10), "{path} took {:?}", began.elapsed());
            });
        }
    });
    let mut reader = cluster.cli_command(&["task", "stdout", &ends]);
    let reader = reader.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait::holds_for("the node is heard", Duration::from_secs(12), || {
        let status = cluster.nodes()[0].status.clone();
        let threads = threads(cluster.pid("host"));
        if status == "online" && threads < before + 30 { Ok(()) } else { Err(format!("{status}, {threads} threads")) }
    });
    assert_eq!(cluster.status(&ends).exit_code, Some(3));
    witness.check();

    served.signal(Signal::SIGCONT);
    let read = reader.wait_with_output().unwrap();
    let said = String::from_utf8(read.stderr).unwrap();
    assert!(said.starts_with("waiting: ") && said.contains(directory), "{said:?}");
    assert!(said.lines().count() == 1 && read.stdout == b"x\n", "{said:?} {:?}", read.stdout);
    assert_eq!(cluster.await_lines(&ends, 1), ["x"]);
    let numbers = (1..=200_000).map(|number| number.to_string());
    let whole: Vec<String> = std::iter::once("one".to_owned()).chain(numbers).collect();
    assert!(cluster.await_lines(&writes, whole.len()) == whole, "all of it, and once");
    for id in [&ends, &writes] {
        assert_eq!(cluster.status(id).output_note, None);
    }
    let again = cluster.task(&["--container", "bare"], &["true"]);
    cluster.await_status(&again, "completed");

    // It stops in time without the directory, and says why it does not start.
    served.signal(Signal::SIGSTOP);
    cluster.stop("host");
    let config = cluster.config("config");
    let mut start = cluster.command(&binary());
    let start = program::run(start.args(["host", "--config", &config]), SOON);
    assert!(start.status != 0 && start.stderr.contains(directory), "{start}");
    served.signal(Signal::SIGCONT);
    cluster.start_host();
    cluster.await_node("a", "online");
    witness.settles(&cluster, SOON);
    cluster.stop("runner-a");
}

#[test]
fn a_full_disk_of_the_runner_is_said_and_costs_nothing_that_runs() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.start_host();
    fs::create_dir_all(cluster.dir.join("runner")).unwrap();
    let disk = Mount::tmpfs(&cluster.dir.join("runner"), "128m");
    cluster.start_runner("a");
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let runs = cluster.script(&["--cores", "0"], &format!("echo one; {}; exit 3", latches.wait("go")));
    cluster.await_lines(&runs, 1);
    let vps = cluster.submit(&[]);

    let fill = cluster.dir.join("runner/fill");
    let mut command = Command::new("dd");
    command.args(["if=/dev/zero", "bs=1M"]).arg(format!("of={}", fill.display()));
    let filled = program::run(&mut command, SOON);
    assert!(filled.stderr.contains("No space left"), "{filled}");
    // What runs ends with its own code, and is reached.
    latches.open("go");
    assert_eq!(cluster.await_status(&runs, "failed").exit_code, Some(3));
    assert_eq!(cluster.ssh(&vps, &["--", "echo in"]).ok(), "in\n");
    let next = cluster.submit_no_wait(&[]);
    let null = cluster.script(&["--cores", "0"], "exit 4");
    witness.acknowledged([&runs, &vps, &next, &null]);
    wait::until("it says what is the matter", SOON, || {
        let record = cluster.status(&next);
        let text = format!("{:?} {:?}", record.reason, record.error_message);
        if text.contains("waiting for room on this node's disk") { Ok(()) } else { Err(seen(&record)) }
    });
    witness.check();
    fs::remove_file(&fill).unwrap();
    // What waited for room runs now. (The supervisor keeps some in its journal: that one may have run before.)
    cluster.await_status(&next, "running");
    assert_eq!(cluster.await_status(&null, "failed").exit_code, Some(4));
    let (vps_after, null_after) = (cluster.submit(&[]), cluster.script(&["--cores", "0"], "exit 5"));
    assert_eq!(cluster.await_status(&null_after, "failed").exit_code, Some(5));
    assert_eq!(cluster.ssh(&vps_after, &["--", "echo in"]).ok(), "in\n");
    for id in [&vps, &vps_after, &next] {
        cluster.cli(&["vps", "kill", id]);
    }
    witness.settles(&cluster, SOON);
    cluster.stop("runner-a");
    drop(disk);
}
