use super::*;
use std::path::PathBuf;

fn read(text: &str) -> Result<(Config, Vec<String>), ConfigFault> {
    parse(text, Path::new("/etc/hr/config.toml"), Some(Path::new("/home/u")))
}

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|fault| panic!("{fault}\n{text}")).0
}

#[test]
fn an_empty_file_is_all_defaults() {
    let config = config("");
    assert_eq!(config.network.host_bind_ip.to_string(), "127.0.0.1");
    assert_eq!((config.network.host_port, config.network.host_ssh_proxy_port), (8000, 8002));
    assert_eq!(config.network.host_reachable_address, "127.0.0.1");
    assert_eq!((config.network.runner_address, config.network.runner_hostname), (None, None));
    assert_eq!(config.network.vps_ports, (30_000, 32_767));
    assert_eq!(config.paths.state_dir, Path::new("/etc/hr"));
    assert_eq!(config.paths.shared_dir, Path::new("/etc/hr/shared"));
    assert_eq!(config.paths.local_temp_dir, Path::new("/etc/hr/tmp"));
    assert_eq!((config.paths.host_log_file, config.paths.runner_log_file), (None, None));
    assert_eq!(config.db_file, Path::new("/etc/hr/cluster.db"));
    assert_eq!(config.timing.heartbeat_timeout(), Duration::from_secs(30));
    assert_eq!(config.timing.cleanup_check_interval, Duration::from_secs(10));
    assert_eq!(config.timing.resource_check_interval, Duration::from_secs(1));
    assert_eq!(config.runner_user, "");
    assert_eq!(config.docker.command, "docker");
    assert_eq!(config.docker.container_dir, Path::new("/etc/hr/shared/hakuriver-containers"));
    assert_eq!(config.docker.default_container_name, "hakuriver-base");
    assert_eq!(config.docker.initial_base_image, "python:3.12.10-alpine3.21");
    assert!(!config.docker.tasks_privileged && config.docker.allow_privileged);
    assert_eq!(config.docker.additional_mounts, []);
    assert_eq!(config.docker.allowed_mounts, [PathBuf::from("/")]);
    assert_eq!(config.docker.start_timeout, Duration::from_secs(60));
    assert_eq!(config.docker.install_timeout, Duration::from_secs(600));
    assert_eq!(config.auth.mode, AuthMode::Token);
    assert_eq!(config.auth.token_file, Path::new("/etc/hr/token"));
    assert_eq!(config.auth.node_token_file, Path::new("/etc/hr/node-token"));
    assert_eq!((config.auth.token, config.auth.node_token), (None, None));
    assert!(config.auth.absent && !config.auth.insecure_network);
    assert_eq!(config.retention_days, 30);
}

#[test]
fn the_commented_file_loads_back_to_the_defaults() {
    let text = keys::commented();
    let (commented, warnings) = read(&text).expect("it is TOML");
    assert_eq!(warnings, Vec::<String>::new());
    let mut empty = config("");
    // The section stands in it, so it is no file of 0.3.
    empty.auth.absent = false;
    assert_eq!(commented, empty);
}

#[test]
fn the_defaults_that_the_commented_file_shows_are_the_defaults() {
    // With the leading "# " taken away from each line that shows one.
    let mut text = String::new();
    for key in KEYS.iter().filter(|key| key.is_default) {
        text.push_str(&format!("{}.{} = {}\n", key.section, key.name, key.value));
    }
    let (shown, warnings) = read(&text).expect("they are TOML");
    assert_eq!(warnings, Vec::<String>::new());
    let mut empty = config("");
    empty.auth.absent = false;
    assert_eq!(shown, empty);
    for key in KEYS {
        assert!(keys::commented().contains(&format!("# {} = {}", key.name, key.value)), "{}", key.name);
    }
}

#[test]
fn every_key_is_obeyed() {
    type Check = fn(&Config) -> bool;
    let cases: &[(&str, Check)] = &[
        ("network.host_bind_ip = '::'", |c| c.network.host_bind_ip.to_string() == "::"),
        ("network.host_port = 0", |c| c.network.host_port == 0),
        ("network.host_ssh_proxy_port = 65535", |c| c.network.host_ssh_proxy_port == 65_535),
        ("network.host_reachable_address = 'head.lab'", |c| c.network.host_reachable_address == "head.lab"),
        ("network.runner_address = '10.0.0.7'", |c| c.network.runner_address == "10.0.0.7".parse().ok()),
        ("network.runner_hostname = 'n1'", |c| c.network.runner_hostname.as_deref() == Some("n1")),
        ("network.vps_ports = '1000-1000'", |c| c.network.vps_ports == (1000, 1000)),
        ("paths.state_dir = '/s'", |c| {
            c.paths.shared_dir == Path::new("/s/shared")
                && c.db_file == Path::new("/s/cluster.db")
                && c.auth.token_file == Path::new("/s/token")
        }),
        ("paths.state_dir = '~/s'", |c| c.paths.state_dir == Path::new("/home/u/s")),
        ("paths.shared_dir = './a/../b'", |c| {
            c.docker.container_dir == Path::new("/etc/hr/a/../b/hakuriver-containers")
        }),
        ("paths.local_temp_dir = 't'", |c| c.paths.local_temp_dir == Path::new("/etc/hr/t")),
        ("paths.host_log_file = 'h.log'", |c| c.paths.host_log_file.as_deref() == Some(Path::new("/etc/hr/h.log"))),
        ("paths.runner_log_file = '/r'", |c| c.paths.runner_log_file.as_deref() == Some(Path::new("/r"))),
        ("database.db_file = 'x.db'", |c| c.db_file == Path::new("/etc/hr/x.db")),
        ("timing.heartbeat_interval = 0.5", |c| c.timing.heartbeat_interval == Duration::from_millis(500)),
        ("timing.heartbeat_timeout_factor = 2", |c| c.timing.heartbeat_timeout() == Duration::from_secs(10)),
        ("timing.cleanup_check_interval = 3", |c| c.timing.cleanup_check_interval == Duration::from_secs(3)),
        ("timing.resource_check_interval = 4", |c| c.timing.resource_check_interval == Duration::from_secs(4)),
        ("environment.runner_user = 'me'", |c| c.runner_user == "me"),
        ("docker.command = 'podman'", |c| c.docker.command == "podman"),
        ("docker.container_dir = '/tars'", |c| c.docker.container_dir == Path::new("/tars")),
        ("docker.default_container_name = 'cuda'", |c| c.docker.default_container_name == "cuda"),
        ("docker.initial_base_image = 'debian:12'", |c| c.docker.initial_base_image == "debian:12"),
        ("docker.tasks_privileged = true", |c| c.docker.tasks_privileged),
        ("docker.allow_privileged = false", |c| !c.docker.allow_privileged),
        ("docker.additional_mounts = ['/d:/e:ro']", |c| c.docker.additional_mounts[0].to_string() == "/d:/e:ro"),
        ("docker.allowed_mounts = ['/d', '/e']", |c| c.docker.allowed_mounts.len() == 2),
        ("docker.start_timeout = 900", |c| c.docker.install_timeout == Duration::from_secs(900)),
        ("auth.mode = 'none'", |c| c.auth.mode == AuthMode::None && !c.auth.absent),
        ("auth.token = 'abc'", |c| c.auth.token.as_deref() == Some("abc")),
        ("auth.token_file = '~/t'", |c| c.auth.token_file == Path::new("/home/u/t")),
        ("auth.node_token = 'abc'", |c| c.auth.node_token.as_deref() == Some("abc")),
        ("auth.node_token_file = 'nt'", |c| c.auth.node_token_file == Path::new("/etc/hr/nt")),
        ("auth.insecure_network = true", |c| c.auth.insecure_network),
        ("retention.days = 7", |c| c.retention_days == 7),
    ];
    for (text, check) in cases {
        let (config, warnings) = read(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert!(check(&config), "{text}: {config:?}");
        assert_eq!(warnings, Vec::<String>::new(), "{text}");
    }
}

#[test]
fn faults_name_file_line_key_and_what_was_expected() {
    for (text, expected) in [
        ("[network]\nhost_port = '80'", ":2: network.host_port: expected a port (0 to 65535), found a string"),
        ("[network]\n\nhost_port = 65536", ":3: network.host_port: expected a port (0 to 65535), found 65536"),
        ("network.host_port = -1", ":1: network.host_port: expected a port (0 to 65535), found -1"),
        ("network.host_port = 1.5", ":1: network.host_port: expected a port (0 to 65535), found 1.5"),
        (
            "network.host_bind_ip = 'localhost'",
            ":1: network.host_bind_ip: expected an IP address, such as \"192.168.1.20\", found \"localhost\"",
        ),
        (
            "network.host_reachable_address = 'a b'",
            ":1: network.host_reachable_address: expected a string without blanks",
        ),
        ("network.runner_hostname = 'a_b'", ":1: network.runner_hostname: expected a node's name"),
        ("network.vps_ports = '2-1'", ":1: network.vps_ports: expected two ports"),
        ("network.vps_ports = 30000", ":1: network.vps_ports: expected two ports"),
        ("network = 5", ":1: network: expected a section, [network], found a value"),
        ("paths.state_dir = 1", ":1: paths.state_dir: expected a string, found 1"),
        (
            "timing.heartbeat_interval = 0",
            ":1: timing.heartbeat_interval: expected a number of seconds (0.1 to 86400), found 0",
        ),
        ("timing.heartbeat_interval = nan", ":1: timing.heartbeat_interval: expected a number"),
        (
            "timing.heartbeat_timeout_factor = 0",
            ":1: timing.heartbeat_timeout_factor: expected a whole number, at least 1",
        ),
        ("docker.tasks_privileged = 'yes'", ":1: docker.tasks_privileged: expected true or false, found a string"),
        ("docker.additional_mounts = '/a:/b'", ":1: docker.additional_mounts: expected a list of \"HOST:CONTAINER\""),
        ("docker.additional_mounts = [\n'/a:/b',\n5]", ":3: docker.additional_mounts: expected a list"),
        ("docker.additional_mounts = [\n'/a']", ":2: docker.additional_mounts: "),
        ("docker.allowed_mounts = ['data']", ":1: docker.allowed_mounts: expected an absolute path, found \"data\""),
        ("docker.default_container_name = 'NULL'", ":1: docker.default_container_name: expected an environment's name"),
        ("auth.mode = 'nothing'", ":1: auth.mode: expected \"token\" or \"none\", found \"nothing\""),
        ("auth.token = ''", ":1: auth.token: expected a string of printable ASCII without blanks"),
        ("auth.token = 'ä'", ":1: auth.token: expected a string of printable ASCII without blanks"),
        ("retention.days = 0", ":1: retention.days: expected a whole number, at least 1, found 0"),
        ("[network]\nhost_port = ", ":2: this is not TOML: "),
        ("a = 1\na = 2", ":2: this is not TOML: "),
    ] {
        let fault = read(text).expect_err(text).to_string();
        assert!(fault.starts_with(&format!("/etc/hr/config.toml{expected}")), "{text}\n  {fault}");
        assert!(!fault.contains('\n'), "one line: {fault}");
    }
}

#[test]
fn a_token_of_the_wrong_kind_is_not_printed() {
    let fault = read("auth.token = 'my secret'").expect_err("it has a blank").to_string();
    assert!(!fault.contains("my secret"), "{fault}");
    assert!(!format!("{:?}", config("auth.token = 'secret'")).contains("secret'"));
}

#[test]
fn unknown_keys_are_warnings_with_their_line() {
    let text = "colour = 1\n[network]\nhost_prt = 1\nhost_port = 9\n[netwrok]\nhost_port = 2\n[docker.extra]\nx = 1\n";
    let (config, warnings) = read(text).expect("unknown keys do not stop the program");
    assert_eq!(config.network.host_port, 9);
    let mut warnings = warnings;
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "/etc/hr/config.toml:1: unknown key 'colour' is ignored",
            "/etc/hr/config.toml:3: unknown key network.host_prt is ignored (did you mean 'host_port'?)",
            "/etc/hr/config.toml:5: unknown section 'netwrok' is ignored (did you mean 'network'?)",
            "/etc/hr/config.toml:7: unknown key docker.extra is ignored",
        ]
    );
}

#[test]
fn a_file_of_0_3_is_accepted() {
    let text = r#"
[network]
host_bind_ip = "0.0.0.0"
host_port = 8000
host_ssh_proxy_port = 8002
host_reachable_address = "192.168.88.53"
runner_address = "127.0.0.1"
runner_port = 8001

[paths]
shared_dir = "/mnt/cluster-share"
local_temp_dir = "/tmp/hakuriver"
host_log_file = ""
runner_log_file = ""
numactl_path = "/usr/bin/numactl"

[database]
db_file = "~/.hakuriver/hakuriver.db"

[timing]
heartbeat_interval = 5
heartbeat_timeout_factor = 6
cleanup_check_interval = 10
resource_check_interval = 1

[environment]
runner_user = ""

[docker]
container_dir = "hakuriver-containers"
default_container_name = "hakuriver-base"
initial_base_image = "python:3.12.10-alpine3.21"
tasks_privileged = false
additional_mounts = []
"#;
    let (config, warnings) = read(text).expect("it was valid in 0.3");
    assert_eq!(warnings, Vec::<String>::new());
    assert!(config.auth.absent);
    assert_eq!(config.auth.mode, AuthMode::Token);
    assert_eq!(config.db_file, Path::new("/home/u/.hakuriver/hakuriver.db"));
    assert_eq!(config.docker.container_dir, Path::new("/mnt/cluster-share/hakuriver-containers"));
}

#[test]
fn without_a_home_a_tilde_is_a_fault() {
    let fault = parse("[paths]\nstate_dir = '~/x'", Path::new("/c.toml"), None).expect_err("there is no home");
    assert_eq!(fault.to_string(), "/c.toml:2: paths.state_dir: \"~/x\" needs HOME, which is not set");
}
