//! The configurations on which ours and the reference plugins are compared.
//!
//! Each has subnets of its own number, and leases where [`LEASES`] stands.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use crate::{
    host::{HOST, Host},
    reach::{HostPort, Protocol, TCP, UDP},
};

/// Stands for the directory of leases.
pub(crate) const LEASES: &str = "LEASES";

/// A host port of the first pod, as a pod asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    pub(crate) protocol: &'static str,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) host_ip: &'static str,
}

/// A resolver's file, beside the leases.
const RESOLVER: &str = "resolv.conf";

/// One configuration.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The whole list.
    pub(crate) list: Value,
    /// Host ports of the first pod.
    pub(crate) ports: Vec<Mapping>,
    /// A resolver that the pods ask for.
    pub(crate) resolver: Option<&'static str>,
    /// Whether the first pod also tries with a hardware address that is not its own.
    pub(crate) spoofs: bool,
    /// A word of the error, where nobody can attach a pod.
    pub(crate) refused: Option<&'static str>,
    /// What the host's administrator has done before, as arguments of `ip`.
    pub(crate) before: &'static [&'static str],
}

impl Case {
    /// A host of its own.
    pub(crate) fn host(&self) -> Host {
        let host = Host::new();
        self.before.iter().for_each(|arguments| _ = host.netns.ip(arguments));
        host
    }

    /// The list, with its leases there, and the resolver's file beside them if it has one.
    pub(crate) fn list_at(&self, leases: &Path) -> Value {
        let text = self.list.to_string().replace(LEASES, &leases.display().to_string());
        if text.contains(RESOLVER) {
            fs::write(leases.join(RESOLVER), "nameserver 172.21.5.9\nsearch c.example\noptions ndots:4\n").unwrap();
        }
        serde_json::from_str(&text).unwrap()
    }

    /// What a runtime passes for the first pod (`with_ports`) or for another.
    pub(crate) fn capabilities(&self, with_ports: bool) -> Map<String, Value> {
        let mut given = Map::new();
        if with_ports && !self.ports.is_empty() {
            let ports = self.ports.iter().map(|port| {
                let mut entry = json!({
                    "hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.protocol,
                });
                if !port.host_ip.is_empty() {
                    entry["hostIP"] = port.host_ip.into();
                }
                entry
            });
            given.insert("portMappings".into(), ports.collect());
        }
        if let Some(server) = self.resolver {
            given.insert(
                "dns".into(),
                json!({ "servers": [server], "searches": ["a.example"], "options": ["ndots:3"] }),
            );
        }
        given
    }

    /// The host ports that can be tried.
    pub(crate) fn host_ports(&self) -> Vec<HostPort> {
        let tried = self.ports.iter().filter_map(|port| {
            let protocol = match port.protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                // Few kernels of tests have it: what is told of it in the result is compared.
                _ => return None,
            };
            Some(HostPort { protocol, port: port.host_port })
        });
        tried.collect()
    }
}

fn case(name: &'static str, plugins: Vec<Value>) -> Case {
    of_version("1.0.0", name, plugins)
}

fn of_version(version: &str, name: &'static str, plugins: Vec<Value>) -> Case {
    let list = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
    Case { name, list, ports: Vec::new(), resolver: None, spoofs: false, refused: None, before: &[] }
}

impl Case {
    fn ports(mut self, ports: &[(&'static str, u16, u16, &'static str)]) -> Case {
        self.ports = ports
            .iter()
            .map(|&(protocol, host_port, container_port, host_ip)| Mapping {
                protocol,
                host_port,
                container_port,
                host_ip,
            })
            .collect();
        self
    }
}

/// The first subnets of both families; a second of IPv4 in the same place.
const V4: &str = "172.21.5.0/24";
const V6: &str = "fd21:5::/64";

/// host-local with these range sets, and more keys.
fn ipam(ranges: Value, more: Value) -> Value {
    let mut ipam = json!({ "type": "host-local", "dataDir": LEASES, "ranges": ranges });
    let own = ipam.as_object_mut().unwrap();
    own.extend(more.as_object().unwrap().clone());
    if own["ranges"].is_null() {
        own.remove("ranges");
    }
    ipam
}

fn v4() -> Value {
    ipam(json!([[{ "subnet": V4 }]]), json!({ "routes": [{ "dst": "0.0.0.0/0" }] }))
}

fn v6() -> Value {
    ipam(json!([[{ "subnet": V6 }]]), json!({ "routes": [{ "dst": "::/0" }] }))
}

fn dual() -> Value {
    let routes = json!({ "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] });
    ipam(json!([[{ "subnet": V4 }], [{ "subnet": V6 }]]), routes)
}

fn plugin(kind: &str, ipam: Value, more: Value) -> Value {
    let mut plugin = json!({ "type": kind, "ipam": ipam });
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin
}

fn bridge(ipam: Value, more: Value) -> Value {
    let mut own = json!({ "bridge": "cbr0" });
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    plugin("bridge", ipam, own)
}

fn ptp(ipam: Value, more: Value) -> Value {
    plugin("ptp", ipam, more)
}

fn portmap(more: Value) -> Value {
    let mut own = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    own
}

/// The ports of most cases: both protocols that can be tried.
const PORTS: [(&str, u16, u16, &str); 2] = [("tcp", 18080, TCP, ""), ("udp", 18081, UDP, "")];

pub(crate) fn cases() -> Vec<Case> {
    [of_bridge(), of_addresses(), of_ptp(), of_chains(), of_ports(), of_versions()].into_iter().flatten().collect()
}

/// A bridge with addresses that are not the gateways', and one that can stay.
const OTHER_ADDRESSES: [&str; 4] = [
    "link add cbr0 type bridge",
    "address add 172.21.7.1/24 dev cbr0",
    "address add fd21:5::77/64 dev cbr0 nodad",
    "address add fd21:7::1/64 dev cbr0 nodad",
];

/// Somebody on the bridge has the first pod's address: the host.
const SOMEBODY_ELSE: [&str; 2] = ["link add cbr0 up type bridge", "address add fd21:5::2/64 dev cbr0 nodad"];

fn of_bridge() -> Vec<Case> {
    let ordinary = || json!({ "isGateway": true, "ipMasq": true });
    let with = |key: &str, value: Value| {
        let mut own = ordinary();
        own[key] = value;
        own
    };
    vec![
        case("bridge", vec![bridge(v4(), json!({}))]),
        case("bridge that is the gateway", vec![bridge(v4(), json!({ "isGateway": true }))]),
        case("bridge that is the default gateway", {
            let no_routes = ipam(json!([[{ "subnet": V4 }]]), json!({}));
            vec![bridge(no_routes, json!({ "isDefaultGateway": true }))]
        }),
        case("bridge with masquerade", vec![bridge(v4(), ordinary())]).spoofs(),
        case("bridge with masquerade by nftables", vec![bridge(v4(), with("ipMasqBackend", "nftables".into()))]),
        case("bridge with hairpins", vec![bridge(v4(), with("hairpinMode", true.into()))]),
        case("bridge that takes all packets", vec![bridge(v4(), with("promiscMode", true.into()))]),
        case("bridge with an mtu", vec![bridge(v4(), with("mtu", 1400.into()))]),
        case("bridge with isolated ports", vec![bridge(v4(), with("portIsolation", true.into()))]),
        case("bridge with a check of hardware addresses", vec![bridge(v4(), with("macspoofchk", true.into()))])
            .spoofs(),
        case("bridge that forces its address", vec![bridge(v4(), with("forceAddress", true.into()))]),
        case("bridge that forces its address upon another", vec![bridge(dual(), with("forceAddress", true.into()))])
            .before(&OTHER_ADDRESSES),
        case("bridge that has another address", vec![bridge(dual(), ordinary())])
            .before(&OTHER_ADDRESSES)
            .refused("already has an IP address"),
        case("bridge that is to take all packets from now on", {
            vec![bridge(v4(), with("promiscMode", true.into()))]
        })
        .before(&["link add cbr0 type bridge"]),
        case("bridge without duplicate detection", vec![bridge(dual(), with("enabledad", false.into()))]),
        case("bridge with duplicate detection", vec![bridge(dual(), with("enabledad", true.into()))]),
        case("bridge with duplicate detection of IPv4", vec![bridge(v4(), with("enabledad", true.into()))]),
        case("bridge with duplicate detection that finds one", vec![bridge(dual(), json!({ "enabledad": true }))])
            .before(&SOMEBODY_ELSE)
            .refused("DADFAILED"),
        case(
            "bridge without a container interface's link",
            vec![bridge(v4(), with("disableContainerInterface", false.into()))],
        ),
        case("bridge of another name", vec![bridge(v4(), json!({ "bridge": "cni-other", "isGateway": true }))]),
        case("bridge of no name", vec![plugin("bridge", v4(), json!({ "isGateway": true }))]),
        case("bridge that takes all packets and hairpins", {
            vec![bridge(v4(), json!({ "promiscMode": true, "hairpinMode": true }))]
        })
        .refused("hairpin"),
    ]
}

impl Case {
    fn refused(mut self, word: &'static str) -> Case {
        self.refused = Some(word);
        self
    }

    fn spoofs(mut self) -> Case {
        self.spoofs = true;
        self
    }

    fn before(mut self, before: &'static [&'static str]) -> Case {
        self.before = before;
        self
    }

    fn resolver(mut self, server: &'static str) -> Case {
        self.resolver = Some(server);
        self
    }
}

fn two_subnets() -> Value {
    json!([[{ "subnet": V4 }], [{ "subnet": "172.21.6.0/24" }]])
}

fn of_addresses() -> Vec<Case> {
    let gateway = || json!({ "isGateway": true, "ipMasq": true });
    let one = |name, ranges: Value, more: Value| case(name, vec![bridge(ipam(ranges, more), gateway())]);
    vec![
        case("IPv6 alone", vec![bridge(v6(), gateway())]),
        case("two families", vec![bridge(dual(), gateway())]),
        case("two families by the default gateway", {
            let no_routes = ipam(json!([[{ "subnet": V4 }], [{ "subnet": V6 }]]), json!({}));
            vec![bridge(no_routes, json!({ "isDefaultGateway": true, "ipMasq": true }))]
        }),
        case("two families by nftables", {
            vec![bridge(dual(), json!({ "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables" }))]
        }),
        one("IPv6 first", json!([[{ "subnet": V6 }], [{ "subnet": V4 }]]), json!({})),
        one("two addresses of one family", two_subnets(), json!({})).refused("already has an IP address"),
        case("two addresses of one family and no gateway", vec![bridge(ipam(two_subnets(), json!({})), json!({}))]),
        case("a set of two ranges", {
            let ranges = json!([[{ "subnet": "172.21.5.0/30" }, { "subnet": "172.21.6.0/24" }]]);
            vec![ptp(ipam(ranges, json!({})), json!({}))]
        }),
        one(
            "a part of a range",
            json!([[{ "subnet": V4, "rangeStart": "172.21.5.20", "rangeEnd": "172.21.5.40" }]]),
            json!({}),
        ),
        one("a gateway of another number", json!([[{ "subnet": V4, "gateway": "172.21.5.254" }]]), json!({})),
        one(
            "a gateway in the middle",
            json!([[{ "subnet": V4, "rangeStart": "172.21.5.2", "gateway": "172.21.5.2" }]]),
            json!({}),
        ),
        one("a small subnet", json!([[{ "subnet": "172.21.5.0/29" }]]), json!({})),
        one("routes", json!([[{ "subnet": V4 }]]), {
            json!({ "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "192.168.200.0/24", "gw": "172.21.5.7" }] })
        }),
        one("the old form of a range", Value::Null, {
            let routes = json!([{ "dst": "0.0.0.0/0" }]);
            json!({ "subnet": V4, "rangeStart": "172.21.5.9", "gateway": "172.21.5.3", "routes": routes })
        }),
        one(
            "a full range",
            json!([[{ "subnet": V4, "rangeStart": "172.21.5.9", "rangeEnd": "172.21.5.9" }]]),
            json!({}),
        )
        .refused("no IP addresses available"),
        case("an address that is asked for", {
            let mut own = gateway();
            own["args"] = json!({ "cni": { "ips": ["172.21.5.77"] } });
            vec![bridge(v4(), own)]
        })
        .refused("requested"),
        case("a resolver", {
            let mut own = gateway();
            own["dns"] = json!({ "nameservers": ["172.21.5.1"], "domain": "a.example", "search": ["b.example"] });
            vec![bridge(v4(), own)]
        }),
        case("a resolver by capability", {
            let mut own = gateway();
            own["capabilities"] = json!({ "dns": true });
            vec![bridge(v4(), own)]
        })
        .resolver("172.21.5.1"),
        one("a resolver of the addresses", json!([[{ "subnet": V4 }]]), json!({ "resolvConf": "LEASES/resolv.conf" })),
    ]
}

fn of_ptp() -> Vec<Case> {
    vec![
        case("ptp", vec![ptp(v4(), json!({}))]),
        case("ptp with masquerade", vec![ptp(v4(), json!({ "ipMasq": true }))]),
        case("ptp with masquerade by nftables", {
            vec![ptp(v4(), json!({ "ipMasq": true, "ipMasqBackend": "nftables" }))]
        }),
        case("ptp with an mtu", vec![ptp(v4(), json!({ "ipMasq": true, "mtu": 1300 }))]),
        case("ptp with a resolver", {
            vec![ptp(v4(), json!({ "dns": { "nameservers": ["172.21.5.1"], "options": ["ndots:2"] } }))]
        }),
        case("ptp of two families", vec![ptp(dual(), json!({ "ipMasq": true }))]),
        case("ptp of IPv6 alone", vec![ptp(v6(), json!({}))]),
        case("ptp with host ports", vec![ptp(v4(), json!({ "ipMasq": true })), portmap(json!({}))]).ports(&PORTS),
    ]
}

fn of_chains() -> Vec<Case> {
    let first = || bridge(v4(), json!({ "isGateway": true, "ipMasq": true }));
    vec![
        case("loopback in a chain", vec![first(), json!({ "type": "loopback" })]),
        case("bandwidth with nothing to do", {
            vec![first(), json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } })]
        }),
        case("tuning with nothing to do", vec![first(), json!({ "type": "tuning" })]),
        case("firewall with nothing to do", vec![first(), json!({ "type": "firewall", "backend": "iptables" })]),
        case("portmap with nothing to do", vec![first(), portmap(json!({}))]),
        case("a usual chain", {
            let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
            vec![
                bridge(dual(), json!({ "isGateway": true, "ipMasq": true, "hairpinMode": true })),
                portmap(json!({})),
                bandwidth,
            ]
        })
        .ports(&PORTS),
    ]
}

fn of_ports() -> Vec<Case> {
    let on = |bridge_keys: Value, portmap_keys: Value| vec![bridge(v4(), bridge_keys), portmap(portmap_keys)];
    let hairpin = || json!({ "isGateway": true, "ipMasq": true, "hairpinMode": true });
    vec![
        case("host ports", on(hairpin(), json!({}))).ports(&PORTS),
        case("host ports by nftables", on(hairpin(), json!({ "backend": "nftables" }))).ports(&PORTS),
        case("host ports without hairpins", on(json!({ "isGateway": true, "ipMasq": true }), json!({}))).ports(&PORTS),
        case("host ports without masquerade", on(hairpin(), json!({ "snat": false }))).ports(&PORTS),
        case("host ports that masquerade all", on(hairpin(), json!({ "masqAll": true }))).ports(&PORTS),
        case("host ports of an address", on(hairpin(), json!({}))).ports(&[("tcp", 18080, TCP, HOST[0])]),
        case("host ports of the loopback", on(hairpin(), json!({}))).ports(&[("tcp", 18080, TCP, "127.0.0.1")]),
        case("host ports of any address", on(hairpin(), json!({}))).ports(&[("tcp", 18080, TCP, "0.0.0.0")]),
        case("host ports of sctp", on(hairpin(), json!({}))).ports(&[("sctp", 18082, 8082, ""), PORTS[0]]),
        case("host ports of two families", vec![bridge(dual(), hairpin()), portmap(json!({}))]).ports(&PORTS),
    ]
}

fn of_versions() -> Vec<Case> {
    let of = |version, name| {
        let keys = json!({ "isGateway": true, "ipMasq": true, "hairpinMode": true });
        of_version(version, name, vec![bridge(dual(), keys), portmap(json!({}))]).ports(&PORTS)
    };
    vec![
        of("0.3.1", "version 0.3.1"),
        of("0.4.0", "version 0.4.0"),
        of("1.0.0", "version 1.0.0"),
        of("1.1.0", "version 1.1.0"),
    ]
}
