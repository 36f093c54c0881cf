//! In tests alone: a world of the test's making in the place of clocks, randomness, threads, programs and the log, for the thread
//! that has entered it. So what is built on `sys` runs unchanged in a simulation, on one thread and without waiting.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use super::command::{CommandFault, Output};
use super::log::Level;

/// Work that would have a thread of its own.
pub(crate) type Thread = Box<dyn FnOnce() + Send>;

/// What stands outside of the program.
pub(crate) trait World {
    fn now(&self) -> Instant;
    fn unix_ms(&self) -> u64;
    fn random(&self, bytes: &mut [u8]);
    fn log(&self, level: Level, text: &str);
    /// A thread is to be started. Nobody waits for it.
    fn start(&self, name: &str, thread: Thread);
    /// A program is run to its end.
    fn run(&self, argv: &[String]) -> Result<Output, CommandFault>;
    /// Whoever calls this waits for something: others act meanwhile. Returns soon, when something may be another way, and when
    /// it is `until` at the latest.
    fn pass(&self, until: Option<Instant>);
    /// Whether an SSH server answers there.
    fn answers(&self, address: SocketAddr) -> bool;
    /// Whether nothing listens there.
    fn is_free(&self, address: SocketAddr) -> bool;
    /// A file is about to be replaced, or was.
    fn writes(&self, path: &Path);
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// The world that this thread is in, if it is in one.
pub(crate) fn world() -> Option<Rc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}

/// This thread is in `world` as long as this lives.
pub(crate) struct Entered;

/// Enters a world.
pub(crate) fn enter(world: Rc<dyn World>) -> Entered {
    WORLD.with_borrow_mut(|slot| *slot = Some(world));
    Entered
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|slot| *slot = None);
    }
}
