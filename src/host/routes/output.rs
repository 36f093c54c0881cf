//! What tasks write: taken from their nodes, given to users.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::node::{OUTPUT_NOT_WANTED, OutputChunk, OutputHave};
use crate::api::public::TaskRecord;
use crate::domain::ids::{Attempt, NodeName, TaskId};
use crate::domain::output::Stream;
use crate::domain::spec::TaskKind;
use crate::net::http::{Head, Reply};
use crate::store::{StoreFault, Task};
use crate::warning;

use super::super::engine::{ActFault, not_this_session};
use super::super::outputs::{Chunk, NotKept, OutputFault};
use super::nodes::node_name;
use super::stream::{Range, Source};
use super::{Api, answer, unreadable};

/// Whether what a task wrote is kept.
enum Welcome {
    Yes,
    /// Nobody will ever want it.
    No,
    /// Not now, and why.
    NotNow(String),
}

/// Where in the stream an answer begins: a client whose connection breaks goes on from there.
const START: &str = "hakuriver-offset";

impl Api {
    /// `PUT /runner/{hostname}/output/{task}/{attempt}/{stdout or stderr}?session=&offset=`: raw bytes.
    pub(super) fn ship(
        &self,
        name: &str,
        task: TaskId,
        attempt: Attempt,
        stream: Stream,
        head: &Head,
        body: &[u8],
    ) -> Result<Reply, ActFault> {
        let name = node_name(name)?;
        self.check_session(&name, head.query("session").unwrap_or_default())?;
        let offset = offset(head)?.ok_or_else(|| ActFault::new(422, "field 'offset': it is missing"))?;
        let have = match self.welcome(&name, task, attempt)? {
            Welcome::No => OUTPUT_NOT_WANTED,
            Welcome::NotNow(why) => return Err(ActFault::new(409, why)),
            Welcome::Yes => {
                let chunk = Chunk { task, attempt, stream, offset, bytes: body.to_vec() };
                let kept = self.keep(vec![chunk]).pop().expect("one answer for one chunk");
                kept.map_err(|NotKept { fault, .. }| {
                    let status = match &fault {
                        OutputFault::Full(_) => 507,
                        OutputFault::Foreign(_) => 409,
                        OutputFault::Silent(_) => 503,
                        OutputFault::Failed(_) => 500,
                    };
                    ActFault::new(status, fault.to_string())
                })?
            }
        };
        Ok(answer(200, &have_of(task, attempt, stream, have)))
    }

    /// The chunks that came with reports. One that cannot be kept is no reason to refuse the reports: its node sees that the
    /// Host has it not, or hears nothing of it where that is not known, and sends it again by itself.
    pub(super) fn take_chunks(
        &self,
        name: &NodeName,
        session: &str,
        chunks: Vec<OutputChunk>,
    ) -> Result<Vec<OutputHave>, ActFault> {
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        self.check_session(name, session)?;
        let mut haves = Vec::with_capacity(chunks.len());
        let mut kept = Vec::with_capacity(chunks.len());
        let mut complained = false;
        let mut complain = |why: &str| {
            if !std::mem::replace(&mut complained, true) {
                warning!("what tasks of node {name} wrote is not kept: {why}");
            }
        };
        for chunk in chunks {
            let wrong =
                |field: &str, expected: &str| ActFault::new(422, format!("field '{field}': expected {expected}"));
            let task: TaskId = chunk.task_id.parse().map_err(|_| wrong("task_id", "a decimal number"))?;
            let stream: Stream = chunk.stream.parse().map_err(|_| wrong("stream", "stdout or stderr"))?;
            let bytes = STANDARD.decode(&chunk.data).map_err(|_| wrong("data", "base64"))?;
            let attempt = Attempt(chunk.attempt);
            match self.welcome(name, task, attempt)? {
                Welcome::Yes => kept.push(Chunk { task, attempt, stream, offset: chunk.offset, bytes }),
                Welcome::No => haves.push(have_of(task, attempt, stream, OUTPUT_NOT_WANTED)),
                Welcome::NotNow(why) => complain(&why),
            }
        }
        let whose: Vec<_> = kept.iter().map(|chunk| (chunk.task, chunk.attempt, chunk.stream)).collect();
        for ((task, attempt, stream), result) in whose.into_iter().zip(self.keep(kept)) {
            let have = result.map_or_else(
                |NotKept { fault, have }| {
                    // That the directory is silent is in the log already.
                    if !matches!(fault, OutputFault::Silent(_)) {
                        complain(&fault.to_string());
                    }
                    have
                },
                Some,
            );
            haves.extend(have.map(|have| have_of(task, attempt, stream, have)));
        }
        Ok(haves)
    }

    fn welcome(&self, name: &NodeName, id: TaskId, attempt: Attempt) -> Result<Welcome, ActFault> {
        let is_welcome = |task: &Task| {
            matches!(task.spec.kind, TaskKind::Command { .. })
                && attempt >= task.standing.attempt
                && task.placement.as_ref().is_some_and(|placement| placement.node == *name)
        };
        let welcome = match self.engine.view.task(id) {
            Some(live) => is_welcome(&live.task),
            None => match self.readers.task(id) {
                Ok(Some(task)) => is_welcome(&task),
                // Nobody asks for it now; but this database may be an older one, and the right one be restored after it. So its
                // node keeps what it wrote.
                Ok(None) => {
                    let why = format!("task {id} is not known here: what it wrote stays on its node");
                    return Ok(Welcome::NotNow(why));
                }
                Err(StoreFault::Row(why)) => return Ok(Welcome::NotNow(why)),
                Err(other) => return Err(unreadable(other)),
            },
        };
        Ok(if welcome { Welcome::Yes } else { Welcome::No })
    }

    /// Keeps chunks, and wakes those who wait for them.
    fn keep(&self, chunks: Vec<Chunk>) -> Vec<Result<u64, NotKept>> {
        let tasks: Vec<TaskId> = chunks.iter().map(|chunk| chunk.task).collect();
        let kept = self.outputs.append(chunks);
        tasks.into_iter().for_each(|task| self.engine.view.watchers.wake(task));
        kept
    }

    /// The engine checks the session of every other call; what comes here does not go through it.
    pub(super) fn check_session(&self, name: &NodeName, session: &str) -> Result<(), ActFault> {
        match self.engine.view.node(name) {
            None => Err(ActFault::new(404, format!("node '{name}' is not registered: it has to register first"))),
            Some(node) if node.record.session != session => Err(not_this_session(name, &node.record.session, session)),
            Some(_) => Ok(()),
        }
    }

    /// `GET /task/{id or name}/stdout` and `/stderr`, `?offset=N&tail=N&follow=1`
    pub(super) fn output(&self, text: &str, stream: Stream, head: &Head) -> Result<Reply, ActFault> {
        let (task, _) = self.find(text)?;
        if let TaskKind::Vps { .. } = task.spec.kind {
            let why = format!("task {} is a VPS and has no output; see 'hakuriver ssh {0}'", task.id);
            return Err(ActFault::new(400, why));
        }
        let range = Range {
            offset: offset(head)?.unwrap_or(0),
            lines: number(head, "tail")?,
            follow: match head.query("follow") {
                None | Some("0" | "false") => false,
                Some("1" | "true") => true,
                Some(_) => return Err(ActFault::new(422, "field 'follow': expected 0 or 1")),
            },
        };
        let source = Source {
            outputs: self.outputs.clone(),
            view: self.engine.view.clone(),
            readers: self.readers.clone(),
            task: task.id,
            stream,
        };
        let start = source.start(&range)?;
        Ok(Reply::Stream {
            status: 200,
            content_type: "text/plain; charset=utf-8",
            headers: vec![(START, start.to_string())],
            write: Box::new(move |out| source.send(out, start, range.follow)),
        })
    }

    /// Where a task's output is, and what of it is not.
    pub(super) fn tell_output(&self, task: &Task, record: &mut TaskRecord) {
        if !matches!(task.spec.kind, TaskKind::Command { .. }) {
            return;
        }
        let arrived = self.outputs.arrived(task.id, task.standing.attempt);
        let mut notes = Vec::new();
        for stream in Stream::ALL {
            let total = match stream {
                Stream::Stdout => task.stdout_bytes,
                Stream::Stderr => task.stderr_bytes,
            };
            let arrived = arrived.as_ref().ok().map(|arrived| arrived[stream.index()]);
            if arrived.is_some_and(|arrived| arrived > 0) || total.is_some_and(|total| total > 0) {
                let path = Some(self.outputs.path(task.id, stream).display().to_string());
                match stream {
                    Stream::Stdout => record.stdout_path = path,
                    Stream::Stderr => record.stderr_path = path,
                }
            }
            notes.extend(arrived.and_then(|arrived| missing(task, stream, total, arrived)));
        }
        // What never ran wrote nothing.
        if let (Err(silent), Some(_)) = (arrived, task.started_ms) {
            notes.push(format!("how much of its output has arrived is not known: {silent}"));
        }
        record.output_note = (!notes.is_empty()).then(|| notes.join("; "));
        // Clients that do not know the field show this one.
        record.reason = record.reason.take().or_else(|| record.output_note.clone());
    }
}

/// What of a stream of a task that has ended is not here.
fn missing(task: &Task, stream: Stream, total: Option<u64>, arrived: u64) -> Option<String> {
    // What never ran wrote nothing.
    if !task.standing.state.is_settled() || task.started_ms.is_none() {
        return None;
    }
    match total {
        Some(total) if arrived < total => {
            let rest = total - arrived;
            Some(format!(
                "output after byte {arrived} of {stream} is missing: {rest} of {total} bytes have not arrived"
            ))
        }
        Some(_) => None,
        None => Some(format!(
            "output after byte {arrived} of {stream} is missing, if there was any: its node no longer has it"
        )),
    }
}

fn have_of(task: TaskId, attempt: Attempt, stream: Stream, have: u64) -> OutputHave {
    OutputHave { task_id: task.to_string(), attempt: attempt.0, stream: stream.word().to_owned(), have }
}

/// No file is as long, in bytes. Near the end of its type the kernel refuses to look there, in the middle of an answer.
const FARTHEST: u64 = 1 << 62;

fn offset(head: &Head) -> Result<Option<u64>, ActFault> {
    match number(head, "offset")? {
        Some(offset) if offset >= FARTHEST => {
            Err(ActFault::new(422, format!("field 'offset': expected a number of bytes below {FARTHEST}")))
        }
        offset => Ok(offset),
    }
}

fn number(head: &Head, name: &str) -> Result<Option<u64>, ActFault> {
    let parsed = head.query(name).map(str::parse::<u64>).transpose();
    parsed.map_err(|_| ActFault::new(422, format!("field '{name}': expected a number that is not negative")))
}
