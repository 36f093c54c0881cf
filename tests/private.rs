//! A cluster whose Docker daemon is its own, so that a test may do to it what it likes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::daemon::Daemon;
use crate::env::{Cluster, SOON, Settings, write_script};
use crate::invariants::Witness;
use crate::wait;

/// A cluster on a daemon of its own; the fields' order is that of their end.
pub struct Private {
    pub witness: Witness,
    pub cluster: Cluster,
    pub daemon: Daemon,
    blind: PathBuf,
    _scratch: Cluster,
}

impl Private {
    pub fn new() -> Self {
        Self::with(|_, daemon| daemon)
    }

    /// `ready` sees the daemon, and a directory for what it needs, before it is started.
    pub fn with(ready: impl FnOnce(&Path, Daemon) -> Daemon) -> Self {
        let scratch = Cluster::new(Settings { no_environment: true, ..Settings::default() });
        let mut daemon = ready(&scratch.dir, Daemon::new(&scratch));
        daemon.start();
        let (wrapper, blind) = (scratch.dir.join("docker"), scratch.dir.join("blind"));
        let text = format!(
            r#"#!/bin/sh
case " $* " in
*" inspect "*) [ ! -e {blind} ] || {{
    answer=$(docker -H {socket} "$@")
    status=$?
    echo "$answer" | sed 's/"ExitCode":255/"ExitCode":0/'
    exit $status
}} ;;
esac
exec docker -H {socket} "$@"
"#,
            blind = blind.display(),
            socket = daemon.socket(),
        );
        write_script(&wrapper, &text);
        let cluster = Cluster::host_and_runner(Settings { docker_command: Some(wrapper), ..Settings::default() });
        let witness = Witness::of(&cluster).with_docker(&["docker", "-H", &daemon.socket()]);
        Self { witness, cluster, daemon, blind, _scratch: scratch }
    }

    /// From now on, where Docker shows the code that it gives to ends that it has not seen, it shows a 0: as it does when containerd lets
    /// go of a container while it looks for it, which the torture has found and nobody can bring about.
    pub fn takes_unseen_for_0(&self) {
        fs::write(&self.blind, "").unwrap();
    }

    pub fn containers(&self) -> Vec<String> {
        let list = self.daemon.docker(&["ps", "-aq", "--no-trunc"]);
        let mut ids: Vec<_> = list.lines().map(str::to_owned).collect();
        ids.sort_unstable();
        ids
    }

    /// One VPS that runs, and one that is paused.
    pub fn two(&self) -> (String, String) {
        let (runs, paused) = (self.cluster.submit(&[]), self.cluster.submit(&[]));
        self.cluster.cli(&["vps", "command", &paused, "pause"]).ok();
        self.cluster.await_status(&paused, "paused");
        (runs, paused)
    }

    #[track_caller]
    pub fn kill_all(&self, ids: [&str; 2]) {
        self.witness.check();
        for id in ids {
            self.cluster.cli(&["vps", "kill", id]).ok();
            self.witness.killed(id);
            self.cluster.await_status(id, "killed");
        }
        self.witness.settles(&self.cluster, SOON);
        wait::until_true("no container is left", SOON, || {
            let left = self.containers();
            (left.is_empty(), left.join(" "))
        });
    }
}
