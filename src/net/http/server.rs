//! Accepts connections, keeps their number bounded, and ends them all when asked to.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Handler, Limits, connection};
use crate::sys::shutdown::Stop;
use crate::sys::{socket, thread};

/// How long a full table of descriptors, or a system without room for a thread, is waited out at most.
const PAUSE: Duration = Duration::from_millis(50);
/// How long requests in progress may still take when the server ends.
const GRACE: Duration = Duration::from_secs(2);

/// One open connection.
pub(super) struct Open {
    pub(super) socket: TcpStream,
    /// One of the three below. It leaves `IDLE` in one step: a request that was begun is never closed to make room for
    /// others, and one whose connection was closed is never begun.
    state: AtomicU8,
}

/// No request, or one that is not yet admitted.
const IDLE: u8 = 0;
/// A request was admitted and is not yet answered.
const BUSY: u8 = 1;
/// It had to make room.
const CLOSED: u8 = 2;

impl Open {
    fn new(socket: TcpStream) -> Self {
        Self { socket, state: AtomicU8::new(IDLE) }
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request was admitted; false if the connection is closed already.
    pub(super) fn begin(&self) -> bool {
        self.step(IDLE, BUSY)
    }

    /// The request, if there was one, is answered.
    pub(super) fn done(&self) {
        self.step(BUSY, IDLE);
    }

    /// Closes it, unless a request is in progress: then false. Its thread reads the end and is gone.
    fn close_if_idle(&self) -> bool {
        let closes = self.step(IDLE, CLOSED);
        if closes {
            drop(self.socket.shutdown(Shutdown::Both));
        }
        closes
    }
}

/// The open connections by age.
#[derive(Default)]
struct Table {
    inner: Mutex<(u64, BTreeMap<u64, Arc<Open>>)>,
    fewer: Condvar,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<Open>>)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; where there are `most` already, the oldest without a request in progress is closed. None if every
    /// one of them is busy.
    fn add(&self, socket: TcpStream, most: usize) -> Option<(u64, Arc<Open>)> {
        let mut table = self.lock();
        if table.1.len() >= most && !close_oldest_idle(&mut table.1) {
            return None;
        }
        let number = table.0;
        table.0 += 1;
        let open = Arc::new(Open::new(socket));
        table.1.insert(number, Arc::clone(&open));
        Some((number, open))
    }

    fn remove(&self, number: u64) {
        self.lock().1.remove(&number);
        self.fewer.notify_all();
    }

    /// Closes the oldest connection without a request in progress, and waits until one is gone with its descriptor: at once,
    /// not after a pause, or a flood of idle connections would let in twenty clients a second.
    fn make_room(&self) {
        let mut table = self.lock();
        close_oldest_idle(&mut table.1);
        drop(self.fewer.wait_timeout(table, PAUSE));
    }

    /// Closes the idle ones now, and the busy ones when their grace is over.
    fn end(&self) {
        let mut table = self.lock();
        for open in table.1.values() {
            // A busy one still writes its answer; its next read is at the end.
            drop(open.socket.shutdown(Shutdown::Read));
        }
        let end = Instant::now() + GRACE;
        while !table.1.is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            table = self.fewer.wait_timeout(table, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        for open in table.1.values() {
            drop(open.socket.shutdown(Shutdown::Both));
        }
    }
}

fn close_oldest_idle(open: &mut BTreeMap<u64, Arc<Open>>) -> bool {
    let oldest = open.iter().find(|(_, open)| open.close_if_idle()).map(|(number, _)| *number);
    oldest.is_some_and(|number| open.remove(&number).is_some())
}

/// Serves until `stop`; returns when the connections are closed. An accept error is logged and waited out, never the end.
pub fn serve(listener: TcpListener, handler: Arc<dyn Handler>, limits: Limits, stop: &Stop) {
    let table = Arc::new(Table::default());
    let limits = Arc::new(limits);
    let mut complained: Option<Instant> = None;
    let mut complain = |what: &str| {
        if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
            complained = Some(Instant::now());
            crate::warning!("HTTP: {what}");
        }
    };
    loop {
        let (socket, peer) = match socket::accept(&listener, stop) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => break,
            Err(fault) => {
                complain(&format!("cannot accept a connection: {fault}"));
                table.make_room();
                continue;
            }
        };
        let Some((number, open)) = table.add(socket, limits.connections) else {
            complain(&format!("{} requests are in progress: a new connection is refused", limits.connections));
            continue;
        };
        let (table_of_thread, handler, limits) = (Arc::clone(&table), Arc::clone(&handler), Arc::clone(&limits));
        let started = thread::spawn("http", move || {
            // Also when it panics, the place in the table is given back: after the descriptor, as locals go in reverse order.
            let _place = Place { table: table_of_thread, number };
            let open = open;
            connection::serve(&open, peer, handler.as_ref(), &limits);
        });
        if let Err(fault) = started {
            complain(&format!("no thread for a connection: {fault}"));
            table.remove(number);
            if stop.wait(PAUSE) {
                break;
            }
        }
    }
    drop(listener);
    table.end();
}

struct Place {
    table: Arc<Table>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.remove(self.number);
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
