//! What a Host does with a database that is damaged, missing, not its own, in use, or on a full disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hakuriver::store::{Source, Store, prepare};

use crate::env::{Cluster, SOON, Settings, binary, first_id};
use crate::fake_node::{FakeNode, Hardware};
use crate::mount::Mount;
use crate::program::Output;
use crate::{http, program, wait};

const BODY: &str =
    "{\"task_type\": \"command\", \"command\": \"true\", \"container_name\": \"NULL\", \"required_cores\": 0}";
const PAGE: u64 = 4_096;

fn settings() -> Settings {
    Settings { no_environment: true, ..Settings::default() }
}

fn submit(cluster: &Cluster) -> String {
    let reply = cluster.post("/submit", BODY);
    assert_eq!(reply.status, 202, "{}", reply.text());
    first_id(&reply.text())
}

/// A Host that cannot start says why in at most two lines, with these words.
#[track_caller]
fn refused(cluster: &Cluster, words: &[&str]) -> Output {
    let output = program::run(&mut cluster.cli_command(&["host"]), SOON);
    assert_eq!(output.status, 1, "{output}");
    let (_, error) = output.stderr.split_once("error: ").unwrap_or_else(|| panic!("no error: {output}"));
    assert!(error.trim_end().lines().count() <= 2 && !error.contains("panicked"), "{output}");
    for word in words {
        assert!(error.contains(word), "{word:?} is missing: {output}");
    }
    output
}

/// All that is in a folder, but for locks.
fn content(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .filter(|path| path.to_string_lossy().contains("cluster.db") && !path.to_string_lossy().ends_with(".lock"))
        // SQLite makes it when it looks at a log, and it means nothing.
        .filter(|path| !path.to_string_lossy().ends_with("-shm"))
        .map(|path| (path.clone(), fs::read(&path).ok()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_host_never_begins_anew_where_there_was_a_database() {
    let mut cluster = Cluster::new(settings());
    cluster.start_host();
    let ids: Vec<String> = (0..5).map(|_| submit(&cluster)).collect();
    let backup = cluster.dir.join("backup");
    cluster.cli(&["host", "backup", backup.to_str().unwrap()]).ok();
    cluster.kill9("host");
    let database = cluster.dir.join("cluster.db");
    let log = cluster.dir.join("cluster.db-wal");
    let (whole, wal) = (fs::read(&database).unwrap(), fs::read(&log).unwrap());
    let put = |bytes: &[u8], wal: &[u8]| {
        let _none = fs::remove_file(&database).or_else(|_| fs::remove_dir(&database));
        let _none = fs::remove_file(&log);
        fs::write(&database, bytes).unwrap();
        if !wal.is_empty() {
            fs::write(&log, wal).unwrap();
        }
    };
    let is_left_alone = |what: &str, words: &[&str]| {
        let before = content(&cluster.dir);
        refused(&cluster, words);
        assert_eq!(content(&cluster.dir), before, "{what}: nothing is changed");
    };
    let remedy = ["cluster.db", "host restore FILE"];

    let mut damaged = whole.clone();
    damaged[..100].fill(0x55);
    put(&damaged, b"");
    is_left_alone("a damaged head", &remedy);
    put(&whole[..whole.len() / 2], b"");
    is_left_alone("half a file", &remedy);
    put(b"", &wal);
    is_left_alone("an empty file", &["cluster.db", "empty", "host restore FILE"]);
    put(&whole, &wal);
    fs::remove_file(&database).unwrap();
    is_left_alone("a log alone", &["cluster.db", "write-ahead log", "host restore FILE"]);
    fs::remove_file(&log).unwrap();
    is_left_alone("nothing at all", &["cluster.db", "not there", "host restore FILE"]);
    fs::remove_file(cluster.dir.join("host/cluster")).unwrap();
    is_left_alone(
        "nothing, and only the shared directory tells",
        &["not there", ".hakuriver-cluster", "host restore FILE"],
    );
    symlink("/nonexistent/cluster.db", &database).unwrap();
    is_left_alone("a link to a file system that is not mounted", &["cluster.db", "link", "mounted"]);
    fs::remove_file(&database).unwrap();
    fs::create_dir(&database).unwrap();
    is_left_alone("a folder", &["cluster.db", "a folder"]);
    fs::remove_dir(&database).unwrap();
    let foreign = rusqlite::Connection::open(&database).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(foreign);
    is_left_alone("another program's", &["not a database of this HakuRiver", "host restore FILE"]);
    put(&whole, &wal);
    let newer = rusqlite::Connection::open(&database).unwrap();
    newer.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(newer);
    is_left_alone("a newer one", &["newer hakuriver", "host restore FILE"]);

    // And as it was told, a backup takes its place.
    cluster.cli(&["host", "restore", "--no-host-since", backup.to_str().unwrap()]).ok();
    cluster.start_host();
    assert!(ids.iter().all(|id| cluster.status(id).status == "pending"));
}

/// A folder that goes with the test.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _none = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_database_that_may_not_be_read_is_not_begun_anew() {
    assert!(nix::unistd::geteuid().is_root(), "only root can take another user's part");
    // A folder that everyone can come to.
    let folder = std::env::temp_dir().join(format!("hakuriver-nobody-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let _gone = Gone(folder.clone());
    let copy = folder.join("hakuriver");
    fs::copy(binary(), &copy).unwrap();
    let state = folder.join("state");
    fs::create_dir(&state).unwrap();
    let config = "[network]\nhost_port = 0\nhost_ssh_proxy_port = 0\n[docker]\ninitial_base_image = \"\"\n";
    fs::write(state.join("config.toml"), config).unwrap();
    drop(Store::open(&state.join("cluster.db")).unwrap());
    for path in [&folder, &state, &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    fs::set_permissions(state.join("cluster.db.lock"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut command = Command::new(&copy);
    command.args(["host", "--config"]).arg(state.join("config.toml")).env("HOME", &folder).uid(65_534).gid(65_534);
    let output = program::run(&mut command, SOON);
    assert_eq!(output.status, 1, "{output}");
    assert!(
        output.stderr.contains("cannot read the database") && output.stderr.contains("Permission denied"),
        "{output}"
    );
}

#[test]
fn a_log_that_was_cut_off_is_a_prefix_of_what_was_acknowledged() {
    let mut cluster = Cluster::new(settings());
    cluster.start_host();
    let ids: Vec<String> = (0..30).map(|_| submit(&cluster)).collect();
    cluster.kill9("host");
    let [database, log] = ["cluster.db", "cluster.db-wal"].map(|name| cluster.dir.join(name));
    let (whole, wal) = (fs::read(&database).unwrap(), fs::read(&log).unwrap());
    let mut seen = Vec::new();
    for part in [0, 1, 3, 5, 7, 8, 9, 10] {
        // Odd lengths, and one frame's bound; the Host's own first commits are in the log as well.
        let length = if part == 5 { 32 + (24 + 4_096) * (wal.len() / (24 + 4_096) / 2) } else { wal.len() * part / 10 };
        let _none = fs::remove_file(cluster.dir.join("cluster.db-shm"));
        fs::write(&database, &whole).unwrap();
        fs::write(&log, &wal[..length]).unwrap();
        let output = program::run(&mut cluster.cli_command(&["client", "nodes"]), SOON);
        assert_ne!(output.status, 0, "no Host runs");
        cluster.start_host();
        let rows = cluster.task_rows("?limit=1000");
        let mut found: Vec<String> = rows.into_iter().map(|row| row.task_id).collect();
        found.reverse();
        assert_eq!(found, ids[..found.len()], "{length} bytes of the log: the first that were acknowledged");
        let next = submit(&cluster);
        assert!(next.parse::<u64>().unwrap() > ids[29].parse().unwrap(), "{next} was given before");
        seen.push(found.len());
        cluster.kill9("host");
    }
    assert!(seen.is_sorted() && seen[0] == 0 && *seen.last().unwrap() == 30, "{seen:?}");
}

#[test]
fn an_overwritten_page_is_seen_or_costs_nothing_that_is_not_on_it() {
    let mut cluster = Cluster::new(settings());
    cluster.start_host();
    let ids: Vec<String> = (0..40).map(|_| submit(&cluster)).collect();
    cluster.stop("host");
    let database = cluster.dir.join("cluster.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let whole = fs::read(&database).unwrap();
    let pages = whole.len() as u64 / PAGE;
    let (mut refusals, seed) = (0, u64::from(std::process::id()));
    for round in 0..8 {
        let page = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round * 7) % pages;
        let noise: Vec<u8> =
            (0..PAGE).map(|at| (seed.wrapping_mul(at + 1).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for name in ["cluster.db-wal", "cluster.db-shm"] {
            let _none = fs::remove_file(cluster.dir.join(name));
        }
        fs::write(&database, &whole).unwrap();
        OpenOptions::new().write(true).open(&database).unwrap().write_all_at(&noise, page * PAGE).unwrap();
        let damaged = fs::read(&database).unwrap();
        if Store::open(&database).is_err() {
            refused(&cluster, &["cluster.db", "host restore FILE"]);
            assert_eq!(fs::read(&database).unwrap(), damaged, "seed {seed}, page {page}");
            refusals += 1;
        } else {
            cluster.start_host();
            assert!(ids.iter().all(|id| cluster.status(id).task_id == *id), "seed {seed}, page {page}");
            cluster.stop("host");
        }
    }
    assert!(refusals > 0, "seed {seed}: no page of {pages} mattered");
}

/// A Host beside that of the cluster, with another name for its database.
fn second(cluster: &Cluster, path: &Path) -> Output {
    let text = format!(
        "[network]\nhost_port = 0\nhost_ssh_proxy_port = 0\n[docker]\ninitial_base_image = \"\"\n[paths]\nstate_dir = {:?}\n[database]\ndb_file = {path:?}\n",
        cluster.dir
    );
    fs::write(cluster.dir.join("second.toml"), text).unwrap();
    let config = cluster.config("second");
    program::run(cluster.command(&binary()).args(["host", "--config", &config]), SOON)
}

#[test]
fn one_database_has_one_host_under_whatever_name() {
    let mut cluster = Cluster::new(settings());
    cluster.start_host();
    submit(&cluster);
    let other = cluster.dir.join("other");
    fs::create_dir(&other).unwrap();
    let database = cluster.dir.join("cluster.db");
    let link = other.join("linked.db");
    symlink(&database, &link).unwrap();
    symlink(&cluster.dir, other.join("folder")).unwrap();
    for path in [&database, &link, &other.join("folder/cluster.db")] {
        let output = second(&cluster, path);
        assert!(
            output.status == 1 && output.stderr.contains("another Host is running"),
            "{}: {output}",
            path.display()
        );
    }
    let hard = other.join("hard.db");
    fs::hard_link(&database, &hard).unwrap();
    let output = second(&cluster, &hard);
    assert!(output.status == 1 && output.stderr.contains("2 names"), "{output}");
    fs::remove_file(&hard).unwrap();
    // What works on it is not disturbed.
    submit(&cluster);
    let backup = cluster.dir.join("backup");
    cluster.cli(&["host", "backup", backup.to_str().unwrap()]).ok();
    cluster.stop("host");
    let restore = prepare(&link, Source::Backup { file: &backup, is_current: true }, 1).unwrap();
    for path in [&database, &link] {
        let output = second(&cluster, path);
        assert!(output.status == 1 && output.stderr.contains("a restore of the database"), "{output}");
    }
    cluster.cli(&["host", "restore", backup.to_str().unwrap()]).fails(1, &["another restore"]);
    cluster.cli(&["host", "backup", "--force", backup.to_str().unwrap()]).fails(1, &["under way"]);
    restore.commit().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && database.is_file(), "the link leads to the new one");
    cluster.start_host();
}

/// A small file system that is full at times.
struct Small {
    at: PathBuf,
    _mount: Mount,
}

impl Small {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir_all(&at).unwrap();
        Self { _mount: Mount::tmpfs(&at, size), at }
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let file = OpenOptions::new().create(true).append(true).open(self.at.join("filler")).unwrap();
        let mut size = file.metadata().unwrap().len();
        for part in [1 << 20, 1 << 12] {
            while file.write_all_at(&vec![0; part], size).is_ok() {
                size += part as u64;
            }
        }
    }

    fn empty(&self) {
        fs::remove_file(self.at.join("filler")).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_what_is_new_and_nothing_else() {
    let at = std::env::temp_dir().join(format!("hakuriver-full-{}", std::process::id()));
    let small = Small::mount(at.clone(), "24M");
    let lines = format!("[database]\ndb_file = {:?}\n", at.join("cluster.db"));
    let mut cluster = Cluster::new(Settings { host_lines: lines, ..settings() });
    cluster.start_host();
    let node = FakeNode::obedient(&cluster, "n", &Hardware::cores("0-7", &[]));
    let mut ids: Vec<String> = (0..10).map(|_| submit(&cluster)).collect();
    cluster.await_status(&ids[9], "running");
    for round in 0..3 {
        small.fill();
        // The log has some room left in its last pages.
        let mut taken = 0;
        let refusal = wait::until("a submission is refused", SOON, || {
            let reply = cluster.post("/submit", BODY);
            if reply.status == 202 {
                ids.push(first_id(&reply.text()));
                taken += 1;
                return Err(format!("{taken} were taken"));
            }
            Ok(reply)
        });
        assert_eq!(refusal.status, 503, "{}", refusal.text());
        assert!(refusal.text().contains("disk") && refusal.text().contains("full"), "{}", refusal.text());
        assert_eq!(cluster.task_rows("?limit=1000").len(), ids.len(), "reads work, and what was refused is not there");
        assert_eq!(cluster.status(&ids[0]).task_id, ids[0]);
        assert!(cluster.cli(&["client", "nodes"]).ok().contains('n'));
        let output = cluster.cli(&["task", "submit", "--container", "NULL", "--cores", "0", "--", "true"]);
        assert!(output.status != 0 && output.stderr.contains("full"), "{output}");
        let to = at.join("backup");
        cluster.cli(&["host", "backup", to.to_str().unwrap()]).fails(1, &["backup"]);
        assert!(!fs::read_dir(&at).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().contains(".tmp")));
        if round == 1 {
            // Also a Host that was killed meanwhile comes back, and shows what there is.
            cluster.kill9("host");
            cluster.start_host();
            assert_eq!(cluster.task_rows("?limit=1000").len(), ids.len());
            assert_eq!(cluster.post("/submit", BODY).status, 503);
        }
        small.empty();
        ids.push(wait::until("submissions are taken again", SOON, || {
            let reply = cluster.post("/submit", BODY);
            if reply.status == 202 { Ok(first_id(&reply.text())) } else { Err(reply.text()) }
        }));
        assert_eq!(cluster.task_rows("?limit=1000").len(), ids.len());
    }
    let reply = http::call(cluster.api, "GET", "/nodes", Some(&cluster.token()), None);
    assert_eq!(reply.status, 200);
    drop(node);
    cluster.stop("host");
    drop(cluster);
    drop(small);
    fs::remove_dir(at).unwrap();
}
