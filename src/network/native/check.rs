//! Whether what a native plugin has made is still there: links, addresses, routes, leases. What people and other
//! plugins have added beside it is no business of this.

use std::net::IpAddr;

use cni::{Interface, Success};

use super::{HostLocal, Place, host_local::Holder};
use crate::{
    Error, Result,
    address::mac_text,
    link::{Link, Links},
    netns,
};

/// The links of a result, on the host and in the pod, and what the pod's has. `bridge`: whose port the host's end is.
pub(super) fn links(place: Place<'_>, made: &Success, bridge: Option<&str>) -> Result<()> {
    let mut links = Links::open()?;
    let master = match bridge {
        Some(bridge) => Some(present(&mut links, bridge, "")?.index),
        None => None,
    };
    for interface in made.interfaces.iter().filter(|interface| interface.sandbox.is_empty()) {
        let link = present(&mut links, &interface.name, &interface.mac)?;
        if bridge.is_some_and(|bridge| interface.name.starts_with("veth") && bridge != interface.name)
            && link.master != master
        {
            return unlike(format!("{} is no port of {}", interface.name, bridge.unwrap_or_default()));
        }
    }
    netns::inside(place.namespace()?, place.path(), || in_pod(place, made))
}

/// That each address of a result is still written down as the pod's.
pub(super) fn leases(place: Place<'_>, made: &Success, ipam: &HostLocal) -> Result<()> {
    let holder = Holder { id: &place.runtime.container, interface: &place.runtime.interface };
    for ip in made.ips.iter().map(|ip| ip.address.addr()).filter(|ip| ipam.gives_out(*ip)) {
        if !ipam.leases.is_held(ip, &holder)? {
            return unlike(format!("no lease says that {ip} is the pod's"));
        }
    }
    Ok(())
}

/// That the pod's loopback is up.
pub(super) fn loopback(place: Place<'_>) -> Result<()> {
    netns::inside(place.namespace()?, place.path(), || present(&mut Links::open()?, "lo", "").map(drop))
}

/// That the host reaches these addresses by this link.
pub(super) fn reached(link: &str, addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
    let mut links = Links::open()?;
    let index = present(&mut links, link, "")?.index;
    for address in addresses {
        if links.towards(address)? != Some(index) {
            return unlike(format!("{address} is not reached by {link}"));
        }
    }
    Ok(())
}

fn in_pod(place: Place<'_>, made: &Success) -> Result<()> {
    let name = &place.runtime.interface;
    let mut links = Links::open_in_pod()?;
    let is_own = |interface: &&Interface| !interface.sandbox.is_empty() && interface.name == *name;
    let mac = made.interfaces.iter().find(is_own).map_or("", |interface| &interface.mac);
    let link = present(&mut links, name, mac)?;
    let there = links.addresses()?;
    for ip in made.addresses_of(name) {
        if !there.contains(&(link.index, ip.address)) {
            return unlike(format!("{name} in the pod has not the address {}", ip.address));
        }
    }
    for ipv6 in [false, true] {
        let there = links.routes_by(ipv6, link.index)?;
        for route in made.routes.iter().filter(|route| route.dst.addr().is_ipv6() == ipv6) {
            if !there.iter().any(|found| found.to == route.dst.trunc()) {
                return unlike(format!("the pod has no route to {} by {name}", route.dst));
            }
        }
    }
    Ok(())
}

/// The link, if it is there, up, and has this hardware address (empty: any).
fn present(links: &mut Links, name: &str, mac: &str) -> Result<Link> {
    match links.by_name(name)? {
        None => unlike(format!("there is no link {name}")),
        Some(link) if !link.up => unlike(format!("the link {name} is down")),
        Some(link) if !mac.is_empty() && !mac_text(link.mac).eq_ignore_ascii_case(mac) => {
            unlike(format!("the link {name} has the hardware address {} in place of {mac}", mac_text(link.mac)))
        }
        Some(link) => Ok(link),
    }
}

fn unlike<T>(what: String) -> Result<T> {
    Err(Error::Unlike { what })
}
