//! Holds a run against the published numbers: half of each advantage has to be there, whatever the machine.

use std::path::Path;

use super::{NUMBERS, publish, report::Report};

/// Part of a published advantage below which something has been lost: other machines and busy ones differ by less.
const PART: f64 = 0.5;

/// Says how each row does, and whether all do.
pub(super) fn holds(root: &Path, report: &Report) -> bool {
    let published = Report::read(&root.join(NUMBERS));
    let (mut passed, mut failed) = (0, 0);
    let mut judge = |good: bool, text: String| {
        *(if good { &mut passed } else { &mut failed }) += 1;
        println!("{} {text}", if good { "ok    " } else { "FAILED:" });
    };
    let outdated = publish::outdated(root, &published);
    judge(
        outdated.is_none(),
        format!(
            "the tables are those of {NUMBERS}{}",
            outdated.map_or_else(String::new, |file| format!(": not in {file}"))
        ),
    );
    for row in &report.rows {
        let Some(found) = row.advantage() else { continue };
        let same = published.rows.iter().find(|known| known.part == row.part && known.what == row.what);
        let Some(known) = same.and_then(|known| known.advantage()) else { continue };
        judge(found >= known * PART, format!("{}: {found:.1} times better, published {known:.1}", row.what));
    }
    println!("{passed} passed, {failed} failed");
    failed == 0 && passed > 1
}
