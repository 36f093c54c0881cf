//! What Docker does, told to the agent: the stream of events, and a glance at the list at each heartbeat.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::backoff::Backoff;
use super::executor::docker::DockerFault;
use super::message::Message;
use super::node::Node;
use crate::sys::clock;
use crate::sys::shutdown::Stop;
use crate::{info, warning};

/// Events of this long before the list are told too: the clock may have been set back a little meanwhile. One told twice
/// does no harm.
const OVERLAP_S: u64 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Follows the events until `stop`, and takes stock of all our containers whenever the stream begins anew.
pub fn follow(node: &Arc<Node>, tell: &Sender<Message>, stop: &Stop) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    while !stop.is_set() {
        // The stream begins where the list was asked for, so nothing falls between the two.
        let since = (clock::unix_ms() / 1_000).saturating_sub(OVERLAP_S);
        match stock(node) {
            Err(fault) => note(node, Err(fault)),
            Ok(containers) => {
                note(node, Ok(()));
                if tell.send(Message::Truth(containers)).is_err() {
                    return;
                }
                let reason = node.docker.follow(since, stop, &mut |event| {
                    // The agent ends before this only when the process does.
                    let _ended = tell.send(Message::Event(event));
                    backoff.reset();
                });
                if !stop.is_set() {
                    info!("Docker's events are not told any more ({reason}): looking again");
                }
            }
        }
        if stop.wait(backoff.wait()) {
            return;
        }
    }
}

/// All containers of ours.
pub(crate) fn stock(node: &Node) -> Result<Vec<super::executor::docker_parse::Container>, DockerFault> {
    let list = node.docker.list()?;
    let ids: Vec<String> = list.into_iter().map(|(id, _)| id).collect();
    node.docker.inspect(&ids)
}

/// Glances at the list every `interval` until `stop`: whether the daemon answers, and what the events have not told.
pub fn glance(node: &Arc<Node>, tell: &Sender<Message>, interval: Duration, stop: &Stop) {
    while !stop.wait(interval) {
        node.look();
        match node.docker.list() {
            Ok(list) => {
                note(node, Ok(()));
                if tell.send(Message::Glance(list)).is_err() {
                    return;
                }
            }
            Err(fault) => note(node, Err(fault)),
        }
    }
}

/// Tells everyone how the daemon does.
fn note(node: &Node, health: Result<(), DockerFault>) {
    let health = health.map_err(|fault| fault.text);
    if node.gate.set(health.clone()) {
        match health {
            Ok(()) => info!("Docker answers"),
            Err(reason) => {
                warning!(
                    "Docker does not answer, so this node takes no new containers: {reason}; see 'systemctl status docker'"
                );
            }
        }
    }
}
