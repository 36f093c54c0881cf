//! Damaged files: what is refused, what is taken, and that nothing is ever begun anew over one.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::tests::{Folder, task};
use super::*;
use crate::domain::ids::TaskId;
use crate::domain::state::State;

/// How many tasks were committed, each by itself.
const TASKS: u64 = 30;

/// A database and its log as a Host leaves them that was killed after `TASKS` commits; the first half of them is in the database.
fn as_killed(folder: &Folder) -> (Vec<u8>, Vec<u8>) {
    let mut store = Store::open(&folder.db()).expect("open");
    for id in 1..=TASKS {
        if id == TASKS / 2 {
            store.conn().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
        }
        store.insert_task(&task(id, State::Completed)).expect("task");
        let event =
            NewEvent { time_ms: id, task: Some(TaskId::from_u64(id)), node: None, from: None, to: "x", cause: "x" };
        store.add_event(&event).expect("event");
        store.commit().expect("commit");
    }
    (fs::read(folder.db()).expect("read"), fs::read(log(folder)).expect("read"))
}

fn log(folder: &Folder) -> std::path::PathBuf {
    folder.0.join("cluster.db-wal")
}

fn put(folder: &Folder, database: &[u8], wal: &[u8]) {
    for name in ["cluster.db", "cluster.db-wal", "cluster.db-shm"] {
        let _none = fs::remove_file(folder.0.join(name));
    }
    fs::write(folder.db(), database).expect("written");
    fs::write(log(folder), wal).expect("written");
}

/// The ids of all tasks; each has its event, and the other way round.
fn consistent(store: &Store) -> Vec<u64> {
    let read = |sql: &str| -> Vec<u64> {
        let mut statement = store.conn().prepare(sql).expect("prepared");
        let rows = statement.query_map([], |row| row.get::<_, i64>(0)).expect("read");
        rows.map(|id| natural(id.expect("a number"))).collect()
    };
    let tasks = read("SELECT id FROM tasks ORDER BY id");
    assert_eq!(tasks, read("SELECT task FROM events ORDER BY seq"), "half of a commit");
    tasks
}

#[test]
fn a_log_that_is_cut_off_anywhere_is_a_whole_number_of_commits() {
    let folder = Folder::new();
    let (database, wal) = as_killed(&folder);
    // A log has a head of 32 bytes, and for each page one of 24 (https://sqlite.org/fileformat2.html#walformat).
    let frame = 24 + 4_096;
    let bounds = (0..=(wal.len() - 32) / frame).map(|frames| 32 + frames * frame);
    let mut lengths: Vec<usize> = bounds.flat_map(|at| [at - 1, at, at + 1, at + 24, at + frame / 2]).collect();
    lengths.extend([0, 1, 24].into_iter().chain((0..100).map(|n| n * 7_919 % wal.len())));
    lengths.retain(|length| *length <= wal.len());
    lengths.sort_unstable();
    let mut last = 0;
    for length in lengths {
        put(&folder, &database, &wal[..length]);
        let store = Store::open(&folder.db()).unwrap_or_else(|fault| panic!("{length} bytes of the log: {fault}"));
        let tasks = consistent(&store);
        assert_eq!(tasks, (1..=tasks.len() as u64).collect::<Vec<_>>(), "{length} bytes: the first ones");
        assert!(tasks.len() >= last, "{length} bytes: a longer log has no fewer commits");
        last = tasks.len();
        assert!(last as u64 >= TASKS / 2 - 1, "what was in the database stays");
    }
    assert_eq!(last as u64, TASKS, "the whole log has them all");
}

#[test]
fn a_log_that_is_damaged_in_the_middle_ends_there() {
    let folder = Folder::new();
    let (database, wal) = as_killed(&folder);
    for at in (0..wal.len()).step_by(wal.len() / 97) {
        let mut damaged = wal.clone();
        damaged[at] ^= 0x5a;
        put(&folder, &database, &damaged);
        match Store::open(&folder.db()) {
            Ok(store) => {
                let tasks = consistent(&store);
                assert_eq!(tasks, (1..=tasks.len() as u64).collect::<Vec<_>>(), "damage at {at}");
            }
            Err(fault) => assert!(fault.to_string().contains("host restore"), "damage at {at}: {fault}"),
        }
    }
}

#[test]
fn an_overwritten_page_is_refused_or_costs_only_what_was_on_it() {
    let folder = Folder::new();
    {
        let mut store = Store::open(&folder.db()).expect("open");
        for id in 1..=200 {
            store.insert_task(&task(id, if id % 20 == 0 { State::Running } else { State::Completed })).expect("task");
        }
        store.commit().expect("commit");
    }
    let whole = fs::read(folder.db()).expect("read");
    let (mut refused, mut opened) = (0, 0);
    for page in 0..whole.len() / 4_096 {
        for fill in [0x00, 0xa5, 0xff] {
            let mut damaged = whole.clone();
            damaged[page * 4_096..(page + 1) * 4_096].fill(fill);
            put(&folder, &damaged, b"");
            match Store::open(&folder.db()) {
                Err(fault) => {
                    refused += 1;
                    let text = fault.to_string();
                    assert!(text.contains("cluster.db") && text.contains("host restore"), "page {page}: {text}");
                    assert_eq!(fs::read(folder.db()).expect("read"), damaged, "page {page}: it is left as it is");
                }
                Ok(store) => {
                    opened += 1;
                    let live = store.live_tasks().map(|tasks| tasks.len());
                    assert!(matches!(live, Ok(10) | Err(_)), "page {page}: {live:?}");
                }
            }
        }
    }
    assert!(refused > 20 * opened, "{refused} refused, {opened} opened");
}

#[test]
fn what_is_no_database_of_ours_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let (database, wal) = as_killed(&folder);
    let refused = |what: &str, word: &str| {
        let fault = Store::open(&folder.db()).expect_err(what).to_string();
        assert!(fault.contains(word) && fault.contains("cluster.db"), "{what}: {fault}");
        assert!(fault.lines().count() <= 2, "{what}: {fault}");
        fault
    };
    for head in [0, 16, 18, 20, 28] {
        let mut damaged = database.clone();
        damaged[head..head + 2].fill(0x77);
        put(&folder, &damaged, b"");
        // Some of these bytes are only a hint for SQLite, or are repaired by it.
        if let Err(fault) = Store::open(&folder.db()) {
            assert!(fault.to_string().contains("host restore"), "byte {head}: {fault}");
        }
    }
    let mut damaged = database.clone();
    damaged[..4_096].fill(0x55);
    put(&folder, &damaged, b"");
    refused("a damaged head", "host restore");
    for length in [1, 99, 100, 4_095, 4_096, 4_097, database.len() / 2, database.len() - 1] {
        put(&folder, &database[..length], b"");
        refused(&format!("{length} bytes of it"), "host restore");
    }
    let longer = [&*database, b"and more"].concat();
    put(&folder, &longer, b"");
    refused("more than pages", "no whole number of pages");
    put(&folder, b"", &wal);
    refused("an empty file", "empty");
    put(&folder, &database, &wal);
    fs::remove_file(folder.db()).expect("removed");
    refused("a log alone", "write-ahead log");
    assert!(!folder.db().exists() && is_there(&folder.db()).is_err(), "nothing is begun anew");
    fs::remove_file(log(&folder)).expect("removed");
    fs::create_dir(folder.db()).expect("made");
    refused("a folder", "a folder");
    fs::remove_dir(folder.db()).expect("removed");
    let foreign = Connection::open(folder.db()).expect("made");
    foreign.execute_batch("CREATE TABLE theirs (x)").expect("made");
    drop(foreign);
    refused("foreign", "not a database of this HakuRiver");
}

#[test]
fn a_database_has_one_name() {
    let folder = Folder::new();
    let real = folder.0.join("real");
    fs::create_dir(&real).expect("made");
    let database = real.join("x.db");
    let link = |to: &Path, from: &Path| std::os::unix::fs::symlink(to, from).expect("linked");
    // A link to what is not there: its file system may not be mounted.
    link(&database, &folder.db());
    let fault = Store::open(&folder.db()).expect_err("nothing is there").to_string();
    assert!(fault.contains("link") && fault.contains("mounted"), "{fault}");
    assert!(!database.exists());
    let first = Store::open(&database).expect("made");
    link(&real, &folder.0.join("folder"));
    for other in [folder.db(), folder.0.join("folder/x.db"), folder.0.join("folder/../real/./x.db")] {
        let fault = Store::open(&other).expect_err("in use").to_string();
        assert!(fault.contains("another Host"), "{}: {fault}", other.display());
    }
    let hard = folder.0.join("hard.db");
    fs::hard_link(&database, &hard).expect("linked");
    let fault = Store::open(&hard).expect_err("two names").to_string();
    assert!(fault.contains("2 names"), "{fault}");
    drop(first);
    let fault = Store::open(&database).expect_err("still two").to_string();
    assert!(fault.contains("2 names"), "{fault}");
    fs::remove_file(hard).expect("removed");
    Store::open(&folder.db()).expect("through the link");
    assert!(
        fs::symlink_metadata(folder.db()).expect("there").is_symlink() && !folder.0.join("cluster.db-wal").exists()
    );
}

#[test]
fn one_row_that_cannot_be_read_costs_that_row() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    for id in 1..=9 {
        store.insert_task(&task(id, State::Completed)).expect("task");
    }
    store.commit().expect("commit");
    let edits = [
        "spec = '{'",
        "spec = '{\"kind\": 5}'",
        "want = 'odd'",
        "node = 'no name'",
        "note = CAST(X'ff' AS TEXT)",
        "attempt = -1",
        "ssh_port = 70000",
    ];
    for edit in edits {
        store.write(&format!("UPDATE tasks SET {edit} WHERE id = 5"), []).expect("edited");
        store.commit().expect("commit");
        let id = TaskId::from_u64(5);
        let fault = store.task(id).expect_err(edit);
        assert!(matches!(&fault, StoreFault::Row(why) if why.contains("task 5")), "{edit}: {fault:?}");
        assert_eq!(store.has_task(id), Ok(true), "{edit}");
        let list = store.readers().list("command", &TaskFilter { limit: 100, ..TaskFilter::default() });
        assert_eq!(list.expect(edit).len(), 8, "{edit}: the others are listed");
        assert!(store.task(TaskId::from_u64(6)).expect(edit).is_some());
        // Of one that lives nobody knows what it holds.
        store.write("UPDATE tasks SET state = 'running' WHERE id = 5", []).expect("edited");
        let fault = store.live_tasks().expect_err(edit).to_string();
        assert!(fault.contains("task 5") && fault.contains("host restore"), "{edit}: {fault}");
        store.rollback();
        store.write("DELETE FROM tasks WHERE id = 5", []).expect("edited");
        store.insert_task(&task(5, State::Completed)).expect("task");
        store.commit().expect("commit");
    }
}
