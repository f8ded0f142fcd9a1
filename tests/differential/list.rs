//! A list of differences: what is seen otherwise by another runtime, or another unpacker, and why that is right.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    difference: Vec<Difference>,
}

/// One reason. In a text a `*` stands for anything, and `{name}` for anything that is the same wherever it stands in
/// `what`, `ours` and `theirs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// By which runtimes.
    by: Vec<String>,
    /// Names of cases; all where it says none.
    #[serde(default)]
    cases: Vec<String>,
    /// What its hosts have in common ([`Host::is`]); any host shows it where it says nothing.
    #[serde(default)]
    on: Vec<String>,
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
    /// Runtimes by which it was seen, each with a thing, and with a case.
    #[serde(skip)]
    seen: BTreeSet<[String; 2]>,
}

impl List {
    /// The list that is this text, as far as it speaks of this host.
    pub(crate) fn read(text: &str) -> List {
        let mut list: List = toml::from_str(text).expect("the list of differences");
        let host = Host::find();
        list.difference.retain(|one| one.on.iter().all(|words| host.is(words)));
        for one in &list.difference {
            assert!(one.reason.len() > 20, "each has a reason: {one:?}");
            let says_something = |text: &String| text.is_empty() || !text.trim_matches('*').is_empty();
            assert!(
                [&one.ours, &one.theirs].into_iter().all(says_something),
                "each says what is on both sides: {one:?}"
            );
        }
        list
    }

    /// Whether a difference is listed.
    pub(crate) fn explains(&mut self, case: &str, by: &str, what: &str, ours: &str, theirs: &str) -> bool {
        let mut explained = false;
        for one in &mut self.difference {
            if !one.by.iter().any(|name| name == by)
                || !(one.cases.is_empty() || one.cases.iter().any(|name| name == case))
            {
                continue;
            }
            let fits = |pattern: &&String| {
                all_like(&[(pattern.as_str(), what), (one.ours.as_str(), ours), (one.theirs.as_str(), theirs)])
            };
            let Some(pattern) = one.what.iter().find(fits) else { continue };
            explained = true;
            one.seen.extend([pattern.as_str(), case].map(|of| [by.to_owned(), of.to_owned()]));
        }
        explained
    }

    /// Reasons for what nobody shows any more: each of the runtimes has to show each of the things, and it in each of
    /// the cases.
    pub(crate) fn unused(&self) -> String {
        self.unused_where(|_| true)
    }

    /// The same of one of them, where a test asks one alone.
    #[allow(dead_code, reason = "not every test that shares this file runs them apart")]
    pub(crate) fn unused_by(&self, by: &str) -> String {
        self.unused_where(|one| one == by)
    }

    fn unused_where(&self, is_asked: impl Fn(&str) -> bool) -> String {
        let mut unused = String::new();
        for one in self.difference.iter().filter(|one| !one.sometimes) {
            for by in one.by.iter().filter(|by| is_asked(by)) {
                let named = one.cases.iter().chain(&one.what);
                let missing: Vec<_> =
                    named.filter(|name| !one.seen.contains(&[by, *name].map(String::clone))).collect();
                if !missing.is_empty() {
                    writeln!(unused, "{by}: {missing:?}: {}", one.reason).expect("a text can be written to");
                }
            }
        }
        unused
    }
}

/// What a difference may depend on.
struct Host {
    has_v2: bool,
    /// Major and minor number.
    kernel: (u32, u32),
}

impl Host {
    fn find() -> Host {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
        Host { has_v2: Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), kernel: version(release.trim()) }
    }

    /// Whether it is what a line of the list says.
    fn is(&self, words: &str) -> bool {
        match words {
            "cgroup v1" => !self.has_v2,
            "cgroup v2" => self.has_v2,
            path if path.starts_with('/') => Path::new(path).exists(),
            _ if words.starts_with("no /") => !Path::new(&words["no ".len()..]).exists(),
            _ => match (words.strip_prefix("Linux before "), words.strip_prefix("Linux since ")) {
                (Some(first), _) => self.kernel < version(first),
                (_, Some(first)) => self.kernel >= version(first),
                _ => panic!("no host can be said to be {words:?}"),
            },
        }
    }
}

/// `6.1.0-50-cloud-amd64` is 6.1.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().expect("a number of a kernel"));
    (numbers.next().expect("a kernel's version"), numbers.next().expect("a kernel's version of two numbers"))
}

/// Whether each text is what its pattern says.
fn all_like(texts: &[(&str, &str)]) -> bool {
    is_like(texts, &mut Vec::new())
}

/// The same, with what the names stand for so far.
fn is_like<'a>(texts: &[(&'a str, &'a str)], names: &mut Vec<(&'a str, &'a str)>) -> bool {
    let Some(((pattern, text), others)) = texts.split_first() else { return true };
    let Some(at) = pattern.find(['*', '{']) else { return pattern == text && is_like(others, names) };
    let Some(rest) = text.strip_prefix(&pattern[..at]) else { return false };
    let (name, after) = match pattern[at..].strip_prefix('*') {
        Some(after) => ("", after),
        None => pattern[at + 1..].split_once('}').expect("a name ends"),
    };
    let known = names.iter().find(|(known, _)| !name.is_empty() && *known == name).map(|(_, is)| *is);
    rest.char_indices().map(|(end, _)| end).chain([rest.len()]).any(|end| {
        let (is, rest) = rest.split_at(end);
        if known.is_some_and(|known| known != is) {
            return false;
        }
        let before = names.len();
        names.push((name, is));
        let next: Vec<_> = [(after, rest)].into_iter().chain(others.iter().copied()).collect();
        let fits = is_like(&next, names);
        names.truncate(before);
        fits
    })
}

#[test]
fn a_star_stands_for_anything_and_a_name_for_the_same_everywhere() {
    let is_like = |pattern, text| all_like(&[(pattern, text)]);
    assert!(is_like("mounts /proc/* options", "mounts /proc/kcore options"));
    assert!(is_like("*", "") && is_like("a*c*", "abc"));
    assert!(!is_like("a", "ab") && !is_like("*b", "abc"));
    assert!(is_like("{a}-{a}", "1-1") && !is_like("{a}-{a}", "1-2"));
    assert!(all_like(&[("1024,{hard}", "1024,20000"), ("{hard},{hard}", "20000,20000")]));
    assert!(!all_like(&[("1024,{hard}", "1024,20000"), ("{hard},{hard}", "20000,30000")]));
}

#[test]
fn a_host_is_what_it_is() {
    let host = Host { has_v2: true, kernel: version("6.1.0-50-cloud-amd64") };
    for words in ["cgroup v2", "no /no/such/file", "/proc/self", "Linux before 6.8", "Linux since 6.1"] {
        assert!(host.is(words), "{words}");
    }
    for words in ["cgroup v1", "/no/such/file", "no /proc/self", "Linux before 6.1", "Linux since 6.12"] {
        assert!(!host.is(words), "{words}");
    }
}

#[test]
fn what_nobody_shows_any_more_is_named() {
    let text = r#"
        [[difference]]
        by = ["runc", "crun"]
        cases = ["first", "second"]
        what = ["a *", "b"]
        ours = "1"
        theirs = "2"
        reason = "they count from another number than we do"
    "#;
    let mut list: List = toml::from_str(text).unwrap();
    assert!(list.explains("first", "runc", "a thing", "1", "2"));
    for (case, by, what, ours) in [
        ("third", "runc", "b", "1"),
        ("first", "youki", "b", "1"),
        ("first", "runc", "c", "1"),
        ("first", "runc", "b", "2"),
    ] {
        assert!(!list.explains(case, by, what, ours, "2"));
    }
    let unused = list.unused();
    let lines: Vec<_> = unused.lines().map(|line| line.rsplit_once(':').unwrap().0).collect();
    assert_eq!(lines, [r#"runc: ["second", "b"]"#, r#"crun: ["first", "second", "a *", "b"]"#]);
    for by in ["runc", "crun"] {
        assert!(list.explains("second", by, "b", "1", "2") && list.explains("first", by, "a thing", "1", "2"));
    }
    assert_eq!(list.unused(), "");
}
