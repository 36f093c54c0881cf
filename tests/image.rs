//! The environment's tarball: loaded where it is missing, once, and never half.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::env::{Cluster, SOON, Settings, image_file, write_script};
use crate::program::{self, docker};
use crate::wait;

/// An image that Docker does not have: packed as 0.3 does it (`docker commit`, `docker save`), then removed from Docker.
pub struct FreshImage {
    pub tarball: std::path::PathBuf,
    /// `sha256:…`
    pub id: String,
}

impl FreshImage {
    /// `name` as in `hakuriver/<name>:base`.
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        let tag = format!("hakuriver/{}-{name}:base", cluster.tag);
        let container = docker(&["create", "hakuriver-test/sshd:1", "true"]);
        let marker = cluster.dir.join("marker");
        fs::write(&marker, &container).unwrap();
        docker(&["cp", marker.to_str().unwrap(), &format!("{container}:/marker")]);
        docker(&["commit", &container, &tag]);
        docker(&["rm", "-v", &container]);
        let id = docker(&["image", "inspect", "-f", "{{.Id}}", &tag]);
        let tarball = cluster.dir.join(format!("{name}.tar"));
        docker(&["save", "-o", tarball.to_str().unwrap(), &tag]);
        docker(&["rmi", &tag]);
        Self { tarball, id }
    }

    pub fn is_loaded(&self) -> bool {
        let mut command = Command::new("docker");
        program::run(command.args(["image", "inspect", &self.id]), SOON).status == 0
    }

    /// Removes it from Docker again.
    pub fn unload(&self) {
        if self.is_loaded() {
            docker(&["rmi", "-f", &self.id]);
        }
    }
}

impl Drop for FreshImage {
    fn drop(&mut self) {
        // May run while a failed test unwinds: no assertions.
        let _ = Command::new("docker").args(["rmi", "-f", &self.id]).output();
    }
}

/// A docker that notes each of its calls in `calls`.
fn noting_docker(scratch: &Cluster) -> (std::path::PathBuf, std::path::PathBuf) {
    let (wrapper, calls) = (scratch.dir.join("docker"), scratch.dir.join("calls"));
    write_script(&wrapper, &format!("#!/bin/sh\necho \"$*\" >>{}\nexec docker \"$@\"\n", calls.display()));
    (wrapper, calls)
}

#[test]
fn concurrent_tasks_wait_for_one_load_of_a_0_3_tarball() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let (wrapper, calls) = noting_docker(&scratch);
    let cluster = Cluster::up_with(Settings { docker_command: Some(wrapper), ..Settings::default() });
    let image = FreshImage::new(&cluster, "fresh");
    // Older and foreign neighbours: only the newest of that name counts.
    cluster.add_environment("fresh", 1_600_000_000, &image_file("bare.tar"));
    cluster.add_environment("fresh", 1_700_000_000, &image.tarball);
    assert!(!image.is_loaded());
    let ids: Vec<String> = (0..3).map(|_| cluster.submit_no_wait(&["--container", "fresh"])).collect();
    for id in &ids {
        cluster.await_status(id, "running");
        let used = docker(&["inspect", "-f", "{{.Image}}", &cluster.container(id)]);
        assert_eq!(used, image.id, "run by image id");
    }
    let calls = || fs::read_to_string(&calls).unwrap().lines().filter(|line| line.contains("load")).count();
    assert_eq!(calls(), 1, "one load for three tasks");
    let again = cluster.submit(&["--container", "fresh"]);
    assert_eq!(calls(), 1, "a node that has it loads nothing");
    for id in ids.iter().chain([&again]) {
        cluster.kill_vps(id);
    }
}

#[test]
fn a_load_shows_its_progress() {
    let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    let wrapper = scratch.dir.join("docker");
    let gate = scratch.dir.join("gate");
    fs::write(&gate, "").unwrap();
    write_script(
        &wrapper,
        &format!(
            "#!/bin/sh\ncase \"$*\" in *load*) while [ -e {} ]; do sleep 0.05; done;; esac\nexec docker \"$@\"\n",
            gate.display()
        ),
    );
    let cluster = Cluster::up_with(Settings { docker_command: Some(wrapper), ..Settings::default() });
    let image = FreshImage::new(&cluster, "slow");
    cluster.add_environment("slow", 1_700_000_000, &image.tarball);
    let id = cluster.submit_no_wait(&["--container", "slow"]);
    wait::until("the load is shown", SOON, || {
        let record = cluster.status(&id);
        match record.reason {
            Some(reason) if record.status == "assigning" && reason.contains("load") => Ok(()),
            other => Err(format!("{} {other:?}", record.status)),
        }
    });
    // The Runner goes on meanwhile: another VPS starts.
    let other = cluster.submit(&[]);
    cluster.kill_vps(&other);
    fs::remove_file(&gate).unwrap();
    cluster.await_status(&id, "running");
    cluster.kill_vps(&id);
}

#[test]
fn a_truncated_or_foreign_tarball_fails_its_tasks_by_name_and_nothing_else() {
    let cluster = Cluster::up();
    let whole = fs::read(image_file("sshd.tar")).unwrap();
    let cases: [(&str, &[u8]); 4] = [
        ("cut", &whole[..whole.len() / 2]),
        ("empty", b""),
        ("garbage", b"this is no tar archive at all, but long enough to look at"),
        ("foreign", &fs::read(tar_of_something_else(&cluster)).unwrap()),
    ];
    for (name, bytes) in cases {
        let file = cluster.dir.join(format!("shared/hakuriver-containers/{name}-1700000001.tar"));
        fs::write(&file, bytes).unwrap();
        let id = cluster.submit_no_wait(&["--container", name]);
        let record = cluster.await_status(&id, "failed");
        let message = record.error_message.unwrap();
        assert!(message.contains(&format!("{name}-1700000001.tar")), "{name}: {message}");
        cluster.await_no_container(&id);
    }
    // The environment that was there works as before.
    let id = cluster.submit(&[]);
    cluster.kill_vps(&id);
}

fn tar_of_something_else(cluster: &Cluster) -> std::path::PathBuf {
    let tar = cluster.dir.join("else.tar");
    let mut command = Command::new("tar");
    command.args(["-C", cluster.dir.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "key.pub"]);
    program::run(&mut command, Duration::from_secs(20)).ok();
    tar
}
