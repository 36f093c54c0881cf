//! Shells through a real terminal: in a container on the Host, and in tasks on their nodes.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hakuriver::api::terminal::{FromShell, ToShell};
use hakuriver::net::websocket::{Incoming, Socket, connect};
use hakuriver::sys::ready;
use nix::sys::signal::Signal;

use crate::env::{self, Cluster, SOON, Settings};
use crate::http;
use crate::program::docker;
use crate::tty::Tty;
use crate::wait;

/// A container in which an environment is made, on this machine; removed with it.
struct Environment {
    name: String,
}

impl Environment {
    fn new(cluster: &Cluster) -> Self {
        Self::of(cluster, "hakuriver-test/sshd:1", &["sleep", "1000000"])
    }

    fn of(cluster: &Cluster, image: &str, command: &[&str]) -> Self {
        let name = format!("{}-shell", cluster.tag);
        let (env, of) = (format!("hakuriver.env={name}"), cluster.cluster_id().unwrap());
        let of = format!("hakuriver.cluster={of}");
        let mut args =
            vec!["run", "-d", "--name", &name, "--label", &env, "--label", &of, "--stop-timeout", "0", image];
        args.extend(command);
        docker(&args);
        Self { name }
    }

    fn path(&self) -> String {
        format!("/docker/host/containers/{}/terminal", self.name)
    }

    fn open(&self, cluster: &Cluster) -> Tty {
        let tty = Tty::start(cluster.cli_command(&["docker-shell", &self.name]));
        tty.await_raw();
        // It frames every prompt, which is of no account here.
        tty.line("bind 'set enable-bracketed-paste off'");
        tty.ready();
        tty
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // May run while a failed test unwinds: no assertions.
        let _ = Command::new("docker").args(["rm", "-f", "-v", &self.name]).stdout(Stdio::null()).status();
    }
}

/// A cluster of a Host alone.
fn host_alone() -> Cluster {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    cluster
}

/// Waits until nothing but the container's own first program (and what it has started) runs in it.
#[track_caller]
fn await_no_shell(container: &str) {
    wait::until("no shell is left in the container", SOON, || {
        let all = docker(&["top", container, "-eo", "pid,args"]);
        let shells: Vec<&str> =
            all.lines().filter(|line| line.contains("bash") || line.contains("sleep 4711")).collect();
        if shells.is_empty() { Ok(()) } else { Err(shells.join("; ")) }
    });
}

#[test]
fn a_shell_has_a_terminal_with_size_keys_and_an_exit_status() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let mut tty = environment.open(&cluster);
    // Docker tells a command its size only when that has begun: for a moment it has none.
    let await_size = |tty: &mut Tty, size: &str| {
        wait::until("the size is there", SOON, || {
            tty.line("stty size; echo do''ne");
            let said = tty.expect("done\r\n");
            if said.contains(&format!("{size}\r\n")) { Ok(()) } else { Err(said) }
        });
    };
    await_size(&mut tty, "30 100");
    tty.resize(44, 133);
    await_size(&mut tty, "44 133");
    tty.line("tty; sleep 4711; echo \"status $?\"");
    tty.expect("/dev/pts/");
    wait::until_true("sleep runs", SOON, || {
        let all = docker(&["top", &environment.name, "-eo", "pid,args"]);
        (all.contains("sleep 4711"), all)
    });
    tty.type_in("\x03");
    tty.ready();
    // Ctrl-P is the key before, at once: Docker's own detach keys would keep it back.
    tty.line("echo fir''st");
    tty.expect("first\r\n");
    tty.type_in("\x10");
    tty.expect("echo fir''st");
    tty.type_in("\r");
    tty.expect("first\r\n");
    // A program that owns the whole screen, and wants single keys.
    tty.line("top -d 1");
    tty.expect("load average");
    tty.expect("PID");
    tty.type_in("q");
    // It shows the cursor again, and drops what was typed before that.
    tty.expect("\x1b[?25h");
    tty.ready();
    tty.line("exit 7");
    assert_eq!(tty.end(), 7);
    await_no_shell(&environment.name);
}

#[test]
fn characters_arrive_whole_however_they_are_cut() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let mut tty = environment.open(&cluster);
    // Three bytes each, so that no buffer ends between two of them by chance.
    tty.line("for n in $(seq 20000); do printf '€'; done; echo; echo en''d");
    tty.expect("\r\n");
    let shown = tty.expect("\r\nend\r\n");
    // The command line before it was broken where the window ends.
    let expected = format!("\n{}", "€".repeat(20_000));
    assert!(shown.ends_with(&expected), "{} bytes, of these {:?}", shown.len(), shown.replace('€', ""));
    // Half a character is shown when nothing follows; and bytes that are no text stay what they are.
    tty.line("printf '\\xe2\\x82'; read -s; printf '\\xac\\xff\\n'; echo en''d");
    tty.expect("\r\n");
    wait::until("half a character is shown", SOON, || {
        let bytes = tty.shown_raw();
        if bytes == b"\xe2\x82" { Ok(()) } else { Err(format!("{bytes:?}")) }
    });
    tty.type_in("\r");
    wait::until_true("its rest is shown", SOON, || (tty.shown().contains("end\r\n"), tty.shown()));
    assert!(tty.shown_raw().starts_with(b"\xe2\x82\xac\xff\r\nend"), "{:?}", tty.shown_raw());
    tty.expect("end\r\n");
    // Keys too: half of a character alone, and a byte that is none.
    for (keys, count, shown) in [(&b"\xe2\x82"[..], 2, "e2 82"), (b"\xe2\x82\xac\xff", 4, "e2 82 ac ff")] {
        tty.line(&format!("stty -echo -icanon; echo wai''ts; head -c {count} | od -An -tx1; stty sane; echo en''d"));
        tty.expect("waits\r\n");
        tty.type_in(keys);
        let said = tty.expect("end\r\n");
        assert!(said.contains(shown), "{said}");
    }
    tty.line("exit");
    assert_eq!(tty.end(), 0);
}

#[test]
fn a_megabyte_that_is_pasted_arrives_whole() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let mut tty = environment.open(&cluster);
    let lines: String =
        (0..16_000).map(|n| format!("{n:08} the quick brown fox jumps over the lazy dog 0123456789\n")).collect();
    assert!(lines.len() > 1_000_000);
    tty.line("cat > /tmp/pasted; echo ta''ken");
    tty.expect("\r\n");
    tty.type_in(&lines);
    tty.type_in("\x04");
    tty.expect_within("taken\r\n", Duration::from_secs(120));
    docker(&["exec", &environment.name, "sh", "-c", "cp /tmp/pasted /tmp/copy"]);
    let arrived = docker(&["exec", &environment.name, "cat", "/tmp/copy"]);
    assert!(arrived == lines.trim_end(), "{} bytes of {}", arrived.len(), lines.len());
    tty.line("exit");
    assert_eq!(tty.end(), 0);
}

#[test]
fn what_the_user_does_not_look_at_piles_up_nowhere_and_keys_get_through() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let mut tty = Tty::start(cluster.cli_command(&["vps", "shell", &id]));
    tty.await_raw();
    tty.ready();
    // Nothing but beginnings of characters, so that one is always held back for its rest.
    tty.line("tr '\\0' '\\342' </dev/zero");
    wait::until_true("it floods", SOON, || (tty.shown_bytes() > 1 << 20, format!("{} bytes", tty.shown_bytes())));
    tty.look_away(true);
    let client = tty.pid();
    let memory = |cluster: &Cluster| cluster.rss("host") + cluster.rss("runner-a") + env::rss(client);
    let before = memory(&cluster);
    let processes = [cluster.pid("host"), cluster.pid("runner-a"), client];
    let worked = processes.map(ticks);
    wait::holds_for("memory stays", Duration::from_secs(4), || {
        let now = memory(&cluster);
        if now < before + (8 << 20) { Ok(()) } else { Err(format!("{now} bytes, before {before}")) }
    });
    // What cannot go on waits, and does not try again and again. (100 ticks are a second.)
    let worked: Vec<u64> = processes.iter().zip(worked).map(|(pid, before)| ticks(*pid) - before).collect();
    assert!(worked.iter().all(|ticks| *ticks < 100), "in 4 s: {worked:?}");
    // A key that is pressed meanwhile is not behind what is to be shown.
    tty.type_in("\x03");
    let container = cluster.container(&id);
    wait::until("the flood has ended", SOON, || {
        let all = docker(&["top", &container, "-eo", "pid,args"]);
        if all.contains("tr ") { Err(all) } else { Ok(()) }
    });
    tty.look_away(false);
    tty.ready();
    tty.line("exit 3");
    assert_eq!(tty.end(), 3);
    cluster.kill_vps(&id);
    cluster.stop("runner-a");
    cluster.stop("host");
}

#[test]
fn what_was_said_last_is_seen_by_who_looks_later() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let mut tty = environment.open(&cluster);
    tty.look_away(true);
    // More than the terminal holds, and no more than waits for it beside.
    tty.line("seq 14000; exit 5");
    await_no_shell(&environment.name);
    wait::holds_for("the client waits for who looks away", Duration::from_millis(1_500), || tty.runs());
    tty.look_away(false);
    tty.expect("\r\n13999\r\n14000\r\n");
    assert_eq!(tty.end(), 5);
}

/// The time that a process has worked, in ticks of the clock.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn tasks_are_entered_on_their_nodes_which_listen_on_nothing() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let vps = cluster.submit(&["--name", "my-vps"]);
    let task = cluster.task(&["--env", "A=b"], &["sleep", "1000"]);
    cluster.await_status(&task, "running");
    for (command, id, expected) in
        [(["vps", "shell"], "my-vps", format!("vps-{vps}")), (["task", "shell"], &task, "sleep".into())]
    {
        let mut tty = Tty::start(cluster.cli_command(&[command[0], command[1], id]));
        tty.await_raw();
        tty.ready();
        tty.line("hostname; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; stty size");
        let said = tty.expect("30 100\r\n");
        assert!(said.contains(&expected), "{expected}: {said}");
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/tcp", cluster.pid("runner-a"))).unwrap();
        assert!(!listens(cluster.pid("runner-a"), &sockets), "the Runner listens");
        tty.type_in("\x04");
        assert_eq!(tty.end(), 0);
    }
    for container in [cluster.container(&vps), cluster.container(&task)] {
        await_no_shell(&container);
    }
    // What has no container, is of the other kind, paused or unknown.
    let plain = cluster.null_task(&[], &["sleep", "1000"]);
    cluster.await_status(&plain, "running");
    cluster.cli(&["vps", "command", &vps, "pause"]).ok();
    cluster.await_status(&vps, "paused");
    for (words, says) in [
        (["task", "shell", &plain], "it runs straight on its node, in no container"),
        (["vps", "shell", &task], "hakuriver task shell"),
        (["task", "shell", &vps], "hakuriver vps shell"),
        (["vps", "shell", &vps], "it is paused; resume it with"),
        (["vps", "shell", "no-such-one"], "not found"),
    ] {
        let mut tty = Tty::start(cluster.cli_command(&words));
        tty.expect("error: ");
        tty.expect(says);
        assert_eq!(tty.end(), 1, "{words:?}");
    }
    cluster.cli(&["vps", "command", &vps, "resume"]).ok();
    cluster.await_status(&vps, "running");
    cluster.kill_vps(&vps);
    for id in [&task, &plain] {
        cluster.cli(&["task", "kill", id]).ok();
        cluster.await_status(id, "killed");
    }
    cluster.stop("runner-a");
}

/// Does a process listen on TCP? `sockets` is the table of its network.
fn listens(pid: u32, sockets: &str) -> bool {
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    sockets.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[3] == "0A" && own.iter().any(|inode| inode == fields[9])
    })
}

#[test]
fn the_terminal_is_put_right_and_the_shell_ended_when_the_client_is_told_to_end() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGKILL] {
        let mut tty = environment.open(&cluster);
        // As an editor does: the second screen, the cursor hidden. And a program that waits for keys.
        tty.line("printf '\\e[?1049h\\e[?25l'; sleep 4711; echo never");
        tty.expect("\x1b[?1049h\x1b[?25l");
        tty.signal(signal);
        if signal == Signal::SIGKILL {
            drop(tty);
        } else {
            assert_eq!(tty.end(), 128 + signal as i32);
            tty.expect("\x1b[?1049l\x1b[?25h");
        }
        await_no_shell(&environment.name);
    }
}

#[test]
fn a_host_that_dies_or_stops_is_told_and_leaves_no_shell() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let container = cluster.container(&id);
    let mut tty = Tty::start(cluster.cli_command(&["vps", "shell", &id]));
    tty.await_raw();
    tty.ready();
    tty.line("sleep 4711");
    let environment = Environment::new(&cluster);
    let mut on_host = environment.open(&cluster);
    on_host.line("sleep 4711");
    cluster.kill9("host");
    for tty in [&mut tty, &mut on_host] {
        assert_eq!(tty.end(), 3);
        tty.expect("error: the connection to the Host at ");
    }
    await_no_shell(&container);
    cluster.start_host();
    // Nobody was there to end this one.
    await_no_shell(&environment.name);
    cluster.await_node("a", "online");
    let mut tty = Tty::start(cluster.cli_command(&["vps", "shell", &id]));
    tty.await_raw();
    tty.ready();
    tty.line("sleep 4711");
    cluster.kill9("runner-a");
    assert_eq!(tty.end(), 1);
    tty.expect("error: the connection to the node is lost: ");
    cluster.start_runner("a");
    await_no_shell(&container);
    // Stopped in good order: the Host, and then the Runner.
    for (process, says) in [("host", "error: the "), ("runner-a", "error: the Host has ended the connection")] {
        let mut tty = Tty::start(cluster.cli_command(&["vps", "shell", &id]));
        tty.await_raw();
        tty.ready();
        let mut on_host = environment.open(&cluster);
        let begin = Instant::now();
        cluster.stop(process);
        assert!(begin.elapsed() < Duration::from_secs(10), "{process} took {:?} to stop", begin.elapsed());
        assert!(matches!(tty.end(), 1 | 3));
        tty.expect(says);
        await_no_shell(&container);
        if process == "host" {
            assert!(matches!(on_host.end(), 1 | 3));
            await_no_shell(&environment.name);
            cluster.start_host();
            cluster.await_node("a", "online");
        }
    }
    // Without its Runner the node opens nothing, and the wait has an end.
    let mut tty = Tty::start(cluster.cli_command(&["vps", "shell", &id]));
    assert_eq!(tty.end(), 1);
    tty.expect(&cluster.node("a"));
    cluster.start_runner("a");
    cluster.kill_vps(&id);
}

#[test]
fn a_user_who_goes_is_missed_while_the_shell_takes_no_input() {
    let cluster = Cluster::up();
    let id = cluster.submit(&[]);
    let environment = Environment::new(&cluster);
    let container = cluster.container(&id);
    let environment = &environment.name;
    for (words, container) in
        [(vec!["vps", "shell", &id], &container), (vec!["docker-shell", environment], environment)]
    {
        let tty = Tty::start(cluster.cli_command(&words));
        tty.await_raw();
        tty.ready();
        tty.line("stty -echo -icanon; sleep 4711");
        wait::until_true("sleep runs", SOON, || {
            let all = docker(&["top", container, "-eo", "pid,args"]);
            (all.contains("sleep 4711"), all)
        });
        thread::scope(|scope| {
            // More than all the buffers on the way hold.
            scope.spawn(|| tty.try_type_in(&vec![b'x'; 64 << 20]));
            tty.await_stuck(Duration::from_millis(1_500));
            tty.signal(Signal::SIGKILL);
            tty.leave();
        });
        await_no_shell(container);
    }
    cluster.kill_vps(&id);
}

#[test]
fn a_client_that_was_stopped_and_goes_on_takes_its_terminal_again() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let mut tty = environment.open(&cluster);
    tty.signal(Signal::SIGSTOP);
    // As a shell does that has its prompt back.
    tty.put_right();
    tty.resize(20, 60);
    tty.signal(Signal::SIGCONT);
    tty.await_raw();
    tty.line("until stty size | grep '20 60'; do sleep 0.05; done; echo en''d");
    tty.expect("end\r\n");
    tty.line("exit 4");
    assert_eq!(tty.end(), 4);
}

#[test]
fn a_client_that_is_stopped_leaves_its_terminal_to_others_and_can_be_ended_there() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let client = cluster.cli_command(&["docker-shell", &environment.name]);
    let words = std::iter::once(client.get_program()).chain(client.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let words = words.join(" ");
    // A shell with jobs, which leaves the terminal as its jobs have left it.
    let mut outer = Command::new("sh");
    outer.arg("-i").env("PS1", "outer> ");
    outer.envs(client.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut tty = Tty::start(outer);
    let is_plain = |tty: &Tty| {
        tty.line("stty -a | tr ' ;' '\\n\\n' | grep -x -e icanon -e -icanon; echo do''ne");
        tty.expect("\r\n");
        let said = tty.expect("done\r\n");
        assert!(said.ends_with("\nicanon\r\n") || said == "icanon\r\n", "{said:?}");
    };
    tty.expect("outer> ");
    tty.line(&words);
    tty.line("bind 'set enable-bracketed-paste off'");
    tty.ready();
    tty.line("printf '\\e[?1049h\\e[?25l'");
    tty.expect("\x1b[?1049h\x1b[?25l");
    let stop = || {
        let of = tty.pid();
        let children = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
        let pid = children.trim().parse().unwrap_or_else(|_| panic!("one child, not {children:?}"));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTSTP).unwrap();
        tty.expect("\x1b[?1049l\x1b[?25h");
        tty.expect("outer> ");
    };
    stop();
    is_plain(&tty);
    tty.line("fg");
    tty.expect("\x1b[?1049h\x1b[?25l");
    tty.line("echo in''side");
    tty.expect("inside\r\n");
    stop();
    // The shell does not hear of its end at once, and tells until then how it was stopped (148, 149).
    let end =
        "kill -TERM %1; kill -CONT %1; s=148; while [ $s -gt 143 ]; do wait %1; s=$?; sleep 0.05; done; echo status $s";
    tty.line(end);
    tty.expect("status 143\r\n");
    is_plain(&tty);
    await_no_shell(&environment.name);
    // Started where it has no terminal to read from.
    tty.line(&format!("{words} &"));
    wait::until("it is stopped", SOON, || {
        tty.line("jobs; echo do''ne");
        let said = tty.expect("done\r\n");
        if said.contains("Stopped") { Ok(()) } else { Err(said) }
    });
    tty.line(end);
    tty.expect("status 143\r\n");
    tty.line("exit");
    assert_eq!(tty.end(), 0);
}

/// A client of the test's own making, as those of 0.3 and the dashboard are.
struct Client(Socket);

impl Client {
    fn open(cluster: &Cluster, path: &str) -> Self {
        let address = format!("127.0.0.1:{}", cluster.api);
        Self(connect(&address, path, Some(&cluster.token()), SOON, 8 << 20).unwrap_or_else(|fault| panic!("{fault}")))
    }

    /// What is said until `end` stands there, or the connection's end with its reason.
    fn until(&mut self, end: &str) -> (String, Option<String>) {
        let (limit, mut said) = (Instant::now() + SOON, String::new());
        loop {
            assert!(Instant::now() < limit, "{end:?} does not come: {said:?}");
            match self.0.receive() {
                Ok(Some(Incoming::Text(text))) => match FromShell::decode(&text).unwrap() {
                    Some(FromShell::Output(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
                    Some(FromShell::Error(text)) => said.push_str(&format!("ERROR {text}")),
                    None => panic!("{text}"),
                },
                Ok(Some(Incoming::Closed(reason))) => return (said, Some(reason)),
                Ok(None) => drop(ready::wait([self.0.wanted(true, false)], Some(limit))),
                Err(fault) => return (said, Some(fault.0)),
            }
            if !end.is_empty() && said.contains(end) {
                return (said, None);
            }
        }
    }
}

#[test]
fn clients_of_0_3_are_understood_and_garbage_ends_only_itself() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    for prefix in ["", "/api"] {
        let mut client = Client::open(&cluster, &format!("{prefix}{}", environment.path()));
        // A line as 0.3 sends it, and no size: then it is that of a terminal that does not tell. (Docker sets it a moment after the
        // shell has begun.)
        let until = |size: &str| format!("until stty size | grep '{size}'; do sleep 0.05; done; echo do''ne\\n");
        client.0.send(format!(r#"{{"type": "input", "data": "{}"}}"#, until("24 80"))).unwrap();
        client.until("done\r\n");
        client.0.send(r#"{"type": "resize", "rows": 11, "cols": 22}"#.to_owned()).unwrap();
        client.0.send(r#"{"type": "dance"}"#.to_owned()).unwrap();
        client.0.send(format!(r#"{{"type": "input", "data": "{}exit 9\n"}}"#, until("11 22"))).unwrap();
        let (said, end) = client.until("");
        assert_eq!(end.as_deref(), Some("exit 9"));
        assert!(said.contains("done"), "{said}");
    }
    for garbage in ["", "no JSON", r#"{"type":5}"#, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["] {
        let mut client = Client::open(&cluster, &environment.path());
        client.0.send(garbage.to_owned()).unwrap();
        let (said, end) = client.until("");
        assert!(said.contains("ERROR what the client sends is not understood") && end.is_some(), "{garbage}: {said}");
    }
    await_no_shell(&environment.name);
    assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
}

#[test]
fn a_size_that_comes_while_docker_begins_is_not_lost() {
    let dir = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let wrapper = dir.dir.join("docker");
    // As Docker's own client does for a moment, this one has its terminal and does not yet listen for another size.
    let script = "#!/bin/sh\n[ \"$2\" = -it ] || exec docker \"$@\"\nsleep 0.7\ntrap 'stty size' WINCH\n\
                  while :; do sleep 0.05; done\n";
    env::write_script(&wrapper, script);
    let settings = Settings { no_environment: true, docker_command: Some(wrapper), ..Settings::default() };
    let mut cluster = Cluster::new(settings);
    cluster.start_host();
    let environment = Environment::new(&cluster);
    let mut client = Client::open(&cluster, &environment.path());
    client.0.send(r#"{"type": "resize", "rows": 11, "cols": 22}"#.to_owned()).unwrap();
    client.until("11 22");
}

#[test]
fn who_may_not_and_what_is_not_there_is_refused_before_anything_is_opened() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    let foreign = format!("{}-foreign", cluster.tag);
    docker(&["run", "-d", "--name", &foreign, "hakuriver-test/sshd:1", "sleep", "1000000"]);
    struct Removed(String);
    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = Command::new("docker").args(["rm", "-f", &self.0]).stdout(Stdio::null()).status();
        }
    }
    let _removed = Removed(foreign.clone());
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let ask = |path: &str, token: Option<&str>, headers: &str| {
        let mut socket = http::connect(cluster.api);
        let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let host = format!("127.0.0.1:{}", cluster.api);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}{headers}\r\n");
        std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
        let reply = http::read_reply(&mut socket).unwrap();
        (reply.status, reply.text())
    };
    let (user, node) = (cluster.token(), cluster.node_token());
    let ours = environment.path();
    let of = |name: &str| format!("/docker/host/containers/{name}/terminal");
    let shell = format!("/runner/{}/shell/0123?session=x", cluster.node("a"));
    for (path, token, headers, status, says) in [
        (&ours, None, upgrade, 401, "token"),
        (&ours, Some(&node), upgrade, 403, "users' calls"),
        (&ours, Some(&user), &*format!("{upgrade}Origin: http://evil.example\r\n"), 403, "web page"),
        (&ours, Some(&user), "", 426, "WebSocket"),
        (&of("no-such-one"), Some(&user), upgrade, 404, "not found"),
        (&of("--help"), Some(&user), upgrade, 404, "not found"),
        (&of(&foreign), Some(&user), upgrade, 404, "none of this cluster's environments"),
        (&format!("{ours}?rows=x&cols=1"), Some(&user), upgrade, 422, "rows"),
        (&"/task/17/terminal".to_owned(), Some(&user), upgrade, 404, "not found"),
        (&shell, Some(&user), upgrade, 403, "node token"),
        (&shell, Some(&node), upgrade, 404, "not registered"),
    ] {
        let (found, text) = ask(path, token.map(String::as_str), headers);
        assert_eq!(found, status, "{path}: {text}");
        assert!(text.contains("\"detail\"") && text.contains(says), "{path}: {text}");
    }
    docker(&["stop", "-t", "0", &environment.name]);
    let (found, text) = ask(&ours, Some(&user), upgrade);
    assert!(found == 409 && text.contains("start-container"), "{found} {text}");
    let mut tty = Tty::start(cluster.cli_command(&["docker-shell", "no-such-one"]));
    tty.expect("error: container 'no-such-one' not found");
    assert_eq!(tty.end(), 1);
    let piped = cluster.cli(&["docker-shell", &environment.name]);
    piped.fails(2, &["needs a terminal"]);
}

#[test]
fn an_image_without_bash_has_sh_and_one_without_any_says_so() {
    let cluster = host_alone();
    let environment = Environment::new(&cluster);
    docker(&["exec", &environment.name, "mv", "/bin/bash", "/bin/no-bash"]);
    let mut client = Client::open(&cluster, &environment.path());
    client.0.send(ToShell::input("echo $0; exit\n")).unwrap();
    let (said, end) = client.until("");
    assert!(said.contains("sh\r\n") && end.as_deref() == Some("exit 0"), "{said} {end:?}");
    docker(&["exec", &environment.name, "rm", "-f", "/bin/sh", "/usr/bin/sh"]);
    let (said, _) = Client::open(&cluster, &environment.path()).until("");
    assert!(said.contains("ERROR there is no shell in this container"), "{said}");
}
