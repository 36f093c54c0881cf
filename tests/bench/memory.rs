//! Resident memory of Host and Runner with nothing to do.

use std::time::Duration;

use crate::env::{Cluster, Settings};
use crate::figure::Figure;

pub fn measure() -> Vec<Figure> {
    let cluster = Cluster::host_and_runner(Settings::default());
    // Some heartbeats long, so that what grows at first has grown.
    let (mut host, mut runner) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        std::thread::sleep(Duration::from_secs(2));
        host.push(cluster.rss("host") as f64 / 1e6);
        runner.push(cluster.rss("runner-a") as f64 / 1e6);
    }
    vec![
        Figure::new("memory: idle Host", "MB", &host).at_most(6.0),
        Figure::new("memory: idle Runner", "MB", &runner).at_most(6.0),
    ]
}
