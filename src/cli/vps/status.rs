//! `vps status`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::public::VpsRow;
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table};

/// List the VPS that are not ended: pending, assigning, running, paused.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
pub(super) struct StatusArgs {
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs, config: Option<&Path>) -> Result<(), Fault> {
    const PATH: &str = "/vps/status";
    let body = Host::of(config)?.get(PATH)?;
    if args.json {
        output::body(&body);
    } else {
        output::print(&render(&decode::<Vec<VpsRow>>(PATH, &body)?));
    }
    Ok(())
}

const HEAD: [&str; 9] = [
    "task_id",
    "status",
    "assigned_node",
    "required_cores",
    "required_memory_bytes",
    "required_gpus",
    "submitted_at",
    "started_at",
    "ssh_port",
];

fn render(rows: &[VpsRow]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::table(&HEAD, &rows)
}

fn cells(row: &VpsRow) -> Vec<String> {
    vec![
        row.task_id.clone(),
        row.status.clone(),
        table::or_dash(row.assigned_node.as_ref()),
        row.required_cores.to_string(),
        table::or_dash(row.required_memory_bytes),
        table::list(&row.required_gpus),
        row.submitted_at.clone(),
        table::or_dash(row.started_at.as_ref()),
        table::or_dash(row.ssh_port),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_stand_in_the_order_of_the_reference() {
        let running = VpsRow {
            task_id: "7398471823749120000".into(),
            status: "running".into(),
            assigned_node: Some("node1".into()),
            required_cores: 4,
            required_gpus: vec![0, 1],
            required_memory_bytes: Some(8_000_000_000),
            submitted_at: "2026-11-23T00:31:27.123+00:00".into(),
            started_at: Some("2026-11-23T00:31:28.000+00:00".into()),
            ssh_port: Some(30_000),
            ..VpsRow::default()
        };
        let pending =
            VpsRow { task_id: "2".into(), status: "pending".into(), submitted_at: "now".into(), ..VpsRow::default() };
        assert_eq!(
            render(&[running, pending]),
            "task_id              status   assigned_node  required_cores  required_memory_bytes  required_gpus  \
             submitted_at                   started_at                     ssh_port\n\
             7398471823749120000  running  node1          4               8000000000             0,1            \
             2026-11-23T00:31:27.123+00:00  2026-11-23T00:31:28.000+00:00  30000\n\
             2                    pending  -              0               -                      -              \
             now                            -                              -\n"
        );
    }
}
