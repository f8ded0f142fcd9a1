//! What the command line may say.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// Pulls of each image by each engine.
pub(super) const PULLS: usize = 5;

/// Coracle beside containerd, call by call.
#[derive(Debug, Parser)]
#[command(name = "beside-containerd")]
pub(super) struct Options {
    /// What to measure; all but `pull`, if nothing is said.
    #[arg(long, value_name = "PART", value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    parts: Vec<Part>,
    /// Pods whose lives are measured on each engine, after a few that are not counted.
    #[arg(long, default_value_t = 40)]
    pub(super) rounds: usize,
    /// Rest between two calls, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pub(super) pause_ms: u64,
    /// Directory of another containerd, as tests/bench/peers describes it.
    #[arg(long, value_name = "DIR", overrides_with = "peers")]
    pub(super) peers: PathBuf,
    /// Writes the results there, too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Takes the results of an earlier run from there, and measures nothing.
    #[arg(long, value_name = "FILE")]
    pub(super) from: Option<PathBuf>,
    /// Makes them the numbers of README.md and ARCHITECTURE.md; parts that were not measured keep theirs.
    #[arg(long)]
    pub(super) publish: bool,
    /// Fails where our advantage is under half of what was published (see --against).
    #[arg(long)]
    pub(super) check: bool,
    /// What --check holds the run against, if not what the README says: the results of another run, from the
    /// repository's root. Programs that were not optimized are held against `tests/bench/unoptimized.json`.
    #[arg(long, value_name = "FILE", default_value = super::publish::NUMBERS)]
    pub(super) against: PathBuf,
    /// Said by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// See the head of `main.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    Alone,
    Calls,
    Memory,
    Pace,
    Crowd,
    Network,
    Pull,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().expect("no part is skipped").get_name())
    }
}

impl Options {
    pub(super) fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether one of each engine has to stand beside the other the whole time.
    pub(super) fn compares(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Alone | Part::Network | Part::Pull))
    }

    /// The rest between two calls is part of the method: on a node calls do not follow one another at once, and in a
    /// tight loop the kernel's RCU waits are shared between rounds and hide.
    pub(super) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}
