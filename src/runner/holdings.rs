//! What the tasks on this node hold: VPS ports, and cores of their own.

use std::collections::{BTreeMap, BTreeSet};
#[cfg(test)]
use std::net::TcpListener;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use crate::domain::cpuset::CpuSet;
use crate::domain::ids::TaskId;
use crate::domain::node::Inventory;
use crate::domain::pinning::{PinRequest, Pinned, pin};
use crate::sys::random;
use crate::sys::socket::is_free;

/// Shared by all operations, so that two of them never take the same.
#[derive(Debug, Default)]
pub struct Holdings {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ports: BTreeMap<TaskId, u16>,
    cores: BTreeMap<TaskId, CpuSet>,
    /// Those whose start has begun, and that will take cores.
    promised: BTreeSet<TaskId>,
    /// Where the search for a port goes on: a port that was let go is used again as late as possible.
    next_port: Option<u16>,
}

/// Why a task is not started, for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cannot {
    /// What it needs is held by others.
    Now(String),
    /// This node cannot do what it asks for.
    Ever(String),
}

impl Holdings {
    /// Notes what a task that was found again holds.
    pub fn note(&self, task: TaskId, port: Option<u16>, cores: Option<&CpuSet>) {
        let mut held = self.lock();
        if let Some(port) = port {
            held.ports.insert(task, port);
        }
        if let Some(cores) = cores {
            held.cores.insert(task, cores.clone());
        }
    }

    /// Takes a port out of `range` (both ends included) that nothing listens on at `address`, and that no other task
    /// holds; the one that the task had before, if that is free. `refused`: the port that Docker has just refused.
    ///
    /// # Errors
    /// One sentence: all are taken.
    pub fn take_port(
        &self,
        task: TaskId,
        range: (u16, u16),
        address: IpAddr,
        refused: Option<u16>,
    ) -> Result<u16, String> {
        let mut held = self.lock();
        let before = held.ports.remove(&task);
        // Another Runner on this machine may be after the same ports: going on from here, both would clash at each.
        let from = refused.map(|_| random_port(range)).or(before).or(held.next_port);
        let free = |port: u16| is_free(SocketAddr::new(address, port));
        let port = candidates(range, from)
            .find(|port| Some(*port) != refused && !held.ports.values().any(|other| other == port) && free(*port))
            .ok_or_else(|| {
                format!(
                    "no VPS port is free on {address}: all of {}-{} (network.vps_ports) are taken, or the address is not \
                     one of this machine",
                    range.0, range.1
                )
            })?;
        held.ports.insert(task, port);
        held.next_port = port.checked_add(1);
        Ok(port)
    }

    /// The Host has given the task cores, and its start will take them: nobody who is next in line may be before it.
    pub fn promise(&self, task: TaskId) {
        self.lock().promised.insert(task);
    }

    /// It takes them no more, or has them.
    pub fn promise_over(&self, task: TaskId) {
        self.lock().promised.remove(&task);
    }

    /// Somebody is still to take the cores that the Host has given him.
    pub fn are_promised(&self) -> bool {
        !self.lock().promised.is_empty()
    }

    /// Binds a task to cores, beside those that are held by others. Ok(None): it is not pinned.
    ///
    /// # Errors
    /// How many are free where: now, while others hold them; or ever.
    pub fn take_cores(&self, task: TaskId, request: &PinRequest, node: &Inventory) -> Result<Option<Pinned>, Cannot> {
        let mut held = self.lock();
        held.promised.remove(&task);
        held.cores.remove(&task);
        let others = CpuSet(held.cores.values().flat_map(|cores| cores.0.iter().copied()).collect());
        let pinned = pin(request, node, &others).map_err(|why| match pin(request, node, &CpuSet::default()) {
            Ok(_) => Cannot::Now(why),
            Err(why) => Cannot::Ever(why),
        })?;
        if let Some(pinned) = pinned.as_ref().filter(|_| request.cores > 0) {
            held.cores.insert(task, pinned.cpus.clone());
        }
        Ok(pinned)
    }

    /// Nothing of the task lives any more.
    pub fn release(&self, task: TaskId) {
        let mut held = self.lock();
        held.ports.remove(&task);
        held.cores.remove(&task);
        held.promised.remove(&task);
    }

    /// Its container is stopped but kept: it would want its port again.
    pub fn release_cores(&self, task: TaskId) {
        self.lock().cores.remove(&task);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_port((first, last): (u16, u16)) -> u16 {
    let random = u32::from_le_bytes(random::bytes());
    let port = u32::from(first) + random % (u32::from(last.max(first)) - u32::from(first) + 1);
    u16::try_from(port).expect("it is not above `last`")
}

/// All ports of the range, beginning with `from` if that is one of them.
fn candidates((first, last): (u16, u16), from: Option<u16>) -> impl Iterator<Item = u16> {
    let from = from.filter(|from| (first..=last).contains(from)).unwrap_or(first);
    (from..=last).chain(first..from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A range of three ports of which the middle one is taken by a socket.
    fn range() -> (TcpListener, (u16, u16)) {
        loop {
            let taken = TcpListener::bind((LOCAL, 0)).expect("loopback has a free port");
            let port = taken.local_addr().expect("it is bound").port();
            let around = [port.wrapping_sub(1), port.wrapping_add(1)];
            if around.iter().all(|port| *port > 1024 && TcpListener::bind((LOCAL, *port)).is_ok()) {
                return (taken, (around[0], around[1]));
            }
        }
    }

    #[test]
    fn ports_go_round_and_skip_what_is_held_and_what_listens() {
        let (_taken, range) = range();
        let holdings = Holdings::default();
        let task = TaskId::from_u64;
        assert_eq!(holdings.take_port(task(1), range, LOCAL, None), Ok(range.0));
        assert_eq!(holdings.take_port(task(2), range, LOCAL, None), Ok(range.1), "the one between listens");
        let fault = holdings.take_port(task(3), range, LOCAL, None).expect_err("all are taken");
        assert!(fault.contains("network.vps_ports"), "{fault}");
        holdings.release(task(1));
        assert_eq!(holdings.take_port(task(3), range, LOCAL, None), Ok(range.0));
    }

    #[test]
    fn another_port_is_taken_when_the_first_one_did_not_do() {
        let (_taken, range) = range();
        let holdings = Holdings::default();
        let task = TaskId::from_u64(1);
        assert_eq!(holdings.take_port(task, range, LOCAL, None), Ok(range.0));
        assert_eq!(holdings.take_port(task, range, LOCAL, None), Ok(range.0), "its own is as good as before");
        assert_eq!(holdings.take_port(task, range, LOCAL, Some(range.0)), Ok(range.1), "but not if Docker refused it");
        assert!(holdings.take_port(task, (range.0, range.0), LOCAL, Some(range.0)).is_err());
    }

    #[test]
    fn a_promise_is_over_when_its_cores_are_taken_or_the_task_is_over() {
        let holdings = Holdings::default();
        let (first, second) = (TaskId::from_u64(1), TaskId::from_u64(2));
        let node = Inventory { cpus: "0-1".parse().expect("a list"), ..Inventory::default() };
        let request = PinRequest { cores: 1, numa: None, near: Vec::new() };
        holdings.promise(first);
        holdings.promise(second);
        assert!(holdings.take_cores(first, &request, &node).is_ok_and(|cores| cores.is_some()));
        assert!(holdings.are_promised());
        holdings.release(second);
        assert!(!holdings.are_promised());
        holdings.promise(second);
        holdings.promise_over(second);
        assert!(!holdings.are_promised());
    }

    #[test]
    fn cores_that_others_hold_are_waited_for_and_those_that_are_not_there_never_come() {
        let holdings = Holdings::default();
        let node = Inventory { cpus: "0-1".parse().expect("a list"), ..Inventory::default() };
        let take = |task, cores| {
            let request = PinRequest { cores, numa: None, near: Vec::new() };
            holdings.take_cores(TaskId::from_u64(task), &request, &node)
        };
        assert!(take(1, 2).is_ok());
        assert!(matches!(take(2, 1), Err(Cannot::Now(why)) if why.contains("0 of 2")));
        assert!(matches!(take(3, 3), Err(Cannot::Ever(why)) if why.contains("3 cores")));
        holdings.release(TaskId::from_u64(1));
        assert!(take(2, 1).is_ok());
    }

    #[test]
    fn a_random_port_is_one_of_the_range() {
        for range in [(30_000, 30_002), (65_535, 65_535), (1, 65_535)] {
            let port = random_port(range);
            assert!((range.0..=range.1).contains(&port), "{port} of {range:?}");
        }
    }

    #[test]
    fn the_search_wraps() {
        assert_eq!(candidates((5, 8), None).collect::<Vec<_>>(), [5, 6, 7, 8]);
        assert_eq!(candidates((5, 8), Some(7)).collect::<Vec<_>>(), [7, 8, 5, 6]);
        assert_eq!(candidates((5, 8), Some(99)).collect::<Vec<_>>(), [5, 6, 7, 8]);
        assert_eq!(candidates((65_534, 65_535), Some(65_535)).collect::<Vec<_>>(), [65_535, 65_534]);
    }
}
