//! `GET /events?since=SEQ[&task=ID]`: server-sent events, one for each transition of a task and change of a node.
//!
//! They come from the database, so a client that reconnects with the number of its last one misses nothing, and a slow
//! one holds nothing in memory here.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::api::json;
use crate::domain::ids::TaskId;
use crate::net::http::{Head, Reply};
use crate::store::{EventRow, Readers};

use super::super::engine::ActFault;
use super::super::render;
use super::super::signal::Woken;
use super::super::view::View;
use super::{Api, unreadable};

/// How many are read at once.
const CHUNK: u32 = 500;
/// After this much silence a comment is sent: so both sides see a connection that is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Api {
    pub(super) fn events(&self, head: &Head) -> Result<Reply, ActFault> {
        let bad = |field: &str| ActFault::new(400, format!("{field}: expected a number"));
        let task = match head.query("task") {
            None => None,
            Some(id) => Some(id.parse::<TaskId>().map_err(|_| bad("task"))?),
        };
        let (oldest, last) = self.readers.event_bounds().map_err(unreadable)?;
        // A browser's EventSource sends the last number by itself when it reconnects.
        let since = match head.query("since").or_else(|| head.header("last-event-id")) {
            None => last,
            Some(number) => number.parse::<u64>().map_err(|_| bad("since"))?,
        };
        if since + 1 < oldest {
            return Err(ActFault::new(410, format!("events after {since} are gone: the oldest is {oldest}")));
        }
        if since > last {
            let why = format!("event {since} was never here: the newest is {last} (was the database restored?)");
            return Err(ActFault::new(410, why));
        }
        let (view, readers) = (self.engine.view.clone(), self.readers.clone());
        Ok(Reply::Stream {
            status: 200,
            content_type: "text/event-stream",
            headers: Vec::new(),
            write: Box::new(move |out| stream(out, &view, &readers, since, task)),
        })
    }
}

fn stream(
    out: &mut dyn Write,
    view: &Arc<View>,
    readers: &Readers,
    mut since: u64,
    task: Option<TaskId>,
) -> io::Result<()> {
    // Something at once, so that the client knows that it is heard.
    out.write_all(b": events\n\n")?;
    loop {
        // Read before the rows: what is stored in between is then seen as a change.
        let seen = view.events.number();
        let rows = readers.events_after(since, CHUNK).map_err(|fault| io::Error::other(fault.to_string()))?;
        if let Some(last) = rows.last() {
            since = last.seq;
            let mut text = String::new();
            rows.iter().filter(|row| task.is_none() || row.task == task).for_each(|row| push(&mut text, row));
            if !text.is_empty() {
                out.write_all(text.as_bytes())?;
            }
            continue;
        }
        match view.events.wait(seen, KEEP_ALIVE) {
            Woken::Changed => {}
            Woken::TimedOut => {
                out.write_all(b": still here\n\n")?;
            }
            Woken::Closed => return Ok(()),
        }
    }
}

fn push(text: &mut String, row: &EventRow) {
    let kind = if row.task.is_some() { "task" } else { "node" };
    // JSON has no line break outside of strings, and none unescaped in them.
    *text += &format!("id: {}\nevent: {kind}\ndata: {}\n\n", row.seq, json::encode(&render::event(row)));
}
