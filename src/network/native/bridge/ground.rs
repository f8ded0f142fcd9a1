//! What the pods of a bridge share: the bridge itself, its addresses, and a subnet that is nobody else's.

use ipnet::IpNet;

use super::{Bridge, pod::mac_of};
use crate::{
    Error, Result,
    link::{Batch, Link, Links},
    netlink::errno,
    sysctl,
};

/// Every owner's name begins so; a bridge with another alias, or none, was made by somebody else.
pub(crate) const OWNER_PREFIX: &str = "coracle ";

/// A hardware address that somebody has set (linux/netdevice.h).
const NET_ADDR_SET: u32 = 3;

/// Finds or makes the bridge. Refuses one that belongs to another instance or that somebody else uses, and a link that
/// is no bridge.
pub(super) fn ensure_bridge(links: &mut Links, bridge: &Bridge) -> Result<Link> {
    let (name, owner) = (&bridge.name, bridge.owner.as_deref());
    if links.by_name(name)?.is_none() {
        let gateway = bridge.ipam.gateways().first().map(IpNet::addr);
        let mut batch = Batch::default();
        batch.make_bridge(name, gateway.map_or([0x0a, 0x58, 0, 0, 0, 1], mac_of), bridge.mtu);
        if let Some(owner) = owner {
            batch.set_alias(name, owner);
        }
        match links.run(batch) {
            // Another thread or process was faster; what it made is looked at below.
            Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EEXIST) => {}
            done => done?,
        }
    }
    let Some(found) = links.by_name(name)? else {
        return not_ready(format!("bridge {name} vanished while it was being made"));
    };
    if !found.is_bridge {
        return not_ready(format!("the link {name} exists and is not a bridge; choose another network.bridge"));
    }
    if let Some(owner) = owner {
        match found.alias.as_deref() {
            Some(alias) if alias == owner => {}
            Some(alias) if alias.starts_with(OWNER_PREFIX) && !is_orphan(alias) => {
                let other = &alias[OWNER_PREFIX.len()..];
                return not_ready(format!(
                    "bridge {name} belongs to the instance with root {other}; choose another network.bridge and subnets"
                ));
            }
            // Made by an instance whose root is no more: it becomes ours.
            Some(alias) if alias.starts_with(OWNER_PREFIX) => label(links, name, owner)?,
            // Made by somebody else, never by us: a bridge of ours is labelled in the very send that makes it, and
            // before it gets an address. A bare one becomes ours.
            _ => {
                refuse_used(links, &found)?;
                label(links, name, owner)?;
            }
        }
    }
    // Pods must not teach the host routes (CVE-2020-10749).
    sysctl::ignore_advertisements(name)?;
    let mut batch = Batch::default();
    if bridge.takes_all && !found.takes_all {
        batch.take_all(name);
    }
    if !found.up {
        batch.set_up(name);
    }
    links.run(batch)?;
    Ok(found)
}

/// Removes what is in the way of a gateway's address, whatever is on the bridge (`forceAddress`). As the reference
/// plugin has it, what stands behind that address on the bridge stays.
pub(super) fn make_way(links: &mut Links, bridge: &Link, gateways: &[IpNet]) -> Result<()> {
    let present = of_link(links, bridge.index)?;
    let mut batch = Batch::default();
    for old in in_the_way(&present, gateways) {
        batch.remove_address(bridge.index, old);
    }
    match links.run(batch) {
        // The kernel has taken it away with another of its subnet.
        Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EADDRNOTAVAIL) => Ok(()),
        done => done,
    }
}

/// Those of the addresses that cannot stay for the gateways' sake.
fn in_the_way(present: &[IpNet], gateways: &[IpNet]) -> Vec<IpNet> {
    let mut stale: Vec<IpNet> = Vec::new();
    for gateway in gateways {
        let before = present.iter().take_while(|old| *old != gateway);
        stale.extend(before.filter(|old| is_in_the_way(**old, *gateway) && !gateways.contains(old)));
    }
    stale.sort();
    stale.dedup();
    stale
}

fn of_link(links: &mut Links, index: u32) -> Result<Vec<IpNet>> {
    Ok(links.addresses()?.into_iter().filter(|(link, _)| *link == index).map(|(_, net)| net).collect())
}

/// Gives the bridge the gateways' addresses.
///
/// A different address of the same family (the subnet's setting has changed) is replaced while no pod is on the bridge,
/// and refused otherwise: those pods' gateway must not vanish. On a bridge that is not `ours` alone it is always
/// refused.
///
/// A bridge that somebody else has made may take a port's hardware address, and another one as ports come and go: from
/// now on it keeps the one that `bridge` then has.
pub(super) fn ensure_addresses(links: &mut Links, bridge: &mut Link, gateways: &[IpNet], ours: bool) -> Result<()> {
    let present = of_link(links, bridge.index)?;
    let mut batch = Batch::default();
    let mut used = None;
    for gateway in gateways.iter().filter(|gateway| !present.contains(gateway)) {
        for old in present.iter().filter(|old| is_in_the_way(**old, *gateway) && !gateways.contains(old)) {
            if !ours {
                return another_address(&bridge.name, *gateway, *old);
            }
            let used = match used {
                Some(used) => used,
                None => *used.insert(has_ports(links, bridge.index)?),
            };
            if used {
                return not_ready(format!(
                    "bridge {} has address {old} and pods, the settings want {gateway}; stop the pods first, or name \
                     another network.bridge",
                    bridge.name
                ));
            }
            batch.remove_address(bridge.index, *old);
        }
        if gateway.addr().is_ipv6() {
            sysctl::enable_ipv6(&bridge.name)?;
        }
        batch.add_address(bridge.index, *gateway);
    }
    if let Some(gateway) = gateways.first().filter(|_| gateways.iter().any(|gateway| !present.contains(gateway))) {
        // Who has ports is known to somebody already.
        if !has_ports(links, bridge.index)? {
            bridge.mac = mac_of(gateway.addr());
        }
        batch.set_mac(&bridge.name, bridge.mac);
    }
    if gateways.iter().any(|gateway| gateway.addr().is_ipv6()) {
        // What leaves under an address of another link asks for pods from the bridge's own, which would be searched for
        // duplicates during the first pod's first seconds.
        sysctl::skip_duplicate_detection(&bridge.name)?;
    }
    match links.run(batch) {
        Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EEXIST) => Ok(()),
        done => done,
    }
}

/// Refuses gateways of which every pod would get two that the bridge cannot have both: one of each set of ranges.
pub(super) fn check_gateways(bridge: &str, of_each_set: &[IpNet]) -> Result<()> {
    for (at, gateway) in of_each_set.iter().enumerate() {
        if let Some(other) =
            of_each_set[..at].iter().find(|other| *other != gateway && is_in_the_way(**other, *gateway))
        {
            return another_address(bridge, *gateway, *other);
        }
    }
    Ok(())
}

/// In the words of the reference plugin.
fn another_address<T>(bridge: &str, wanted: IpNet, has: IpNet) -> Result<T> {
    not_ready(format!("{bridge} already has an IP address different from {wanted}: {has}"))
}

/// Takes the gateway of a family that the settings have turned off from a bridge of ours. While a pod is on the bridge,
/// which may have an address of that family, it stays: answers a note that says so.
pub(super) fn drop_turned_off(links: &mut Links, bridge: &Link, gateways: &[IpNet]) -> Result<Option<String>> {
    let is_used = |net: &IpNet| gateways.iter().any(|gateway| gateway.addr().is_ipv4() == net.addr().is_ipv4());
    let mut stale = links.addresses()?;
    stale.retain(|(link, net)| *link == bridge.index && !is_used(net) && !is_kernels(net));
    let Some((_, first)) = stale.first() else { return Ok(None) };
    if has_ports(links, bridge.index)? {
        let name = &bridge.name;
        return Ok(Some(format!("bridge {name} keeps address {first}, which the settings have no more, for its pods")));
    }
    let mut batch = Batch::default();
    stale.iter().for_each(|(link, net)| batch.remove_address(*link, *net));
    match links.run(batch) {
        // Another thread was faster.
        Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EADDRNOTAVAIL) => Ok(None),
        done => done.map(|()| None),
    }
}

/// Whether the kernel has given an address itself: every link that is up has a link-local one of IPv6.
fn is_kernels(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// Looks for others who use the subnets. What would take pods' packets away is an error; what pods will hide from the
/// host is a note.
pub(super) fn check_subnets(links: &mut Links, bridge: &str, subnets: &[IpNet]) -> Result<Vec<String>> {
    let own = links.by_name(bridge)?.map(|link| link.index);
    let mut notes = Vec::new();
    let addresses = links.addresses()?;
    for subnet in subnets {
        if let Some((link, net)) =
            addresses.iter().find(|(link, net)| Some(*link) != own && subnet.contains(&net.addr()))
        {
            let name = name_of(links, Some(*link))?;
            return not_ready(format!("subnet {subnet} is in use: {name} has address {net}; choose another subnet"));
        }
        for route in links.routes(subnet.addr().is_ipv6())? {
            if route.link == own && own.is_some() || route.to.prefix_len() == 0 {
                continue;
            }
            if subnet.contains(&route.to) {
                let name = name_of(links, route.link)?;
                return not_ready(format!(
                    "subnet {subnet} is in use: a route to {} goes by {name}; choose another subnet",
                    route.to
                ));
            }
            if route.to.contains(subnet) {
                let name = name_of(links, route.link)?;
                notes.push(format!("subnet {subnet} hides a part of {}, which is reached by {name}", route.to));
            }
        }
    }
    notes.dedup();
    Ok(notes)
}

/// Refuses a bridge that has an address or a port: a host may be reached by it, and would be cut off.
fn refuse_used(links: &mut Links, bridge: &Link) -> Result<()> {
    let address = links.addresses()?.into_iter().find(|(link, net)| *link == bridge.index && !is_kernels(net));
    let port = links.all()?.into_iter().find(|link| link.master == Some(bridge.index));
    let used = match (address, port) {
        (Some((_, net)), _) => format!("address {net}"),
        (None, Some(port)) => format!("port {}", port.name),
        (None, None) => return Ok(()),
    };
    let name = &bridge.name;
    not_ready(format!(
        "bridge {name} was not made by Coracle and has {used}; choose another network.bridge, or delete {name} if \
         nothing needs it"
    ))
}

/// Removes the bridge if it is `owner`'s. One with a port is refused. A missing one is success.
pub(super) fn remove_bridge(links: &mut Links, name: &str, owner: Option<&str>) -> Result<()> {
    let Some(found) = links.by_name(name)? else { return Ok(()) };
    if found.alias.as_deref() != owner {
        return not_ready(format!("bridge {name} belongs to somebody else"));
    }
    if has_ports(links, found.index)? {
        return Err(Error::InUse { bridge: name.to_owned() });
    }
    links.delete(name)
}

/// Whether somebody has given the bridge its hardware address: it has no other then, whatever ports come and go. What
/// cannot be told (the directory shows the links of whoever mounted it) counts as no.
pub(super) fn keeps_mac(bridge: &Link) -> bool {
    let read = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{}/{what}", bridge.name));
        text.ok().and_then(|text| text.trim().parse::<u32>().ok())
    };
    read("ifindex") == Some(bridge.index) && read("addr_assign_type") == Some(NET_ADDR_SET)
}

fn has_ports(links: &mut Links, bridge: u32) -> Result<bool> {
    Ok(links.all()?.iter().any(|link| link.master == Some(bridge)))
}

/// Whether an address on the bridge cannot stay beside the gateway. IPv6 links carry several addresses, IPv4 gateways
/// do not share; link-local ones are the kernel's.
fn is_in_the_way(old: IpNet, gateway: IpNet) -> bool {
    match (old, gateway) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(_), IpNet::V6(_)) => {
            !is_kernels(&old) && (old.contains(&gateway.addr()) || gateway.contains(&old.addr()))
        }
        _ => false,
    }
}

/// Whether the instance that the alias names is no more: its root directory does not exist.
fn is_orphan(alias: &str) -> bool {
    let root = std::path::Path::new(&alias[OWNER_PREFIX.len()..]);
    root.is_absolute() && !root.exists()
}

fn label(links: &mut Links, name: &str, owner: &str) -> Result<()> {
    let mut batch = Batch::default();
    batch.set_alias(name, owner);
    links.run(batch)
}

fn name_of(links: &mut Links, index: Option<u32>) -> Result<String> {
    let Some(index) = index else { return Ok("several links".into()) };
    Ok(links.by_index(index)?.map_or_else(|| format!("link {index}"), |link| link.name))
}

fn not_ready<T>(why: String) -> Result<T> {
    Err(Error::NotReady { why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_a_gateway_is_what_the_reference_removes() {
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let gone = |present: &[&str], gateways: &[&str]| in_the_way(&nets(present), &nets(gateways));
        let wanted = ["10.1.0.1/24", "fd00:1::1/64"];
        assert_eq!(gone(&["10.9.0.1/24", "fe80::1/64", "fd00:2::1/64"], &wanted), nets(&["10.9.0.1/24"]));
        assert_eq!(gone(&["fd00:1::9/64", "fd00:1::7/80"], &wanted), nets(&["fd00:1::7/80", "fd00:1::9/64"]));
        assert_eq!(gone(&["10.9.0.1/24", "10.1.0.1/24", "10.8.0.1/24"], &wanted), nets(&["10.9.0.1/24"]));
        assert_eq!(gone(&["10.1.0.1/24"], &["10.1.0.1/24", "10.2.0.1/24"]), [], "two ranges of one set");
    }
}
