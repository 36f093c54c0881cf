//! Commands in containers: what the image says, what Docker is asked, and what a hostile task cannot change.

use std::fs;
use std::path::Path;

use crate::env::{Cluster, SOON, Settings, image_file, write_script};
use crate::gate::Gate;
use crate::program::docker;
use crate::tasks::{null_body, seen};
use crate::wait;
use hakuriver::api::public::SubmitBody;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nme:x:1500:1600:Me:/home/me:/bin/sh\n";

/// A cluster with the environment `bare`.
fn cluster(settings: Settings) -> Cluster {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..settings });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    cluster
}

/// An image made of the bare one, as a tarball; removed from Docker with the value.
struct Image {
    tag: String,
}

impl Image {
    fn new(cluster: &Cluster, name: &str, changes: &[&str]) -> Self {
        let tag = format!("hakuriver-test/{}-{name}:1", cluster.tag);
        let base = fs::read_to_string(image_file("bare.id")).unwrap();
        let container = docker(&["create", base.trim(), "/bin/true"]);
        let passwd = cluster.dir.join("passwd");
        fs::write(&passwd, PASSWD).unwrap();
        docker(&["cp", passwd.to_str().unwrap(), &format!("{container}:/etc/passwd")]);
        let mut commit = vec!["commit"];
        for change in changes {
            commit.extend(["--change", change]);
        }
        commit.extend([container.as_str(), tag.as_str()]);
        docker(&commit);
        docker(&["rm", &container]);
        let tarball = cluster.dir.join(format!("{name}.tar"));
        docker(&["save", "-o", tarball.to_str().unwrap(), &tag]);
        cluster.add_environment(name, 1_700_000_000, &tarball);
        Self { tag }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rmi", "--force", &self.tag]).output();
    }
}

#[test]
fn the_images_entry_point_user_home_and_environment_hold() {
    let cluster = cluster(Settings::default());
    let image =
        Image::new(&cluster, "own", &["ENTRYPOINT [\"/bin/echo\", \"the $HOME of\"]", "USER me", "ENV FROM=image"]);
    let id = cluster.task(&["--container", "own"], &["$(id)", "two  words"]);
    let record = cluster.await_end(&id);
    assert_eq!(
        (record.status.as_str(), cluster.stdout(&id).as_str()),
        ("completed", "the $HOME of $(id) two  words\n")
    );

    let plain = Image::new(&cluster, "plain", &["USER me", "ENV FROM=image"]);
    let tell = "echo $(id -u):$(id -g) $HOME $FROM";
    for (options, expected) in [
        (&[][..], "1500:1600 /home/me image"),
        (&["--user", "1500"], "1500:1500 /home/me image"),
        (&["--user", "77:78"], "77:78 / image"),
        (&["--user", "0:0"], "0:0 /root image"),
        (&["--env", "HOME=/x", "--env", "FROM=task"], "1500:1600 /x task"),
    ] {
        let id = cluster.task(&[&["--container", "plain"], options].concat(), &["/bin/sh", "-c", tell]);
        let record = cluster.await_end(&id);
        assert_eq!(cluster.stdout(&id), format!("{expected}\n"), "{options:?}: {}", seen(&record));
        assert_eq!(record.status, "completed");
    }
    let id =
        cluster.task(&["--container", "plain"], &["/bin/sh", "-c", "echo again >/dev/stdout; echo ill >/dev/stderr"]);
    cluster.await_status(&id, "completed");
    assert_eq!(cluster.stdout(&id), "again\n", "another user may open its own output once more");
    assert_eq!(cluster.output(&id, "stderr"), b"ill\n");
    drop((image, plain));
}

#[test]
fn a_program_or_user_that_the_image_lacks_is_named() {
    let cluster = cluster(Settings::default());
    let id = cluster.task(&["--container", "bare"], &["no-such-program"]);
    let record = cluster.await_status(&id, "failed");
    let message = record.error_message.clone().unwrap_or_default();
    assert!(message.contains("cannot run 'no-such-program'"), "{}", seen(&record));
    let image = Image::new(&cluster, "stranger", &["USER nobody-here"]);
    let id = cluster.task(&["--container", "stranger"], &["true"]);
    let record = cluster.await_status(&id, "failed");
    let message = record.error_message.clone().unwrap_or_default();
    assert!(message.contains("'nobody-here'"), "{}", seen(&record));
    drop(image);
}

/// The task fails by its own reason, and no other has waited for Docker because of it.
#[track_caller]
fn fails_alone(cluster: &Cluster, options: &[&str], reason: &str) {
    let common = ["--container", "bare", "--cores", "0"];
    let id = cluster.task(&[&common, options].concat(), &["true"]);
    let other = cluster.task(&common, &["true"]);
    let record = cluster.await_status(&id, "failed");
    assert!(record.error_message.as_deref().is_some_and(|told| told.contains(reason)), "{}", seen(&record));
    cluster.await_status(&other, "completed");
    assert_eq!(cluster.nodes()[0].problems, Vec::<String>::new());
    // Each time after it was taken not to answer it is told.
    let log = cluster.log("runner-a");
    assert_eq!(log.matches("Docker answers").count(), 1, "{log}");
}

#[test]
fn a_task_whose_paths_are_dockers_own_words_fails_alone() {
    let cluster = cluster(Settings::default());
    for words in ["Is the docker daemon running", "Cannot connect to the Docker daemon", "is already in use by"] {
        fails_alone(&cluster, &["--mount", &format!("/{words}:/x")], &format!("/{words}"));
        fails_alone(&cluster, &["--workdir", &format!("/etc/passwd/{words}")], &format!("/etc/passwd/{words}"));
    }
    // A line of its own.
    let down = "Cannot connect to the Docker daemon";
    fails_alone(&cluster, &["--workdir", &format!("/etc/passwd/x\n{down}")], down);
}

#[test]
fn a_call_that_finds_no_docker_where_others_do_fails_its_own_task_alone() {
    let scratch = scratch();
    let program = scratch.dir.join("docker");
    let down = "docker: Cannot connect to the Docker daemon at unix:///nope. Is the docker daemon running?";
    let script = format!("case \"$*\" in *target=/nowhere*) echo '{down}' >&2; exit 1 ;; esac\nexec docker \"$@\"\n");
    write_script(&program, &format!("#!/bin/sh\n{script}"));
    let cluster = cluster(Settings { docker_command: Some(program), ..Settings::default() });
    fails_alone(&cluster, &["--mount", "/usr:/nowhere"], "Cannot connect to the Docker daemon at unix:///nope");
}

#[test]
fn a_link_that_a_task_has_made_leads_to_no_mount_that_is_not_allowed() {
    let scratch = scratch();
    let (open, closed) = (scratch.dir.join("open"), scratch.dir.join("closed"));
    for folder in [&open, &open.join("in"), &closed] {
        fs::create_dir(folder).unwrap();
    }
    let cluster = cluster(Settings { docker_lines: format!("allowed_mounts = [{open:?}]\n"), ..Settings::default() });
    let task = |folder: &str, script: &str| {
        let mount = format!("{}:/x", open.join(folder).display());
        let id = cluster.task(&["--container", "bare", "--mount", &mount], &["sh", "-c", script]);
        cluster.await_end(&id)
    };
    let made = task("", &format!("ln -s {} /x/link; ln -s in /x/inner", closed.display()));
    assert_eq!(made.status, "completed", "{}", seen(&made));
    for (path, reason) in
        [("link", "docker.allowed_mounts"), ("link/.", "docker.allowed_mounts"), ("gone", "cannot mount")]
    {
        let record = task(path, "touch /x/mark");
        let message = record.error_message.as_deref().unwrap_or_default();
        assert!(record.status == "failed" && message.contains(reason), "{path}: {}", seen(&record));
    }
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0, "nothing was written");
    let inner = task("inner", "touch /x/mark");
    assert_eq!(inner.status, "completed", "{}", seen(&inner));
    assert!(open.join("in/mark").exists());
}

#[test]
fn what_a_task_puts_in_the_place_of_its_result_changes_nothing() {
    let cluster = cluster(Settings::default());
    let out = "/.hakuriver/out";
    let lie =
        r#"{"code":0,"signal":null,"timed_out":false,"stopped":false,"started_ms":1,"ended_ms":2,"fault":"a lie"}"#;
    for spoil in [
        format!("mkdir {out}/exit.json"),
        format!("ln -s /etc/passwd {out}/exit.json"),
        format!("echo '{lie}' >{out}/exit.json"),
        // It cannot be replaced, and says something else.
        format!("mkdir {out}/exit.json; echo '{lie}' >{out}/exit.json/x"),
        format!("rm -r {out}/*"),
    ] {
        let id = cluster.task(&["--container", "bare"], &["sh", "-c", &format!("{spoil}; exit 3")]);
        let record = cluster.await_end(&id);
        let result = (record.status.as_str(), record.exit_code, record.error_message.as_deref());
        assert_eq!(result, ("failed", Some(3), Some("exit code 3")), "{spoil}: {}", seen(&record));
        cluster.await_no_container(&id);
    }
}

/// A `docker` that writes down what it is asked.
fn counting(dir: &Path) -> std::path::PathBuf {
    let program = dir.join("docker");
    write_script(&program, &format!("#!/bin/sh\necho \"$*\" >>{}/calls\nexec docker \"$@\"\n", dir.display()));
    program
}

#[test]
fn many_at_once_cost_one_call_each_and_share_the_others() {
    const MANY: usize = 24;
    let scratch = scratch();
    let calls = &scratch.dir;
    let cluster = cluster(Settings { docker_command: Some(counting(calls)), ..Settings::default() });
    let warm = cluster.task(&["--container", "bare", "--cores", "0"], &["true"]);
    cluster.await_status(&warm, "completed");
    cluster.await_no_container(&warm);
    let count = |word: &str| {
        let text = fs::read_to_string(calls.join("calls")).unwrap_or_default();
        text.lines().filter(|line| line.split(' ').next() == Some(word)).count()
    };
    for (argument, runs) in [("exit 0", MANY), ("exit 4", 2 * MANY)] {
        let looks = count("inspect");
        let removals = count("rm");
        let ids = cluster.submit_body(&SubmitBody {
            required_cores: Some(0),
            container_name: Some("bare".to_owned()),
            argument_sets: Some(vec![vec!["-c".to_owned(), argument.to_owned()]; MANY]),
            ..null_body("/bin/sh", &[])
        });
        for id in &ids {
            let record = cluster.await_end(id);
            assert_eq!(record.exit_code, argument.strip_prefix("exit ").unwrap().parse().ok(), "{}", seen(&record));
        }
        for id in &ids {
            cluster.await_no_container(id);
        }
        assert_eq!(count("run"), 1 + runs, "one for each");
        assert!(count("rm") - removals < MANY, "removals share calls: {}", count("rm") - removals);
        let looks = count("inspect") - looks;
        assert!(looks < if argument == "exit 0" { 4 } else { MANY }, "{argument}: {looks} inspections");
        assert!(count("image") <= 3, "an image is looked at once, however many run it");
    }
}

/// A directory that outlives the cluster under test: its Runner may still call a program there.
fn scratch() -> Cluster {
    Cluster::new(Settings { no_environment: true, ..Settings::default() })
}

/// The Runner is killed at a gate; whatever the daemon makes of the call that was under way, the command runs once.
fn killed_at(held: &str) {
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    let mut cluster = cluster(Settings { docker_command: Some(gate.program()), ..Settings::default() });
    gate.close(&[held]);
    let id = cluster.task(&["--container", "bare"], &["sh", "-c", "echo once; echo once >>/shared/runs; exit 3"]);
    gate.await_one(&[held]);
    cluster.kill9("runner-a");
    cluster.spawn_runner("a");
    if held == "run" {
        // Its own call stands beside the one of the dead Runner.
        wait::until_true("the new Runner has found its task", SOON, || {
            let log = cluster.log("runner-a");
            (log.matches("registered at").count() >= 2, log)
        });
    }
    gate.open();
    let record = cluster.await_end(&id);
    assert_eq!((record.status.as_str(), record.exit_code, record.attempt), ("failed", Some(3), 1), "{}", seen(&record));
    assert_eq!(cluster.stdout(&id), "once\n");
    cluster.await_no_container(&id);
    assert_eq!(fs::read_to_string(cluster.dir.join("shared/shared_data/runs")).unwrap(), "once\n");
}

#[test]
fn a_runner_killed_before_docker_heard_of_it_starts_it_once() {
    killed_at("run");
}

#[test]
fn a_runner_killed_before_it_heard_of_docker_starts_it_once() {
    killed_at("after-run");
}

#[test]
fn a_call_of_a_dead_runner_that_comes_after_the_end_begins_nothing() {
    let scratch = scratch();
    let gate = Gate::new(&scratch.dir);
    let mut cluster = cluster(Settings { docker_command: Some(gate.program()), ..Settings::default() });
    gate.close(&["run", "stop"]);
    let id = cluster.task(&["--container", "bare"], &["sh", "-c", "echo once >>/shared/runs"]);
    gate.await_one(&["run"]);
    cluster.kill9("runner-a");
    cluster.cli(&["task", "kill", &id]).ok();
    cluster.spawn_runner("a");
    gate.await_one(&["stop"]);
    // Nobody hears of the end, so the Runner keeps what it has of the task.
    cluster.kill9("host");
    gate.open_one("stop");
    wait::until_true("the task has ended", SOON, || {
        let log = cluster.log("runner-a");
        (log.contains(&format!("task {id} was stopped")), log)
    });
    gate.open_one("run");
    wait::until_true("its container has come too late", SOON, || {
        let log = cluster.log("runner-a");
        (log.contains("made too late"), log)
    });
    assert!(!cluster.dir.join("shared/shared_data/runs").exists(), "it has run");
    cluster.start_host();
    cluster.await_status(&id, "killed");
    cluster.await_no_container(&id);
}
