//! Who gets a terminal, in which state of the task.

use super::*;

const ASKED: [(&str, &str); 4] = [
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

#[test]
fn a_task_is_entered_while_it_lives_in_a_container() {
    let host = Host::new();
    let ask = |id: &str| host.send("user", "GET", &format!("/task/{id}/terminal?rows=5&cols=6"), &ASKED, "");
    let refused = |id: &str, why: &str| {
        let got = ask(id);
        assert!(got.status == 409 && got.body.contains(why), "{why}: {got:?}");
    };
    let session = host.join();
    let id = host.submit(r#","name":"dev","targets":["n1"],"required_cores":4"#).field("task_ids");
    // One that does not come up can be looked into.
    assert_eq!((ask(&id).status, ask("dev").status), (101, 101));
    let waits = host.submit(r#","required_cores":4"#).field("task_ids");
    refused(&waits, "it is not placed yet");
    host.observe(&session, false, &report(&id, 1, "running", ""));
    assert_eq!(ask(&id).status, 101);
    assert_eq!(host.user("GET", &format!("/task/{id}/terminal"), "").status, 426);
    assert_eq!(host.send("user", "GET", &format!("/task/{id}/terminal?rows=0&cols=1"), &ASKED, "").status, 422);
    host.user("POST", "/command/dev/pause", "");
    host.observe(&session, false, &report(&id, 2, "paused", ""));
    refused(&id, "it is paused; resume it");
    host.user("POST", "/kill/dev", "");
    host.observe(&session, false, &report(&id, 3, "killed", ""));
    refused(&id, "it has ended (killed)");
    let plain = host.user(
        "POST",
        "/submit",
        r#"{"task_type":"command","command":"true","arguments":[],"container_name":"NULL","targets":["n1"],"queue":true}"#,
    );
    refused(&plain.field("task_ids"), "it runs straight on its node, in no container");
    assert_eq!(ask("17").status, 404);
}

#[test]
fn a_node_opens_only_what_somebody_waits_for_there() {
    let host = Host::new();
    let session = host.join();
    for (path, status) in [
        (format!("/runner/n1/shell/0123?session={session}"), 404),
        ("/runner/n1/shell/0123?session=other".to_owned(), 410),
        (format!("/runner/n2/shell/0123?session={session}"), 404),
    ] {
        assert_eq!(host.send("node", "GET", &path, &ASKED, "").status, status, "{path}");
    }
}
