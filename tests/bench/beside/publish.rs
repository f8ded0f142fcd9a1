//! Puts a run's numbers where people read them: `numbers.json` beside this program, and the tables that are made from
//! it in README.md and ARCHITECTURE.md, between two comments each.

use std::{fs, path::Path};

use super::{options::Part, report::Report};

/// The numbers that README and ARCHITECTURE show.
pub(super) const NUMBERS: &str = "tests/bench/numbers.json";

/// A table in a document: the file, and the part, whose name is in its comments.
const TABLES: [(&str, Part); 7] = [
    ("README.md", Part::Calls),
    ("README.md", Part::Memory),
    ("README.md", Part::Pace),
    ("README.md", Part::Network),
    ("README.md", Part::Pull),
    ("ARCHITECTURE.md", Part::Alone),
    ("ARCHITECTURE.md", Part::Crowd),
];

/// Makes this run's numbers the published ones; parts that it has not measured keep theirs.
pub(super) fn all(root: &Path, report: Report) {
    let report = Report::read(&root.join(NUMBERS)).with(report);
    fs::write(root.join(NUMBERS), report.json()).unwrap();
    for (file, part) in TABLES {
        let path = root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, with_table(&text, part, &table(&report, part)).unwrap()).unwrap();
    }
}

/// The first document whose table is not made from these numbers.
pub(super) fn outdated(root: &Path, report: &Report) -> Option<&'static str> {
    let is_old = |(file, part): &(&str, Part)| {
        let text = fs::read_to_string(root.join(file)).unwrap();
        with_table(&text, *part, &table(report, *part)).as_deref() != Some(text.as_str())
    };
    TABLES.into_iter().find(is_old).map(|(file, _)| file)
}

fn table(report: &Report, part: Part) -> String {
    format!("{}\n{}", report.conditions_line(part), report.table(part))
}

/// The document with another table in the place of that part; `None` where it has no such place.
fn with_table(text: &str, part: Part, table: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- numbers: {part} -->\n"), "<!-- end of numbers -->");
    let (before, rest) = text.split_once(&begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}{table}{end}{after}"))
}
