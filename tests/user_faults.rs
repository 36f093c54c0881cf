//! Between a user and the Host calls are lost, late and torn: what was asked for is done once, and the user is told what is known.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hakuriver::api::public::VpsRow;
use nanoserde::DeJson;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::invariants::Witness;
use crate::network::{Network, Weather};
use crate::program::{self, Output};
use crate::tasks::{Latches, ids, seen};
use crate::wait;

/// A call of the client has 30 s; its start and its end on a busy machine some more.
const CALL: Duration = Duration::from_secs(40);

/// A user's own line to the Host.
struct User {
    network: Network,
    config: PathBuf,
}

impl User {
    fn of(cluster: &Cluster, name: &str) -> Self {
        let network = Network::to(cluster.api);
        let text = fs::read_to_string(cluster.config("config")).unwrap();
        let config = cluster.dir.join(format!("{name}.toml"));
        let text = text.replace(&format!("host_port = {}\n", cluster.api), &format!("host_port = {}\n", network.port));
        let token = format!("[auth]\ntoken_file = \"{}\"\n", cluster.dir.join("token").display());
        fs::write(&config, text + &token).unwrap();
        Self { network, config }
    }

    fn command(&self, cluster: &Cluster, args: &[&str]) -> Command {
        let mut command = cluster.command(&binary());
        command.arg(args[0]).arg("--config").arg(&self.config).args(&args[1..]);
        command
    }

    #[track_caller]
    fn run(&self, cluster: &Cluster, args: &[&str]) -> Output {
        program::run(&mut self.command(cluster, args), CALL)
    }

    /// Starts it with its output kept.
    fn start(&self, cluster: &Cluster, args: &[&str]) -> Child {
        let mut command = self.command(cluster, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.network.port)
    }
}

/// A Host, and a node without environments.
fn cluster() -> Cluster {
    Cluster::up_with(Settings { no_environment: true, timeout_factor: 20, ..Settings::default() })
}

/// What it printed, once it has ended with that status.
#[track_caller]
fn ends(mut child: Child, status: i32) -> String {
    let ended = wait::until("the command ends", CALL, || child.try_wait().unwrap().ok_or_else(|| "running".to_owned()));
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(ended.code(), Some(status), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_user_behind_a_bad_network_is_told_what_is_the_matter() {
    let cluster = &cluster();
    let user = User::of(cluster, "user");
    user.run(cluster, &["client", "nodes"]).ok();
    for weather in [Weather::Cut, Weather::Reset, Weather::Torn(30), Weather::Torn(200)] {
        user.network.set(weather);
        user.run(cluster, &["client", "nodes"]).fails(3, &[&user.address()]);
    }
    user.network.set(Weather::Clear);

    // One who waits goes on waiting, and has the task's own end.
    let latches = Latches::new(cluster);
    let script = format!("{}; exit 6", latches.wait("go"));
    let waiting = user.start(cluster, &["task", "submit", "--wait", "--container", "NULL", "--", "sh", "-c", &script]);
    let id = wait::until("it is submitted, and runs", SOON, || {
        let rows = cluster.task_rows("");
        match rows.iter().find(|row| row.status == "running") {
            Some(row) => Ok(row.task_id.clone()),
            None => Err(format!("{rows:?}")),
        }
    });
    cluster.remember(std::slice::from_ref(&id));
    for weather in [Weather::Reset, Weather::Cut] {
        user.network.set(weather);
        thread::sleep(Duration::from_millis(700));
        user.network.set(Weather::Clear);
    }
    latches.open("go");
    // Of a task that failed.
    ends(waiting, 1);
    assert_eq!(cluster.status(&id).exit_code, Some(6));
}

#[test]
fn a_user_who_gets_no_answer_is_told_within_the_call_s_time_what_to_do() {
    let cluster = &cluster();
    // Each on a line of its own, and all at once: each takes its whole time.
    thread::scope(|scope| {
        for (name, weather) in [("silent", Weather::Silent), ("mute", Weather::Mute), ("deaf", Weather::Deaf)] {
            scope.spawn(move || {
                let user = User::of(cluster, name);
                user.network.set(weather);
                let begin = Instant::now();
                let result = user.run(cluster, &["client", "nodes"]);
                result.fails(3, &[&user.address(), "did not answer", "try again"]);
                assert!(begin.elapsed() > Duration::from_secs(25), "a slow Host has its time: {result}");
                assert_eq!(result.out(), "", "{weather:?}");
            });
        }
        scope.spawn(|| {
            let user = User::of(cluster, "slow");
            user.network.set(Weather::Slow(Duration::from_millis(600)));
            assert!(user.run(cluster, &["client", "nodes"]).ok().contains(&cluster.node("a")));
            let line = ["task", "submit", "--wait", "--container", "NULL", "--", "sh", "-c", "exit 6"];
            let result = user.run(cluster, &line);
            assert_eq!(result.status, 1, "a task that failed: {result}");
            cluster.remember(&ids(&result.out()));
        });
    });
}

#[test]
fn what_was_submitted_over_a_torn_line_is_there_once() {
    let cluster = &Cluster::up_with(Settings { timeout_factor: 20, ..Settings::default() });
    let user = User::of(cluster, "user");
    let witness = Witness::of(cluster);
    let starts = cluster.dir.join("starts");
    let script = format!("echo $$ >>{}; exit 6", starts.display());
    let key = cluster.dir.join("key.pub");
    let command = ["task", "submit", "--container", "NULL", "--", "sh", "-c", &script];
    let vps = ["vps", "submit", "--no-wait", "--public-key-file", key.to_str().unwrap()];
    let rows = |list: &str| match list {
        "/vps" => {
            Vec::<VpsRow>::deserialize_json(&cluster.get(list)).unwrap().into_iter().map(|row| row.task_id).collect()
        }
        _ => cluster.task_rows("").into_iter().map(|row| row.task_id).collect::<Vec<String>>(),
    };
    let mut all = Vec::new();
    for (args, list) in [(command.as_slice(), "/tasks"), (vps.as_slice(), "/vps")] {
        user.network.set(Weather::Deaf);
        let child = user.start(cluster, args);
        let id = wait::until("the Host has taken it", SOON, || rows(list).pop().ok_or_else(String::new));
        // A task has no answer yet; each repetition from now on is torn off.
        let before = user.network.connections();
        user.network.set(Weather::Torn(0));
        wait::until("it is sent again, twice", SOON, || {
            let now = user.network.connections();
            if now >= before + 2 { Ok(()) } else { Err(format!("{now} connections, {before} before")) }
        });
        user.network.set(Weather::Clear);
        assert_eq!(ends(child, 0), format!("{id}\n"), "its id, as of any submission");
        cluster.remember(std::slice::from_ref(&id));
        witness.acknowledged([&id]);
        all.push(id);
    }
    let [task, vps] = all.try_into().unwrap();
    witness.expect(&task, 6, Some(starts.clone()));
    let record = cluster.await_status(&task, "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(6), 1), "{}", seen(&record));
    cluster.await_status(&vps, "running");
    assert_eq!(cluster.container(&vps).len(), 64, "one container");
    assert_eq!(fs::read_to_string(starts).unwrap().lines().count(), 1);
    assert_eq!((rows("/tasks"), rows("/vps")), (vec![task], vec![vps.clone()]));
    cluster.kill_vps(&vps);
    witness.settles(cluster, SOON);
}

#[test]
fn a_kill_whose_answer_is_lost_is_carried_out_and_the_user_told_how_to_find_out() {
    let cluster = &cluster();
    let user = User::of(cluster, "user");
    let witness = Witness::of(cluster);
    let [first, second] = [(); 2].map(|()| cluster.null_task(&["--cores", "0"], &["sleep", "600"]));
    witness.acknowledged([&first, &second]);
    for id in [&first, &second] {
        cluster.await_status(id, "running");
    }
    // Not even the question which task that is was answered.
    user.network.set(Weather::Deaf);
    let child = user.start(cluster, &["task", "kill", &first]);
    let before = user.network.connections();
    wait::until("it asks", SOON, || if user.network.connections() > before { Ok(()) } else { Err(String::new()) });
    user.network.set(Weather::Torn(0));
    ends(child, 3);
    assert_eq!(cluster.status(&first).status, "running");
    // It was carried out.
    user.network.set(Weather::Unanswered);
    let result = user.run(cluster, &["task", "kill", &second]);
    result.fails(3, &["did not answer", "not known", &format!("client status {second}")]);
    witness.killed(&second);
    cluster.await_status(&second, "killed");
    user.network.set(Weather::Clear);
    user.run(cluster, &["task", "kill", &second]).fails(1, &["killed"]);
    user.run(cluster, &["task", "kill", &first]).ok();
    witness.killed(&first);
    cluster.await_status(&first, "killed");
    witness.settles(cluster, SOON);
}
