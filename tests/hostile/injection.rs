//! Texts of nodes and users that would pass for something else: an event, a line of a table or of the log, a terminal's order.

use std::io::{Read, Write};

use super::host;
use crate::env::{Cluster, SOON};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::program::Output;
use crate::{http, wait};

/// Ends a line in every way, an event, a header; clears the screen; turns the direction of what follows.
const FORGED: &str = "x\n\nevent: task\nid: 99999\ndata: {\"seq\":99999,\"to\":\"completed\"}\n\n\r\nSet-Cookie: a=b\r\n\u{1b}[2J\u{1b}]0;t\u{7}\u{9b}31m\u{85}\u{2028}\u{202e}\u{0}end";

/// What must not reach a terminal, whoever has said it.
fn assert_plain(output: &Output) {
    let text = format!("{}{}", output.out(), output.stderr);
    let steers =
        |c: char| c.is_control() && c != '\n' || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
    assert!(!text.chars().any(steers), "{text:?}");
}

fn escaped(text: &str) -> String {
    nanoserde::SerJson::serialize_json(&text.to_owned())
}

#[test]
fn what_a_node_says_is_one_event_one_row_and_one_line_of_the_log() {
    let cluster = host();
    let mut listener = http::connect(cluster.api);
    listener.write_all(http::request("GET", "/events?since=0", Some(&cluster.token()), None).as_bytes()).unwrap();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-3", &[]));
    // As a Runner that registers once more, with a version of its own making.
    let version = node.register.serialize_with(FORGED);
    let reply = http::call(cluster.api, "POST", "/register", Some(&cluster.node_token()), Some(&version));
    assert!(reply.status == 409 || reply.status == 200, "{}", reply.text());
    let node = if reply.status == 200 {
        drop(node);
        FakeNode::silent(&cluster, "n1", &Hardware::cores("0-3", &[]))
    } else {
        node
    };
    let submit = |command: &str| {
        let body = format!(
            "{{\"command\":{},\"arguments\":[{}],\"container_name\":\"NULL\"}}",
            escaped(command),
            escaped("\u{1b}[2J\ny")
        );
        let reply = cluster.post("/submit", &body);
        assert_eq!(reply.status, 202, "{}", reply.text());
        crate::env::first_id(&reply.text())
    };
    let (first, second) = (submit("echo\n\u{1b}[31m"), submit("true"));
    let mut failed = observed(&first, 1, 1, "failed", None);
    failed.reason = Some(FORGED.to_owned());
    failed.exit_code = Some(1);
    let mut running = observed(&second, 1, 1, "starting", None);
    running.progress = Some(FORGED.to_owned());
    running.unit = Some(FORGED.to_owned());
    node.observe(false, vec![failed, running]);
    cluster.await_status(&first, "failed");

    // Two tasks and a node: each change is one event, with one line of data.
    let mut heard = String::new();
    wait::until("the events arrive", SOON, || {
        let mut part = [0; 64 << 10];
        let count = listener.read(&mut part).map_err(|e| e.to_string())?;
        heard.push_str(&String::from_utf8_lossy(&part[..count]));
        if heard.contains("\"to\":\"failed\"") { Ok(()) } else { Err(heard.clone()) }
    });
    let mut last = 0;
    for line in heard.lines().filter(|line| line.starts_with("id: ")) {
        let number: u64 = line[4..].parse().unwrap();
        assert!(number > last && number < 1_000, "{heard}");
        last = number;
    }
    for line in heard.lines().filter(|line| line.starts_with("data:")) {
        assert!(line.contains("\"seq\":") && !line.contains("99999,") && line.ends_with('}'), "{line}");
    }
    assert!(!heard.contains("Set-Cookie: a=b\n") && !heard.contains('\u{1b}'), "{heard}");

    for args in [
        &["task", "list"][..],
        &["client", "nodes"],
        &["client", "health"],
        &["client", "health", "n1"],
        &["client", "status", &first],
        &["client", "status", &second],
        &["vps", "status"],
        &["task", "stdout", &first],
    ] {
        assert_plain(&cluster.cli(args));
    }
    // A head, and a line for each.
    assert_eq!(cluster.cli(&["task", "list"]).ok().lines().count(), 3);
    let status = cluster.cli(&["client", "status", &first]).ok();
    let forged = |line: &&str| line.starts_with("event:") || line.starts_with("id:") || line.starts_with("Set-Cookie");
    assert!(!status.lines().any(|line| forged(&line)), "{status}");
    let metrics = cluster.get("/metrics");
    assert!(metrics.lines().all(|line| line.starts_with("# ") || line.starts_with("hakuriver_")), "{metrics}");
    lines_of_the_log_are_its_own(&cluster);
}

fn lines_of_the_log_are_its_own(cluster: &Cluster) {
    for line in cluster.log("host").lines() {
        let is_ours = line.starts_with("20") || line.starts_with("hakuriver host:");
        let is_ours = is_ours || line.starts_with("note: ") || line.starts_with("auth.");
        assert!(is_ours && !line.chars().any(char::is_control), "{line:?}");
    }
}

trait Forged {
    fn serialize_with(&self, text: &str) -> String;
}

impl Forged for hakuriver::api::node::Register {
    /// As a Runner started anew on the same machine, whose texts are all `text`.
    fn serialize_with(&self, text: &str) -> String {
        let mut register = self.clone();
        register.version = text.to_owned();
        register.instance = text.to_owned();
        register.boot_id = text.to_owned();
        nanoserde::SerJson::serialize_json(&register)
    }
}

#[test]
fn what_a_request_says_is_told_back_on_one_line() {
    let cluster = host();
    let token = cluster.token();
    let forged = escaped(FORGED);
    for body in [
        format!("{{\"command\":\"true\",\"targets\":[{forged}]}}"),
        format!("{{\"command\":\"true\",\"container_name\":{forged}}}"),
        format!("{{\"command\":\"true\",\"name\":{forged}}}"),
        format!("{{\"command\":\"true\",\"user\":{forged}}}"),
        format!("{{\"command\":\"true\",\"additional_mounts\":[{forged}]}}"),
        format!("{{\"command\":\"true\",\"env_vars\":{{{forged}:\"x\"}}}}"),
        format!("{{\"command\":\"true\",{forged}:1,\"targets\":{forged}}}"),
        format!("{{\"task_type\":{forged}}}"),
        format!("{{\"task_type\":\"vps\",\"command\":{forged}}}"),
    ] {
        let reply = cluster.post("/submit", &body);
        assert!((400..500).contains(&reply.status), "{body}: {}", reply.text());
        assert!(!reply.text().contains(['\n', '\r', '\u{1b}', '\0']), "{body}: {:?}", reply.text());
        assert_eq!(reply.headers.len(), 4, "no header that is not ours: {:?}", reply.headers);
    }
    // In a path or a query a control character is no path.
    for target in ["/nodes%0d%0aSet-Cookie:%20a=b", "/tasks?node=%0d%0aX:y", "/status/%1b%5b2J", "/events?since=%0a1"] {
        let reply = http::call(cluster.api, "GET", target, Some(&token), None);
        assert_eq!(reply.status, 400, "{target}");
        assert!(reply.header("set-cookie").is_none() && reply.header("x").is_none());
    }
    // As arguments of our own client: what is wrong is shown, and steers nothing.
    for args in [
        &["client", "status", "x\n\u{1b}[2J\u{202e}"][..],
        &["client", "drain", "n\u{1b}[2J"],
        &["task", "list", "--node", "n\u{1b}[2J\nx"],
        &["docker", "stop-container", "e\u{1b}[2J"],
    ] {
        let output = cluster.cli(args);
        assert_ne!(output.status, 0, "{output}");
        assert_plain(&output);
    }
    assert!(http::try_call(cluster.api, "GET", "/healthz", None, None).is_ok());
    lines_of_the_log_are_its_own(&cluster);
}
