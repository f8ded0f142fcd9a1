//! The `portmap` plugin: ports of the pod under the host's addresses, by [`crate::host_ports`].

use std::net::IpAddr;

use cni::{PluginConf, Runtime, Success};
use ipnet::IpNet;
use model::Protocol;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Place, own};
use crate::{Error, Result, host_ports::Mapping};

/// The plugin's options as written. Unknown ones are refused; known ones that we do not do are refused when they ask
/// for anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Conf {
    #[serde(default = "yes")]
    snat: bool,
    backend: Option<String>,
    // Not done natively.
    #[serde(default)]
    masq_all: bool,
    mark_masq_bit: Option<u32>,
    external_set_mark_chain: Option<String>,
    conditions_v4: Option<Vec<String>>,
    conditions_v6: Option<Vec<String>>,
}

fn yes() -> bool {
    true
}

/// A mapping as the capability has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// A checked `portmap` plugin.
#[derive(Debug)]
pub(crate) struct Portmap {
    snat: bool,
}

impl Portmap {
    /// Checks the plugin's object.
    pub(super) fn new(plugin: &PluginConf) -> Result<Self> {
        let conf: Conf = own(plugin)?;
        let asks = |conditions: &Option<Vec<String>>| conditions.as_ref().is_some_and(|all| !all.is_empty());
        for (asked, key) in [
            (conf.masq_all, "masqAll"),
            (conf.mark_masq_bit.is_some_and(|bit| bit != MASQ_BIT), "markMasqBit"),
            (conf.external_set_mark_chain.is_some_and(|chain| !chain.is_empty()), "externalSetMarkChain"),
            (asks(&conf.conditions_v4), "conditionsV4"),
            (asks(&conf.conditions_v6), "conditionsV6"),
            (conf.backend.is_some_and(|backend| !["", "nftables"].contains(&backend.as_str())), "backend"),
        ] {
            if asked {
                return Err(Error::NotNative { plugin: plugin.kind.clone(), key: key.to_owned() });
            }
        }
        Ok(Self { snat: conf.snat })
    }

    /// Shows the ports that the pod asks for.
    pub(super) fn add(&self, plugin: &PluginConf, place: Place<'_>, previous: Option<Success>) -> Result<Success> {
        let made = previous.unwrap_or_default();
        let mappings = mappings(&plugin.runtime_config(place.runtime))?;
        map(place, &mappings, &made, self.snat)?;
        Ok(made)
    }

    /// Puts back what the kernel has lost of a pod's ports.
    pub(super) fn restore(&self, plugin: &PluginConf, place: Place<'_>, made: &Success) -> Result<()> {
        map(place, &mappings(&plugin.runtime_config(place.runtime))?, made, self.snat)
    }

    /// Whether the pod's ports are shown.
    pub(super) fn check(&self, plugin: &PluginConf, place: Place<'_>, made: &Success) -> Result<()> {
        check(place, &mappings(&plugin.runtime_config(place.runtime))?, made)
    }
}

/// Whether the ports of a pod with these addresses are shown.
pub(crate) fn check(place: Place<'_>, mappings: &[Mapping], made: &Success) -> Result<()> {
    let addresses: Vec<IpNet> = made.addresses_of(&place.runtime.interface).map(|ip| ip.address).collect();
    place.shared.host_ports.check(&key(place.runtime), mappings, &addresses)
}

/// The bit of a packet's mark that ours uses, and the reference plugin when it is not told another.
const MASQ_BIT: u32 = 13;

/// Shows ports of a pod with these addresses.
pub(crate) fn map(place: Place<'_>, mappings: &[Mapping], made: &Success, snat: bool) -> Result<()> {
    let addresses: Vec<IpNet> = made.addresses_of(&place.runtime.interface).map(|ip| ip.address).collect();
    place.shared.host_ports.map(&key(place.runtime), mappings, &addresses, snat)
}

/// Whose ports these are: those of a pod's first network are its own, the others' have their interface beside.
pub(crate) fn key(runtime: &Runtime) -> String {
    let Runtime { container, interface, .. } = runtime;
    if interface == "eth0" { container.clone() } else { format!("{container}/{interface}") }
}

/// The mappings of the capability arguments; those without a host port ask for nothing.
pub(crate) fn mappings(asked: &Map<String, Value>) -> Result<Vec<Mapping>> {
    let refused = |why: String| Error::Asked { capability: "portMappings".into(), why };
    let all = asked.get("portMappings").and_then(Value::as_array).into_iter().flatten();
    let mut mappings = Vec::new();
    for (at, value) in all.enumerate() {
        let Asked { host_port, container_port, protocol, host_ip } =
            Asked::deserialize(value).map_err(|error| refused(format!("[{at}]: {error}")))?;
        if host_port == 0 {
            continue;
        }
        let port = |name: &str, port: i64| {
            let port = u16::try_from(port).ok().filter(|port| *port > 0);
            port.ok_or_else(|| refused(format!("[{at}].{name}: {value} has no port from 1 to 65535 there")))
        };
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(refused(format!("[{at}].protocol: {protocol:?} is none of tcp, udp, sctp"))),
        };
        let host_ip = match host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse::<IpAddr>().map_err(|_| refused(format!("[{at}].hostIP: {ip:?} is no address")))?),
        };
        mappings.push(Mapping {
            protocol,
            host_port: port("hostPort", host_port)?,
            container_port: port("containerPort", container_port)?,
            host_ip,
        });
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use cni::Conflist;
    use serde_json::json;

    use super::*;

    fn portmap(options: Value) -> Result<Portmap> {
        let mut plugin = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        plugin.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [plugin]});
        Portmap::new(&Conflist::parse(list.to_string().as_bytes()).unwrap().plugins[0])
    }

    #[test]
    fn what_ours_does_not_do_is_the_binary_s() {
        for good in [json!({}), json!({"snat": false}), json!({"backend": "nftables"}), json!({"markMasqBit": 13})] {
            assert!(portmap(good.clone()).is_ok(), "{good}");
        }
        assert!(portmap(json!({})).unwrap().snat && !portmap(json!({"snat": false})).unwrap().snat);
        for (option, named) in [
            (json!({"conditionsV4": ["-d", "10.0.0.0/8"]}), "conditionsV4"),
            (json!({"masqAll": true}), "masqAll"),
            (json!({"markMasqBit": 7}), "markMasqBit"),
            (json!({"externalSetMarkChain": "KUBE-MARK-MASQ"}), "externalSetMarkChain"),
            (json!({"backend": "iptables"}), "backend"),
            (json!({"newIn2031": 1}), "newIn2031"),
        ] {
            assert!(matches!(portmap(option), Err(Error::NotNative { key, .. }) if key == named), "{named}");
        }
        assert!(matches!(portmap(json!({"snat": "yes"})), Err(Error::Conflist { .. })));
    }

    #[test]
    fn mappings_are_read_as_runtimes_write_them_and_mistakes_named() {
        let read = |mapping: Value| mappings(json!({"portMappings": [mapping]}).as_object().unwrap());
        let whole = json!({"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.1"});
        let [mapping] = read(whole).unwrap()[..] else { panic!("one") };
        assert_eq!((mapping.protocol, mapping.host_port, mapping.container_port), (Protocol::Udp, 8080, 80));
        assert!(read(json!({"hostPort": 0, "containerPort": 80})).unwrap().is_empty());
        assert!(mappings(&Map::new()).unwrap().is_empty());
        for (mapping, named) in [
            (json!({"hostPort": 65536, "containerPort": 80}), "hostPort"),
            (json!({"hostPort": 80, "containerPort": 0}), "containerPort"),
            (json!({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}), "protocol"),
            (json!({"hostPort": 80, "containerPort": 80, "hostIP": "here"}), "hostIP"),
            (json!({"hostPort": "80"}), "[0]"),
        ] {
            let refused = read(mapping).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }
}
