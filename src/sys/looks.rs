//! File systems whose server may be dead: every look at them hangs then, so they are looked at from threads that may.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::thread;

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// And where another one has taken longer than that already.
const BRIEF: Duration = Duration::from_secs(2);
/// How many are under way at once: those that hang stay there.
const AT_ONCE: usize = 8;
/// How long a thread waits for the next look, which then costs no start of another.
const IDLE: Duration = Duration::from_secs(10);

/// Looks (and writes) with a time limit. Clones share their threads: one for each file system that may be dead by itself.
#[derive(Clone, Default)]
pub struct Looks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    work: Condvar,
}

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    /// The number of the next look.
    next: u64,
    /// The first one is the next to begin.
    waiting: VecDeque<(u64, Work)>,
    /// When those began that are under way.
    begun: BTreeMap<u64, Instant>,
    threads: usize,
    /// Threads without work.
    idle: usize,
}

impl Looks {
    /// What `look` finds; None if it takes longer than 5 s. Then it goes on by itself, unless it had not begun: what it changes may
    /// still be changed later. Where as many hang as may, none begins.
    pub fn at<T: Send + 'static>(&self, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        #[cfg(test)]
        if super::simulated::world().is_some() {
            return Some(look());
        }
        let patience = match self.shared.lock().hanging() {
            0 => PATIENCE,
            1..AT_ONCE => BRIEF,
            _ => return None,
        };
        let (send, receive) = mpsc::sync_channel(1);
        let number = self.shared.add(Box::new(move || {
            // Nobody listens any more if it took too long.
            let _late = send.send(look());
        }));
        match receive.recv_timeout(patience) {
            Ok(found) => Some(found),
            // It ended with a panic, which is in the log.
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.shared.recall(number);
                None
            }
        }
    }

    /// Drops something without waiting for it: closing a file is a look as well.
    pub fn let_go(&self, what: impl Send + 'static) {
        #[cfg(test)]
        if super::simulated::world().is_some() {
            return;
        }
        self.shared.add(Box::new(move || drop(what)));
    }
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looks")
    }
}

impl Inner {
    /// How many are under way for longer than any should.
    fn hanging(&self) -> usize {
        self.begun.values().filter(|begun| begun.elapsed() > PATIENCE).count()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It begins as soon as there is a thread for it; its number is the answer.
    fn add(self: &Arc<Self>, work: Work) -> u64 {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.waiting.push_back((number, work));
        if inner.waiting.len() <= inner.idle {
            self.work.notify_one();
        } else if inner.threads < AT_ONCE {
            let of_thread = Arc::clone(self);
            // Where there is no room for a thread it waits for one of the others, or is given up.
            inner.threads += usize::from(thread::spawn("storage", move || of_thread.serve()).is_ok());
        }
        number
    }

    /// What has not begun is not to be.
    fn recall(&self, number: u64) {
        let mut inner = self.lock();
        let at = inner.waiting.iter().position(|(waiting, _)| *waiting == number);
        let recalled = at.and_then(|at| inner.waiting.remove(at));
        // What it holds may be a lot, and others wait for the lock.
        drop(inner);
        drop(recalled);
    }

    /// One thread.
    fn serve(&self) {
        let mut inner = self.lock();
        loop {
            if let Some((number, work)) = inner.waiting.pop_front() {
                inner.begun.insert(number, Instant::now());
                drop(inner);
                let _panicked = thread::caught("a look at storage", work);
                inner = self.lock();
                inner.begun.remove(&number);
                continue;
            }
            inner.idle += 1;
            let waited = self.work.wait_timeout(inner, IDLE).unwrap_or_else(PoisonError::into_inner);
            inner = waited.0;
            inner.idle -= 1;
            if waited.1.timed_out() && inner.waiting.is_empty() {
                inner.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look that hangs until the answer is dropped.
    fn hang(looks: &Looks) -> mpsc::Sender<()> {
        let (hold, held) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        looks.shared.add(Box::new(move || {
            begin.send(()).expect("it is waited for");
            let _dropped = held.recv();
        }));
        begun.recv().expect("it begins");
        hold
    }

    #[test]
    fn many_looks_share_few_threads_which_are_used_again() {
        let looks = Looks::default();
        std::thread::scope(|scope| {
            for number in 0..10 * AT_ONCE {
                let looks = &looks;
                scope.spawn(move || assert_eq!(looks.at(move || number), Some(number)));
            }
        });
        assert_eq!(looks.at(|| -> u32 { panic!("on purpose") }), None);
        for number in 0..100 {
            assert_eq!(looks.at(move || number), Some(number));
        }
        let inner = looks.shared.lock();
        assert!((1..=AT_ONCE).contains(&inner.threads) && inner.waiting.is_empty(), "{}", inner.threads);
    }

    #[test]
    fn where_all_hang_none_begins_and_what_was_given_up_never_does() {
        let looks = Looks::default();
        let holds: Vec<_> = (0..AT_ONCE).map(|_| hang(&looks)).collect();
        let (tell, told) = mpsc::channel();
        let number = looks.shared.add(Box::new(move || tell.send(()).expect("it is listened to")));
        looks.shared.recall(number);
        assert!(told.recv().is_err(), "its work is gone");
        // As if they had begun long ago.
        let long_ago = Instant::now().checked_sub(2 * PATIENCE).expect("this machine runs for that long");
        looks.shared.lock().begun.values_mut().for_each(|begun| *begun = long_ago);
        let began = Instant::now();
        assert_eq!(looks.at(|| 1), None);
        assert!(began.elapsed() < BRIEF, "at once");
        let (closed, closing) = mpsc::channel::<()>();
        looks.let_go(closed);
        assert_eq!(looks.shared.lock().threads, AT_ONCE);
        drop(holds);
        assert!(closing.recv().is_err(), "what was let go of is dropped in the end");
        assert_eq!(looks.at(|| 2), Some(2));
    }

    #[test]
    fn one_that_hangs_holds_up_no_other() {
        let looks = Looks::default();
        let hold = hang(&looks);
        assert_eq!(looks.at(|| 1), Some(1));
        drop(hold);
    }
}
