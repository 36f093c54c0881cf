//! An environment of 200 MB of which 5 MB have changed, to a node without the shared directory: bytes that travel, and the time
//! until a task in it has ended, against `docker load` of the whole tarball.

use std::fs::File;
use std::process::Stdio;

use crate::far_node::{FarNode, Versions};
use crate::figure::{Figure, closely, seconds};

const MB: usize = 1_000_000;
const RUNS: usize = 5;

pub fn measure() -> Vec<Figure> {
    let far = FarNode::new();
    let mut sizes = vec![195 * MB];
    sizes.extend([5 * MB; RUNS]);
    // Each version has the same 195 MB below, and one more change on top.
    let versions = Versions::new(&far.cluster, &sizes);
    far.cluster.add_environment("bench", 100, &versions.tarballs[0]);
    run(&far, 1);
    let (mut ready, mut warm, mut whole, mut bytes, mut layer) = (vec![], vec![], vec![], vec![], vec![]);
    for at in 1..=RUNS {
        far.line.take_bytes();
        let tarball = &versions.tarballs[at];
        far.cluster.add_environment("bench", 100 + at as u64, tarball);
        // As `create-tar` leaves it: with its manifest. (The Host reads a tarball that was put there by hand, once.)
        let manifest = far.manifest("bench");
        ready.push(seconds(|| run(&far, at + 1)));
        bytes.push(far.line.take_bytes() as f64 / 1e6);
        layer.push(manifest.layers.last().expect("it has layers").size as f64 / 1e6);
        // The same task when the image is there: what of that time is not the environment's.
        warm.push(seconds(|| run(&far, at + 1)));
        // The whole, into a daemon that has none of it: 0.3's way. (A container would keep its layers.)
        closely("no container is left", || far.daemon.docker(&["ps", "-aq"]).is_empty().then_some(()));
        let all = far.daemon.docker(&["images", "-q", "--no-trunc"]);
        let mut rmi = vec!["rmi", "-f"];
        rmi.extend(all.lines());
        far.daemon.docker(&rmi);
        whole.push(seconds(|| {
            let source = File::open(tarball).expect("it is there");
            let status = far.daemon.command().arg("load").stdin(source).stdout(Stdio::null()).status();
            assert!(status.expect("docker can be started").success());
        }));
    }
    let brought: Vec<f64> = ready.iter().zip(&warm).map(|(all, task)| (all - task).max(0.0)).collect();
    vec![
        Figure::new("environment, 5 of 200 MB changed: bytes to the node", "MB", &bytes)
            .against("the changed layer", &layer)
            .ratio_at_most(1.05),
        Figure::new("environment, 5 of 200 MB changed: time to ready", "s", &brought)
            .against("docker load of it all", &whole)
            .ratio_at_most(0.25),
        Figure::new("the same, with the task that needs it", "s", &ready).against("docker load of it all", &whole),
    ]
}

/// Submits a task there, and waits for its end.
fn run(far: &FarNode, layer: usize) {
    let id = far.look_for("bench", &format!("/layer-{layer}"));
    closely("the task has completed", || {
        let record = far.cluster.status(&id);
        assert!(record.status != "failed", "{record:?}");
        (record.status == "completed").then_some(())
    });
}
