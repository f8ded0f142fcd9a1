//! What an attachment came to: the specification's *Success* result, in every version's form.
//!
//! Inside it has one form, that of 1.1. Older ones are read by what they hold, and written by the version of the list.
//! What a plugin prints is hostile until [`Success::parse`] has judged it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Most interfaces, addresses or routes that are believed. A pod has a handful.
const ENTRIES_MAX: usize = 4096;
/// Longest name, path or address of hardware that is believed, bytes.
const TEXT_MAX: usize = 4096;

/// What plugins have made of an attachment so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Success {
    /// Links, inside the pod and on the host.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Routes.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Resolver settings that the network knows of.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace it is in; empty is the host.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// A socket that stands for it.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// The device that it is.
    #[serde(default, rename = "pciID", deserialize_with = "or_none", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// With the prefix length of its subnet.
    pub address: IpNet,
    /// The way out of that subnet.
    #[serde(default, deserialize_with = "no_text", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// By way of; the gateway of an address when missing.
    #[serde(default, deserialize_with = "no_text", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Largest TCP segment to announce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// The routing table it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// What it covers: 0 global, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// Resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Resolvers, the first before the others.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to search.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The form of 0.1 and 0.2: an address a family.
#[derive(Deserialize)]
struct Legacy {
    ip4: Option<LegacyIp>,
    ip6: Option<LegacyIp>,
    #[serde(default, deserialize_with = "or_none")]
    dns: Dns,
}

#[derive(Deserialize)]
struct LegacyIp {
    ip: IpNet,
    #[serde(default, deserialize_with = "no_text")]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "or_none")]
    routes: Vec<Route>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Success {
    /// Judges what a plugin printed. What is wrong is told with its key.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let value: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        Self::read(value)
    }

    /// The same of what has been parsed already: a cached result, a `prevResult`.
    pub fn read(value: Map<String, Value>) -> std::result::Result<Self, String> {
        let is_legacy = value.contains_key("ip4") || value.contains_key("ip6");
        let told = |error: serde_json::Error| error.to_string();
        let success = if is_legacy {
            serde_json::from_value::<Legacy>(Value::Object(value)).map_err(told)?.into()
        } else {
            serde_json::from_value::<Self>(Value::Object(value)).map_err(told)?
        };
        success.check()?;
        Ok(success)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let sizes = [("interfaces", self.interfaces.len()), ("ips", self.ips.len()), ("routes", self.routes.len())];
        if let Some((key, size)) = sizes.into_iter().find(|(_, size)| *size > ENTRIES_MAX) {
            return Err(format!("{key} has {size} entries, more than {ENTRIES_MAX}"));
        }
        for (at, interface) in self.interfaces.iter().enumerate() {
            let Interface { name, mac, sandbox, socket_path, pci_id, .. } = interface;
            let texts =
                [("name", name), ("mac", mac), ("sandbox", sandbox), ("socketPath", socket_path), ("pciID", pci_id)];
            if let Some((key, _)) = texts.into_iter().find(|(_, text)| is_strange(text)) {
                return Err(format!(
                    "interfaces[{at}].{key} is longer than {TEXT_MAX} bytes, or holds control characters"
                ));
            }
        }
        for (at, ip) in self.ips.iter().enumerate() {
            if let Some(interface) = ip.interface.filter(|number| *number >= self.interfaces.len()) {
                return Err(format!("ips[{at}].interface is {interface}, and there are {}", self.interfaces.len()));
            }
            if ip.address.addr().is_unspecified() || ip.address.addr().is_multicast() {
                return Err(format!("ips[{at}].address is {}, which no pod can have", ip.address));
            }
        }
        Ok(())
    }

    /// As the given version of the specification writes it, which is also how the next plugin is told.
    pub fn render(&self, version: &str) -> Value {
        let mut value = serde_json::to_value(self).expect("texts, numbers and addresses have a JSON form");
        let mut object = std::mem::take(value.as_object_mut().expect("a struct is an object"));
        let before_1_1 = version != "1.1.0";
        let entries = |object: &mut Map<String, Value>, key: &str, change: &dyn Fn(&mut Map<String, Value>)| {
            let list = object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten();
            list.filter_map(Value::as_object_mut).for_each(change);
        };
        if before_1_1 {
            let without = |keys: &'static [&str]| {
                move |entry: &mut Map<String, Value>| keys.iter().for_each(|key| drop(entry.remove(*key)))
            };
            entries(&mut object, "interfaces", &without(&["mtu", "socketPath", "pciID"]));
            entries(&mut object, "routes", &without(&["mtu", "advmss", "priority", "table", "scope"]));
        }
        if version.starts_with("0.") {
            entries(&mut object, "ips", &|ip| {
                let is_v6 = ip.get("address").and_then(Value::as_str).is_some_and(|address| address.contains(':'));
                ip.insert("version".into(), if is_v6 { "6" } else { "4" }.into());
            });
        }
        object.insert("cniVersion".into(), version.into());
        // Plugins of those versions look for it.
        object.entry("dns").or_insert_with(|| Map::new().into());
        Value::Object(object)
    }

    /// The addresses of one interface of the pod, in the plugins' order. One that says of no interface whose it is,
    /// belongs to the interface that was asked for.
    pub fn addresses_of<'a>(&'a self, interface: &'a str) -> impl Iterator<Item = &'a Ip> {
        self.ips.iter().filter(move |ip| match ip.interface.and_then(|number| self.interfaces.get(number)) {
            Some(found) => found.name == interface && !found.sandbox.is_empty(),
            None => true,
        })
    }

    /// The interface of that name in the pod.
    pub fn inside(&self, interface: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|found| found.name == interface && !found.sandbox.is_empty())
    }
}

impl From<Legacy> for Success {
    fn from(legacy: Legacy) -> Self {
        let Legacy { ip4, ip6, dns } = legacy;
        let mut success = Self { dns, ..Self::default() };
        for LegacyIp { ip, gateway, routes } in ip4.into_iter().chain(ip6) {
            success.ips.push(Ip { address: ip, gateway, interface: None });
            success.routes.extend(routes);
        }
        success
    }
}

fn is_strange(text: &str) -> bool {
    text.len() > TEXT_MAX || text.chars().any(char::is_control)
}

/// Plugins written in Go print `null` for what is empty.
fn or_none<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// … and `""` for an address that there is not.
fn no_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            serde::de::Error::custom(format!("{:?} is no address", text.chars().take(80).collect::<String>()))
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> std::result::Result<Success, String> {
        Success::parse(value.to_string().as_bytes())
    }

    #[test]
    fn every_version_s_form_is_read_and_written() {
        let legacy = read(json!({
            "cniVersion": "0.2.0", "dns": null,
            "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
            "ip6": {"ip": "fd00::5/64", "gateway": ""},
        }))
        .unwrap();
        assert_eq!((legacy.ips.len(), legacy.routes.len(), legacy.ips[1].gateway), (2, 1, None));

        let whole = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cni0", "mac": "0a:58:0a:01:00:01"},
                {"name": "eth0", "sandbox": "/run/netns/a", "mtu": 1400, "pciID": "0000:01:00.0", "socketPath": "/s"},
            ],
            "ips": [
                {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                {"address": "fd00::5/64", "interface": 0},
            ],
            "routes": [{"dst": "0.0.0.0/0", "priority": 7}],
            "dns": {"nameservers": ["10.1.0.1"]},
        });
        let success = read(whole.clone()).unwrap();
        assert_eq!(success.render("1.1.0"), whole);
        let old = success.render("0.4.0");
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        assert!(old["interfaces"][1].get("mtu").is_none() && old["routes"][0].get("priority").is_none());
        let addresses: Vec<_> = success.addresses_of("eth0").map(|ip| ip.address.to_string()).collect();
        assert_eq!(addresses, ["10.1.0.5/16"]);
        assert_eq!(success.inside("eth0").unwrap().mtu, Some(1400));
    }

    #[test]
    fn what_cannot_be_is_named_by_its_key() {
        for (value, key) in [
            (json!({"ips": [{"address": "10.1.0.5/16", "interface": 3}]}), "ips[0].interface"),
            (json!({"ips": [{"address": "10.1.0.5/33"}]}), "address"),
            (json!({"ips": [{"address": "0.0.0.0/0"}]}), "ips[0].address"),
            (json!({"ips": [{"address": "10.1.0.5/16", "gateway": "here"}]}), "here"),
            (json!({"interfaces": [{"name": "e\u{7}"}]}), "interfaces[0].name"),
            (json!({"routes": vec![json!({"dst": "10.0.0.0/8"}); ENTRIES_MAX + 1]}), "routes"),
            (json!({"ips": 7}), "invalid type"),
        ] {
            let why = read(value.clone()).unwrap_err();
            assert!(why.contains(key), "{value} gave {why:?}");
        }
        assert_eq!(read(json!({"interfaces": null, "ips": null, "dns": null})), Ok(Success::default()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Success::parse(&bytes);
        }

        #[test]
        fn what_was_read_is_read_back_the_same(
            a: [u8; 4],
            prefix in 1_u8..=32,
            index in 0_usize..3,
            text in "[a-z0-9:]{0,12}",
        ) {
            let address = IpNet::new(IpAddr::from(a), prefix).unwrap();
            let success = Success {
                interfaces: vec![Interface { name: text.clone(), sandbox: text, ..Interface::default() }],
                ips: vec![Ip { address, gateway: Some(address.addr()), interface: Some(index) }],
                ..Success::default()
            };
            for version in ["0.3.1", "1.0.0", "1.1.0"] {
                if let Ok(read) = read(success.render(version)) {
                    prop_assert_eq!(&read, &success);
                }
            }
        }
    }
}
