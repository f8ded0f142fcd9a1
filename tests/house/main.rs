//! What is said about the tests is true: the stages that `tests/run --help` and `tests/README.md` name are those there
//! are.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Names of stages: those that always run, and those of `--long`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stages {
    always: BTreeSet<String>,
    long: BTreeSet<String>,
}

fn at(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// As the script says them itself: `stages: a b; with --long also: c d`.
fn of_help() -> Stages {
    let help = Command::new(at("tests/run")).arg("--help").output().unwrap();
    assert!(help.status.success(), "{help:?}");
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.starts_with("tests/run [--long] [STAGE...]: "), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("stages: ")).unwrap();
    let (always, long) = line.split_once("; with --long also: ").unwrap();
    let names = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    Stages { always: names(always), long: names(long) }
}

/// As the table says them: names in the first column, and `--long` in the row of those that need it.
fn of_readme() -> Stages {
    let text = fs::read_to_string(at("tests/README.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| stage |")).skip(2);
    let mut stages = Stages::default();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let names = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned);
        if row.contains("`--long`") { stages.long.extend(names) } else { stages.always.extend(names) }
    }
    stages
}

/// The functions of the script.
fn made() -> BTreeSet<String> {
    let text = fs::read_to_string(at("tests/run")).unwrap();
    let names = text.lines().filter_map(|line| Some(line.strip_prefix("stage_")?.split_once("()")?.0.to_owned()));
    names.collect()
}

#[test]
fn the_stages_that_are_told_are_those_there_are() {
    let told = of_help();
    assert!(told.always.len() > 5 && told.long.len() > 5, "{told:?}");
    assert_eq!(told, of_readme(), "--help on the left, tests/README.md on the right");
    assert_eq!(told.always.union(&told.long).cloned().collect::<BTreeSet<_>>(), made());
}

#[test]
fn no_stage_is_taken_that_there_is_not() {
    let refused = Command::new(at("tests/run")).arg("no-such-stage").output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("no stage no-such-stage"));
}
