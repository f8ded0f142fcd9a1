//! What the kernel says of a host and its pods, flat: one text for each thing, by a name such as
//! `A link eth0 mtu`. What no two runs share (hardware addresses, numbers and made-up names of links, ids) is replaced.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde_json::Value;
use testkit::eventually;

use crate::host::{Host, Netns, UPLINK};

/// One text for each thing.
pub(crate) type Flat = BTreeMap<String, String>;

/// How long duplicate addresses are looked for, and links may take to come up.
const SETTLES: Duration = Duration::from_secs(10);

/// Of a link, what depends on the moment, or on how many links there were before.
const VOLATILE: [&str; 31] = [
    "ifindex",
    "link_index",
    "link_netnsid",
    "link",
    "ifname",
    "address",
    "broadcast",
    "permaddr",
    "bridge_id",
    "root_id",
    "root_port",
    "root_path_cost",
    "designated_bridge",
    "designated_root",
    "designated_port",
    "designated_cost",
    "id",
    "no",
    "config_pending",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "gc_timer",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "topology_change_ack",
    "topology_change",
    "topology_change_detected",
    "parentdev",
    "altnames",
];

/// Kernel parameters that are not a link's.
const PARAMETERS: [&str; 3] = ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables", "ipv4/ip_nonlocal_bind"];

/// A pod as it is looked at.
pub(crate) struct Pod<'a> {
    /// `A` or `B`.
    pub(crate) name: &'a str,
    pub(crate) id: &'a str,
    pub(crate) netns: &'a Netns,
}

/// Names of the host's links by what they are in both halves.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// The host's ends of the pods' links are named after the pods.
    pub(crate) fn find(host: &Host, pods: &[Pod<'_>]) -> Names {
        let on_host = json(&host.netns, "-j link show");
        let mut names = BTreeMap::new();
        for pod in pods {
            for link in json(pod.netns, "-j link show").as_array().unwrap() {
                let peer = on_host.as_array().unwrap().iter().find(|one| one["ifindex"] == link["link_index"]);
                if let Some(peer) = peer.filter(|_| link["link_netnsid"].is_number()) {
                    names.insert(text(&peer["ifname"]), format!("veth-of-{}", pod.name));
                }
            }
        }
        Names(names)
    }

    fn of(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| name.to_owned())
    }
}

/// Waits until the host's ends of the links of all other pods are gone.
pub(crate) fn others_go(host: &Host, pods: &[Pod<'_>]) {
    eventually(SETTLES, "the links of pods that went are gone", || {
        let names = Names::find(host, pods);
        let links = json(&host.netns, "-j -d link show type veth");
        let mut left = links.as_array().unwrap().iter().map(|link| text(&link["ifname"]));
        match left.find(|name| name != UPLINK && !names.0.contains_key(name)) {
            Some(name) => Err(name),
            None => Ok(()),
        }
    });
}

/// Waits until nobody looks for duplicates of an address any more, and every link that can come up is up.
pub(crate) fn settle(host: &Host, pods: &[Pod<'_>]) {
    std::iter::once(&host.netns).chain(pods.iter().map(|pod| pod.netns)).for_each(settle_in);
}

/// The same in one namespace.
pub(crate) fn settle_in(netns: &Netns) {
    eventually(SETTLES, "the addresses settle", || {
        let links = json(netns, "-j -d address show");
        let unsettled = |link: &&Value| {
            let addresses = link["addr_info"].as_array().into_iter().flatten();
            let has = |flag: &str| flags(link).iter().any(|one| one == flag);
            let is_coming = has("UP") && !has("NO-CARRIER") && link["operstate"] == "DOWN";
            // A bridge loses its carrier with its last port, a moment later.
            let has_ports = || links.as_array().unwrap().iter().any(|one| one["master"] == link["ifname"]);
            let is_going = link["linkinfo"]["info_kind"] == "bridge" && has("UP") && !has("NO-CARRIER") && !has_ports();
            is_coming || is_going || addresses.into_iter().any(|one| one["tentative"] == true)
        };
        match links.as_array().unwrap().iter().find(unsettled) {
            Some(link) => Err(link.to_string()),
            None => Ok(()),
        }
    });
}

/// Links, addresses, routes and kernel parameters of the host and of the pods.
pub(crate) fn kernel(host: &Host, pods: &[Pod<'_>]) -> Flat {
    let names = Names::find(host, pods);
    let mut flat = Flat::new();
    let places = std::iter::once(("host", &host.netns)).chain(pods.iter().map(|pod| (pod.name, pod.netns)));
    for (place, netns) in places {
        links(place, netns, &names, &mut flat);
        addresses(place, netns, &names, &mut flat);
        routes(place, netns, &names, &mut flat);
        parameters(place, netns, &names, &mut flat);
    }
    flat
}

fn links(place: &str, netns: &Netns, names: &Names, flat: &mut Flat) {
    let links = json(netns, "-j -d link show");
    for link in links.as_array().unwrap() {
        let name = names.of(&text(&link["ifname"]));
        let mut link = link.clone();
        if let Some(master) = link.get("master").map(text) {
            link["master"] = names.of(&master).into();
        }
        flatten(&format!("{place} link {name}"), &link, flat);
    }
}

fn flatten(name: &str, value: &Value, flat: &mut Flat) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(key, _)| !VOLATILE.contains(&key.as_str())) {
                flatten(&format!("{name} {key}"), value, flat);
            }
        }
        Value::Array(list) => {
            let mut words: Vec<_> = list.iter().map(text).collect();
            words.sort();
            flat.insert(name.to_owned(), words.join(","));
        }
        other => _ = flat.insert(name.to_owned(), text(other)),
    }
}

fn addresses(place: &str, netns: &Netns, names: &Names, flat: &mut Flat) {
    for link in json(netns, "-j address show").as_array().unwrap() {
        let name = names.of(&text(&link["ifname"]));
        let mut order = Vec::new();
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let mut rest = address.as_object().unwrap().clone();
            let local = shown_address(&text(&rest.remove("local").unwrap_or_default()));
            let prefix = rest.remove("prefixlen").unwrap_or_default();
            let own = format!("{local}/{prefix}");
            rest.remove("label");
            let rest: Vec<_> = rest.iter().map(|(key, value)| format!("{key} {}", text(value))).collect();
            flat.insert(format!("{place} address {name} {own}"), rest.join(", "));
            order.push(own);
        }
        flat.insert(format!("{place} addresses {name}"), order.join(" "));
    }
}

fn routes(place: &str, netns: &Netns, names: &Names, flat: &mut Flat) {
    for family in ["-4", "-6"] {
        for route in json(netns, &format!("{family} -j -N -d route show table all")).as_array().unwrap() {
            let mut rest = route.as_object().unwrap().clone();
            for (_, value) in rest.iter_mut() {
                if let Some(word) = value.as_str() {
                    *value = shown_address(&names.of(word)).into();
                }
            }
            let mut take = |key: &str| rest.remove(key).map(|value| text(&value)).unwrap_or_default();
            let (kind, dst, table, dev) = (take("type"), take("dst"), take("table"), take("dev"));
            let rest: Vec<_> = rest.iter().map(|(key, value)| format!("{key} {}", text(value))).collect();
            let mut name = format!("{place} route {family} {kind} {dst} table {table} dev {dev}");
            while flat.contains_key(&name) {
                name.push('+');
            }
            flat.insert(name, rest.join(", "));
        }
        let rules = json(netns, &format!("{family} -j rule show"));
        flat.insert(format!("{place} rules {family}"), rules.to_string());
    }
}

/// An address that a link has made of its hardware address is no two links' own.
fn shown_address(text: &str) -> String {
    let is_of_hardware = text.starts_with("fe80::") && text.contains("ff:fe");
    if is_of_hardware { "fe80::HARDWARE".to_owned() } else { text.to_owned() }
}

/// Of every link, the defaults included; and a few of the whole namespace.
fn parameters(place: &str, netns: &Netns, names: &Names, flat: &mut Flat) {
    let found = netns.inside(|| {
        let mut found = Vec::new();
        let read = |file: &Path| fs::read_to_string(file).ok().map(|value| value.trim().to_owned());
        for family in ["ipv4", "ipv6"] {
            for link in fs::read_dir(format!("/proc/sys/net/{family}/conf")).into_iter().flatten().flatten() {
                for file in fs::read_dir(link.path()).into_iter().flatten().flatten() {
                    let key =
                        (family, link.file_name().into_string().unwrap(), file.file_name().into_string().unwrap());
                    found.extend(read(&file.path()).map(|value| (key, value)));
                }
            }
        }
        for name in PARAMETERS {
            let key = ("", String::new(), name.to_owned());
            found.extend(read(&Path::new("/proc/sys/net").join(name)).map(|value| (key, value)));
        }
        found
    });
    for ((family, link, name), value) in found {
        flat.insert(format!("{place} parameter {family} {} {name}", names.of(&link)), value);
    }
}

/// A result up to names and hardware addresses. Of an address, only whether it is the link's own is known.
pub(crate) fn result(host: &Host, pods: &[Pod<'_>], of: &str, result: &Value) -> Flat {
    let names = Names::find(host, pods);
    let pod = pods.iter().find(|pod| pod.name == of).unwrap();
    let mut result = result.clone();
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        let is_inside = interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
        let name = text(&interface["name"]);
        let links = json(if is_inside { pod.netns } else { &host.netns }, "-j link show");
        let link = links.as_array().unwrap().iter().find(|link| link["ifname"] == name.as_str()).cloned();
        let link = link.unwrap_or_default();
        interface["name"] = names.of(&name).into();
        if is_inside {
            interface["sandbox"] = "the pod".into();
        }
        if interface.get("mac").is_some() {
            let is_own = link["address"] == interface["mac"];
            interface["mac"] = if is_own { "the link's" } else { "not the link's" }.into();
        }
    }
    let mut flat = Flat::new();
    if result["interfaces"].is_null() {
        result.as_object_mut().map(|result| result.remove("interfaces"));
    }
    in_order(&format!("{of} result"), &result, &mut flat);
    flat
}

/// As [`flatten`], where order is part of what is told.
fn in_order(name: &str, value: &Value, flat: &mut Flat) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| in_order(&format!("{name} {key}"), value, flat)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(at, value)| in_order(&format!("{name} {at}"), value, flat));
        }
        other => _ = flat.insert(name.to_owned(), text(other)),
    }
}

/// Every file below a directory of leases, with what is in it.
pub(crate) fn leases(dir: &Path, pods: &[Pod<'_>]) -> Flat {
    let mut flat = Flat::new();
    let mut next = vec![dir.to_owned()];
    while let Some(now) = next.pop() {
        for entry in fs::read_dir(now).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                next.push(path);
                continue;
            }
            let mut content = fs::read_to_string(&path).unwrap_or_default();
            for pod in pods {
                content = content.replace(pod.id, pod.name);
            }
            let below = path.strip_prefix(dir).unwrap().display().to_string();
            flat.insert(format!("lease {below}"), format!("{content:?}"));
        }
    }
    flat
}

fn json(netns: &Netns, arguments: &str) -> Value {
    let said = netns.ip(arguments);
    // Where there is nothing to tell, some of ip's lists are no JSON at all.
    if said.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&said).expect(arguments) }
}

fn flags(link: &Value) -> Vec<String> {
    link["flags"].as_array().into_iter().flatten().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
