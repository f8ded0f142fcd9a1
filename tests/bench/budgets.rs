//! How a run is held against the budgets.

use std::{fs, path::Path};

use crate::{
    budget::{BUDGETS, kept},
    options::Part,
    publish::NUMBERS,
    report::{Report, Row, Spread, Unit},
};

fn row(part: Part, what: &str, unit: Unit, coracle: f64, containerd: Option<f64>) -> Row {
    let spread = |median| Spread { median, p90: median };
    Row { part, what: what.to_owned(), unit, coracle: spread(coracle), containerd: containerd.map(spread) }
}

/// Which budgets this run breaks.
fn broken(rows: Vec<Row>) -> Vec<String> {
    let verdicts = kept(&Report { rows, ..Report::default() }, &BUDGETS);
    verdicts.into_iter().filter(|(good, _)| !good).map(|(_, text)| text).collect()
}

fn memory(pod: f64, daemon: f64) -> Vec<Row> {
    vec![
        row(Part::Memory, "beside each pod, after 1 MiB of log and 100 execs", Unit::Kib, pod, None),
        row(Part::Memory, "the daemon, with 30 pods", Unit::Kib, daemon, None),
    ]
}

#[test]
fn a_bound_is_kept_up_to_itself_and_broken_beyond() {
    assert_eq!(broken(memory(102.0, 15360.0)), [""; 0]);
    assert_eq!(broken(memory(102.0, 15361.0)), ["the daemon, with 30 pods: 15.0 MiB, budget 15.0 MiB"]);
}

#[test]
fn a_row_with_a_budget_that_a_measured_part_lacks_fails_and_other_parts_do_not() {
    let mut rows = memory(102.0, 1.0);
    rows.pop();
    assert_eq!(broken(rows), ["the daemon, with 30 pods: it has a budget, and this run lacks it"]);
}

#[test]
fn a_ratio_needs_a_containerd_and_a_known_miss_needs_its_row() {
    let pace = |one, eight| {
        vec![
            row(Part::Pace, "pod lives, 1 client", Unit::PerSecond, one, None),
            row(Part::Pace, "pod lives, 8 clients", Unit::PerSecond, eight, None),
        ]
    };
    assert_eq!(broken(pace(20.0, 60.0)), [""; 0]);
    assert_eq!(broken(pace(20.0, 59.9)), ["pod lives, 8 clients: 59.9/s, budget 60.0/s"]);
    let alone = broken(vec![row(Part::Calls, "ExecSync", Unit::Ms, 1.0, None)]);
    assert!(alone.contains(&"ExecSync: its budget is a ratio, and no containerd is beside it".to_owned()), "{alone:?}");
    let missing = "CreateContainer + StartContainer: it has a budget, and this run lacks it".to_owned();
    assert!(alone.contains(&missing), "{alone:?}");
}

#[test]
fn the_last_pods_are_held_against_the_first() {
    let crowd = |last| {
        let mut rows = vec![
            row(Part::Crowd, "ListContainers, 1000 containers in 250 pods", Unit::Ms, 1.0, None),
            row(Part::Crowd, "ListPodSandbox, 1000 containers in 250 pods", Unit::Ms, 1.0, None),
        ];
        for call in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
            rows.push(row(Part::Crowd, &format!("{call}, of the first 30 pods"), Unit::Ms, 4.0, None));
            let last = if call == "StartContainer" { last } else { 4.0 };
            rows.push(row(Part::Crowd, &format!("{call}, of the last 30 of 500 pods"), Unit::Ms, last, None));
        }
        broken(rows)
    };
    assert_eq!(crowd(5.0), [""; 0]);
    let what = "StartContainer, of the last 30 of 500 pods: 1.50 times that of the first, budget 1.25";
    assert_eq!(crowd(6.0), [what]);
}

#[test]
fn every_budget_has_its_row_among_the_published_and_every_known_miss_its_reason() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let published = Report::read(&root.join(NUMBERS));
    let verdicts = kept(&published, &BUDGETS);
    assert_eq!(verdicts.len(), BUDGETS.len());
    let lacking: Vec<_> = verdicts.iter().filter(|(_, text)| text.contains("lacks")).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    let reasons = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let missed = |what: &&str| !reasons.contains(&format!("Missed: {what}"));
    let unexplained: Vec<_> = BUDGETS.iter().filter_map(|budget| budget.missed()).filter(missed).collect();
    assert!(unexplained.is_empty(), "ARCHITECTURE.md has no word on {unexplained:?}");
}
