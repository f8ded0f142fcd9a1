//! `differences.toml`: what is seen otherwise by another runtime, and why that is right.

use std::fmt::Write as _;

use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    difference: Vec<Difference>,
}

/// One reason. A `*` in a text stands for anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// By which runtimes; each of them has to show it.
    by: Vec<String>,
    /// Names of cases; all where it says none.
    #[serde(default)]
    cases: Vec<String>,
    /// Names of things, as `mounts /proc options`.
    what: Vec<String>,
    /// What it is by this engine, and by the other.
    ours: String,
    theirs: String,
    /// It is a race of theirs: not every run shows it.
    #[serde(default)]
    sometimes: bool,
    /// Why.
    reason: String,
    /// By which runtimes it was seen.
    #[serde(skip)]
    seen: Vec<String>,
}

impl List {
    /// The list beside this file.
    pub(crate) fn read() -> List {
        let list: List = toml::from_str(include_str!("differences.toml")).expect("the list of differences");
        assert!(list.difference.iter().all(|one| one.reason.len() > 20), "each has a reason");
        list
    }

    /// Whether a difference is listed.
    pub(crate) fn explains(&mut self, case: &str, by: &str, what: &str, ours: &str, theirs: &str) -> bool {
        let mut explained = false;
        for one in &mut self.difference {
            let fits = one.by.iter().any(|name| name == by)
                && (one.cases.is_empty() || one.cases.iter().any(|name| name == case))
                && one.what.iter().any(|pattern| is_like(pattern, what))
                && is_like(&one.ours, ours)
                && is_like(&one.theirs, theirs);
            if fits {
                explained = true;
                if !one.seen.iter().any(|name| name == by) {
                    one.seen.push(by.to_owned());
                }
            }
        }
        explained
    }

    /// Reasons for what nobody shows any more.
    pub(crate) fn unused(&self) -> String {
        let mut unused = String::new();
        for one in self.difference.iter().filter(|one| !one.sometimes) {
            let missing: Vec<_> = one.by.iter().filter(|name| !one.seen.contains(name)).collect();
            if !missing.is_empty() {
                writeln!(unused, "{missing:?}: {:?}: {}", one.what, one.reason).expect("a text can be written to");
            }
        }
        unused
    }
}

/// Whether a text is what a pattern says.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| is_like(after, &rest[at..]))
        }),
    }
}

#[test]
fn a_star_stands_for_anything() {
    assert!(is_like("mounts /proc/* options", "mounts /proc/kcore options"));
    assert!(is_like("*", "") && is_like("a*c*", "abc"));
    assert!(!is_like("a", "ab") && !is_like("*b", "abc"));
}
