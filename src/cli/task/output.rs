//! `task stdout` and `task stderr`: the bytes as the task wrote them, to their end, through a restart of the Host.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use argh::{ArgsInfo, FromArgs};

use crate::cli::fault::Fault;
use crate::cli::host_api::Host;
use crate::cli::output;
use crate::cli::task_ref::TaskRef;
use crate::domain::ids::TaskId;
use crate::domain::output::Stream;
use crate::net::http_client::Answer;

/// Print what a task wrote to its standard output, byte for byte. While it runs: what is there by now.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "stdout",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000\n{command_name} --follow --tail 20 7398471823749120000"
)]
pub(super) struct StdoutArgs {
    /// go on until the task has ended
    #[argh(switch)]
    follow: bool,
    /// only the last N lines (and with --follow what comes after them)
    #[argh(option, arg_name = "N")]
    tail: Option<u64>,
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

/// Print what a task wrote to its standard error, byte for byte. While it runs: what is there by now.
#[derive(Debug, PartialEq, FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "stderr",
    help_triggers("-h", "--help"),
    example = "{command_name} 7398471823749120000\n{command_name} --follow my-task"
)]
pub(super) struct StderrArgs {
    /// go on until the task has ended
    #[argh(switch)]
    follow: bool,
    /// only the last N lines (and with --follow what comes after them)
    #[argh(option, arg_name = "N")]
    tail: Option<u64>,
    /// the task's id or name
    #[argh(positional, arg_name = "TASK_ID")]
    task: TaskRef,
}

/// What is read and written at once.
const PART: usize = 128 << 10;
/// After so much silence the connection is made anew: the Host may be gone without a word.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a Host that went away is waited for.
const AWAY: Duration = Duration::from_secs(300);
/// A connection that stood for so long was the Host's, also if it had nothing to say.
const STOOD: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// A refusal is a sentence.
const LONGEST_REFUSAL: u64 = 64 << 10;
/// Where in the stream the Host's answer begins.
const START: &str = "hakuriver-offset";

pub(super) fn stdout(args: &StdoutArgs, config: Option<&Path>) -> Result<(), Fault> {
    run(Stream::Stdout, &args.task, args.follow, args.tail, config)
}

pub(super) fn stderr(args: &StderrArgs, config: Option<&Path>) -> Result<(), Fault> {
    run(Stream::Stderr, &args.task, args.follow, args.tail, config)
}

/// Why a connection gave no more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// All has come.
    Whole,
    /// It broke: there may be more.
    Broken,
    /// Nobody reads what we write.
    Unread,
}

/// Since when the Host gives nothing.
struct Absence {
    since: Instant,
}

impl Absence {
    /// A connection broke that began then, and gave something or not; true: it was tried for long enough.
    fn goes_on(&mut self, gave: bool, began: Instant, now: Instant) -> bool {
        if gave || now.saturating_duration_since(began) >= STOOD {
            self.since = now;
        }
        self.is_long(now)
    }

    fn is_long(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= AWAY
    }
}

fn run(stream: Stream, task: &TaskRef, follow: bool, tail: Option<u64>, config: Option<&Path>) -> Result<(), Fault> {
    let mut host = Host::of(config)?;
    let id = task.id(&host)?;
    let mut position = None;
    let mut absence = Absence { since: Instant::now() };
    let (mut is_first, mut is_told) = (true, false);
    loop {
        match host.client().stream_with(&path(stream, id, follow, tail, position), SILENCE, START) {
            Ok((200, start, mut body)) => {
                let mut at = start.and_then(|start| start.parse().ok()).or(position).unwrap_or(0);
                let (before, began) = (at, Instant::now());
                let end = copy(&mut body, &mut io::stdout().lock(), &mut at)?;
                position = Some(at);
                match end {
                    End::Whole => break,
                    End::Unread => return Ok(()),
                    End::Broken if absence.goes_on(at > before, began, Instant::now()) => {
                        let what = format!("the Host's answer breaks off after byte {at} of {stream}, again and again");
                        return Err(Fault::Unreachable(format!("{what}; its log may say why")));
                    }
                    End::Broken => {}
                }
            }
            // On its way out, or not ready to say: it says to try again.
            Ok((503, _, body)) if !absence.is_long(Instant::now()) => {
                // A Host that starts anew is back within moments; a dead file server is not.
                if absence.since.elapsed() >= STOOD
                    && !std::mem::replace(&mut is_told, true)
                    && let Err(Fault::Refused(why)) = refusal(&host, 503, body)
                {
                    output::error_line(&format!("waiting: {why}"));
                }
            }
            Ok((status, _, body)) => return refusal(&host, status, body),
            Err(fault) if is_first || absence.is_long(Instant::now()) => return Err(host.unreachable(&fault)),
            Err(_) => {
                // Where its port is the system's choice, it returns with another one.
                if let Ok(again) = Host::from_loaded(host.loaded.clone()) {
                    host = again;
                }
            }
        }
        is_first = false;
        std::thread::sleep(PAUSE);
    }
    // What is missing is no reason to fail: what there is was printed.
    let note = TaskRef::Id(id).record(&host).ok().and_then(|record| record.output_note);
    for line in note.iter().flat_map(|note| missing(note, stream)) {
        output::error_line(&format!("warning: {line}"));
    }
    Ok(())
}

/// What the Host says instead.
fn refusal(host: &Host, status: u16, body: impl Read) -> Result<(), Fault> {
    let mut text = Vec::new();
    // What is cut short is no explanation, and said to be none.
    let _broken = body.take(LONGEST_REFUSAL).read_to_end(&mut text);
    host.success(Answer { status, body: text }).map(drop)
}

/// Asks for the lines wanted at first, later for what follows the last byte that came.
fn path(stream: Stream, id: TaskId, follow: bool, tail: Option<u64>, position: Option<u64>) -> String {
    let follow = u8::from(follow);
    match (position, tail) {
        (Some(position), _) => format!("/task/{id}/{stream}?follow={follow}&offset={position}"),
        (None, Some(lines)) => format!("/task/{id}/{stream}?follow={follow}&tail={lines}"),
        (None, None) => format!("/task/{id}/{stream}?follow={follow}"),
    }
}

/// Passes on what comes; `position` counts with it.
fn copy(from: &mut dyn Read, to: &mut dyn Write, position: &mut u64) -> Result<End, Fault> {
    let mut part = vec![0; PART];
    loop {
        let n = match from.read(&mut part) {
            Ok(0) => return Ok(End::Whole),
            Ok(n) => n,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(End::Broken),
        };
        match to.write_all(&part[..n]).and_then(|()| to.flush()) {
            Ok(()) => *position += n as u64,
            Err(fault) if fault.kind() == io::ErrorKind::BrokenPipe => return Ok(End::Unread),
            Err(fault) => return Err(Fault::Refused(format!("cannot write to stdout: {fault}"))),
        }
    }
}

/// What the Host's note says of one stream.
fn missing(note: &str, stream: Stream) -> Vec<String> {
    let ours = format!(" of {stream} ");
    note.split("; ").filter(|part| part.contains(&ours)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts, then breaks.
    struct Breaking(Vec<&'static [u8]>);

    impl Read for Breaking {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    /// Takes nothing.
    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn after_a_break_it_goes_on_behind_the_last_byte() {
        let (mut out, mut at) = (Vec::new(), 7);
        assert_eq!(copy(&mut Breaking(vec![b"a\0", b"\xff"]), &mut out, &mut at), Ok(End::Broken));
        assert_eq!((out.as_slice(), at), (b"a\0\xff".as_slice(), 10));
        assert_eq!(copy(&mut b"bc".as_slice(), &mut out, &mut at), Ok(End::Whole));
        assert_eq!(at, 12);
        let id = TaskId::from_u64(5);
        for (tail, position, expected) in [
            (None, None, "/task/5/stderr?follow=1"),
            (Some(3), None, "/task/5/stderr?follow=1&tail=3"),
            (Some(3), Some(12), "/task/5/stderr?follow=1&offset=12"),
        ] {
            assert_eq!(path(Stream::Stderr, id, true, tail, position), expected);
        }
    }

    #[test]
    fn a_host_that_breaks_off_each_time_is_given_up() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut absence = Absence { since: begin };
        assert!(!absence.goes_on(false, at(299), at(299)), "it may be starting");
        assert!(absence.goes_on(false, at(300), at(300)), "it gives nothing");
        assert!(!absence.goes_on(true, at(301), at(301)), "it gave something");
        assert!(!absence.goes_on(false, at(400), at(900)), "it had nothing to say, for long");
        assert!(!absence.is_long(at(1_199)));
        assert!(absence.goes_on(false, at(1_199), at(1_200)));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_fault_and_a_full_disk_is() {
        let to = |kind| copy(&mut b"x".as_slice(), &mut Closed(kind), &mut 0);
        assert_eq!(to(io::ErrorKind::BrokenPipe), Ok(End::Unread));
        assert!(matches!(to(io::ErrorKind::StorageFull), Err(Fault::Refused(text)) if text.contains("stdout")));
    }

    #[test]
    fn a_note_is_said_of_its_stream_alone() {
        let note = "output after byte 1 of stdout is missing: a; output after byte 2 of stderr is missing: b";
        assert_eq!(missing(note, Stream::Stderr), ["output after byte 2 of stderr is missing: b"]);
        assert_eq!(missing("", Stream::Stdout), Vec::<String>::new());
    }
}
