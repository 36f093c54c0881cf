//! Garbage, slow and huge input on the Host's ports: bounded in time and memory, others unaffected, alive afterwards.

mod floods;
mod injection;
mod metacharacters;
mod paths;
mod readers;
mod requests;
mod slow;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::env::{Cluster, Settings};
use crate::http;

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
    within(cluster, patience, MOST_MEMORY, attack);
}

/// As [`while_others_are_served`], with a bound of its own for the Host's memory in bytes.
fn within(cluster: &Cluster, patience: Duration, most_memory: u64, attack: impl FnOnce()) {
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
        assert!(memory < most_memory, "the Host grew to {memory} bytes");
    });
}

struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Two thousand sockets here, and as many in the Host, which inherits the limit.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}
