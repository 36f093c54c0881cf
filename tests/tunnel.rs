//! The tunnel's protocol, word for word, and what it does under load.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::env::{Cluster, SOON, Settings};
use crate::fake_node::{Deaf, FakeNode, Hardware, observed};
use crate::{http, wait};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJaJOWZ8FQPFlx9LfTg5Yhrg0cmPZDOzSbMEZzkqV3gF user@machine";

/// A Host with one silent fake node `n1` of many cores.
fn cluster(lines: &str) -> (Cluster, FakeNode) {
    let mut cluster = Cluster::new(Settings { timeout_factor: 3, host_lines: lines.to_owned(), ..Settings::default() });
    cluster.start_host();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-63", &[]));
    (cluster, node)
}

fn submit(cluster: &Cluster) -> String {
    let args = ["vps", "submit", "--no-wait", "--public-key-string", KEY];
    crate::env::first_id(&cluster.cli(&args).ok())
}

/// Sends a hello as it is, and reads all that the Host says to it.
fn say(cluster: &Cluster, hello: &[u8]) -> String {
    let mut socket = http::connect(cluster.tunnel);
    socket.write_all(hello).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn ask(cluster: &Cluster, id: &str) -> String {
    say(cluster, format!("REQUEST_TUNNEL {id} {}\n", cluster.token()).as_bytes())
}

/// An open tunnel to `port`, as a VPS that the fake node reports there.
fn open(cluster: &Cluster, id: &str) -> TcpStream {
    let mut socket = http::connect(cluster.tunnel);
    socket.write_all(format!("REQUEST_TUNNEL {id} {}\n", cluster.token()).as_bytes()).unwrap();
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"SUCCESS\n");
    socket
}

#[test]
fn errors_have_0_3_s_exact_words() {
    let (cluster, node) = cluster("");
    let token = cluster.token();
    let none = "123456789012345678";
    for (hello, answer) in [
        ("HELLO\n".to_owned(), "ERROR Invalid request format.\n"),
        ("\n".to_owned(), "ERROR Invalid request format.\n"),
        (format!("REQUEST_TUNNEL x {token}\n"), "ERROR Invalid task ID format.\n"),
        (format!("REQUEST_TUNNEL -1 {token}\n"), "ERROR Invalid task ID format.\n"),
        (format!("REQUEST_TUNNEL {none}\n"), "ERROR Not authorised.\n"),
        (format!("REQUEST_TUNNEL {none} wrong\n"), "ERROR Not authorised.\n"),
        (format!("REQUEST_TUNNEL {none} {}\n", cluster.node_token()), "ERROR Not authorised.\n"),
        (format!("REQUEST_TUNNEL {}\n", "9".repeat(300)), "ERROR Invalid request format.\n"),
    ] {
        assert_eq!(say(&cluster, hello.as_bytes()), answer, "{hello:?}");
    }
    assert_eq!(say(&cluster, b"\xff\xfe\n"), "ERROR Invalid request format.\n");
    assert_eq!(ask(&cluster, none), format!("ERROR Task {none} not found.\n"));

    let id = submit(&cluster);
    wait::until("it is placed", SOON, || {
        let status = cluster.status(&id).status;
        if status == "assigning" { Ok(()) } else { Err(status) }
    });
    assert_eq!(ask(&cluster, &id), format!("ERROR VPS task {id} is not active (status: assigning).\n"));
    node.observe(false, vec![observed(&id, 1, 1, "running", None)]);
    assert_eq!(ask(&cluster, &id), format!("ERROR VPS task {id} has no SSH port assigned.\n"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    node.observe(false, vec![observed(&id, 1, 2, "running", Some(closed))]);
    assert_eq!(ask(&cluster, &id), format!("ERROR Connection refused by VPS task {id} on node n1.\n"));
    node.observe(false, vec![observed(&id, 1, 3, "paused", Some(closed))]);
    assert_eq!(ask(&cluster, &id), format!("ERROR VPS task {id} is not active (status: paused).\n"));
    let ssh = cluster.cli(&["ssh", &id, "--", "true"]);
    assert_ne!(ssh.status, 0);
    assert!(ssh.stderr.contains("paused") && ssh.stderr.contains("resume"), "the user reads what to do: {ssh}");
    assert!(!ssh.stderr.contains("b'"), "{ssh}");
    node.observe(false, vec![observed(&id, 1, 4, "running", Some(closed))]);
    drop(node);
    cluster.await_status(&id, "lost");
    assert_eq!(ask(&cluster, &id), format!("ERROR VPS task {id} is not active (status: lost).\n"));
}

#[test]
fn a_silent_client_and_a_silent_node_have_their_time_and_no_more() {
    let (cluster, node) = cluster("");
    let id = submit(&cluster);
    let deaf = Deaf::new();
    node.observe(false, vec![observed(&id, 1, 1, "running", Some(deaf.port))]);
    thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            assert_eq!(say(&cluster, b"REQUEST_TUN"), "ERROR Timeout waiting for request.\n");
            assert!(start.elapsed() > Duration::from_secs(8), "ten seconds are given");
        });
        scope.spawn(|| assert_eq!(ask(&cluster, &id), format!("ERROR Timeout connecting to Runner for task {id}.\n")));
    });
}

#[test]
fn mode_none_takes_0_3_s_hello() {
    let mut cluster = Cluster::new(Settings { host_lines: "[auth]\nmode = \"none\"\n".into(), ..Settings::default() });
    std::fs::write(cluster.dir.join("token"), "ignored").unwrap();
    cluster.start_host();
    let none = "123456789012345678";
    assert_eq!(say(&cluster, format!("REQUEST_TUNNEL {none}\n").as_bytes()), format!("ERROR Task {none} not found.\n"));
    assert_eq!(say(&cluster, b"REQUEST_TUNNEL 1 x\n"), "ERROR Task 1 not found.\n");
}

#[test]
fn the_end_of_one_direction_is_passed_on_and_the_other_goes_on() {
    let (cluster, node) = cluster("");
    let id = submit(&cluster);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    node.observe(false, vec![observed(&id, 1, 1, "running", Some(listener.local_addr().unwrap().port()))]);
    let far = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        // Ends only if the client's half-close arrives.
        socket.read_to_end(&mut all).unwrap();
        socket.write_all(&all).unwrap();
    });
    let mut near = open(&cluster, &id);
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    // In one write with what follows the hello: nothing may be swallowed.
    near.write_all(&bytes).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut back = Vec::new();
    near.read_to_end(&mut back).unwrap();
    assert!(back == bytes, "{} bytes came back", back.len());
    far.join().unwrap();
}

#[test]
fn bytes_sent_together_with_the_hello_arrive() {
    let (cluster, node) = cluster("");
    let id = submit(&cluster);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    node.observe(false, vec![observed(&id, 1, 1, "running", Some(listener.local_addr().unwrap().port()))]);
    let far = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut all = String::new();
        socket.read_to_string(&mut all).unwrap();
        all
    });
    let mut near = http::connect(cluster.tunnel);
    near.write_all(format!("REQUEST_TUNNEL {id} {}\nSSH-2.0-eager\r\n", cluster.token()).as_bytes()).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "SUCCESS\n");
    assert_eq!(far.join().unwrap(), "SSH-2.0-eager\r\n");
}

#[test]
fn a_hundred_stalled_readers_leave_the_host_s_memory_flat() {
    let (cluster, node) = cluster("");
    let id = submit(&cluster);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    node.observe(false, vec![observed(&id, 1, 1, "running", Some(listener.local_addr().unwrap().port()))]);
    // The far side writes without end to everyone; the near side never reads.
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || while socket.write_all(&[7; 64 * 1024]).is_ok() {});
        }
    });
    let readers: Vec<TcpStream> = (0..100).map(|_| open(&cluster, &id)).collect();
    // Stalled: what the kernel's buffers hold has arrived, and no more comes.
    let mut last = 0;
    let rss = wait::until("the Host's memory settles", SOON, || {
        thread::sleep(Duration::from_millis(500));
        let now = cluster.rss("host");
        let settled = last != 0 && now.abs_diff(last) < 1_000_000;
        last = now;
        if settled { Ok(now) } else { Err(format!("{now} bytes")) }
    });
    assert!(rss < 64_000_000, "{rss} bytes with 100 stalled readers");
    wait::holds_for("the Host's memory stays", Duration::from_secs(3), || {
        let now = cluster.rss("host");
        if now < rss + 4_000_000 { Ok(()) } else { Err(format!("{now} bytes after {rss}")) }
    });
    // Others are served all the while, and a reader that wakes up gets its bytes.
    assert_eq!(ask(&cluster, "1"), "ERROR Task 1 not found.\n");
    let mut buffer = vec![0; 8_000_000];
    (&readers[50]).read_exact(&mut buffer).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 7));
}
