//! A VPS from submit to its SSH banner, and from kill to nothing, against the same container by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::env::{Cluster, Settings, first_id};
use crate::figure::{Figure, closely, seconds};
use crate::http;
use crate::program::docker;

const RUNS: usize = 7;

pub fn measure() -> Vec<Figure> {
    let cluster = Cluster::host_and_runner(Settings::default());
    // The first one pays for what is kept afterwards: image looked up, binary copied.
    let warm_up = cluster.submit(&[]);
    cluster.kill_vps(&warm_up);
    let (mut start, mut by_hand, mut end, mut stop) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let mut id = String::new();
        start.push(seconds(|| id = submit_to_banner(&cluster)));
        let ours = cluster.container(&id);
        let (args, port) = same_by_hand(&ours);
        let mut hand = String::new();
        by_hand.push(seconds(|| {
            hand = docker(&args.iter().map(String::as_str).collect::<Vec<_>>());
            await_banner(port);
        }));
        stop.push(seconds(|| {
            docker(&["stop", &hand]);
            docker(&["rm", &hand]);
            await_gone(&hand);
        }));
        end.push(seconds(|| {
            assert_eq!(cluster.post(&format!("/kill/{id}"), "{}").status, 202);
            await_gone(&ours);
        }));
        cluster.await_status(&id, "killed");
    }
    vec![
        Figure::new("VPS: submit to SSH banner", "s", &start)
            .against("docker run by hand", &by_hand)
            .ratio_at_most(1.15),
        Figure::new("VPS: kill to container gone", "s", &end).against("docker stop and rm by hand", &stop).at_most(1.0),
    ]
}

/// The client's command, then the port from the Host, then the banner itself.
fn submit_to_banner(cluster: &Cluster) -> String {
    let public = cluster.dir.join("key.pub");
    let public = public.to_str().expect("our own path");
    let id = first_id(&cluster.cli(&["vps", "submit", "--no-wait", "--public-key-file", public]).ok());
    let port = closely("running", || cluster.status(&id).ssh_port);
    await_banner(port);
    id
}

/// `docker run` with what our own container was made with, on another port. It shares our container's box.
fn same_by_hand(ours: &str) -> (Vec<String>, u16) {
    let lines = |format: &str| docker(&["inspect", "-f", format, ours]).lines().map(str::to_owned).collect::<Vec<_>>();
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let mut args: Vec<String> =
        ["run", "-d", "--restart", "no", "--label", "hakuriver.bench=1"].map(str::to_owned).into();
    args.extend(["-p".to_owned(), format!("127.0.0.1:{port}:22")]);
    // So that the cluster's end removes it too, should this program fail.
    let cluster_id = docker(&["inspect", "-f", "{{index .Config.Labels \"hakuriver.cluster\"}}", ours]);
    args.extend(["--label".to_owned(), format!("hakuriver.cluster={cluster_id}")]);
    for bind in lines("{{range .HostConfig.Binds}}{{println .}}{{end}}").into_iter().filter(|line| !line.is_empty()) {
        args.extend(["-v".to_owned(), bind]);
    }
    let mounts = "{{range .HostConfig.Mounts}}{{println .Type .Source .Target .ReadOnly}}{{end}}";
    for mount in lines(mounts).into_iter().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = mount.split(' ').collect();
        let mut text = format!("type={},source={},target={}", words[0], words[1], words[2]);
        if words[3] == "true" {
            text.push_str(",readonly");
        }
        args.extend(["--mount".to_owned(), text]);
    }
    let shares = docker(&["inspect", "-f", "{{.HostConfig.CpuShares}}", ours]);
    if shares != "0" {
        args.extend(["--cpu-shares".to_owned(), shares]);
    }
    let entry = docker(&["inspect", "-f", "{{index .Config.Entrypoint 0}}", ours]);
    args.extend(["--entrypoint".to_owned(), entry]);
    args.push(docker(&["inspect", "-f", "{{.Image}}", ours]));
    args.extend(lines("{{range .Config.Cmd}}{{println .}}{{end}}").into_iter().filter(|line| !line.is_empty()));
    (args, port)
}

fn await_banner(port: u16) {
    closely("an SSH banner", || {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut start = [0; 4];
        socket.read_exact(&mut start).ok()?;
        (&start == b"SSH-").then_some(())
    });
}

/// Asks Docker's socket: a call of the program would cost more than the interval.
fn await_gone(container: &str) {
    closely("the container is gone", || {
        let mut socket = UnixStream::connect("/var/run/docker.sock").expect("the daemon's own socket");
        let request = format!("GET /containers/{container}/json HTTP/1.1\r\nHost: docker\r\n\r\n");
        socket.write_all(request.as_bytes()).expect("the daemon listens");
        (http::read_reply(&mut socket).expect("an answer").status == 404).then_some(())
    });
}
