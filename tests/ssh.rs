//! `hakuriver ssh`, and what OpenSSH's own programs do with its `--print-config`.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::env::{Cluster, SOON};
use crate::program::{self, docker};
use crate::wait;

const BIG: usize = 100 * 1000 * 1000;

/// Bytes that no compression or accident reproduces.
fn big_file(path: &Path) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(BIG + 8);
    while bytes.len() < BIG {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(BIG);
    fs::write(path, bytes).unwrap();
}

/// The `Host` block of a task as a file for `-F`, and the name to use.
fn ssh_config(cluster: &Cluster, id: &str) -> (String, String) {
    let block = cluster.cli(&["ssh", "--print-config", id]).ok();
    let name = block
        .lines()
        .find_map(|line| line.trim().strip_prefix("Host "))
        .unwrap_or_else(|| panic!("no Host line in {block}"))
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    let file = cluster.dir.join("ssh_config");
    let key = cluster.key();
    fs::write(
        &file,
        format!("{block}\nHost *\n    IdentityFile {}\n    IdentitiesOnly yes\n    BatchMode yes\n", key.display()),
    )
    .unwrap();
    (file.to_str().unwrap().to_owned(), name)
}

#[test]
fn status_streams_and_options_pass_through() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let result = cluster.ssh(&id, &["--", "echo out; echo err >&2; exit 37"]);
    assert_eq!(result.status, 37, "{result}");
    assert_eq!(result.out(), "out\n");
    assert!(result.stderr.contains("err\n"), "{result}");
    // Bytes as they are, both ways; and the end of the input reaches the other side.
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let echoed = program::run_with(&mut cluster.ssh_command(&id, &["--", "cat"]), &bytes, SOON);
    assert_eq!(echoed.status, 0, "{echoed}");
    assert!(echoed.stdout == bytes, "{} bytes came back of {}", echoed.stdout.len(), bytes.len());

    let verbose = cluster.ssh(&id, &["-v", "--", "true"]);
    assert_eq!(verbose.status, 0, "{verbose}");
    assert!(verbose.stderr.contains("debug1"), "ssh's own -v: {verbose}");
    let key = cluster.key();
    let after = ["-i", key.to_str().unwrap(), "-o", "BatchMode=yes", "--", "id -un"];
    let listener = [&["ssh", "--local-port", "0", "--user", "root", &id], after.as_slice()].concat();
    assert_eq!(cluster.cli(&listener).ok(), "root\n");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let listener = [&["ssh", "--local-port", &port, &id], after.as_slice()].concat();
    assert_eq!(cluster.cli(&listener).ok(), "root\n");

    let unknown = cluster.cli(&["ssh", "123456789012345678", "--", "true"]);
    assert_ne!(unknown.status, 0, "{unknown}");
    assert!(unknown.stderr.contains("123456789012345678"), "{unknown}");
    cluster.kill_vps(&id);
}

#[test]
fn other_keys_are_refused_and_several_are_taken() {
    let cluster = Cluster::up();
    let second = cluster.dir.join("second");
    crate::env::keygen(&second);
    let both = cluster.dir.join("both.pub");
    let text = format!(
        "{}\n{}",
        fs::read_to_string(cluster.dir.join("key.pub")).unwrap(),
        fs::read_to_string(cluster.dir.join("second.pub")).unwrap()
    );
    fs::write(&both, text).unwrap();
    let id = crate::env::first_id(&cluster.cli(&["vps", "submit", "--public-key-file", both.to_str().unwrap()]).ok());
    for (key, works) in [("key", true), ("second", true), ("stranger", false)] {
        let path = cluster.dir.join(key);
        if !path.exists() {
            crate::env::keygen(&path);
        }
        let args =
            ["ssh", &id, "-i", path.to_str().unwrap(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "--", "true"];
        let result = cluster.cli(&args);
        assert_eq!(result.status, if works { 0 } else { 255 }, "{key}: {result}");
    }
    // No password opens it either, and the root password of the image is no way in.
    let methods = cluster.ssh(
        &id,
        &[
            "-o",
            "PubkeyAuthentication=no",
            "-o",
            "PreferredAuthentications=password,keyboard-interactive",
            "--",
            "true",
        ],
    );
    assert_eq!(methods.status, 255, "{methods}");
    assert!(methods.stderr.contains("(publickey)"), "only keys are offered: {methods}");
    cluster.kill_vps(&id);
}

#[test]
fn a_host_key_is_checked_and_the_user_s_own_file_stays_clean() {
    let cluster = Cluster::up();
    let own = dirs_known_hosts();
    let before = own.as_ref().map(|path| fs::read(path).unwrap_or_default());
    let (one, other) = (cluster.submit(&[]), cluster.submit(&[]));
    let keys = cluster.status(&one).host_keys;
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0].starts_with("ssh-ed25519 AAAA"), "{keys:?}");
    assert_ne!(keys, cluster.status(&other).host_keys);

    // Somebody in between: answers the tunnel's hello for `one`, and connects to `other`.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (proxy, port) = (listener.local_addr().unwrap().port().to_string(), cluster.status(&other).ssh_port.unwrap());
    thread::spawn(move || {
        for client in listener.incoming().take(1) {
            let mut client = client.unwrap();
            let mut byte = [0];
            while client.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {}
            client.write_all(b"SUCCESS\n").unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let (mut from, mut to) = (server, client);
            let _ = std::io::copy(&mut from, &mut to);
        }
    });
    let key = cluster.key();
    let args = ["ssh", "--proxy-port", &proxy, &one, "-i", key.to_str().unwrap(), "-o", "BatchMode=yes", "--", "true"];
    let result = cluster.cli(&args);
    assert_eq!(result.status, 255, "{result}");
    assert!(result.stderr.contains("Host key verification failed"), "{result}");

    assert_eq!(own.map(|path| fs::read(path).unwrap_or_default()), before, "the user's known_hosts");
    // ssh obeys the first option that names a user: the one given to it, not ours.
    let as_other = cluster.ssh(&one, &["-l", "nobody", "--", "id"]);
    assert!(as_other.status == 255 && as_other.stderr.contains("nobody@"), "{as_other}");
    // Whoever ends it, its file goes.
    assert_eq!(cluster.ssh(&other, &["--", "id -u"]).ok(), "0\n");
    let kept = cluster.dir.join("home/.hakuriver/known_hosts.d");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 2);
    cluster.kill_vps(&one);
    cluster.cli(&["client", "kill", &other]).ok();
    cluster.await_status(&other, "killed");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);
}

/// ssh reads the home directory of the account, not $HOME.
fn dirs_known_hosts() -> Option<std::path::PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
    Some(user.dir.join(".ssh/known_hosts"))
}

#[test]
fn scp_rsync_and_forwarding_carry_a_hundred_megabytes() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let (config, name) = ssh_config(&cluster, &id);
    let big = cluster.dir.join("big");
    big_file(&big);
    let (big, back) = (big.to_str().unwrap(), cluster.dir.join("back"));
    let minutes = Duration::from_secs(180);
    let run = |program: &str, args: &[&str]| {
        program::run(cluster.command(Path::new(program)).args(args), minutes).ok();
    };
    let same = |what: &str| {
        assert!(fs::read(big).unwrap() == fs::read(&back).unwrap(), "{what}: other bytes came back");
        fs::remove_file(&back).unwrap();
    };
    run("scp", &["-q", "-F", &config, big, &format!("{name}:/root/scp")]);
    run("scp", &["-q", "-F", &config, &format!("{name}:/root/scp"), back.to_str().unwrap()]);
    same("scp");
    let shell = format!("ssh -F {config}");
    run("rsync", &["-e", &shell, big, &format!("{name}:/root/rsync")]);
    run("rsync", &["-e", &shell, &format!("{name}:/root/rsync"), back.to_str().unwrap()]);
    same("rsync");

    // -L: through the VPS, back to a port on this side of it. The VPS' own sshd serves as what listens there.
    let local = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let forward = format!("127.0.0.1:{local}:127.0.0.1:22");
    let mut holder = cluster
        .ssh_command(&id, &["-o", "ExitOnForwardFailure=yes", "-L", &forward, "--", "echo ready; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let copy = format!("cat > {}", "/root/forwarded");
    let options = [
        "-p",
        &local.to_string(),
        "-i",
        cluster.key().to_str().unwrap(),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        "root@127.0.0.1",
    ]
    .map(str::to_owned);
    let bytes = fs::read(big).unwrap();
    let sent = program::run_with(cluster.command(Path::new("ssh")).args(&options).arg(&copy), &bytes, minutes);
    assert_eq!(sent.status, 0, "{sent}");
    let got = program::run(cluster.command(Path::new("ssh")).args(&options).arg("cat /root/forwarded"), minutes);
    assert!(got.stdout == bytes, "-L: {} bytes came back", got.stdout.len());
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    cluster.kill_vps(&id);
}

#[test]
fn fifty_sessions_at_once() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    // All are open at the same time: each says so, then waits for the end of its input.
    let mut sessions: Vec<_> = (0..50)
        .map(|n| {
            cluster
                .ssh_command(&id, &["--", &format!("echo session {n}; cat")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (n, session) in sessions.iter_mut().enumerate() {
        let wanted = format!("session {n}\n");
        let mut got = vec![0; wanted.len()];
        session.stdout.as_mut().unwrap().read_exact(&mut got).unwrap_or_else(|e| {
            let mut said = String::new();
            let _ = session.stderr.as_mut().unwrap().read_to_string(&mut said);
            panic!("session {n}: {e}: {said}")
        });
        assert_eq!(String::from_utf8_lossy(&got), wanted);
    }
    for mut session in sessions {
        session.stdin.as_mut().unwrap().write_all(b"end\n").unwrap();
        drop(session.stdin.take());
        let mut rest = String::new();
        session.stdout.as_mut().unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "end\n");
        let status =
            wait::until("a session ends", SOON, || session.try_wait().unwrap().ok_or_else(|| "open".to_owned()));
        assert!(status.success());
    }
    cluster.kill_vps(&id);
}

#[test]
fn a_second_start_of_the_same_container_keeps_its_keys() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let before = cluster.status(&id).host_keys;
    let container = cluster.container(&id);
    cluster.ssh(&id, &["--", "echo kept > /root/kept"]).ok();
    docker(&["restart", "-t", "5", &container]);
    wait::until("ssh works again", SOON, || {
        let result = cluster.ssh(&id, &["--", "cat /root/kept"]);
        if result.status == 0 && result.out() == "kept\n" { Ok(()) } else { Err(result.to_string()) }
    });
    assert_eq!(cluster.status(&id).host_keys, before);
    let lines = cluster.ssh(&id, &["--", "cat /etc/hakuriver/authorized_keys | wc -l"]).ok();
    assert_eq!(lines.trim(), "1", "nothing is appended at a second start");
    cluster.kill_vps(&id);
}
