//! The `ptp` plugin: a link between the pod and the host alone, both ends with the gateway's address in mind.
//!
//! The pod has its address with the subnet's prefix, but reaches the subnet, too, by way of the host: what the kernel
//! makes of the address alone is taken away, and a route to the gateway and one to the subnet by it are put there.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use cni::{Dns, Interface, Ip, PluginConf, Success};
use ipnet::IpNet;
use serde::Deserialize;

use super::{
    Holder, Place,
    bridge::{link_names, mac_of},
    host_local::{self, HostLocal},
    own,
};
use crate::{
    Error, Result,
    address::{Address, mac_text},
    link::{Batch, Links, Veth},
    masquerade,
    netlink::errno,
    netns, sysctl,
};

/// The plugin's options as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    mtu: u32,
    ipam: host_local::Conf,
    #[serde(default)]
    dns: Dns,
    #[serde(default)]
    ip_masq: bool,
    ip_masq_backend: Option<String>,
}

/// A checked `ptp` plugin of one network.
#[derive(Debug)]
pub(crate) struct Ptp {
    ipam: HostLocal,
    /// `None` is the kernel's own.
    mtu: Option<u32>,
    dns: Dns,
    /// What the network is called where packets leave under the host's address, if its pods' do.
    masquerade: Option<String>,
    /// Whether this process knows of a pod.
    is_used: AtomicBool,
}

impl Ptp {
    /// Checks the plugin's object. Touches nothing.
    pub(super) fn new(network: &str, plugin: &PluginConf) -> Result<Self> {
        let conf: Conf = own(plugin)?;
        if conf.ip_masq_backend.as_deref().is_some_and(|backend| backend != "nftables") {
            return Err(Error::NotNative { plugin: plugin.kind.clone(), key: "ipMasqBackend".into() });
        }
        Ok(Self {
            ipam: HostLocal::new(network, conf.ipam)?,
            mtu: Some(conf.mtu).filter(|mtu| *mtu > 0),
            dns: conf.dns,
            masquerade: conf.ip_masq.then(|| masquerade::of_links(network)),
            is_used: AtomicBool::new(false),
        })
    }

    /// Puts back what the kernel may have lost of what all pods of the network share, while it has any.
    pub(crate) fn mend(&self, links: &mut Links) -> Result<()> {
        let Some(name) = self.masquerade.as_deref().filter(|_| self.is_used.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        if masquerade::is_alive(links, name, &self.subnets())? { self.let_out(links) } else { Ok(()) }
    }

    /// Has [`Ptp::mend`] see to a pod that was attached before.
    pub(super) fn restore(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Has the pods' packets leave under the host's address, where they are to. After a pod's routes: a network to
    /// which none leads is nobody's.
    fn let_out(&self, links: &mut Links) -> Result<()> {
        let Some(name) = &self.masquerade else { return Ok(()) };
        self.is_used.store(true, Ordering::Relaxed);
        let subnets = self.subnets();
        if masquerade::is_in_place(name, &subnets)? { Ok(()) } else { masquerade::ensure(links, name, &subnets) }
    }

    /// The networks that pods of this network live in.
    fn subnets(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = self.ipam.gateways().iter().map(IpNet::trunc).collect();
        all.dedup();
        all
    }

    /// The addresses that it hands out.
    pub(crate) fn ipam(&self) -> &HostLocal {
        &self.ipam
    }

    /// Attaches a pod: on return its addresses answer.
    pub(super) fn add(&self, plugin: &PluginConf, place: Place<'_>) -> Result<Success> {
        let runtime = place.runtime;
        let mut links = Links::open()?;
        let asked = host_local::asked_addresses(&super::asked(plugin, runtime))?;
        let ipam_dns = self.ipam.dns()?;
        let holder = Holder { id: &runtime.container, interface: &runtime.interface };
        let addresses = self.ipam.allocate(&holder, &asked)?;
        match self.wire(&mut links, place, &addresses) {
            Ok(interfaces) => {
                let ip = |of: &Address| Ip { address: of.net, gateway: of.gateway, interface: Some(1) };
                Ok(Success {
                    interfaces,
                    ips: addresses.iter().map(ip).collect(),
                    routes: self.ipam.result_routes(),
                    dns: if self.dns.is_empty() { ipam_dns } else { self.dns.clone() },
                })
            }
            Err(error) => {
                let ips: Vec<IpAddr> = addresses.iter().map(|address| address.net.addr()).collect();
                // Best effort: detaching gives back a lease whose pod never came to be.
                let _ = self.ipam.leases.release(&holder, &ips);
                Err(error)
            }
        }
    }

    /// Gives a pod's addresses back and lets its link go. Nothing needs to exist any more; safe to repeat.
    pub(super) fn del(&self, place: Place<'_>, made: Option<&Success>) -> Result<()> {
        super::give_back(&self.ipam, place, made)
    }

    /// Both ends, and what each is reached by. Gives them as the result tells them.
    fn wire(&self, links: &mut Links, place: Place<'_>, addresses: &[Address]) -> Result<Vec<Interface>> {
        let (runtime, path) = (place.runtime, place.path());
        let netns = place.namespace()?;
        if addresses.iter().any(|address| address.net.addr().is_ipv4()) {
            sysctl::forward_ipv4()?;
        }
        if addresses.iter().any(|address| address.net.addr().is_ipv6()) {
            sysctl::forward_ipv6(links)?;
        }
        let first = addresses.first().expect("an address of every set, and there is at least one set");
        let mac = mac_of(first.net.addr());
        let name = self.make_veth(links, place, mac)?;
        let wired = netns::inside(netns, path, || self.configure(&runtime.interface, addresses))
            .and_then(|()| on_the_host(links, &name, addresses))
            .and_then(|mac| self.let_out(links).map(|()| mac));
        match wired {
            Ok(host_mac) => {
                let link =
                    |name: &str, mac| Interface { name: name.into(), mac: mac_text(mac), ..Interface::default() };
                let inside = Interface { sandbox: path.display().to_string(), ..link(&runtime.interface, mac) };
                Ok(vec![link(&name, host_mac), inside])
            }
            Err(error) => {
                // Slow, but an error is rare. Best effort: the link also goes with its namespace.
                let _ = links.delete(&name);
                Err(error)
            }
        }
    }

    fn make_veth(&self, links: &mut Links, place: Place<'_>, mac: [u8; 6]) -> Result<String> {
        let netns = place.namespace()?;
        let mut last = None;
        // The kernel takes links down late: the name of this pod's previous attempt may still be there.
        for name in link_names(&place.runtime.container) {
            let mut batch = Batch::default();
            batch.make_veth(&Veth {
                name: &name,
                master: None,
                mtu: self.mtu,
                peer_name: &place.runtime.interface,
                peer_mac: mac,
                peer_netns: netns.as_fd(),
            });
            match links.run(batch) {
                Err(Error::Link { act, source, .. }) if errno(&source) == Some(libc::EEXIST) => {
                    last = Some(Error::Link { act, name, source });
                }
                done => return done.map(|()| name),
            }
        }
        Err(last.expect("there is at least one name"))
    }

    /// In the pod's namespace: link up, addresses, routes, in one batch.
    fn configure(&self, interface: &str, addresses: &[Address]) -> Result<()> {
        let mut links = Links::open()?;
        let missing = || Error::Link {
            act: "find in the pod",
            name: interface.to_owned(),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        };
        let link = links.by_name(interface)?.ok_or_else(missing)?.index;
        if addresses.iter().any(|address| address.net.addr().is_ipv6()) {
            sysctl::enable_ipv6(interface)?;
            sysctl::keep_addresses(interface)?;
        }
        let mut batch = Batch::default();
        batch.set_up(interface);
        for Address { net, gateway } in addresses {
            batch.add_address(link, *net);
            let Some(gateway) = gateway else { continue };
            batch.add_route_to_link(link, host_net(*gateway), net.addr());
            batch.remove_route_to_link(link, net.trunc());
            batch.add_route_from(link, net.trunc(), *gateway, net.addr());
        }
        let gateways: Vec<IpAddr> = addresses.iter().filter_map(|address| address.gateway).collect();
        for (to, by) in self.ipam.routes_by(&gateways) {
            batch.add_route(link, to, by);
        }
        links.run(batch)
    }
}

/// The host's end: the gateways' addresses, and routes to the pod. Gives its hardware address.
fn on_the_host(links: &mut Links, name: &str, addresses: &[Address]) -> Result<[u8; 6]> {
    let gone =
        || Error::Link { act: "find", name: name.to_owned(), source: std::io::Error::from_raw_os_error(libc::ENODEV) };
    let link = links.by_name(name)?.ok_or_else(gone)?;
    let mut batch = Batch::default();
    for Address { net, gateway } in addresses {
        if let Some(gateway) = gateway {
            batch.add_address(link.index, host_net(*gateway));
        }
        batch.add_host_route(link.index, host_net(net.addr()));
    }
    links.run(batch)?;
    Ok(link.mac)
}

/// The address alone.
fn host_net(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

#[cfg(test)]
mod tests {
    use cni::Conflist;
    use serde_json::{Value, json};

    use super::*;

    fn ptp(options: Value) -> Result<Ptp> {
        let mut plugin = json!({"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
        plugin.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [plugin]});
        Ptp::new("net", &Conflist::parse(list.to_string().as_bytes()).unwrap().plugins[0])
    }

    #[test]
    fn what_ours_does_not_do_is_the_binary_s() {
        let nftables = json!({"ipMasq": true, "ipMasqBackend": "nftables"});
        for good in
            [json!({}), json!({"mtu": 1400}), json!({"ipMasq": true}), nftables, json!({"dns": {"domain": "x"}})]
        {
            assert!(ptp(good.clone()).is_ok(), "{good}");
        }
        let iptables = json!({"ipMasq": true, "ipMasqBackend": "iptables"});
        for (option, named) in [(iptables, "ipMasqBackend"), (json!({"newIn2031": 1}), "newIn2031")] {
            assert!(matches!(ptp(option), Err(Error::NotNative { key, .. }) if key == named), "{named}");
        }
        assert!(matches!(ptp(json!({"mtu": "large"})), Err(Error::Conflist { .. })));
    }
}
