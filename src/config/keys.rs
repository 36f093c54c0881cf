//! Every key of the file, with its default and what it is for: the one list from which the commented file is written and
//! unknown keys are told apart.

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    /// The default as it would stand in the file; for a key without one, an example.
    pub(super) value: &'static str,
    /// False: `value` is an example, and leaving the key out means something else (the text says what).
    pub(super) is_default: bool,
    /// One comment line each.
    pub(super) text: &'static [&'static str],
}

const fn key(section: &'static str, name: &'static str, value: &'static str, text: &'static [&'static str]) -> Key {
    Key { section, name, value, is_default: true, text }
}

const fn example(section: &'static str, name: &'static str, value: &'static str, text: &'static [&'static str]) -> Key {
    Key { section, name, value, is_default: false, text }
}

/// In the order of the file.
pub(super) const KEYS: &[Key] = &[
    key(
        "network",
        "host_bind_ip",
        "\"127.0.0.1\"",
        &["Host: the address to listen on. \"0.0.0.0\" opens it to the network."],
    ),
    key("network", "host_port", "8000", &["The port of the API; 0 lets the system choose at every start."]),
    key("network", "host_ssh_proxy_port", "8002", &["The port of the SSH proxy; 0 lets the system choose."]),
    key("network", "host_reachable_address", "\"127.0.0.1\"", &["Runners and clients: where they find the Host."]),
    example(
        "network",
        "runner_address",
        "\"192.168.1.20\"",
        &[
            "Runner: the address on which the Host reaches this node's VPS; their ports are published on it alone.",
            "Without it: the address from which packets to the Host leave.",
        ],
    ),
    key(
        "network",
        "runner_port",
        "8001",
        &["Accepted from files of 0.3, and not used: the Runner listens on nothing."],
    ),
    example("network", "runner_hostname", "\"node1\"", &["Runner: this node's name. Without it: the machine's name."]),
    key("network", "vps_ports", "\"30000-32767\"", &["Runner: the ports for VPS, first and last."]),
    key(
        "paths",
        "state_dir",
        "\".\"",
        &["Database, keys and records stand in here. Relative paths are relative to this file's folder."],
    ),
    example(
        "paths",
        "shared_dir",
        "\"/mnt/shared\"",
        &["The directory that all nodes share, if there is one. Without it: shared/ in state_dir."],
    ),
    example(
        "paths",
        "local_temp_dir",
        "\"/tmp/hakuriver\"",
        &["Runner: /local_temp of containers. Without it: tmp/ in state_dir."],
    ),
    key("paths", "numactl_path", "\"\"", &["Accepted from files of 0.3, and not used: pinning needs no numactl."]),
    key("paths", "host_log_file", "\"\"", &["Where the Host logs to; empty is stderr."]),
    key("paths", "runner_log_file", "\"\"", &["Where the Runner logs to; empty is stderr."]),
    example(
        "database",
        "db_file",
        "\"/var/lib/hakuriver/cluster.db\"",
        &["Host: the database. Without it: cluster.db in state_dir."],
    ),
    key("timing", "heartbeat_interval", "5", &["Runner: seconds between two heartbeats."]),
    key("timing", "heartbeat_timeout_factor", "6", &["Host: after this many silent intervals a node is offline."]),
    key("timing", "cleanup_check_interval", "10", &["Host: seconds between two looks at what is to be cleaned up."]),
    key("timing", "resource_check_interval", "1", &["Runner: seconds between two looks at the node's load."]),
    key(
        "environment",
        "runner_user",
        "\"\"",
        &[
            "Runner: the only user of tasks that run without a container; empty: the Runner's own, or whom the task names.",
        ],
    ),
    key("docker", "command", "\"docker\"", &["The program that manages containers."]),
    key(
        "docker",
        "container_dir",
        "\"hakuriver-containers\"",
        &["Where the environments' tarballs lie; relative to shared_dir."],
    ),
    key("docker", "default_container_name", "\"hakuriver-base\"", &["The environment of tasks that name none."]),
    key(
        "docker",
        "initial_base_image",
        "\"python:3.12.10-alpine3.21\"",
        &[
            "Host: the image of which the default environment is made at the first start, in the background, where there is no",
            "tarball yet; empty: none is made.",
        ],
    ),
    key(
        "docker",
        "keep_versions",
        "2",
        &[
            "Host: how many tarballs of an environment stay when a new one is packed; one that a node is loading stays too.",
        ],
    ),
    key("docker", "tasks_privileged", "false", &["Whether containers are privileged where the task does not say."]),
    key("docker", "allow_privileged", "true", &["false forbids privileged containers to everyone."]),
    key("docker", "additional_mounts", "[]", &["Mounts of tasks that name none: [\"/data:/data:ro\"]"]),
    key(
        "docker",
        "allowed_mounts",
        "[\"/\"]",
        &["The host paths that tasks may mount, with all below them that no link leads out of."],
    ),
    key(
        "docker",
        "start_timeout",
        "60",
        &[
            "Runner: seconds within which a VPS must answer; ten minutes where a package manager must install sshd first.",
        ],
    ),
    key(
        "auth",
        "mode",
        "\"token\"",
        &[
            "\"none\" lets everyone who reaches the port do everything, as 0.3 did; it listens on loopback only, but for",
            "insecure_network = true.",
        ],
    ),
    key("auth", "insecure_network", "false", &["With mode \"none\": listen on host_bind_ip all the same."]),
    example("auth", "token", "\"…\"", &["The users' token. Without it: what stands in token_file."]),
    example(
        "auth",
        "token_file",
        "\"token\"",
        &["Without it: token in state_dir, made at the Host's first start. HAKURIVER_TOKEN goes before both."],
    ),
    example("auth", "node_token", "\"…\"", &["The Runners' token. Without it: what stands in node_token_file."]),
    example(
        "auth",
        "node_token_file",
        "\"node-token\"",
        &["Without it: node-token in state_dir, made at the Host's first start."],
    ),
    key("retention", "days", "30", &["Host: how long ended tasks, their events and their output are kept."]),
];

/// The text of a file in which every key stands as a comment with its default: nothing is set, so a later version's
/// defaults are not held back.
pub(super) fn commented() -> String {
    let mut text = String::from(
        "# HakuRiver. One file for Host, Runners and clients; every line that is commented out shows the default.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        for line in key.text {
            text.push_str(&format!("# {line}\n"));
        }
        let note = if key.is_default { "" } else { "   # an example" };
        text.push_str(&format!("# {} = {}{note}\n", key.name, key.value));
    }
    text
}

/// Is there a section of that name?
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section == name)
}

/// Is there a key of that name?
pub(super) fn is_key(section: &str, name: &str) -> bool {
    KEYS.iter().any(|key| key.section == section && key.name == name)
}

/// ` (did you mean …?)` for a name that is close to a known one, else nothing.
pub(super) fn suggestion<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let close = known.map(|known| (distance(name, known), known)).min();
    match close {
        Some((distance, known)) if distance <= 3 && distance < known.len().div_ceil(2) => {
            format!(" (did you mean '{known}'?)")
        }
        _ => String::new(),
    }
}

/// How many letters must be changed, added or taken away (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_suggested_and_far_ones_are_not() {
        let keys = || KEYS.iter().map(|key| key.name);
        assert_eq!(suggestion("host_prt", keys()), " (did you mean 'host_port'?)");
        assert_eq!(suggestion("hostport", keys()), " (did you mean 'host_port'?)");
        assert_eq!(suggestion("dyas", keys()), "");
        assert_eq!(suggestion("colour", keys()), "");
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
