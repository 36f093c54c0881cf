//! Backups and what takes the database's place, whole and cut off at each step.

use std::collections::BTreeSet;

use super::super::place::cuts;
use super::super::tests::{Folder, task};
use super::super::{Store, TaskFilter, back_up};
use super::*;
use crate::domain::state::State;

const NOW_S: u64 = 1_800_000_000;

fn fill(store: &mut Store, ids: std::ops::RangeInclusive<u64>, state: State) {
    for id in ids {
        store.insert_task(&task(id, state)).expect("task");
        store.commit().expect("commit");
    }
}

fn ids(store: &Store) -> Vec<u64> {
    let filter = TaskFilter { limit: 10_000, ..TaskFilter::default() };
    store.readers().list("command", &filter).expect("list").iter().rev().map(|task| task.id.get()).collect()
}

fn backup<'a>(file: &'a Path, is_current: bool) -> Source<'a> {
    Source::Backup { file, is_current }
}

fn names(folder: &Folder) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&folder.0).expect("folder");
    entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_backup_of_a_database_in_use_is_one_moment_of_it() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    store.set_meta("cluster_id", "c").expect("meta");
    fill(&mut store, 1..=50, State::Running);
    // Not committed: it is not part of that moment.
    store.insert_task(&task(51, State::Running)).expect("task");
    let to = folder.0.join("backup");
    let made = back_up(&folder.db(), &to, false, 5_000).expect("written");
    assert_eq!((made.tasks, made.bytes), (50, std::fs::metadata(&to).expect("there").len()));
    store.commit().expect("the writer goes on");
    drop(store);
    let prepared = prepare(&folder.db(), backup(&to, false), NOW_S).expect("whole");
    assert_eq!((prepared.cluster.as_deref(), prepared.made_ms), (Some("c"), Some(5_000)));
    assert_eq!((prepared.tasks, prepared.waiting, prepared.placed), (50, 0, 50));
    let kept = prepared.commit().expect("restored").expect("there was one before");
    let store = Store::open(&folder.db()).expect("open");
    assert_eq!(ids(&store), (1..=50).collect::<Vec<_>>());
    assert_eq!(store.backup_mark(), Ok(Some(5_000)));
    drop(store);
    assert_eq!(ids(&Store::open(&kept).expect("the one before is whole, too")), (1..=51).collect::<Vec<_>>());
}

#[test]
fn a_backup_without_a_host_changes_nothing_and_knows_what_is_in_the_log() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=20, State::Completed);
    // As a Host that was killed leaves them: everything is in the log.
    let dead = folder.0.join("dead.db");
    let wal = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    std::fs::copy(folder.db(), &dead).expect("copied");
    std::fs::copy(wal(&folder.db()), wal(&dead)).expect("copied");
    let before = (std::fs::read(&dead).expect("read"), std::fs::read(wal(&dead)).expect("read"));
    assert_eq!(back_up(&dead, &folder.0.join("backup"), false, 5).expect("written").tasks, 20);
    assert_eq!((std::fs::read(&dead).expect("read"), std::fs::read(wal(&dead)).expect("read")), before);
}

#[test]
fn a_backup_replaces_nothing_unless_asked_and_never_the_database() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=2, State::Running);
    let to = folder.0.join("backup");
    std::fs::write(&to, "mine").expect("written");
    let fault = back_up(&folder.db(), &to, false, 5).expect_err("it is there").to_string();
    assert!(fault.contains("--force") && fault.contains("backup"), "{fault}");
    assert_eq!(std::fs::read(&to).expect("read"), b"mine");
    for own in ["cluster.db", "cluster.db-wal", "cluster.db.lock"] {
        let fault = back_up(&folder.db(), &folder.0.join(own), true, 5).expect_err(own).to_string();
        assert!(fault.contains("the database itself"), "{own}: {fault}");
    }
    std::fs::create_dir(folder.0.join("dir")).expect("made");
    for (odd, why) in [("dir", "no regular file"), ("absent/x", "absent")] {
        let fault = back_up(&folder.db(), &folder.0.join(odd), true, 5).expect_err(odd).to_string();
        assert!(fault.contains(why), "{odd}: {fault}");
    }
    back_up(&folder.db(), &to, true, 5).expect("written over");
    assert!(std::fs::metadata(&to).expect("there").len() > 1_000);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&to).expect("there")) & 0o777, 0o600);
    let fault = back_up(&folder.0.join("none.db"), &to, true, 5).expect_err("no database").to_string();
    assert!(fault.contains("not there"), "{fault}");
    assert!(
        !names(&folder).iter().any(|name| name.ends_with(".tmp") || name.contains("none.db-")),
        "{:?}",
        names(&folder)
    );
}

#[test]
fn what_is_no_whole_backup_is_refused_and_changes_nothing() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=30, State::Running);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("written");
    fill(&mut store, 31..=31, State::Running);
    drop(store);
    let whole = std::fs::read(&to).expect("read");
    let odd = folder.0.join("odd");
    let refused = |content: &[u8], word: &str| {
        std::fs::write(&odd, content).expect("written");
        let fault = prepare(&folder.db(), backup(&odd, false), NOW_S).expect_err(word).to_string();
        assert!(fault.contains(word) && fault.contains("odd"), "{word}: {fault}");
    };
    refused(b"", "cut off");
    refused(b"no database", "cut off");
    refused(&whole[..whole.len() - 1], "cut off");
    refused(&whole[..4_096], "cut off");
    refused(&std::fs::read(folder.db()).expect("read"), "no checksum");
    for at in [0, 100, 5_000, whole.len() - 200] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        refused(&changed, "checksum");
    }
    // Sealed, and still none that this program can use.
    let sealed = |edit: &str| {
        let path = folder.0.join("edited.db");
        let _none = std::fs::remove_file(&path);
        std::fs::copy(folder.db(), &path).expect("copied");
        let conn = Connection::open(&path).expect("open");
        conn.execute_batch("PRAGMA journal_mode = DELETE").expect("journal");
        conn.execute_batch(edit).expect("edited");
        drop(conn);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
        seal::seal(&mut file).expect("sealed");
        std::fs::read(&path).expect("read")
    };
    refused(&sealed("PRAGMA user_version = 99"), "newer");
    refused(&sealed("PRAGMA application_id = 5"), "not a database of this HakuRiver");
    refused(&sealed("UPDATE tasks SET spec = '{' WHERE id = 7"), "task 7");
    refused(&sealed("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'tasks_by_name'"), "damaged");
    let fault = prepare(&folder.db(), backup(&folder.0.join("absent"), false), NOW_S).expect_err("none").to_string();
    assert!(fault.contains("absent"), "{fault}");
    let store = Store::open(&folder.db()).expect("the old one is as it was");
    assert_eq!(ids(&store).len(), 31);
    assert!(
        !names(&folder).iter().any(|name| name.contains("restore") || name.contains("replaced")),
        "{:?}",
        names(&folder)
    );
}

#[test]
fn hosts_backups_and_restores_keep_out_of_each_others_way() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Running);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("beside a Host");
    let fault = prepare(&folder.db(), backup(&to, false), NOW_S).expect_err("a Host runs").to_string();
    assert!(fault.contains("a Host is running"), "{fault}");
    drop(store);
    let prepared = prepare(&folder.db(), backup(&to, false), NOW_S).expect("whole");
    let fault = Store::open(&folder.db()).expect_err("a restore is under way").to_string();
    assert!(fault.contains("restore") && fault.contains("under way"), "{fault}");
    let fault = back_up(&folder.db(), &folder.0.join("other"), false, 5).expect_err("the same").to_string();
    assert!(fault.contains("under way"), "{fault}");
    let fault = prepare(&folder.db(), backup(&to, false), NOW_S).expect_err("another restore").to_string();
    assert!(fault.contains("restore"), "{fault}");
    drop(prepared);
    let place = Place::of(&folder.db()).expect("place");
    let backs_up = place.lock_for_backup().expect("lock").expect("free");
    back_up(&folder.db(), &folder.0.join("other"), false, 5).expect("two backups at once do no harm");
    let fault = prepare(&folder.db(), backup(&to, false), NOW_S).expect_err("a backup is made").to_string();
    assert!(fault.contains("a backup of it is being made"), "{fault}");
    drop(backs_up);
    assert_eq!(ids(&Store::open(&folder.db()).expect("open")).len(), 3);
}

#[test]
fn a_restore_that_is_cut_off_anywhere_leaves_the_old_database_or_the_new_one() {
    let mut outcomes = BTreeSet::new();
    for steps in 0..12 {
        let folder = Folder::new();
        let mut store = Store::open(&folder.db()).expect("open");
        fill(&mut store, 1..=3, State::Running);
        let to = folder.0.join("backup");
        back_up(&folder.db(), &to, false, 5).expect("written");
        fill(&mut store, 4..=9, State::Running);
        // As a Host that was killed leaves it: tasks are in the log alone.
        let log = folder.0.join("cluster.db-wal");
        let left = [folder.db(), log].map(|path| (std::fs::read(&path).expect("read"), path));
        drop(store);
        left.into_iter().for_each(|(content, path)| std::fs::write(path, content).expect("as it was"));

        cuts::after(Some(steps));
        let cut = prepare(&folder.db(), backup(&to, false), NOW_S).and_then(Prepared::commit);
        cuts::after(None);
        let store = Store::open(&folder.db()).expect("whatever was done, there is a database");
        let found = ids(&store).len();
        assert!(found == 3 || found == 9, "{found} tasks after {steps} steps: neither the old one nor the new one");
        if cut.is_ok() {
            assert_eq!(found, 3);
        }
        outcomes.insert((cut.is_ok(), found));
        drop(store);
        let kept = Place::of(&folder.db()).expect("place").replaced(NOW_S);
        assert_eq!(kept.exists(), found == 3, "the old one is kept where the new one is");
        if found == 3 {
            assert_eq!(ids(&Store::open(&kept).expect("it is whole, with its log")).len(), 9);
        }
    }
    assert_eq!(outcomes, BTreeSet::from([(false, 3), (false, 9), (true, 3)]), "each of them was seen");
}

#[test]
fn a_backup_that_was_copied_over_the_database_does_not_meet_its_log() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Running);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("written");
    fill(&mut store, 4..=9, State::Running);
    let log = folder.0.join("cluster.db-wal");
    let left = std::fs::read(&log).expect("read");
    drop(store);
    for with_log in [true, false] {
        std::fs::copy(&to, folder.db()).expect("copied");
        if with_log {
            std::fs::write(&log, &left).expect("as a Host leaves it that was killed");
        } else {
            std::fs::remove_file(&log).expect("removed");
        }
        let fault = Store::open(&folder.db()).expect_err("refused").to_string();
        assert!(fault.contains("copied there by hand") && fault.contains("host restore"), "{fault}");
        assert_eq!(std::fs::read(folder.db()).expect("read"), std::fs::read(&to).expect("read"));
    }
    prepare(&folder.db(), backup(&to, false), NOW_S).and_then(Prepared::commit).expect("as it says");
    assert_eq!(ids(&Store::open(&folder.db()).expect("open")).len(), 3);
}

#[test]
fn root_does_nothing_with_another_users_database() {
    use std::os::unix::fs::chown;
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Running);
    drop(store);
    if chown(folder.db(), Some(65_534), Some(65_534)).is_err() {
        return;
    }
    let to = folder.0.join("backup");
    let before = std::fs::read_dir(&folder.0).expect("read").count();
    let fault = back_up(&folder.db(), &to, false, 5).expect_err("refused").to_string();
    assert!(fault.contains("sudo -u '#65534'"), "{fault}");
    std::fs::remove_file(folder.db()).expect("removed");
    chown(&folder.0, Some(65_534), Some(65_534)).expect("changed");
    let fault = prepare(&folder.db(), Source::Empty { cluster: None }, NOW_S).expect_err("refused").to_string();
    assert!(fault.contains("sudo -u '#65534'"), "{fault}");
    assert_eq!(std::fs::read_dir(&folder.0).expect("read").count(), before - 1, "nothing is made there");
}

#[test]
fn a_lock_is_no_way_to_another_file() {
    let folder = Folder::new();
    drop(Store::open(&folder.db()).expect("open"));
    let (lock, other) = (folder.0.join("cluster.db.backup.lock"), folder.0.join("other"));
    let _none = std::fs::remove_file(&lock);
    std::os::unix::fs::symlink(&other, &lock).expect("linked");
    let fault = back_up(&folder.db(), &folder.0.join("backup"), false, 5).expect_err("refused").to_string();
    assert!(fault.contains("cluster.db.backup.lock") && !other.exists(), "{fault}");
}

#[test]
fn a_backup_of_what_was_only_put_back_is_as_old_as_that() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Pending);
    drop(store);
    let [first, second] = ["a", "b"].map(|name| folder.0.join(name));
    back_up(&folder.db(), &first, false, 5_000).expect("written");
    prepare(&folder.db(), backup(&first, false), NOW_S).and_then(Prepared::commit).expect("restored");
    back_up(&folder.db(), &second, false, 9_000).expect("written");
    let fault = prepare(&folder.db(), backup(&second, true), NOW_S).expect_err("refused").to_string();
    assert!(fault.contains("--no-host-since is not so") && fault.contains("1970-01-01T00:00:05"), "{fault}");
    prepare(&folder.db(), backup(&second, false), NOW_S).and_then(Prepared::commit).expect("restored");
    let mut store = Store::open(&folder.db()).expect("open");
    assert_eq!(store.backup_mark().expect("read"), Some(5_000), "the time that its tasks are of");
    // Once a Host has taken note, backups are of their own time.
    store.forget_backup_mark().and_then(|()| store.commit()).expect("written");
    drop(store);
    let third = folder.0.join("c");
    back_up(&folder.db(), &third, false, 12_000).expect("written");
    prepare(&folder.db(), backup(&third, true), NOW_S).and_then(Prepared::commit).expect("restored");
}

#[test]
fn that_no_host_ran_since_is_not_believed_against_the_evidence() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Pending);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("written");
    fill(&mut store, 4..=4, State::Pending);
    store.skip_event_numbers(1_000_000).expect("written");
    store.commit().expect("committed");
    drop(store);
    let fault = prepare(&folder.db(), backup(&to, true), NOW_S).expect_err("refused").to_string();
    assert!(fault.contains("later events"), "{fault}");
    prepare(&folder.db(), backup(&to, false), NOW_S).and_then(Prepared::commit).expect("restored");
}

#[test]
fn what_is_restored_is_a_file_and_not_the_databases_own() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Running);
    drop(store);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("written");
    let own = Place::of(&folder.db()).expect("there").prepared();
    std::fs::copy(&to, &own).expect("copied");
    let fault = prepare(&folder.db(), backup(&own, false), NOW_S).expect_err("refused").to_string();
    assert!(fault.contains("give it another name") && own.exists(), "{fault}");
    let pipe = folder.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let fault = prepare(&folder.db(), backup(&pipe, false), NOW_S).expect_err("refused").to_string();
    assert!(fault.contains("not a regular file"), "{fault}");
}

#[test]
fn nothing_that_is_kept_is_written_over() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    fill(&mut store, 1..=3, State::Running);
    let to = folder.0.join("backup");
    back_up(&folder.db(), &to, false, 5).expect("written");
    drop(store);
    let mut kept = BTreeSet::new();
    for _ in 0..3 {
        let prepared = prepare(&folder.db(), backup(&to, true), NOW_S).expect("whole");
        assert!(kept.insert(prepared.commit().expect("restored").expect("one before")));
    }
    assert!(kept.iter().all(|path| path.exists()), "{kept:?}");
    let store = Store::open(&folder.db()).expect("open");
    assert_eq!(store.backup_mark(), Ok(None), "nothing has happened since it was made");
}

#[test]
fn beginning_anew_keeps_the_cluster_and_the_damaged_database() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    store.set_meta("cluster_id", "readable").expect("meta");
    fill(&mut store, 1..=3, State::Running);
    drop(store);
    let anew = |cluster| {
        let prepared = prepare(&folder.db(), Source::Empty { cluster }, NOW_S).expect("made");
        let kept = prepared.commit().expect("in place");
        let store = Store::open(&folder.db()).expect("open");
        assert!(ids(&store).is_empty());
        (store.meta("cluster_id").expect("meta"), kept)
    };
    assert_eq!(anew(None).0.as_deref(), Some("readable"));
    std::fs::write(folder.db(), "garbage").expect("written");
    let (cluster, kept) = anew(Some("known"));
    assert_eq!(cluster.as_deref(), Some("known"));
    assert_eq!(std::fs::read(kept.expect("kept")).expect("read"), b"garbage");
    std::fs::remove_file(folder.db()).expect("removed");
    assert!(matches!(anew(None), (Some(_), None)), "a new one");
}
