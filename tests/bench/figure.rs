//! A measured value, its reference, and the goal for them.

use std::time::{Duration, Instant};

use nanoserde::SerJson;

/// One line of the table.
#[derive(SerJson)]
#[nserde(serialize_none_as_null)]
pub struct Figure {
    pub name: String,
    pub unit: String,
    /// The median.
    pub value: f64,
    /// Fastest and slowest run.
    pub lowest: f64,
    pub highest: f64,
    pub runs: usize,
    /// What it is compared with, its median in the same run, and value / reference.
    pub reference: Option<String>,
    pub reference_value: Option<f64>,
    pub ratio: Option<f64>,
    /// In words, and whether it is met.
    pub goal: Option<String>,
    pub met: Option<bool>,
}

impl Figure {
    pub fn new(name: &str, unit: &str, runs: &[f64]) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            value: median(runs),
            lowest: runs.iter().copied().fold(f64::INFINITY, f64::min),
            highest: runs.iter().copied().fold(0.0, f64::max),
            runs: runs.len(),
            reference: None,
            reference_value: None,
            ratio: None,
            goal: None,
            met: None,
        }
    }

    pub fn against(mut self, reference: &str, runs: &[f64]) -> Self {
        let value = median(runs);
        self.reference = Some(reference.to_owned());
        self.reference_value = Some(value);
        self.ratio = Some(self.value / value);
        self
    }

    pub fn at_most(self, goal: f64) -> Self {
        let met = self.value <= goal;
        let text = format!("≤ {goal} {}", self.unit);
        self.goal(text, met)
    }

    pub fn at_least(self, goal: f64) -> Self {
        let met = self.value >= goal;
        let text = format!("≥ {goal} {}", self.unit);
        self.goal(text, met)
    }

    pub fn ratio_at_most(self, goal: f64) -> Self {
        let met = self.ratio.is_some_and(|ratio| ratio <= goal);
        self.goal(format!("≤ {goal} ×"), met)
    }

    pub fn ratio_at_least(self, goal: f64) -> Self {
        let met = self.ratio.is_some_and(|ratio| ratio >= goal);
        self.goal(format!("≥ {goal} ×"), met)
    }

    fn goal(mut self, text: String, met: bool) -> Self {
        self.goal = Some(text);
        self.met = Some(met);
        self
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Seconds that it took.
pub fn seconds(act: impl FnOnce()) -> f64 {
    let start = Instant::now();
    act();
    start.elapsed().as_secs_f64()
}

/// Looks every millisecond, with a deadline: finer than the tests' waiting, because the interval is part of the figure.
#[track_caller]
pub fn closely<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All figures as text.
pub fn table(figures: &[Figure]) -> String {
    let number = |value: f64| match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    };
    let mut rows = vec![["figure", "median", "lowest – highest", "reference", "ratio", "goal"].map(str::to_owned)];
    for figure in figures {
        let reference = match (&figure.reference, figure.reference_value) {
            (Some(name), Some(value)) => format!("{} ({name})", number(value)),
            _ => String::new(),
        };
        let goal = match (&figure.goal, figure.met) {
            (Some(goal), Some(true)) => format!("{goal}: met"),
            (Some(goal), _) => format!("{goal}: MISSED"),
            _ => String::new(),
        };
        rows.push([
            figure.name.clone(),
            format!("{} {}", number(figure.value), figure.unit),
            format!("{} – {}", number(figure.lowest), number(figure.highest)),
            reference,
            figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} ×")),
            goal,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}
