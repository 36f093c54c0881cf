//! The Runner's line to the node's supervisor: connects, starts it where it does not run, and connects again. Nothing here
//! makes the agent wait.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SendError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::executor::Owner;
use super::message::Message;
use super::supervise::frame;
use super::supervise::node::journal;
use super::supervise::protocol::{Ask, Hello, Start, TaskState, Tell, Which, socket_name};
use crate::api::json;
use crate::sys::command::Program;
use crate::sys::fault;
use crate::sys::local::{self, Interest};
use crate::sys::shutdown::Stop;
use crate::sys::thread;
use crate::sys::wake::Wake;
use crate::{info, warning};

/// How long a supervisor may take to listen: it reads its journal, and ends what an earlier one has left.
const START: Duration = Duration::from_secs(30);

/// How long one that was connected to may take to say what it has.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the last words to it may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The line. What is asked while it is broken is dropped: after each connection the agent hears everything
/// ([`Message::Supervised`] with `complete`), and asks again for what is missing. What it asks before it has heard that
/// ([`Supervisor::heard`]) is dropped as well: it might be a start that the whole word does not know of, and the agent does not
/// remember, so that it would take the task to be nowhere.
pub struct Supervisor {
    asked: Arc<Asked>,
}

/// What is to be sent.
#[derive(Default)]
struct Asked {
    /// Each with the whole word that was heard last when it was asked.
    queue: Mutex<VecDeque<(u64, Ask)>>,
    /// 0: none yet.
    heard: AtomicU64,
    wake: Wake,
}

impl Asked {
    fn queue(&self) -> MutexGuard<'_, VecDeque<(u64, Ask)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is asked, but for what was asked before all was heard, which was told `told` times. (Who has never heard anything does
    /// not mistake what was told since.)
    fn take(&self, told: u64) -> Vec<Ask> {
        let is_meant = |heard: u64| heard == 0 || heard == told;
        self.queue().drain(..).filter(|(heard, _)| is_meant(*heard)).map(|(_, ask)| ask).collect()
    }

    fn has_start(&self) -> bool {
        self.queue().iter().any(|(_, ask)| matches!(ask, Ask::Start(_)))
    }
}

/// What is asked of a supervisor of the test's making.
#[cfg(test)]
pub(crate) struct Questions(Arc<Asked>);

#[cfg(test)]
impl Questions {
    pub(crate) fn take(&self, told: u64) -> Vec<Ask> {
        self.0.take(told)
    }

    pub(crate) fn has_start(&self) -> bool {
        self.0.has_start()
    }

    pub(crate) fn clear(&self) {
        self.0.queue().clear();
    }
}

/// The thread's side.
struct Line {
    asked: Arc<Asked>,
    socket_name: String,
    folder: PathBuf,
    /// How a supervisor is started.
    argv: Vec<String>,
    tell: Sender<Message>,
    stop: Stop,
    /// How many times all that there is was told.
    told: u64,
}

impl Supervisor {
    /// `folder` is `<state>/runner/<hostname>`, `binary` our own copy there. Where a supervisor runs, or has left a journal,
    /// it is connected to at once; else the first [`Supervisor::start`] starts one, and an empty complete
    /// [`Message::Supervised`] is sent at once.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(
        owner: &Owner,
        folder: &Path,
        binary: &Path,
        tell: Sender<Message>,
        stop: &Stop,
    ) -> std::io::Result<Self> {
        let asked = Arc::new(Asked::default());
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let argv =
            [&text(binary), "supervise", "--node", &owner.node, "--cluster", &owner.cluster, "--folder", &text(folder)];
        let mut line = Line {
            asked: Arc::clone(&asked),
            socket_name: socket_name(&owner.cluster, &owner.node),
            folder: folder.to_owned(),
            argv: argv.map(ToOwned::to_owned).to_vec(),
            tell,
            stop: stop.clone(),
            told: 0,
        };
        thread::spawn("supervisor", move || line.serve())?;
        Ok(Self { asked })
    }

    /// A line to a supervisor of the test's making.
    #[cfg(test)]
    pub(crate) fn to_a_test() -> (Self, Questions) {
        let asked = Arc::new(Asked::default());
        (Self { asked: Arc::clone(&asked) }, Questions(asked))
    }

    /// All that there is was heard, for the time that it came with: what is asked from now on is meant for a supervisor that has that.
    pub fn heard(&self, time: u64) {
        self.asked.heard.store(time, Ordering::Release);
    }

    /// Asks for a task's start.
    pub fn start(&self, start: Start) {
        self.ask(Ask::Start(Box::new(start)));
    }

    /// Asks for a task's end.
    pub fn stop(&self, which: Which) {
        self.ask(Ask::Stop(which));
    }

    /// Asks for a task to be frozen.
    pub fn pause(&self, which: Which) {
        self.ask(Ask::Pause(which));
    }

    /// Asks for a task to be thawed.
    pub fn resume(&self, which: Which) {
        self.ask(Ask::Resume(which));
    }

    /// Asks for a task that ended to be forgotten.
    pub fn forget(&self, which: Which) {
        self.ask(Ask::Forget(which));
    }

    fn ask(&self, ask: Ask) {
        let _step = fault::step("ask", || verb(&ask).to_owned());
        let heard = self.asked.heard.load(Ordering::Acquire);
        self.asked.queue().push_back((heard, ask));
        self.asked.wake.ring();
    }
}

/// What is asked, in a word.
fn verb(ask: &Ask) -> &'static str {
    match ask {
        Ask::Hello(_) => "hello",
        Ask::Start(_) => "start",
        Ask::Stop(_) => "stop",
        Ask::Pause(_) => "pause",
        Ask::Resume(_) => "resume",
        Ask::Forget(_) => "forget",
    }
}

/// Why a conversation ended.
enum Over {
    /// The Runner ends.
    Stop,
    Broken(String),
}

impl Line {
    fn serve(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut told = None;
        // It may be there, whether or not anything is needed of it: also one whose journal was removed while it holds tasks.
        let mut try_anyway = true;
        while !self.stop.is_set() {
            if !std::mem::take(&mut try_anyway) && !self.is_needed() {
                if self.tell_all(Vec::new()).is_err() {
                    return;
                }
                if !self.await_need() {
                    return;
                }
            }
            let fault = match self.connect() {
                Ok(None) => continue,
                Ok(Some(socket)) => {
                    backoff.reset();
                    match self.talk(socket) {
                        Over::Stop => return,
                        Over::Broken(reason) => {
                            self.asked.queue().clear();
                            try_anyway = true;
                            reason
                        }
                    }
                }
                Err(fault) => fault,
            };
            if told.as_ref() != Some(&fault) {
                warning!("tasks without a container: {fault}");
                told = Some(fault.clone());
            }
            if self.tell.send(Message::Unsupervised(fault)).is_err() {
                return;
            }
            self.stop.wait(backoff.wait());
        }
    }

    /// Tells all that there is. Err: the Runner ends.
    fn tell_all(&mut self, states: Vec<TaskState>) -> Result<(), SendError<Message>> {
        self.told += 1;
        self.tell.send(Message::Supervised { states, complete: Some(self.told) })
    }

    /// Moves what is asked to what is to be sent.
    fn take_asked(&self, outgoing: &mut Vec<u8>) {
        for ask in self.asked.take(self.told) {
            frame::put(outgoing, json::encode(&ask).as_bytes());
        }
    }

    /// Something is to be started, or an earlier one has something to tell.
    fn is_needed(&self) -> bool {
        journal::is_there(&self.folder) || self.asked.has_start()
    }

    /// False: the Runner ends.
    fn await_need(&self) -> bool {
        loop {
            let ready = local::ready(&[(self.stop.fd(), Interest::Read), (self.asked.wake.fd(), Interest::Read)], None);
            if ready[0] {
                return false;
            }
            self.asked.wake.heard();
            if self.is_needed() {
                return true;
            }
        }
    }

    /// None: nobody is there, and nobody is needed.
    fn connect(&self) -> Result<Option<UnixStream>, String> {
        match self.connect_once() {
            Ok(socket) => return Ok(Some(socket)),
            Err(Some(fault)) => return Err(fault),
            Err(None) if !self.is_needed() => return Ok(None),
            Err(None) => {}
        }
        let argv = detached(&self.argv);
        let started = Program::new(argv, START).run().and_then(|output| output.ok());
        match (self.connect_once(), started) {
            (Ok(socket), _) => {
                info!("the supervisor of tasks without a container was started");
                Ok(Some(socket))
            }
            (Err(_), Err(fault)) => Err(format!("their supervisor cannot be started: {fault}")),
            (Err(Some(fault)), Ok(_)) => Err(fault),
            (Err(None), Ok(_)) => Err("their supervisor was started, and is gone".to_owned()),
        }
    }

    /// Err(None): nobody listens.
    fn connect_once(&self) -> Result<UnixStream, Option<String>> {
        let name = &self.socket_name;
        let socket = match local::connect(name) {
            Ok(socket) => socket,
            Err(fault) if fault.kind() == ErrorKind::ConnectionRefused => return Err(None),
            Err(fault) if fault.kind() == ErrorKind::WouldBlock => {
                return Err(Some(format!(
                    "cannot connect to their supervisor: whoever listens at @{name} takes no connections ('ss -xlp' shows who it is)"
                )));
            }
            Err(fault) => return Err(Some(format!("cannot connect to their supervisor (@{name}): {fault}"))),
        };
        match local::is_ours(&socket) {
            Ok(true) => Ok(socket),
            Ok(false) => Err(Some(format!(
                "a process of another user, or of a container, listens on @{name}, where their supervisor is to be: nothing is run until it is ended"
            ))),
            Err(fault) => Err(Some(format!("cannot see who listens on @{name}: {fault}"))),
        }
    }

    /// Carries what is asked and told, until the connection breaks.
    fn talk(&mut self, mut socket: UnixStream) -> Over {
        let broken = |fault: std::io::Error| Over::Broken(format!("the line to their supervisor broke: {fault}"));
        if let Err(fault) = socket.set_nonblocking(true) {
            return broken(fault);
        }
        let hello =
            Hello { version: env!("CARGO_PKG_VERSION").to_owned(), folder: self.folder.to_string_lossy().into_owned() };
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        frame::put(&mut outgoing, json::encode(&Ask::Hello(hello)).as_bytes());
        let mut buffer = vec![0; 64 << 10];
        let mut silent_until = Some(Instant::now() + ANSWER);
        loop {
            if silent_until.is_some_and(|end| end <= Instant::now()) {
                return Over::Broken(format!(
                    "their supervisor (@{}) does not answer; is it stopped? Until it does, nothing is known of these tasks",
                    self.socket_name
                ));
            }
            if silent_until.is_none() {
                self.take_asked(&mut outgoing);
            }
            while !outgoing.is_empty() {
                let _step = fault::step("line", || "ask".to_owned());
                match socket.write(&outgoing) {
                    Ok(count) => drop(outgoing.drain(..count)),
                    Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                    Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                    Err(fault) => return broken(fault),
                }
            }
            let interest = if outgoing.is_empty() { Interest::Read } else { Interest::ReadAndWrite };
            let ready = local::ready(
                &[(self.stop.fd(), Interest::Read), (self.asked.wake.fd(), Interest::Read), (socket.as_fd(), interest)],
                silent_until,
            );
            if ready[0] {
                // What was asked before the end goes out, as far as a supervisor that reads takes it.
                if silent_until.is_none() {
                    self.take_asked(&mut outgoing);
                }
                let _rest = socket
                    .set_nonblocking(false)
                    .and_then(|()| socket.set_write_timeout(Some(FAREWELL)))
                    .and_then(|()| socket.write_all(&outgoing));
                return Over::Stop;
            }
            self.asked.wake.heard();
            loop {
                match socket.read(&mut buffer) {
                    Ok(0) => return Over::Broken("their supervisor has ended".to_owned()),
                    Ok(count) => incoming.extend_from_slice(&buffer[..count]),
                    Err(fault) if fault.kind() == ErrorKind::WouldBlock => break,
                    Err(fault) if fault.kind() == ErrorKind::Interrupted => {}
                    Err(fault) => return broken(fault),
                }
            }
            loop {
                let told = match frame::next(&mut incoming) {
                    Ok(None) => break,
                    Ok(Some(text)) => json::decode::<Tell>(&text).map_err(|fault| fault.to_string()),
                    Err(fault) => Err(fault),
                };
                let sent = match told {
                    Ok(Tell::All(states)) => {
                        silent_until = None;
                        self.tell_all(states)
                    }
                    Ok(Tell::Gaps) => self.tell.send(Message::Gaps),
                    Ok(Tell::Changed(states)) => self.tell.send(Message::Supervised { states, complete: None }),
                    Err(fault) => return Over::Broken(format!("their supervisor tells what makes no sense: {fault}")),
                };
                if sent.is_err() {
                    return Over::Stop;
                }
            }
        }
    }
}

/// The command line that starts a supervisor out of reach of whatever ends the Runner: where systemd runs, in a scope of its own,
/// because a service's end is the end of all that is in its control group.
fn detached(argv: &[String]) -> Vec<String> {
    let mut whole = crate::runner::executor::scope::own_scope("hakuriver-supervisor");
    whole.extend(argv.iter().cloned());
    whole
}

#[cfg(test)]
mod tests;
