//! Between a node and its Host, and between a user and the Host, calls are lost, late, torn and repeated: the end is the same.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::env::{Cluster, SOON, Settings, binary};
use crate::invariants::Witness;
use crate::network::{Network, Weather};
use crate::program;
use crate::tasks::{Latches, seen};
use crate::wait;

/// A Host, and node `a` behind a network; the fields' order is that of their end.
struct Behind {
    cluster: Cluster,
    network: Network,
}

impl Behind {
    fn new(timeout_factor: u32) -> Self {
        let settings = Settings { no_environment: true, timeout_factor, ..Settings::default() };
        let mut cluster = Cluster::new(settings);
        cluster.start_host();
        let network = Network::to(cluster.api);
        let mut behind = Self { cluster, network };
        behind.start_runner();
        behind.cluster.await_node("a", "online");
        behind
    }

    fn start_runner(&mut self) {
        let config = config_through(&self.cluster, self.network.port);
        self.cluster.spawn("runner-a", &["runner", "--config", &config]);
    }
}

/// The file of the Runner `a`, which finds its Host at another port.
fn config_through(cluster: &Cluster, port: u16) -> String {
    cluster.write_runner_config("a");
    let path = cluster.config("a");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&format!("host_port = {}\n", cluster.api), &format!("host_port = {port}\n")))
        .unwrap();
    path
}

#[test]
fn whatever_the_network_does_to_calls_the_end_is_the_same() {
    let behind = Behind::new(20);
    let cluster = &behind.cluster;
    let witness = Witness::of(cluster);
    let latches = Latches::new(cluster);
    let weathers = [
        Weather::Slow(Duration::from_millis(150)),
        Weather::Silent,
        Weather::Cut,
        Weather::Reset,
        Weather::Mute,
        Weather::Deaf,
        Weather::Torn(0),
        Weather::Torn(100),
        Weather::Torn(700),
    ];
    for (at, weather) in weathers.into_iter().enumerate() {
        // One that runs before, and ends in the middle; one that comes in the middle; one that is killed in the middle.
        let script = |name: String, code: i64| {
            let starts = latches.dir.join(format!("starts-{name}"));
            let text = format!("echo $$ >>{}; {}; echo {name}; exit {code}", starts.display(), latches.wait(&name));
            let id = cluster.script(&["--cores", "0"], &text);
            witness.acknowledged([&id]);
            witness.expect(&id, code, Some(starts));
            id
        };
        let (early, doomed) = (script(format!("early-{at}"), 3), script(format!("doomed-{at}"), 0));
        cluster.await_status(&early, "running");
        cluster.await_status(&doomed, "running");
        let before = behind.network.connections();
        behind.network.set(weather);
        latches.open(&format!("early-{at}"));
        let late = script(format!("late-{at}"), 4);
        cluster.cli(&["task", "kill", &doomed]).ok();
        witness.killed(&doomed);
        // Long enough for several calls, also for those that are tried again.
        thread::sleep(Duration::from_millis(2500));
        witness.check();
        behind.network.set(Weather::Clear);
        latches.open(&format!("late-{at}"));
        for (id, code) in [(&early, 3), (&late, 4)] {
            let record = cluster.await_status(id, "failed");
            assert_eq!((record.exit_code, record.attempt), (Some(code), 1), "{weather:?}: {}", seen(&record));
        }
        cluster.await_status(&doomed, "killed");
        for (name, id) in [("early", &early), ("late", &late)] {
            wait::until(&format!("its output is whole after {weather:?}"), SOON, || {
                let text = cluster.stdout(id);
                if text == format!("{name}-{at}\n") { Ok(()) } else { Err(text) }
            });
        }
        let is_broken = !matches!(weather, Weather::Slow(_) | Weather::Silent);
        assert!(!is_broken || behind.network.connections() > before, "{weather:?} has cost no connection");
    }
    witness.settles(cluster, SOON);
}

#[test]
fn a_silence_beyond_the_time_out_loses_tasks_and_gives_them_back() {
    for weather in [Weather::Silent, Weather::Cut, Weather::Mute, Weather::Deaf] {
        let behind = Behind::new(3);
        let cluster = &behind.cluster;
        let witness = Witness::of(cluster);
        let latches = Latches::new(cluster);
        let script = |at: i32| format!("echo $$; {}; exit {at}", latches.wait(&at.to_string()));
        let ids = cluster.scripts(1, None, &[script(3), script(4)]);
        witness.acknowledged(&ids);
        ids.iter().for_each(|id| drop(cluster.await_status(id, "running")));
        behind.network.set(weather);
        // Also where only answers vanish: the Runner waits for one before it calls again.
        cluster.await_node("a", "offline");
        for id in &ids {
            cluster.await_status(id, "lost");
        }
        assert_eq!(cluster.nodes()[0].cores_in_use, 2, "what is lost holds what it held");
        latches.open("3");
        witness.check();
        behind.network.set(Weather::Clear);
        cluster.await_node("a", "online");
        let record = cluster.await_status(&ids[0], "failed");
        assert_eq!((record.exit_code, record.attempt), (Some(3), 1), "{weather:?}: {}", seen(&record));
        cluster.await_status(&ids[1], "running");
        latches.open("4");
        assert_eq!(cluster.await_status(&ids[1], "failed").exit_code, Some(4));
        witness.settles(cluster, SOON);
    }
}

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

/// A network namespace with a line to the machine's own, for as long as this lives.
struct Namespace {
    name: String,
    /// The machine's end of the line.
    link: String,
    third: u32,
}

impl Namespace {
    fn new(cluster: &Cluster) -> Self {
        let number: u32 = cluster.tag.rsplit('-').next().unwrap().parse().unwrap();
        let short = format!("{}x{number}", std::process::id() % 100_000);
        let space = Self {
            name: format!("hrt{short}"),
            link: format!("hrl{short}"),
            third: (std::process::id() + number) % 250,
        };
        let Self { name, link, third } = &space;
        let far = format!("hrf{short}");
        ip(&["netns", "add", name]);
        ip(&["link", "add", link, "type", "veth", "peer", "name", &far]);
        ip(&["link", "set", &far, "netns", name]);
        ip(&["address", "add", &format!("10.214.{third}.1/30"), "dev", link]);
        ip(&["link", "set", link, "up"]);
        ip(&["-n", name, "address", "add", &format!("10.214.{third}.2/30"), "dev", &far]);
        ip(&["-n", name, "link", "set", &far, "up"]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        space
    }

    fn host(&self) -> String {
        format!("10.214.{}.1", self.third)
    }

    /// Nothing comes through, and nobody is told.
    fn line(&self, state: &str) {
        ip(&["link", "set", &self.link, state]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for args in [["link", "delete", &self.link], ["netns", "delete", &self.name]] {
            let _ = Command::new("ip").args(args).output();
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    program::run(Command::new("ip").args(args), SOON).ok();
}

/// The Runner in a network of its own, and the line between it and the Host down: shorter than the time-out, and longer.
#[test]
fn a_true_partition_costs_nothing() {
    let mut cluster = Cluster::new(Settings { no_environment: true, timeout_factor: 6, ..Settings::default() });
    let space = Namespace::new(&cluster);
    let path = cluster.config("config");
    let text = fs::read_to_string(&path).unwrap();
    let listen = "[network]\nhost_bind_ip = \"0.0.0.0\"\nhost_reachable_address = \"127.0.0.1\"\n";
    fs::write(&path, text.replace("[network]\n", listen)).unwrap();
    cluster.start_host();
    cluster.write_runner_config("a");
    let config = cluster.config("a");
    let text = fs::read_to_string(&config).unwrap();
    let host = format!("[network]\nhost_reachable_address = \"{}\"\n", space.host());
    fs::write(&config, text.replace("[network]\n", &host)).unwrap();
    let binary = binary();
    cluster.spawn_program(
        "runner-a",
        std::path::Path::new("ip"),
        &["netns", "exec", &space.name, binary.to_str().unwrap(), "runner", "--config", &config],
    );
    cluster.await_node("a", "online");
    let witness = Witness::of(&cluster);
    let latches = Latches::new(&cluster);
    let script = |at: i32| format!("echo $$; {}; exit {at}", latches.wait(&at.to_string()));
    let ids = cluster.scripts(0, None, &[script(3), script(4), script(5)]);
    witness.acknowledged(&ids);
    ids.iter().for_each(|id| drop(cluster.await_status(id, "running")));

    // Shorter: nobody notices.
    space.line("down");
    latches.open("3");
    wait::holds_for("it stays online", Duration::from_secs(3), || {
        let status = cluster.nodes()[0].status.clone();
        if status == "online" { Ok(()) } else { Err(status) }
    });
    space.line("up");
    assert_eq!(cluster.await_status(&ids[0], "failed").exit_code, Some(3));

    // Longer, with an end and a kill on the two sides of it.
    space.line("down");
    cluster.await_node("a", "offline");
    cluster.await_status(&ids[1], "lost");
    latches.open("4");
    cluster.cli(&["task", "kill", &ids[2]]).ok();
    witness.killed(&ids[2]);
    witness.check();
    space.line("up");
    cluster.await_node("a", "online");
    let record = cluster.await_status(&ids[1], "failed");
    assert_eq!((record.exit_code, record.attempt), (Some(4), 1), "{}", seen(&record));
    cluster.await_status(&ids[2], "killed");
    witness.settles(&cluster, SOON);
    cluster.stop("runner-a");
}
