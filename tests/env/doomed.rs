//! Clusters whose processes die at points of their own, and are started again until one stays.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use nanoserde::DeJson;
use nix::sys::signal::Signal;

use super::Cluster;
use crate::http;

impl Cluster {
    /// Starts again, as it was started, what has died of SIGKILL: Host or Runner `a`. Err: one ended otherwise.
    pub fn revive(&mut self) -> Result<(), String> {
        for name in ["host", "runner-a"] {
            let Some(status) = self.processes.get_mut(name).and_then(|child| child.try_wait().unwrap()) else {
                continue;
            };
            if status.signal() != Some(Signal::SIGKILL as i32) {
                return Err(format!("{name} ended with {status}"));
            }
            self.processes.remove(name);
            self.spawn_role(name);
        }
        Ok(())
    }

    /// `host` or `runner-a`, without waiting for it.
    pub fn spawn_role(&mut self, name: &str) {
        if name == "host" {
            let config = self.config("config");
            self.spawn("host", &["host", "--config", &config]);
        } else {
            self.spawn_runner("a");
        }
    }

    /// Asks the Host for the cluster's id, which names its containers.
    pub fn meet(&mut self) -> Result<(), String> {
        let token = fs::read_to_string(self.dir.join("token")).map_err(|e| e.to_string())?;
        let reply = http::try_call(self.api, "GET", "/version", Some(token.trim()), None).map_err(|e| e.to_string())?;
        let version = hakuriver::api::public::Version::deserialize_json(&reply.text()).map_err(|e| e.to_string())?;
        self.cluster_id = Some(version.cluster_id);
        Ok(())
    }
}
