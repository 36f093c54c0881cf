//! Backups of a Host at work, and what comes of everything when one is put in the database's place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hakuriver::store::{Prepared, Source, Store, TaskFilter, back_up, prepare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::docker_faults::crash;
use crate::env::{Cluster, SOON, Settings, first_id};
use crate::fake_node::{FakeNode, Hardware};
use crate::tasks::{Latches, null_body, seen};
use crate::{http, program, wait};

const BODY: &str =
    "{\"task_type\": \"command\", \"command\": \"true\", \"container_name\": \"NULL\", \"required_cores\": 0}";

fn ids_of(store: &Store) -> BTreeSet<String> {
    let filter = TaskFilter { limit: 1_000_000, ..TaskFilter::default() };
    store.readers().list("command", &filter).unwrap().iter().map(|task| task.id.to_string()).collect()
}

/// What is in a backup.
fn ids_in(backup: &Path, scratch: &Path) -> BTreeSet<String> {
    let _none = fs::remove_dir_all(scratch);
    fs::create_dir(scratch).unwrap();
    let database = scratch.join("x.db");
    let source = Source::Backup { file: backup, is_current: true };
    prepare(&database, source, 1).and_then(Prepared::commit).unwrap_or_else(|e| panic!("{}: {e}", backup.display()));
    ids_of(&Store::open(&database).unwrap())
}

#[test]
fn a_backup_of_a_host_under_load_is_one_moment_of_what_was_acknowledged() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let _node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
    let (api, token) = (cluster.api, cluster.token());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (stop, acknowledged, token) = (Arc::clone(&stop), Arc::clone(&acknowledged), token.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let reply = http::call(api, "POST", "/submit", Some(&token), Some(BODY));
                    assert_eq!(reply.status, 202, "{}", reply.text());
                    acknowledged.lock().unwrap().insert(first_id(&reply.text()));
                }
            })
        })
        .collect();
    let mut before = BTreeSet::new();
    for round in 0..4 {
        wait::until_true("more is acknowledged", SOON, || {
            let count = acknowledged.lock().unwrap().len();
            (count >= before.len() + 30, count.to_string())
        });
        before = acknowledged.lock().unwrap().clone();
        let file = cluster.dir.join(format!("backup{round}"));
        let told = cluster.cli(&["host", "backup", file.to_str().unwrap()]).ok();
        let size = fs::metadata(&file).unwrap().len();
        assert!(told.contains(&format!("{size} bytes")) && told.contains("cluster.db"), "{told}");
        // An answer may be on its way whose task is in the backup.
        let found = ids_in(&file, &cluster.dir.join("scratch"));
        assert!(
            found.is_superset(&before),
            "acknowledged before, and not in it: {:?}",
            before.difference(&found).next()
        );
        let count =
            told.split_whitespace().zip(told.split_whitespace().skip(1)).find(|(_, what)| *what == "tasks").unwrap().0;
        assert_eq!(count, found.len().to_string(), "{told}");
        before = found;
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let all = acknowledged.lock().unwrap().clone();
    assert!(all.is_superset(&before), "in it, and never acknowledged: {:?}", before.difference(&all).next());
    cluster.stop("host");
    let file = cluster.dir.join("offline");
    cluster.cli(&["host", "backup", file.to_str().unwrap()]).ok();
    assert_eq!(ids_in(&file, &cluster.dir.join("scratch")), all, "also while no Host runs");
}

#[test]
fn who_is_in_the_way_is_named() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let file = cluster.dir.join("backup");
    let file = file.to_str().unwrap();
    cluster.cli(&["host", "backup", file]).ok();
    cluster.cli(&["host", "backup", file]).fails(1, &[file, "--force"]);
    cluster.cli(&["host", "backup", "--force", file]).ok();
    cluster.cli(&["host", "restore", file]).fails(1, &["cluster.db", "a Host is running"]);
    cluster.cli(&["host", "restore"]).fails(2, &["FILE", "--empty"]);
    cluster.cli(&["host", "restore", "--empty", file]).fails(2, &["--empty"]);
    cluster.cli(&["host", "dance"]).fails(2, &["dance", "backup, restore"]);
    let database = cluster.dir.join("cluster.db");
    cluster.cli(&["host", "backup", "--force", database.to_str().unwrap()]).fails(1, &["the database itself"]);
    for own in ["token", "node-token", "config.toml", "host/ids", "host/backup"] {
        let own = cluster.dir.join(own);
        let before = fs::read(&own).ok();
        cluster.cli(&["host", "backup", "--force", own.to_str().unwrap()]).fails(1, &["the Host's own"]);
        assert_eq!(fs::read(&own).ok(), before, "{} is as it was", own.display());
    }
    cluster.stop("host");
    // Another cluster's backup is no backup of this one.
    let mut other = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    other.start_host();
    let foreign = cluster.dir.join("foreign");
    other.cli(&["host", "backup", foreign.to_str().unwrap()]).ok();
    let fault = cluster.cli(&["host", "restore", foreign.to_str().unwrap()]);
    fault.fails(1, &[cluster.cluster_id().unwrap(), other.cluster_id().unwrap()]);
    let mut bytes = fs::read(file).unwrap();
    bytes[6_000] ^= 1;
    fs::write(&foreign, bytes).unwrap();
    cluster.cli(&["host", "restore", foreign.to_str().unwrap()]).fails(1, &["foreign", "checksum"]);
    cluster.start_host();
}

/// Everything that can become of tasks between a backup and its restore, on a real node.
struct Story {
    cluster: Cluster,
    latches: Latches,
    /// Ran when the backup was made, and ...
    lives: String,
    ends: String,
    vps: String,
    /// ... began after it.
    new: String,
    new_vps: String,
    new_ended: String,
}

impl Story {
    fn tell() -> Self {
        let mut cluster = Cluster::host_and_runner(Settings::default());
        let latches = Latches::new(&cluster);
        let log = cluster.dir.join("starts");
        let start = |name: &str| {
            format!("echo {name} >> {}; echo $$; echo {name}; {}; exit 5", log.display(), latches.wait(name))
        };
        let runs = |cluster: &Cluster, name: &str| {
            let id = cluster.script(&["--cores", "0"], &start(name));
            cluster.await_status(&id, "running");
            cluster.await_lines(&id, 2);
            id
        };
        let lives = runs(&cluster, "lives");
        let ends = runs(&cluster, "ends");
        let vps = cluster.submit(&[]);
        let blocker = cluster.script(&["--cores", "2"], &start("blocker"));
        cluster.await_status(&blocker, "running");
        let waits = cluster.script(&["--cores", "2"], &start("waits"));
        assert_eq!(cluster.status(&waits).status, "pending");
        let file = cluster.dir.join("backup");
        cluster.cli(&["host", "backup", file.to_str().unwrap()]).ok();

        for name in ["ends", "blocker", "waits"] {
            latches.open(name);
        }
        for id in [&ends, &blocker, &waits] {
            assert_eq!(cluster.await_end(id).exit_code, Some(5));
        }
        let new = runs(&cluster, "new");
        let new_ended = runs(&cluster, "new_ended");
        let new_vps = cluster.submit(&[]);
        // Its next session is later than any that the backup knows.
        cluster.kill9("runner-a");
        cluster.start_runner("a");
        wait::until("the Runner has let go of what has ended", SOON, || {
            let log = cluster.log("runner-a");
            if log.matches("ready for new ones").count() >= 2 { Ok(()) } else { Err(log) }
        });
        let events = |since: u64| {
            http::call(cluster.api, "GET", &format!("/events?since={since}"), Some(&cluster.token()), None)
        };
        let newest = events(u64::MAX / 4).text();
        let newest: u64 =
            newest.split("the newest is ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        cluster.stop("host");
        let told = cluster.cli(&["host", "restore", file.to_str().unwrap()]).ok();
        for word in ["restored", "kept as", "4 tasks had a node", "1 task waited", "client nodes"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        cluster.start_host();
        let reply = http::call(cluster.api, "GET", &format!("/events?since={newest}"), Some(&cluster.token()), None);
        assert_eq!(reply.status, 410, "who has followed is told that there is a gap: {}", reply.text());
        for id in [&ends, &blocker, &waits] {
            let record = cluster.await_end(id);
            assert_eq!((record.status.as_str(), record.exit_code), ("failed", None), "{}", seen(&record));
            assert!(
                record.error_message.as_ref().is_some_and(|why| why.contains("result unknown")),
                "{}",
                seen(&record)
            );
        }
        Self { cluster, latches, lives, ends, vps, new, new_vps, new_ended }
    }

    fn unknown(&self) -> BTreeSet<String> {
        self.cluster.nodes().iter().flat_map(|node| node.unknown_tasks.clone()).collect()
    }

    /// How often a script was begun.
    fn starts(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.cluster.dir.join("starts")).unwrap();
        log.lines().filter(|line| *line == name).count()
    }
}

#[test]
fn after_a_restore_what_lives_lives_on_and_what_is_not_known_is_left_alone() {
    let mut story = Story::tell();
    let pid = story.cluster.await_pid(&story.lives);
    for id in [&story.lives, &story.vps] {
        story.cluster.await_status(id, "running");
    }
    assert!(story.cluster.ssh(&story.vps, &["--", "true"]).status == 0, "it is reached as before");
    let expected: BTreeSet<String> = [&story.new, &story.new_vps, &story.new_ended].map(Clone::clone).into();
    wait::until("what the database does not know is listed", SOON, || {
        let found = story.unknown();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let shown = story.cluster.cli(&["client", "nodes"]).ok();
    assert!(expected.iter().all(|id| shown.contains(id)), "{shown}");
    for id in [&story.new, &story.new_vps] {
        assert_eq!(
            http::call(story.cluster.api, "GET", &format!("/status/{id}"), Some(&story.cluster.token()), None).status,
            404
        );
    }
    let container = story.cluster.container(&story.new_vps);
    let running = || program::docker(&["inspect", "-f", "{{.State.Running}}", &container]);
    assert_eq!(running(), "true", "it is not killed");
    // Its end is not taken for anything else, and what it wrote stays on its node.
    story.latches.open("new_ended");
    let written = |id: &str| {
        let folder = story.cluster.runner_dir("a");
        files_below(&folder)
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(id))
            .any(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("new_ended")))
    };
    wait::holds_for("what is unknown stays", Duration::from_secs(3), || {
        let found = story.unknown();
        if found == expected && written(&story.new_ended) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(running(), "true");
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the same process");
    for (name, count) in [("lives", 1), ("ends", 1), ("waits", 1), ("new", 1), ("new_ended", 1)] {
        assert_eq!(story.starts(name), count, "{name} was started twice");
    }
    // New ids are none of theirs, and known tasks come to their true ends.
    let next = story.cluster.script(&["--cores", "0"], "exit 0");
    assert!(expected.iter().all(|id| id.parse::<u64>().unwrap() < next.parse().unwrap()), "{next} after {expected:?}");
    assert_eq!(story.cluster.await_end(&next).status, "completed");
    story.latches.open("lives");
    assert_eq!(story.cluster.await_end(&story.lives).exit_code, Some(5));
    story.cluster.kill_vps(&story.vps);
    story.latches.open("new");

    // The database before comes back: it knows them all, and what they wrote meanwhile arrives.
    put_back(&mut story.cluster);
    for (id, name) in [(&story.new, "new"), (&story.new_ended, "new_ended")] {
        let record = story.cluster.await_end(id);
        assert_eq!(record.exit_code, Some(5), "{name}: {}", seen(&record));
        assert_eq!(story.cluster.await_lines(id, 2)[1], name);
    }
    story.cluster.await_status(&story.new_vps, "running");
    wait::until("nothing is unknown", SOON, || {
        let found = story.unknown();
        if found.contains(&next) || found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(story.cluster.status(&story.ends).exit_code, Some(5));
    story.cluster.kill_vps(&story.new_vps);
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn a_database_begun_anew_shows_what_nodes_have() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let vps = cluster.submit(&[]);
    cluster.stop("host");
    for suffix in ["", "-wal"] {
        let path = cluster.dir.join(format!("cluster.db{suffix}"));
        if path.exists() {
            fs::write(path, "damaged beyond reading").unwrap();
        }
    }
    let refused = program::run(&mut cluster.cli_command(&["host"]), SOON);
    assert_eq!(refused.status, 1, "{refused}");
    for word in ["error: ", "cluster.db", "damaged", "host restore FILE", "--empty"] {
        assert!(refused.stderr.contains(word), "{word}: {refused}");
    }
    let before = cluster.cluster_id().unwrap().to_owned();
    cluster.cli(&["host", "restore", "--empty"]).ok();
    cluster.start_host();
    assert_eq!(cluster.cluster_id(), Some(&*before), "it is the same cluster");
    wait::until("its VPS is listed", SOON, || {
        let nodes = cluster.nodes();
        if nodes.iter().any(|node| node.unknown_tasks == [vps.clone()]) { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    let container = cluster.container(&vps);
    assert_eq!(program::docker(&["inspect", "-f", "{{.State.Running}}", &container]), "true");
    let next = cluster.submit_no_wait(&[]);
    assert!(next.parse::<u64>().unwrap() > vps.parse().unwrap());
    cluster.kill_vps(&next);
    // Its user decides.
    program::docker(&["rm", "-f", "-v", &container]);
}

/// A VPS whose first process dies until the node gives it up, and keeps its container.
#[track_caller]
fn dies_for_good(cluster: &Cluster, id: &str) {
    let container = cluster.container(id);
    let text = format!("task {id} ended: its container ended five times");
    wait::until("it is given up", Duration::from_secs(90), || {
        let log = cluster.log("runner-a");
        if log.contains(&text) {
            return Ok(());
        }
        crash(&container);
        Err(log)
    });
    assert_eq!(program::docker(&["inspect", "-f", "{{.State.Status}}", &container]), "exited", "it is kept");
}

/// The database that a restore has set aside is used again.
fn put_back(cluster: &mut Cluster) {
    cluster.stop("host");
    for suffix in ["-wal", "-shm"] {
        let _none = fs::remove_file(cluster.dir.join(format!("cluster.db{suffix}")));
    }
    let kept = fs::read_dir(&cluster.dir).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<PathBuf> = kept.filter(|path| path.to_string_lossy().contains(".db.replaced-")).collect();
    for path in &kept {
        let suffix = if path.to_string_lossy().ends_with("-wal") { "-wal" } else { "" };
        fs::rename(path, cluster.dir.join(format!("cluster.db{suffix}"))).unwrap();
    }
    cluster.start_host();
}

#[test]
fn what_a_user_has_removed_is_listed_no_more_and_told_to_the_database_that_knows_it() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let [removed, dies] = ["removed", "dies"].map(|_| cluster.submit(&[]));
    cluster.stop("host");
    cluster.cli(&["host", "restore", "--empty"]).ok();
    cluster.start_host();
    let lists = |cluster: &Cluster, what: &str, expected: &[&String]| {
        wait::until(what, SOON, || {
            let nodes = cluster.nodes();
            let is_so = nodes.iter().any(|node| node.unknown_tasks.iter().eq(expected.iter().copied()));
            if is_so { Ok(()) } else { Err(format!("{nodes:?}")) }
        });
    };
    lists(&cluster, "its VPS are listed", &[&removed, &dies]);
    program::docker(&["rm", "-f", "-v", &cluster.container(&removed)]);
    lists(&cluster, "it is listed no more", &[&dies]);
    dies_for_good(&cluster, &dies);
    wait::holds_for("its container is listed still", Duration::from_secs(2), || {
        let nodes = cluster.nodes();
        if nodes[0].unknown_tasks == [dies.clone()] { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    program::docker(&["rm", "-v", &cluster.container(&dies)]);
    lists(&cluster, "nothing is listed any more", &[]);
    // The next Runner does not begin with it again.
    cluster.kill9("runner-a");
    cluster.start_runner("a");
    let next = cluster.script(&[], "exit 0");
    cluster.await_status(&next, "completed");
    lists(&cluster, "nothing is listed", &[]);
    put_back(&mut cluster);
    for (id, reason) in [(&removed, "removed behind our back"), (&dies, "five times within a minute")] {
        let record = cluster.await_status(id, "failed");
        assert!(record.error_message.as_deref().is_some_and(|why| why.contains(reason)), "{}", seen(&record));
    }
}

#[test]
fn a_restored_database_hears_again_how_a_kept_vps_ended() {
    let mut cluster = Cluster::host_and_runner(Settings::default());
    let id = cluster.submit(&[]);
    let file = cluster.dir.join("backup");
    cluster.cli(&["host", "backup", file.to_str().unwrap()]).ok();
    dies_for_good(&cluster, &id);
    cluster.await_status(&id, "failed");
    // What is submitted now is on a list on which that one is not.
    let next = cluster.submit(&[]);
    cluster.kill_vps(&next);
    cluster.stop("host");
    cluster.cli(&["host", "restore", file.to_str().unwrap()]).ok();
    cluster.start_host();
    let record = cluster.await_status(&id, "failed");
    assert!(record.error_message.as_deref().is_some_and(|why| why.contains("five times")), "{}", seen(&record));
    program::docker(&["rm", "-v", &cluster.container(&id)]);
}

/// A database with so many tasks, made by a Host.
fn filled(cluster: &Cluster, count: usize) -> Vec<String> {
    let sets = (0..count).map(|n| vec![n.to_string()]).collect();
    let body = hakuriver::api::public::SubmitBody { argument_sets: Some(sets), ..null_body("true", &[]) };
    cluster.submit_body(&body)
}

/// Starts it, kills it after `time`, and waits for its end; true: it was killed.
fn killed_after(cluster: &Cluster, args: &[&str], time: Duration) -> bool {
    let mut command = cluster.cli_command(args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
    let _ended = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL);
    !child.wait().unwrap().success()
}

#[test]
fn a_backup_or_restore_that_is_killed_leaves_a_whole_file_or_none() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    filled(&cluster, 500);
    let (small, large) = (cluster.dir.join("small"), cluster.dir.join("large"));
    cluster.cli(&["host", "backup", small.to_str().unwrap()]).ok();
    filled(&cluster, 1_500);
    let begun = Instant::now();
    cluster.cli(&["host", "backup", large.to_str().unwrap()]).ok();
    let whole = begun.elapsed();
    cluster.kill9("host");
    let scratch = cluster.dir.join("scratch");
    let target = cluster.dir.join("killed");
    fs::copy(&small, &target).unwrap();
    // Ever longer, if the machine is slower than it was when that was measured.
    let time = |round: u32| whole * (round % 20) / 15 * (1 + round / 20);
    let (mut killed, mut sizes, mut round) = (0, BTreeSet::new(), 0);
    while round < 20 || killed < 5 || sizes.len() < 2 {
        killed +=
            u32::from(killed_after(&cluster, &["host", "backup", "--force", target.to_str().unwrap()], time(round)));
        let found = ids_in(&target, &scratch).len();
        assert!(found == 500 || found == 2_000, "{found} tasks: half a backup");
        sizes.insert(found);
        fs::copy(&small, &target).unwrap();
        round += 1;
        assert!(round < 400, "{killed} of {round} were killed; seen: {sizes:?}");
    }
    // From the state that a Host leaves that was killed, with its log, to the small one and back to the large one.
    let (mut killed, mut changes, mut last, mut round) = (0, 0, 2_000, 0);
    while round < 30 || killed < 5 || changes < 3 {
        let (from, there) = if last == 500 { (&large, 2_000) } else { (&small, 500) };
        let args = ["host", "restore", from.to_str().unwrap()];
        killed += u32::from(killed_after(&cluster, &args, time(round)));
        let store = Store::open(&cluster.dir.join("cluster.db")).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let found = ids_of(&store).len();
        assert!(found == last || found == there, "{found} tasks: neither the old database nor the new one");
        changes += u32::from(found != last);
        last = found;
        round += 1;
        assert!(round < 400, "{killed} of {round} were killed, {changes} came to their end");
    }
    cluster.start_host();
    assert_eq!(cluster.task_rows("?limit=5000").len(), last);
    let _unused = back_up(&cluster.dir.join("cluster.db"), &cluster.dir.join("last"), false, 1).unwrap();
}
