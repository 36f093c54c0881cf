//! Two WebSockets that say each other's messages: a user's, and that of the node on which the shell runs.

use std::time::Duration;

use super::FAREWELL;
use crate::net::websocket::{Ending, Incoming, Lost, Socket};
use crate::sys::ready;

/// For a node to hear that the user is gone.
const HANG_UP: Duration = Duration::from_secs(1);

/// Which side has ended it, and how.
enum Over {
    UserGone,
    /// The node has closed the connection, with this reason.
    Ended(String),
    NodeLost(Lost),
}

/// Carries messages both ways until one side ends. Each side's next message is read only when the other has taken the last one, so
/// there is never more than one of each here.
pub fn carry(mut user: Socket, mut node: Socket) {
    match carry_on(&mut user, &mut node) {
        Over::UserGone => {
            drop(user);
            // Nobody wants to know what the shell still says. One that takes no input is to see the end all the same.
            if !node.close(Ending::Done, "", HANG_UP) {
                node.abort();
            }
        }
        Over::Ended(reason) => {
            drop(node);
            let _answered = user.close(Ending::Done, &reason, FAREWELL);
        }
        Over::NodeLost(fault) => super::refuse(user, &format!("the connection to the node is lost: {fault}")),
    }
}

fn carry_on(user: &mut Socket, node: &mut Socket) -> Over {
    loop {
        while !user.has_unsent() {
            match node.receive() {
                Ok(Some(Incoming::Text(text))) => match user.send(text) {
                    Ok(()) => {}
                    Err(_) => return Over::UserGone,
                },
                Ok(Some(Incoming::Closed(reason))) => return Over::Ended(reason),
                Ok(None) => break,
                Err(fault) => return Over::NodeLost(fault),
            }
        }
        while !node.has_unsent() {
            match user.receive() {
                Ok(Some(Incoming::Text(text))) => match node.send(text) {
                    Ok(()) => {}
                    // What it said before is still to be read.
                    Err(_) => break,
                },
                Ok(Some(Incoming::Closed(_))) | Err(_) => return Over::UserGone,
                Ok(None) => break,
            }
        }
        let (hears_node, hears_user) = (!user.has_unsent(), !node.has_unsent());
        // Who goes while the shell takes no input is missed all the same; of a node that goes, the last words are still read.
        let waited = [user.wanted(hears_user, true), node.wanted(hears_node, false)];
        let [user_ready, node_ready] = ready::wait(waited, Some(user.due().min(node.due())));
        if user_ready.ended && !hears_user || user.tend(user_ready, hears_user).is_err() {
            return Over::UserGone;
        }
        if let Err(fault) = node.tend(node_ready, hears_node) {
            return Over::NodeLost(fault);
        }
    }
}
