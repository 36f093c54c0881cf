//! What nodes ship, as the Host keeps it and gives it to users: exactly, once, through restarts, in constant memory.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use hakuriver::api::node::{OUTPUT_NOT_WANTED, ObservedTask, OutputChunk};
use hakuriver::domain::ids::{Attempt, TaskId};
use hakuriver::net::http_client::Client;
use hakuriver::runner::Join;
use hakuriver::runner::link::Link;
use hakuriver::runner::message::Message;
use hakuriver::runner::output::{Outputs, Place};
use hakuriver::sys::shutdown::Stop;

use crate::env::{Cluster, SOON, Settings, rss};
use crate::fake_node::{FakeNode, Hardware, observed};
use crate::mount::Mount;
use crate::{http, wait};

/// A Host, a node that does what the test says, and a task that "runs" there.
fn scene() -> (Cluster, FakeNode, String) {
    let mut cluster = Cluster::new(Settings { no_environment: true, ..Settings::default() });
    cluster.start_host();
    let node = FakeNode::silent(&cluster, "n1", &Hardware::cores("0-7", &[]));
    let id = start(&cluster, &node);
    (cluster, node, id)
}

fn start(cluster: &Cluster, node: &FakeNode) -> String {
    let body =
        r#"{"task_type":"command","command":"true","container_name":"NULL","required_cores":1,"targets":["n1"]}"#;
    let reply = cluster.post("/submit", body);
    assert_eq!(reply.status, 202, "{}", reply.text());
    let id = crate::tasks::ids(&reply.text()).remove(0);
    assert_eq!(node.observe(false, vec![observed(&id, 1, 1, "running", None)]).len(), 1);
    id
}

fn ended(id: &str, totals: (Option<u64>, Option<u64>)) -> ObservedTask {
    ObservedTask {
        exit_code: Some(0),
        stdout_bytes: totals.0,
        stderr_bytes: totals.1,
        ..observed(id, 1, 9, "completed", None)
    }
}

/// `hakuriver task stdout …` that runs on its own.
fn reader(cluster: &Cluster, args: &[&str]) -> Child {
    let mut all = vec!["task", "stdout"];
    all.extend(args);
    cluster.cli_command(&all).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What the Host gives of a task's standard output, however much it is.
fn all_of(cluster: &Cluster, id: &str) -> Vec<u8> {
    let client = Client::new(&format!("http://127.0.0.1:{}", cluster.api), Some(&cluster.token()));
    client.call("GET", &format!("/task/{id}/stdout"), None, SOON).unwrap().body
}

#[track_caller]
fn finish(child: &mut Child) {
    let status = wait::until("the client ends", SOON, || child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()));
    assert!(status.success(), "{status}");
}

#[test]
fn chunks_are_kept_once_and_exactly_and_answered_with_what_is_there() {
    let (cluster, node, id) = scene();
    assert_eq!(cluster.output(&id, "stdout"), b"");
    assert_eq!(cluster.status(&id).stdout_path, None);
    for (offset, bytes, have) in [
        (5, b"later".as_slice(), 0),
        (0, b"a\0\xff\r\n", 5),
        (0, b"a\0\xff\r\n", 5),
        (5, b"later", 10),
        (3, b"\r\nlater!", 11),
        (0, b"", 11),
    ] {
        assert_eq!(node.shipped(&id, 1, "stdout", offset, bytes), have, "{offset} {bytes:?}");
    }
    let whole = b"a\0\xff\r\nlater!";
    assert_eq!(cluster.output(&id, "stdout"), whole);
    assert_eq!(cluster.output(&id, "stderr"), b"");
    let get = |query: &str| {
        http::call(cluster.api, "GET", &format!("/task/{id}/stdout?{query}"), Some(&cluster.token()), None)
    };
    assert_eq!(get("offset=3").body, &whole[3..]);
    assert_eq!((get("offset=99").status, get("offset=99").body), (200, Vec::new()));
    let tail = get("tail=1");
    assert_eq!((tail.body.as_slice(), tail.header("hakuriver-offset")), (b"later!".as_slice(), Some("5")));
    assert!(tail.header("content-type").unwrap().starts_with("text/plain"));
    for query in ["offset=-1", "tail=x", "follow=yes"] {
        assert_eq!(get(query).status, 422, "{query}");
    }
    assert_eq!(cluster.cli(&["task", "stdout", &id]).stdout, whole);
    // With the report of the end.
    let chunk = |stream: &str, offset, data: &str| OutputChunk {
        task_id: id.clone(),
        attempt: 1,
        stream: stream.to_owned(),
        offset,
        data: data.to_owned(),
    };
    let haves = node
        .report(vec![ended(&id, (Some(14), Some(3)))], vec![chunk("stdout", 11, "ZW5k"), chunk("stderr", 0, "AP8K")]);
    assert_eq!(haves.iter().map(|have| have.have).collect::<Vec<_>>(), [14, 3]);
    assert_eq!(cluster.output(&id, "stdout"), [whole.as_slice(), b"end"].concat());
    assert_eq!(cluster.output(&id, "stderr"), b"\0\xff\n");
    let record = cluster.status(&id);
    assert_eq!((record.stdout_bytes, record.stderr_bytes, record.output_note), (Some(14), Some(3), None));
    assert!(record.stdout_path.unwrap().ends_with(&format!("/task_outputs/{id}.out")));
    assert!(record.stderr_path.unwrap().ends_with(&format!("/task_errors/{id}.err")));
    assert_eq!(
        cluster.output(&id, "stderr"),
        std::fs::read(cluster.dir.join(format!("shared/task_errors/{id}.err"))).unwrap()
    );
}

#[test]
fn only_the_node_of_a_task_writes_and_nobody_sends_what_is_not_wanted_for_ever() {
    let (cluster, node, id) = scene();
    // A database that knows it may be put back: what was told not to be wanted would be removed with its end.
    let reply = node.ship("7", 1, "stdout", 0, b"of a task that nobody knows");
    assert!(reply.status == 409 && reply.text().contains("stays on its node"), "{}", reply.text());
    assert_eq!(node.shipped(&id, 0, "stdout", 0, b"of an older attempt"), OUTPUT_NOT_WANTED);
    let other = FakeNode::silent(&cluster, "n2", &Hardware::cores("0-1", &[]));
    assert_eq!(other.shipped(&id, 1, "stdout", 0, b"of another node"), OUTPUT_NOT_WANTED);
    assert_eq!(cluster.output(&id, "stdout"), b"");
    assert_eq!(node.shipped(&id, 1, "stdout", 0, b"right"), 5);
    let path =
        |node: &str, session: &str, what: &str| format!("/runner/{node}/output/{what}?session={session}&offset=0");
    let client = |token: &str| Client::new(&format!("http://127.0.0.1:{}", cluster.api), Some(token));
    let what = format!("{id}/1/stdout");
    for (token, path, status) in [
        (cluster.token(), path("n1", &node.session, &what), 403),
        ("wrong".to_owned(), path("n1", &node.session, &what), 401),
        (cluster.node_token(), path("n1", "old", &what), 410),
        (cluster.node_token(), path("n9", &node.session, &what), 404),
        (cluster.node_token(), path("n1", &node.session, "../1/stdout"), 404),
        (cluster.node_token(), path("n1", &node.session, &format!("{id}/1/stdin")), 404),
        (cluster.node_token(), format!("/runner/n1/output/{what}?session={}", node.session), 422),
    ] {
        assert_eq!(client(&token).put_bytes(&path, b"evil", SOON).unwrap().status, status, "{path}");
    }
    assert_eq!(node.ship(&id, 1, "stdout", 0, &vec![0; (1 << 20) + 1]).status, 413);
    let json =
        http::call(cluster.api, "PUT", &path("n1", &node.session, &what), Some(&cluster.node_token()), Some("{}"));
    assert_eq!(json.status, 415);
    assert_eq!(cluster.output(&id, "stdout"), b"right");
    assert_eq!(http::call(cluster.api, "GET", "/task/7/stdout", Some(&cluster.token()), None).status, 404);
}

#[test]
fn a_follower_misses_nothing_and_sees_nothing_twice_through_a_restart_of_the_host() {
    let (mut cluster, node, id) = scene();
    node.shipped(&id, 1, "stdout", 0, b"old\none\n");
    let mut follower = reader(&cluster, &["--follow", "--tail", "1", &id]);
    let mut stream = follower.stdout.take().unwrap();
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"one\n");
    for round in 0..3_u64 {
        if round == 1 {
            cluster.kill9("host");
            cluster.start_host();
        }
        if round == 2 {
            cluster.stop("host");
            cluster.start_host();
        }
        assert_eq!(node.shipped(&id, 1, "stdout", 8 + round * 4, b"two\n"), 12 + round * 4, "nothing was lost");
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"two\n");
    }
    assert_eq!(follower.try_wait().unwrap(), None, "it follows");
    // The end is known before the last bytes are there.
    node.observe(false, vec![ended(&id, (Some(23), Some(0)))]);
    let mut late = reader(&cluster, &[&id]);
    wait::until("it is completed", SOON, || {
        if cluster.status(&id).status == "completed" { Ok(()) } else { Err(String::new()) }
    });
    let note = cluster.status(&id).output_note.unwrap();
    assert!(note.contains("output after byte 20 of stdout is missing"), "{note}");
    assert_eq!(node.shipped(&id, 1, "stdout", 20, b"end"), 23);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "end");
    finish(&mut follower);
    let mut all = String::new();
    late.stdout.take().unwrap().read_to_string(&mut all).unwrap();
    assert_eq!(all, "old\none\ntwo\ntwo\ntwo\nend");
    finish(&mut late);
    assert_eq!(cluster.status(&id).output_note, None);
}

#[test]
fn output_that_will_never_come_is_said_to_be_missing() {
    let (cluster, node, id) = scene();
    node.shipped(&id, 1, "stdout", 0, b"begun");
    node.observe(false, vec![ended(&id, (None, Some(0)))]);
    let record = cluster.status(&id);
    for text in [record.output_note.unwrap(), record.reason.unwrap()] {
        assert!(text.contains("output after byte 5 of stdout is missing") && !text.contains("stderr"), "{text}");
    }
    assert_eq!(record.error_message, None, "the task itself is well");
    let read = cluster.cli(&["task", "stdout", &id]);
    assert_eq!((read.status, read.stdout.as_slice()), (0, b"begun".as_slice()));
    assert!(read.stderr.contains("output after byte 5 of stdout is missing"), "{}", read.stderr);
    assert_eq!(cluster.cli(&["task", "stderr", "--follow", &id]).stderr, "");
}

#[test]
fn a_gigabyte_passes_through_host_and_client_in_constant_memory() {
    const SIZE: u64 = 1 << 30;
    let (cluster, node, id) = scene();
    let mut follower = reader(&cluster, &["--follow", &id]);
    let client = follower.id();
    let mut stream = follower.stdout.take().unwrap();
    let counting = std::thread::spawn(move || {
        let (mut buffer, mut count, mut is_exact) = (vec![0; 256 << 10], 0_u64, true);
        loop {
            let n = stream.read(&mut buffer).unwrap();
            if n == 0 {
                return (count, is_exact);
            }
            is_exact &= buffer[..n].iter().enumerate().all(|(at, byte)| *byte == byte_at(count + at as u64));
            count += n as u64;
        }
    });
    let chunk: Vec<u8> = (0..512 << 10).map(byte_at).collect();
    let host = Client::new(&format!("http://127.0.0.1:{}", cluster.api), Some(&cluster.node_token()));
    let (mut sent, mut most) = (0, [0; 2]);
    while sent < SIZE {
        let path = format!("/runner/n1/output/{id}/1/stdout?session={}&offset={sent}", node.session);
        assert_eq!(host.put_bytes(&path, &chunk, SOON).unwrap().status, 200);
        sent += chunk.len() as u64;
        most = [most[0].max(cluster.rss("host")), most[1].max(rss(client))];
    }
    node.observe(false, vec![ended(&id, (Some(SIZE), Some(0)))]);
    assert_eq!(counting.join().unwrap(), (SIZE, true));
    finish(&mut follower);
    assert!(most.iter().all(|bytes| *bytes < 48_000_000), "Host and client used {most:?} bytes of memory");
}

/// A pattern whose period is a chunk's length.
fn byte_at(at: u64) -> u8 {
    let at = at % (512 << 10);
    (at ^ (at >> 8) ^ (at >> 13)) as u8
}

#[test]
fn a_reader_that_stalls_holds_nobody() {
    let (cluster, node, id) = scene();
    let chunk = vec![b'x'; 1 << 20];
    for at in 0..32 {
        node.shipped(&id, 1, "stdout", at << 20, &chunk);
    }
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = http::connect(cluster.api);
            let request = http::request("GET", &format!("/task/{id}/stdout?follow=1"), Some(&cluster.token()), None);
            socket.write_all(request.as_bytes()).unwrap();
            socket
        })
        .collect();
    let begin = Instant::now();
    assert_eq!(all_of(&cluster, &id).len(), 32 << 20);
    assert_eq!(node.shipped(&id, 1, "stdout", 32 << 20, b"more"), (32 << 20) + 4);
    assert_eq!(cluster.nodes()[0].status, "online");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(cluster.rss("host") < 64_000_000);
    drop(stalled);
}

#[test]
fn a_full_disk_refuses_output_and_nothing_else_and_recovers() {
    let (cluster, node, id) = scene();
    let folder = cluster.dir.join("shared/task_outputs");
    std::fs::create_dir(&folder).unwrap();
    let _small = Mount::tmpfs(&folder, "256k");
    let chunk: Vec<u8> = (0..300_000).map(byte_at).collect();
    let full = node.ship(&id, 1, "stdout", 0, &chunk);
    assert_eq!(full.status, 507, "{}", full.text());
    assert!(full.text().contains("task_outputs") && full.text().contains("space"), "{}", full.text());
    let have = node.shipped(&id, 1, "stdout", 0, b"");
    assert!(have > 0 && have < 300_000, "what could be written is no gap: {have}");
    assert_eq!(node.shipped(&id, 1, "stderr", 0, b"elsewhere"), 9, "others do not suffer");
    // Nor does the report that comes with more of it.
    let more = OutputChunk {
        task_id: id.clone(),
        attempt: 1,
        stream: "stdout".to_owned(),
        offset: have,
        data: "eA==".to_owned(),
    };
    assert_eq!(node.report(vec![ended(&id, (Some(300_000), Some(9)))], vec![more])[0].have, have);
    assert_eq!(cluster.status(&id).status, "completed");
    let grown = Command::new("mount").args(["-o", "remount,size=1m"]).arg(&folder).status().unwrap();
    assert!(grown.success());
    assert_eq!(node.shipped(&id, 1, "stdout", have, &chunk[have as usize..]), 300_000);
    assert!(all_of(&cluster, &id) == chunk);
}

#[test]
fn what_a_node_ships_arrives_while_it_grows_and_through_a_restart_of_the_host() {
    let (mut cluster, node, id) = scene();
    let join = Join { host: format!("127.0.0.1:{}", cluster.api), node_token: Some(cluster.node_token()) };
    let link = Arc::new(Link::new(&join, "n1"));
    // The same Runner asks again, and gets the same session.
    let register = node.register.clone();
    assert_eq!(link.register(&register).unwrap().session, node.session);
    let (stop, (tell, settled)) = (Stop::new(), channel());
    let outputs = Outputs::open(link.clone(), tell, &stop).unwrap();
    let record = cluster.dir.join("record");
    std::fs::create_dir_all(&record).unwrap();
    let mut file = std::fs::File::create(record.join("stdout")).unwrap();
    std::fs::File::create(record.join("stderr")).unwrap();
    let task = TaskId::from_u64(id.parse().unwrap());
    outputs.watch(task, Attempt::FIRST, Place::folder(record));
    let mut whole = Vec::new();
    for round in 0..4_u8 {
        if round == 2 {
            cluster.kill9("host");
        }
        let part = vec![round; 1_700_000];
        file.write_all(&part).unwrap();
        whole.extend_from_slice(&part);
        if round == 2 {
            cluster.start_host();
        }
        wait::until("what was written is on the Host", SOON, || {
            let now = all_of(&cluster, &id);
            if now == whole { Ok(()) } else { Err(format!("{} of {} bytes", now.len(), whole.len())) }
        });
    }
    let totals = outputs.ended(task, Attempt::FIRST);
    assert_eq!((totals.stdout, totals.stderr), (Some(whole.len() as u64), Some(0)));
    assert!(matches!(settled.recv_timeout(SOON), Ok(Message::OutputSettled(..))));
    // As fast as this machine goes, for the record.
    let begin = Instant::now();
    let big = cluster.dir.join("big");
    std::fs::create_dir_all(&big).unwrap();
    std::fs::write(big.join("stdout"), vec![b'y'; 256 << 20]).unwrap();
    std::fs::write(big.join("stderr"), "").unwrap();
    // The Host that came back gives it tasks only when it knows what it has.
    node.observe(true, vec![observed(&id, 1, 1, "running", None)]);
    let second = start(&cluster, &node);
    let task = TaskId::from_u64(second.parse().unwrap());
    let written = begin.elapsed();
    outputs.watch(task, Attempt::FIRST, Place::folder(big));
    outputs.ended(task, Attempt::FIRST);
    assert!(matches!(settled.recv_timeout(SOON), Ok(Message::OutputSettled(..))));
    eprintln!("{:.0} MB/s shipped", 268.4 / (begin.elapsed() - written).as_secs_f64());
    stop.set();
    link.close();
    assert_eq!(cluster.status(&second).status, "running");
}
