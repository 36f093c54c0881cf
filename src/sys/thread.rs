//! Threads: named, with small stacks; vital ones end the process if they panic.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Enough for a request or a task: nothing here recurses or keeps large arrays on the stack. Only touched pages count.
const STACK: usize = 256 << 10;
/// SQLite and the engine go deeper.
const VITAL_STACK: usize = 1 << 20;
/// What a process ends with when it has found a fault in itself (`EX_SOFTWARE` of sysexits.h).
const SOFTWARE_FAULT: i32 = 70;

/// Starts a thread that serves one thing; a panic in it is logged and ends only it.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn<F: FnOnce() + Send + 'static>(name: &str, work: F) -> io::Result<JoinHandle<()>> {
    spawn_sized(name, STACK, work)
}

/// As [`spawn`], for a thread that nobody waits for.
///
/// # Errors
/// The system has no room for another thread.
pub fn detached<F: FnOnce() + Send + 'static>(name: &str, work: F) -> io::Result<()> {
    #[cfg(test)]
    if let Some(world) = super::simulated::world() {
        world.start(name, Box::new(work));
        return Ok(());
    }
    spawn(name, work).map(drop)
}

/// As [`spawn`], with a stack of `stack` bytes (64 KiB at least: thread-local storage stands in it too).
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn_sized<F: FnOnce() + Send + 'static>(name: &str, stack: usize, work: F) -> io::Result<JoinHandle<()>> {
    let thread = name.to_owned();
    Builder::new().name(name.to_owned()).stack_size(stack.max(64 << 10)).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            crate::error!("the thread '{thread}' ended with a panic: {}", reason(panic.as_ref()));
        }
    })
}

/// Starts a thread without which the process must not go on (engine, accept, agent, watch): a panic in it ends the
/// process with status 70 and its reason, so that systemd restarts it and reconciliation heals.
pub fn spawn_vital<F: FnOnce() + Send + 'static>(name: &str, work: F) -> JoinHandle<()> {
    let thread = name.to_owned();
    let started = Builder::new().name(name.to_owned()).stack_size(VITAL_STACK).spawn(move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            crate::error!(
                "the thread '{thread}' ended with a panic, and the process with it: {}",
                reason(panic.as_ref())
            );
            std::process::exit(SOFTWARE_FAULT);
        }
    });
    started.unwrap_or_else(|fault| {
        crate::error!("cannot start the thread '{name}', without which nothing works: {fault}");
        std::process::exit(SOFTWARE_FAULT)
    })
}

/// Does it in this thread; a panic in it is logged and is None.
pub fn caught<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.map_err(|panic| crate::error!("{what} ended with a panic: {}", reason(panic.as_ref()))).ok()
}

/// The message of a panic.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Lets the threads share two arenas of malloc: by default glibc makes up to eight per core, each with memory of its own
/// that is not given back.
pub(super) fn keep_arenas_few() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers; it is called before the first thread starts.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_only_its_thread() {
        let thread = spawn("doomed", || panic!("as planned")).expect("there is room for a thread");
        assert!(thread.join().is_ok(), "the panic was caught");
    }

    #[test]
    fn the_name_is_the_kernels_too() {
        let thread = spawn_vital("engine", || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").expect("/proc is mounted");
            assert_eq!(name.trim(), "engine");
        });
        assert!(thread.join().is_ok());
    }

    #[test]
    fn a_panic_says_why() {
        assert_eq!(reason(&"literal"), "literal");
        assert_eq!(reason(&"formatted".to_owned()), "formatted");
        assert_eq!(reason(&5), "no message");
    }

    #[test]
    fn a_panic_that_is_caught_harms_nobody() {
        assert_eq!(caught("this test", || 7), Some(7));
        assert_eq!(caught("this test", || -> u32 { panic!("on purpose") }), None);
    }
}
