//! The command lines of `task` and `run`, with what they print and how they end.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::env::{Cluster, SOON, Settings, binary, image_file};
use crate::program::{self, Output};
use crate::tasks::{Latches, ids, run_in, seen};
use crate::wait;

fn cluster() -> Cluster {
    Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() })
}

/// The links to the program, in a directory of their own.
fn links(cluster: &Cluster) -> PathBuf {
    let bin = cluster.dir.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    run_in(cluster, &binary(), &["init", "links", "--dir", bin.to_str().unwrap()]).ok();
    bin
}

#[test]
fn submit_list_output_kill() {
    let cluster = cluster();
    let output = cluster.task_submit(&["--container", "NULL", "--name", "hello"], &["echo", "hello", "world"]);
    let id = ids(&output.ok()).remove(0);
    cluster.remember(std::slice::from_ref(&id));
    assert!(output.out().lines().next().unwrap().contains(&id), "the id comes first: {output}");
    assert!(!output.out().contains('\u{1b}') && !output.stderr.contains('\u{1b}'), "no escape codes: {output}");
    let record = cluster.await_status(&id, "completed");
    assert_eq!((record.command.as_str(), &record.arguments[..]), ("echo", &["hello".to_owned(), "world".into()][..]));
    assert_eq!((record.required_cores, record.task_type.as_str()), (1, "command"));
    assert_eq!((record.exit_code, record.exit_signal, record.ssh_port), (Some(0), None, None));
    assert!(record.started_at.is_some() && record.completed_at.is_some(), "{record:?}");
    assert_eq!(cluster.cli(&["task", "stdout", &id]).ok(), "hello world\n");
    assert_eq!(cluster.cli(&["task", "stderr", &id]).ok(), "");

    let long = cluster.script(&["--name", "long"], "sleep 1000");
    cluster.await_status(&long, "running");
    let list = cluster.cli(&["task", "list"]).ok();
    let row = |id: &str| list.lines().find(|line| line.contains(id)).unwrap_or_else(|| panic!("{id} in {list}"));
    assert!(row(&id).contains("completed") && row(&long).contains("running"), "{list}");
    assert!(list.find(&long) < list.find(&id), "newest first: {list}");
    let running = cluster.cli(&["task", "list", "--status", "running"]).ok();
    assert!(running.contains(&long) && !running.contains(&id), "{running}");
    let here = cluster.cli(&["task", "list", "--node", &cluster.node("a"), "--limit", "1"]).ok();
    assert!(here.contains(&long) && !here.contains(&id), "{here}");
    assert!(!cluster.cli(&["task", "list", "--node", "elsewhere"]).ok().contains(&id));
    cluster.cli(&["task", "list", "--status", "sleepy"]).fails(2, &["sleepy", "running"]);
    let json = cluster.cli(&["task", "list", "--json"]).ok();
    assert_eq!(json.trim_end(), cluster.get("/tasks").trim_end());

    // Names go where ids go.
    cluster.cli(&["task", "command", "long", "pause"]).ok();
    cluster.await_status(&long, "paused");
    cluster.cli(&["task", "command", &long, "resume"]).ok();
    cluster.await_status(&long, "running");
    cluster.cli(&["task", "command", &long, "stop"]).fails(2, &["stop", "pause"]);
    cluster.cli(&["task", "kill", "long"]).ok();
    cluster.await_status(&long, "killed");
    cluster.cli(&["task", "kill", &long]).fails(1, &[&long, "killed"]);
    cluster.cli(&["task", "command", &long, "pause"]).fails(1, &[&long]);
    cluster.cli(&["task", "kill", "123456789012345678"]).fails(1, &["123456789012345678"]);
    let several: Vec<String> = (0..3).map(|_| cluster.script(&["--cores", "0"], "sleep 1000")).collect();
    cluster.cli(&["task", "kill", &several[0], &several[1], &several[2]]).ok();
    for id in &several {
        cluster.await_status(id, "killed");
    }
}

#[test]
fn wait_is_driven_by_events_and_tells_the_truth() {
    let mut cluster = cluster();
    let ok = cluster.task_submit(&["--container", "NULL", "--wait"], &["true"]);
    assert_eq!(ok.status, 0, "{ok}");
    assert_eq!(cluster.status(&ids(&ok.out())[0]).status, "completed", "it returns when the task has ended");
    let failed = cluster.task_submit(&["--container", "NULL", "--wait"], &["sh", "-c", "exit 5"]);
    let id = ids(&failed.out()).remove(0);
    assert_eq!(failed.status, 1, "{failed}");
    let said = format!("{}{}", failed.out(), failed.stderr);
    assert!(failed.stderr.contains(&id) || said.matches(&id).count() > 1, "it is listed: {failed}");
    assert!(said.contains("failed") && said.contains('5'), "with its state and exit code: {failed}");
    // 0.3's option is taken.
    cluster.task_submit(&["--container", "NULL", "--wait", "--poll-interval", "0.5"], &["true"]).ok();
    cluster.task_submit(&["--container", "NULL", "--wait", "--poll-interval", "x"], &["true"]).fails(2, &["poll"]);

    // A Host that restarts meanwhile does not end the wait, and nothing is missed.
    let latches = Latches::new(&cluster);
    let args =
        ["task", "submit", "--container", "NULL", "--name", "waited", "--wait", "--", "sh", "-c", &latches.wait("go")];
    let child = cluster
        .cli_command(&args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = wait::until("it is submitted", SOON, || {
        let rows = cluster.task_rows("");
        let row = rows.into_iter().find(|row| row.name.as_deref() == Some("waited")).ok_or("no such task")?;
        if row.status == "running" { Ok(row.task_id) } else { Err(row.status) }
    });
    cluster.remember(std::slice::from_ref(&id));
    cluster.kill9("host");
    latches.open("go");
    cluster.start_host();
    let output = std::thread::scope(|scope| scope.spawn(move || child.wait_with_output()).join()).unwrap().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    cluster.await_status(&id, "completed");
}

#[test]
fn killed_while_waited_for_is_status_1() {
    let cluster = cluster();
    let args = ["task", "submit", "--container", "NULL", "--name", "k", "--wait", "--", "sleep", "1000"];
    let mut command = cluster.cli_command(&args);
    let output = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| program::run(&mut command, Duration::from_secs(60)));
        wait::until("it runs", SOON, || {
            let rows = cluster.task_rows("?status=running");
            rows.first().map(|row| cluster.remember(std::slice::from_ref(&row.task_id))).ok_or("none".to_owned())
        });
        cluster.cli(&["task", "kill", "k"]).ok();
        waiting.join().unwrap()
    });
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.contains("killed") || output.out().contains("killed"), "{output}");
}

#[test]
fn wrong_lines_are_status_2_and_say_what_is_wrong() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    for (options, fragments) in [
        (vec!["--cores", "-1"], vec!["--cores"]),
        (vec!["--cores", "1.5"], vec!["--cores"]),
        (vec!["--memory", "4GB"], vec!["4GB", "4G"]),
        (vec!["--memory", "0"], vec!["0"]),
        (vec!["--target", "node:"], vec!["node:"]),
        (vec!["--target", "node::0,,1"], vec!["node::0,,1"]),
        (vec!["--target", "node::0,0"], vec!["node::0,0"]),
        (vec!["--container", "NULL", "--target", "node::0"], vec!["GPU", "container"]),
        // (The text may be a secret.)
        (vec!["--env", "novalue"], vec!["--env", "NAME=VALUE"]),
        (vec!["--mount", "relative:/x"], vec!["relative"]),
        (vec!["--name", "Capital"], vec!["Capital"]),
        (vec!["--gpus", "x"], vec!["--gpus"]),
        (vec!["--time-limit", "soon"], vec!["soon"]),
        (vec!["--max-wait", "never"], vec!["--max-wait"]),
        (vec!["--no-such-option"], vec!["--no-such-option"]),
    ] {
        let output = cluster.task_submit(&options, &["true"]);
        assert_eq!(output.status, 2, "{options:?}: {output}");
        for fragment in fragments {
            assert!(output.stderr.contains(fragment), "{options:?} lacks {fragment:?}: {output}");
        }
        assert!(output.stderr.starts_with("error: ") && !output.stderr.contains("panicked"), "{output}");
    }
    for line in [vec!["task", "submit"], vec!["task", "submit", "--"], vec!["task", "kill"], vec!["task", "stdout"]] {
        let output = cluster.cli(&line);
        assert_eq!(output.status, 2, "{line:?}: {output}");
    }
    assert_eq!(cluster.get("/tasks").trim(), "[]", "nothing came of any of them");
    // Nobody there: 3.
    cluster.stop("host");
    for line in [
        vec!["task", "submit", "--", "true"],
        vec!["task", "list"],
        vec!["task", "stdout", "1"],
        vec!["task", "kill", "1"],
    ] {
        cluster.cli(&line).fails(3, &["127.0.0.1"]);
    }
}

#[test]
fn what_follows_the_dashes_is_the_command_whatever_it_looks_like() {
    let cluster = cluster();
    for argv in [
        vec!["printf", "%s ", "--help"],
        vec!["printf", "%s ", "help"],
        vec!["printf", "%s ", "--", "--target", "x"],
        vec!["printf", "%s ", "-h", "--version", "--cores=2"],
    ] {
        let id = cluster.null_task(&[], &argv);
        let record = cluster.await_status(&id, "completed");
        assert_eq!(record.command, "printf", "the dashes are not the command: {record:?}");
        assert_eq!(cluster.stdout(&id), format!("{} ", argv[2..].join(" ")));
    }
    // Without the dashes the first word that is no option begins the command, options of its own included.
    let output = cluster.cli(&["task", "submit", "--container", "NULL", "echo", "-n", "--env"]);
    let id = ids(&output.ok()).remove(0);
    cluster.remember(std::slice::from_ref(&id));
    cluster.await_status(&id, "completed");
    assert_eq!(cluster.stdout(&id), "--env");
    // And both forms of an option with a value.
    let id = ids(&cluster.cli(&["task", "submit", "--container=NULL", "--cores=0", "--", "true"]).ok()).remove(0);
    assert_eq!(cluster.await_status(&id, "completed").required_cores, 0);
}

#[test]
fn help_on_every_level() {
    let cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let bin = links(&cluster);
    for (args, wanted) in [
        (vec!["--help"], vec!["task", "run"]),
        (vec!["task", "--help"], vec!["submit", "stdout", "stderr", "list", "kill", "command"]),
        (
            vec!["task", "submit", "--help"],
            vec![
                "--target",
                "--cores",
                "--memory",
                "--env",
                "--container",
                "--privileged",
                "--mount",
                "--name",
                "--gpus",
                "--wait",
                "--poll-interval",
                "--immediate",
                "--queue",
                "--max-wait",
                "--time-limit",
                "--workdir",
                "--user",
                "--span",
            ],
        ),
        (vec!["task", "stdout", "--help"], vec!["--follow", "--tail"]),
        (vec!["task", "stderr", "--help"], vec!["--follow", "--tail"]),
        (vec!["task", "list", "--help"], vec!["--status", "--node", "--limit", "--json"]),
        (vec!["task", "kill", "-h"], vec!["TASK"]),
        (vec!["task", "command", "--help"], vec!["pause", "resume"]),
        (vec!["run", "--help"], vec!["--parallel", "span:"]),
    ] {
        let output = run_in(&cluster, &binary(), &args);
        let help = output.ok();
        for word in wanted {
            assert!(help.to_lowercase().contains(&word.to_lowercase()), "{args:?} lacks {word}: {help}");
        }
        assert!(output.stderr.is_empty(), "{output}");
        assert!(help.to_lowercase().contains("example"), "{args:?} has no example: {help}");
    }
    assert!(run_in(&cluster, &bin.join("hakuriver.task"), &["--help"]).ok().contains("submit"));
    assert!(run_in(&cluster, &bin.join("hakurun"), &["--help"]).ok().contains("--parallel"));
}

fn hakurun(cluster: &Cluster, args: &[&str]) -> Output {
    run_in(cluster, &links(cluster).join("hakurun"), args)
}

#[test]
fn hakurun_runs_every_combination_here() {
    let cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let output = hakurun(&cluster, &["echo", "span:[a,b]", "-x", "span:{1..3}"]);
    assert_eq!(output.ok(), "a -x 1\na -x 2\na -x 3\nb -x 1\nb -x 2\nb -x 3\n", "in order, the last fastest");
    assert_eq!(hakurun(&cluster, &["echo", "plain"]).ok(), "plain\n");
    let output = run_in(&cluster, &binary(), &["run", "echo", "span:{2..2}", "--parallel"]);
    assert_eq!(output.ok(), "2 --parallel\n", "what follows the program is its own");
    let mut lines: Vec<String> =
        hakurun(&cluster, &["--parallel", "echo", "span:{1..20}"]).ok().lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.parse::<u32>().unwrap());
    assert_eq!(lines, (1..=20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn hakurun_says_which_runs_failed() {
    let cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    for parallel in [false, true] {
        let mut args = if parallel { vec!["--parallel"] } else { vec![] };
        args.extend(["sh", "-c", "test $1 != 2 || exit 9; test $1 != 4 || kill -9 $$", "run", "span:{1..5}"]);
        let output = hakurun(&cluster, &args);
        assert_eq!(output.status, 1, "{output}");
        let list: Vec<&str> = output.stderr.lines().collect();
        let named = |number: &str, end: &str| {
            list.iter().any(|line| line.contains(&format!("run {number}")) && line.contains(end))
        };
        assert!(named("2", "9"), "with its exit status: {output}");
        assert!(named("4", "9"), "with its signal: {output}");
        for number in ["1", "3", "5"] {
            assert!(!named(number, ""), "{number} did not fail: {output}");
        }
    }
    let missing = hakurun(&cluster, &["no-such-program", "span:{1..2}"]);
    assert_eq!(missing.status, 1, "{missing}");
    assert!(missing.stderr.contains("no-such-program"), "{missing}");
}

#[test]
fn hakurun_in_a_task_stays_one_task() {
    let cluster = cluster();
    let bin = links(&cluster);
    let hakurun = bin.join("hakurun");
    let id = cluster.null_task(&["--wait"], &[hakurun.to_str().unwrap(), "echo", "span:{1..3}"]);
    assert_eq!(cluster.stdout(&id), "1\n2\n3\n");
    assert_eq!(cluster.task_rows("").len(), 1);
    let id = cluster.null_task(&[], &[hakurun.to_str().unwrap(), "sh", "-c", "exit 1", "x", "span:{1..3}"]);
    let record = cluster.await_status(&id, "failed");
    assert_eq!(record.exit_code, Some(1), "{}", seen(&record));
}

#[test]
fn interrupting_the_wait_leaves_the_task_alone() {
    let cluster = cluster();
    let latches = Latches::new(&cluster);
    let script = latches.wait("go");
    let args = ["task", "submit", "--container", "NULL", "--wait", "--", "sh", "-c", &script];
    let mut child = cluster.cli_command(&args).stdout(std::process::Stdio::null()).spawn().unwrap();
    let id = wait::until("it runs", SOON, || {
        cluster.task_rows("?status=running").pop().map(|row| row.task_id).ok_or("no task".to_owned())
    });
    cluster.remember(std::slice::from_ref(&id));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let status = wait::until("the client ends", SOON, || child.try_wait().unwrap().ok_or("it runs".to_owned()));
    assert!(!status.success(), "{status}");
    assert_eq!(cluster.status(&id).status, "running");
    latches.open("go");
    cluster.await_status(&id, "completed");
}

#[test]
fn a_container_task_runs_in_its_image_with_nothing_added() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let data = cluster.dir.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "from the node\n").unwrap();
    let mount = format!("{}:/data:ro", data.display());
    let script = "cat /data/file; echo $HAKURIVER_TASK_ID; echo no >/data/x || echo frozen; echo yes >/shared/y";
    let id = cluster.task(&["--container", "bare", "--mount", &mount, "--wait"], &["sh", "-c", script]);
    assert_eq!(cluster.stdout(&id), format!("from the node\n{id}\nfrozen\n"));
    assert_eq!(std::fs::read_to_string(cluster.dir.join("shared/shared_data/y")).unwrap(), "yes\n");
    let record = cluster.status(&id);
    assert_eq!(record.container_name.as_deref(), Some("bare"));
    cluster.await_no_container(&id);
    let names = program::run(Command::new("docker").args(["ps", "-a", "--format", "{{.Names}}"]), SOON).ok();
    assert!(!names.contains(&format!("hakuriver-task-{id}")), "{names}");
    // While it runs: its name, and what it is made with.
    let long = cluster.task(&["--container", "bare", "--memory", "64M"], &["sleep", "1000"]);
    cluster.await_status(&long, "running");
    let look = |format: &str| program::docker(&["inspect", "-f", format, &format!("hakuriver-task-{long}")]);
    assert_eq!(look("{{.HostConfig.NetworkMode}}"), "host");
    assert_eq!(look("{{.HostConfig.Memory}}"), "64000000");
    assert_eq!(look("{{.HostConfig.NanoCpus}} {{.HostConfig.Privileged}}"), "0 false");
    assert!(look("{{.HostConfig.CpusetCpus}}").parse::<u32>().is_ok(), "one core");
    assert_eq!(look("{{index .Config.Labels \"hakuriver.kind\"}}"), "command");
    cluster.cli(&["task", "kill", &long]).ok();
    cluster.await_status(&long, "killed");
    cluster.await_no_container(&long);
    // Removed behind our back: failed, saying so.
    let gone = cluster.task(&["--container", "bare"], &["sleep", "1000"]);
    cluster.await_status(&gone, "running");
    program::docker(&["rm", "-f", &cluster.container(&gone)]);
    let record = cluster.await_status(&gone, "failed");
    assert!(record.error_message.as_deref().unwrap_or_default().contains("removed"), "{}", seen(&record));
    // An environment that nobody has.
    cluster.task_submit(&["--container", "nowhere"], &["true"]).fails(1, &["nowhere", "bare"]);
}
