//! Plugins of a configuration list that we do ourselves, in-process, with the results of the reference plugins.
//!
//! Whether a plugin is done natively is decided from its own object alone, and once for each pod: an option that ours
//! does not know sends the plugin to its binary, and is never ignored.

use std::{io, net::IpAddr, os::fd::BorrowedFd, path::Path};

use cni::{Conflist, PluginConf, Runtime, Success};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, NativePlugins, Result, host_ports::HostPorts, lingering::Lingering, mac_spoof::MacSpoof};

mod bridge;
mod check;
mod host_local;
mod idle;
mod loopback;
pub(crate) mod portmap;
mod ptp;

pub(crate) use bridge::{Bridge, link_names};
pub(crate) use host_local::{Holder, HostLocal};
pub(crate) use ptp::Ptp;

/// A plugin of a list, done by us.
#[derive(Debug)]
pub(crate) enum Native {
    /// A veth to a bridge.
    Bridge(Box<Bridge>),
    /// A veth to the host alone.
    Ptp(Box<Ptp>),
    /// The pod's own loopback.
    Loopback,
    /// Ports of the pod under the host's addresses.
    Portmap(portmap::Portmap),
    /// One that has nothing to do for most pods; for the others its binary has.
    Idle(idle::Idle),
}

/// An attachment as native plugins see it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) runtime: &'a Runtime,
    /// The pod's namespace; `None` once it is gone, which only detaching bears.
    pub(crate) netns: Option<BorrowedFd<'a>>,
    pub(crate) shared: &'a Shared,
}

impl<'a> Place<'a> {
    /// The name of the pod's namespace; empty once it is gone.
    fn path(&self) -> &'a Path {
        self.runtime.netns.as_deref().unwrap_or(Path::new(""))
    }

    /// The namespace itself.
    fn namespace(&self) -> Result<BorrowedFd<'a>> {
        let path = self.path().to_owned();
        self.netns.ok_or_else(|| Error::Netns { act: "enter", path, source: io::ErrorKind::NotFound.into() })
    }
}

/// What all native plugins of this instance share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lingering: Lingering,
    pub(crate) host_ports: HostPorts,
    pub(crate) mac_spoof: MacSpoof,
}

impl Native {
    /// Checks the plugin's object. `Err(NotNative)`: its binary does it.
    pub(crate) fn new(list: &Conflist, plugin: &PluginConf, wanted: &NativePlugins) -> Result<Self> {
        let not_native = |key: &str| Err(Error::NotNative { plugin: plugin.kind.clone(), key: key.to_owned() });
        if !wanted.includes(&plugin.kind) {
            return not_native("native_plugins of the settings");
        }
        // By these, too, something may be asked for.
        let done: &[&str] = match plugin.kind.as_str() {
            "bridge" => &["ips", "mac"],
            "ptp" => &["ips"],
            _ => &[],
        };
        if plugin.object.get("args").is_some_and(|args| !asks_only(args, done)) {
            return not_native("args");
        }
        if matches!(plugin.kind.as_str(), "bridge" | "ptp") {
            let ipam = plugin.object.get("ipam");
            if ipam.and_then(|ipam| ipam.get("type")).and_then(Value::as_str) != Some("host-local") {
                return not_native("ipam");
            }
            // All of its addresses are each pod's own to name.
            let has = |key| ipam.and_then(|ipam| ipam.get(key)).is_some_and(|ranges| !is_nothing(ranges));
            if plugin.capabilities.get(RANGES) == Some(&true) && !has("ranges") && !has("subnet") {
                return not_native(RANGES);
            }
        }
        match plugin.kind.as_str() {
            "bridge" => Ok(Self::Bridge(Box::new(Bridge::new(&list.name, plugin, None)?))),
            "ptp" => Ok(Self::Ptp(Box::new(Ptp::new(&list.name, plugin)?))),
            "portmap" => portmap::Portmap::new(plugin).map(Self::Portmap),
            "loopback" => loopback::check(plugin).map(|()| Self::Loopback),
            "bandwidth" | "tuning" => idle::Idle::new(plugin).map(Self::Idle),
            _ => not_native("this type"),
        }
    }

    /// Whether it does its part for this pod; otherwise its binary does.
    pub(crate) fn does(&self, plugin: &PluginConf, runtime: &Runtime) -> bool {
        match self {
            // What a bridge and the way out are made for is the list's own ranges.
            Self::Bridge(_) | Self::Ptp(_) => plugin.runtime_config(runtime).get(RANGES).is_none_or(is_nothing),
            Self::Loopback | Self::Portmap(_) => true,
            Self::Idle(idle) => idle.has_nothing_to_do(&plugin.runtime_config(runtime)),
        }
    }

    /// Makes its part of the attachment. Blocks; on one of [`crate::thread`]'s threads.
    pub(crate) fn add(&self, plugin: &PluginConf, place: Place<'_>, previous: Option<Success>) -> Result<Success> {
        match self {
            Self::Bridge(bridge) => bridge.add(plugin, place),
            Self::Ptp(ptp) => ptp.add(plugin, place),
            Self::Loopback => loopback::add(place, previous),
            Self::Portmap(portmap) => portmap.add(plugin, place, previous),
            Self::Idle(_) => Ok(previous.unwrap_or_default()),
        }
    }

    /// Puts back what the kernel may have lost of it while the pod lives. Blocks.
    pub(crate) fn restore(&self, plugin: &PluginConf, place: Place<'_>, made: &Success) -> Result<()> {
        match self {
            Self::Portmap(portmap) => portmap.restore(plugin, place, made),
            Self::Bridge(bridge) => bridge.restore(place, made),
            Self::Ptp(ptp) => {
                ptp.restore();
                Ok(())
            }
            Self::Loopback | Self::Idle(_) => Ok(()),
        }
    }

    /// Whether its part is as it was made; [`Error::Unlike`] says what is not. Blocks.
    pub(crate) fn check(&self, plugin: &PluginConf, place: Place<'_>, made: &Success) -> Result<()> {
        match self {
            Self::Bridge(bridge) => {
                check::links(place, made, Some(&bridge.name))?;
                check::leases(place, made, &bridge.ipam)
            }
            Self::Ptp(ptp) => {
                check::links(place, made, None)?;
                check::leases(place, made, ptp.ipam())?;
                let ips = made.addresses_of(&place.runtime.interface).map(|ip| ip.address.addr());
                let mut own = own_links(&place.runtime.container, made);
                own.next().map_or(Ok(()), |link| check::reached(&link, ips))
            }
            Self::Loopback => check::loopback(place),
            Self::Portmap(portmap) => portmap.check(plugin, place, made),
            Self::Idle(_) => Ok(()),
        }
    }

    /// Gives it back; safe to repeat, and without anything of it. Blocks.
    pub(crate) fn del(&self, place: Place<'_>, made: Option<&Success>) -> Result<()> {
        match self {
            Self::Bridge(bridge) => bridge.del(place, made),
            Self::Ptp(ptp) => ptp.del(place, made),
            Self::Portmap(_) => place.shared.host_ports.unmap(&portmap::key(place.runtime)),
            Self::Loopback | Self::Idle(_) => Ok(()),
        }
    }
}

/// Gives a pod's addresses back and lets its links on the host go. Nothing needs to exist any more; safe to repeat.
///
/// The result is what the whole chain came to, and others may have written there what they like: leases are the
/// holder's by their files, links by their names.
fn give_back(ipam: &HostLocal, place: Place<'_>, made: Option<&Success>) -> Result<()> {
    let runtime = place.runtime;
    let holder = Holder { id: &runtime.container, interface: &runtime.interface };
    let told: Vec<IpAddr> = made.into_iter().flat_map(|made| &made.ips).map(|ip| ip.address.addr()).collect();
    let is_whole = told.iter().filter(|ip| ipam.gives_out(**ip)).count() >= ipam.sets();
    let (ips, hosts) = match made {
        Some(made) if is_whole => (told, own_links(holder.id, made).collect()),
        _ => (ipam.leases.held_by(&holder)?, link_names(holder.id).collect::<Vec<_>>()),
    };
    // Noted before: whoever is given one of the addresses finds its former link.
    place.shared.lingering.add(hosts, ips.clone());
    ipam.leases.release(&holder, &ips)?;
    Ok(())
}

/// The pod's own links among those that a result names on the host.
fn own_links(container: &str, made: &Success) -> impl Iterator<Item = String> {
    let on_host = |name: &String| made.interfaces.iter().any(|link| link.sandbox.is_empty() && link.name == *name);
    link_names(container).filter(on_host)
}

/// The capability by which a pod names ranges of its own.
const RANGES: &str = "ipRanges";

/// What a pod is to have of its own: the capability arguments that the plugin declares, and what its list asks for
/// every pod (`args`). Addresses of both count, the list's first; a hardware address of a pod's own goes before the
/// list's.
fn asked(plugin: &PluginConf, runtime: &Runtime) -> Map<String, Value> {
    let mut asked = plugin.runtime_config(runtime);
    let Some(args) = plugin.object.get("args").and_then(|args| args.get("cni")) else { return asked };
    if let Some(mac) = args.get("mac")
        && asked.get("mac").is_none_or(is_nothing)
    {
        asked.insert("mac".into(), mac.clone());
    }
    match (args.get("ips"), asked.get_mut("ips")) {
        (Some(Value::Array(of_list)), Some(Value::Array(of_pod))) => *of_pod = [&of_list[..], &of_pod[..]].concat(),
        // What is no list is refused where it is read.
        (Some(ips), _) if !is_nothing(ips) => _ = asked.insert("ips".into(), ips.clone()),
        _ => {}
    }
    asked
}

/// Whether `args` ask for nothing but these.
fn asks_only(args: &Value, done: &[&str]) -> bool {
    is_nothing(args)
        || args.as_object().is_some_and(|all| {
            all.iter().all(|(key, value)| {
                let is_done = |(key, value): (&String, _)| done.contains(&key.as_str()) || is_nothing(value);
                is_nothing(value) || (key == "cni" && value.as_object().is_some_and(|all| all.iter().all(is_done)))
            })
        })
}

/// Whether a value asks for nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(asked) => !asked,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.iter().all(is_nothing),
        Value::Object(all) => all.values().all(is_nothing),
    }
}

/// Reads a plugin's own keys as `T`. A key that we do not know is the binary's business; one that holds what nobody can
/// take is a mistake.
pub(crate) fn own<T: DeserializeOwned>(plugin: &PluginConf) -> Result<T> {
    plugin.own().map_err(|error| match error {
        cni::Error::Conflist { why, .. } if why.starts_with("unknown field") => {
            let key = why.split('`').nth(1).unwrap_or("a key").to_owned();
            Error::NotNative { plugin: plugin.kind.clone(), key }
        }
        cni::Error::Conflist { key, why } => Error::Conflist { key, why },
        other => Error::Cni(other),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn native(options: Value) -> Result<(Native, PluginConf)> {
        let mut plugin = json!({"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}});
        plugin.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let list = json!({"name": "net", "cniVersion": "1.0.0", "plugins": [plugin]});
        let list = Conflist::parse(list.to_string().as_bytes()).unwrap();
        let native = Native::new(&list, &list.plugins[0], &NativePlugins::All(true))?;
        Ok((native, list.plugins[0].clone()))
    }

    fn runtime(capabilities: Value) -> Runtime {
        let Value::Object(capabilities) = capabilities else { panic!("an object") };
        let (container, interface) = ("a".to_owned(), "eth0".to_owned());
        Runtime { container, netns: None, interface, args: Vec::new(), capabilities }
    }

    #[test]
    fn args_ask_for_addresses_and_for_whatever_else_the_binary_is_asked() {
        for good in [json!({}), json!({"cni": {}}), json!({"cni": {"ips": ["10.1.0.7"], "mac": ""}, "other": null})] {
            assert!(native(json!({"args": good.clone()})).is_ok(), "{good}");
        }
        for of_binary in [json!({"cni": {"mac": "0a:58:0a:01:00:07"}}), json!({"other": {"ips": ["x"]}}), json!("ips")]
        {
            let refused = native(json!({"args": of_binary.clone()}));
            assert!(matches!(refused, Err(Error::NotNative { key, .. }) if key == "args"), "{of_binary}");
        }
        let args = json!({"cni": {"ips": ["10.1.0.7"], "mac": "0a:58:0a:01:00:07"}});
        let both = json!({"type": "bridge", "args": args, "capabilities": {"ips": true, "mac": true}});
        let (_, plugin) = native(both).unwrap();
        let of_list = asked(&plugin, &runtime(json!({})));
        assert_eq!((&of_list["ips"], &of_list["mac"]), (&json!(["10.1.0.7"]), &json!("0a:58:0a:01:00:07")));
        let of_both = asked(&plugin, &runtime(json!({"ips": ["10.1.0.9"], "mac": "0a:58:0a:01:00:09"})));
        assert_eq!((&of_both["ips"], &of_both["mac"]), (&json!(["10.1.0.7", "10.1.0.9"]), &json!("0a:58:0a:01:00:09")));
        let (_, plugin) = native(json!({"args": {"cni": {"ips": "10.1.0.7"}}})).unwrap();
        assert!(host_local::asked_addresses(&asked(&plugin, &runtime(json!({})))).is_err());
    }

    #[test]
    fn a_pod_with_ranges_of_its_own_is_the_binary_s() {
        let ranges = json!([[{"subnet": "10.2.0.0/24"}]]);
        let declares = json!({"capabilities": {"ipRanges": true}});
        let (native_part, plugin) = native(declares.clone()).unwrap();
        assert!(native_part.does(&plugin, &runtime(json!({}))));
        assert!(native_part.does(&plugin, &runtime(json!({"ipRanges": []}))));
        assert!(!native_part.does(&plugin, &runtime(json!({"ipRanges": ranges.clone()}))));
        let (deaf, plugin) = native(json!({})).unwrap();
        assert!(deaf.does(&plugin, &runtime(json!({"ipRanges": ranges}))), "nothing is passed that is not declared");
        let none = json!({"ipam": {"type": "host-local"}, "capabilities": {"ipRanges": true}});
        assert!(matches!(native(none), Err(Error::NotNative { key, .. }) if key == "ipRanges"));
    }
}
