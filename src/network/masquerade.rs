//! The way out: pods' packets leave the node under the node's address.
//!
//! One nftables table, `inet coracle`, is shared by every instance on the host:
//!
//! ```text
//! chain postrouting         the one chain on a hook: looks up where a packet comes from, a rule for each family
//! map   networks-v4, -v6    subnet of a network : jump to its chain
//! chain masquerade-BRIDGE   one for each network: masquerade, unless the packet stays in the subnet or is multicast;
//!                           masquerade-ptp/NETWORK for one whose pods have a link each
//! ```
//!
//! A hook carries 1024 chains and asks each of them about every new connection; a map carries any number of networks
//! for the price of one look-up. Nothing changes as pods come and go: entries are whole subnets. Host ports are maps in
//! the same table ([`crate::host_ports`]).
//!
//! Instances agree by transactions: each reads the table, decides, and writes what holds only if nobody has written
//! meanwhile. An instance writes its own network, never another's; but a network whose bridge is no more, or to whose
//! pods no route leads, is nobody's, and whoever writes next clears it away. The last network takes the table with it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use crate::{
    Error, Result, host_ports,
    link::Links,
    netlink::errno,
    nft::{Act, Element, Family, Hook, Nft, Rule, Side, Transaction},
};

/// Our table.
pub(crate) const TABLE: &str = "coracle";
/// The chain on the hook.
const POSTROUTING: &str = "postrouting";
/// Before the bridge's name in the name of a network's chain.
const CHAIN_PREFIX: &str = "masquerade-";

/// The kernel's word for "the rules have changed since you looked"; not among libc's constants.
const ERESTART: i32 = 85;

/// How long others may keep changing rules between our look and our write before we give up.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Networks that are cleared away in one transaction: the kernel answers each of its messages, and the answers have to
/// fit the socket's buffer.
const CLEARED_AT_ONCE: usize = 16;

/// Before the network's name in place of a bridge's, which has no such character.
const OF_LINKS: &str = "ptp/";

/// What a network is called here whose pods have a link each.
pub(crate) fn of_links(network: &str) -> String {
    format!("{OF_LINKS}{network}")
}

/// Whether somebody has the network: there is its bridge, or a route to a pod of it.
pub(crate) fn is_alive(links: &mut Links, name: &str, subnets: &[IpNet]) -> Result<bool> {
    if !name.starts_with(OF_LINKS) {
        return Ok(links.by_name(name)?.is_some());
    }
    for ipv6 in [false, true] {
        let leads_to_pod = |to: &IpNet| to.prefix_len() == to.max_prefix_len();
        let routes = links.routes(ipv6)?;
        let mut to_pods = routes.iter().map(|route| &route.to).filter(|to| leads_to_pod(to));
        if to_pods.any(|to| subnets.iter().any(|subnet| subnet.contains(to))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the network's rules, whatever was there before.
pub(crate) fn ensure(links: &mut Links, bridge: &str, subnets: &[IpNet]) -> Result<()> {
    settle(&Wanted { bridge, subnets }, &mut |name, subnets| is_alive(links, name, subnets))
}

/// Whether the rules stand as [`ensure`] wrote them. Rules are known by their comments.
pub(crate) fn is_in_place(bridge: &str, subnets: &[IpNet]) -> Result<bool> {
    let wanted = Wanted { bridge, subnets };
    let mut nft = Nft::open().map_err(failed("open"))?;
    let mut comments = |chain: &str| nft.comments(TABLE, chain).map_err(failed("read"));
    let rules_stand = comments(POSTROUTING)? == comments_of(&entrance())
        && comments(&chain_of(bridge))? == comments_of(&wanted.rules());
    Ok(rules_stand && elements_to(&Table::read(&mut nft)?, bridge) == wanted.elements())
}

/// Removes the network's rules, and the table with the last of them. Missing ones are success.
pub(crate) fn remove(links: &mut Links, bridge: &str) -> Result<()> {
    settle(&Wanted { bridge, subnets: &[] }, &mut |name, subnets| is_alive(links, name, subnets))
}

/// What a network is to have in the table; without subnets, nothing.
struct Wanted<'a> {
    bridge: &'a str,
    subnets: &'a [IpNet],
}

/// The table as it was at one moment.
struct Table {
    /// Bridges whose networks have a chain.
    bridges: BTreeSet<String>,
    /// Entries of the maps, in the order of [`Family::ALL`].
    elements: [Vec<Element>; 2],
    exists: bool,
    /// Whether ports of pods are shown by it.
    is_used: bool,
}

impl Wanted<'_> {
    fn elements(&self) -> [Vec<Element>; 2] {
        let chain = chain_of(self.bridge);
        Family::ALL.map(|family| {
            let mut nets: Vec<IpNet> = self.subnets.iter().map(IpNet::trunc).collect();
            nets.retain(|net| Family::of(net.addr()) == family);
            // As the kernel gives them.
            nets.sort_by_key(IpNet::network);
            nets.into_iter().map(|net| Element { net, chain: chain.clone() }).collect()
        })
    }

    fn rules(&self) -> Vec<Rule> {
        self.subnets.iter().map(|subnet| masquerade(*subnet)).collect()
    }
}

impl Table {
    fn read(nft: &mut Nft) -> Result<Self> {
        let chains = nft.chains(TABLE).map_err(failed("read"))?;
        let mut elements = Family::ALL.map(|_| Vec::new());
        for (family, elements) in Family::ALL.into_iter().zip(&mut elements) {
            *elements = nft.elements(TABLE, map_of(family), family).map_err(failed("read"))?;
        }
        let bridges = chains.iter().filter_map(|chain| chain.strip_prefix(CHAIN_PREFIX)).map(str::to_owned).collect();
        Ok(Self { bridges, elements, exists: !chains.is_empty(), is_used: host_ports::is_used(nft)? })
    }

    /// Refuses subnets that share addresses with another network's.
    fn refuse_overlap(&self, wanted: &Wanted<'_>) -> Result<()> {
        let own = chain_of(wanted.bridge);
        let shares = |net: &IpNet| wanted.subnets.iter().any(|subnet| subnet.contains(net) || net.contains(subnet));
        let mut others = self.elements.iter().flatten().filter(|element| element.chain != own);
        let Some(Element { net, chain }) = others.find(|element| shares(&element.net)) else { return Ok(()) };
        let name = chain.strip_prefix(CHAIN_PREFIX).unwrap_or(chain);
        let whose = match name.strip_prefix(OF_LINKS) {
            Some(network) => format!("network {network}"),
            None => format!("bridge {name}"),
        };
        let why = format!("the pods' subnet shares addresses with {net}, that of {whose}; choose another subnet");
        Err(Error::NotReady { why })
    }
}

/// Brings the table to what one network wants, and clears away networks that are no more.
fn settle(wanted: &Wanted<'_>, is_alive: &mut dyn FnMut(&str, &[IpNet]) -> Result<bool>) -> Result<()> {
    let mut nft = Nft::open().map_err(failed("open"))?;
    let deadline = Instant::now() + SETTLE_WITHIN;
    loop {
        let generation = nft.generation().map_err(failed("read"))?;
        let mut table = Table::read(&mut nft)?;
        // After the reading: a bridge or a route is made before its chain, so a chain without one has lost it.
        let mut nobodys = Vec::new();
        for bridge in table.bridges.iter().filter(|bridge| *bridge != wanted.bridge) {
            let subnets: Vec<IpNet> = elements_to(&table, bridge).into_iter().flatten().map(|one| one.net).collect();
            if !is_alive(bridge, &subnets)? {
                nobodys.push(bridge.clone());
            }
        }
        // Bound to what was just read: what another instance writes meanwhile must not go with the table.
        let mut change = nft.transaction_at(generation);
        for bridge in nobodys.iter().take(CLEARED_AT_ONCE) {
            clear(&mut change, &table, bridge);
            table.bridges.remove(bridge);
            table.elements.iter_mut().for_each(|map| map.retain(|element| element.chain != chain_of(bridge)));
        }
        let more_to_clear = nobodys.len() > CLEARED_AT_ONCE;
        if !more_to_clear {
            table.refuse_overlap(wanted)?;
            if !wanted.subnets.is_empty() {
                write(&mut change, &table, wanted);
            } else if table.is_used || table.bridges.iter().any(|bridge| bridge != wanted.bridge) {
                clear(&mut change, &table, wanted.bridge);
            } else if table.exists {
                change.remove_table(TABLE);
            } else {
                return Ok(());
            }
        }
        match change.commit() {
            Err(error) if errno(&error) == Some(ERESTART) && Instant::now() < deadline => {}
            Ok(()) if more_to_clear => {}
            done => return done.map_err(failed("write")),
        }
    }
}

/// Writes what all networks share and what this one wants. Chains are written whole, maps by what differs.
fn write(change: &mut Transaction<'_>, table: &Table, wanted: &Wanted<'_>) {
    let chain = chain_of(wanted.bridge);
    change.ensure_table(TABLE);
    for family in Family::ALL {
        change.ensure_map(TABLE, map_of(family), family);
    }
    change.ensure_empty_hook(TABLE, POSTROUTING, Hook::Postrouting);
    for rule in entrance() {
        change.add_rule(TABLE, POSTROUTING, &rule);
    }
    change.ensure_empty_chain(TABLE, &chain);
    for rule in wanted.rules() {
        change.add_rule(TABLE, &chain, &rule);
    }
    let found = elements_to(table, wanted.bridge);
    for (family, (found, wanted)) in Family::ALL.into_iter().zip(found.iter().zip(&wanted.elements())) {
        for element in found.iter().filter(|element| !wanted.contains(element)) {
            change.remove_element(TABLE, map_of(family), element);
        }
        for element in wanted.iter().filter(|element| !found.contains(element)) {
            change.add_element(TABLE, map_of(family), element);
        }
    }
}

/// Removes a network's entries and its chain, if it has one.
fn clear(change: &mut Transaction<'_>, table: &Table, bridge: &str) {
    if !table.bridges.contains(bridge) {
        return;
    }
    // First what jumps to the chain.
    for (family, elements) in Family::ALL.into_iter().zip(&elements_to(table, bridge)) {
        elements.iter().for_each(|element| change.remove_element(TABLE, map_of(family), element));
    }
    change.empty_chain(TABLE, &chain_of(bridge));
    change.remove_chain(TABLE, &chain_of(bridge));
}

/// The entries that lead to a network's chain.
fn elements_to(table: &Table, bridge: &str) -> [Vec<Element>; 2] {
    let chain = chain_of(bridge);
    table.elements.each_ref().map(|map| map.iter().filter(|element| element.chain == chain).cloned().collect())
}

/// The rules of the chain on the hook. Every instance writes the same ones: other rules want another chain's name.
fn entrance() -> Vec<Rule> {
    let rule = |family: Family| Rule {
        family,
        act: Act::LookUp { side: Side::Source, map: map_of(family).to_owned() },
        comment: format!("from pods: {}", map_of(family)),
    };
    Family::ALL.map(rule).into()
}

/// What packets of a subnet get.
fn masquerade(subnet: IpNet) -> Rule {
    let multicast: IpNet = match subnet.addr() {
        IpAddr::V4(_) => "224.0.0.0/4".parse().expect("a literal network"),
        IpAddr::V6(_) => "ff00::/8".parse().expect("a literal network"),
    };
    Rule {
        family: Family::of(subnet.addr()),
        act: Act::MasqueradeBeyond { near: vec![subnet, multicast] },
        comment: format!("pods of {subnet} leave as the node"),
    }
}

fn comments_of(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule.comment.clone()).collect()
}

fn chain_of(bridge: &str) -> String {
    format!("{CHAIN_PREFIX}{bridge}")
}

fn map_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "networks-v4",
        Family::V6 => "networks-v6",
    }
}

pub(crate) fn failed(act: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Nftables { act, table: TABLE.into(), source }
}

#[cfg(test)]
mod tests;
