//! `client nodes`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::public::NodeRow;
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table};

/// List the nodes with what they have, what is free, and what is wrong with them.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "nodes", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
pub(super) struct NodesArgs {
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &NodesArgs, config: Option<&Path>) -> Result<(), Fault> {
    const PATH: &str = "/nodes";
    let body = Host::of(config)?.get(PATH)?;
    if args.json {
        output::body(&body);
    } else {
        output::print(&render(&decode::<Vec<NodeRow>>(PATH, &body)?));
    }
    Ok(())
}

const HEAD: [&str; 8] = ["hostname", "status", "url", "cores", "available", "numa_nodes", "gpus", "last_heartbeat"];

/// The table; below it what is odd about a node, a line each.
fn render(nodes: &[NodeRow]) -> String {
    let rows: Vec<Vec<String>> = nodes.iter().map(cells).collect();
    let mut text = table::table(&HEAD, &rows);
    for node in nodes {
        for problem in &node.problems {
            text.push_str(&output::printable(&format!("{}: {problem}\n", node.hostname)));
        }
        if !node.unknown_tasks.is_empty() {
            let tasks = table::list(&node.unknown_tasks);
            let text_of =
                format!("{}: has tasks that the Host does not know, and leaves them alone: {tasks}\n", node.hostname);
            text.push_str(&output::printable(&text_of));
        }
    }
    text
}

fn cells(node: &NodeRow) -> Vec<String> {
    vec![
        node.hostname.clone(),
        node.status.clone(),
        node.url.clone(),
        node.total_cores.to_string(),
        node.available_cores.to_string(),
        table::or_dash(node.numa_topology.as_ref().map(|numa| numa.len())),
        node.gpu_info.len().to_string(),
        table::or_dash(node.last_heartbeat.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::public::{GpuRow, NumaShare};

    #[test]
    fn nodes_are_a_table_with_what_is_odd_below() {
        let one = NodeRow {
            hostname: "node1".into(),
            url: "http://10.0.0.7:0".into(),
            total_cores: 16,
            available_cores: 12,
            status: "online".into(),
            last_heartbeat: Some("2026-11-23T00:31:27.123+00:00".into()),
            numa_topology: Some(["0", "1"].map(|id| (id.to_owned(), NumaShare::default())).into()),
            gpu_info: vec![GpuRow::default()],
            ..NodeRow::default()
        };
        let two = NodeRow {
            hostname: "n2".into(),
            status: "offline".into(),
            unknown_tasks: vec!["7".into(), "8".into()],
            problems: vec!["Docker does not answer".into()],
            ..NodeRow::default()
        };
        assert_eq!(
            render(&[one, two]),
            "hostname  status   url                cores  available  numa_nodes  gpus  last_heartbeat\n\
             node1     online   http://10.0.0.7:0  16     12         2           1     2026-11-23T00:31:27.123+00:00\n\
             n2        offline  -                  0      0          -           0     -\n\
             n2: Docker does not answer\n\
             n2: has tasks that the Host does not know, and leaves them alone: 7,8\n"
        );
    }
}
