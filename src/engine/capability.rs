//! Capabilities by name: the default list, and what a request makes of it.

use kernel::capability::CapSet;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a container has that asks for nothing else: containerd's list.
pub const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// How many capabilities have names: up to CHECKPOINT_RESTORE, Linux 5.9.
const NAMED: u32 = 41;

/// A set of capabilities: bit n is capability number n. Written as a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const EMPTY: CapabilitySet = CapabilitySet(0);
    /// Every one that has a name here.
    pub const ALL: CapabilitySet = CapabilitySet((1 << NAMED) - 1);

    /// The set whose bits these are; bits without a name are dropped.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// As the kernel takes it.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether the capability of this name (with or without `CAP_`) is in the set.
    pub fn has(self, name: &str) -> bool {
        CapSet::named(name).is_some_and(|one| self.0 & one.0 != 0)
    }

    /// What is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this one only.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Names of its members in the order of their numbers, with `CAP_`.
    pub fn names(self) -> Vec<&'static str> {
        CapSet(self.0).names().collect()
    }

    /// The set of these names, with or without `CAP_`, in any case. An unknown name is an error that repeats it.
    pub fn of<S: AsRef<str>>(names: &[S]) -> Result<Self> {
        names.iter().try_fold(Self::EMPTY, |set, name| Ok(set.or(single(name.as_ref())?)))
    }
}

impl TryFrom<Vec<String>> for CapabilitySet {
    type Error = Error;
    fn try_from(names: Vec<String>) -> Result<Self> {
        Self::of(&names)
    }
}

impl From<CapabilitySet> for Vec<String> {
    fn from(set: CapabilitySet) -> Vec<String> {
        set.names().into_iter().map(str::to_owned).collect()
    }
}

/// Bounding and ambient set after a request's changes, within what the daemon itself may give (`available`).
///
/// `ALL` counts first, whichever list it is in; then every name to add, then every name to drop. So
/// `drop: [ALL], add: [KILL]` leaves `KILL` alone.
pub fn requested(
    default: CapabilitySet,
    change: &model::Capabilities,
    available: CapabilitySet,
) -> Result<(CapabilitySet, CapabilitySet)> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    let mut set = default;
    if change.add.iter().any(is_all) {
        set = CapabilitySet::ALL;
    }
    if change.drop.iter().any(is_all) {
        set = CapabilitySet::EMPTY;
    }
    for name in change.add.iter().chain(&change.add_ambient).filter(|name| !is_all(name)) {
        set = set.or(single(name)?);
    }
    for name in change.drop.iter().filter(|name| !is_all(name)) {
        set = set.without(single(name)?);
    }
    let set = set.and(available);
    let mut ambient = CapabilitySet::EMPTY;
    for name in &change.add_ambient {
        ambient = ambient.or(if is_all(name) { CapabilitySet::ALL } else { single(name)? });
    }
    Ok((set, ambient.and(set)))
}

fn single(name: &str) -> Result<CapabilitySet> {
    let found = CapSet::named(name).ok_or_else(|| Error::Invalid {
        field: "capability",
        value: name.chars().take(80).collect(),
        want: "unknown capability; want a name such as NET_ADMIN or ALL",
    })?;
    Ok(CapabilitySet(found.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(add: &[&str], drop: &[&str]) -> model::Capabilities {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        model::Capabilities { add: owned(add), drop: owned(drop), add_ambient: Vec::new() }
    }

    fn names(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let default = CapabilitySet::of(&["KILL", "CHOWN"]).unwrap();
        requested(default, &change(add, drop), CapabilitySet::ALL).unwrap().0.names()
    }

    #[test]
    fn all_counts_before_single_names_whichever_list_it_is_in() {
        assert_eq!(names(&[], &[]), ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(names(&["cap_net_admin"], &["KILL"]), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert_eq!(names(&["KILL"], &["ALL"]), ["CAP_KILL"]);
        assert_eq!(names(&["ALL"], &["SYS_ADMIN"]).len(), 40);
        assert_eq!(names(&["ALL"], &["ALL"]).len(), 0);
    }

    #[test]
    fn nothing_is_given_that_the_daemon_does_not_have() {
        let available = CapabilitySet::ALL.without(CapabilitySet::of(&["SYS_RESOURCE"]).unwrap());
        let (set, _) = requested(CapabilitySet::EMPTY, &change(&["ALL"], &[]), available).unwrap();
        assert!(!set.has("SYS_RESOURCE"));
        assert!(set.has("SYS_ADMIN"));
    }

    #[test]
    fn an_ambient_capability_is_in_the_other_sets_too() {
        let change = model::Capabilities { add_ambient: vec!["NET_RAW".into()], ..change(&[], &["ALL"]) };
        let (set, ambient) = requested(CapabilitySet::EMPTY, &change, CapabilitySet::ALL).unwrap();
        assert_eq!((set.names(), ambient.names()), (vec!["CAP_NET_RAW"], vec!["CAP_NET_RAW"]));
    }

    #[test]
    fn unknown_names_are_refused_and_known_ones_survive_a_record() {
        assert!(CapabilitySet::of(&["FLY"]).is_err());
        let set = CapabilitySet::of(&DEFAULT).unwrap();
        let written = serde_json::to_string(&set).unwrap();
        assert_eq!(serde_json::from_str::<CapabilitySet>(&written).unwrap(), set);
    }
}
