//! What one pod gets on a bridge: a veth, addresses, routes; and how it is cut off again.
//!
//! Order of an attachment: leases (the intent, on disk); the veth, both ends made where they belong; inside the pod's
//! namespace one batch; then the host's end is seen forwarding. A failure anywhere takes back what came before.

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    thread::sleep,
    time::{Duration, Instant},
};

use cni::{Dns, Interface, Ip, PluginConf, Success};

use super::{Bridge, Ground};
use crate::{
    Error, Result,
    address::{Address, mac_text, parse_mac},
    link::{Batch, Links, Veth},
    native::{Holder, Place, asked, give_back, own_links, portmap},
    netlink::errno,
    netns, sysctl,
};

/// Hex digits of the pod's id in a link's name: with `veth` before them they fill the 15 characters.
const NAME_DIGITS: usize = 11;

/// The link of a pod's first network.
const FIRST: &str = "eth0";

/// How long the bridge may take to forward for a new port.
const FORWARDING_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks, on kernels before 6.8 only.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// What one pod asks for beside the configuration.
pub(super) struct Asked {
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
}

impl Asked {
    /// From the capability arguments that the plugin declares, and what its list asks for every pod.
    pub(super) fn of(plugin: &PluginConf, place: Place<'_>) -> Result<Self> {
        let asked = asked(plugin, place.runtime);
        let refused = |key: &str, why: String| Err(Error::Asked { capability: key.to_owned(), why });
        let mac = match asked.get("mac") {
            None => None,
            Some(value) if value.is_null() || value.as_str() == Some("") => None,
            Some(value) => match value.as_str().and_then(parse_mac) {
                Some(mac) => Some(mac),
                None => return refused("mac", format!("{value} is no hardware address")),
            },
        };
        Ok(Self { addresses: super::host_local::asked_addresses(&asked)?, mac })
    }
}

/// What a pod's link has on the host.
struct Ends {
    name: String,
    mac: [u8; 6],
    /// The bridge's, which may have become another one with this port.
    bridge_mac: [u8; 6],
}

impl Bridge {
    /// Attaches a pod. Runs on a thread of its own.
    ///
    /// `ENODEV` or `EINVAL` from "make veth" mean that the bridge is gone. Links of detached pods that are known to
    /// have had these addresses are cut off.
    pub(super) fn attach(
        &self,
        links: &mut Links,
        ground: &Ground,
        place: Place<'_>,
        asked: &Asked,
    ) -> Result<Success> {
        let runtime = place.runtime;
        let holder = Holder { id: &runtime.container, interface: &runtime.interface };
        // Before the leases: a file that cannot be read leaves nothing behind.
        let dns = self.ipam.dns()?;
        let addresses = self.ipam.allocate(&holder, &asked.addresses)?;
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.net.addr()).collect();
        let first = *ips.first().expect("an address of every set, and there is at least one set");
        let mac = asked.mac.unwrap_or_else(|| mac_of(first));
        let former = place.shared.lingering.former_links(&ips);
        let cut_off = former.iter().try_for_each(|former| shut(links, former));
        match cut_off.and_then(|()| self.wire(links, ground, place, &addresses, mac)) {
            Ok(ends) => Ok(self.result(place, &ends, mac, (&addresses, dns))),
            Err(error) => {
                // Best effort: detaching gives back a lease whose pod never came to be.
                let _ = self.ipam.leases.release(&holder, &ips);
                Err(error)
            }
        }
    }

    /// Gives a pod's addresses back and lets its link go. Nothing needs to exist any more; safe to repeat.
    pub(in crate::native) fn del(&self, place: Place<'_>, made: Option<&Success>) -> Result<()> {
        if self.checks_senders {
            place.shared.mac_spoof.release(&portmap::key(place.runtime))?;
        }
        give_back(&self.ipam, place, made)
    }

    /// Checks again what comes from a pod that was attached before: its links are those of the result.
    pub(super) fn check_made(&self, place: Place<'_>, made: &Success) -> Result<()> {
        let of_pod = |link: &&Interface| !link.sandbox.is_empty() && link.name == place.runtime.interface;
        let mac = made.interfaces.iter().find(of_pod).and_then(|link| parse_mac(&link.mac));
        match (own_links(&place.runtime.container, made).next(), mac) {
            (Some(link), Some(mac)) => place.shared.mac_spoof.check(&portmap::key(place.runtime), &link, mac),
            // Of another plugin's making.
            _ => Ok(()),
        }
    }

    /// What the plugin answers.
    fn result(&self, place: Place<'_>, ends: &Ends, mac: [u8; 6], (got, dns): (&[Address], Dns)) -> Success {
        let sandbox = place.path().display().to_string();
        let link = |name: &str, mac| Interface { name: name.to_owned(), mac: mac_text(mac), ..Interface::default() };
        let inside = Interface { sandbox, ..link(&place.runtime.interface, mac) };
        let ips = got.iter().map(|address| Ip { address: address.net, gateway: address.gateway, interface: Some(2) });
        let mut routes = self.ipam.result_routes();
        if self.default_routes {
            routes.extend(self.default_routes_beside(&routes, got));
        }
        Success {
            interfaces: vec![link(&self.name, ends.bridge_mac), link(&ends.name, ends.mac), inside],
            ips: ips.collect(),
            routes,
            dns: if self.dns.is_empty() { dns } else { self.dns.clone() },
        }
    }

    /// The veth, both ends made where they belong, and what is inside. Gives the host's end.
    fn wire(
        &self,
        links: &mut Links,
        ground: &Ground,
        place: Place<'_>,
        addresses: &[Address],
        mac: [u8; 6],
    ) -> Result<Ends> {
        let (path, netns) = (place.path(), place.namespace()?);
        let name = self.make_veth(links, ground.index, place, netns, mac)?;
        let check = || place.shared.mac_spoof.check(&portmap::key(place.runtime), &name, mac);
        // Before the pod's end is up, so that nothing comes by unchecked.
        let checked = if self.checks_senders { check() } else { Ok(()) };
        let wired = checked
            .and_then(|()| netns::inside(netns, path, || self.configure(&place.runtime.interface, addresses)))
            .and_then(|()| Ok((await_forwarding(links, &name)?, self.mac_with_port(links, ground)?)));
        match wired {
            Ok((mac, bridge_mac)) => Ok(Ends { name, mac, bridge_mac }),
            Err(error) => {
                if self.checks_senders {
                    // Best effort: detaching takes it back, too.
                    let _ = place.shared.mac_spoof.release(&portmap::key(place.runtime));
                }
                // Slow, but an error is rare, and the same namespace may be tried again. Best effort: the link also
                // goes with its namespace.
                let _ = links.delete(&name);
                Err(error)
            }
        }
    }

    /// The bridge's hardware address now. One of somebody else's making may have taken the port's.
    fn mac_with_port(&self, links: &mut Links, ground: &Ground) -> Result<[u8; 6]> {
        let now = if ground.keeps_mac { None } else { links.by_index(ground.index)? };
        Ok(now.map_or(ground.mac, |bridge| bridge.mac))
    }

    fn make_veth(
        &self,
        links: &mut Links,
        ground: u32,
        place: Place<'_>,
        netns: BorrowedFd<'_>,
        mac: [u8; 6],
    ) -> Result<String> {
        let mut last = None;
        // The kernel takes links down late: the name of this pod's previous attempt may still be there. So may those of
        // its other networks.
        for name in link_names(&place.runtime.container) {
            let mut batch = Batch::default();
            batch.make_veth(&Veth {
                name: &name,
                master: Some(ground),
                mtu: Some(self.mtu),
                peer_name: &place.runtime.interface,
                peer_mac: mac,
                peer_netns: netns.as_fd(),
            });
            // A pod's other networks find its first one's link under the name. The kernel goes on after a refusal, so
            // what follows would be done to that one.
            let is_first = place.runtime.interface == FIRST;
            if is_first {
                self.settle_port(&mut batch, &name);
            }
            match links.run(batch) {
                Err(Error::Link { act, source, .. }) if errno(&source) == Some(libc::EEXIST) => {
                    last = Some(Error::Link { act, name, source });
                }
                Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EXFULL) => {
                    return Err(Error::BridgeFull { bridge: self.name.clone() });
                }
                Err(error) => return Err(error),
                Ok(()) if is_first => return Ok(name),
                Ok(()) => {
                    let mut batch = Batch::default();
                    self.settle_port(&mut batch, &name);
                    if let Err(error) = links.run(batch) {
                        // Best effort: the link also goes with its namespace.
                        let _ = links.delete(&name);
                        return Err(error);
                    }
                    return Ok(name);
                }
            }
        }
        Err(last.expect("there is at least one name"))
    }

    /// What a new port of the bridge is to be like.
    fn settle_port(&self, batch: &mut Batch, name: &str) {
        // The bridge has the host's addresses; a port needs none.
        batch.without_link_local(name);
        if self.hairpin || self.isolated {
            batch.set_port(name, self.hairpin, self.isolated);
        }
    }

    /// In the pod's namespace: link up, addresses, routes, in one batch.
    fn configure(&self, interface: &str, addresses: &[Address]) -> Result<()> {
        let mut links = Links::open()?;
        let missing = || Error::Link {
            act: "find in the pod",
            name: interface.to_owned(),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        };
        let found = links.by_name(interface)?.ok_or_else(missing)?;
        let link = found.index;
        sysctl::announce(interface)?;
        if self.detects_duplicates {
            sysctl::detect_duplicates(interface)?;
        }
        let mut batch = Batch::default();
        let has_ipv6 = addresses.iter().any(|address| address.net.addr().is_ipv6());
        if has_ipv6 {
            sysctl::enable_ipv6(interface)?;
            sysctl::keep_addresses(interface)?;
            if !self.detects_duplicates {
                sysctl::skip_duplicate_detection(interface)?;
            }
        } else {
            // Whoever wants IPv6 there all the same may add an address.
            batch.without_link_local(interface);
        }
        batch.set_up(interface);
        for address in addresses {
            if self.detects_duplicates {
                batch.add_address_if_unique(link, address.net);
            } else {
                batch.add_address(link, address.net);
            }
        }
        if has_ipv6 && self.detects_duplicates {
            links.run(std::mem::take(&mut batch))?;
            links.await_unique(&found)?;
        }
        let gateways: Vec<IpAddr> = addresses.iter().filter_map(|address| address.gateway).collect();
        for (to, gateway) in self.routes(&gateways) {
            batch.add_route(link, to, gateway);
        }
        links.run(batch)
    }
}

/// Names that this pod's host link may have, in the order they are tried.
pub(crate) fn link_names(pod: &str) -> impl Iterator<Item = String> + '_ {
    pod.as_bytes().chunks_exact(NAME_DIGITS).map(|digits| format!("veth{}", String::from_utf8_lossy(digits)))
}

/// A hardware address made of the IP address (`0a:58` and its last four bytes): whoever gets the address next gets the
/// same one, so neighbours that still remember the old holder reach the new one.
pub(crate) fn mac_of(ip: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match ip {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    [0x0a, 0x58, a, b, c, d]
}

/// Closes a port and forgets what was learnt of it, so that an address is free of its old holder even while something
/// keeps the old namespace alive. A missing port is success.
fn shut(links: &mut Links, name: &str) -> Result<()> {
    let Some(link) = links.by_name(name)? else { return Ok(()) };
    let mut batch = Batch::default();
    batch.shut_port(link.index, name);
    match links.run(batch) {
        Err(Error::Link { source, .. }) => match errno(&source) {
            // No such link, or one that is being taken down and is no port any more.
            Some(libc::ENODEV | libc::EOPNOTSUPP | libc::EINVAL) => Ok(()),
            _ => Err(Error::Link { act: "shut bridge port", name: name.to_owned(), source }),
        },
        done => done,
    }
}

/// Waits until the bridge passes the new port's packets. From Linux 6.8 the question itself settles that; before, a
/// worker of the kernel does it within a millisecond or so. Gives the link's hardware address.
fn await_forwarding(links: &mut Links, name: &str) -> Result<[u8; 6]> {
    let deadline = Instant::now() + FORWARDING_WITHIN;
    loop {
        let found = links.by_name(name)?;
        let gone = found.is_none();
        if let Some(link) = found.filter(|link| link.running) {
            return Ok(link.mac);
        }
        if gone || Instant::now() >= deadline {
            let code = if gone { libc::ENODEV } else { libc::ETIMEDOUT };
            let source = std::io::Error::from_raw_os_error(code);
            return Err(Error::Link { act: "wait for a carrier on", name: name.to_owned(), source });
        }
        sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        let pod = "0123456789abcdef".repeat(4);
        let names: Vec<_> = link_names(&pod).collect();
        assert_eq!(names.len(), 5);
        assert_eq!(names[0], "veth0123456789a");
        assert!(names.iter().all(|name| name.len() == crate::config::LINK_NAME_MAX));
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn hardware_addresses_are_local_and_follow_the_address() {
        assert_eq!(mac_of("10.88.1.2".parse().unwrap()), [0x0a, 0x58, 10, 88, 1, 2]);
        assert_eq!(mac_of("fd00::1:2".parse().unwrap()), [0x0a, 0x58, 0, 1, 0, 2]);
    }
}
