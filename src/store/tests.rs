//! The store as a whole: opening, migrating, reopening, grouping, cleaning up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use crate::domain::ids::{Attempt, GpuId, NumaId, TaskId};
use crate::domain::node::{Gpu, Inventory, NumaNode};
use crate::domain::placement::Placement;
use crate::domain::spec::{Container, EnvVar, GpuRequest, Patience, TaskKind, TaskSpec};
use crate::domain::state::{Exit, Standing, State, Want};

use super::*;

/// A folder that goes away with the test.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("hakuriver-store-{}", crate::sys::random::hex(8)));
        std::fs::create_dir(&path).expect("temporary folder");
        Self(path)
    }

    pub(super) fn db(&self) -> PathBuf {
        self.0.join("cluster.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn spec(name: Option<&str>) -> Arc<TaskSpec> {
    Arc::new(TaskSpec {
        kind: TaskKind::Command { program: "true".into(), arguments: Vec::new() },
        cores: 1,
        memory: None,
        gpus: GpuRequest::None,
        target: None,
        container: Container::Null,
        name: name.map(|name| name.parse().expect("name")),
        env: [].into(),
        patience: Patience { immediate: false, queue: false, max_wait: Some(Duration::from_secs(1)) },
        time_limit: None,
        workdir: None,
        user: None,
    })
}

pub(super) fn task(id: u64, state: State) -> Task {
    Task {
        id: TaskId::from_u64(id),
        batch: TaskId::from_u64(7),
        spec: spec(Some("dev")),
        standing: Standing {
            state,
            want: Want::Run,
            attempt: Attempt(2),
            rev: 9,
            note: Some("why".into()),
            exit: Exit { code: Some(137), signal: Some(9) },
        },
        placement: Some(Placement {
            node: "n1".parse().expect("name"),
            numa: Some(NumaId(1)),
            gpus: vec![GpuId(0), GpuId(3)],
            in_line: true,
        }),
        submitted_ms: 1_000 + id,
        started_ms: Some(2_000),
        completed_ms: state.is_settled().then_some(3_000),
        ssh_port: Some(30_000),
        host_keys: vec!["ssh-ed25519 AAAA".into(), "ssh-rsa BBBB".into()],
        stdout_bytes: Some(1 << 40),
        stderr_bytes: None,
        unit: Some("hakuriver-task-7.scope".into()),
    }
}

#[test]
fn what_was_committed_is_there_again_after_a_reopen() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    let node = NodeRecord {
        name: "n1".parse().expect("name"),
        address: "10.0.0.1".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        instance: "i".into(),
        session: "s".into(),
        version: "1".into(),
        inventory: Inventory {
            cpus: "0-3,1500".parse().expect("cpus"),
            memory: 8 << 30,
            numa: vec![NumaNode { id: NumaId(2), cpus: "0-1".parse().expect("cpus"), memory: 0 }],
            gpus: vec![Gpu { id: GpuId(0), uuid: "GPU-1".into(), numa: None }],
            siblings: vec!["0-1".parse().expect("cpus")],
        },
        inventoried: true,
        draining: false,
        silent: true,
        registered_ms: 5,
    };
    store.put_node(&node).expect("node");
    store.insert_task(&task(10, State::Pending)).expect("task");
    let mut changed = task(10, State::Running);
    changed.standing.note = None;
    store.update_task(&changed).expect("update");
    store.insert_task(&task(11, State::Completed)).expect("task");
    store.set_meta("cluster_id", "c").expect("meta");
    let seq = store
        .add_event(&NewEvent {
            time_ms: 1,
            task: Some(changed.id),
            node: None,
            from: None,
            to: "pending",
            cause: "submitted",
        })
        .expect("event");
    let kept = KeptAnswer { body_hash: vec![1, 2], answer: "{}".into() };
    store.keep_answer("k", &kept, 3).expect("answer");
    store.commit().expect("commit");
    drop(store);

    let store = Store::open(&folder.db()).expect("reopen");
    assert_eq!(store.nodes(), Ok(vec![node]));
    assert_eq!(store.live_tasks(), Ok(vec![changed.clone()]));
    assert_eq!(store.task(TaskId::from_u64(11)), Ok(Some(task(11, State::Completed))));
    assert_eq!(store.newest_id(), Ok(11));
    assert_eq!(store.meta("cluster_id"), Ok(Some("c".into())));
    assert_eq!(store.kept_answer("k"), Ok(Some(kept)));
    assert_eq!(store.last_event(), Ok(seq));
    let readers = store.readers();
    assert_eq!(readers.task(changed.id), Ok(Some(changed)));
    assert_eq!(readers.events_after(0, 10, &EventFilter::default()).expect("events").0.len(), 1);
    assert_eq!(readers.event_bounds(), Ok((1, 1)));
    assert_eq!(readers.task_named(&"dev".parse().expect("name")).expect("named").map(|t| t.id.get()), Some(11));
}

#[test]
fn changes_are_found_by_task_and_by_batch() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    let mut expected: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for id in 1..=30 {
        let task = Task { batch: TaskId::from_u64(100 + id % 3), ..task(id, State::Pending) };
        store.insert_task(&task).expect("task");
        let event =
            NewEvent { time_ms: id, task: Some(task.id), node: None, from: None, to: "pending", cause: "submitted" };
        expected.entry(task.batch.get()).or_default().push(store.add_event(&event).expect("event"));
    }
    let of_node = NewEvent { time_ms: 31, task: None, node: Some("n"), from: None, to: "online", cause: "registered" };
    let last = store.add_event(&of_node).expect("event");
    store.commit().expect("commit");
    let readers = store.readers();
    let find = |since: u64, limit: u32, filter: &EventFilter| {
        let (rows, last) = readers.events_after(since, limit, filter).expect("events");
        (rows.iter().map(|row| row.seq).collect::<Vec<_>>(), last)
    };
    for (batch, numbers) in expected {
        let filter = EventFilter { batch: Some(TaskId::from_u64(batch)), task: None };
        assert_eq!(find(0, 100, &filter), (numbers, last), "batch {batch}");
    }
    let nobody = EventFilter { batch: Some(TaskId::from_u64(7)), task: None };
    assert_eq!(
        find(0, 10, &nobody),
        (vec![], 10),
        "what was looked at is told, so that the next look goes on behind it"
    );
    assert_eq!(find(last, 10, &nobody), (vec![], last));
    let one = EventFilter { batch: None, task: Some(TaskId::from_u64(5)) };
    assert_eq!(find(0, 100, &one), (vec![5], last));
    assert_eq!(find(29, 100, &EventFilter::default()), (vec![30, 31], last));
}

#[test]
fn a_turn_is_stored_whole_or_not_at_all() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    let readers = store.readers();
    store.insert_task(&task(1, State::Pending)).expect("first");
    store.insert_task(&task(2, State::Pending)).expect("second");
    assert_eq!(readers.task(TaskId::from_u64(1)), Ok(None), "nothing is seen before the commit");
    store.rollback();
    assert_eq!(store.live_tasks(), Ok(Vec::new()));
    store.insert_task(&task(3, State::Pending)).expect("third");
    store.commit().expect("commit");
    assert!(readers.task(TaskId::from_u64(3)).expect("read").is_some());
}

#[test]
fn a_full_disk_is_told_apart_and_is_survived() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    store.insert_task(&task(1, State::Pending)).expect("task");
    store.commit().expect("commit");
    store.limit_growth(0);
    let fault = (2..10_000).find_map(|id| store.insert_task(&task(id, State::Pending)).err()).expect("a fault");
    assert!(matches!(fault, StoreFault::Full(_)), "{fault:?}");
    store.rollback();
    assert_eq!(store.live_tasks().expect("read").len(), 1);
    store.limit_growth(1_000);
    store.insert_task(&task(2, State::Pending)).expect("there is room again");
    store.commit().expect("commit");
}

#[test]
fn a_second_host_on_the_same_database_is_refused_by_name() {
    let folder = Folder::new();
    let _first = Store::open(&folder.db()).expect("open");
    let fault = Store::open(&folder.db()).expect_err("refused").to_string();
    assert!(fault.contains("another Host") && fault.contains("cluster.db"), "{fault}");
}

#[test]
fn a_damaged_foreign_or_newer_database_is_refused_and_left_alone() {
    let folder = Folder::new();
    let whole = |edit: &dyn Fn(&Connection)| {
        let _ = std::fs::remove_file(folder.db());
        drop(Store::open(&folder.db()).expect("open"));
        let conn = Connection::open(folder.db()).expect("open");
        edit(&conn);
        conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("checkpoint");
        drop(conn);
    };
    let refused = |word: &str| {
        let before = std::fs::read(folder.db()).expect("read");
        let fault = Store::open(&folder.db()).expect_err(word).to_string();
        assert!(fault.contains(word) && fault.contains("cluster.db"), "{word}: {fault}");
        assert_eq!(before, std::fs::read(folder.db()).expect("read"), "{word}: the file was changed");
    };
    whole(&|conn| conn.execute_batch("PRAGMA user_version = 99").expect("version"));
    refused("newer");
    whole(&|conn| conn.execute_batch("PRAGMA application_id = 0").expect("id"));
    refused("0.3");
    for content in [
        &b""[..],
        b"no database at all, but long enough to have a header of a hundred bytes ..................................",
    ] {
        std::fs::write(folder.db(), content).expect("write");
        refused("damaged");
    }
    whole(&|_| ());
    let mut bytes = std::fs::read(folder.db()).expect("read");
    let (start, end) = (4_096, bytes.len());
    bytes[start..end].fill(0xa5);
    std::fs::write(folder.db(), bytes).expect("write");
    refused("backup");
}

#[test]
fn lists_are_filtered_and_newest_first() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    for id in 1..=20 {
        store.insert_task(&task(id, if id % 2 == 0 { State::Failed } else { State::Running })).expect("task");
    }
    store.commit().expect("commit");
    let ids = |filter: TaskFilter| {
        store.readers().list("command", &filter).expect("list").iter().map(|t| t.id.get()).collect::<Vec<_>>()
    };
    assert_eq!(ids(TaskFilter { limit: 3, ..TaskFilter::default() }), [20, 19, 18]);
    assert_eq!(ids(TaskFilter { limit: 2, state: Some(State::Running), ..TaskFilter::default() }), [19, 17]);
    let before = Some(TaskId::from_u64(4));
    assert_eq!(ids(TaskFilter { limit: 9, before, node: Some("n1".parse().expect("name")), state: None }), [3, 2, 1]);
    assert!(ids(TaskFilter { limit: 9, node: Some("n2".parse().expect("name")), ..TaskFilter::default() }).is_empty());
}

#[test]
fn old_ended_tasks_and_events_go_and_the_newest_task_stays() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    for (id, state) in [(1, State::Lost), (2, State::Completed), (3, State::Killed)] {
        store.insert_task(&task(id, state)).expect("task");
        let event =
            NewEvent { time_ms: id * 1_000, task: None, node: Some("n1"), from: None, to: "online", cause: "test" };
        store.add_event(&event).expect("event");
    }
    store.commit().expect("commit");
    let gone = |rows, tasks: &[u64]| Ok(Gone { rows, tasks: tasks.iter().copied().map(TaskId::from_u64).collect() });
    assert_eq!(store.clean_up(1_000, 100), gone(0, &[]));
    assert_eq!(store.clean_up(3_000, 100), gone(2, &[]), "two events");
    assert_eq!(store.clean_up(3_001, 100), gone(2, &[2]), "task 2 and the last event");
    store.commit().expect("commit");
    assert_eq!(store.readers().event_bounds(), Ok((4, 3)), "numbers are not used again");
    assert_eq!(store.live_tasks().expect("live").len(), 1);
    assert!(store.task(TaskId::from_u64(2)).expect("read").is_none());
    assert_eq!(store.newest_id(), Ok(3));
}

#[test]
fn a_list_has_the_beginning_of_what_is_long() {
    let folder = Folder::new();
    let mut store = Store::open(&folder.db()).expect("open");
    let long = |arguments: Vec<String>| {
        let mut spec = (*spec(None)).clone();
        spec.kind = TaskKind::Command { program: "true".into(), arguments };
        spec.env = [EnvVar::new("SECRET", "x").expect("variable")].into();
        Arc::new(spec)
    };
    let sets = [
        vec!["a".to_owned(); 3],
        vec!["é".repeat(1_000_000), "b".to_owned()],
        vec![String::new(); 1_000_000],
        vec!["c".to_owned(), "d".repeat(4_096)],
    ];
    for (id, arguments) in (1..).zip(sets.clone()) {
        store.insert_task(&Task { spec: long(arguments), ..task(id, State::Pending) }).expect("task");
    }
    store.commit().expect("commit");
    let filter = TaskFilter { limit: 10, ..TaskFilter::default() };
    let mut listed = store.readers().list("command", &filter).expect("read");
    listed.reverse();
    let lengths: Vec<(usize, usize)> = listed
        .iter()
        .map(|task| {
            assert!(task.spec.env.is_empty(), "no list has variables");
            let TaskKind::Command { arguments, .. } = &task.spec.kind else { panic!("a command") };
            (arguments.len(), arguments.iter().map(String::len).sum())
        })
        .collect();
    assert_eq!(lengths[0], (3, 3));
    assert!(lengths[1..].iter().all(|(count, bytes)| *count <= 4_097 && *bytes <= 4_100), "{lengths:?}");
    let TaskKind::Command { arguments, .. } = &listed[1].spec.kind else { panic!("a command") };
    assert!(arguments[0].ends_with("é…") && arguments[1] == "…", "what is missing is seen to be");
    let whole = store.readers().task(TaskId::from_u64(2)).expect("read").expect("there");
    let TaskKind::Command { arguments, .. } = &whole.spec.kind else { panic!("a command") };
    assert_eq!(*arguments, sets[1], "the record has all of it");
}
