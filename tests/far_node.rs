//! A node with a Docker daemon of its own, that does not see the shared directory: another machine, as far as that goes on one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hakuriver::archive::Manifest;

use crate::daemon::Daemon;
use crate::env::{Cluster, Settings, write_script};
use crate::http;
use crate::line::Line;
use crate::program::{self, docker};
use crate::wait;

/// A Host, and the node `b` on the other end of a line; the fields' order is that of their end.
pub struct FarNode {
    pub cluster: Cluster,
    pub line: Line,
    pub daemon: Daemon,
    scratch: Cluster,
}

impl FarNode {
    pub fn new() -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let mut daemon = Daemon::new(&scratch);
        daemon.start();
        let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        cluster.start_host();
        let line = Line::to(cluster.api);
        let mut far = Self { cluster, line, daemon, scratch };
        write_script(&far.scratch.dir.join("docker"), &far.wrapper());
        far.write_config();
        far.start_runner();
        far.cluster.await_node("b", "online");
        far
    }

    /// Keeps what was loaded last; a load waits while `hold-load` is there.
    fn wrapper(&self) -> String {
        format!(
            "#!/bin/sh\ncd {dir} || exit 9\ncase $1 in\nload)\n    echo load >>loads\n    while [ -e hold-load ]; do sleep 0.02; done\n    \
             tee last-load | docker -H {socket} \"$@\" ;;\n*)\n    exec docker -H {socket} \"$@\" ;;\nesac\n",
            dir = self.scratch.dir.display(),
            socket = self.daemon.socket()
        )
    }

    fn write_config(&self) {
        self.cluster.write_runner_config("b");
        let path = self.cluster.config("b");
        let docker = self.scratch.dir.join("docker");
        let own = self.cluster.dir.join("far");
        let text = fs::read_to_string(&path).unwrap();
        let text = text
            .replace(&format!("host_port = {}\n", self.cluster.api), &format!("host_port = {}\n", self.line.port))
            .replace("[docker]\n", &format!("[docker]\ncommand = \"{}\"\n", docker.display()));
        fs::write(&path, format!("{text}[paths]\nshared_dir = \"{}\"\n", own.display())).unwrap();
    }

    pub fn start_runner(&mut self) {
        let config = self.cluster.config("b");
        self.cluster.spawn("runner-b", &["runner", "--config", &config]);
    }

    /// The folder of what is on its way.
    pub fn spool(&self) -> PathBuf {
        self.cluster.runner_dir("b").join("environments")
    }

    /// The files of transfers that have not ended.
    pub fn parts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.spool()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|kind| kind == "part")).collect()
    }

    pub fn loads(&self) -> usize {
        fs::read_to_string(self.scratch.dir.join("loads")).unwrap_or_default().lines().count()
    }

    /// The names in the archive that Docker was given last.
    pub fn last_load(&self) -> Vec<String> {
        let mut command = Command::new("tar");
        command.arg("-tf").arg(self.scratch.dir.join("last-load"));
        program::run(&mut command, Duration::from_secs(20)).ok().lines().map(str::to_owned).collect()
    }

    pub fn hold_loads(&self) {
        fs::write(self.scratch.dir.join("hold-load"), "").unwrap();
    }

    pub fn let_loads_go(&self) {
        fs::remove_file(self.scratch.dir.join("hold-load")).unwrap();
    }

    /// A task there that looks for a file in an environment.
    #[track_caller]
    pub fn look_for(&self, env: &str, file: &str) -> String {
        self.cluster.task(&["--target", &self.cluster.node("b"), "--container", env], &["ls", file])
    }

    /// What the Host says of the newest version.
    #[track_caller]
    pub fn manifest(&self, env: &str) -> Manifest {
        let path = format!("/environments/{env}");
        let reply = http::call(self.cluster.api, "GET", &path, Some(&self.cluster.node_token()), None);
        assert_eq!(reply.status, 200, "{}", reply.text());
        Manifest::decode(&reply.body).unwrap()
    }

    #[track_caller]
    pub fn await_load(&self, before: usize) {
        wait::until_true("Docker is given an archive", crate::env::SOON, || {
            (self.loads() > before, format!("{} loads", self.loads()))
        });
    }
}

impl Drop for FarNode {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.scratch.dir.join("hold-load"));
        self.line.cut();
    }
}

/// Archives of images that grow by a layer each, saved as 0.3 did it, and no longer in Docker.
pub struct Versions {
    pub tarballs: Vec<PathBuf>,
    tags: Vec<String>,
}

impl Versions {
    /// `sizes` are those of the layers, in bytes; the first stands on busybox. Layer n brings the file `/layer-n`.
    pub fn new(cluster: &Cluster, sizes: &[usize]) -> Self {
        let mut versions = Self { tarballs: Vec::new(), tags: Vec::new() };
        let mut below = "hakuriver-test/bare:1".to_owned();
        for (at, size) in sizes.iter().enumerate() {
            let (number, tag) = (at + 1, format!("hakuriver/{}-{at}:base", cluster.tag));
            let file = cluster.dir.join(format!("layer-{number}"));
            fs::write(&file, noise(*size, number as u64)).unwrap();
            let container = docker(&["create", &below, "true"]);
            docker(&["cp", file.to_str().unwrap(), &format!("{container}:/layer-{number}")]);
            docker(&["commit", &container, &tag]);
            docker(&["rm", "-v", &container]);
            versions.tags.push(tag.clone());
            below = tag;
        }
        for (at, tag) in versions.tags.iter().enumerate() {
            let tarball = cluster.dir.join(format!("version-{}.tar", at + 1));
            docker(&["save", "-o", tarball.to_str().unwrap(), tag]);
            versions.tarballs.push(tarball);
        }
        versions
    }
}

impl Drop for Versions {
    fn drop(&mut self) {
        // May run while a failed test unwinds: no assertions.
        let _ = Command::new("docker").arg("rmi").args(self.tags.iter().rev()).output();
    }
}

/// Bytes that nothing compresses, another sequence for each seed (xorshift).
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
