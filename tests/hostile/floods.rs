//! More connections than anybody needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::{host, raise_file_limit, while_others_are_served};
use crate::env::SOON;
use crate::{http, wait};

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
fn a_thousand_listeners_keep_nobody_out() {
    let cluster = host();
    raise_file_limit();
    let token = cluster.token();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        let request = http::request("GET", "/events", Some(&token), None);
        let mut listeners: Vec<TcpStream> = (0..1_200)
            .map(|_| {
                let mut socket = http::connect(cluster.api);
                socket.write_all(request.as_bytes()).unwrap();
                socket
            })
            .collect();
        let reply = http::call(cluster.api, "GET", "/healthz", None, None);
        assert_eq!(reply.status, 200);
        // The youngest still hears what happens.
        let body = r#"{"command":"true","container_name":"NULL"}"#;
        let reply = cluster.post("/submit", body);
        assert_eq!(reply.status, 202, "{}", reply.text());
        let youngest = listeners.last_mut().unwrap();
        let mut heard = String::new();
        wait::until("the event arrives", SOON, || {
            let mut part = [0; 4_096];
            let count = youngest.read(&mut part).map_err(|e| e.to_string())?;
            heard.push_str(&String::from_utf8_lossy(&part[..count]));
            if heard.contains("\"to\":\"pending\"") { Ok(()) } else { Err(heard.clone()) }
        });
    });
}

#[test]
fn silent_connections_to_the_ssh_proxy_give_their_descriptors_up() {
    let cluster = host();
    raise_file_limit();
    let pid = cluster.pid("host").to_string();
    let limited = std::process::Command::new("prlimit").args(["--pid", &pid, "--nofile=128:"]).status().unwrap();
    assert!(limited.success());
    let silent: Vec<TcpStream> = (0..400).map(|_| http::connect(cluster.tunnel)).collect();
    // Long before the silent ones run into their ten seconds.
    let begin = std::time::Instant::now();
    let mut asks = http::connect(cluster.tunnel);
    asks.write_all(b"REQUEST_TUNNEL 1\n").unwrap();
    let mut answer = String::new();
    asks.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "ERROR Not authorised.\n");
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    let lines = cluster.log("host").matches("cannot accept a connection").count();
    assert!(lines < 10, "{lines} lines of the log about it");
    assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
    drop(silent);
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let cluster = host();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", cluster.pid("host"))).unwrap().count();
    assert_eq!(http::call(cluster.api, "GET", "/healthz", None, None).status, 200);
    let before = descriptors();
    while_others_are_served(&cluster, Duration::from_secs(5), || {
        for at in 0..3_000 {
            let mut socket = http::connect(if at % 2 == 0 { cluster.api } else { cluster.tunnel });
            match at % 3 {
                0 => drop(socket.write_all(b"GET /no")),
                1 => drop(socket.shutdown(std::net::Shutdown::Write)),
                _ => {}
            }
        }
    });
    wait::until("all descriptors are given back", SOON, || {
        let now = descriptors();
        if now <= before + 4 { Ok(()) } else { Err(format!("{now} after {before}")) }
    });
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
