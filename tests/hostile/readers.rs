//! Clients that ask and do not read, or have half hung up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{host, raise_file_limit, while_others_are_served};
use crate::env::{Cluster, SOON, Settings};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::{http, wait};

fn asking(cluster: &Cluster, path: &str) -> TcpStream {
    let mut socket = http::connect(cluster.api);
    socket.write_all(http::request("GET", path, Some(&cluster.token()), None).as_bytes()).unwrap();
    socket
}

#[test]
fn followers_that_never_read_hold_neither_the_engine_nor_memory() {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    raise_file_limit();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-3", &[]));
    let submit = || {
        let body = r#"{"command":"true","container_name":"NULL","required_cores":0}"#;
        let reply = cluster.post("/submit", body);
        assert_eq!(reply.status, 202, "{}", reply.text());
        crate::env::first_id(&reply.text())
    };
    let id = submit();
    node.observe(false, vec![observed(&id, 1, 1, "running", None)]);
    let chunk = vec![b'x'; 1 << 20];
    for at in 0..24 {
        node.shipped(&id, 1, "stdout", at << 20, &chunk);
    }
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        let mut held: Vec<TcpStream> = (0..100).map(|_| asking(&cluster, "/events")).collect();
        held.extend((0..50).map(|_| asking(&cluster, &format!("/task/{id}/stdout?follow=1"))));
        held.extend((0..50).map(|_| asking(&cluster, &format!("/task/{id}/stdout"))));
        // What happens meanwhile is stored and answered, for thousands of events that nobody takes.
        for _ in 0..20 {
            let sets = vec!["[\"x\"]"; 200].join(",");
            let body =
                format!(r#"{{"command":"true","container_name":"NULL","required_cores":0,"argument_sets":[{sets}]}}"#);
            assert_eq!(cluster.post("/submit", &body).status, 202);
        }
        assert_eq!(node.shipped(&id, 1, "stdout", 24 << 20, b"more"), (24 << 20) + 4);
        assert_eq!(cluster.nodes()[0].status, "online");
        drop(held);
    });
}

#[test]
fn answers_that_nobody_reads_are_given_up() {
    let cluster = host();
    let token = cluster.token();
    let before = cluster.rss("host");
    // Thousands of requests on each connection, and not one answer is read.
    let request = http::request("GET", "/version", Some(&token), None);
    let mut held = Vec::new();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        for _ in 0..20 {
            let mut socket = http::connect(cluster.api);
            socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let many = request.repeat(100);
            // Until its own buffers are full as well.
            for _ in 0..2_000 {
                if socket.write_all(many.as_bytes()).is_err() {
                    break;
                }
            }
            held.push(socket);
        }
    });
    let grown = cluster.rss("host").saturating_sub(before);
    assert!(grown < 16_000_000, "{grown} bytes for twenty readers that do not read");
    drop(held);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", cluster.pid("host"))).unwrap().count();
    wait::until("their threads are gone", SOON, || if threads() < 30 { Ok(()) } else { Err(threads().to_string()) });
}

#[test]
fn who_has_hung_up_half_gets_the_answer_and_no_more() {
    let cluster = host();
    let token = cluster.token();
    // It has said all that it will, and is answered.
    let mut socket = asking(&cluster, "/nodes");
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // In the middle of a body there is nothing to answer.
    let mut socket = http::connect(cluster.api);
    let head = http::request("POST", "/submit", Some(&token), Some(&" ".repeat(100)));
    socket.write_all(&head.as_bytes()[..head.len() - 50]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    // In the middle of the hello.
    let mut socket = http::connect(cluster.tunnel);
    socket.write_all(b"REQUEST_TUNNEL 1").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "");
}
