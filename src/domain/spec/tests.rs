use super::*;

#[test]
fn mounts_parse_normalise_and_print() {
    let table = [
        ("/a:/b", "/a:/b:rw"),
        ("/a:/b:rw", "/a:/b:rw"),
        ("/a:/b:ro", "/a:/b:ro"),
        ("/a//x/./y/:/b/", "/a/x/y:/b:rw"),
        ("/:/host:ro", "/:/host:ro"),
        ("/with space:/b c", "/with space:/b c:rw"),
        ("/a..b:/..c", "/a..b:/..c:rw"),
        ("/a:/.hakuriverx", "/a:/.hakuriverx:rw"),
        ("/größe:/b", "/größe:/b:rw"),
    ];
    for (text, printed) in table {
        let mount: Mount = text.parse().unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(mount.to_string(), printed);
        assert_eq!(printed.parse(), Ok(mount));
    }
}

#[test]
fn what_is_no_mount_is_refused() {
    let long = format!("/{}:/b", "a".repeat(4096));
    let table = [
        ("", "missing"),
        ("/a", "missing"),
        (":", "missing"),
        ("/a:", "missing"),
        (":/b", "missing"),
        ("a:/b", "not absolute"),
        ("/a:b", "not absolute"),
        ("./a:/b", "not absolute"),
        ("volume:/b", "not absolute"),
        ("~/a:/b", "not absolute"),
        ("/a:/b:", "ro or rw"),
        ("/a:/b:z", "ro or rw"),
        ("/a:/b:RO", "ro or rw"),
        ("/a:/b:ro,z", "ro or rw"),
        ("/a:/b:ro:rw", "three parts"),
        ("/a/../etc:/b", "'..'"),
        ("/a:/b/..", "'..'"),
        ("/a:/", "cannot be /"),
        ("/a:/./", "cannot be /"),
        ("/a:/.hakuriver", "own"),
        ("/a:/x/../.hakuriver", "'..'"),
        ("/a://.hakuriver/./task", "own"),
        ("/a\n:/b", "control"),
        ("/a:/b\0", "control"),
        ("/a:/b\u{85}", "control"),
        ("/a,readonly:/b", "comma"),
        ("/a:/b\"c", "comma"),
        (&long, "too long"),
    ];
    for (text, what) in table {
        let fault = text.parse::<Mount>().expect_err(text).to_string();
        assert!(fault.contains(what) && fault.contains("HOST_PATH:CONTAINER_PATH[:ro|rw]"), "{text:?}: {fault}");
        assert_eq!(fault.lines().count(), 1, "{fault}");
    }
}

#[test]
fn environment_variables_keep_their_value_to_the_byte() {
    for (text, name, value) in
        [("A=b", "A", "b"), ("_x9=", "_x9", ""), ("K=a=b c\n'\"$(id)", "K", "a=b c\n'\"$(id)"), ("k= ", "k", " ")]
    {
        let var: EnvVar = text.parse().unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!((var.name.as_str(), var.value.as_str()), (name, value));
        assert_eq!(format!("{var:?}"), format!("{name}=<hidden>"));
    }
}

#[test]
fn refused_environment_variables_never_show_a_value() {
    for bad in ["", "secret", "=secret", "9A=secret", "A-B=secret", "A B=secret", "Ä=secret", "A=secret\0", " A=secret"]
    {
        let fault = bad.parse::<EnvVar>().expect_err(bad).to_string();
        assert!(!fault.contains("secret"), "{fault}");
    }
    assert!(EnvVar::new(&"A".repeat(256), "").is_err());
}

#[test]
fn users_are_numbers() {
    assert_eq!("1000".parse(), Ok(UserId { uid: 1000, gid: None }));
    assert_eq!("0:100".parse(), Ok(UserId { uid: 0, gid: Some(100) }));
    assert_eq!("4294967294".parse::<UserId>().map(|user| user.to_string()), Ok("4294967294".to_owned()));
    for bad in ["", ":", "1:", ":1", "root", "-1", "+1", "1:2:3", "4294967295", "1:4294967295", "4294967296", " 1"] {
        let fault = bad.parse::<UserId>().expect_err(bad);
        assert!(fault.to_string().contains("UID[:GID]"), "{fault}");
    }
}

#[test]
fn durations() {
    for (text, seconds) in [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("2h30m", 9_000),
        ("1d", 86_400),
        ("1d2h3m4s", 93_784),
        ("1h90m", 9_000),
        ("0h1s", 1),
        ("365d", 31_536_000),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in [
        "",
        "0",
        "0s",
        "-1",
        "+1",
        "1.5h",
        "1h30",
        "30m1h",
        "1h1h",
        "h",
        "1 h",
        "1w",
        "1H",
        "366d",
        "365d1s",
        "m5",
        "99999999999999999999",
        "999999999999999999d",
        "1d99999999999999999999s",
    ] {
        let fault = parse_duration(bad).expect_err(bad);
        assert!(fault.to_string().contains("2h30m"), "{fault}");
    }
}
