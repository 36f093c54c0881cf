//! A Runner that reaches its Host through a network that fails.

use std::fs;

use crate::env::{Cluster, Settings};
use crate::network::Network;

/// A Host, and node `a` behind a network; the fields' order is that of their end.
pub struct Behind {
    pub cluster: Cluster,
    pub network: Network,
}

impl Behind {
    pub fn new(timeout_factor: u32) -> Self {
        let settings = Settings { no_environment: true, timeout_factor, ..Settings::default() };
        let mut cluster = Cluster::new(settings);
        cluster.start_host();
        let network = Network::to(cluster.api);
        let mut behind = Self { cluster, network };
        behind.start_runner();
        behind.cluster.await_node("a", "online");
        behind
    }

    fn start_runner(&mut self) {
        let config = config_through(&self.cluster, self.network.port);
        self.cluster.spawn("runner-a", &["runner", "--config", &config]);
    }
}

/// The file of the Runner `a`, which finds its Host at another port.
fn config_through(cluster: &Cluster, port: u16) -> String {
    cluster.write_runner_config("a");
    let path = cluster.config("a");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&format!("host_port = {}\n", cluster.api), &format!("host_port = {port}\n")))
        .unwrap();
    path
}
