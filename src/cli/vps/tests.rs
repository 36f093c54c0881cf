//! Every line of the reference, and what is refused.

use super::submit::SubmitArgs;
use super::*;
use crate::cli::args::{Exit, parse};

fn read(line: &[&str]) -> Result<Verb, Exit> {
    let args: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
    parse::<VpsArgs>(&["hakuriver.vps"], &args).map(|(args, _)| args.verb)
}

fn submit(line: &[&str]) -> SubmitArgs {
    match read(line) {
        Ok(Verb::Submit(args)) => args,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn body(line: &[&str]) -> Result<crate::api::public::SubmitBody, String> {
    super::request::body(&submit(line))
}

#[test]
fn the_examples_of_the_reference() {
    let plain = body(&["submit"]).expect("all defaults");
    assert_eq!(plain.task_type, "vps");
    assert_eq!((plain.targets, plain.required_cores, plain.required_memory_bytes), (None, None, None));
    assert_eq!((plain.container_name, plain.privileged, plain.additional_mounts), (None, None, None));

    let line =
        ["submit", "--target", "nodeA", "--cores", "4", "--memory", "8G", "--public-key-file", "~/.ssh/my_vps_key.pub"];
    assert_eq!(submit(&line).public_key_file.as_deref(), Some("~/.ssh/my_vps_key.pub"));
    let a = body(&line).expect("an example");
    assert_eq!(a.targets, Some(vec!["nodeA".to_owned()]));
    assert_eq!((a.required_cores, a.required_memory_bytes), (Some(4), Some(8_000_000_000)));

    let line =
        ["submit", "--target", "nodeB:0", "--public-key-string", "ssh-rsa AAAA...", "--container", "my-ubuntu-vps"];
    assert_eq!(submit(&line).public_key_string.as_deref(), Some("ssh-rsa AAAA..."));
    let b = body(&line).expect("an example");
    assert_eq!(b.targets, Some(vec!["nodeB:0".to_owned()]));
    assert_eq!(b.container_name.as_deref(), Some("my-ubuntu-vps"));
    assert_eq!(b.required_gpus, None);

    let line =
        ["submit", "--target", "nodeC::0,1", "--container", "my-cuda-vps", "--public-key-file", "~/.ssh/gpu_key.pub"];
    let c = body(&line).expect("an example");
    assert_eq!(c.targets, Some(vec!["nodeC".to_owned()]));
    assert_eq!(c.required_gpus, Some(vec![vec![0, 1]]));
}

#[test]
fn every_option_reaches_the_request() {
    let line = [
        "submit",
        "--privileged",
        "--mount",
        "/data:/d",
        "--mount=/etc:/e:ro",
        "--name",
        "dev",
        "--env",
        "A=b=c",
        "--env=B=",
        "--gpus",
        "2",
        "--queue",
        "--max-wait",
        "2h30m",
        "--cores=0",
        "--memory=512m",
        "--no-wait",
    ];
    assert!(submit(&line).no_wait);
    let body = body(&line).expect("all good");
    assert_eq!(body.privileged, Some(true));
    assert_eq!(body.additional_mounts, Some(vec!["/data:/d:rw".to_owned(), "/etc:/e:ro".to_owned()]));
    assert_eq!(body.name.as_deref(), Some("dev"));
    let env: Vec<(&str, &str)> = body.env_vars.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "b=c"), ("B", "")]);
    assert_eq!(
        (body.gpu_count, body.required_cores, body.required_memory_bytes),
        (Some(2), Some(0), Some(512_000_000))
    );
    assert_eq!((body.queue, body.max_wait_seconds), (true, Some(9_000)));
}

#[test]
fn bad_values_never_leave_the_machine() {
    for (line, expected) in [
        (
            &["--target", "a", "--target", "b"][..],
            "--target can be given once, because a VPS runs on one node; found 2 (a, b)",
        ),
        (&["--target", "node:"], "--target: "),
        (&["--target", "node::0,,1"], "--target: "),
        (&["--target", "node::0,0"], "--target: "),
        (&["--target", ":0"], "--target: "),
        (&["--target", "node:x"], "--target: "),
        (&["--target", "node::0", "--gpus", "1"], "--gpus and GPU ids in --target exclude each other"),
        (&["--gpus", "0"], "--gpus: expected a whole number, at least 1, found \"0\""),
        (&["--gpus", "-1"], "--gpus: expected a whole number, at least 1, found \"-1\""),
        (&["--cores", "-1"], "--cores: expected a whole number, 0 or more, found \"-1\""),
        (&["--cores", "1.5"], "--cores: expected a whole number"),
        (&["--cores", "+1"], "--cores: expected a whole number"),
        (&["--cores", ""], "--cores: expected a whole number"),
        (&["--cores", "99999999999"], "--cores: expected a whole number"),
        (&["--memory", "4GB"], "--memory: "),
        (&["--memory", "0"], "--memory: "),
        (&["--memory", "-1"], "--memory: "),
        (&["--container", "NULL"], "--container NULL: a VPS lives in a container"),
        (&["--container", "../x"], "--container: "),
        (&["--name", "Dev"], "--name: "),
        (&["--mount", "/a"], "--mount: "),
        (&["--mount", "a:/b"], "--mount: "),
        (&["--mount", "/a:/c", "--mount", "/b:/c/"], "--mount: two mounts have the same place in the container"),
        (&["--env", "=x"], "--env: "),
        (&["--env", "A"], "--env: "),
        (&["--env", "A=x\ny"], "--env: environment variable A: its value has a line break"),
        (&["--env", "A=1", "--env", "A=2"], "--env: A is given twice"),
        (&["--max-wait", "soon"], "--max-wait: "),
    ] {
        let line: Vec<&str> = std::iter::once("submit").chain(line.iter().copied()).collect();
        let fault = body(&line).expect_err(expected);
        assert!(fault.starts_with(expected), "{line:?}: {fault}");
        assert!(!fault.contains('\n'), "{fault}");
    }
}

#[test]
fn the_other_verbs() {
    assert!(matches!(read(&["status"]), Ok(Verb::Status(_))));
    assert!(matches!(read(&["status", "--json"]), Ok(Verb::Status(_))));
    assert_eq!(read(&["kill", "42"]), Ok(Verb::Kill(KillArgs { task: "42".parse().expect("an id") })));
    assert_eq!(read(&["shell", "dev"]), Ok(Verb::Shell(ShellArgs { task: "dev".parse().expect("a name") })));
    assert_eq!(read(&["kill", "dev"]), Ok(Verb::Kill(KillArgs { task: "dev".parse().expect("a name") })));
    for (word, action) in [("pause", Action::Pause), ("resume", Action::Resume)] {
        let task = "42".parse().expect("an id");
        assert_eq!(read(&["command", "42", word]), Ok(Verb::Command(CommandArgs { task, action })));
    }
    for (line, expected) in [
        (&["kill"][..], "missing: TASK_ID; see 'hakuriver.vps kill --help'"),
        (&["kill", "1", "2"], "unexpected argument '2'; see 'hakuriver.vps kill --help'"),
        (&["command", "1"], "missing: ACTION; see"),
        (&["command", "1", "stop"], "argument 'stop': expected pause or resume; see"),
        (&["kill", "../nodes"], "argument '../nodes': expected a task's id"),
        (
            &["restart", "1"],
            "unknown command 'restart' (known: submit, status, kill, command, shell); see 'hakuriver.vps --help'",
        ),
        (&["submit", "x"], "unexpected argument 'x'; see 'hakuriver.vps submit --help'"),
        (&["submit", "--traget", "x"], "unknown option '--traget' (known: "),
    ] {
        let Err(Exit::Usage(text)) = read(line) else { panic!("{line:?} was taken") };
        assert!(text.starts_with(expected), "{line:?}: {text}");
    }
}

#[test]
fn every_level_has_help_with_a_line_an_option_and_an_example() {
    for (line, options) in [
        (&["--help"][..], &["submit", "status", "kill", "command"][..]),
        (
            &["submit", "--help"],
            &[
                "--target",
                "--public-key-string",
                "--public-key-file",
                "--cores",
                "--memory",
                "--container",
                "--privileged",
                "--mount",
                "--name",
                "--env",
                "--gpus",
                "--queue",
                "--max-wait",
                "--no-wait",
                "--config",
            ],
        ),
        (&["status", "-h"], &["--json", "--config"]),
        (&["kill", "--help"], &["TASK_ID"]),
        (&["command", "--help"], &["TASK_ID", "ACTION"]),
    ] {
        let Err(Exit::Help(help)) = read(line) else { panic!("{line:?} is no help") };
        for option in options {
            assert!(
                help.contains(&format!("\n  {option} ")) || help.contains(&format!("\n  {option}\n")),
                "{option}: {help}"
            );
        }
        assert!(help.contains("\nExamples:\n  hakuriver.vps "), "{help}");
    }
}
