//! The line between a user and the Host's SSH proxy breaks in the middle of sessions: both sides know it, and nothing is left.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};

use crate::env::{Cluster, SOON, Settings};
use crate::network::{Network, Weather};
use crate::tasks::{await_gone, descriptors, mark};
use crate::wait;

/// One that has begun, and waits for input.
struct Session {
    ssh: Child,
    /// Its end would be the session's.
    input: Option<ChildStdin>,
}

impl Session {
    fn open(cluster: &Cluster, proxy: &str, id: &str, mark: &str) -> Self {
        let key = cluster.key();
        let options = ["-i", key.to_str().unwrap(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"];
        let script = format!("echo in; sh -c 'cat; true' {mark}");
        let line = [["ssh", "--proxy-port", proxy, id].as_slice(), &options, &["--", &script]].concat();
        let mut ssh = cluster
            .cli_command(&line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(ssh.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        assert_eq!(first, "in\n");
        let mut input = ssh.stdin.take().unwrap();
        input.write_all(b"there\n").unwrap();
        let mut second = String::new();
        output.read_line(&mut second).unwrap();
        assert_eq!(second, "there\n", "bytes go both ways");
        ssh.stdout = Some(output.into_inner());
        Self { ssh, input: Some(input) }
    }

    /// ssh's own status; its input is still open.
    #[track_caller]
    fn ended(mut self) -> i32 {
        let status = wait::until("ssh ends", SOON, || self.ssh.try_wait().unwrap().ok_or_else(|| "open".to_owned()));
        drop(self.input.take());
        status.code().unwrap_or(-1)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// The Host's threads that carry tunnels.
fn tunnels(cluster: &Cluster) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", cluster.pid("host"))).unwrap().flatten();
    let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("tunnel")).count()
}

#[test]
fn a_session_whose_line_is_cut_ends_and_leaves_nothing_at_the_host() {
    const SESSIONS: usize = 4;
    let cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let network = Network::to(cluster.tunnel);
    let proxy = network.port.to_string();
    assert_eq!(cluster.ssh(&id, &["--", "echo in"]).ok(), "in\n");
    wait::until_true("the first session is over", SOON, || (tunnels(&cluster) == 1, tunnels(&cluster).to_string()));
    let (threads, open) = (tunnels(&cluster), descriptors(cluster.pid("host")).len());
    for weather in [Weather::Cut, Weather::Reset] {
        let mark = mark();
        let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&cluster, &proxy, &id, &mark)).collect();
        // Each has two threads and two descriptors.
        assert!(tunnels(&cluster) >= threads + 2 * SESSIONS, "{} threads", tunnels(&cluster));
        network.set(weather);
        for session in sessions {
            assert_eq!(session.ended(), 255, "as ssh ends where its line broke ({weather:?})");
        }
        wait::until(&format!("the Host is as before ({weather:?})"), SOON, || {
            let now = (tunnels(&cluster), descriptors(cluster.pid("host")).len());
            // The node's own connections come and go.
            if now.0 == threads && now.1 <= open + 2 { Ok(()) } else { Err(format!("{now:?} after {threads}, {open}")) }
        });
        network.set(Weather::Clear);
        await_gone("the sessions end in the VPS too", &mark);
    }
    // The Host is never told, as where a user's machine sleeps: others are served all the while, and it costs that tunnel alone.
    let stays = Session::open(&cluster, &proxy, &id, &mark());
    network.set(Weather::PeerGone);
    assert_eq!(stays.ended(), 255);
    assert_eq!(cluster.ssh(&id, &["--", "echo in"]).ok(), "in\n");
    wait::until("one tunnel is left", SOON, || {
        let now = tunnels(&cluster);
        if now == threads + 2 { Ok(()) } else { Err(now.to_string()) }
    });
    cluster.kill_vps(&id);
    drop(network);
    wait::until("none is left", SOON, || {
        let now = (tunnels(&cluster), descriptors(cluster.pid("host")).len());
        if now.0 == threads && now.1 <= open + 2 { Ok(()) } else { Err(format!("{now:?} after {threads}, {open}")) }
    });
}
