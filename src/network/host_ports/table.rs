//! The table of host ports as the kernel has it: chains, rules, sets and maps, without the pods.

use std::{collections::BTreeMap, io};

use super::{
    failed,
    held::{self, Held, Place},
};
use crate::{
    Result,
    masquerade::TABLE,
    netlink::errno,
    nft::{Act, Family, Hook, Nft, Rule, Transaction},
};

/// How the names of all sets and maps begin.
pub(crate) const SETS: &str = "host-ports-";
/// The chains.
const CHAIN: &str = "host-ports";
const HOOKS: [(&str, Hook); 4] = [
    ("host-ports-guard", Hook::First),
    ("host-ports-prerouting", Hook::Prerouting),
    ("host-ports-output", Hook::Output),
    ("host-ports-postrouting", Hook::Postrouting),
];

/// What the reference plugin marks packets with that are to leave under the host's address; kube-proxy's is the next.
const MARK: u32 = 0x2000;

/// Whether somebody shows a port.
pub(crate) fn is_used(nft: &mut Nft) -> Result<bool> {
    Ok(!read(nft)?.is_empty())
}

/// Every port that is shown, anybody's, and its comment.
pub(super) fn read(nft: &mut Nft) -> Result<BTreeMap<Held, String>> {
    let mut all = BTreeMap::new();
    for place in Place::all() {
        let elements = nft.exacts(TABLE, &place.map()).map_err(failed("read"))?;
        all.extend(elements.into_iter().filter_map(|element| Some((Held::read(place, &element)?, element.comment))));
    }
    Ok(all)
}

/// The rules of each chain; those on the hooks first, since they jump to the other.
fn rules() -> [(&'static str, Vec<Rule>); 5] {
    let rule = |family, act, comment: &str| Rule { family, act, comment: comment.into() };
    let each = |rules: &dyn Fn(Family) -> Vec<Rule>| Family::ALL.into_iter().flat_map(rules).collect::<Vec<_>>();
    let local = |family| {
        let comment = match family {
            Family::V4 => "for the host itself",
            // A packet from there can go nowhere else.
            Family::V6 => "for the host itself, not its loopback",
        };
        vec![rule(family, Act::JumpIfLocal { chain: CHAIN.into() }, comment)]
    };
    let marked = |family| vec![rule(family, Act::MasqueradeMarked { bit: MARK }, "from near, to a host port")];
    let guard = vec![rule(Family::V4, Act::DropToLoopback, "nobody else reaches the loopback")];
    let mut inside = vec![rule(
        Family::V4,
        Act::MarkFromLoopback { ports: LOCAL_SET.into(), bit: MARK },
        "from the loopback: to come back the same way",
    )];
    inside.extend(each(&|family| {
        let map = |by_address| Place { family, by_address }.map();
        let near = Act::MarkFromLink { set: near_set(family).into(), bit: MARK };
        vec![
            rule(family, near, "from near: to come back the same way"),
            rule(family, Act::Translate { map: map(true), by_address: true }, "ports of an address"),
            rule(family, Act::Translate { map: map(false), by_address: false }, "ports of every address"),
        ]
    }));
    let [guarded, prerouting, output, postrouting] = HOOKS.map(|(chain, _)| chain);
    [
        (guarded, guard),
        (prerouting, each(&local)),
        (output, each(&local)),
        (postrouting, each(&marked)),
        (CHAIN, inside),
    ]
}

/// Whether chains and rules stand as [`make`] wrote them. Rules are known by their comments.
pub(super) fn is_in_place(nft: &mut Nft) -> Result<bool> {
    for (chain, rules) in rules() {
        let comments = nft.comments(TABLE, chain).map_err(failed("read"))?;
        if comments.iter().ne(rules.iter().map(|rule| &rule.comment)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes sets, maps, chains and rules, whatever of them was there before. Elements are not touched.
pub(super) fn make(nft: &mut Nft) -> Result<()> {
    let mut change = nft.transaction();
    change.ensure_table(TABLE);
    for place in Place::all() {
        change.ensure_exact(TABLE, &place.map(), place.form());
    }
    for family in Family::ALL {
        change.ensure_exact(TABLE, near_set(family), held::NEAR);
    }
    change.ensure_exact(TABLE, LOCAL_SET, held::LOCAL);
    change.ensure_empty_chain(TABLE, CHAIN);
    for (chain, hook) in HOOKS {
        change.ensure_empty_hook(TABLE, chain, hook);
    }
    for (chain, rules) in rules() {
        rules.iter().for_each(|rule| change.add_rule(TABLE, chain, rule));
    }
    change.commit().map_err(failed("write"))
}

/// Takes chains, sets and maps away, where nobody uses them.
pub(super) fn remove(nft: &mut Nft) -> Result<()> {
    let mut change = nft.transaction();
    let chains: Vec<&str> = rules().into_iter().map(|(chain, _)| chain).collect();
    // First what jumps to another.
    chains.iter().for_each(|chain| change.empty_chain(TABLE, chain));
    chains.iter().rev().for_each(|chain| change.remove_chain(TABLE, chain));
    sets().for_each(|set| change.remove_set(TABLE, &set));
    match change.commit() {
        // Another instance has begun to use it.
        Err(error) if matches!(errno(&error), Some(libc::EBUSY | libc::ENOENT)) => Ok(()),
        done => done.map_err(failed("write")),
    }
}

/// The set of ports that the loopback of IPv4 reaches. The kernel never lets that of IPv6 out.
pub(super) const LOCAL_SET: &str = "host-ports-local";

pub(super) fn near_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "host-ports-near-v4",
        Family::V6 => "host-ports-near-v6",
    }
}

/// The sets that say from where ports are reached.
pub(super) fn near_sets() -> [&'static str; 3] {
    [near_set(Family::V4), near_set(Family::V6), LOCAL_SET]
}

/// All sets and maps.
pub(super) fn sets() -> impl Iterator<Item = String> {
    Place::all().map(Place::map).chain(near_sets().map(str::to_owned))
}

pub(super) fn commit(nft: &mut Nft, fill: impl Fn(&mut Transaction<'_>)) -> io::Result<()> {
    let mut change = nft.transaction();
    fill(&mut change);
    change.commit()
}

pub(super) fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if errno(&error) == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}
