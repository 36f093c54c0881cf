//! Waiting until a VPS accepts SSH.

use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::api::public::TaskRecord;
use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::interrupt;
use crate::cli::output::{self, Progress};
use crate::cli::task_ref::TaskRef;
use crate::config::Loaded;
use crate::domain::state::State;
use crate::sys::thread;

/// What ends a rest.
enum Wake {
    /// Something changed, or may have while nobody listened.
    Changed,
    /// Ctrl-C, or the terminal is gone: the signal.
    Interrupted(i32),
}

/// How often to look where no event tells: before the events flow, and for figures (image load) that are no event.
const LOOK: Duration = Duration::from_secs(1);
/// How often to look while events flow and nothing else can change.
const LOOK_QUEUED: Duration = Duration::from_secs(10);
/// How long a Host that went away is waited for.
const HOST_AWAY: Duration = Duration::from_secs(300);

/// Waits until it runs, and says how to connect; a fault if it ends before.
pub(super) fn until_running(mut host: Host, task: &TaskRef) -> Result<(), Fault> {
    let (sender, wakes) = mpsc::channel();
    let interrupts = sender.clone();
    interrupt::on_interrupt(move |signal| {
        // Nobody waits any more: the program is about to end.
        let _waiting = interrupts.send(Wake::Interrupted(signal));
    });
    let are_events_flowing = listen_for_events(&host.loaded, task, &sender);
    let mut progress = Progress::default();
    let mut away_since: Option<Instant> = None;
    loop {
        let look = match task.record(&host) {
            Ok(record) => {
                away_since = None;
                match decide(&record) {
                    Standing::Running => {
                        progress.clear();
                        output::print(&ready(&record));
                        return Ok(());
                    }
                    Standing::Ended(reason) => {
                        progress.clear();
                        return Err(Fault::Refused(reason));
                    }
                    Standing::Waiting { text, is_queued } => {
                        progress.show(&text);
                        if is_queued && are_events_flowing.load(Ordering::Relaxed) { LOOK_QUEUED } else { LOOK }
                    }
                }
            }
            Err(Fault::Unreachable(text)) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > HOST_AWAY {
                    return Err(Fault::Unreachable(format!("{text}\ntask {task} was accepted, and goes on")));
                }
                // Where its port is the system's choice, it returns with another one.
                if let Ok(again) = Host::from_loaded(host.loaded.clone()) {
                    host = again;
                }
                progress.show("the Host does not answer; the task goes on; trying again");
                LOOK
            }
            Err(fault) => return Err(fault),
        };
        match wakes.recv_timeout(look) {
            // More may have come in the same moment: one look is enough for all.
            Ok(Wake::Changed) => {
                while let Ok(wake) = wakes.try_recv() {
                    if let Wake::Interrupted(signal) = wake {
                        return Err(interrupted(&mut progress, task, signal));
                    }
                }
            }
            Ok(Wake::Interrupted(signal)) => return Err(interrupted(&mut progress, task, signal)),
            Err(RecvTimeoutError::Timeout) => {}
            // This thread holds a sender.
            Err(RecvTimeoutError::Disconnected) => unreachable!("`sender` lives as long as this function"),
        }
    }
}

fn interrupted(progress: &mut Progress, task: &TaskRef, signal: i32) -> Fault {
    progress.clear();
    output::error_line(&format!(
        "task {task} goes on; see it with 'hakuriver client status {task}', end it with 'hakuriver vps kill {task}'"
    ));
    Fault::Status(interrupt::status(signal))
}

/// What a record means to someone who waits.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Running,
    /// `is_queued`: nothing moves until the Host says so.
    Waiting {
        text: String,
        is_queued: bool,
    },
    Ended(String),
}

fn decide(record: &TaskRecord) -> Standing {
    let node = record.assigned_node.as_deref().unwrap_or("a node");
    let with = |text: String, reason: &Option<String>| match reason {
        Some(reason) => format!("{text}: {reason}"),
        None => text,
    };
    let id = &record.task_id;
    match State::from_word(&record.status) {
        Some(State::Running) => Standing::Running,
        Some(State::Pending) => Standing::Waiting { text: with("queued".into(), &record.reason), is_queued: true },
        Some(State::Assigning) => {
            Standing::Waiting { text: with(format!("starting on {node}"), &record.reason), is_queued: false }
        }
        Some(State::Paused) => Standing::Waiting {
            text: format!("paused on {node}; resume it with 'hakuriver vps command {id} resume'"),
            is_queued: true,
        },
        Some(State::Lost) => Standing::Ended(with(
            format!("VPS {id} is lost: node '{node}' is silent; it will run again if the node returns"),
            &record.error_message,
        )),
        Some(State::Completed | State::Failed | State::Killed | State::KilledOom) | None => {
            let reason = if record.error_message.is_some() { &record.error_message } else { &record.reason };
            Standing::Ended(with(format!("VPS {id} is {}", record.status), reason))
        }
    }
}

/// What is printed when it accepts SSH.
fn ready(record: &TaskRecord) -> String {
    let name = record.name.as_deref().unwrap_or(&record.task_id);
    let port = record.ssh_port.map_or_else(String::new, |port| format!(", port {port}"));
    let node = record.assigned_node.as_deref().unwrap_or("-");
    output::printable(&format!("running on {node}{port}\nconnect with: hakuriver ssh {name}\n"))
}

/// Wakes the sender's other end at each event of the task, and whenever events may have been missed. True while they flow.
fn listen_for_events(loaded: &Loaded, task: &TaskRef, sender: &Sender<Wake>) -> Arc<AtomicBool> {
    /// The Host sends a comment now and then; after this silence the connection is taken for dead.
    const SILENCE: Duration = Duration::from_secs(60);
    let flowing = Arc::new(AtomicBool::new(false));
    let (loaded, sender, flows, id) = (loaded.clone(), sender.clone(), Arc::clone(&flowing), task.to_string());
    let path = format!("/events?task={id}");
    let started = thread::spawn("events", move || {
        loop {
            let stream =
                Host::from_loaded(loaded.clone()).ok().and_then(|host| host.client().stream(&path, SILENCE).ok());
            if let Some((200, stream)) = stream {
                flows.store(true, Ordering::Relaxed);
                let mut lines = BufReader::new(stream);
                let mut line = Vec::new();
                // What happened before the stream was open is seen by one look now.
                let mut is_news = true;
                loop {
                    if is_news && sender.send(Wake::Changed).is_err() {
                        return;
                    }
                    line.clear();
                    match lines.read_until(b'\n', &mut line) {
                        Ok(1..) => is_news = is_about(&line, &id),
                        Ok(0) | Err(_) => break,
                    }
                }
                flows.store(false, Ordering::Relaxed);
            }
            std::thread::sleep(LOOK);
        }
    });
    // Without a thread it is looked at every second: slower, and right.
    drop(started);
    flowing
}

/// Does a line of the event stream carry data about this task?
fn is_about(line: &[u8], id: &str) -> bool {
    line.starts_with(b"data:") && line.windows(id.len()).any(|part| part == id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: &str, node: Option<&str>, reason: Option<&str>, error: Option<&str>) -> TaskRecord {
        TaskRecord {
            task_id: "7".into(),
            status: status.into(),
            assigned_node: node.map(str::to_owned),
            reason: reason.map(str::to_owned),
            error_message: error.map(str::to_owned),
            ..TaskRecord::default()
        }
    }

    #[test]
    fn what_is_waited_for_is_said() {
        for (status, node, reason, expected, queued) in [
            ("pending", None, Some("node1: 2 of 4 cores free"), "queued: node1: 2 of 4 cores free", true),
            ("pending", None, None, "queued", true),
            ("assigning", Some("n1"), Some("loading image (43%)"), "starting on n1: loading image (43%)", false),
            ("assigning", Some("n1"), None, "starting on n1", false),
            ("paused", Some("n1"), None, "paused on n1; resume it with 'hakuriver vps command 7 resume'", true),
        ] {
            let expected = Standing::Waiting { text: expected.to_owned(), is_queued: queued };
            assert_eq!(decide(&record(status, node, reason, None)), expected, "{status}");
        }
        assert_eq!(decide(&record("running", Some("n1"), None, None)), Standing::Running);
    }

    #[test]
    fn an_end_is_told_with_its_reason() {
        for (status, reason, error, expected) in [
            ("failed", None, Some("no sshd"), "VPS 7 is failed: no sshd"),
            ("failed", Some("waited"), None, "VPS 7 is failed: waited"),
            ("killed", None, None, "VPS 7 is killed"),
            ("lost", None, None, "VPS 7 is lost: node 'n1' is silent; it will run again if the node returns"),
            ("novel", None, None, "VPS 7 is novel"),
        ] {
            let expected = Standing::Ended(expected.to_owned());
            assert_eq!(decide(&record(status, Some("n1"), reason, error)), expected, "{status}");
        }
    }

    #[test]
    fn the_line_to_connect_with_has_the_name_if_there_is_one() {
        let mut record = record("running", Some("n1"), None, None);
        record.ssh_port = Some(30_001);
        assert_eq!(ready(&record), "running on n1, port 30001\nconnect with: hakuriver ssh 7\n");
        record.name = Some("dev".into());
        assert_eq!(ready(&record), "running on n1, port 30001\nconnect with: hakuriver ssh dev\n");
    }

    #[test]
    fn only_data_about_the_task_is_news() {
        for (line, expected) in [
            ("data: {\"task_id\":\"77\"}\n", true),
            ("data: {\"task_id\":\"78\"}\n", false),
            ("id: 77\n", false),
            (": keep-alive 77\n", false),
            ("\n", false),
        ] {
            assert_eq!(is_about(line.as_bytes(), "77"), expected, "{line:?}");
        }
    }
}
