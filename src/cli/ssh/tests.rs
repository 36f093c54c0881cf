use super::*;
use crate::cli::args::{Exit, parse};

fn read(line: &str) -> Result<SshArgs, Exit> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse::<SshArgs>(&["hakuriver.ssh"], &args).map(|(args, _)| args)
}

#[test]
fn what_stands_before_the_task_is_ours_and_the_rest_is_sshs() {
    for (line, rest) in [
        ("42", "42"),
        ("my-name -- uname -a", "my-name -- uname -a"),
        ("42 uname -a", "42 uname -a"),
        ("42 -v", "42 -v"),
        ("42 --help", "42 --help"),
        ("42 -L 8080:localhost:80 -i key -o A=b", "42 -L 8080:localhost:80 -i key -o A=b"),
        ("--host head --proxy-port=8002 --local-port 2222 --user me 42 -v --user x", "42 -v --user x"),
        ("--stdio 42", "42"),
        ("--print-config my-name", "my-name"),
        ("-- 42 -v", "42 -v"),
    ] {
        let args = read(line).unwrap_or_else(|exit| panic!("{line}: {exit:?}"));
        assert_eq!(args.rest.join(" "), rest, "{line}");
    }
    let args = read("--host head --proxy-port=8002 --local-port 2222 --user me 42").expect("good");
    assert_eq!((args.host.as_deref(), args.proxy_port, args.local_port), (Some("head"), Some(8002), 2222));
    assert_eq!(args.user, "me");
    assert_eq!(read("42").expect("good").user, "root");
}

#[test]
fn what_is_wrong_is_said() {
    for (line, expected) in [
        ("-v 42", "unknown option '-v' (known: --help, --host, "),
        ("--proxy-port x 42", "option '--proxy-port' with value 'x': expected a port (0 to 65535)"),
        ("--local-port -1 42", "option '--local-port' with value '-1': expected a port (0 to 65535)"),
    ] {
        let Err(Exit::Usage(text)) = read(line) else { panic!("{line:?} was taken") };
        assert!(text.starts_with(expected), "{line:?}: {text}");
    }
    for line in ["", "--stdio", "A_b", "--stdio 42 -v", "--print-config 42 -v", "--user= 42", "--host a:1 42"] {
        let args = line.split_whitespace().map(str::to_owned).collect();
        let invocation = Invocation { role: Role::Ssh, command: vec!["hakuriver.ssh".into()], config: None, args };
        let fault = run(&invocation).expect_err(line);
        assert_eq!(fault.status(), 2, "{line}: {fault:?}");
    }
}

#[test]
fn help_shows_every_option_and_an_example() {
    let Err(Exit::Help(help)) = read("--help") else { panic!("it is no help") };
    for option in ["--host", "--proxy-port", "--local-port", "--user", "--stdio", "--print-config", "--config"] {
        assert!(help.contains(&format!("\n  {option} ")), "{option}: {help}");
    }
    assert!(help.contains("Usage: hakuriver.ssh [<options>] TASK_ID"), "{help}");
    assert!(help.contains("\nExamples:\n  hakuriver.ssh 7398"), "{help}");
}

#[test]
fn only_a_running_vps_is_connected_to() {
    let record = |status: &str| TaskRecord {
        task_id: "42".into(),
        task_type: "vps".into(),
        status: status.into(),
        assigned_node: Some("n1".into()),
        host_keys: vec!["ssh-ed25519 AAAA".into()],
        ..TaskRecord::default()
    };
    assert_eq!(check(&record("running"), false), Ok(()));
    assert_eq!(check(&record("paused"), true), Ok(()));
    for (status, next) in [
        ("pending", "connect when it is running"),
        ("assigning", "connect when it is running"),
        ("paused", "hakuriver vps command 42 resume"),
        ("lost", "its node 'n1' is silent"),
        ("killed", "hakuriver vps submit"),
        ("failed", "hakuriver vps submit"),
    ] {
        let fault = check(&record(status), false).expect_err(status);
        let text = fault.message().unwrap_or_default();
        assert!(text.starts_with(&format!("no SSH to VPS 42: it is {status}\n")) && text.contains(next), "{text}");
        assert_eq!(fault.status(), 1);
    }
    for (want, next) in [("pause", "it is being paused; resume it"), ("stop", "it is being killed")] {
        let wanted = TaskRecord { want: want.into(), ..record("running") };
        let fault = check(&wanted, false).expect_err(want);
        assert!(fault.message().is_some_and(|text| text.contains(next)), "{fault:?}");
    }
    let with_error = TaskRecord { error_message: Some("no sshd".into()), ..record("failed") };
    assert!(
        check(&with_error, false)
            .is_err_and(|fault| fault.message().is_some_and(|text| text.contains("failed (no sshd)")))
    );
    let command = TaskRecord { task_type: "command".into(), ..record("running") };
    assert!(check(&command, false).is_err());
    let without_keys = TaskRecord { host_keys: Vec::new(), ..record("running") };
    assert!(check(&without_keys, false).is_err(), "an unknown key is never believed");
}
