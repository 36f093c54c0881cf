//! `docker list-tars`

use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use crate::api::environment::{Tarballs, TarballsRow};
use crate::cli::fault::Fault;
use crate::cli::host_api::{Host, decode};
use crate::cli::{output, table};

/// List the environments' versions with their sizes, and the nodes that have the newest one.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "list-tars",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --json"
)]
pub(super) struct ListArgs {
    /// print the API's JSON and nothing else
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &ListArgs, config: Option<&Path>) -> Result<(), Fault> {
    const PATH: &str = "/docker/list";
    let body = Host::of(config)?.get(PATH)?;
    if args.json {
        output::body(&body);
    } else {
        output::print(&render(&decode::<Tarballs>(PATH, &body)?));
    }
    Ok(())
}

/// A line for each version; nodes are those of the newest.
fn render(all: &Tarballs) -> String {
    let rows: Vec<Vec<String>> = all.iter().flat_map(|(name, row)| versions(name, row)).collect();
    table::table(&["environment", "version", "size", "tarball", "label", "nodes"], &rows)
}

fn versions<'a>(name: &'a str, row: &'a TarballsRow) -> impl Iterator<Item = Vec<String>> + 'a {
    row.all_versions.iter().map(move |version| {
        let is_newest = version.timestamp == row.latest_timestamp;
        vec![
            name.to_owned(),
            version.timestamp.to_string(),
            size(version.size),
            version.tarball.clone(),
            table::or_dash(version.label.as_ref()),
            if is_newest { row.nodes.join(",") } else { String::new() },
        ]
    })
}

/// Three digits are enough for a person.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes < 10 * unit => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::environment::VersionRow;

    #[test]
    fn versions_are_lines_and_nodes_those_of_the_newest() {
        let version = |timestamp: u64, size, label: Option<&str>| VersionRow {
            timestamp,
            tarball: format!("my-env-{timestamp}.tar"),
            size,
            label: label.map(str::to_owned),
        };
        let row = TarballsRow {
            latest_timestamp: 1_700_000_009,
            latest_tarball: "my-env-1700000009.tar".into(),
            all_versions: vec![
                version(1_700_000_009, 198_400_000, Some("gcc 14")),
                version(1_700_000_000, 5_340_000, None),
            ],
            nodes: vec!["n1".into(), "n2".into()],
        };
        assert_eq!(
            render(&Tarballs::from([("my-env".to_owned(), row)])),
            "environment  version     size    tarball                label   nodes\n\
             my-env       1700000009  198 MB  my-env-1700000009.tar  gcc 14  n1,n2\n\
             my-env       1700000000  5.3 MB  my-env-1700000000.tar  -       -\n"
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_999, "9.9 kB"), (12_345_678_901, "12 GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
