//! `GET /metrics`: the cluster in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::net::http::Reply;

use super::super::engine::ActFault;
use super::super::view::View;
use super::{Api, unreadable};

impl Api {
    pub(super) fn metrics(&self) -> Result<Reply, ActFault> {
        let (_, events) = self.readers.event_bounds().map_err(unreadable)?;
        let body = Arc::from(text(&self.engine.view, events).into_bytes());
        Ok(Reply::Full { status: 200, content_type: "text/plain; version=0.0.4", body })
    }
}

fn text(view: &View, events: u64) -> String {
    let nodes = view.nodes();
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let by_status = ["online", "draining", "offline"].map(|status| {
        let count = nodes.iter().filter(|node| node.status() == status).count();
        (format!("{{status=\"{status}\"}}"), count as u64)
    });
    family("hakuriver_nodes", "gauge", "Registered nodes.", by_status.into());
    let states = view.states().into_iter();
    let states = states.map(|(state, count)| (format!("{{state=\"{state}\"}}"), count as u64)).collect();
    family("hakuriver_live_tasks", "gauge", "Tasks that are not settled.", states);
    // A node's name has no character that would have to be escaped.
    let cores = |figure: fn(&super::super::view::NodeEntry) -> u64| {
        nodes.iter().map(|node| (format!("{{node=\"{}\"}}", node.record.name), figure(node))).collect::<Vec<_>>()
    };
    family(
        "hakuriver_node_cores",
        "gauge",
        "Cores of a node.",
        cores(|node| node.record.inventory.cpus.0.len() as u64),
    );
    family("hakuriver_node_cores_held", "gauge", "Cores that tasks hold.", cores(|node| u64::from(node.cores_in_use)));
    family("hakuriver_events_total", "counter", "Changes of tasks and nodes.", vec![(String::new(), events)]);
    text
}
