use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g me@here";

fn rules() -> Rules {
    Rules {
        default_container: "base".into(),
        default_mounts: vec!["/opt/data:/data:ro".parse().expect("mount")],
        privileged_by_default: false,
        allow_privileged: true,
        allowed_mounts: vec!["/srv".into()],
    }
}

fn vps() -> SubmitRequest {
    SubmitRequest { task_type: "vps".into(), command: KEY.into(), ..SubmitRequest::default() }
}

fn command() -> SubmitRequest {
    SubmitRequest { task_type: "command".into(), command: "true".into(), ..SubmitRequest::default() }
}

fn parsed(body: SubmitRequest) -> Result<Submission, ActFault> {
    let known = |name: &EnvName| {
        if name.as_str() == "base" {
            Ok(())
        } else {
            Err(ActFault::new(400, format!("environment '{name}' does not exist")))
        }
    };
    parse(body, vec![1], &rules(), &known)
}

#[test]
fn defaults_are_those_of_the_kind_and_of_the_cluster() {
    let submission = parsed(vps()).expect("a VPS");
    let [(label, spec)] = submission.tasks.as_slice() else { panic!("one task") };
    assert_eq!((&**label, spec.cores), ("auto", 0));
    let Container::Environment { name, privileged, mounts } = &spec.container else { panic!("a container") };
    assert_eq!((name.as_str(), *privileged, mounts.len()), ("base", false, 1));
    assert_eq!(parsed(command()).expect("a command").tasks[0].1.cores, 1);
    let own = SubmitRequest { additional_mounts: Some(vec!["/srv/a:/a".into()]), ..vps() };
    let Container::Environment { mounts, .. } = &parsed(own).expect("own mounts").tasks[0].1.container else {
        panic!("a container")
    };
    assert_eq!(mounts[0].container, "/a", "own mounts replace the cluster's");
}

#[test]
fn what_is_wrong_is_refused_by_its_field() {
    let with = |edit: &dyn Fn(&mut SubmitRequest)| {
        let mut body = vps();
        edit(&mut body);
        parsed(body)
    };
    let targets = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    type Edit = Box<dyn Fn(&mut SubmitRequest)>;
    let cases: Vec<(&str, Edit)> = vec![
        ("task_type", Box::new(|b| b.task_type = "job".into())),
        ("public key", Box::new(|b| b.command = "'; touch /pwned; '".into())),
        ("public key", Box::new(|b| b.command = format!("command=\"id\" {KEY}"))),
        ("public key", Box::new(|b| b.command = String::new())),
        ("arguments", Box::new(|b| b.arguments = vec!["x".into()])),
        ("at most one", Box::new(move |b| b.targets = targets(&["n1", "n2"]))),
        ("valid", Box::new(move |b| b.targets = targets(&["n1:"]))),
        ("NULL", Box::new(|b| b.container_name = Some("NULL".into()))),
        ("does not exist", Box::new(|b| b.container_name = Some("other".into()))),
        ("environment name", Box::new(|b| b.container_name = Some("../x".into()))),
        ("task name", Box::new(|b| b.name = Some("Dev".into()))),
        ("required_memory_bytes", Box::new(|b| b.required_memory_bytes = Some(0))),
        ("max_wait_seconds", Box::new(|b| b.max_wait_seconds = Some(0))),
        ("time_limit_seconds", Box::new(|b| b.time_limit_seconds = Some(5))),
        ("immediate", Box::new(|b| (b.immediate, b.queue) = (true, true))),
        ("gpu_count", Box::new(|b| b.required_gpus = vec![vec![0]])),
        ("one list", Box::new(move |b| (b.targets, b.required_gpus) = (targets(&["n1"]), vec![vec![0], vec![1]]))),
        ("twice", Box::new(move |b| (b.targets, b.required_gpus) = (targets(&["n1"]), vec![vec![0, 0]]))),
        ("either", Box::new(move |b| (b.targets, b.gpu_count) = (targets(&["n1::0"]), Some(1)))),
        ("idempotency_key", Box::new(|b| b.idempotency_key = Some("k".repeat(129)))),
        ("line break", Box::new(|b| b.env_vars = [("A".to_owned(), "x\ny".to_owned())].into_iter().collect())),
        ("same place", Box::new(|b| b.additional_mounts = Some(vec!["/srv/a:/a".into(), "/srv/b:/a/".into()]))),
        ("mount", Box::new(|b| b.additional_mounts = Some(vec!["/srv".into()]))),
    ];
    for (word, edit) in cases {
        let fault = with(&*edit).expect_err(word);
        assert!(fault.status == 400 && fault.detail.contains(word), "{word}: {fault:?}");
    }
}

#[test]
fn what_the_cluster_forbids_is_a_403() {
    for mount in ["/etc:/x", "/srv/../etc:/x", "/srvx:/x", "/:/x"] {
        let body = SubmitRequest { additional_mounts: Some(vec![mount.into()]), ..vps() };
        let fault = parsed(body).expect_err(mount);
        assert!(matches!(fault.status, 400 | 403), "{mount}: {fault:?}");
    }
    let body = SubmitRequest { privileged: Some(true), ..vps() };
    let strict = Rules { allow_privileged: false, ..rules() };
    let fault = parse(body, Vec::new(), &strict, &|_| Ok(())).expect_err("privileged");
    assert_eq!(fault.status, 403);
}

#[test]
fn gpus_stand_in_the_target_or_beside_it() {
    for (target, list) in [("n1:0::1,0", vec![]), ("n1:0", vec![vec![1, 0]]), ("n1:0::0,1", vec![vec![0, 1]])] {
        let body = SubmitRequest { targets: vec![target.into()], required_gpus: list, ..vps() };
        let submission = parsed(body).expect(target);
        assert_eq!(submission.tasks[0].1.gpus, GpuRequest::Ids(vec![GpuId(0), GpuId(1)]), "{target}");
    }
    let body = SubmitRequest { gpu_count: Some(2), ..vps() };
    assert_eq!(parsed(body).expect("any").tasks[0].1.gpus, GpuRequest::Any(2));
    // Without a container nothing keeps a task from the other GPUs: a number is a matter of trust, a list would promise more.
    let bare = SubmitRequest { container_name: Some("NULL".into()), ..command() };
    let body = SubmitRequest { gpu_count: Some(1), ..bare.clone() };
    assert_eq!(parsed(body).expect("any").tasks[0].1.gpus, GpuRequest::Any(1));
    let in_the_target = SubmitRequest { targets: vec!["n1::0".into()], ..bare.clone() };
    let beside_it = SubmitRequest { targets: vec!["n1".into()], required_gpus: vec![vec![0]], ..bare };
    for body in [in_the_target, beside_it] {
        assert!(parsed(body).expect_err("a list without a container").detail.contains("container"));
    }
}

#[test]
fn a_batch_is_every_target_with_every_argument_set() {
    let body = SubmitRequest {
        targets: vec!["n1".into(), "n2::".into(), "n3:1".into()],
        argument_sets: Some(vec![vec!["1".into()], vec!["2".into()]]),
        ..command()
    };
    let submission = parsed(body.clone()).expect("a batch");
    let labels: Vec<&str> = submission.tasks.iter().map(|(label, _)| &**label).collect();
    assert_eq!(labels, ["n1", "n1", "n3:1", "n3:1"]);
    assert_eq!(submission.refused.len(), 1);
    assert_eq!(submission.refused[0].0, "n2::");
    let named = SubmitRequest { name: Some("dev".into()), ..body };
    assert!(parsed(named).expect_err("several").detail.contains("name"));
}

#[test]
fn a_small_body_does_not_become_tasks_beyond_all_memory() {
    let text = |length: usize| "x".repeat(length);
    let many = |count: usize, one: &str| vec![one.to_owned(); count];
    let mebibyte = 1 << 20;
    for body in [
        SubmitRequest { targets: many(100_001, "n1:"), ..command() },
        SubmitRequest { argument_sets: Some(vec![Vec::new(); 100_001]), ..command() },
        SubmitRequest { targets: many(300, "n1"), argument_sets: Some(vec![Vec::new(); 400]), ..command() },
        SubmitRequest { arguments: vec![text(mebibyte)], targets: many(1_000, "n1"), ..command() },
        SubmitRequest { command: text(mebibyte), argument_sets: Some(vec![Vec::new(); 1_000]), ..command() },
        SubmitRequest {
            env_vars: vec![("A".to_owned(), text(mebibyte))],
            argument_sets: Some(vec![Vec::new(); 1_000]),
            ..command()
        },
        SubmitRequest { workdir: Some(format!("/{}", text(mebibyte))), targets: many(1_000, "n1"), ..command() },
        SubmitRequest { arguments: many(200_000, ""), targets: many(1_000, "n1"), ..command() },
        SubmitRequest { additional_mounts: Some(many(65, "/srv:/a")), ..command() },
        SubmitRequest {
            additional_mounts: Some((0..64).map(|at| format!("/srv:/{at}")).collect()),
            argument_sets: Some(vec![Vec::new(); 100_000]),
            ..command()
        },
    ] {
        let fault = parsed(body).expect_err("too much");
        assert!(fault.status == 400 && fault.detail.contains("at most"), "{fault:?}");
    }
    let sets = (0..100_000).map(|number| vec![text(100), number.to_string()]).collect();
    let large = SubmitRequest { argument_sets: Some(sets), ..command() };
    assert_eq!(parsed(large).expect("as much as one body holds").tasks.len(), 100_000);
}

#[test]
fn a_directory_that_no_path_can_name_is_refused() {
    let within = |length: usize| SubmitRequest { workdir: Some(format!("/{}", "x".repeat(length - 1))), ..command() };
    assert!(parsed(within(LONGEST_PATH)).is_ok());
    let fault = parsed(within(LONGEST_PATH + 1)).expect_err("too long");
    assert!(fault.status == 400 && fault.detail.contains("workdir: expected at most 4096 bytes"), "{fault:?}");
}

#[test]
fn what_linux_never_starts_is_refused() {
    let text = |length: usize| "x".repeat(length);
    let (fits, too_much) = (6 * (1 << 20) - 100, 6 * (1 << 20));
    let bodies = |length: usize| {
        [
            SubmitRequest { arguments: vec![text(length)], ..command() },
            SubmitRequest { argument_sets: Some(vec![Vec::new(), vec![text(length)]]), ..command() },
            SubmitRequest { env_vars: vec![("A".to_owned(), text(length))], ..command() },
            SubmitRequest { arguments: vec![String::new(); length.div_ceil(9)], ..command() },
        ]
    };
    for (small, large) in bodies(fits).into_iter().zip(bodies(too_much)) {
        assert!(parsed(small).is_ok());
        // (Not with `expect_err`: its message would be the six megabytes.)
        let fault = parsed(large).err();
        assert!(fault.as_ref().is_some_and(|fault| fault.status == 400 && fault.detail.contains("Linux")), "{fault:?}");
    }
}
