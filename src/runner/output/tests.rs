//! Tasks that write, short and long, honest and hostile, to a Host that takes, refuses and forgets.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::api::json;
use crate::api::node::{OUTPUT_NOT_WANTED, Register, Registered};
use crate::net::http::{Handler, Head, Limits, Reply, serve};
use crate::runner::Join;
use crate::sys::file::Scratch;

const SOON: Duration = Duration::from_secs(20);
const ONE: TaskId = TaskId::from_u64(1);
const TWO: TaskId = TaskId::from_u64(2);

/// A Host that keeps output in memory.
#[derive(Default)]
struct Kept {
    inner: Mutex<Store>,
}

#[derive(Default)]
struct Store {
    streams: HashMap<String, Vec<u8>>,
    /// The stream and offset of each call.
    calls: Vec<(String, u64)>,
    /// Answers for calls to come, instead of taking them.
    refusals: Vec<u16>,
    /// Streams that it cannot keep.
    refused: Option<String>,
    unwanted: bool,
}

impl Handler for Kept {
    fn admit(&self, _head: &Head) -> Result<usize, Reply> {
        Ok(1 << 20)
    }

    fn handle(&self, head: &Head, body: &[u8]) -> Reply {
        if head.path == "/register" {
            return Reply::json(200, json::encode(&Registered { session: "s".to_owned(), ..Registered::default() }));
        }
        assert_eq!(head.header("content-type"), Some("application/octet-stream"));
        assert_eq!(head.query("session"), Some("s"));
        let parts: Vec<&str> = head.path.split('/').collect();
        let [_, "runner", "n", "output", task, attempt, stream] = parts[..] else { panic!("{}", head.path) };
        let offset: u64 = head.query("offset").and_then(|text| text.parse().ok()).expect("an offset");
        let mut store = self.inner.lock().expect("no panic");
        let name = format!("{task}/{stream}");
        store.calls.push((name.clone(), offset));
        if store.refused.as_ref() == Some(&name) {
            return Reply::error(409, "it cannot be kept");
        }
        if !store.refusals.is_empty() {
            return Reply::error(store.refusals.remove(0), "as planned");
        }
        let unwanted = store.unwanted;
        let kept = store.streams.entry(name).or_default();
        let offset = usize::try_from(offset).expect("small");
        if offset <= kept.len() && kept.len() < offset + body.len() {
            kept.truncate(offset);
            kept.extend_from_slice(body);
        }
        let have = if unwanted { OUTPUT_NOT_WANTED } else { kept.len() as u64 };
        let attempt = attempt.parse().expect("a number");
        Reply::json(
            200,
            json::encode(&OutputHave { task_id: task.to_owned(), attempt, stream: stream.to_owned(), have }),
        )
    }
}

struct Scene {
    scratch: Scratch,
    host: Arc<Kept>,
    outputs: Arc<Outputs>,
    messages: Receiver<Message>,
    link: Arc<Link>,
    stop: Stop,
}

impl Scene {
    fn new() -> Self {
        let (stop, host) = (Stop::new(), Arc::new(Kept::default()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (of_thread, of_stop) = (host.clone(), stop.clone());
        std::thread::spawn(move || serve(listener, of_thread, Limits::default(), &of_stop));
        let link = Arc::new(Link::new(&Join { host: address, node_token: None }, "n"));
        link.register(&Register::default()).expect("registered");
        let (tell, messages) = channel();
        let outputs = Outputs::open(link.clone(), tell, &stop).expect("there is room");
        Self { scratch: Scratch::new(), host, outputs, messages, link, stop }
    }

    /// A task whose files are there, and empty.
    fn start(&self, task: TaskId) {
        let out = self.folder(task);
        fs::create_dir_all(&out).expect("made");
        for name in ["stdout", "stderr"] {
            fs::write(out.join(name), "").expect("made");
        }
        self.outputs.watch(task, Attempt::FIRST, Place::folder(self.folder(task)));
    }

    fn folder(&self, task: TaskId) -> PathBuf {
        self.scratch.path().join(format!("{task}.1"))
    }

    fn write(&self, task: TaskId, name: &str, bytes: &[u8]) {
        let path = self.folder(task).join(name);
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("there");
        file.write_all(bytes).expect("written");
    }

    fn end(&self, task: TaskId) -> Totals {
        self.outputs.ended(task, Attempt::FIRST)
    }

    #[track_caller]
    fn await_settled(&self, task: TaskId) {
        match self.messages.recv_timeout(SOON) {
            Ok(Message::OutputSettled(settled, Attempt::FIRST)) => assert_eq!(settled, task),
            Ok(_) => panic!("another message"),
            Err(fault) => panic!("task {task} is not settled: {fault}"),
        }
    }

    fn kept(&self, stream: &str) -> Vec<u8> {
        self.store(|store| store.streams.get(stream).cloned().unwrap_or_default())
    }

    fn store<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut self.host.inner.lock().expect("no panic"))
    }

    /// The shipper knows that the Host has it.
    #[track_caller]
    fn await_answered(&self, task: TaskId, have: u64) {
        let end = Instant::now() + SOON;
        while self.outputs.shared.lock().flows[&task].parts()[0].offset != have {
            assert!(Instant::now() < end, "{have} bytes are not answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn await_kept(&self, stream: &str, bytes: &[u8]) {
        let end = Instant::now() + SOON;
        while self.kept(stream) != bytes {
            assert!(Instant::now() < end, "{} bytes instead of {}", self.kept(stream).len(), bytes.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.set();
        self.link.close();
    }
}

fn totals(stdout: u64, stderr: u64) -> Totals {
    Totals { stdout: Some(stdout), stderr: Some(stderr) }
}

/// Bytes that are no text, and different everywhere.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 31 + index / 251) as u8).collect()
}

#[test]
fn what_grows_is_shipped_as_it_grows_and_exactly() {
    let scene = Scene::new();
    scene.start(ONE);
    scene.write(ONE, "stdout", b"first\0\xff\n");
    scene.await_kept("1/stdout", b"first\0\xff\n");
    scene.write(ONE, "stderr", b"oh");
    scene.await_kept("1/stderr", b"oh");
    let much = noise(3 << 20);
    scene.write(ONE, "stdout", &much);
    let whole = [b"first\0\xff\n".as_slice(), &much].concat();
    scene.await_kept("1/stdout", &whole);
    scene.write(ONE, "stderr", &noise(700_000));
    assert_eq!(scene.end(ONE), totals(whole.len() as u64, 700_002));
    assert_eq!(scene.end(ONE), totals(whole.len() as u64, 700_002), "asked again");
    scene.await_settled(ONE);
    assert_eq!(scene.kept("1/stderr").len(), 700_002);
    assert!(scene.outputs.rest(ONE).is_empty());
    scene.outputs.forget(ONE, Attempt::FIRST);
    assert!(scene.outputs.shared.lock().flows.is_empty() && scene.outputs.shared.lock().watches.is_empty());
}

#[test]
fn the_little_of_a_short_task_goes_with_its_report_and_nothing_costs_nothing() {
    let scene = Scene::new();
    scene.start(ONE);
    scene.start(TWO);
    scene.write(ONE, "stdout", b"hello\n");
    assert_eq!(scene.end(TWO), totals(0, 0));
    scene.await_settled(TWO);
    assert!(scene.outputs.rest(TWO).is_empty());
    assert_eq!(scene.end(ONE), totals(6, 0));
    let chunks = scene.outputs.rests([TWO, ONE]);
    let expected = OutputChunk {
        task_id: "1".to_owned(),
        attempt: 1,
        stream: "stdout".to_owned(),
        offset: 0,
        data: "aGVsbG8K".to_owned(),
    };
    assert_eq!(chunks, [expected]);
    assert_eq!(scene.outputs.rest(ONE).len(), 1, "until the Host has it");
    let have = OutputHave { task_id: "1".to_owned(), attempt: 1, stream: "stdout".to_owned(), have: 6 };
    scene.outputs.received(&[OutputHave { attempt: 2, ..have.clone() }, OutputHave { have: 5, ..have.clone() }]);
    assert_eq!(scene.outputs.rest(ONE)[0].offset, 5);
    scene.outputs.received(&[have.clone(), have]);
    scene.await_settled(ONE);
    assert!(scene.store(|store| store.calls.is_empty()), "no call of its own");
    assert!(scene.messages.try_recv().is_err(), "said once");
}

#[test]
fn a_rest_that_no_report_took_is_shipped() {
    let scene = Scene::new();
    scene.start(ONE);
    scene.write(ONE, "stderr", b"rest");
    assert_eq!(scene.end(ONE), totals(0, 4));
    scene.await_settled(ONE);
    assert_eq!(scene.kept("1/stderr"), b"rest");
}

#[test]
fn what_is_gone_is_told_as_missing() {
    let scene = Scene::new();
    scene.start(ONE);
    fs::remove_dir_all(scene.folder(ONE)).expect("removed");
    assert_eq!(scene.end(ONE), Totals::default());
    scene.await_settled(ONE);
    assert_eq!(scene.end(TWO), Totals::default(), "never heard of");
    // Its file goes after its length was told.
    scene.start(TWO);
    scene.write(TWO, "stdout", &noise(40_000));
    scene.store(|store| store.refusals = vec![503]);
    assert_eq!(scene.end(TWO), totals(40_000, 0));
    fs::remove_file(scene.folder(TWO).join("stdout")).expect("removed");
    scene.await_settled(TWO);
}

#[test]
fn links_pipes_and_folders_in_place_of_output_are_not_read() {
    let scene = Scene::new();
    let secret = scene.scratch.path().join("secret");
    fs::write(&secret, noise(100_000)).expect("written");
    let make: [&dyn Fn(&Path); 3] = [
        &|path| std::os::unix::fs::symlink(&secret, path).expect("made"),
        &|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("made"),
        &|path| fs::create_dir(path).expect("made"),
    ];
    for (index, make) in make.iter().enumerate() {
        let task = TaskId::from_u64(10 + index as u64);
        scene.start(task);
        scene.write(task, "stderr", b"seen");
        scene.await_kept(&format!("{task}/stderr"), b"seen");
        let path = scene.folder(task).join("stdout");
        fs::remove_file(&path).expect("removed");
        make(&path);
        scene.write(task, "stderr", b" again");
        scene.await_kept(&format!("{task}/stderr"), b"seen again");
        assert_eq!(scene.end(task), Totals { stdout: None, stderr: Some(10) });
        scene.await_settled(task);
        assert!(scene.kept(&format!("{task}/stdout")).is_empty());
    }
}

#[test]
fn a_task_that_truncates_takes_nothing_back() {
    let scene = Scene::new();
    scene.start(ONE);
    scene.write(ONE, "stdout", b"0123456789");
    scene.await_kept("1/stdout", b"0123456789");
    let path = scene.folder(ONE).join("stdout");
    fs::write(&path, "abc").expect("truncated");
    scene.write(ONE, "stderr", b"x");
    scene.await_kept("1/stderr", b"x");
    assert_eq!(scene.kept("1/stdout"), b"0123456789");
    scene.write(ONE, "stdout", b"defghijklm");
    scene.await_kept("1/stdout", b"0123456789klm");
    scene.await_answered(ONE, 13);
    fs::write(&path, "").expect("truncated");
    assert_eq!(scene.end(ONE), totals(13, 1));
    scene.await_settled(ONE);
}

#[test]
fn a_host_that_is_away_full_or_forgetful_gets_it_in_the_end() {
    let scene = Scene::new();
    scene.store(|store| {
        store.refusals = vec![503, 507, 500];
        store.streams.insert("1/stdout".to_owned(), noise(1_500_000));
    });
    scene.start(ONE);
    scene.write(ONE, "stdout", &noise(2_000_000));
    scene.await_kept("1/stdout", &noise(2_000_000));
    let offsets = scene.store(|store| store.calls.iter().map(|(_, offset)| *offset).collect::<Vec<_>>());
    assert_eq!(offsets, [0, 0, 0, 0, 1_500_000], "from where the Host said that it is");
    // Its disk was lost.
    scene.store(|store| store.streams.clear());
    scene.write(ONE, "stdout", b"more");
    let whole = [noise(2_000_000), b"more".to_vec()].concat();
    scene.await_kept("1/stdout", &whole);
    assert_eq!(scene.end(ONE), totals(2_000_004, 0));
    scene.await_settled(ONE);
}

#[test]
fn one_task_that_cannot_be_kept_holds_no_other() {
    let scene = Scene::new();
    scene.store(|store| store.refused = Some("1/stdout".to_owned()));
    for task in [ONE, TWO] {
        scene.start(task);
        scene.write(task, "stdout", &noise(100_000));
    }
    scene.await_kept("2/stdout", &noise(100_000));
    assert_eq!(scene.end(TWO), totals(100_000, 0));
    scene.await_settled(TWO);
    let calls = scene.store(|store| store.calls.iter().filter(|(name, _)| name == "1/stdout").count());
    assert!(calls <= 1, "{calls}");
}

#[test]
fn what_nobody_wants_is_settled() {
    let scene = Scene::new();
    scene.store(|store| store.unwanted = true);
    scene.start(ONE);
    scene.write(ONE, "stdout", &noise(5_000_000));
    assert_eq!(scene.end(ONE), totals(5_000_000, 0));
    scene.await_settled(ONE);
    assert_eq!(scene.store(|store| store.calls.len()), 1);
}

#[test]
fn tasks_take_turns() {
    let scene = Scene::new();
    let much = noise(8 << 20);
    // No call is answered before there is something of both.
    let held = scene.host.inner.lock().expect("no panic");
    for task in [ONE, TWO] {
        scene.start(task);
        scene.write(task, "stdout", &much);
    }
    for task in [ONE, TWO] {
        assert_eq!(scene.end(task), totals(8 << 20, 0));
    }
    drop(held);
    for _ in 0..2 {
        assert!(matches!(self::next(&scene), Message::OutputSettled(..)));
    }
    let calls = scene.store(|store| store.calls.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    // From when there is something of both, until there is nothing more of one.
    let first = |name: &str| calls.iter().position(|call| call == name).expect("called");
    let last = |name: &str| calls.iter().rposition(|call| call == name).expect("called");
    let both = first("1/stdout").max(first("2/stdout"))..last("1/stdout").min(last("2/stdout"));
    assert!(both.len() > 4 && calls[both].windows(2).all(|pair| pair[0] != pair[1]), "in turn: {calls:?}");
}

fn next(scene: &Scene) -> Message {
    scene.messages.recv_timeout(SOON).expect("settled")
}
