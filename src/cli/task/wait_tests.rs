//! What is waited for against a Host of the test's making: events that break off, that are gone, that are not to be had.

use super::*;

#[test]
fn an_end_is_told_with_state_exit_and_reason() {
    let record = |status: &str, code, signal, why: Option<&str>| TaskRecord {
        task_id: "7".into(),
        status: status.into(),
        exit_code: code,
        exit_signal: signal,
        error_message: why.map(str::to_owned),
        ..TaskRecord::default()
    };
    for (record, expected) in [
        (record("failed", Some(3), None, None), "task 7: failed, exit status 3"),
        (record("failed", Some(137), Some(9), Some("killed by signal 9")), "task 7: failed: killed by signal 9"),
        (record("failed", Some(3), None, Some("exit code 3")), "task 7: failed: exit code 3"),
        (record("failed", Some(3), None, Some("30 s are over")), "task 7: failed, exit status 3: 30 s are over"),
        (record("failed", None, None, Some("cannot start\nmore")), "task 7: failed: cannot start"),
        (record("killed", None, None, None), "task 7: killed"),
    ] {
        assert_eq!(ending(&record), expected);
    }
}

#[test]
fn few_are_named_and_many_are_not() {
    for (count, expected) in [(1, "kill 1'"), (5, "kill 1 2 3 4 5'"), (6, "kill ID...'")] {
        let tally = Tally::of((1..=count).map(TaskId::from_u64));
        assert!(advice(&tally).ends_with(expected), "{}", advice(&tally));
    }
}

/// What the Host answers.
enum Say {
    /// This, in one piece.
    Body(u16, String),
    /// Events, and then the end of the connection.
    Break(String),
    /// Events, and then nothing more.
    Stay(String),
}

/// Serves every request with what `answer` says to its path; the paths go to `seen`.
fn host(answer: impl Fn(&str) -> Say + Send + Sync + 'static) -> (Loaded, mpsc::Receiver<String>) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let (tell, seen) = mpsc::channel();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (answer, tell) = (Arc::clone(&answer), tell.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(socket);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if line != "\r\n" {
                        lines.push(line);
                        continue;
                    }
                    let path = lines[0].split(' ').nth(1).expect("a request").to_owned();
                    lines.clear();
                    let said = answer(&path);
                    let _nobody_asks = tell.send(path);
                    let stream = |events: &str| {
                        format!(
                            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{events}\r\n",
                            events.len()
                        )
                    };
                    let text = match &said {
                        Say::Body(status, body) => {
                            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                        }
                        Say::Break(events) | Say::Stay(events) => stream(events),
                    };
                    if reader.get_mut().write_all(text.as_bytes()).is_err() || matches!(said, Say::Break(_)) {
                        return;
                    }
                }
            });
        }
    });
    let folder = std::env::temp_dir().join(format!("hakuriver-wait-{}-{port}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary directory can be written");
    let file = folder.join("config.toml");
    let text = format!("auth.mode = \"none\"\nnetwork.host_port = {port}\n");
    std::fs::write(&file, text).expect("it can be written");
    let loaded = crate::config::load(Some(&file)).expect("it is right");
    std::fs::remove_dir_all(folder).expect("it was made");
    (loaded, seen)
}

/// Waits for tasks 1 to `count`.
fn wait_for(loaded: &Loaded, count: u64) -> Result<(), Fault> {
    let (sender, wakes) = mpsc::channel();
    let watch = Watch::listening(loaded, Duration::from_millis(20), Arc::default(), sender, wakes);
    let tasks: Vec<TaskId> = (1..=count).map(TaskId::from_u64).collect();
    watch.until_ended(Host::from_loaded(loaded.clone())?, &tasks)
}

fn ended(seq: u64, task: u64) -> String {
    let data = format!(
        r#"{{"seq":{seq},"time":"","task_id":"{task}","node":null,"from":"running","to":"completed","cause":"x"}}"#
    );
    format!("id: {seq}\nevent: task\ndata: {data}\n\n")
}

/// A page of the Host's list.
fn rows(states: &[(u64, &str)]) -> Say {
    let row = |(id, state): &(u64, &str)| {
        let row = TaskRow { task_id: id.to_string(), status: (*state).to_owned(), ..TaskRow::default() };
        crate::api::json::encode(&row)
    };
    Say::Body(200, format!("[{}]", states.iter().map(row).collect::<Vec<_>>().join(",")))
}

#[test]
fn a_broken_stream_is_gone_on_with_and_nobody_is_asked() {
    let (loaded, seen) = host(|path| match path {
        "/events" => Say::Break(ended(4, 1)),
        "/events?since=4" => Say::Break([ended(5, 2), "id: 6\ndata: {\"to\":\"comple".to_owned()].concat()),
        "/events?since=5" => Say::Stay(ended(6, 3)),
        // It may look while no events flow; only they know the end here.
        _ => rows(&[(3, "running"), (2, "running"), (1, "running")]),
    });
    assert_eq!(wait_for(&loaded, 3), Ok(()));
    let streams: Vec<String> = seen.try_iter().filter(|path| path.starts_with("/events")).collect();
    assert_eq!(streams, ["/events", "/events?since=4", "/events?since=5"]);
}

#[test]
fn while_events_flow_nobody_is_asked() {
    let (loaded, seen) = host(|path| match path {
        "/events" => Say::Stay((1..=50).map(|task| ended(task, task)).collect()),
        other => panic!("{other} is asked for"),
    });
    assert_eq!(wait_for(&loaded, 50), Ok(()));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["/events"]);
}

#[test]
fn where_events_are_gone_each_is_looked_at() {
    let streams = std::sync::atomic::AtomicUsize::new(0);
    let (loaded, seen) = host(move |path| match path {
        "/events" if streams.fetch_add(1, Ordering::Relaxed) == 0 => Say::Break(ended(4, 1)),
        "/events" => Say::Stay(String::from(": events\n\n")),
        "/events?since=4" => Say::Body(410, String::from("{\"detail\":\"gone\"}")),
        path if path.starts_with("/tasks?") => rows(&[(2, "completed"), (1, "completed")]),
        other => panic!("{other} is asked for"),
    });
    assert_eq!(wait_for(&loaded, 2), Ok(()));
    assert!(seen.try_iter().any(|path| path == "/tasks?limit=1000&before=3"));
}

#[test]
fn without_events_it_looks_again_and_again() {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let (loaded, _seen) = host(move |path| match path {
        path if path.starts_with("/events") => Say::Body(404, String::from("{\"detail\":\"no such path\"}")),
        path if path.starts_with("/tasks?") => match looks.fetch_add(1, Ordering::Relaxed) {
            0 => rows(&[(2, "running"), (1, "pending")]),
            1 => Say::Body(503, String::from("{\"detail\":\"the Host stops\"}")),
            // The first one is not in its list any more.
            _ => rows(&[(2, "killed")]),
        },
        "/status/2" => Say::Body(404, String::from("{\"detail\":\"x\"}")),
        other => panic!("{other} is asked for"),
    });
    let Err(Fault::Refused(text)) = wait_for(&loaded, 2) else { panic!("they did not complete") };
    assert_eq!(text, "2 of 2 tasks did not complete:\n  task 1: the Host does not know it any more\n  task 2: killed");
}
