use super::*;
use crate::domain::ids::TaskId;

/// `docker inspect --format INSPECT` of 20.10.24, for a paused and for an exited container.
const PAUSED: &str = r#"{"id":"b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c","state":{"Status":"paused","Running":true,"Paused":true,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":15623,"ExitCode":0,"Error":"","StartedAt":"2026-11-23T01:12:22.684470849Z","FinishedAt":"0001-01-01T00:00:00Z"},"labels":{"hakuriver.attempt":"1","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42","hakuriver.test-image":"3adda069787df25e"},"restart":"no","ports":{"22/tcp":[{"HostIp":"127.0.0.1","HostPort":"30001"}]},"cpus":"0","shares":0,"mounts":[{"Type":"bind","Source":"/tmp/rs","Destination":"/x","Mode":"ro","RW":false,"Propagation":"rprivate"},{"Type":"bind","Source":"/s/bin/hakuriver-1","Destination":"/.hakuriver/hakuriver","Mode":"","RW":false,"Propagation":"rprivate"}]}"#;
const EXITED: &str = r#"{"id":"b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c","state":{"Status":"exited","Running":false,"Paused":false,"Restarting":false,"OOMKilled":true,"Dead":false,"Pid":0,"ExitCode":137,"Error":"","StartedAt":"2026-11-23T01:12:24.995225927Z","FinishedAt":"2026-11-23T01:12:25.001363726Z"},"labels":{"hakuriver.attempt":"2","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42"},"restart":"unless-stopped","ports":{},"cpus":"","shares":102,"mounts":[{"Type":"bind","Source":"/s/bin/hakuriver-1","Destination":"/.hakuriver/hakuriver","Mode":"","RW":false,"Propagation":"rprivate"}]}"#;

fn owner() -> Owner {
    Owner { cluster: "rs".to_owned(), node: "n".to_owned() }
}

#[test]
fn inspect_tells_all_that_a_record_is_rebuilt_from() {
    let containers = inspected(format!("{PAUSED}\n{EXITED}\n").as_bytes(), &owner()).expect("it can be read");
    let labels = |attempt| Labels { task: TaskId::from_u64(42), attempt: Attempt(attempt), kind: "vps".to_owned() };
    let id = "b78b63e045152c641ea2c145a6abc67574185f93387beeaec6b2106c09ac919c".to_owned();
    assert_eq!(
        containers[0],
        Container {
            id: id.clone(),
            labels: labels(1),
            state: ContainerState::Paused,
            restarts: false,
            published: Some(("127.0.0.1".to_owned(), 30_001)),
            cpus: "0".to_owned(),
            exclusive: true,
            started_at: Some("2026-11-23T01:12:22.684470849Z".to_owned()),
            never_began: false,
            binary: "/s/bin/hakuriver-1".to_owned(),
        }
    );
    let finished_at = Some("2026-11-23T01:12:25.001363726Z".to_owned());
    assert_eq!(
        containers[1],
        Container {
            id,
            labels: labels(2),
            state: ContainerState::Exited(ContainerExit { code: 137, oom: true, finished_at }),
            restarts: true,
            published: None,
            cpus: String::new(),
            exclusive: false,
            started_at: Some("2026-11-23T01:12:24.995225927Z".to_owned()),
            never_began: false,
            binary: "/s/bin/hakuriver-1".to_owned(),
        }
    );
}

#[test]
fn the_template_asks_for_the_labels_that_are_read_and_no_others() {
    for label in [CLUSTER, NODE, TASK, ATTEMPT, KIND] {
        assert_eq!(INSPECT.matches(label).count(), 2, "{label}");
    }
    assert!(!INSPECT.contains("json .Config.Labels"));
    let nobodys = PAUSED.replace(r#""hakuriver.task":"42""#, r#""hakuriver.task":null"#);
    assert_eq!(inspected(nobodys.as_bytes(), &owner()).expect("readable"), []);
}

#[test]
fn a_copy_has_the_labels_and_not_our_binary() {
    let copy = PAUSED.replace("/.hakuriver/hakuriver", "/elsewhere");
    let both = format!("{copy}\n{PAUSED}\n");
    assert_eq!(inspected(both.as_bytes(), &owner()), inspected(PAUSED.as_bytes(), &owner()));
}

#[test]
fn port_0_is_where_nobody_listens() {
    let text = PAUSED.replace("30001", "0");
    let found = inspected(text.as_bytes(), &owner()).expect("readable");
    assert_eq!(found[0].published, None);
}

#[test]
fn foreign_labels_are_passed_over_and_foreign_output_is_an_error() {
    let foreign = PAUSED.replace("\"hakuriver.task\":\"42\"", "\"hakuriver.task\":\"x\"");
    assert_eq!(inspected(foreign.as_bytes(), &owner()), Ok(Vec::new()));
    for other in [Owner { node: "m".to_owned(), ..owner() }, Owner { cluster: "x".to_owned(), ..owner() }] {
        assert_eq!(inspected(PAUSED.as_bytes(), &other), Ok(Vec::new()));
    }
    assert!(inspected(b"{\"id\":", &owner()).expect_err("it is cut").contains("docker inspect"));
}

#[test]
fn events_that_matter_are_read_and_others_passed_over() {
    let line = r#"{"status":"die","id":"b78b63","from":"hakuriver-test/sshd:1","Type":"container","Action":"die","Actor":{"ID":"b78b63","Attributes":{"exitCode":"1","hakuriver.attempt":"1","hakuriver.cluster":"rs","hakuriver.kind":"vps","hakuriver.node":"n","hakuriver.task":"42","image":"hakuriver-test/sshd:1","name":"hakuriver-vps-42"}},"scope":"local","time":1795396342,"timeNano":1795396342791807717}"#;
    let labels = Labels { task: TaskId::from_u64(42), attempt: Attempt(1), kind: "vps".to_owned() };
    assert_eq!(
        event(line),
        Some(DockerEvent {
            container: "b78b63".to_owned(),
            labels,
            is_named: true,
            action: DockerAction::Die,
            exit_code: Some(1),
            at_ms: Some(1_795_396_342_791),
        })
    );
    let copy = event(&line.replace("hakuriver-vps-42", "sad_noether")).expect("it is told");
    assert!(!copy.is_named);
    for (word, action) in [
        ("start", Some(DockerAction::Start)),
        ("pause", Some(DockerAction::Pause)),
        ("unpause", Some(DockerAction::Unpause)),
        ("destroy", Some(DockerAction::Destroy)),
        ("create", None),
        ("exec_create: sh -c true", None),
    ] {
        let line = line.replace("\"Action\":\"die\"", &format!("\"Action\":\"{word}\""));
        assert_eq!(event(&line).map(|event| event.action), action, "{word}");
    }
    assert_eq!(event("{\"x\":["), None);
}

#[test]
fn the_list_shows_what_containers_do() {
    let list = b"a1\tUp Less than a second (Paused)\nb2\tUp 3 minutes\nc3\tExited (137) 2 hours ago\nd4\tCreated\ne5\tRestarting (1) 4 seconds ago\nf6\tUp 2 minutes (unhealthy)\n";
    let read = listed(list);
    let expected = [
        ("a1", Glimpse::Paused),
        ("b2", Glimpse::Running),
        ("c3", Glimpse::Exited),
        ("d4", Glimpse::Created),
        ("e5", Glimpse::Restarting),
        ("f6", Glimpse::Running),
    ];
    assert_eq!(read, expected.map(|(id, glimpse)| (id.to_owned(), glimpse)));
}

#[test]
fn the_layers_of_images_are_read_and_those_without_any_passed_over() {
    let stdout = b"[\"sha256:1\",\"sha256:2\"]\nnull\n\n[]\n[\"sha256:3\"]\n";
    let found: Vec<Vec<String>> = vec![vec!["sha256:1".into(), "sha256:2".into()], vec![], vec!["sha256:3".into()]];
    assert_eq!(chains(stdout), found);
}

#[test]
fn places_of_our_mounts_are_seen_among_what_has_changed() {
    for (changes, has) in [
        ("", false),
        ("C /etc\nA /etc/.hakuriver\nA /.hakuriverx\n", false),
        ("C /tmp\nA /.hakuriver\nA /.hakuriver/out\n", true),
        ("A /.hakuriver/task", true),
    ] {
        assert_eq!(has_our_mounts(changes.as_bytes()), has, "{changes}");
    }
}
