//! One file configures everything: every key is obeyed, and what is wrong is named with its line.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::{http, program};

fn bare() -> Cluster {
    Cluster::new(Settings { no_environment: true, ..Settings::default() })
}

#[test]
fn wrong_types_and_values_stop_with_file_line_and_key() {
    let cluster = bare();
    let file = cluster.dir.join("broken.toml");
    // (the file, its faulty line, what the message has beside file and line)
    let cases = [
        ("[network]\nhost_port = \"x\"\n", 2, "host_port"),
        ("[network]\nhost_port = 70000\n", 2, "host_port"),
        ("\n[network]\nhost_bind_ip = \"nowhere\"\n", 3, "host_bind_ip"),
        ("[network]\nvps_ports = \"9-1\"\n", 2, "vps_ports"),
        ("[timing]\nheartbeat_interval = 0\n", 2, "heartbeat_interval"),
        ("[timing]\nheartbeat_interval = \"5\"\n", 2, "heartbeat_interval"),
        ("[docker]\nadditional_mounts = [\"x\"]\n", 2, "additional_mounts"),
        ("[docker]\nallow_privileged = 1\n", 2, "allow_privileged"),
        ("[auth]\nmode = \"maybe\"\n", 2, "mode"),
        ("network = 5\n", 1, "network"),
        ("[network\n", 1, "broken.toml"),
    ];
    for (text, line, fragment) in cases {
        fs::write(&file, text).unwrap();
        for role in [&["host"][..], &["vps"], &["client"]] {
            let tail = match role[0] {
                "host" => vec![],
                "vps" => vec!["status"],
                _ => vec!["nodes"],
            };
            let mut command = cluster.command(&binary());
            command.args(role).args(["--config", file.to_str().unwrap()]).args(tail);
            program::run(&mut command, SOON).fails(2, &["broken.toml", &format!("{line}"), fragment]);
        }
    }
    let mut command = cluster.command(&binary());
    command.args(["vps", "--config", "/no/such/config.toml", "status"]);
    program::run(&mut command, SOON).fails(2, &["/no/such/config.toml"]);
}

#[test]
fn an_unknown_key_is_a_warning_with_its_line_and_the_file_still_works() {
    let mut cluster = bare();
    let text = fs::read_to_string(cluster.config("config")).unwrap();
    fs::write(cluster.config("config"), format!("{text}\n[nonsense]\nwhatever = 1\n")).unwrap();
    let line = text.lines().count() + 2;
    cluster.start_host();
    crate::wait::until(&format!("a warning with line {line}"), SOON, || {
        let log = cluster.log("host");
        if log.contains("nonsense") && log.contains(&line.to_string()) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn keys_are_obeyed_and_relative_paths_are_relative_to_the_file() {
    let mut cluster = bare();
    let text = fs::read_to_string(cluster.config("config")).unwrap();
    let more = "[paths]\nstate_dir = \"elsewhere/state\"\nhost_log_file = \"logs/host.log\"\n[database]\ndb_file = \"data/my.db\"\n[auth]\ntoken_file = \"secret\"\n";
    fs::write(cluster.config("config"), format!("{text}{more}")).unwrap();
    fs::create_dir_all(cluster.dir.join("logs")).unwrap();
    fs::create_dir_all(cluster.dir.join("data")).unwrap();
    fs::write(cluster.dir.join("secret"), "my-own-token-of-good-length\n").unwrap();
    // The harness reads <dir>/token.
    fs::write(cluster.dir.join("token"), "my-own-token-of-good-length\n").unwrap();
    cluster.start_host();
    assert_eq!(http::call(cluster.api, "GET", "/nodes", Some("my-own-token-of-good-length"), None).status, 200);
    for file in ["elsewhere/state", "logs/host.log", "data/my.db"] {
        assert!(cluster.dir.join(file).exists(), "{file}");
    }
    assert!(!cluster.dir.join("cluster.db").exists());
    assert!(TcpListener::bind(("127.0.0.1", cluster.tunnel)).is_err(), "the tunnel's port is the one of the file");
    cluster.cli(&["client", "nodes"]).ok();
}

#[test]
fn port_0_lets_the_system_choose_and_the_ready_line_tells() {
    let mut cluster = bare();
    let state = cluster.dir.join("zero");
    fs::create_dir(&state).unwrap();
    let config = state.join("config.toml");
    fs::write(&config, "[network]\nhost_port = 0\nhost_ssh_proxy_port = 0\n").unwrap();
    cluster.spawn("host", &["host", "--config", config.to_str().unwrap()]);
    let port = crate::wait::until("the ready line", SOON, || {
        let log = cluster.log("host");
        let found = log.split("127.0.0.1:").skip(1).find_map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok().filter(|port| *port != 0)
        });
        found.ok_or(log)
    });
    assert_eq!(http::call(port, "GET", "/healthz", None, None).status, 200);
    cluster.stop("host");
}

#[test]
fn a_file_of_0_3_is_accepted_and_the_lines_its_clients_need_are_printed() {
    let mut cluster = bare();
    let text = format!(
        "[network]\nhost_bind_ip = \"127.0.0.1\"\nhost_port = {}\nhost_ssh_proxy_port = {}\nhost_reachable_address = \"127.0.0.1\"\n\
         runner_address = \"127.0.0.1\"\nrunner_port = 8001\n\n[paths]\nshared_dir = \"{}\"\nlocal_temp_dir = \"/tmp\"\nnumactl_path = \"\"\n\n\
         [database]\ndb_file = \"{}\"\n\n[timing]\nheartbeat_interval = 5\nheartbeat_timeout_factor = 6\ncleanup_check_interval = 10\n\
         resource_check_interval = 1\n\n[environment]\nrunner_user = \"\"\n\n[docker]\ncontainer_dir = \"hakuriver-containers\"\n\
         default_container_name = \"hakuriver-base\"\ninitial_base_image = \"python:3.12.10-alpine3.21\"\ntasks_privileged = false\nadditional_mounts = []\n",
        cluster.api,
        cluster.tunnel,
        cluster.dir.join("shared").display(),
        cluster.dir.join("cluster.db").display(),
    );
    fs::write(cluster.config("config"), text).unwrap();
    cluster.start_host();
    crate::wait::until("the lines are printed", SOON, || {
        let log = cluster.log("host");
        if log.contains("auth.mode = \"none\"") && log.contains("insecure_network") { Ok(()) } else { Err(log) }
    });
    let log = cluster.log("host");
    assert!(log.matches("insecure_network").count() == 1 && !log.contains("\\n"), "once, and as lines: {log}");
    assert_eq!(http::call(cluster.api, "GET", "/nodes", None, None).status, 401, "token mode all the same");
}

#[test]
fn up_writes_its_file_and_leaves_one_that_is_there() {
    let cluster = bare();
    let written = fs::read_to_string(cluster.config("config")).unwrap();
    let mut cluster = cluster;
    cluster.start_up();
    let after = fs::read_to_string(cluster.config("config")).unwrap();
    assert!(after.contains(&format!("host_port = {}", cluster.api)), "{after}");
    assert!(written.lines().all(|line| after.contains(line)), "what the user wrote stays: {after}");
    assert!(cluster.dir.join("cluster.db").exists() && cluster.dir.join("shared").exists());
    assert_eq!(fs::metadata(cluster.dir.join("token")).unwrap().permissions().mode() & 0o777, 0o600);
    // A second one in the same directory is refused, and disturbs nothing.
    let state = cluster.dir.to_str().unwrap().to_owned();
    let second = program::run(cluster.command(&binary()).args(["up", "--state-dir", &state]), SOON);
    assert_ne!(second.status, 0, "{second}");
    cluster.cli(&["client", "nodes"]).ok();
}

#[test]
fn the_default_file_is_the_one_beside_which_up_runs() {
    let mut cluster = bare();
    let home = cluster.dir.join("home/.hakuriver");
    fs::create_dir_all(&home).unwrap();
    let config = fs::read_to_string(cluster.config("config")).unwrap();
    fs::write(home.join("config.toml"), config).unwrap();
    fs::remove_dir_all(cluster.dir.join("shared")).unwrap();
    cluster.spawn("host", &["host"]);
    crate::wait::until("the Host answers", SOON, || {
        http::try_call(cluster.api, "GET", "/healthz", None, None).map_err(|e| e.to_string())
    });
    program::run(cluster.command(&binary()).args(["vps", "status"]), SOON).ok();
    assert!(home.join("cluster.db").exists());
    cluster.stop("host");
}

#[test]
fn init_config_writes_for_its_owner_alone_and_overwrites_nothing() {
    let cluster = bare();
    let file = cluster.dir.join("made/config.toml");
    fs::create_dir(file.parent().unwrap()).unwrap();
    let init = |more: &[&str]| {
        let mut command = cluster.command(&binary());
        program::run(command.args(["init", "config", "--config", file.to_str().unwrap()]).args(more), SOON)
    };
    init(&[]).ok();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read_to_string(&file).unwrap();
    init(&[]).fails(2, &["config.toml", "--force"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), first);
    init(&["--force"]).ok();
    assert_ne!(fs::read_to_string(&file).unwrap(), first, "fresh tokens");
    // What it wrote is accepted, key by key.
    let mut command = cluster.command(&binary());
    command.args(["client", "--config", file.to_str().unwrap(), "nodes"]);
    let output = program::run(&mut command, SOON);
    assert!(![0, 2].contains(&output.status) && !output.stderr.contains("warning"), "{output}");
}

#[test]
fn names_of_hosts_and_users_need_no_library_of_the_machine() {
    // The address is a name: resolved from the hosts file, whatever nsswitch.conf asks for.
    let mut cluster = bare();
    cluster.start_host();
    let text = fs::read_to_string(cluster.config("config")).unwrap();
    let named = text.replace("[network]\n", "[network]\nhost_reachable_address = \"localhost\"\n");
    let file = cluster.dir.join("named.toml");
    fs::write(&file, named).unwrap();
    let mut command = cluster.command(&binary());
    command.args(["client", "--config", file.to_str().unwrap(), "nodes"]);
    program::run(&mut command, SOON).ok();
}
