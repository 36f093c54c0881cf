//! Environments on the Host, for a node that does not see the shared directory.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use super::link::{Link, LinkFault};
use crate::archive::Manifest;

/// The Host looks into a file, or waits until somebody else has read it: gigabytes, where an archive was put there by hand.
const CALL: Duration = Duration::from_secs(60);
/// A stream that is silent for longer is abandoned, and gone on with where it ended.
pub const SILENCE: Duration = Duration::from_secs(20);

/// Why the Host gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DepotFault {
    /// It does not answer, or does not let us in: to be tried again.
    Unreachable(String),
    /// It has no such environment, or no longer that version.
    Gone,
    /// It says why that cannot be had.
    Refused(String),
}

impl fmt::Display for DepotFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the Host does not have it"),
            Self::Unreachable(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

/// Where archives come from. (The Host; in tests something else.)
pub trait Depot: Send + Sync {
    /// What is known of the newest version of an environment.
    ///
    /// # Errors
    /// See [`DepotFault`].
    fn newest(&self, env: &str) -> Result<Manifest, DepotFault>;

    /// Its archive without the `lowest` layers, from `offset` on. Its reading fails when nothing comes for [`SILENCE`].
    ///
    /// # Errors
    /// See [`DepotFault`].
    fn open(&self, manifest: &Manifest, lowest: usize, offset: u64) -> Result<Box<dyn Read + Send>, DepotFault>;
}

impl Depot for Link {
    fn newest(&self, env: &str) -> Result<Manifest, DepotFault> {
        let answer = self.get(&format!("/environments/{env}"), CALL).map_err(fault)?;
        Manifest::decode(&answer)
            .map_err(|fault| DepotFault::Refused(format!("{} says of {env}: {fault}", self.host())))
    }

    fn open(&self, manifest: &Manifest, lowest: usize, offset: u64) -> Result<Box<dyn Read + Send>, DepotFault> {
        self.open_stream(&path(manifest, lowest, offset), SILENCE).map_err(fault)
    }
}

/// What is asked for. Of the ids the digits alone, since two hundred have to fit into a request's head.
fn path(manifest: &Manifest, lowest: usize, offset: u64) -> String {
    let digits = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).to_owned();
    let have: Vec<String> = manifest.layers.iter().take(lowest).map(|layer| digits(&layer.diff_id)).collect();
    format!("/environments/{}/{}?have={}&offset={offset}", manifest.name, manifest.version, have.join(","))
}

fn fault(fault: LinkFault) -> DepotFault {
    match fault {
        LinkFault::NotRegistered => DepotFault::Gone,
        LinkFault::Taken(text) | LinkFault::Misfit(text) => DepotFault::Refused(text),
        LinkFault::Unreachable(text) | LinkFault::Superseded(text) | LinkFault::Denied(text) => {
            DepotFault::Unreachable(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::ManifestLayer;

    #[test]
    fn what_the_node_has_stands_in_the_path_and_fits_into_a_head() {
        let layer = |at: usize| ManifestLayer { diff_id: format!("sha256:{at:064x}"), ..ManifestLayer::default() };
        let manifest = Manifest {
            name: "x".to_owned(),
            version: 17,
            layers: (0..200).map(layer).collect(),
            ..Manifest::default()
        };
        assert_eq!(path(&manifest, 0, 5), "/environments/x/17?have=&offset=5");
        let two = path(&manifest, 2, 0);
        assert_eq!(two, format!("/environments/x/17?have={:064x},{:064x}&offset=0", 0, 1));
        assert!(path(&manifest, 200, u64::MAX).len() < 15 << 10);
    }

    #[test]
    fn what_may_pass_is_told_from_what_does_not() {
        let text = || "why".to_owned();
        for (link, expected) in [
            (LinkFault::NotRegistered, DepotFault::Gone),
            (LinkFault::Taken(text()), DepotFault::Refused(text())),
            (LinkFault::Misfit(text()), DepotFault::Refused(text())),
            (LinkFault::Unreachable(text()), DepotFault::Unreachable(text())),
            (LinkFault::Denied(text()), DepotFault::Unreachable(text())),
        ] {
            assert_eq!(fault(link), expected);
        }
    }
}
