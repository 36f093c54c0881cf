//! What was done, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use hakuriver::api::public::TaskRecord;

use crate::faults::{FAULTS, World};
use crate::harm::{Deed, Kind, Life, Span};
use crate::load::Made;
use crate::tasks::{millis, now_millis, seen};

/// From the end of a task's process until its result is written down on its node, on a loaded machine, in milliseconds: where there is no
/// container, and where Docker has to tell it first.
const WRITTEN: i64 = 3_000;
const TOLD: i64 = 6_000;

#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<&'static str, Counts>,
    pub wrong: BTreeSet<String>,
    /// What is going on.
    pub now: &'static str,
    pub rests: usize,
    ended: BTreeMap<String, usize>,
    looks: usize,
    /// Tasks that have ended by themselves or by a fault, and those of them whose result a fault explains to be lost.
    results: (usize, usize),
    /// The same for what was written by those that have their result.
    outputs: (usize, usize),
    /// Tasks for which no fault could have explained anything.
    strict: usize,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    tried: usize,
    injected: usize,
    wrong: usize,
}

impl Tally {
    pub fn new() -> Self {
        Self { now: "the start", ..Self::default() }
    }

    pub fn begin(&mut self, name: &'static str) {
        self.now = name;
        self.counts.entry(name).or_default().tried += 1;
    }

    pub fn count(&mut self, deed: &Deed) {
        if matches!(deed, Deed::Done(_)) {
            self.counts.entry(self.now).or_default().injected += 1;
        }
    }

    /// Lines that were not there before, with what was done last.
    pub fn add(&mut self, found: Vec<String>) {
        let new: Vec<String> = found.into_iter().filter(|line| self.wrong.insert(line.clone())).collect();
        self.looks += 1;
        self.counts.entry(self.now).or_default().wrong += new.len();
        for line in new {
            eprintln!("torture: WRONG after '{}': {line}", self.now);
        }
    }

    /// Every fault has been done at least once.
    pub fn is_whole(&self) -> Vec<String> {
        let done = |name: &str| self.counts.get(name).is_some_and(|counts| counts.injected > 0);
        FAULTS
            .iter()
            .filter(|fault| !done(fault.name))
            .map(|fault| format!("'{}' was never done", fault.name))
            .collect()
    }

    pub fn print(&self, world: &World) {
        println!("{:46} {:>6} {:>9} {:>11}", "fault", "tried", "injected", "violations");
        let line = |name: &str, counts: Counts| {
            println!("{name:46} {:>6} {:>9} {:>11}", counts.tried, counts.injected, counts.wrong);
        };
        let of = |name: &str| self.counts.get(name).copied().unwrap_or_default();
        FAULTS.iter().for_each(|fault| line(fault.name, of(fault.name)));
        self.counts
            .iter()
            .filter(|(name, _)| FAULTS.iter().all(|fault| fault.name != **name))
            .for_each(|(name, counts)| line(name, *counts));
        let all = self.counts.values().fold(Counts::default(), |sum, one| Counts {
            tried: sum.tried + one.tried,
            injected: sum.injected + one.injected,
            wrong: sum.wrong + one.wrong,
        });
        line("all", all);
        let load = &world.load.shared;
        println!(
            "{} tasks submitted, {} killed, {} calls repeated; {} looks at what must hold, {} times everything came to rest",
            load.submitted.load(Ordering::Relaxed),
            load.kills.load(Ordering::Relaxed),
            load.repeated.load(Ordering::Relaxed),
            self.looks,
            self.rests
        );
        println!("dockerd has locked itself up {} times, and was killed for it", world.locked_up);
        let ended: Vec<String> = self.ended.iter().map(|(state, count)| format!("{count} {state}")).collect();
        println!("ended: {}", ended.join(", "));
        println!(
            "lost: {} results of {}, {} outputs of {}, each explained by a fault; {} tasks without any excuse were checked strictly",
            self.results.1, self.results.0, self.outputs.1, self.outputs.0, self.strict
        );
    }
}

impl World {
    /// What became of each task of this round.
    pub fn results(&mut self, tally: &mut Tally) -> Vec<String> {
        let mut found = Vec::new();
        for (id, made) in std::mem::take(&mut *self.load.shared.open.lock().unwrap()) {
            let record = self.cluster.status(&id);
            *tally.ended.entry(record.status.clone()).or_default() += 1;
            found.extend(self.result(&id, &made, &record, tally));
        }
        self.spans.clear();
        self.load.shared.doomed.lock().unwrap().clear();
        found
    }

    fn result(&self, id: &str, made: &Made, record: &TaskRecord, tally: &mut Tally) -> Option<String> {
        let life = self.life(id, made, record);
        let starts = self.load.shared.starts(made);
        let wrong = |what: &str| {
            let spans: Vec<String> = self.spans.iter().map(Span::text).collect();
            let seen = seen(record);
            Some(format!(
                "{what}: number {}, {starts} starts, {life:?}: {seen}; faults: {}",
                made.number,
                spans.join("; ")
            ))
        };
        let says = |text: &str| record.error_message.as_ref().is_some_and(|why| why.contains(text));
        let could_not = starts == 0 && says("could not run it");
        let explains = |is_told: bool| {
            let result = self.spans.iter().any(|span| span.explains_result(&life, could_not));
            (result, self.spans.iter().any(|span| span.explains_output(&life, is_told)))
        };
        if explains(true) == (false, false) {
            tally.strict += 1;
        }
        if record.status == "killed" {
            let is_asked = self.load.shared.doomed.lock().unwrap().contains(id);
            return if is_asked { None } else { wrong("it is killed, and nobody asked for that") };
        }
        tally.results.0 += 1;
        let (result, output) = explains(record.output_note.is_some());
        if !made.is_result(record) {
            if record.status != "failed" || !result {
                return wrong("no fault explains this end");
            }
            tally.results.1 += 1;
            return None;
        }
        if starts != 1 {
            return wrong("it has ended, and did not begin once");
        }
        tally.outputs.0 += 1;
        let text = self.cluster.stdout(id);
        if text != made.output() {
            if !output {
                return wrong(&format!("its output is not whole ({text:?}; {:?})", record.output_note));
            }
            tally.outputs.1 += 1;
        }
        None
    }

    fn life<'a>(&self, id: &'a str, made: &Made, record: &'a TaskRecord) -> Life<'a> {
        let written = if made.kind == Kind::Null { WRITTEN } else { TOLD };
        let ended = self.load.shared.over(made).map(|time| time + written);
        let told = record.completed_at.as_deref().map(millis);
        let now = now_millis();
        Life {
            id,
            kind: made.kind,
            node: record.assigned_node.as_deref(),
            begun: made.begun,
            ran: record.started_at.as_deref().map(millis),
            over: ended.into_iter().chain(told).min().unwrap_or(now),
            shipped: made.whole.unwrap_or(now),
        }
    }
}
