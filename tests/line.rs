//! The line between a node and its Host, on which bytes of environments can be counted, held and cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::env::SOON;
use crate::wait;

/// A port that leads to another one.
pub struct Line {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The paths of environments' archives that were asked for.
    asked: Vec<String>,
    /// What came back for these, heads included.
    bytes: u64,
    /// Answers stop after so many bytes each.
    hold: Option<u64>,
    held: bool,
    open: Vec<TcpStream>,
}

impl Line {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
        let shared = line.shared.clone();
        thread::spawn(move || {
            for node in listener.incoming().map_while(Result::ok) {
                // A Host that is away refuses.
                let Ok(host) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let _ = node.set_nodelay(true);
                let _ = host.set_nodelay(true);
                let is_archive = Arc::new(Mutex::new(false));
                let there = (node.try_clone().unwrap(), host.try_clone().unwrap(), is_archive.clone(), shared.clone());
                thread::spawn(move || ask(there.0, there.1, &there.2, &there.3));
                let shared = shared.clone();
                thread::spawn(move || answer(host, node, &is_archive, &shared));
            }
        });
        line
    }

    /// The paths that were asked for so far, from the newest call of this on.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state.lock().unwrap().asked)
    }

    /// How many bytes of archives came, since the newest call of this.
    pub fn take_bytes(&self) -> u64 {
        std::mem::take(&mut self.shared.state.lock().unwrap().bytes)
    }

    /// From now on each answer with an archive stands still after `bytes`.
    pub fn hold_after(&self, bytes: u64) {
        self.shared.state.lock().unwrap().hold = Some(bytes);
    }

    #[track_caller]
    pub fn await_held(&self) {
        wait::until_true("a transfer stands still", SOON, || (self.shared.state.lock().unwrap().held, String::new()));
    }

    /// What stands still is cut off, and nothing is held any more.
    pub fn cut(&self) {
        let mut state = self.shared.state.lock().unwrap();
        (state.hold, state.held) = (None, false);
        for socket in state.open.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// From the node to the Host.
fn ask(mut node: TcpStream, mut host: TcpStream, is_archive: &Mutex<bool>, shared: &Shared) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = node.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]);
        let path = text.strip_prefix("GET /environments/").and_then(|rest| rest.split(' ').next());
        if let Some(path) = path.filter(|path| path.contains("offset=")) {
            *is_archive.lock().unwrap() = true;
            let mut state = shared.state.lock().unwrap();
            state.asked.push(path.to_owned());
            state.open.push(node.try_clone().unwrap());
        } else if text.starts_with("GET ") {
            *is_archive.lock().unwrap() = false;
        }
        if host.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = host.shutdown(Shutdown::Write);
}

/// From the Host to the node.
fn answer(mut host: TcpStream, mut node: TcpStream, is_archive: &Mutex<bool>, shared: &Shared) {
    let (mut buffer, mut sent) = ([0; 64 << 10], 0_u64);
    while let Ok(count @ 1..) = host.read(&mut buffer) {
        if *is_archive.lock().unwrap() {
            let mut state = shared.state.lock().unwrap();
            state.bytes += count as u64;
            sent += count as u64;
            if state.hold.is_some_and(|most| sent > most) {
                state.held = true;
                while state.hold.is_some() {
                    state = shared.changed.wait(state).unwrap();
                }
            }
        }
        if node.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = node.shutdown(Shutdown::Both);
    let _ = host.shutdown(Shutdown::Both);
}
