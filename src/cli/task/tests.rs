//! Every option, and what is refused.

use super::submit::SubmitArgs;
use super::*;
use crate::api::public::SubmitBody;
use crate::cli::args::{Exit, parse};
use crate::domain::raw_text;

fn read<S: AsRef<str>>(line: &[S]) -> Result<Verb, Exit> {
    let args: Vec<String> = line.iter().map(|word| word.as_ref().to_owned()).collect();
    parse::<TaskArgs>(&["hakuriver.task"], &args).map(|(args, _)| args.verb)
}

fn submit<S: AsRef<str>>(line: &[S]) -> SubmitArgs {
    let line: Vec<&str> = std::iter::once("submit").chain(line.iter().map(AsRef::as_ref)).collect();
    match read(&line) {
        Ok(Verb::Submit(args)) => args,
        other => panic!("{line:?}: {other:?}"),
    }
}

fn body<S: AsRef<str>>(line: &[S]) -> Result<SubmitBody, String> {
    super::request::body(&submit(line))
}

#[test]
fn the_form_of_0_3_and_its_defaults() {
    let args = submit(&["--target", "n1", "--", "echo", "hi"]);
    let body = super::request::body(&args).expect("as 0.3 has it");
    assert_eq!(
        (body.task_type.as_str(), body.command.as_str(), &body.arguments[..]),
        ("command", "echo", &["hi".to_owned()][..])
    );
    assert_eq!(body.targets, Some(vec!["n1".to_owned()]));
    assert_eq!((body.required_cores, body.required_gpus, body.argument_sets), (None, None, None));
    assert_eq!((body.container_name, body.privileged, body.additional_mounts), (None, None, None));
    assert!(!args.wait && super::request::pause(&args) == Ok(std::time::Duration::from_secs(1)));
}

#[test]
fn every_option_reaches_the_request() {
    let line = [
        "--target",
        "a:0::1,0",
        "--target",
        "b",
        "--cores",
        "4",
        "--memory=8G",
        "--env",
        "A=b=c",
        "--env=B=two\nlines",
        "--container",
        "env",
        "--privileged",
        "--mount",
        "/data:/d:ro",
        "--wait",
        "--poll-interval",
        "0.5",
        "--queue",
        "--max-wait",
        "90s",
        "--time-limit",
        "2h30m",
        "--workdir",
        "/tmp",
        "--user",
        "1000:100",
        "--json",
        "--",
        "sh",
        "-c",
        "echo $(id)",
    ];
    let args = submit(&line);
    assert!(args.wait && args.json && !args.span);
    assert_eq!(super::request::pause(&args), Ok(std::time::Duration::from_millis(500)));
    let body = super::request::body(&args).expect("all good");
    assert_eq!(body.targets, Some(vec!["a:0".to_owned(), "b".to_owned()]));
    assert_eq!(body.required_gpus, Some(vec![vec![1, 0], vec![]]), "one list a target");
    assert_eq!((body.required_cores, body.required_memory_bytes), (Some(4), Some(8_000_000_000)));
    let env: Vec<(&str, &str)> = body.env_vars.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "b=c"), ("B", "two\nlines")]);
    assert_eq!((body.container_name.as_deref(), body.privileged), (Some("env"), Some(true)));
    assert_eq!(body.additional_mounts, Some(vec!["/data:/d:ro".to_owned()]));
    assert_eq!((body.queue, body.immediate, body.max_wait_seconds), (true, false, Some(90)));
    assert_eq!((body.time_limit_seconds, body.workdir.as_deref()), (Some(9_000), Some("/tmp")));
    assert_eq!(body.user.as_deref(), Some("1000:100"));
    assert_eq!((body.command.as_str(), body.arguments), ("sh", vec!["-c".to_owned(), "echo $(id)".to_owned()]));

    let null = body_of_null(&["--gpus", "2", "--name", "night", "--immediate"]);
    assert_eq!((null.container_name.as_deref(), null.gpu_count), (Some("NULL"), Some(2)));
    assert_eq!((null.name.as_deref(), null.immediate), (Some("night"), true));
}

fn body_of_null(options: &[&str]) -> SubmitBody {
    let line: Vec<&str> = ["--container", "NULL"].iter().chain(options).chain(&["--", "true"]).copied().collect();
    body(&line).expect("all good")
}

#[test]
fn the_command_is_its_own_whatever_it_looks_like() {
    let raw = raw_text::encode(b"\xff").into_owned();
    for (line, expected) in [
        (&["--", "echo", "--help"][..], &["echo", "--help"][..]),
        (&["--", "echo", "-h"], &["echo", "-h"]),
        (&["--", "--help"], &["--help"]),
        (&["--", "echo", "--", "--wait"], &["echo", "--", "--wait"]),
        (&["--", "sh", "-c", "echo $(id)"], &["sh", "-c", "echo $(id)"]),
        (&["--", "echo", "--config", "x", "--cores=2"], &["echo", "--config", "x", "--cores=2"]),
        (&["--", "echo", "", " ", "\n"], &["echo", "", " ", "\n"]),
        (&["--", "echo", "span:{1..3}"], &["echo", "span:{1..3}"]),
        (&["--", &raw, &raw], &[&raw, &raw]),
        // Without the dashes it begins with the first word that is no option.
        (&["--cores", "2", "echo", "-n", "--env", "-h"], &["echo", "-n", "--env", "-h"]),
        (&["echo", "--", "x"], &["echo", "--", "x"]),
    ] {
        assert_eq!(submit(line).command, expected, "{line:?}");
        let body = body(line).expect("a command");
        let words: Vec<&str> = std::iter::once(&body.command).chain(&body.arguments).map(String::as_str).collect();
        assert_eq!(words, expected, "{line:?}");
    }
    let variable = format!("A={raw}");
    let body = body(&["--env", &variable, "--", "true"]).expect("an environment is bytes too");
    assert_eq!(body.env_vars.get("A"), Some(&raw));
    for options in [["--workdir", &raw], ["--name", &raw], ["--config", &raw]] {
        let line = [&["submit"], &options[..], &["--", "true"]].concat();
        let Err(Exit::Usage(text)) = read(&line) else { panic!("{options:?} was taken") };
        assert!(text.starts_with("an argument is not valid UTF-8: "), "{text}");
    }
}

#[test]
fn a_span_is_a_set_of_arguments_each() {
    let body = |line: &[&str]| body(&[&["--span", "--", "echo"], line].concat());
    let sets = |line: &[&str]| body(line).expect("spans").argument_sets.expect("sets");
    assert_eq!(
        sets(&["span:[a,b]", "x", "span:{1..2}"]),
        [["a", "x", "1"], ["a", "x", "2"], ["b", "x", "1"], ["b", "x", "2"]]
    );
    assert_eq!(sets(&["plain"]), [["plain"]]);
    assert_eq!(sets(&[]), [Vec::<String>::new()]);
    assert_eq!(body(&["span:{1..2}"]).expect("spans").arguments, Vec::<String>::new());
    assert_eq!(sets(&["span:{1..100000}"]).len(), 100_000);
    for (line, expected) in [
        (&["span:{3..1}"][..], "--span: argument 1 \"span:{3..1}\" is not valid at column 10: "),
        (&["x", "span:{a..b}"], "--span: argument 2 "),
        (&["span:{1..100001}"], "this would be 100001 tasks: at most 100000 in one submission"),
        (&["span:{1..1000}", "span:{1..1000}"], "this would be 1000000 tasks: "),
    ] {
        let fault = body(line).expect_err(expected);
        assert!(fault.starts_with(expected), "{line:?}: {fault}");
    }
}

#[test]
fn bad_values_never_leave_the_machine() {
    for (line, expected) in [
        (&["--target", "node:"][..], "--target: target \"node:\" is not valid at column 6: "),
        (&["--target", "a", "--target", "node::0,,1"], "--target: target \"node::0,,1\" is not valid at column 9: "),
        (&["--container", "NULL", "--target", "node::0"], "--target: a list of GPUs needs a container"),
        (&["--container", "NULL", "--mount", "/a:/b"], "--mount needs a container"),
        (&["--container", "NULL", "--privileged"], "--privileged needs a container"),
        (&["--container", "../x"], "--container: "),
        (&["--target", "node::0", "--gpus", "1"], "--gpus and GPU ids in --target exclude each other"),
        (&["--gpus", "0"], "--gpus: expected a whole number, at least 1"),
        (&["--cores", "-1"], "--cores: expected a whole number, 0 or more, found \"-1\""),
        (&["--memory", "4GB"], "--memory: "),
        (&["--mount", "relative:/x"], "--mount: "),
        (&["--env", "novalue"], "--env: environment variable without '='"),
        (&["--env", "A=1", "--env", "A=2"], "--env: A is given twice"),
        (&["--name", "Capital"], "--name: "),
        (
            &["--name", "x", "--target", "a", "--target", "b"],
            "--name: a name can be given to one task only, and this would be 2",
        ),
        (&["--max-wait", "soon"], "--max-wait: "),
        (&["--time-limit", "0"], "--time-limit: "),
        (&["--immediate", "--queue"], "--immediate means not to wait, and --queue to wait"),
        (&["--immediate", "--max-wait", "1m"], "--immediate means not to wait, and --max-wait to wait"),
        (&["--workdir", "relative"], "--workdir: expected an absolute path, found \"relative\""),
        (&["--user", "root"], "--user: "),
    ] {
        let fault = body(&[line, &["--", "true"]].concat()).expect_err(expected);
        assert!(fault.starts_with(expected), "{line:?}: {fault}");
        assert!(!fault.contains('\n'), "{fault}");
    }
    assert!(body::<&str>(&[]).is_err_and(|fault| fault.starts_with("missing: COMMAND")));
    assert!(body(&["--"]).is_err_and(|fault| fault.starts_with("missing: COMMAND")));
    assert!(body(&["--", ""]).is_err_and(|fault| fault.starts_with("COMMAND is empty")));
    for bad in ["x", "0", "-1", "inf", "NaN", "1e3", "+1", "", "0.001", "99999"] {
        let fault = super::request::pause(&submit(&["--poll-interval", bad, "--", "true"])).expect_err(bad);
        assert!(fault.starts_with("--poll-interval: expected seconds"), "{fault}");
    }
}

#[test]
fn the_other_verbs() {
    let id = |text: &str| text.parse().expect("an id or a name");
    assert_eq!(read(&["kill", "42", "dev"]), Ok(Verb::Kill(KillArgs { tasks: vec![id("42"), id("dev")] })));
    assert_eq!(
        read(&["command", "42", "pause"]),
        Ok(Verb::Command(CommandArgs { task: id("42"), action: Action::Pause }))
    );
    for line in [
        &["list"][..],
        &["list", "--status", "killed_oom", "--node", "n1", "--limit", "5", "--json"],
        &["stdout", "1"],
        &["shell", "1"],
    ] {
        assert!(read(line).is_ok(), "{line:?}");
    }
    for (line, expected) in [
        (&["kill", "../nodes"][..], "argument '../nodes': expected a task's id"),
        (&["command", "1", "stop"], "argument 'stop': expected pause or resume; see"),
        (
            &["list", "--status", "sleepy"],
            "option '--status' with value 'sleepy': expected one of pending, assigning, running, ",
        ),
        (&["list", "--node", "a_b"], "option '--node' with value 'a_b': node name"),
        (&["list", "--limit", "0"], "option '--limit' with value '0': expected a whole number from 1 to 100000"),
        (&["list", "--limit", "+1"], "option '--limit' with value '+1': expected"),
        (&["submit", "--no-wait", "--", "x"], "unknown option '--no-wait' (known: "),
        (
            &["start"],
            "unknown command 'start' (known: submit, stdout, stderr, list, kill, command, shell); see 'hakuriver.task --help'",
        ),
    ] {
        let Err(Exit::Usage(text)) = read(line) else { panic!("{line:?} was taken") };
        assert!(text.starts_with(expected), "{line:?}: {text}");
    }
    assert!(
        run(&Invocation {
            role: crate::cli::role::Role::Task,
            command: vec!["hakuriver.task".into()],
            config: None,
            args: vec!["kill".into()],
        })
        .is_err_and(|fault| fault == Fault::Usage("missing: TASK_ID; see 'hakuriver.task kill --help'".into()))
    );
}

#[test]
fn every_level_has_help_with_a_line_an_option_and_an_example() {
    for (line, options) in [
        (&["--help"][..], &["submit", "stdout", "stderr", "list", "kill", "command"][..]),
        (
            &["submit", "--help"],
            &[
                "--target",
                "--cores",
                "--memory",
                "--gpus",
                "--env",
                "--container",
                "--privileged",
                "--mount",
                "--name",
                "--span",
                "--wait",
                "--poll-interval",
                "--immediate",
                "--queue",
                "--max-wait",
                "--time-limit",
                "--workdir",
                "--user",
                "--json",
                "--config",
            ],
        ),
        (&["list", "-h"], &["--status", "--node", "--limit", "--json"]),
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
        assert!(help.contains("\nExamples:\n  hakuriver.task ") && !help.contains("{{"), "{help}");
    }
}
