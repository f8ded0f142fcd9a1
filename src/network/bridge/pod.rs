//! What one pod gets on a bridge: a veth, addresses, routes; and how it is cut off again.
//!
//! Order of an attachment: leases (the intent, on disk); the veth, both ends made where they belong; inside the pod's
//! namespace one batch; then the host's end is seen forwarding. A failure anywhere takes back what came before.

use std::{
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::Bridge;
use crate::{
    Address, Attachment, Error, Request, Result,
    host_local::Holder,
    linger::Lingering,
    link::{Batch, Links, Veth},
    netlink::errno,
    netns, sysctl,
};

/// Hex digits of the pod's id in a link's name: with `veth` before them they fill the 15 characters.
const NAME_DIGITS: usize = 11;

/// How long the bridge may take to forward for a new port.
const FORWARDING_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks, on kernels before 6.8 only.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// One pod's port on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) addresses: Vec<Address>,
    pub(crate) mac: [u8; 6],
    pub(crate) host_interface: String,
}

impl Bridge {
    /// Attaches a pod: on return its addresses answer. Runs on a thread of its own.
    ///
    /// `ground` is the index of the prepared bridge; `ENODEV` or `EINVAL` from "make veth" mean that it is gone. Links
    /// of detached pods that `lingering` knows to have had these addresses are cut off.
    pub(crate) fn add(
        &self,
        links: &mut Links,
        ground: u32,
        pod: &str,
        netns: (BorrowedFd<'_>, &Path),
        request: &Request,
        lingering: &Lingering,
    ) -> Result<Port> {
        let holder = Holder { id: pod, interface: &request.interface };
        let addresses = self.ipam.allocate(&holder, &request.addresses)?;
        let ips: Vec<IpAddr> = addresses.iter().map(|address| address.net.addr()).collect();
        let mac = mac_of(*ips.first().expect("an address of every set, and there is at least one set"));
        let cut_off = lingering.former_links(&ips).iter().try_for_each(|former| shut(links, former));
        match cut_off.and_then(|()| self.wire(links, ground, pod, netns, request, &addresses, mac)) {
            Ok(host_interface) => Ok(Port { addresses, mac, host_interface }),
            Err(error) => {
                // Best effort: reconciliation gives back a lease whose pod never came to be.
                let _ = self.ipam.leases.release(&holder, &ips);
                Err(error)
            }
        }
    }

    /// Gives a pod's addresses back. Nothing needs to exist any more; safe to repeat.
    pub(crate) fn remove(&self, pod: &str, attachment: &Attachment) -> Result<()> {
        let holder = Holder { id: pod, interface: &attachment.interface };
        self.ipam.leases.release(&holder, &attachment.ips).map(drop)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one act, each named where it is made")]
    fn wire(
        &self,
        links: &mut Links,
        ground: u32,
        pod: &str,
        (netns, path): (BorrowedFd<'_>, &Path),
        request: &Request,
        addresses: &[Address],
        mac: [u8; 6],
    ) -> Result<String> {
        let name = self.make_veth(links, ground, pod, netns, request, mac)?;
        let wired = netns::inside(netns, path, || self.configure(&request.interface, addresses))
            .and_then(|()| await_forwarding(links, &name));
        if let Err(error) = wired {
            // Slow, but an error is rare, and the same namespace may be tried again. Best effort: the link also goes
            // with its namespace.
            let _ = links.delete(&name);
            return Err(error);
        }
        Ok(name)
    }

    fn make_veth(
        &self,
        links: &mut Links,
        ground: u32,
        pod: &str,
        netns: BorrowedFd<'_>,
        request: &Request,
        mac: [u8; 6],
    ) -> Result<String> {
        let mut last = None;
        // The kernel takes links down late: the name of this pod's previous attempt may still be there.
        for name in link_names(pod) {
            let mut batch = Batch::default();
            batch.make_veth(&Veth {
                name: &name,
                master: ground,
                mtu: self.mtu,
                peer_name: &request.interface,
                peer_mac: mac,
                peer_netns: netns.as_fd(),
            });
            // The bridge has the host's addresses; a port needs none.
            batch.without_link_local(&name);
            if self.hairpin || self.isolated {
                batch.set_port(&name, self.hairpin, self.isolated);
            }
            match links.run(batch) {
                Err(Error::Link { act, source, .. }) if errno(&source) == Some(libc::EEXIST) => {
                    last = Some(Error::Link { act, name, source });
                }
                Err(Error::Link { source, .. }) if errno(&source) == Some(libc::EXFULL) => {
                    return Err(Error::BridgeFull { bridge: self.name.clone() });
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(name),
            }
        }
        Err(last.expect("there is at least one name"))
    }

    /// In the pod's namespace: loopback up, link up, addresses, routes, in one batch.
    fn configure(&self, interface: &str, addresses: &[Address]) -> Result<()> {
        let mut links = Links::open()?;
        let missing = || Error::Link {
            act: "find in the pod",
            name: interface.to_owned(),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        };
        let link = links.by_name(interface)?.ok_or_else(missing)?.index;
        let mut batch = Batch::default();
        if addresses.iter().any(|address| address.net.addr().is_ipv6()) {
            sysctl::enable_ipv6(interface)?;
            sysctl::skip_duplicate_detection(interface)?;
        } else {
            // Whoever wants IPv6 there all the same may add an address.
            batch.without_link_local(interface);
        }
        batch.set_up("lo");
        batch.set_up(interface);
        for address in addresses {
            batch.add_address(link, address.net);
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
pub(super) fn mac_of(ip: IpAddr) -> [u8; 6] {
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
/// worker of the kernel does it within a millisecond or so.
fn await_forwarding(links: &mut Links, name: &str) -> Result<()> {
    let deadline = Instant::now() + FORWARDING_WITHIN;
    loop {
        let found = links.by_name(name)?;
        let gone = found.is_none();
        if found.is_some_and(|link| link.running) {
            return Ok(());
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
