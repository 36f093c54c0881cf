use super::*;

fn name(text: &str) -> EnvName {
    text.parse().expect("a name")
}

fn image(entrypoint: &[&str], cmd: &[&str]) -> Image {
    let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Image { id: "sha256:1".into(), entrypoint: texts(entrypoint), cmd: texts(cmd), tags: Vec::new(), size: 1 }
}

#[test]
fn a_name_that_docker_does_not_take_for_an_image_is_refused() {
    for good in ["ab", "my-env", "a.b_c--d", "a__b", "py3.12"] {
        assert_eq!(tag(&name(good)), Ok(format!("hakuriver/{good}:base")));
    }
    for bad in ["a", "MyEnv", "a..b", "a_.b", "a___b", "a-", "a.", "a_"] {
        assert!(tag(&name(bad)).expect_err(bad).contains(bad), "{bad}");
    }
}

#[test]
fn the_list_has_environments_alone() {
    let out = b"a1\tenv-b\tenv-b\tdebian:12\tUp 3 minutes\n\
        b2\thakuriver-vps-7\tenv-b\tabc\tUp 1 second\n\
        c3\tenv-a\tenv-a\tdebian:12\tExited (0) 2 hours ago\n\
        d4\tother\t\tdebian:12\tCreated\n";
    let all = listed(out);
    let names: Vec<_> = all.iter().map(|one| (one.id.as_str(), one.name.as_str(), one.status.as_str())).collect();
    assert_eq!(names, [("c3", "env-a", "Exited (0) 2 hours ago"), ("a1", "env-b", "Up 3 minutes")]);
    assert_eq!(listed(b""), []);
}

#[test]
fn a_container_is_known_by_its_whole_name_and_its_labels() {
    let line = r#"{"id":"abc1","name":"/abc","image":"sha256:1","image_name":"debian:12","status":"running","labels":{"hakuriver.env":"abc","hakuriver.cluster":"c"},"path":"/.hakuriver/hakuriver","auto_remove":false}"#;
    let found_as = |line: &str, name: &str| found(line.as_bytes(), name).expect("it is read");
    let ours = found_as(line, "abc").expect("it is there");
    assert!(ours.is_kept && ours.is_environment("c", "abc") && ours.task().is_none());
    assert!(!ours.is_environment("d", "abc") && ours.is_of_other_cluster("d", "abc"));
    assert_eq!(found_as(line, "ab"), None, "the beginning of an id is no name");
    // A task in an image that was made of an environment.
    let task = line.replace(r#""hakuriver.env":"abc""#, r#""hakuriver.env":"","hakuriver.task":"7""#);
    let task = found_as(&task, "abc").expect("it is there");
    assert_eq!((task.task(), task.is_environment("c", "abc")), (Some("7"), false));
    for (status, state) in
        [("restarting", State::Running), ("paused", State::Paused), ("exited", State::Ended), ("created", State::New)]
    {
        let found = found_as(&line.replace("\"running\"", &format!("\"{status}\"")), "abc").expect("it is there");
        assert_eq!(found.state, state, "{status}");
    }
    let bare = line.replace(r#"{"hakuriver.env":"abc","hakuriver.cluster":"c"}"#, "null").replace("/.haku", "/haku");
    let bare = found_as(&bare, "abc").expect("it is there");
    assert!(!bare.is_kept && !bare.is_environment("c", "abc"));
    assert!(found(b"{\"id\":", "abc").expect_err("cut").contains("docker inspect"));
}

#[test]
fn an_image_without_an_entry_point_is_given_none() {
    let argv = |image: &Image| run(&name("env"), "c", "/state/a,b", "debian:12", image).join(" ");
    let plain = argv(&image(&[], &["bash"]));
    assert!(
        plain.starts_with("run --detach --name env --label hakuriver.env=env --label hakuriver.cluster=c "),
        "{plain}"
    );
    assert!(
        plain.contains(r#"--mount type=bind,"source=/state/a,b",target=/.hakuriver/hakuriver,readonly "#),
        "{plain}"
    );
    assert!(plain.ends_with("--pull never debian:12 /.hakuriver/hakuriver supervise --idle"), "{plain}");
    assert!(plain.contains(" --label hakuriver.task= --label hakuriver.node= "), "{plain}");
    let with = argv(&image(&["/init"], &[]));
    assert!(with.ends_with("--entrypoint /.hakuriver/hakuriver debian:12 supervise --idle"), "{with}");
}

#[test]
fn what_is_packed_has_its_images_own_start_and_is_no_environments_container() {
    const LABELS: &str = "LABEL hakuriver.env= hakuriver.cluster= hakuriver.task= hakuriver.node=";
    for (own, changes) in [
        (None, vec![LABELS]),
        (Some(image(&[], &["sh", "-c", "echo \"a b\""])), vec![LABELS, r#"CMD ["sh","-c","echo \"a b\""]"#]),
        (Some(image(&["/init", "x"], &[])), vec![LABELS, r#"ENTRYPOINT ["/init","x"]"#, "CMD []"]),
    ] {
        let mut expected = vec!["commit"];
        changes.iter().for_each(|change| expected.extend(["--change", change]));
        expected.extend(["id", "x:1"]);
        assert_eq!(commit("id", own.as_ref(), "x:1"), expected);
    }
}

#[test]
fn a_pull_is_told_in_layers() {
    let mut pull = Pull::default();
    let said: Vec<_> = [
        "12: Pulling from library/debian",
        "aa: Pulling fs layer",
        "bb: Already exists",
        "aa: Downloading",
        "aa: Pull complete",
        "Digest: sha256:1",
    ]
    .iter()
    .filter_map(|line| pull.line(line))
    .collect();
    assert_eq!(said, ["0 of 1 layers", "1 of 2 layers", "2 of 2 layers"]);
}

#[test]
fn images_are_read_with_and_without_what_they_may_lack() {
    let line = r#"{"id":"sha256:1","entrypoint":null,"cmd":["sh"],"tags":[],"size":140}"#;
    assert_eq!(image_of(line.as_bytes()), Ok(Image { size: 140, ..image(&[], &["sh"]) }));
    assert!(image_of(b"x").is_err());
}
