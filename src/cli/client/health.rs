//! `client health`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::public::{HealthHistory, HealthRow};
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table};
use crate::domain::ids::NodeName;

/// Show the load of one node, or of all.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "health",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} node1 --json"
)]
pub(super) struct HealthArgs {
    /// the node's name (default: all nodes)
    #[argh(positional, arg_name = "HOSTNAME")]
    hostname: Option<NodeName>,
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &HealthArgs, config: Option<&Path>) -> Result<(), Fault> {
    let path = args.hostname.as_ref().map_or_else(|| "/health".to_owned(), |name| format!("/health?hostname={name}"));
    let body = Host::of(config)?.get(&path)?;
    if args.json {
        output::body(&body);
    } else if args.hostname.is_some() {
        let nodes: Vec<HealthRow> = decode(&path, &body)?;
        output::print(&nodes.iter().map(one).collect::<String>());
    } else {
        let history: HealthHistory = decode(&path, &body)?;
        // The last second is the present.
        output::print(&all(history.nodes.last().map_or(&[][..], Vec::as_slice)));
    }
    Ok(())
}

const HEAD: [&str; 9] = [
    "hostname",
    "status",
    "cores",
    "cpu_percent",
    "memory_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "current_max_temp",
    "last_heartbeat",
];

fn all(nodes: &[HealthRow]) -> String {
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.hostname.clone(),
                node.status.clone(),
                node.total_cores.to_string(),
                figure(node.cpu_percent),
                figure(node.memory_percent),
                table::or_dash(node.memory_used_bytes),
                table::or_dash(node.memory_total_bytes),
                figure(node.current_max_temp),
                table::or_dash(node.last_heartbeat.as_ref()),
            ]
        })
        .collect();
    table::table(&HEAD, &rows)
}

fn one(node: &HealthRow) -> String {
    let mut fields = vec![
        ("hostname", node.hostname.clone()),
        ("status", node.status.clone()),
        ("last_heartbeat", table::or_dash(node.last_heartbeat.as_ref())),
        ("total_cores", node.total_cores.to_string()),
        ("cpu_percent", figure(node.cpu_percent)),
        ("memory_percent", figure(node.memory_percent)),
        ("memory_used_bytes", table::or_dash(node.memory_used_bytes)),
        ("memory_total_bytes", table::or_dash(node.memory_total_bytes)),
        ("current_avg_temp", figure(node.current_avg_temp)),
        ("current_max_temp", figure(node.current_max_temp)),
    ];
    for (id, share) in node.numa_topology.iter().flatten() {
        fields.push(("numa_node", format!("{id}: {} cores, {} bytes", share.cores.len(), share.memory_bytes)));
    }
    for gpu in &node.gpu_info {
        // -1 where the device does not tell.
        let known = |value: i64| if value < 0 { "-".to_owned() } else { value.to_string() };
        fields.push((
            "gpu",
            format!(
                "{}: {}, {} % used, {} of {} MiB, {} °C",
                gpu.gpu_id,
                gpu.name,
                known(gpu.gpu_utilization),
                known(gpu.memory_used_mib),
                known(gpu.memory_total_mib),
                known(gpu.temperature)
            ),
        ));
    }
    table::record(&fields)
}

/// One decimal: more is noise.
fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::public::GpuRow;

    #[test]
    fn a_machine_without_sensors_is_shown_like_any_other() {
        let node = HealthRow {
            hostname: "node1".into(),
            status: "online".into(),
            cpu_percent: Some(12.345),
            memory_percent: Some(50.0),
            memory_used_bytes: Some(1),
            memory_total_bytes: Some(2),
            total_cores: 4,
            gpu_info: vec![GpuRow {
                name: "A100".into(),
                gpu_utilization: -1,
                memory_total_mib: 40_960,
                ..GpuRow::default()
            }],
            ..HealthRow::default()
        };
        assert_eq!(
            all(std::slice::from_ref(&node)),
            "hostname  status  cores  cpu_percent  memory_percent  memory_used_bytes  memory_total_bytes  current_max_temp  last_heartbeat\n\
             node1     online  4      12.3         50.0            1                  2                   -                 -\n"
        );
        let text = one(&node);
        assert!(text.contains("current_max_temp: -\n"), "{text}");
        assert!(text.contains("gpu: 0: A100, - % used, 0 of 40960 MiB, 0 °C\n"), "{text}");
    }
}
