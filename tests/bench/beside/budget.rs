//! The budgets of DESIGN: what a call may cost beside containerd, and what a node with many pods may cost at all.

use super::{
    check::Verdict,
    options::Part,
    report::{Report, Row},
};

/// What one row of a run may be.
pub(super) struct Budget {
    part: Part,
    what: &'static str,
    bound: Bound,
    /// `false` where it is known to be missed; ARCHITECTURE.md names the row and says why.
    is_met: bool,
}

enum Bound {
    /// At least so many times better than containerd in the same run.
    TimesBetter(f64),
    /// Of the row's unit.
    AtMost(f64),
    /// Of the row's unit.
    AtLeast(f64),
    /// At most so many times the row of this name. The design wants as much as of the first; two ends of a row of 500
    /// are minutes apart, and the machine is not the same all the while.
    TimesOf(f64, &'static str),
}

/// What an idle daemon may take, KiB.
const IDLE: f64 = 15.0 * 1024.0;

/// How much two ends of one row may differ.
const SAME: f64 = 1.25;

/// What is equal but for the noise of two pods on two cores.
const EQUAL: f64 = 0.9;

pub(super) const BUDGETS: [Budget; 37] = [
    met(Part::Calls, "RunPodSandbox", Bound::TimesBetter(15.0)),
    missed(Part::Calls, "CreateContainer + StartContainer", Bound::TimesBetter(10.0)),
    met(Part::Calls, "ExecSync", Bound::TimesBetter(12.0)),
    met(Part::Calls, "StopContainer", Bound::TimesBetter(15.0)),
    met(Part::Calls, "StopPodSandbox", Bound::TimesBetter(30.0)),
    met(Part::Calls, "RemovePodSandbox", Bound::TimesBetter(8.0)),
    met(Part::Memory, "beside each pod, after 1 MiB of log and 100 execs", Bound::AtMost(0.1 * 1024.0)),
    met(Part::Memory, "the daemon, with 30 pods", Bound::AtMost(15.0 * 1024.0)),
    missed(Part::Pace, "pod lives, 1 client", Bound::AtLeast(60.0)),
    met(Part::Pace, "pod lives, 8 clients", Bound::AtLeast(60.0)),
    met(Part::Crowd, "ListContainers, 1000 containers in 250 pods", Bound::AtMost(5.0)),
    met(Part::Crowd, "ListPodSandbox, 1000 containers in 250 pods", Bound::AtMost(5.0)),
    missed(
        Part::Crowd,
        "RunPodSandbox, of the last 30 of 500 pods",
        Bound::TimesOf(SAME, "RunPodSandbox, of the first 30 pods"),
    ),
    missed(
        Part::Crowd,
        "CreateContainer, of the last 30 of 500 pods",
        Bound::TimesOf(SAME, "CreateContainer, of the first 30 pods"),
    ),
    met(
        Part::Crowd,
        "StartContainer, of the last 30 of 500 pods",
        Bound::TimesOf(SAME, "StartContainer, of the first 30 pods"),
    ),
    met(Part::Network, "RunPodSandbox, one host port", Bound::TimesBetter(15.0)),
    met(Part::Network, "StopPodSandbox, one host port", Bound::TimesBetter(30.0)),
    met(Part::Network, "a host port, of RunPodSandbox", Bound::AtMost(0.3)),
    met(Part::Network, "a pod to another", Bound::TimesBetter(EQUAL)),
    met(Part::Network, "a pod to the host", Bound::TimesBetter(EQUAL)),
    missed(
        Part::Network,
        "RunPodSandbox, one host port, of the last 30 of 500 pods",
        Bound::TimesOf(SAME, "RunPodSandbox, one host port, of the first 30 pods"),
    ),
    met(Part::Network, "RunPodSandbox, one host port, plugins run by their binaries", Bound::TimesBetter(1.0)),
    met(Part::Network, "StopPodSandbox, one host port, plugins run by their binaries", Bound::TimesBetter(1.0)),
    met(Part::Pull, "five layers of 400 MB in all, gzip", Bound::TimesBetter(3.0)),
    missed(Part::Pull, "five layers of 400 MB in all, zstd", Bound::TimesBetter(3.0)),
    missed(Part::Pull, "sixty small layers, gzip", Bound::TimesBetter(3.0)),
    met(Part::Pull, "sixty small layers, zstd", Bound::TimesBetter(3.0)),
    met(Part::Pull, "five layers of 400 MB in all, gzip: the daemon's memory at most", Bound::AtMost(64.0 * 1024.0)),
    met(Part::Pull, "five layers of 400 MB in all, zstd: the daemon's memory at most", Bound::AtMost(64.0 * 1024.0)),
    met(Part::Pull, "sixty small layers, gzip: the daemon's memory at most", Bound::AtMost(64.0 * 1024.0)),
    met(Part::Pull, "sixty small layers, zstd: the daemon's memory at most", Bound::AtMost(64.0 * 1024.0)),
    met(Part::Pull, "five layers of 400 MB in all, gzip: the daemon's memory afterwards", Bound::AtMost(IDLE)),
    met(Part::Pull, "five layers of 400 MB in all, zstd: the daemon's memory afterwards", Bound::AtMost(IDLE)),
    met(Part::Pull, "sixty small layers, gzip: the daemon's memory afterwards", Bound::AtMost(IDLE)),
    met(Part::Pull, "sixty small layers, zstd: the daemon's memory afterwards", Bound::AtMost(IDLE)),
    met(Part::Pull, "ListImages, 1000 images", Bound::AtMost(5.0)),
    met(Part::Pull, "ImageFsInfo right after a start, 100000 files", Bound::AtMost(50.0)),
];

const fn met(part: Part, what: &'static str, bound: Bound) -> Budget {
    Budget { part, what, bound, is_met: true }
}

const fn missed(part: Part, what: &'static str, bound: Bound) -> Budget {
    Budget { part, what, bound, is_met: false }
}

/// How each budget of the parts that were measured is kept. One that is known to be missed fails nothing, unless its
/// row is not there.
pub(super) fn kept(report: &Report, budgets: &[Budget]) -> Vec<Verdict> {
    let measured = |budget: &&Budget| report.rows.iter().any(|row| row.part == budget.part);
    budgets.iter().filter(measured).map(|budget| budget.verdict(report)).collect()
}

impl Budget {
    fn verdict(&self, report: &Report) -> Verdict {
        let Budget { part, what, bound, is_met } = self;
        let row = |name: &str| report.rows.iter().find(|row| row.part == *part && row.what == name);
        let Some(found) = row(what) else { return (false, format!("{what}: it has a budget, and this run lacks it")) };
        let median = found.coracle.median;
        let (good, text) = match *bound {
            Bound::TimesBetter(times) => match found.advantage() {
                Some(advantage) => (advantage >= times, format!("{advantage:.1} times better, budget {times}")),
                None => return (false, format!("{what}: its budget is a ratio, and no containerd is beside it")),
            },
            Bound::AtMost(most) => (median <= most, format!("{}, budget {}", found.cell(median), found.cell(most))),
            Bound::AtLeast(least) => (median >= least, format!("{}, budget {}", found.cell(median), found.cell(least))),
            Bound::TimesOf(times, other) => {
                let Some(other) = row(other) else { return (false, format!("{what}: this run lacks {other}")) };
                let grown = median / other.coracle.median;
                (grown <= times, format!("{grown:.2} times that of the first, budget {times}"))
            }
        };
        let known = if good || self.missed().is_none() { "" } else { " (known: ARCHITECTURE.md says why)" };
        (good || !is_met, format!("{what}: {text}{known}"))
    }

    /// The row that a known miss is of.
    pub(super) fn missed(&self) -> Option<&'static str> {
        if self.is_met { None } else { Some(self.what) }
    }
}

impl Row {
    fn cell(&self, value: f64) -> String {
        self.unit.cell(value)
    }
}
