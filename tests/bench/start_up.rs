//! The client from its start to its answer, against curl; and the size of the binary.

use std::process::{Command, Stdio};

use crate::env::{Cluster, Settings, binary};
use crate::figure::{Figure, seconds};

const RUNS: usize = 41;

pub fn measure() -> Vec<Figure> {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let (mut ours, mut curl) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(run(&mut cluster.cli_command(&["client", "nodes"])));
        let header = format!("Authorization: Bearer {}", cluster.token());
        let url = format!("http://127.0.0.1:{}/nodes", cluster.api);
        curl.push(run(Command::new("curl").args(["-sf", "-H", &header, &url])));
    }
    let size = std::fs::metadata(binary()).expect("it was just run").len() as f64 / 1e6;
    vec![
        Figure::new("client nodes: start to answer", "ms", &ours).against("curl", &curl).at_most(3.0),
        Figure::new("binary", "MB", &[size]).at_most(6.0),
    ]
}

fn run(command: &mut Command) -> f64 {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut status = None;
    let taken = seconds(|| status = command.status().ok());
    assert!(status.is_some_and(|status| status.success()), "{} failed", crate::program::describe(command));
    taken * 1e3
}
