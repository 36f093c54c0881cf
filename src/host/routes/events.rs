//! `GET /events?since=SEQ[&task=ID][&batch=ID]`: server-sent events, one for each transition of a task and change of a
//! node.
//!
//! Who keeps up gets them from memory; who reconnects with the number of its last one, or is slow, from the database: so
//! nothing is missed, and nobody holds anything in memory here.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::api::json;
use crate::domain::ids::TaskId;
use crate::net::http::{Head, Reply};
use crate::store::{EventFilter, EventRow, Readers};

use super::super::engine::ActFault;
use super::super::render;
use super::super::signal::Woken;
use super::super::view::View;
use super::{Api, unreadable};

/// How many are looked up and sent at once: a client that does not read holds so many, and there may be a thousand of them.
const CHUNK: u32 = 200;
/// After this much silence a comment is sent: so both sides see a connection that is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

impl Api {
    pub(super) fn events(&self, head: &Head) -> Result<Reply, ActFault> {
        let bad = |field: &str| ActFault::new(400, format!("{field}: expected a number"));
        let id = |field: &str| match head.query(field) {
            None => Ok(None),
            Some(id) => id.parse::<TaskId>().map(Some).map_err(|_| bad(field)),
        };
        let filter = EventFilter { task: id("task")?, batch: id("batch")? };
        let (oldest, last) = self.readers.event_bounds().map_err(unreadable)?;
        // A browser's EventSource sends the last number by itself when it reconnects.
        let since = match head.query("since").or_else(|| head.header("last-event-id")) {
            None => last,
            Some(number) => number.parse::<u64>().map_err(|_| bad("since"))?,
        };
        if since.saturating_add(1) < oldest {
            return Err(ActFault::new(410, format!("events after {since} are gone: the oldest is {oldest}")));
        }
        if since > last {
            let why = format!("event {since} was never here: the newest is {last} (was the database restored?)");
            return Err(ActFault::new(410, why));
        }
        // Those after it are others than the client means, where the database was restored from a backup that knows none of them.
        let is_edge = since == last || since + 1 == oldest;
        if !is_edge && !self.readers.has_event(since).map_err(unreadable)? {
            let why =
                format!("event {since} is not here: the database was restored, and goes on with {last} and later ones");
            return Err(ActFault::new(410, why));
        }
        let (view, readers) = (self.engine.view.clone(), self.readers.clone());
        Ok(Reply::Stream {
            status: 200,
            content_type: "text/event-stream",
            headers: Vec::new(),
            write: Box::new(move |out| stream(out, &view, &readers, since, &filter)),
        })
    }
}

fn stream(
    out: &mut dyn Write,
    view: &Arc<View>,
    readers: &Readers,
    mut since: u64,
    filter: &EventFilter,
) -> io::Result<()> {
    // Something at once, so that the client knows that it is heard.
    out.write_all(b": events\n\n")?;
    loop {
        // Read before the rows: what is stored in between is then seen as a change.
        let seen = view.events.number();
        if seen > since {
            let (rows, last) = match view.recent.after(since, filter, CHUNK as usize) {
                Some(found) => found,
                None => {
                    readers.events_after(since, CHUNK, filter).map_err(|fault| io::Error::other(fault.to_string()))?
                }
            };
            let mut text = String::new();
            rows.iter().for_each(|row| push(&mut text, row));
            drop(rows);
            if !text.is_empty() {
                out.write_all(text.as_bytes())?;
            }
            if last > since {
                since = last;
                continue;
            }
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
