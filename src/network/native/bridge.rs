//! The `bridge` plugin: a bridge with the gateways' addresses on the host, a veth from it into every pod.
//!
//! [`Bridge::prepare`] makes what all pods share, once, and may be repeated at any time: it mends what somebody broke.
//! [`Bridge::add`] and [`Bridge::del`] do what one pod needs and touch nothing shared.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use cni::{Dns, PluginConf, Success};
use ipnet::IpNet;
use serde::Deserialize;

use super::{
    Place,
    host_local::{self, HostLocal},
    own,
};
use crate::{Error, Result, link::Links, masquerade, netlink::errno, sysctl};

mod ground;
mod pod;

pub(crate) use pod::{link_names, mac_of};

/// The plugin's options as written. Unknown ones are refused; known ones that we do not do are refused when they ask
/// for anything.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Conf {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    port_isolation: bool,
    #[serde(default)]
    mtu: u32,
    ipam: host_local::Conf,
    #[serde(default)]
    dns: Dns,
    /// Says what becomes of a VLAN's port; without `vlan` and `vlanTrunk` there is none.
    #[serde(default, rename = "preserveDefaultVlan")]
    _preserve_default_vlan: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    enabledad: bool,
    #[serde(default)]
    macspoofchk: bool,
    // Not done natively.
    #[serde(default)]
    vlan: u32,
    /// Asks for a pod's link that is down, and so for none of the addresses that we hand out.
    #[serde(default)]
    disable_container_interface: bool,
}

fn default_bridge() -> String {
    "cni0".into()
}

/// Largest packet where the configuration names none, in bytes: Ethernet's.
const MTU: u32 = 1500;

/// A checked `bridge` plugin of one network.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) ipam: HostLocal,
    /// Who has it to himself, as written on the bridge (`ip link` shows it as the alias). With `None` any bridge of
    /// that name will do, as for the reference plugin.
    owner: Option<String>,
    /// What was found or made, until somebody takes it away.
    ground: Mutex<Option<Ground>>,
    dns: Dns,
    gateway: bool,
    default_routes: bool,
    masquerade: bool,
    hairpin: bool,
    isolated: bool,
    /// The bridge takes every packet.
    takes_all: bool,
    /// The bridge's addresses that are in the way of the gateways are removed.
    forces_address: bool,
    /// A pod's addresses of IPv6 are looked for on the bridge first.
    detects_duplicates: bool,
    /// A pod may send under its own hardware address alone.
    checks_senders: bool,
}

/// What [`Bridge::prepare`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ground {
    /// Index of the bridge.
    pub(crate) index: u32,
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
    /// Whether it keeps that one, whatever ports come and go.
    pub(crate) keeps_mac: bool,
    /// What an operator should know though it works.
    pub(crate) notes: Vec<String>,
}

impl Bridge {
    /// Checks the plugin's object. Touches nothing.
    pub(crate) fn new(network: &str, plugin: &PluginConf, owner: Option<String>) -> Result<Self> {
        let not_native = |key: &str| Err(Error::NotNative { plugin: plugin.kind.clone(), key: key.to_owned() });
        if plugin.kind != "bridge" {
            return not_native("this type");
        }
        let conf: Conf = own(plugin)?;
        for (asked, key) in [
            (conf.vlan != 0, "vlan"),
            (conf.disable_container_interface, "disableContainerInterface"),
            (conf.ip_masq_backend.as_deref().is_some_and(|backend| backend != "nftables"), "ipMasqBackend"),
        ] {
            if asked {
                return not_native(key);
            }
        }
        if !crate::config::is_link_name(&conf.bridge) {
            let why = format!("{:?} is not a link's name", conf.bridge);
            return Err(Error::Conflist { key: "bridge.bridge".into(), why });
        }
        if conf.hairpin_mode && conf.promisc_mode {
            // In the words of the reference plugin: a port would give back what the bridge takes for itself.
            let why = "cannot set hairpin mode and promiscuous mode at the same time".to_owned();
            return Err(Error::Conflist { key: "bridge.promiscMode".into(), why });
        }
        let ipam = HostLocal::new(network, conf.ipam)?;
        // The reference has the gateways take the bridge from each other, pod after pod.
        if conf.force_address && ground::check_gateways(&conf.bridge, &ipam.gateway_of_each_set()).is_err() {
            return not_native("forceAddress");
        }
        Ok(Self {
            ipam,
            name: conf.bridge,
            owner,
            ground: Mutex::default(),
            dns: conf.dns,
            mtu: if conf.mtu == 0 { MTU } else { conf.mtu },
            gateway: conf.is_gateway || conf.is_default_gateway,
            default_routes: conf.is_default_gateway,
            masquerade: conf.ip_masq,
            hairpin: conf.hairpin_mode,
            isolated: conf.port_isolation,
            takes_all: conf.promisc_mode,
            forces_address: conf.force_address,
            detects_duplicates: conf.enabledad,
            checks_senders: conf.macspoofchk,
        })
    }

    /// Makes or mends what all pods of the network share: the bridge, its addresses, forwarding, the way out.
    ///
    /// A bridge that carries another instance's name, or none and is in use, is not touched by an owner.
    pub(crate) fn prepare(&self, links: &mut Links) -> Result<Ground> {
        // Once at a time; nobody attaches to what is being mended.
        let mut kept = self.ground.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = None;
        let ground = self.make_ground(links)?;
        *kept = Some(ground.clone());
        Ok(ground)
    }

    fn make_ground(&self, links: &mut Links) -> Result<Ground> {
        let subnets = self.subnets();
        // Whoever writes a list of his own may have his reasons.
        let mut notes = match &self.owner {
            Some(_) => ground::check_subnets(links, &self.name, &subnets)?,
            None => Vec::new(),
        };
        let mut bridge = ground::ensure_bridge(links, self)?;
        if self.gateway {
            let gateways = self.ipam.gateways();
            if self.owner.is_none() {
                ground::check_gateways(&self.name, &self.ipam.gateway_of_each_set())?;
            }
            if self.forces_address {
                ground::make_way(links, &bridge, &gateways)?;
            }
            ground::ensure_addresses(links, &mut bridge, &gateways, self.owner.is_some())?;
            if self.owner.is_some() {
                notes.extend(ground::drop_turned_off(links, &bridge, &gateways)?);
            }
            if gateways.iter().any(|gateway| gateway.addr().is_ipv4()) {
                sysctl::forward_ipv4()?;
            }
            if gateways.iter().any(|gateway| gateway.addr().is_ipv6()) {
                sysctl::forward_ipv6(links)?;
            }
        }
        if self.masquerade && !masquerade::is_in_place(&self.name, &subnets)? {
            masquerade::ensure(links, &self.name, &subnets)?;
        }
        let keeps_mac = self.owner.is_some() || ground::keeps_mac(&bridge);
        Ok(Ground { index: bridge.index, mac: bridge.mac, keeps_mac, notes })
    }

    /// What was found or made last; made now if nothing was.
    fn ground(&self, links: &mut Links) -> Result<Ground> {
        let known = self.ground.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(|| self.prepare(links), Ok)
    }

    /// Index of the bridge, where one was found or made.
    pub(crate) fn index(&self) -> Option<u32> {
        self.ground.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|ground| ground.index)
    }

    /// Attaches a pod: on return its addresses answer.
    pub(super) fn add(&self, plugin: &PluginConf, place: Place<'_>) -> Result<Success> {
        let mut links = Links::open()?;
        let ground = self.ground(&mut links)?;
        let asked = pod::Asked::of(plugin, place)?;
        match self.attach(&mut links, &ground, place, &asked) {
            // Somebody took the bridge away; it is made anew, once.
            Err(Error::Link { act: "make veth", source, .. })
                if matches!(errno(&source), Some(libc::ENODEV | libc::EINVAL)) =>
            {
                let ground = self.prepare(&mut links)?;
                self.attach(&mut links, &ground, place, &asked)
            }
            done => done,
        }
    }

    /// Puts back what the kernel may have lost of a pod's part.
    pub(super) fn restore(&self, place: Place<'_>, made: &Success) -> Result<()> {
        if self.checks_senders { self.check_made(place, made) } else { Ok(()) }
    }

    /// Takes down what [`Bridge::prepare`] made, if no pod uses it and it is the owner's. Slow, and never needed by a
    /// running node: for throwaway instances.
    pub(crate) fn dismantle(&self, links: &mut Links) -> Result<()> {
        *self.ground.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ground::remove_bridge(links, &self.name, self.owner.as_deref())?;
        if self.masquerade { masquerade::remove(links, &self.name) } else { Ok(()) }
    }

    /// The networks that pods of this network live in.
    fn subnets(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = self.ipam.gateways().iter().map(IpNet::trunc).collect();
        all.dedup();
        all
    }

    /// Routes of a pod with these gateways: the configuration's, and a default one for each family that has none yet.
    fn routes(&self, gateways: &[IpAddr]) -> Vec<(IpNet, IpAddr)> {
        let mut all = self.ipam.routes_by(gateways);
        if self.default_routes {
            for gateway in gateways {
                let any = IpNet::new(*gateway, 0).expect("no prefix is too short").trunc();
                if !all.iter().any(|(dst, _)| *dst == any) {
                    all.push((any, *gateway));
                }
            }
        }
        all
    }

    /// The default routes that `isDefaultGateway` adds to the configuration's, as the result tells them.
    fn default_routes_beside(&self, routes: &[cni::Route], got: &[crate::address::Address]) -> Vec<cni::Route> {
        let mut added: Vec<cni::Route> = Vec::new();
        for gateway in got.iter().filter_map(|address| address.gateway) {
            let any = IpNet::new(gateway, 0).expect("no prefix is too short").trunc();
            if !routes.iter().chain(&added).any(|route| route.dst == any) {
                added.push(host_local::route(any, Some(gateway)));
            }
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use cni::Conflist;

    fn bridge(options: Value) -> Result<Bridge> {
        let mut plugin = json!({
            "type": "bridge", "bridge": "crtn-unit", "capabilities": {"ips": true},
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]],
                     "routes": [{"dst": "192.168.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]},
        });
        plugin.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [plugin]});
        let list = Conflist::parse(list.to_string().as_bytes()).unwrap();
        Bridge::new(&list.name, &list.plugins[0], None)
    }

    #[test]
    fn an_option_that_is_not_done_is_refused_and_never_ignored() {
        for key in ["promiscMode", "forceAddress", "enabledad", "macspoofchk"] {
            for asked in [false, true] {
                assert!(bridge(json!({ key: asked })).is_ok(), "{key}");
            }
        }
        let key = "disableContainerInterface";
        assert!(bridge(json!({ key: false })).is_ok());
        assert!(matches!(bridge(json!({ key: true })), Err(Error::NotNative { key: named, .. }) if named == key));
        assert!(bridge(json!({"preserveDefaultVlan": true})).is_ok(), "without a VLAN it asks for nothing");
        assert!(matches!(bridge(json!({"vlan": 7})), Err(Error::NotNative { .. })));
        assert!(matches!(bridge(json!({"vlanTrunk": [{"id": 7}]})), Err(Error::NotNative { .. })));
        assert!(matches!(bridge(json!({"ipMasqBackend": "iptables"})), Err(Error::NotNative { .. })));
        assert!(matches!(bridge(json!({"newIn2031": 1})), Err(Error::NotNative { key, .. }) if key == "newIn2031"));
        assert!(matches!(bridge(json!({"isGateway": "yes"})), Err(Error::Conflist { .. })));
        let both = bridge(json!({"promiscMode": true, "hairpinMode": true}));
        assert!(matches!(both, Err(Error::Conflist { key, .. }) if key == "bridge.promiscMode"));
        let ranges = json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]);
        let ipam = json!({"type": "host-local", "ranges": ranges});
        let two = bridge(json!({"forceAddress": true, "ipam": ipam}));
        assert!(matches!(two, Err(Error::NotNative { key, .. }) if key == "forceAddress"));
    }

    #[test]
    fn a_default_route_of_the_configuration_is_not_doubled() {
        let bridge = bridge(json!({"isDefaultGateway": true})).unwrap();
        let gateways: Vec<IpAddr> = vec!["10.1.0.1".parse().unwrap(), "fd00:1::1".parse().unwrap()];
        let routes: Vec<String> =
            bridge.routes(&gateways).iter().map(|(to, gateway)| format!("{to} via {gateway}")).collect();
        assert_eq!(routes, ["192.168.0.0/16 via 10.1.0.1", "0.0.0.0/0 via 10.1.0.9", "::/0 via fd00:1::1"]);
    }
}
