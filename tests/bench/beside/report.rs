//! What was found: rows of numbers, and under which conditions; as Markdown for people and JSON for programs.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    containerd,
    options::{Options, PULLS, Part},
};

/// All that a run has found, or several have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// Under which each part was measured.
    pub(super) conditions: BTreeMap<Part, Conditions>,
    pub(super) rows: Vec<Row>,
}

/// What the numbers depend on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Conditions {
    pub(super) date: String,
    pub(super) kernel: String,
    pub(super) cores: usize,
    pub(super) cgroup: String,
    pub(super) peer: String,
    pub(super) rounds: usize,
    pub(super) pause_ms: u64,
    /// Of each image by each engine.
    pub(super) pulls: usize,
    /// Load average of one minute before it began: what others did to the machine.
    pub(super) load_before: String,
}

/// One measured thing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) part: Part,
    pub(super) what: String,
    pub(super) unit: Unit,
    pub(super) coracle: Spread,
    /// `None` where only Coracle was asked.
    pub(super) containerd: Option<Spread>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    Ms,
    Kib,
    /// Of one core.
    Percent,
    PerSecond,
    GbitPerSecond,
}

/// Median, and what nine of ten are no worse than.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    /// The ninetieth percentile of what costs, the tenth of a rate.
    pub(super) p90: f64,
}

impl Spread {
    /// Of costs: the less the better.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        Spread::at(values, 0.9)
    }

    /// Of rates: the more the better.
    pub(super) fn of_rates(values: impl IntoIterator<Item = f64>) -> Spread {
        Spread::at(values, 0.1)
    }

    fn at(values: impl IntoIterator<Item = f64>, bad: f64) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread { median: at(0.5), p90: at(bad) }
    }

    /// In milliseconds.
    pub(super) fn of_times(times: impl IntoIterator<Item = Duration>) -> Spread {
        Spread::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3))
    }
}

impl Row {
    /// How many times better Coracle is, by the medians.
    pub(super) fn advantage(&self) -> Option<f64> {
        let theirs = self.containerd?.median;
        Some(match self.unit {
            Unit::PerSecond | Unit::GbitPerSecond => self.coracle.median / theirs,
            // What is too little to be seen counts as the least that can be.
            Unit::Ms | Unit::Kib | Unit::Percent => theirs / self.coracle.median.max(0.001),
        })
    }

    fn ratio(&self) -> String {
        let Some(advantage) = self.advantage() else { return "–".to_owned() };
        let number = if advantage < 10.0 { format!("{advantage:.1}") } else { format!("{advantage:.0}") };
        if matches!(self.unit, Unit::PerSecond | Unit::GbitPerSecond) {
            format!("{number} ×")
        } else {
            format!("1/{number}")
        }
    }
}

impl Unit {
    pub(super) fn cell(self, value: f64) -> String {
        match self {
            Unit::Ms if value >= 100.0 => format!("{value:.0} ms"),
            Unit::Ms => format!("{value:.1} ms"),
            Unit::Kib if value >= 1000.0 => format!("{:.1} MiB", value / 1024.0),
            Unit::Kib => format!("{value:.0} KiB"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::PerSecond => format!("{value:.1}/s"),
            Unit::GbitPerSecond => format!("{value:.1} Gbit/s"),
        }
    }
}

impl Conditions {
    pub(super) fn now(options: &Options) -> Conditions {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let date = std::process::Command::new("date").args(["-u", "+%-d %B %Y"]).output().unwrap().stdout;
        let v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap();
        Conditions {
            date: String::from_utf8_lossy(&date).trim().to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cores: std::thread::available_parallelism().unwrap().get(),
            cgroup: if v2 { "v2" } else { "v1" }.to_owned(),
            peer: containerd::version(&options.peers),
            rounds: options.rounds,
            pause_ms: options.pause_ms,
            pulls: PULLS,
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl Report {
    /// What [`Report::json`] made.
    pub(super) fn read(path: &Path) -> Report {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Adds what was measured under these conditions.
    pub(super) fn add(&mut self, conditions: &Conditions, rows: Vec<Row>) {
        for row in &rows {
            self.conditions.entry(row.part).or_insert_with(|| conditions.clone());
        }
        self.rows.extend(rows);
    }

    /// The same with the parts of a later run in place of its own.
    pub(super) fn with(mut self, later: Report) -> Report {
        self.rows.retain(|row| !later.conditions.contains_key(&row.part));
        self.rows.extend(later.rows);
        self.rows.sort_by_key(|row| row.part);
        self.conditions.extend(later.conditions);
        self
    }

    /// All parts, each under its name.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        for part in [Part::Alone, Part::Calls, Part::Memory, Part::Pace, Part::Crowd, Part::Network, Part::Pull] {
            if self.rows.iter().any(|row| row.part == part) {
                text += &format!("\n### {part}\n\n{}\n{}", self.conditions_line(part), self.table(part));
            }
        }
        text
    }

    /// Under which conditions a part was measured, in one line.
    pub(super) fn conditions_line(&self, part: Part) -> String {
        let of = &self.conditions[&part];
        let how = match part {
            Part::Pull => format!("{} pulls of each image", of.pulls),
            _ => format!("{} rounds, {} ms between calls", of.rounds, of.pause_ms),
        };
        format!(
            "{}; {how}; {} cores, Linux {}, cgroup {}, load {} before; {}\n",
            of.peer, of.cores, of.kernel, of.cgroup, of.load_before, of.date
        )
    }

    /// A table of a part; without containerd's columns where none of the rows has any.
    pub(super) fn table(&self, part: Part) -> String {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.part == part).collect();
        if rows.iter().all(|row| row.containerd.is_none()) {
            let mut text = "| | median | p90 |\n|---|---|---|\n".to_owned();
            for row in rows {
                let cell = |value| row.unit.cell(value);
                text += &format!("| {} | {} | {} |\n", row.what, cell(row.coracle.median), cell(row.coracle.p90));
            }
            return text;
        }
        let mut text = "| | Coracle | p90 | containerd | p90 | ratio |\n|---|---|---|---|---|---|\n".to_owned();
        for row in rows {
            let cell = |value| row.unit.cell(value);
            let [theirs, their_p90] = match row.containerd {
                Some(theirs) => [cell(theirs.median), cell(theirs.p90)],
                None => ["–".to_owned(), "–".to_owned()],
            };
            text += &format!(
                "| {} | {} | {} | {theirs} | {their_p90} | {} |\n",
                row.what,
                cell(row.coracle.median),
                cell(row.coracle.p90),
                row.ratio()
            );
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap() + "\n"
    }
}
