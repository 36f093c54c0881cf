//! Bad input of every kind: the message names what is wrong and what to do, the exit status is right, and no task is left in a
//! state that never ends.

use std::process::Command;

use crate::env::{Cluster, Settings, binary, first_id, image_file, keygen, write_script};
use crate::fake_node::{FakeNode, Hardware};
use crate::program::{self, docker};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJaJOWZ8FQPFlx9LfTg5Yhrg0cmPZDOzSbMEZzkqV3gF user@machine";

/// A Host with nodes `n1` (8 cores, 2 NUMA nodes, no GPU) and `g1` (4 cores, 2 GPUs), both of the test's making.
fn cluster() -> (Cluster, FakeNode, FakeNode) {
    let mut cluster = Cluster::new(Settings {
        docker_lines: "allowed_mounts = [\"/data\"]\nallow_privileged = false\n".into(),
        ..Settings::default()
    });
    cluster.start_host();
    let n1 = FakeNode::obedient(&cluster, "n1", &Hardware::cores("0-7", &[&[0, 1, 2, 3], &[4, 5, 6, 7]]));
    let g1 = FakeNode::obedient(&cluster, "g1", &Hardware { gpus: 2, ..Hardware::cores("0-3", &[&[0, 1, 2, 3]]) });
    (cluster, n1, g1)
}

#[test]
fn what_the_command_line_refuses() {
    let (cluster, _n1, _g1) = cluster();
    // (what is added to `vps submit --public-key-string KEY`, exit status, what the message has)
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["--target", "node:"], 2, &["node:"]),
        (&["--target", "node::"], 2, &["node::"]),
        (&["--target", ":0"], 2, &[":0"]),
        (&["--target", "node:x"], 2, &["node:x"]),
        (&["--target", "node::0,,1"], 2, &["node::0,,1"]),
        (&["--target", "node::0,0"], 2, &["node::0,0"]),
        (&["--target", "node::-1"], 2, &["node::-1"]),
        (&["--target", "no de"], 2, &["no de"]),
        (&["--target", "n1", "--target", "g1"], 2, &["--target"]),
        (&["--memory", "0"], 2, &["memory", "512M"]),
        (&["--memory", "-1"], 2, &["memory"]),
        (&["--memory", "1.5G"], 2, &["1.5G"]),
        (&["--memory", "4GB"], 2, &["4GB"]),
        (&["--memory", "99999999999T"], 2, &["99999999999T"]),
        (&["--memory", ""], 2, &["memory"]),
        (&["--cores", "-1"], 2, &["cores"]),
        (&["--cores", "two"], 2, &["cores", "two"]),
        (&["--name", "Upper"], 2, &["Upper"]),
        (&["--name", "1st"], 2, &["1st"]),
        (&["--name", ""], 2, &["name"]),
        (&["--name", "a/../b"], 2, &["a/../b"]),
        (&["--mount", "relative:/x"], 2, &["relative"]),
        (&["--mount", "/only"], 2, &["/only"]),
        (&["--mount", "/a:/b:rwx"], 2, &["rwx"]),
        (&["--mount", "/a:relative"], 2, &["relative"]),
        (&["--env", "NOVALUE"], 2, &["--env", "NAME=VALUE"]),
        (&["--env", "=x"], 2, &["env"]),
        (&["--env", "A=x\ny"], 2, &["A", "line break"]),
        (&["--container", "NULL"], 2, &["NULL"]),
        (&["--container", "../x"], 2, &["../x"]),
        (&["--public-key-file", "/no/such/file"], 2, &["--public-key"]),
        (&["--max-wait", "soon"], 2, &["soon"]),
        (&["--gpus", "x"], 2, &["gpus"]),
        (&["--no-such-option"], 2, &["--no-such-option"]),
        (&["surplus"], 2, &["surplus"]),
        // What only the Host can know.
        (&["--target", "nowhere"], 1, &["nowhere", "n1", "g1"]),
        (&["--target", "n1:7"], 1, &["n1", "NUMA"]),
        (&["--target", "n1::0"], 1, &["n1", "GPU"]),
        (&["--target", "g1::5"], 1, &["g1", "GPU"]),
        (&["--target", "n1", "--cores", "9"], 1, &["n1", "8"]),
        (&["--target", "n1:0", "--cores", "5"], 1, &["n1"]),
        (&["--target", "n1", "--memory", "1T"], 1, &["n1", "memory"]),
        (&["--cores", "1000"], 1, &["n1", "g1"]),
        (&["--gpus", "3"], 1, &["GPU"]),
        (&["--container", "no-such-env"], 1, &["no-such-env", "hakuriver-base"]),
        (&["--mount", "/etc:/etc2"], 1, &["/etc", "/data"]),
        (&["--mount", "/data/../etc:/etc2"], 2, &[".."]),
        (&["--privileged"], 1, &["privileged"]),
    ];
    for (added, status, fragments) in cases {
        let mut args = vec!["vps", "submit", "--public-key-string", KEY];
        args.extend(*added);
        let output = cluster.cli(&args);
        output.fails(*status, fragments);
        assert!(output.stdout.is_empty(), "a refusal has nothing to report: {output}");
    }
    assert_eq!(cluster.get("/vps").trim(), "[]", "none of them became a task");
}

#[test]
fn hostile_and_broken_keys() {
    let (cluster, _n1, _g1) = cluster();
    let body = &KEY[12..80];
    let keys = [
        "".to_owned(),
        "garbage".to_owned(),
        "'; touch /pwned; '".to_owned(),
        "$(touch /pwned)".to_owned(),
        format!("ssh-ed25519 {body}'; touch /pwned; '"),
        "ssh-ed25519".to_owned(),
        "ssh-ed25519 AAAA".to_owned(),
        "ssh-ed25519 !!!!".to_owned(),
        format!("ssh-rsa {body}"),
        format!("command=\"touch /pwned\" {KEY}"),
        format!("environment=\"LD_PRELOAD=/x\" {KEY}"),
        format!("{KEY}\ncommand=\"touch /pwned\" {KEY}"),
        format!("{KEY}\r\nPermitRootLogin yes"),
        format!("{KEY}\0"),
        "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(),
        "ssh-dss AAAAB3NzaC1kc3MAAACBAP".to_owned(),
    ];
    for key in &keys {
        if !key.contains('\0') {
            let output = cluster.cli(&["vps", "submit", "--public-key-string", key]);
            output.fails(2, &["key"]);
        }
        // And on the Host, past the client.
        let text = key
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\r', "\\r")
            .replace('\n', "\\n")
            .replace('\0', "\\u0000");
        let reply = cluster.post("/submit", &format!("{{\"task_type\": \"vps\", \"command\": \"{text}\"}}"));
        assert!([400, 422].contains(&reply.status), "{key:?}: {} {}", reply.status, reply.text());
        assert!(reply.text().contains("key"), "{}", reply.text());
    }
    let private = cluster.dir.join("key");
    cluster.cli(&["vps", "submit", "--public-key-file", private.to_str().unwrap()]).fails(2, &["key"]);
    assert_eq!(cluster.get("/vps").trim(), "[]");
    // A comment is text, and nothing but text.
    let odd = format!("{} '; touch $(pwned) \"", &KEY[..KEY.rfind(' ').unwrap()]);
    let id = first_id(&cluster.cli(&["vps", "submit", "--no-wait", "--public-key-string", &odd]).ok());
    cluster.await_status(&id, "running");
    assert!(!std::path::Path::new("/pwned").exists());
}

#[test]
fn no_key_file_names_the_paths_tried() {
    let (cluster, _n1, _g1) = cluster();
    let output = cluster.cli(&["vps", "submit"]);
    output.fails(2, &["id_rsa.pub", "id_ed25519.pub", "id_ecdsa.pub", "--public-key-file"]);
    // Each of them is found, the first one first.
    let ssh = cluster.dir.join("home/.ssh");
    std::fs::create_dir_all(&ssh).unwrap();
    keygen(&ssh.join("id_ed25519"));
    let id = first_id(&cluster.cli(&["vps", "submit"]).ok());
    assert!(cluster.status(&id).command.contains("ssh-ed25519"));
    let missing = cluster.cli(&["vps", "submit", "--public-key-file", "/no/such/file.pub"]);
    missing.fails(2, &["/no/such/file.pub"]);
}

#[test]
fn what_other_commands_refuse() {
    let (cluster, _n1, _g1) = cluster();
    let gone = "123456789012345678";
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["vps", "kill", gone], 1, &[gone]),
        (&["vps", "command", gone, "pause"], 1, &[gone]),
        (&["vps", "command", gone, "restart"], 2, &["restart", "pause", "resume"]),
        (&["vps", "kill", "-5"], 2, &["-5"]),
        (&["vps", "kill", "99999999999999999999999"], 2, &["99999999999999999999999"]),
        (&["vps", "kill", "no-such-name"], 1, &["no-such-name"]),
        (&["client", "status", gone], 1, &[gone]),
        (&["client", "kill", gone], 1, &[gone]),
        (&["client", "health", "nowhere"], 1, &["nowhere"]),
        (&["client", "drain", "nowhere"], 1, &["nowhere"]),
        (&["client", "forget", "nowhere"], 1, &["nowhere"]),
        (&["vps"], 2, &[]),
        (&["vps", "explode"], 2, &["explode"]),
    ];
    for (args, status, fragments) in cases {
        cluster.cli(args).fails(*status, fragments);
    }
}

#[test]
fn a_token_that_is_wrong_missing_or_none_is_said_with_its_source() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let with = |value: &str| {
        let mut command = cluster.cli_command(&["vps", "status"]);
        program::run(command.env("HAKURIVER_TOKEN", value), crate::env::SOON)
    };
    with("wrong").fails(1, &["the token is not this cluster's", "it comes from HAKURIVER_TOKEN"]);
    with(&cluster.node_token()).fails(1, &["nodes' token"]);
    for value in ["two\nlines", "a b", "ä"] {
        let output = with(value);
        output.fails(1, &["HAKURIVER_TOKEN holds no token"]);
        assert!(!output.stderr.contains(value), "it is not shown: {output}");
    }
    let file = cluster.dir.join("token");
    std::fs::remove_file(&file).unwrap();
    let output = cluster.cli(&["vps", "status"]);
    output.fails(1, &[file.to_str().unwrap(), "asks for a token", "HAKURIVER_TOKEN"]);
    assert_eq!(output.stderr.lines().count(), 2, "{output}");
}

#[test]
fn what_cannot_be_printed_is_not_done() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    for args in [&["vps", "status"][..], &["vps", "status", "--json"], &["client", "nodes"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = cluster.cli_command(args);
        let output = command.stdin(std::process::Stdio::null()).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("cannot write to stdout: No space left"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_host_that_is_down_is_status_3() {
    let cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    std::fs::write(cluster.dir.join("token"), "some-token\n").unwrap();
    let address = format!("127.0.0.1:{}", cluster.api);
    for args in [
        &["vps", "status"][..],
        &["vps", "submit", "--public-key-string", KEY],
        &["vps", "kill", "123456789012345678"],
        &["client", "nodes"],
        &["client", "status", "123456789012345678"],
    ] {
        cluster.cli(args).fails(3, &[&address]);
    }
    // A name that nobody knows is no answer either, and nothing to try for half a minute.
    let text = std::fs::read_to_string(cluster.config("config")).unwrap();
    let named = text.replacen("[network]\n", "[network]\nhost_reachable_address = \"no-such-host.invalid\"\n", 1);
    std::fs::write(cluster.config("config"), named).unwrap();
    let submit = cluster.cli(&["vps", "submit", "--public-key-string", KEY]);
    submit.fails(3, &["cannot reach the Host", "no-such-host.invalid", "network.host_reachable_address"]);
}

#[test]
fn an_offline_or_draining_node_is_refused_or_queued_for() {
    let mut cluster = Cluster::new(Settings { timeout_factor: 3, ..Settings::default() });
    cluster.start_host();
    let node = FakeNode::obedient(&cluster, "n1", &Hardware::cores("0-3", &[]));
    let submit = ["vps", "submit", "--no-wait", "--public-key-string", KEY, "--target", "n1"];
    cluster.cli(&["client", "drain", "n1"]).ok();
    cluster.cli(&submit).fails(1, &["n1", "drain"]);
    let queued = first_id(&cluster.cli(&[&submit[..], &["--queue"]].concat()).ok());
    assert_eq!(cluster.status(&queued).status, "pending");
    cluster.cli(&["client", "undrain", "n1"]).ok();
    cluster.await_status(&queued, "running");
    drop(node);
    crate::wait::until("n1 is offline", crate::env::SOON, || {
        let status = cluster.nodes()[0].status.clone();
        if status == "offline" { Ok(()) } else { Err(status) }
    });
    cluster.cli(&submit).fails(1, &["n1", "offline"]);
    let queued = first_id(&cluster.cli(&[&submit[..], &["--queue", "--max-wait", "1s"]].concat()).ok());
    let record = cluster.await_status(&queued, "failed");
    assert!(record.error_message.is_some_and(|m| m.contains("n1")), "what it waited for in vain is said");
}

#[test]
fn an_image_without_sshd_or_a_package_manager_fails_with_what_to_install() {
    let cluster = Cluster::up();
    cluster.add_environment("bare", 1_700_000_000, &image_file("bare.tar"));
    let public = cluster.dir.join("key.pub");
    let output = cluster.cli(&["vps", "submit", "--container", "bare", "--public-key-file", public.to_str().unwrap()]);
    assert_eq!(output.status, 1, "{output}");
    let id = first_id(&output.out());
    let record = cluster.await_status(&id, "failed");
    let message = record.error_message.unwrap();
    assert!(message.contains("openssh-server"), "{message}");
    assert!(output.stderr.contains("openssh-server"), "the waiting client says it too: {output}");
    cluster.await_no_container(&id);
}

#[test]
fn docker_that_does_not_run_is_said_before_anything_is_accepted_for_ever() {
    let settings = Settings { docker_command: Some("/no/such/docker".into()), ..Settings::default() };
    let cluster = Cluster::up_with(settings);
    let public = cluster.dir.join("key.pub");
    let output = cluster.cli(&["vps", "submit", "--public-key-file", public.to_str().unwrap(), "--max-wait", "2s"]);
    assert_eq!(output.status, 1, "{output}");
    assert!(output.stderr.to_lowercase().contains("docker"), "{output}");
    let problems = cluster.nodes()[0].problems.join("; ");
    assert!(problems.to_lowercase().contains("docker"), "client nodes says it as well: {problems:?}");
}

#[test]
fn a_port_that_is_taken_is_passed_over() {
    let cluster = Cluster::up();
    let first = cluster.submit(&[]);
    let port = cluster.status(&first).ssh_port.unwrap();
    cluster.kill_vps(&first);
    // Somebody else sits on the ports that come first.
    let others: Vec<_> =
        (port..port + 3).filter_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok()).collect();
    assert!(!others.is_empty());
    let taken: Vec<u16> = others.iter().map(|l| l.local_addr().unwrap().port()).collect();
    let second = cluster.submit(&[]);
    let port = cluster.status(&second).ssh_port.unwrap();
    assert!(!taken.contains(&port), "{port} of {taken:?}");
    assert_eq!(cluster.ssh(&second, &["--", "echo in"]).ok(), "in\n");
    cluster.kill_vps(&second);
}

#[test]
fn a_container_of_that_name_that_is_not_ours_is_left_alone() {
    // A wrapper makes a foreign container of the task's name just before Docker is asked to run it.
    let dir = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let wrapper = dir.dir.join("docker");
    write_script(
        &wrapper,
        "#!/bin/sh\nif [ \"$1\" = run ]; then\n  name=; last=\n  for word in \"$@\"; do [ \"$last\" = --name ] && name=$word; last=$word; done\n  \
         [ -n \"$name\" ] && docker create --name \"$name\" --label hakuriver.test-foreign=1 hakuriver-test/bare:1 true >/dev/null 2>&1\nfi\nexec docker \"$@\"\n",
    );
    let cluster = Cluster::up_with(Settings { docker_command: Some(wrapper), ..Settings::default() });
    let id = cluster.submit_no_wait(&[]);
    let record = cluster.await_status(&id, "failed");
    let message = record.error_message.unwrap();
    let name = format!("hakuriver-vps-{id}");
    // Also after the Runner has forgotten the task, and whatever it clears away with it.
    let tasks = cluster.dir.join("runner").join(cluster.node("a")).join("tasks");
    crate::wait::until_true("the task's record is cleared away", crate::env::SOON, || {
        (std::fs::read_dir(&tasks).unwrap().next().is_none(), "a record".to_owned())
    });
    let foreign =
        docker(&["ps", "-aq", "--filter", &format!("name=^{name}$"), "--filter", "label=hakuriver.test-foreign=1"]);
    assert!(!foreign.is_empty(), "the foreign container was removed");
    docker(&["rm", "-f", &name]);
    assert!(message.contains(&name), "{message}");
    cluster.await_no_container(&id);
}

#[test]
fn help_and_version_work_on_every_level() {
    let run =
        |args: &[&str]| program::run(Command::new(binary()).args(args).env("HOME", "/nonexistent"), crate::env::SOON);
    let version = run(&["--version"]).ok();
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for args in [
        &["--help"][..],
        &["vps", "--help"],
        &["vps", "submit", "--help"],
        &["vps", "status", "--help"],
        &["vps", "kill", "--help"],
        &["vps", "command", "--help"],
        &["ssh", "--help"],
        &["client", "--help"],
        &["client", "nodes", "--help"],
        &["client", "status", "--help"],
        &["host", "--help"],
        &["runner", "--help"],
        &["up", "--help"],
        &["init", "--help"],
        &["init", "links", "--help"],
    ] {
        let output = run(args);
        let text = output.ok();
        assert!(text.contains("hakuriver") && output.stderr.is_empty(), "{output}");
    }
    let kill = run(&["vps", "kill", "--help"]).ok();
    assert!(kill.contains("remove"), "kill's help says that container and files go: {kill}");
    run(&[]).fails(2, &[]);
    run(&["no-such-role"]).fails(2, &["no-such-role"]);
}
