//! A task's program, arguments, environment, directory and user are exactly what was asked for; no shell stands in between.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use crate::env::{Cluster, SOON, Settings, image_file};
use crate::program;
use crate::tasks::{Latches, ids, owner, pids, seen};

/// Without a container, and in one of the default environment (Debian).
const EXECUTORS: [&[&str]; 2] = [&["--container", "NULL"], &[]];

/// What a shell, a parser or a text type would change.
const ARGUMENTS: [&[u8]; 17] = [
    b"plain",
    b"$(id>/tmp/hakuriver-was-here)",
    b"`id`; id | id & id > x",
    b"'single' \"double\" \\back\\",
    b"two\nlines\n",
    b"",
    b" ",
    b"*",
    b"~",
    b"--help",
    b"--",
    b"-",
    b"--env=A=B",
    b"span:{1..3}",
    b"\xff\xfe bytes \x80\xc3\x28",
    "umlaut \u{e4}, \u{1f600}, \u{10ff41}, \u{10ffff}".as_bytes(),
    b"\x01\x02\t\r\x7f{}%s$HOME",
];

#[test]
fn arguments_arrive_byte_for_byte() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        let mut command = cluster.cli_command(&["task", "submit"]);
        command.args(executor).arg("--").args(["perl", "-e", "binmode STDOUT; print join qq(\\0), @ARGV", "--"]);
        command.args(ARGUMENTS.map(OsStr::from_bytes));
        let id = ids(&program::run(&mut command, SOON).ok()).remove(0);
        cluster.remember(std::slice::from_ref(&id));
        cluster.await_status(&id, "completed");
        let got = cluster.output(&id, "stdout");
        let got: Vec<&[u8]> = got.split(|byte| *byte == 0).collect();
        assert_eq!(got, ARGUMENTS, "{executor:?}");
        // What is shown of it harms no JSON.
        assert!(cluster.cli(&["client", "status", &id]).ok().contains("plain"));
        cluster.cli(&["task", "list"]).ok();
    }
    assert!(!fs::exists("/tmp/hakuriver-was-here").unwrap(), "no shell has read them");
}

#[test]
fn the_program_too_is_a_path_of_any_bytes() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let mut path = cluster.dir.join("odd ").into_os_string();
    path.push(OsStr::from_bytes(b"\xffname"));
    fs::write(&path, "#!/bin/sh\necho \"$#\"\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = cluster.cli_command(&["task", "submit", "--container", "NULL", "--"]);
    command.args([&path, &OsString::from("a b"), &OsString::from("")]);
    let id = ids(&program::run(&mut command, SOON).ok()).remove(0);
    cluster.remember(std::slice::from_ref(&id));
    cluster.await_status(&id, "completed");
    assert_eq!(cluster.stdout(&id), "2\n");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let cluster = Cluster::host_and_runner(Settings::default());
    for executor in EXECUTORS {
        for (program, wanted) in [("no-such-program", "no-such-program"), ("/etc/passwd", "/etc/passwd")] {
            let id = cluster.task(executor, &[program, "argument"]);
            let record = cluster.await_status(&id, "failed");
            let message = record.error_message.clone().unwrap_or_default();
            assert!(message.contains(wanted), "{executor:?}: {}", seen(&record));
            assert!(message.lines().count() <= 4 && !message.contains("panicked"), "{message}");
        }
    }
}

#[test]
fn the_environment_reaches_it_and_nobody_else() {
    let cluster = Cluster::host_and_runner(Settings::default());
    let latches = Latches::new(&cluster);
    let secret = "two words; $(id) 'quoted'\nsecond line \u{e4}";
    let variable = format!("SECRET={secret}");
    let mount = format!("{0}:{0}", latches.dir.display());
    for (at, executor) in EXECUTORS.iter().enumerate() {
        let name = format!("env-{at}");
        let script = format!(
            "printf %s \"$SECRET\"; printf '|%s' \"$EMPTY\" \"$HAKURIVER_TASK_ID\"; echo; {}",
            latches.wait(&name)
        );
        let mut options = vec!["--env", &variable, "--env", "EMPTY="];
        options.extend(*executor);
        if executor.is_empty() {
            options.extend(["--mount", &mount]);
        }
        let id = cluster.task(&options, &["sh", "-c", &script]);
        cluster.await_lines(&id, 2);
        // While it runs: in no command line, of ours, of Docker, or its own.
        for pid in pids() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains("two words"), "process {pid} shows it: {line}");
        }
        for container in cluster.containers(&id) {
            assert!(!program::docker(&["inspect", &container]).contains("two words"), "Docker shows it");
        }
        for path in ["/tasks", "/nodes", "/vps"] {
            assert!(!cluster.get(path).contains("two words"), "{path} shows it");
        }
        let status = cluster.status(&id);
        assert_eq!(status.env_vars.get("SECRET").map(String::as_str), Some(secret), "the record alone has it");
        latches.open(&name);
        cluster.await_status(&id, "completed");
        assert_eq!(cluster.stdout(&id), format!("{secret}||{id}\n"), "{executor:?}");
        for log in ["host", "runner-a"] {
            assert!(!cluster.log(log).contains("two words"), "{log}'s log shows it");
        }
    }
}

#[test]
fn without_a_container_it_has_its_users_environment_and_not_the_runners() {
    let cluster = Cluster::host_and_runner(Settings { no_environment: true, ..Settings::default() });
    let id = cluster.null_task(&["--env", "MINE=1"], &["env", "-0"]);
    cluster.await_status(&id, "completed");
    let text = cluster.stdout(&id);
    let mut names: Vec<&str> =
        text.split_terminator('\0').map(|variable| variable.split_once('=').unwrap().0).collect();
    names.sort_unstable();
    for needed in ["HAKURIVER_TASK_ID", "HOME", "MINE", "PATH", "USER"] {
        assert!(names.contains(&needed), "{needed} is missing: {names:?}");
    }
    // The tests' own environment, which the Runner has, holds many more.
    for name in &names {
        let known = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "MINE", "TZ", "CUDA_VISIBLE_DEVICES"];
        assert!(known.contains(name) || name.starts_with("HAKURIVER_"), "{name} comes from the Runner: {names:?}");
    }
    assert!(!text.contains("HAKURIVER_TOKEN"), "{text}");
}

#[test]
fn it_starts_where_it_was_told_to() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let here = |options: &[&str]| {
        let id = cluster.task(options, &["/bin/sh", "-c", "pwd"]);
        cluster.await_status(&id, "completed");
        cluster.stdout(&id).trim_end().to_owned()
    };
    assert_eq!(here(&["--container", "NULL", "--workdir", "/usr"]), "/usr");
    assert_eq!(here(&["--container", "bare", "--workdir", "/etc"]), "/etc");
    assert_eq!(here(&["--container", "NULL"]), cluster.dir.join("shared/shared_data").to_str().unwrap());
    assert_eq!(here(&["--container", "bare"]), "/shared");
    let missing = cluster.null_task(&["--workdir", "/no/such/place"], &["true"]);
    let record = cluster.await_status(&missing, "failed");
    assert!(record.error_message.as_deref().unwrap_or_default().contains("/no/such/place"), "{}", seen(&record));
    cluster.task_submit(&["--workdir", "relative"], &["true"]).fails(2, &["relative"]);
}

#[test]
fn it_runs_as_the_user_that_was_asked_for() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    cluster.start_host();
    cluster.start_runner("a");
    let folder = cluster.dir.join("shared/shared_data/of-a-user");
    fs::create_dir_all(&folder).unwrap();
    nix::unistd::chown(&folder, Some(1234.into()), Some(1235.into())).unwrap();
    let shared = folder.parent().unwrap().to_str().unwrap().to_owned();
    for (executor, shared) in [("NULL", shared.as_str()), ("bare", "/shared")] {
        let script = format!("echo $(id -u):$(id -g):$(id -G); mkdir {shared}/of-a-user/{executor}");
        let id = cluster.task(&["--container", executor, "--user", "1234:1235"], &["sh", "-c", &script]);
        let record = cluster.await_end(&id);
        assert_eq!(record.status, "completed", "{executor}: {}", seen(&record));
        assert_eq!(cluster.stdout(&id), "1234:1235:1235\n", "{executor}: and in no other group");
        assert_eq!(owner(&folder.join(executor)), (1234, 1235), "{executor}");
        let id = cluster.task(&["--container", executor, "--user", "1234"], &["id", "-u"]);
        cluster.await_status(&id, "completed");
        assert_eq!(cluster.stdout(&id), "1234\n", "{executor}: without a group");
    }
    for bad in ["someone", "-1", "1:2:3", "4294967296", ":5", "5:"] {
        cluster.task_submit(&["--user", bad], &["true"]).fails(2, &[]);
    }
}

#[test]
fn a_user_that_the_node_names_is_the_only_one_without_a_container() {
    let lines = "initial_base_image = \"\"\n[environment]\nrunner_user = \"1234:1235\"\n";
    let settings = Settings { no_environment: true, docker_lines: lines.into(), ..Settings::default() };
    let cluster = Cluster::host_and_runner(settings);
    for options in [&[][..], &["--user", "1234"], &["--user", "1234:1235"]] {
        let id = cluster.null_task(options, &["sh", "-c", "echo $(id -u):$(id -g):$(id -G)"]);
        let record = cluster.await_end(&id);
        assert_eq!(cluster.stdout(&id), "1234:1235:1235\n", "{options:?}: {}", seen(&record));
    }
    for user in ["0", "0:1235", "1234:0", "1235"] {
        let id = cluster.null_task(&["--user", user], &["id"]);
        let record = cluster.await_status(&id, "failed");
        let message = record.error_message.as_deref().unwrap_or_default();
        assert!(message.contains("environment.runner_user"), "{user}: {}", seen(&record));
        assert_eq!(cluster.stdout(&id), "", "{user}: it did not run");
    }
}
