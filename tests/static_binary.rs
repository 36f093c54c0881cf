//! What is shipped: one static file that runs where there is nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::{Cluster, SOON, Settings};
use crate::program;

fn release() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/x86_64-unknown-linux-gnu/release/hakuriver");
    assert!(path.exists(), "{} is missing: run make build (make test does)", path.display());
    path
}

#[test]
fn it_is_static_and_small() {
    let path = release();
    let ldd = program::run(Command::new("ldd").arg(&path), SOON);
    assert!(format!("{}{}", ldd.out(), ldd.stderr).contains("statically linked"), "{ldd}");
    let size = fs::metadata(&path).unwrap().len();
    assert!(size < 6_000_000, "{size} bytes");
}

#[test]
fn no_fault_points_are_shipped() {
    let has = |path: &Path, text: &str| {
        let content = fs::read(path).unwrap();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    };
    for text in ["HAKURIVER_FAULTS", "/shared/.faults"] {
        assert!(!has(&release(), text), "the release binary has {text}");
        // That they would be seen: the one under test is built with them.
        assert!(cfg!(not(feature = "fault-points")) || has(Path::new(env!("CARGO_BIN_EXE_hakuriver")), text), "{text}");
    }
}

#[test]
fn it_answers_in_an_empty_container() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let root = scratch.dir.join("root");
    fs::create_dir(&root).unwrap();
    fs::copy(release(), root.join("hakuriver")).unwrap();
    let tar = scratch.dir.join("root.tar");
    program::run(
        Command::new("tar").args(["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "hakuriver"]),
        SOON,
    )
    .ok();
    let image = format!("hakuriver/{}-scratch:1", scratch.tag);
    program::docker(&["import", tar.to_str().unwrap(), &image]);
    let version = program::run(Command::new("docker").args(["run", "--rm", &image, "/hakuriver", "--version"]), SOON);
    // A name that needs no server: it is looked up, and nobody listens there.
    let lookup = program::run(
        Command::new("docker").args([
            "run",
            "--rm",
            "--env",
            "HAKURIVER_TOKEN=x",
            &image,
            "/hakuriver",
            "client",
            "nodes",
        ]),
        SOON,
    );
    program::docker(&["rmi", &image]);
    assert!(version.ok().contains(env!("CARGO_PKG_VERSION")), "{version}");
    lookup.fails(3, &["127.0.0.1:8000"]);
}

#[test]
fn links_give_every_role_its_name() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let dir = scratch.dir.join("bin");
    fs::create_dir(&dir).unwrap();
    let mut command = scratch.command(&crate::env::binary());
    command.args(["init", "links", "--dir", dir.to_str().unwrap()]);
    // Twice: the second call finds them.
    for _ in 0..2 {
        program::run(&mut command, SOON).ok();
    }
    for role in ["vps", "ssh", "client", "host", "runner"] {
        let link = dir.join(format!("hakuriver.{role}"));
        let help = program::run(scratch.command(&link).arg("--help"), SOON).ok();
        assert!(help.contains(role), "{}: {help}", link.display());
    }
    let submit =
        program::run(scratch.command(&dir.join("hakuriver.vps")).args(["submit", "--container", "NULL"]), SOON);
    submit.fails(2, &["NULL"]);
}
