//! Requests that no client sends: lengths, heads and bodies that lie, and two that pass for one.

use std::io::{Read, Write};
use std::time::Duration;

use super::{host, throw, while_others_are_served};
use crate::http;

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

/// Two requests for whoever reads the second way to say where a body ends: the Host has to see one, and refuse it.
#[test]
fn no_request_hides_in_another_ones_body() {
    let cluster = host();
    let token = cluster.token();
    let bearer = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let inner = format!("POST /kill/1 HTTP/1.1\r\n{bearer}\r\n");
    for lengths in [
        "Content-Length: 6\r\nContent-Length: 5\r\n".to_owned(),
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n".to_owned(),
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n".to_owned(),
        "Transfer-Encoding: identity\r\nContent-Length: 6\r\n".to_owned(),
        "Transfer-Encoding:\tchunked\r\n".to_owned(),
        "Transfer-Encoding : chunked\r\n".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked\r\n".to_owned(),
        "Content-Length: 6, 6\r\n".to_owned(),
        "Content-Length: 0x6\r\n".to_owned(),
        "Content-Length: 6\r\nContent-length: 6\r\n".to_owned(),
        format!("Content-Length:{}6\r\n", " ".repeat(70_000)),
        "Content-Length: 6\0\r\n".to_owned(),
        "X: a\0b\r\nContent-Length: 6\r\n".to_owned(),
    ] {
        let mut socket = http::connect(cluster.api);
        let text = format!("POST /submit HTTP/1.1\r\n{bearer}{lengths}\r\n0\r\n\r\nG{inner}{inner}");
        let _ = socket.write_all(text.as_bytes());
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let mut all = Vec::new();
        let _ = socket.read_to_end(&mut all);
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(!all.contains("HTTP/1.1 2") && all.matches("HTTP/1.1 4").count() <= 1, "{lengths:?}: {all}");
        assert!(!all.contains("HTTP/1.1 404"), "{lengths:?}: the inner request was carried out: {all}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let cluster = host();
    let token = cluster.token();
    let mut socket = http::connect(cluster.api);
    let one = |path: &str| http::request("GET", path, Some(&token), None);
    let text: String = (0..500).map(|at| one(if at % 2 == 0 { "/version" } else { "/status/5" })).collect();
    socket.write_all(text.as_bytes()).unwrap();
    // Read one by one, as they come: each has its length.
    let mut bytes = Vec::new();
    let mut count = 0;
    let mut part = vec![0; 64 << 10];
    while count < 500 {
        let got = socket.read(&mut part).unwrap();
        assert!(got > 0, "closed after {count} answers");
        bytes.extend_from_slice(&part[..got]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        count = text.matches("HTTP/1.1 ").count();
        let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)).collect();
        let expected = |at: usize| if at.is_multiple_of(2) { "200" } else { "404" };
        assert!(statuses.iter().enumerate().all(|(at, status)| *status == expected(at)), "{statuses:?}");
    }
}

#[test]
fn targets_of_every_form_name_a_path_or_nothing() {
    let cluster = host();
    let token = cluster.token();
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let ask = |target: &str, more: &str| throw(cluster.api, format!("GET {target} HTTP/1.1\r\n{more}\r\n").as_bytes());
    // RFC 9112: a server takes the absolute form, whatever its host is; without a token it opens nothing.
    assert_eq!(ask("http://127.0.0.1/nodes", &bearer), Some(200));
    assert_eq!(ask("http://elsewhere/nodes?x", &bearer), Some(200));
    assert_eq!(ask("http://elsewhere/nodes", ""), Some(401));
    for (target, status) in [
        ("https://127.0.0.1/nodes", 400),
        ("http://127.0.0.1", 404),
        ("127.0.0.1:80", 400),
        ("*", 404),
        ("//nodes", 404),
        ("/./nodes", 404),
        ("/x/../nodes", 404),
        ("/%2e%2e/nodes", 404),
        ("/nodes%2f", 200),
        ("/nodes%00", 400),
        ("/nodes%0d%0aX:y", 400),
        ("/%6eodes", 200),
        ("/nodes#fragment", 404),
        ("/api/api/nodes", 404),
        ("nodes", 400),
    ] {
        assert_eq!(ask(target, &bearer), Some(status), "{target}");
    }
    for method in ["get", "DELETE", "TRACE", "CONNECT", "PRI", "OPTIONS", "A"] {
        let status = throw(cluster.api, format!("{method} /nodes HTTP/1.1\r\n{bearer}\r\n").as_bytes());
        assert!(matches!(status, Some(400 | 405)), "{method}: {status:?}");
    }
}

/// What is as deep and as large as is taken, on every path that takes a body: in a thread with the smallest of stacks.
#[test]
fn the_deepest_and_the_largest_bodies_are_bounded() {
    let cluster = host();
    let (user, node) = (cluster.token(), cluster.node_token());
    let deep = format!("{{\"x\":{}1{}}}", "[".repeat(31), "]".repeat(31));
    let objects = format!("{}1{}", "{\"tasks\":".repeat(32), "}".repeat(32));
    for (method, path, token) in [
        ("POST", "/submit", &user),
        ("POST", "/docker/host/create", &user),
        ("POST", "/docker/create_tar/x", &user),
        ("POST", "/register", &node),
        ("PUT", "/heartbeat/n1", &node),
        ("PUT", "/runner/n1/observed", &node),
    ] {
        for body in [&deep, &objects] {
            let status = http::call(cluster.api, method, path, Some(token), Some(body)).status;
            assert!((400..500).contains(&status) || status == 503, "{method} {path}: {status}");
        }
    }
    // Sixteen megabytes of the smallest values: of what is refused, little more than the body is ever held.
    let list = |item: &str, count: usize| format!("[{}{item}]", format!("{item},").repeat(count - 1));
    super::within(&cluster, Duration::from_secs(10), 400_000_000, || {
        for (field, item, bytes) in [("x", "0", 2), ("arguments", "[]", 3), ("argument_sets", "\"\"", 3)] {
            let body = format!("{{\"command\":\"true\",\"{field}\":{}}}", list(item, (15 << 20) / bytes));
            let reply = cluster.post("/submit", &body);
            assert!(reply.status == 400 && reply.text().contains("values"), "{field}: {}", reply.text());
        }
        let observed = format!("{{\"session\":\"s\",\"complete\":true,\"tasks\":{}}}", list("{}", 5_000_000));
        let reply = http::call(cluster.api, "PUT", "/runner/n1/observed", Some(&node), Some(&observed));
        assert_eq!(reply.status, 400, "{}", reply.text());
        // As many as are taken, and refused for another reason.
        let body = format!("{{\"command\":\"true\",\"arguments\":{},\"targets\":5}}", list("\"a\"", 4_000_000));
        assert_eq!(cluster.post("/submit", &body).status, 422);
    });
}
