//! Where processes are made: in threads beside the supervisor's own. A working directory or a program on a dead file server hangs
//! whoever asks for it, and nobody else is to wait for that.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Key;
use crate::runner::executor::process::{self, Running};
use crate::runner::supervise::protocol::Start;
use crate::sys::cgroup::Cgroups;
use crate::sys::fault::around;
use crate::sys::thread;
use crate::sys::wake::Wake;

/// So long the supervisor waits for starts itself, which nearly always take a millisecond, and so long for a sign of life from those
/// who make them before it takes on another one.
const PATIENCE: Duration = Duration::from_millis(250);

/// A start that is over.
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) result: Result<Running, String>,
}

/// See above. What hangs keeps its thread until its file server is back.
pub(super) struct Starter {
    shared: Arc<Shared>,
    done: Receiver<Done>,
    /// Those that are not over.
    pending: BTreeSet<Key>,
    /// When the last one was over, or another thread was taken on.
    progress: Instant,
}

struct Shared {
    cgroups: Arc<Cgroups>,
    queue: Mutex<Queue>,
    filled: Condvar,
    done: Sender<Done>,
    bell: Wake,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Key, Box<Start>)>,
    /// Threads that wait for a job.
    idle: usize,
}

impl Starter {
    pub(super) fn new(cgroups: Arc<Cgroups>) -> Self {
        let (send, done) = mpsc::channel();
        let (queue, filled) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { cgroups, queue, filled, done: send, bell: Wake::default() });
        Self { shared, done, pending: BTreeSet::new(), progress: Instant::now() }
    }

    /// Readable when there is something for [`Self::over`].
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.shared.bell.fd()
    }

    /// Some start is not over.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Starts these; the answer is what is over by then, which need not be all.
    pub(super) fn start(&mut self, jobs: Vec<(Key, Box<Start>)>) -> Vec<Done> {
        let mut waited: BTreeSet<Key> = jobs.iter().map(|(key, _)| *key).collect();
        self.pending.extend(&waited);
        let mut queue = self.shared.lock();
        queue.jobs.extend(jobs);
        let has_worker = queue.idle > 0;
        drop(queue);
        if has_worker {
            self.shared.filled.notify_one();
        } else {
            self.take_on();
        }
        let mut over = Vec::new();
        while !waited.is_empty() {
            let Ok(done) = self.done.recv_timeout(PATIENCE) else { break };
            waited.remove(&done.key);
            over.push(self.note(done));
        }
        self.relieve();
        over
    }

    /// What is over since.
    pub(super) fn over(&mut self) -> Vec<Done> {
        self.shared.bell.heard();
        let mut over = Vec::new();
        while let Ok(done) = self.done.try_recv() {
            over.push(self.note(done));
        }
        self.relieve();
        over
    }

    /// When [`Self::over`] is to be called at the latest: some wait behind one that hangs.
    pub(super) fn relief(&self) -> Option<Instant> {
        (self.is_busy() && !self.shared.lock().jobs.is_empty()).then(|| self.progress + PATIENCE)
    }

    fn note(&mut self, done: Done) -> Done {
        self.pending.remove(&done.key);
        self.progress = Instant::now();
        done
    }

    /// Those who wait for one that hangs get somebody else.
    fn relieve(&mut self) {
        if self.relief().is_some_and(|at| at <= Instant::now()) {
            self.take_on();
        }
    }

    fn take_on(&mut self) {
        self.progress = Instant::now();
        let shared = Arc::clone(&self.shared);
        if let Err(fault) = thread::spawn("starter", move || shared.work()) {
            // Nobody will do these.
            let jobs = std::mem::take(&mut self.shared.lock().jobs);
            for (key, _) in jobs {
                let result = Err(format!("this node cannot start a thread: {fault}"));
                // The receiver is ours.
                let _sent = self.shared.done.send(Done { key, result });
            }
            self.shared.bell.ring();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: as long as nobody else waits for jobs.
    fn work(&self) {
        loop {
            let mut queue = self.lock();
            let (key, start) = loop {
                if let Some(job) = queue.jobs.pop_front() {
                    break job;
                }
                if queue.idle > 0 {
                    return;
                }
                queue.idle += 1;
                queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            };
            drop(queue);
            let result = around("start", String::new, || process::start(&start, &self.cgroups));
            if self.done.send(Done { key, result }).is_err() {
                return;
            }
            self.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sys::file::Scratch;
    use crate::sys::launch::{Launched, reap};

    fn start(scratch: &Scratch, task: u64, program: &Path) -> (Key, Box<Start>) {
        let start = Start {
            task,
            attempt: 1,
            argv: vec![program.display().to_string()],
            output: scratch.path().join(task.to_string()).display().to_string(),
            ..Start::default()
        };
        ((task, 1), Box::new(start))
    }

    #[test]
    fn one_that_hangs_holds_up_nobody() {
        let scratch = Scratch::new();
        // The kernel waits for the other end of a pipe that is opened to be written to: here the output's.
        let pipe = scratch.path().join("1.stdout");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let cgroups = Arc::new(Cgroups::find(&scratch.path().join("none"), "x"));
        let mut starter = Starter::new(cgroups);
        let program = Path::new("/bin/true");
        let jobs = (1..=3).map(|task| start(&scratch, task, program)).collect();
        let mut over = starter.start(jobs);
        assert!(over.is_empty() && starter.is_busy(), "the first one hangs");
        let end = Instant::now() + Duration::from_secs(20);
        let mut ids = Vec::new();
        let mut collect = |over: Vec<Done>| {
            for done in over {
                let running = done.result.expect("it starts");
                reap(Launched { pid: running.process.pid });
                ids.push(done.key.0);
            }
            ids.clone()
        };
        while collect(std::mem::take(&mut over)).len() < 2 {
            assert!(Instant::now() < end, "those behind it are started");
            over = starter.over();
        }
        over = starter.start(vec![start(&scratch, 4, program)]);
        assert_eq!(collect(over), [2, 3, 4], "and those after it at once");
        // The server is back.
        let _reader = std::fs::File::open(&pipe).expect("the pipe");
        let mut over = Vec::new();
        while collect(std::mem::take(&mut over)).len() < 4 {
            assert!(Instant::now() < end, "what hung goes on");
            over = starter.over();
        }
        assert!(!starter.is_busy());
    }
}
