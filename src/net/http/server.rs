//! Accepts connections, keeps their number bounded, and ends them all when asked to.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bodies::Bodies;
use super::{Handler, Limits, connection};
use crate::sys::shutdown::Stop;
use crate::sys::{socket, thread};

/// How long a full table of descriptors, or a system without room for a thread, is waited out at most.
const PAUSE: Duration = Duration::from_millis(50);
/// How long requests in progress may still take when the server, and its handler, end.
const GRACE: Duration = Duration::from_secs(2);

/// One open connection.
pub(super) struct Open {
    pub(super) socket: TcpStream,
    /// One of the five below. It leaves `IDLE` in one step: a request that was begun is never closed to make room for
    /// others, and one whose connection was closed is never begun.
    state: AtomicU8,
}

/// No request, or one that is not yet admitted.
const IDLE: u8 = 0;
/// A request was admitted and is not yet carried out.
const BUSY: u8 = 1;
/// It is carried out, and its answer on the way: only the client is waited for.
const ANSWERING: u8 = 2;
/// The answer is written as it comes (events, output), for as long as the client likes: it goes on elsewhere from where it was.
const STREAMING: u8 = 3;
/// It had to make room.
const CLOSED: u8 = 4;

impl Open {
    fn new(socket: TcpStream) -> Self {
        Self { socket, state: AtomicU8::new(IDLE) }
    }

    fn is(&self, state: u8) -> bool {
        self.state.load(Ordering::Relaxed) == state
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request was admitted; false if the connection is closed already.
    pub(super) fn begin(&self) -> bool {
        self.step(IDLE, BUSY)
    }

    /// All that is left to do is to send a whole answer.
    pub(super) fn answering(&self) {
        self.step(BUSY, ANSWERING);
    }

    /// The answer is a stream.
    pub(super) fn streaming(&self) {
        self.step(BUSY, STREAMING);
    }

    /// The request, if there was one, is answered.
    pub(super) fn done(&self) {
        [ANSWERING, STREAMING, BUSY].into_iter().any(|state| self.step(state, IDLE));
    }

    /// Closes it if it is in that state; else false. Its thread reads the end and is gone.
    fn close_if(&self, state: u8) -> bool {
        let closes = self.step(state, CLOSED);
        if closes {
            drop(self.socket.shutdown(Shutdown::Both));
        }
        closes
    }
}

/// The connections, and their threads.
#[derive(Default)]
struct Table {
    inner: Mutex<Connections>,
    fewer: Condvar,
}

#[derive(Default)]
struct Connections {
    next: u64,
    /// The open ones by age.
    open: BTreeMap<u64, Arc<Open>>,
    /// Also of those that were closed, until they have seen it: a stream without news looks up every few seconds.
    threads: usize,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; where there are `most` already, the oldest is closed that can be spared. None if there is no such, or too
    /// many have not seen for a while that they were closed.
    fn add(&self, socket: TcpStream, most: usize) -> Option<(u64, Arc<Open>)> {
        let table = self.lock();
        let waited = self.fewer.wait_timeout_while(table, PAUSE, |table| table.threads >= 2 * most);
        let (mut table, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() || (table.open.len() >= most && !close_oldest(&mut table.open)) {
            return None;
        }
        let number = table.next;
        table.next += 1;
        table.threads += 1;
        let open = Arc::new(Open::new(socket));
        table.open.insert(number, Arc::clone(&open));
        Some((number, open))
    }

    fn remove(&self, number: u64) {
        let mut table = self.lock();
        table.open.remove(&number);
        table.threads -= 1;
        drop(table);
        self.fewer.notify_all();
    }

    /// Closes the oldest connection that can be spared, and waits until one is gone with its descriptor: at once,
    /// not after a pause, or a flood of idle connections would let in twenty clients a second.
    fn make_room(&self) {
        let mut table = self.lock();
        close_oldest(&mut table.open);
        drop(self.fewer.wait_timeout(table, PAUSE));
    }

    /// Closes the idle ones. A busy one still writes its answer; its next read is at the end.
    fn hear_nothing(&self) {
        for open in self.lock().open.values() {
            drop(open.socket.shutdown(Shutdown::Read));
        }
    }

    /// Closes the busy ones when their grace is over.
    fn end(&self) {
        let mut table = self.lock();
        let end = Instant::now() + GRACE;
        while !table.open.is_empty() {
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            table = self.fewer.wait_timeout(table, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        for open in table.open.values() {
            drop(open.socket.shutdown(Shutdown::Both));
        }
    }
}

/// Of those without a request in progress one in so many is spared as long as there is another way, the youngest: they have just come,
/// and are about to ask.
const SPARED: usize = 16;

/// The oldest without a request in progress; where there is none, the oldest whose client has only to read its answer; then the oldest
/// stream. By not reading, or by listening, some could else keep everyone out, and nodes would count as silent.
fn close_oldest(open: &mut BTreeMap<u64, Arc<Open>>) -> bool {
    let idle = open.values().filter(|open| open.is(IDLE)).count();
    let old = idle.saturating_sub(open.len() / SPARED);
    let oldest = [(IDLE, old), (ANSWERING, usize::MAX), (STREAMING, usize::MAX), (IDLE, usize::MAX)]
        .into_iter()
        .find_map(|(state, most)| {
            open.iter().filter(|(_, open)| open.is(state)).take(most).find(|(_, open)| open.close_if(state))
        });
    let oldest = oldest.map(|(number, _)| *number);
    oldest.is_some_and(|number| open.remove(&number).is_some())
}

/// Serves until `stop`; returns when the connections are closed. An accept error is logged and waited out, never the end.
pub fn serve(listener: TcpListener, handler: Arc<dyn Handler>, limits: Limits, stop: &Stop) {
    let table = Arc::new(Table::default());
    let limits = Arc::new(limits);
    let bodies = Arc::new(Bodies::default());
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
        let (table_of_thread, handler) = (Arc::clone(&table), Arc::clone(&handler));
        let (limits, bodies) = (Arc::clone(&limits), Arc::clone(&bodies));
        let started = thread::spawn("http", move || {
            // Also when it panics, the place in the table is given back: after the descriptor, as locals go in reverse order.
            let _place = Place { table: table_of_thread, number };
            let open = open;
            connection::serve(&open, peer, handler.as_ref(), &limits, &bodies);
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
    table.hear_nothing();
    handler.end();
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
