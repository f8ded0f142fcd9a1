//! How a run is held against the published one, and which end of a spread is shown.

use crate::{
    check::compared,
    options::Part,
    report::{Conditions, Report, Row, Spread, Unit},
};

fn row(part: Part, what: &str, coracle: f64, containerd: Option<f64>) -> Row {
    let spread = |median| Spread { median, p90: median };
    let (coracle, containerd) = (spread(coracle), containerd.map(spread));
    Row { part, what: what.to_owned(), unit: Unit::Ms, coracle, containerd }
}

fn report(rows: Vec<Row>) -> Report {
    Report { rows, ..Report::default() }
}

/// What of a run fails beside these published rows.
fn failed(rows: Vec<Row>, published: Vec<Row>) -> Vec<String> {
    let verdicts = compared(&report(rows), &report(published));
    verdicts.into_iter().filter(|(good, _)| !good).map(|(_, text)| text).collect()
}

#[test]
fn parts_that_a_run_has_not_measured_keep_what_was_published() {
    let measured = |what: &str, part, load: &str| {
        let conditions = Conditions { load_before: load.to_owned(), ..Conditions::default() };
        let mut report = Report::default();
        report.add(&conditions, vec![row(part, what, 1.0, None)]);
        report
    };
    let earlier = measured("Run", Part::Calls, "1").with(measured("to another", Part::Network, "2"));
    let both = earlier.with(measured("Stop", Part::Calls, "3"));
    let rows: Vec<_> = both.rows.iter().map(|row| row.what.as_str()).collect();
    assert_eq!(rows, ["Stop", "to another"]);
    let loads = [Part::Calls, Part::Network].map(|part| both.conditions[&part].load_before.as_str());
    assert_eq!(loads, ["3", "2"]);
}

#[test]
fn half_of_a_published_advantage_is_enough_and_less_is_not() {
    let published = || vec![row(Part::Calls, "Run", 1.0, Some(10.0))];
    assert_eq!(failed(vec![row(Part::Calls, "Run", 2.0, Some(10.0))], published()), [""; 0]);
    let lost = failed(vec![row(Part::Calls, "Run", 2.1, Some(10.0))], published());
    assert_eq!(lost, ["Run: 4.8 times better, published 10.0"]);
}

#[test]
fn a_row_without_its_partner_fails_on_either_side() {
    let run = || row(Part::Calls, "Run", 1.0, Some(10.0));
    let stop = || row(Part::Calls, "Stop", 1.0, Some(10.0));
    assert_eq!(failed(vec![run(), stop()], vec![run()]), ["Stop: it is not among the published"]);
    assert_eq!(failed(vec![run()], vec![run(), stop()]), ["Stop: it was published, and this run lacks it"]);
    let of_another_part = row(Part::Alone, "Stop", 1.0, None);
    assert_eq!(failed(vec![run()], vec![run(), of_another_part]), [""; 0]);
}

#[test]
fn a_row_that_is_compared_in_one_alone_fails() {
    let alone = || row(Part::Crowd, "Run", 1.0, None);
    let beside = || row(Part::Crowd, "Run", 1.0, Some(2.0));
    assert_eq!(failed(vec![beside()], vec![alone()]), ["Run: only this run has a containerd beside it"]);
    let lost = failed(vec![alone()], vec![beside()]);
    assert_eq!(lost[0], "Run: only the published has a containerd beside it");
    assert_eq!(lost[1..], ["nothing was compared: the run has no row of both"]);
}

#[test]
fn a_run_that_compares_nothing_fails() {
    let alone = || row(Part::Alone, "Run", 1.0, None);
    assert_eq!(failed(vec![alone()], vec![alone()]).len(), 1);
    assert_eq!(failed(Vec::new(), vec![alone()]).len(), 1);
}

#[test]
fn of_costs_the_dear_end_is_shown_and_of_rates_the_slow_one() {
    let ten = || (1..=11).map(f64::from);
    assert_eq!(Spread::of(ten()), Spread { median: 6.0, p90: 10.0 });
    assert_eq!(Spread::of_rates(ten()), Spread { median: 6.0, p90: 2.0 });
    assert_eq!(Spread::of_rates([3.0, 1.0, 2.0]), Spread { median: 2.0, p90: 1.0 });
}
