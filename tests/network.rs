//! A network that fails: a port that leads to another one, with weather on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to what is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weather {
    Clear,
    /// Every piece comes so much later.
    Slow(Duration),
    /// Nothing comes and nothing is refused; all of it comes when this is over.
    Silent,
    /// What was open is closed, and what is opened is closed at once.
    Cut,
    /// The same with a reset in place of an orderly end.
    Reset,
    /// Requests vanish. When this is over, the connections that it has touched are closed.
    Mute,
    /// Requests come, and are acted on; their answers vanish.
    Deaf,
    /// Each answer is broken off after so many bytes of its connection.
    Torn(usize),
    /// What is posted comes, and is acted on; in place of its answer the connection ends.
    Unanswered,
    /// The Host's side of all that was open is closed, and the other one is never told: what it sends vanishes, also when this is
    /// over. What is opened from now on passes.
    HostGone,
    /// The same with the sides exchanged: the Host is never told.
    PeerGone,
}

pub struct Network {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    weather: Weather,
    /// Both ends of each connection.
    open: BTreeMap<u64, (TcpStream, TcpStream)>,
    next: u64,
    /// Connections on which bytes were lost.
    torn: BTreeSet<u64>,
    /// Connections on which something was posted that is not to be answered.
    posted: BTreeSet<u64>,
    /// Connections with one side gone, and the sides that do not know it: held, so that the kernel does not tell them.
    half: BTreeSet<u64>,
    mute: Vec<TcpStream>,
    /// How many connections have been made.
    made: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToHost,
    FromHost,
}

impl Network {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            weather: Weather::Clear,
            open: BTreeMap::new(),
            next: 0,
            torn: BTreeSet::new(),
            posted: BTreeSet::new(),
            half: BTreeSet::new(),
            mute: Vec::new(),
            made: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let network = Self { port: listener.local_addr().unwrap().port(), shared: shared.clone() };
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // A Host that is away refuses.
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = near.set_nodelay(true);
                let _ = far.set_nodelay(true);
                join(near, far, &shared);
            }
        });
        network
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        let mut state = self.shared.state.lock().unwrap();
        state.weather = weather;
        for id in std::mem::take(&mut state.torn) {
            if let Some((near, far)) = state.open.remove(&id) {
                end(&near, &far, false);
            }
        }
        if matches!(weather, Weather::Cut | Weather::Reset) {
            for (near, far) in std::mem::take(&mut state.open).into_values() {
                end(&near, &far, weather == Weather::Reset);
            }
        }
        if matches!(weather, Weather::HostGone | Weather::PeerGone) {
            for (id, (near, far)) in std::mem::take(&mut state.open) {
                let (gone, stays) = if weather == Weather::HostGone { (far, near) } else { (near, far) };
                state.half.insert(id);
                state.mute.push(stays);
                let _ = gone.shutdown(Shutdown::Both);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// How many connections have been made so far.
    pub fn connections(&self) -> u64 {
        self.shared.state.lock().unwrap().made
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.set(Weather::Cut);
        self.shared.state.lock().unwrap().mute.clear();
    }
}

fn join(near: TcpStream, far: TcpStream, shared: &Arc<Shared>) {
    let mut state = shared.state.lock().unwrap();
    state.made += 1;
    if matches!(state.weather, Weather::Cut | Weather::Reset) {
        end(&near, &far, state.weather == Weather::Reset);
        return;
    }
    let id = state.next;
    state.next += 1;
    state.open.insert(id, (near.try_clone().unwrap(), far.try_clone().unwrap()));
    drop(state);
    let other = (far.try_clone().unwrap(), near.try_clone().unwrap(), shared.clone());
    let (there, back) = (shared.clone(), other);
    thread::spawn(move || pump(near, far, Direction::ToHost, id, &there));
    thread::spawn(move || pump(back.0, back.1, Direction::FromHost, id, &back.2));
}

/// Carries what comes from one end to the other, as the weather is.
fn pump(mut from: TcpStream, mut to: TcpStream, direction: Direction, id: u64, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    let (mut torn, mut passed) = (false, 0);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut state = shared.state.lock().unwrap();
        while state.weather == Weather::Silent {
            state = shared.changed.wait(state).unwrap();
        }
        let weather = state.weather;
        let vanishes =
            matches!((weather, direction), (Weather::Mute, Direction::ToHost) | (Weather::Deaf, Direction::FromHost));
        if vanishes {
            state.torn.insert(id);
            continue;
        }
        if weather == Weather::Unanswered && direction == Direction::ToHost && buffer[..count].starts_with(b"POST ") {
            state.posted.insert(id);
        }
        let is_unanswered = direction == Direction::FromHost && state.posted.contains(&id);
        drop(state);
        let mut count = count;
        match (weather, direction) {
            (Weather::Slow(time), _) => thread::sleep(time),
            (Weather::Cut | Weather::Reset, _) => break,
            (Weather::Torn(most), Direction::FromHost) if passed + count > most => {
                count = most.saturating_sub(passed);
                torn = true;
            }
            _ if is_unanswered => (count, torn) = (0, true),
            _ => {}
        }
        passed += count;
        if to.write_all(&buffer[..count]).is_err() || torn {
            break;
        }
    }
    if torn {
        end(&from, &to, false);
    }
    let mut state = shared.state.lock().unwrap();
    if state.half.contains(&id) {
        return;
    }
    // The other direction may go on after an orderly end of this one.
    let _ = to.shutdown(Shutdown::Write);
    if direction == Direction::FromHost {
        state.open.remove(&id);
        let _ = to.shutdown(Shutdown::Both);
    }
}

fn end(near: &TcpStream, far: &TcpStream, reset: bool) {
    for socket in [near, far] {
        if reset {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            let size = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap();
            // SAFETY: the descriptor is open, and the structure lives through the call. With no time to linger the socket's close
            // sends a reset; shutting it down wakes those who read from it.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const linger).cast(),
                    size,
                );
            }
            let _ = socket.shutdown(Shutdown::Read);
        } else {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
