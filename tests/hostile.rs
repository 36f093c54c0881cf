//! Garbage, slow and huge input on the Host's ports: bounded in time and memory, others unaffected, alive afterwards.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::env::{Cluster, SOON, Settings};
use crate::{http, wait};

const MOST_MEMORY: u64 = 64_000_000;

fn host() -> Cluster {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    cluster
}

/// Sends what it can of `bytes`, and returns the answer's status: None if the Host just closed.
fn throw(port: u16, bytes: &[u8]) -> Option<u16> {
    let mut socket = http::connect(port);
    // The Host may close before it has read all: that is the point.
    let _ = socket.write_all(bytes);
    http::read_reply(&mut socket).ok().map(|reply| reply.status)
}

/// Runs `attack` while another client asks for /nodes again and again; every answer must come within `patience`.
fn while_others_are_served(cluster: &Cluster, patience: Duration, attack: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let token = cluster.token();
            let mut slowest = Duration::ZERO;
            let mut memory = 0;
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let reply = http::call(cluster.api, "GET", "/nodes", Some(&token), None);
                assert_eq!(reply.status, 200, "{}", reply.text());
                slowest = slowest.max(start.elapsed());
                memory = memory.max(cluster.rss("host"));
                thread::park_timeout(Duration::from_millis(20));
            }
            (slowest, memory)
        });
        // Stops the watcher also when the attack itself fails.
        let guard = Guard(&stop);
        attack();
        drop(guard);
        let (slowest, memory) = watcher.join().unwrap();
        assert!(slowest < patience, "others waited for up to {slowest:?}");
        assert!(memory < MOST_MEMORY, "the Host grew to {memory} bytes");
    });
}

struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn lengths_and_bodies() {
    let cluster = host();
    let token = cluster.token();
    let post = |length: &str, auth: &str, body: &[u8]| {
        let head = format!(
            "POST /submit HTTP/1.1\r\nHost: x\r\n{auth}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        assert_eq!(throw(cluster.api, &post("1000000000000", "", b"")), Some(401), "refused by its head alone");
        assert_eq!(throw(cluster.api, &post("1000000000000", &bearer, b"")), Some(413));
        for length in ["-1", "1e3", "99999999999999999999999999", "0x10", "+5", "5, 5"] {
            let status = throw(cluster.api, &post(length, &bearer, b"{}"));
            assert!(matches!(status, Some(400 | 413) | None), "{length}: {status:?}");
        }
        let nested = "[".repeat(10_000);
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let numbers = format!("{{\"required_cores\": {}}}", "9".repeat(5_000));
        for body in [
            "{\"x\":[",
            "{\"x\":}",
            &nested,
            &deep,
            "",
            "{",
            "[1,]",
            "{\"a\":1}}",
            "\u{0}",
            "{\"task_type\":\"\\ud800\"}",
            &numbers,
        ] {
            let status = throw(cluster.api, &post(&body.len().to_string(), &bearer, body.as_bytes()));
            assert!(matches!(status, Some(400 | 422)), "{:.40}: {status:?}", body);
        }
        let status = throw(cluster.api, &post("4", &bearer, b"\"\xff\xfe\""));
        assert!(matches!(status, Some(400 | 422)), "bytes that are no text: {status:?}");
        let two = format!("POST /submit HTTP/1.1\r\n{bearer}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}");
        assert!(matches!(throw(cluster.api, two.as_bytes()), Some(400) | None));
        let chunked =
            format!("POST /submit HTTP/1.1\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
        let status = throw(cluster.api, chunked.as_bytes());
        assert!(matches!(status, Some(400 | 411 | 501) | None), "{status:?}");
    });
    assert_eq!(cluster.get("/vps").trim(), "[]");
}

#[test]
fn heads() {
    let cluster = host();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        let long = format!("GET /nodes HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1_000_000));
        assert!(matches!(throw(cluster.api, long.as_bytes()), Some(400 | 431) | None));
        let many = format!("GET /nodes HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(20_000));
        assert!(matches!(throw(cluster.api, many.as_bytes()), Some(400 | 431) | None));
        let path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
        assert!(matches!(throw(cluster.api, path.as_bytes()), Some(400 | 414 | 431) | None));
        for garbage in [
            &b"\x16\x03\x01\x02\x00\x01\x00"[..],
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\0\0\0\0",
            b"GET /%zz HTTP/1.1\r\n\r\n",
            b"GET /..%2f..%2fetc HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n",
        ] {
            let mut socket = http::connect(cluster.api);
            let _ = socket.write_all(garbage);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let mut rest = Vec::new();
            let _ = socket.read_to_end(&mut rest);
            assert!(
                !rest.starts_with(b"HTTP/1.1 200") && !rest.starts_with(b"HTTP/1.1 5"),
                "{}",
                String::from_utf8_lossy(&rest)
            );
        }
        // The other port takes 256 bytes and no more.
        let mut socket = http::connect(cluster.tunnel);
        let _ = socket.write_all(&vec![b'A'; 1_000_000]);
        let mut rest = String::new();
        let _ = socket.read_to_string(&mut rest);
        assert!(rest.is_empty() || rest.starts_with("ERROR "), "{rest}");
    });
}

#[test]
fn a_byte_a_second_has_an_end() {
    let cluster = host();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        let mut socket = http::connect(cluster.api);
        let start = Instant::now();
        let line = b"GET /healthz HTTP/1.1\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        for byte in line.iter().cycle() {
            if socket.write_all(&[*byte]).is_err() {
                break;
            }
            // The Host's answer or its end shows here: then it has had enough.
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut answer = [0; 256];
            match socket.read(&mut answer) {
                Ok(_) => break,
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
            assert!(start.elapsed() < Duration::from_secs(60), "a head may trickle for ever");
        }
    });
}

#[test]
fn two_thousand_idle_connections() {
    let cluster = host();
    raise_file_limit();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        let mut idle: Vec<TcpStream> = (0..2_000).map(|_| http::connect(cluster.api)).collect();
        for socket in &mut idle[..500] {
            // Some have begun to speak.
            let _ = socket.write_all(b"GET /no");
        }
        wait::holds_for("others are served", Duration::from_secs(3), || {
            let reply = http::try_call(cluster.api, "GET", "/healthz", None, None).map_err(|e| e.to_string())?;
            if reply.status == 200 { Ok(()) } else { Err(reply.text()) }
        });
        let tunnels: Vec<TcpStream> = (0..300).map(|_| http::connect(cluster.tunnel)).collect();
        assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
        drop(tunnels);
    });
    wait::until("the Host is as before", SOON, || {
        let reply = http::try_call(cluster.api, "GET", "/healthz", None, None).map_err(|e| e.to_string())?;
        let threads = std::fs::read_dir(format!("/proc/{}/task", cluster.pid("host"))).unwrap().count();
        if reply.status == 200 && threads < 100 { Ok(()) } else { Err(format!("{} threads", threads)) }
    });
}

#[test]
fn silent_connections_cannot_hold_every_place_of_the_ssh_proxy() {
    let cluster = host();
    raise_file_limit();
    let silent: Vec<TcpStream> = (0..1_200).map(|_| http::connect(cluster.tunnel)).collect();
    let mut asks = http::connect(cluster.tunnel);
    asks.write_all(b"REQUEST_TUNNEL 1\n").unwrap();
    let mut answer = String::new();
    asks.read_to_string(&mut answer).unwrap();
    // Long before the silent ones run into their time-out.
    assert_eq!(answer, "ERROR Not authorised.\n");
    drop(silent);
}

#[test]
fn without_a_free_descriptor_others_are_served_all_the_same() {
    let cluster = host();
    raise_file_limit();
    let pid = cluster.pid("host").to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--nofile=128:"]).status().unwrap();
    assert!(limited.success());
    while_others_are_served(&cluster, Duration::from_secs(2), || {
        // More than the Host has descriptors for: each new one takes the place of the oldest at once.
        let idle: Vec<TcpStream> = (0..600).map(|_| http::connect(cluster.api)).collect();
        assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
        drop(idle);
    });
}

/// Two thousand sockets here, and as many in the Host, which inherits the limit.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}
