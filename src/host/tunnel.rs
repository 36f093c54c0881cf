//! The SSH proxy: `REQUEST_TUNNEL <task_id>[ <token>]`, a look at the task, a connection to its node, then raw bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::ids::TaskId;
use crate::domain::spec::TaskKind;
use crate::domain::state::State;
use crate::net::relay;
use crate::net::tunnel::{HelloFault, read_hello};
use crate::store::{Readers, Task};
use crate::sys::shutdown::Stop;
use crate::sys::{socket, thread};
use crate::warning;

use super::tokens::{Audience, Standing, Tokens};
use super::view::View;

/// For the whole request line.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// For the connection to the node.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// For what is told to one who is refused, and for what it still sends.
const FAREWELL: Duration = Duration::from_secs(1);
/// Each is a thread or two and, while it carries bytes, its buffers.
const CONNECTIONS: usize = 1_024;

/// How often the log hears of connections that cannot be accepted: it is not to be filled by who brings that about.
const COMPLAINTS: Duration = Duration::from_secs(10);

/// What the proxy needs to know.
pub(super) struct Tunnel {
    pub(super) view: Arc<View>,
    pub(super) readers: Readers,
    pub(super) tokens: Tokens,
}

/// Accepts until `stop`.
pub(super) fn serve(listener: &TcpListener, tunnel: &Arc<Tunnel>, stop: &Stop) {
    let open = Arc::new(AtomicUsize::new(0));
    let strangers = Arc::new(Strangers::default());
    let mut complained: Option<Instant> = None;
    loop {
        let socket = match socket::accept(listener, stop) {
            Ok(Some((socket, _))) => socket,
            Ok(None) => return,
            Err(error) => {
                // Out of file descriptors, or a client that went again: waited out, never the end. Who has not said what it wants
                // makes room at once; its ten seconds would be ten seconds for everyone.
                if complained.is_none_or(|at| at.elapsed() > COMPLAINTS) {
                    complained = Some(Instant::now());
                    warning!("the SSH proxy cannot accept a connection: {error}");
                }
                strangers.close_oldest();
                stop.wait(Duration::from_millis(20));
                continue;
            }
        };
        let place = Place::take(&open);
        // At the cap the oldest that has not said what it wants goes; where every one carries bytes, the new one does.
        if open.load(Ordering::Relaxed) > CONNECTIONS && !strangers.close_oldest() {
            continue;
        }
        let socket = Arc::new(socket);
        let stranger = strangers.add(&socket);
        let tunnel = tunnel.clone();
        let started = thread::spawn("tunnel", move || {
            let _place = place;
            tunnel.connection(socket, stranger);
        });
        if let Err(error) = started {
            warning!("the SSH proxy cannot start a thread: {error}");
        }
    }
}

/// One of the connections that may be open; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connections that have not yet said what they want, by age.
#[derive(Default)]
struct Strangers(Mutex<(u64, BTreeMap<u64, Arc<TcpStream>>)>);

/// A place among them; given back when dropped.
struct Stranger {
    all: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Arc<TcpStream>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without a descriptor of its own: there may be none.
    fn add(self: &Arc<Self>, socket: &Arc<TcpStream>) -> Stranger {
        let mut inner = self.lock();
        let number = inner.0;
        inner.0 += 1;
        inner.1.insert(number, socket.clone());
        Stranger { all: self.clone(), number }
    }

    /// False: there is none.
    fn close_oldest(&self) -> bool {
        loop {
            let Some((_, socket)) = self.lock().1.pop_first() else { return false };
            // Its thread reads the end and is gone. One that cannot be shut down has been reset, and is going by itself.
            if socket.shutdown(Shutdown::Both).is_ok() {
                return true;
            }
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.lock().1.remove(&self.number);
    }
}

impl Tunnel {
    /// One client, to the end. A client that breaks off is nobody's fault.
    fn connection(&self, client: Arc<TcpStream>, stranger: Stranger) {
        // Who is refused stays one until it has gone: it makes room before anybody else does.
        let mut stranger = Some(stranger);
        let node = match self.open(&client, &mut stranger) {
            Ok(node) => node,
            Err(Some(reason)) => {
                let _ = refuse(&client, &reason);
                return;
            }
            Err(None) => return,
        };
        // It is a stranger no more, so nobody else has it; or is just letting it go.
        let Ok(mut client) = Arc::try_unwrap(client).or_else(|shared| shared.try_clone()) else { return };
        for end in [&client, &node] {
            // Keystrokes must not wait for more of them; and without keep-alive a peer that lost its power would hold
            // this connection for ever.
            let _ = end.set_nodelay(true);
            let _ = socket::keep_alive(end, 60, 20);
        }
        if client.write_all(b"SUCCESS\n").is_ok() {
            relay::run(client, node);
        }
    }

    /// The connection to the task's sshd. Err: what the client is told; None if it has gone.
    fn open(&self, client: &TcpStream, stranger: &mut Option<Stranger>) -> Result<TcpStream, Option<String>> {
        let hello = read_hello(client, HELLO_TIME).map_err(|fault| match fault {
            HelloFault::Format => Some("Invalid request format.".to_owned()),
            HelloFault::Timeout => Some("Timeout waiting for request.".to_owned()),
            HelloFault::Closed => None,
        })?;
        if self.tokens.check(hello.token.as_deref(), Audience::User) != Standing::Welcome {
            return Err(Some("Not authorised.".to_owned()));
        }
        *stranger = None;
        let way = self.way_to(&hello.task_id).map_err(Some)?;
        TcpStream::connect_timeout(&way.address, CONNECT_TIME).map_err(|error| {
            Some(match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                    format!("Timeout connecting to Runner for task {}.", way.task)
                }
                _ => format!("Connection refused by VPS task {} on node {}.", way.task, way.node),
            })
        })
    }

    /// Where a task's sshd is, or the protocol's own words for why it cannot be reached.
    fn way_to(&self, asked: &str) -> Result<Way, String> {
        let id: TaskId = asked.parse().map_err(|_| "Invalid task ID format.".to_owned())?;
        let task = self.find(id)?.ok_or_else(|| format!("Task {id} not found."))?;
        if !matches!(task.spec.kind, TaskKind::Vps { .. }) {
            return Err(format!("Task {id} is not a VPS task."));
        }
        let state = task.standing.state;
        if state != State::Running {
            return Err(format!("VPS task {id} is not active (status: {}).", state.word()));
        }
        let port = task.ssh_port.ok_or_else(|| format!("VPS task {id} has no SSH port assigned."))?;
        let offline = || format!("Assigned node for VPS task {id} is not online.");
        let name = task.placement.as_ref().map(|placement| &placement.node).ok_or_else(offline)?;
        let node = self.view.node(name).filter(|node| !node.record.silent).ok_or_else(offline)?;
        let address: IpAddr = node.record.address.parse().map_err(|_| offline())?;
        Ok(Way { task: id, node: name.to_string(), address: SocketAddr::new(address, port) })
    }

    fn find(&self, id: TaskId) -> Result<Option<Task>, String> {
        if let Some(live) = self.view.task(id) {
            return Ok(Some(live.task.clone()));
        }
        self.readers.task(id).map_err(|fault| fault.to_string())
    }
}

/// Where a VPS is reached.
struct Way {
    task: TaskId,
    node: String,
    address: SocketAddr,
}

/// Tells the client why not. Its last bytes are read away first: closing with some unread would reset the connection,
/// and the reason might be lost with it.
fn refuse(mut client: &TcpStream, reason: &str) -> io::Result<()> {
    client.set_write_timeout(Some(FAREWELL))?;
    client.write_all(format!("ERROR {reason}\n").as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    let end = Instant::now() + FAREWELL;
    // However slowly it sends: for all of it, not for each byte.
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        client.set_read_timeout(Some(left))?;
        if client.read(&mut [0; 4_096])? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
