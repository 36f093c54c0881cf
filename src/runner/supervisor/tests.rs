use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::sys::file::Scratch;

const SOON: Duration = Duration::from_secs(20);

/// A line, and what it takes for its supervisor.
struct Ends {
    line: Supervisor,
    messages: Receiver<Message>,
    listener: UnixListener,
    stop: Stop,
    _folder: Scratch,
}

impl Ends {
    fn new() -> Self {
        let owner = Owner { cluster: crate::sys::random::hex(8), node: "test".to_owned() };
        let listener = local::listen(&socket_name(&owner.cluster, &owner.node)).expect("the name is free");
        let (folder, (tell, messages), stop) = (Scratch::new(), channel(), Stop::new());
        let line = Supervisor::open(&owner, folder.path(), Path::new("/nowhere"), tell, &stop).expect("it opens");
        Self { line, messages, listener, stop, _folder: folder }
    }

    /// The next connection, whose first words were heard.
    fn accept(&self) -> UnixStream {
        let end = Some(Instant::now() + SOON);
        assert!(local::ready(&[(self.listener.as_fd(), Interest::Read)], end)[0], "nobody comes");
        let (mut socket, _) = self.listener.accept().expect("it has come");
        socket.set_read_timeout(Some(SOON)).expect("it can be set");
        assert!(matches!(hear(&mut socket), Ask::Hello(_)));
        socket
    }

    /// What is told next of all that there is: its number, and the tasks.
    fn whole(&self) -> (u64, Vec<u64>) {
        loop {
            if let Message::Supervised { states, complete: Some(time) } =
                self.messages.recv_timeout(SOON).expect("it comes")
            {
                return (time, states.iter().map(|state| state.task).collect());
            }
        }
    }

    fn start(&self, task: u64) {
        self.line.start(Start { task, ..Start::default() });
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop.set();
    }
}

fn hear(socket: &mut UnixStream) -> Ask {
    let mut length = [0; 4];
    socket.read_exact(&mut length).expect("it comes");
    let mut text = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut text).expect("it comes");
    json::decode(&text).expect("it makes sense")
}

fn tell_all(socket: &mut UnixStream, tasks: &[u64]) {
    let states = tasks.iter().map(|task| TaskState { task: *task, ..TaskState::default() }).collect();
    let mut frame = Vec::new();
    frame::put(&mut frame, json::encode(&Tell::All(states)).as_bytes());
    socket.write_all(&frame).expect("it is heard");
}

#[test]
fn one_without_a_journal_is_sought_again_when_the_line_breaks() {
    let ends = Ends::new();
    let mut socket = ends.accept();
    tell_all(&mut socket, &[7]);
    assert_eq!(ends.whole(), (1, vec![7]));
    drop(socket);
    let mut socket = ends.accept();
    tell_all(&mut socket, &[7]);
    assert_eq!(ends.whole(), (2, vec![7]), "its tasks are not taken for lost");
}

#[test]
fn what_was_asked_before_all_was_heard_is_dropped() {
    let ends = Ends::new();
    let mut socket = ends.accept();
    ends.start(1);
    tell_all(&mut socket, &[]);
    assert_eq!(ends.whole(), (1, vec![]));
    assert!(matches!(hear(&mut socket), Ask::Start(start) if start.task == 1), "nothing was heard before that");
    ends.line.heard(1);
    drop(socket);
    while !matches!(ends.messages.recv_timeout(SOON), Ok(Message::Unsupervised(_))) {}
    ends.start(2);
    let mut socket = ends.accept();
    tell_all(&mut socket, &[]);
    assert_eq!(ends.whole(), (2, vec![]));
    ends.start(3);
    ends.line.heard(2);
    ends.start(4);
    assert!(matches!(hear(&mut socket), Ask::Start(start) if start.task == 4), "the others may be asked again");
}
