//! `docker list-containers`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::environment::ContainerRow;
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table};

/// List the environments' containers on the Host.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "list-containers",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --json"
)]
pub(super) struct ListArgs {
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &ListArgs, config: Option<&Path>) -> Result<(), Fault> {
    const PATH: &str = "/docker/host/containers";
    let body = Host::of(config)?.get(PATH)?;
    if args.json {
        output::body(&body);
    } else {
        output::print(&render(&decode::<Vec<ContainerRow>>(PATH, &body)?));
    }
    Ok(())
}

fn render(rows: &[ContainerRow]) -> String {
    let cells = |row: &ContainerRow| vec![row.id.clone(), row.name.clone(), row.image.clone(), row.status.clone()];
    table::table(&["id", "name", "image", "status"], &rows.iter().map(cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_a_table() {
        let row = ContainerRow {
            id: "0b88242b215f".into(),
            name: "my-env".into(),
            image: "debian:12".into(),
            status: "Up 3 minutes".into(),
        };
        assert_eq!(
            render(&[row]),
            "id            name    image      status\n\
             0b88242b215f  my-env  debian:12  Up 3 minutes\n"
        );
    }
}
