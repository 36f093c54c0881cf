//! The last minute of the nodes, one sample a second.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::public::HealthHistory;
use crate::sys::clock;
use crate::sys::shutdown::Stop;

use super::render;
use super::view::{NodeEntry, View};

const SAMPLES: usize = 60;

/// Samples share what did not change between them, so a minute of a thousand nodes is small.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: Mutex<VecDeque<Sample>>,
}

#[derive(Debug)]
struct Sample {
    at_ms: u64,
    nodes: Vec<Arc<NodeEntry>>,
}

impl History {
    /// Takes a sample a second until `stop`.
    pub(super) fn record(&self, view: &View, stop: &Stop) {
        loop {
            self.sample(view.nodes(), clock::unix_ms());
            if stop.wait(Duration::from_secs(1)) {
                return;
            }
        }
    }

    /// Oldest first.
    pub(super) fn show(&self) -> HealthHistory {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        HealthHistory {
            nodes: samples
                .iter()
                .map(|sample| sample.nodes.iter().map(|node| render::health_row(node)).collect())
                .collect(),
            aggregate: samples.iter().map(|sample| render::health_aggregate(&sample.nodes, sample.at_ms)).collect(),
        }
    }

    fn sample(&self, nodes: Vec<Arc<NodeEntry>>, at_ms: u64) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample { at_ms, nodes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_kept_oldest_first() {
        let history = History::default();
        for second in 0..70 {
            history.sample(Vec::new(), second * 1_000);
        }
        let shown = history.show();
        assert_eq!((shown.nodes.len(), shown.aggregate.len()), (60, 60));
        assert_eq!(shown.aggregate[0].lastUpdated, clock::rfc3339(10_000));
        assert_eq!(shown.aggregate[0].avgCpuPercent, None, "no nodes, no figure");
    }
}
