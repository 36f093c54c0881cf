use super::*;
use crate::sys::file::Scratch;

fn full() -> Record {
    Record {
        rev: 7,
        phase: Phase::Running { note: Some("a \"note\"\nof two lines".to_owned()) },
        launched: true,
        container: Some("b78b".to_owned()),
        port: Some(30_001),
        cpus: "0-1,4".parse().expect("a list"),
        exclusive: true,
        host_keys: Some(vec!["ssh-ed25519 AAAA".to_owned()]),
        started_at: Some("2026-11-23T01:12:22.684470849Z".to_owned()),
        answered_since: Some("2026-11-23T01:12:22.684470849Z".to_owned()),
        binary: "/s/bin/x".to_owned(),
        ..Record::new(TaskId::from_u64(9_007_199_254_740_993), Attempt(3), "vps", "boot")
    }
}

#[test]
fn what_is_written_is_read_again_in_every_phase() {
    let scratch = Scratch::new();
    let records = Records::open(scratch.path(), "c1").expect("it can be made");
    let outcome = Outcome { kept: true, ..Outcome::exited(137, true, Some("why".to_owned())) };
    for phase in [
        Phase::Starting { progress: None },
        Phase::Starting { progress: Some("loading".to_owned()) },
        Phase::Running { note: None },
        Phase::Paused,
        Phase::Ended(outcome),
        Phase::Ended(Outcome::killed()),
    ] {
        let record = Record { phase, rev: u64::from(u32::MAX) * 512, ..full() };
        records.save(&record).expect("it can be written");
        let found = records.load().expect("it can be listed");
        assert_eq!((found.records, found.warnings), (vec![record], Vec::new()));
    }
}

#[test]
fn of_several_attempts_the_last_one_counts() {
    let scratch = Scratch::new();
    let records = Records::open(scratch.path(), "c1").expect("it can be made");
    for attempt in [2, 11, 9] {
        records.save(&Record { attempt: Attempt(attempt), ..full() }).expect("it can be written");
    }
    let found = records.load().expect("it can be listed");
    assert_eq!(found.records.iter().map(|record| record.attempt.0).collect::<Vec<_>>(), [11]);
    assert_eq!(fs::read_dir(scratch.path()).expect("it is there").count(), 1);
}

#[test]
fn a_folder_without_a_record_is_swept_away() {
    let scratch = Scratch::new();
    let records = Records::open(scratch.path(), "c1").expect("it can be made");
    fs::create_dir_all(scratch.path().join("7.1/box")).expect("it can be made");
    let found = records.load().expect("it can be listed");
    assert!(found.records.is_empty() && found.warnings.is_empty(), "{found:?}");
    assert!(!scratch.path().join("7.1").exists());
}

#[test]
fn damaged_and_foreign_records_are_named_and_left_alone() {
    let scratch = Scratch::new();
    let records = Records::open(scratch.path(), "c1").expect("it can be made");
    records.save(&full()).expect("it can be written");
    let file = records.folder(full().task, full().attempt).join(FILE);
    let other = Records::open(scratch.path(), "c2").expect("it is there");
    assert!(other.load().expect("it can be listed").warnings[0].contains("cluster c1"));
    fs::write(&file, "{\"format\":").expect("it can be written");
    let found = records.load().expect("it can be listed");
    assert!(found.records.is_empty() && found.warnings[0].contains("record.json"), "{found:?}");
    assert!(file.exists());
}

#[test]
fn an_exit_status_tells_its_signal() {
    for (code, oom, state, signal) in [
        (0, false, Ending::Completed, None),
        (0, true, Ending::Completed, None),
        (1, false, Ending::Failed, None),
        (137, false, Ending::Failed, Some(9)),
        (137, true, Ending::KilledOom, Some(9)),
        (255, false, Ending::Failed, None),
    ] {
        let outcome = Outcome::exited(code, oom, None);
        assert_eq!((outcome.state, outcome.exit_signal, outcome.exit_code), (state, signal, Some(code)), "{code}");
    }
}
