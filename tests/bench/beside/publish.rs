//! Puts a run's numbers where people read them: `numbers.json` beside this program, and the tables that are made from
//! it in README.md and ARCHITECTURE.md, between two comments each.

use std::{fs, path::Path};

use super::{options::Part, report::Report};

/// The numbers that README and ARCHITECTURE show.
pub(super) const NUMBERS: &str = "tests/bench/numbers.json";

/// A table in a document: the file, the name in its comments, the parts that are in it.
const TABLES: [(&str, &str, &[Part]); 6] = [
    ("README.md", "calls", &[Part::Calls]),
    ("README.md", "memory", &[Part::Memory]),
    ("README.md", "pace", &[Part::Pace]),
    ("README.md", "pull", &[Part::Pull]),
    ("ARCHITECTURE.md", "alone", &[Part::Alone]),
    ("ARCHITECTURE.md", "crowd", &[Part::Crowd]),
];

/// Makes this run's numbers the published ones.
pub(super) fn all(root: &Path, report: &Report) {
    fs::write(root.join(NUMBERS), report.json()).unwrap();
    for (file, name, parts) in TABLES {
        let path = root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, with_table(&text, name, &table(report, parts)).unwrap()).unwrap();
    }
}

/// The first document whose table is not made from these numbers.
pub(super) fn outdated(root: &Path, report: &Report) -> Option<&'static str> {
    let is_old = |(file, name, parts): &(&str, &str, &[Part])| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        with_table(&text, name, &table(report, parts)).as_deref() != Some(text.as_str())
    };
    TABLES.into_iter().find(is_old).map(|(file, ..)| file)
}

fn table(report: &Report, parts: &[Part]) -> String {
    format!("{}\n{}", report.conditions_line(parts), report.table(parts))
}

/// The document with another table in the place of that name; `None` where it has no such place.
fn with_table(text: &str, name: &str, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- numbers: {name} -->\n"), "<!-- end of numbers -->");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}
