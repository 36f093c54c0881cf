//! One Runner of a name on a machine, whatever its state directory.

use std::io::ErrorKind;
use std::os::unix::net::UnixListener;

use super::RunnerFault;
use crate::domain::ids::NodeName;
use crate::sys::local;
use crate::warning;

/// Held from before the first registration to the end of the process, however it ends: a name that only one socket can have.
#[derive(Debug)]
pub(super) struct Alone {
    /// Nobody is ever answered there. None: the name could not be had, for a reason that is not another Runner.
    _socket: Option<UnixListener>,
}

impl Alone {
    /// Takes the name.
    ///
    /// # Errors
    /// Another Runner has it.
    pub(super) fn take(cluster: &str, node: &NodeName) -> Result<Self, RunnerFault> {
        let name = format!("hakuriver-runner-{cluster}-{node}");
        let fault = match local::listen(&name) {
            Ok(socket) => return Ok(Self { _socket: Some(socket) }),
            Err(fault) => fault,
        };
        if fault.kind() == ErrorKind::AddrInUse
            && local::connect(&name).and_then(|socket| local::is_ours(&socket)).is_ok_and(|ours| ours)
        {
            return Err(RunnerFault(format!(
                "another Runner for the node '{node}' of this cluster runs on this machine: stop it first, or give this one a name \
                 of its own (network.runner_hostname)"
            )));
        }
        // Anybody on the machine can take such a name; that must not keep the node from its work.
        warning!("cannot take the name @{name} ({fault}): a second Runner for this node would not be noticed");
        Ok(Self { _socket: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_had_once_and_free_again_with_its_holder() {
        let cluster = crate::sys::random::hex(8);
        let node: NodeName = "n1".parse().expect("a name");
        let first = Alone::take(&cluster, &node).expect("free");
        let fault = Alone::take(&cluster, &node).expect_err("taken").0;
        assert!(fault.contains("'n1'") && fault.contains("runner_hostname"), "{fault}");
        Alone::take(&cluster, &"n2".parse().expect("a name")).expect("another node's");
        Alone::take("other", &node).expect("another cluster's");
        drop(first);
        Alone::take(&cluster, &node).expect("free again");
    }
}
