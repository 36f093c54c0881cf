//! Between a user and the Host calls are lost, late and torn: what was asked for is done once, and the user is told what is known.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::behind::Behind;
use crate::env::{SOON, binary};
use crate::network::{Network, Weather};
use crate::program;
use crate::tasks::{Latches, seen};
use crate::wait;

#[test]
fn a_user_behind_a_bad_network_is_told_what_is_the_matter() {
    let behind = Behind::new(20);
    let cluster = &behind.cluster;
    let network = Network::to(cluster.api);
    let text = fs::read_to_string(cluster.config("config")).unwrap();
    let file = cluster.dir.join("user.toml");
    let text = text.replace(&format!("host_port = {}\n", cluster.api), &format!("host_port = {}\n", network.port));
    let token = format!("[auth]\ntoken_file = \"{}\"\n", cluster.dir.join("token").display());
    fs::write(&file, text + &token).unwrap();
    let command = |args: &[&str]| {
        let mut command = cluster.command(&binary());
        command.arg(args[0]).arg("--config").arg(&file).args(&args[1..]);
        command
    };
    let run = |args: &[&str]| program::run(&mut command(args), Duration::from_secs(60));
    run(&["client", "nodes"]).ok();
    for weather in [Weather::Cut, Weather::Reset, Weather::Torn(30), Weather::Torn(200)] {
        network.set(weather);
        run(&["client", "nodes"]).fails(3, &[&format!("127.0.0.1:{}", network.port)]);
    }
    network.set(Weather::Clear);

    // One who waits goes on waiting, and has the task's own end.
    let latches = Latches::new(cluster);
    let script = format!("{}; exit 6", latches.wait("go"));
    let mut waiting = command(&["task", "submit", "--wait", "--container", "NULL", "--", "sh", "-c", &script]);
    let mut child = waiting.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let id = wait::until("it is submitted, and runs", SOON, || {
        let rows = cluster.task_rows("");
        match rows.iter().find(|row| row.status == "running") {
            Some(row) => Ok(row.task_id.clone()),
            None => Err(format!("{rows:?}")),
        }
    });
    cluster.remember(std::slice::from_ref(&id));
    for weather in [Weather::Reset, Weather::Cut] {
        network.set(weather);
        thread::sleep(Duration::from_millis(700));
        network.set(Weather::Clear);
    }
    latches.open("go");
    let status = wait::until("it ends with the task", SOON, || {
        child.try_wait().unwrap().ok_or_else(|| format!("waiting; the task: {}", seen(&cluster.status(&id))))
    });
    assert_eq!(status.code(), Some(1), "a task that failed");
    assert_eq!(cluster.status(&id).exit_code, Some(6));
}
