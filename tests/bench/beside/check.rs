//! Holds a run against the published numbers, of which half of each advantage has to be there whatever the machine, and
//! against the budgets.

use std::path::Path;

use super::{
    budget::{self, BUDGETS},
    publish::{self, NUMBERS},
    report::{Report, Row},
};

/// Part of a published advantage below which something has been lost: other machines and busy ones differ by less.
const PART: f64 = 0.5;

/// Whether something is as it has to be, and what.
pub(super) type Verdict = (bool, String);

/// Says how each row does, and whether all do.
pub(super) fn holds(root: &Path, report: &Report, against: &Path) -> bool {
    let outdated = publish::outdated(root, &Report::read(&root.join(NUMBERS)));
    let published = Report::read(&root.join(against));
    let where_not = outdated.map_or_else(String::new, |file| format!(": not in {file}"));
    let mut verdicts = vec![(outdated.is_none(), format!("the tables are those of {NUMBERS}{where_not}"))];
    verdicts.extend(compared(report, &published));
    // Budgets are of optimized programs.
    if against == Path::new(NUMBERS) {
        verdicts.extend(budget::kept(report, &BUDGETS));
    }
    for (good, text) in &verdicts {
        println!("{} {text}", if *good { "ok    " } else { "FAILED:" });
    }
    let failed = verdicts.iter().filter(|(good, _)| !good).count();
    println!("{} passed, {failed} failed", verdicts.len() - failed);
    failed == 0
}

/// Every row of a run beside the published one, and every published one that the run's parts lack. A row without its
/// partner fails: else whoever renames one would be compared with nothing.
pub(super) fn compared(report: &Report, published: &Report) -> Vec<Verdict> {
    let partner = |row: &Row, of: &Report| of.rows.iter().position(|one| one.part == row.part && one.what == row.what);
    let mut verdicts = Vec::new();
    for row in &report.rows {
        let known = partner(row, published).map(|at| &published.rows[at]);
        verdicts.extend(match (row.advantage(), known.map(Row::advantage)) {
            (_, None) => Some((false, format!("{}: it is not among the published", row.what))),
            // Only Coracle was asked, as when it was published.
            (None, Some(None)) => None,
            (Some(found), Some(Some(known))) => {
                Some((found >= known * PART, format!("{}: {found:.1} times better, published {known:.1}", row.what)))
            }
            (found, Some(_)) => {
                let which = if found.is_some() { "this run" } else { "the published" };
                Some((false, format!("{}: only {which} has a containerd beside it", row.what)))
            }
        });
    }
    let measured = |row: &&Row| report.rows.iter().any(|one| one.part == row.part);
    let lost = published.rows.iter().filter(measured).filter(|row| partner(row, report).is_none());
    verdicts.extend(lost.map(|row| (false, format!("{}: it was published, and this run lacks it", row.what))));
    let is_compared = report.rows.iter().any(|row| row.advantage().is_some());
    if !is_compared {
        verdicts.push((false, "nothing was compared: the run has no row of both".to_owned()));
    }
    verdicts
}
