//! Every reference plugin as a node calls it: RunPodSandbox gives the link and the address as told, with what the
//! plugin is for, and after StopPodSandbox and RemovePodSandbox the host is as it was.
//!
//! A kind of link that this kernel does not have (here `ipvlan`, `vlan`, `vrf` and `dummy`; the guest of `tests/vm` has
//! all) is refused for that very reason, and leaves nothing. Bridge, ptp, host-local, portmap and loopback are compared
//! in [`crate::cases`].

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    host::{HOST, Host, Netns, OUTSIDE, UPLINK},
    observe,
    ours::{Attached, By, Ours},
    reach::{Attempt, Protocol, Server, TCP, expect},
};

mod dhcp;
mod links;

/// For what happens at once.
const SOON: Duration = Duration::from_secs(10);

/// The address that static IPAM gives, on the uplink's own subnet.
const GIVEN: [&str; 2] = ["192.168.177.50", "fd77:177::50"];

/// Static IPAM with the given addresses.
fn given() -> Value {
    json!({ "type": "static", "addresses": [
        { "address": format!("{}/24", GIVEN[0]), "gateway": OUTSIDE[0] },
        { "address": format!("{}/64", GIVEN[1]), "gateway": OUTSIDE[1] },
    ]})
}

/// A bridge with an address from host-local, for plugins that come after another.
fn bridge(leases: &Path) -> Value {
    let routes = json!([{ "dst": "0.0.0.0/0" }]);
    let ipam = json!({ "type": "host-local", "dataDir": leases, "subnet": "172.21.61.0/24", "routes": routes });
    json!({ "type": "bridge", "bridge": "cbr0", "isGateway": true, "ipMasq": true, "ipam": ipam })
}

/// What of the host a pod could leave behind, a text for each kind of thing.
fn belongings(host: &Netns) -> BTreeMap<&'static str, String> {
    let kinds = [
        ("links", "ip -j link show"),
        ("addresses", "ip -j address show"),
        ("routes", "ip -j route show table all"),
        ("routes of IPv6", "ip -j -6 route show table all"),
        ("rules", "ip -j rule show"),
        ("rules of IPv6", "ip -j -6 rule show"),
        ("queues", "tc -j qdisc show"),
        ("ruleset", "nft -s list ruleset"),
    ];
    kinds.into_iter().map(|(kind, command)| (kind, host.run(command))).collect()
}

/// Names of links in what `ip -j` or `tc -j` tells, but for the bridge, which stays.
fn names(text: &str, key: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(text).unwrap();
    let names = all.as_array().unwrap().iter().map(|one| one[key].as_str().unwrap().to_owned());
    names.filter(|name| name != "cbr0").collect()
}

/// A pod's whole life on a network of these plugins. `kind` is what `ip link add` is given for a link that the kernel
/// has to have: where it has not, the pod is refused for that.
async fn life(
    plugins: impl FnOnce(&Path) -> Vec<Value>,
    annotations: &[(&str, &str)],
    kind: Option<&str>,
    prepare: impl FnOnce(&Host),
    seen: impl FnOnce(&Host, &Attached),
) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let host = Host::new();
    prepare(&host);
    let list = |leases: &Path| json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins(leases) });
    let mut ours = Ours::on(&host.netns, By::Exec, "", list).await;
    let mut pod = testkit::pod("a", ours.node.dir());
    pod.annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let before = belongings(&host.netns);
    let lacks = kind.and_then(lacks);
    match ours.run(&pod).await {
        Ok(attached) => {
            assert_eq!(lacks, None, "a pod runs without the kernel");
            tokio::task::block_in_place(|| {
                let inside = attached.netns.ip("-j address show dev eth0");
                let ips = attached.ips();
                assert!(!ips.is_empty(), "{}", attached.result);
                assert!(ips.iter().all(|ip| inside.contains(&format!("\"{ip}\""))), "{ips:?} in {inside}");
                seen(&host, &attached);
            });
            ours.detach(&attached.id).await.unwrap();
            ours.remove(&attached.id).await.unwrap();
            nothing_is_left(
                &host,
                &before,
                &[attached.id.clone()].into_iter().chain(texts(&attached)).collect::<Vec<_>>(),
            );
        }
        Err(status) => {
            let Some(lacks) = lacks else { panic!("{status}") };
            let said = status.message();
            assert!(said.contains("operation not supported"), "{said}, where the kernel says {lacks}");
            println!("{}: this kernel has no such links ({lacks}): the pod is refused", kind.unwrap());
            nothing_is_left(&host, &before, &[]);
        }
    }
    assert_eq!(ours.cached(), Vec::<String>::new(), "results of nobody");
    let left = observe::leases(&ours.leases(), &[]).into_keys().filter(|name| name.contains("172.21."));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new(), "leases of nobody");
    ours.finish().await;
}

fn texts(pod: &Attached) -> Vec<String> {
    pod.ips().iter().map(ToString::to_string).collect()
}

/// What the kernel says where it does not know this kind of link; `None` where it makes one. Not on the host: the first
/// link of some kinds stays for ever in a namespace's rules.
fn lacks(kind: &str) -> Option<String> {
    let scratch = Netns::new();
    scratch.ip(&format!("link add {UPLINK} type veth peer name far-{UPLINK}"));
    let output = scratch.try_run(&format!("ip link add {kind}"));
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(said.contains("Unknown device type") || said.contains("not supported"), "ip link add {kind}: {said}");
    Some(said)
}

/// Waits until the links are those that were there, and then holds everything else against it: nothing has another
/// link's name or one of these words.
fn nothing_is_left(host: &Host, before: &BTreeMap<&str, String>, words: &[String]) {
    eventually(SOON, "the links are those that were there", || {
        let now = names(&host.netns.ip("-j link show"), "ifname");
        if now == names(&before["links"], "ifname") { Ok(()) } else { Err(now) }
    });
    let after = belongings(&host.netns);
    assert_eq!(names(&after["queues"], "dev"), names(&before["queues"], "dev"), "queues");
    for kind in ["rules", "rules of IPv6"] {
        assert_eq!(after[kind], before[kind], "{kind}");
    }
    for (kind, text) in after {
        let word = words.iter().find(|word| has(&text, word));
        assert_eq!(word, None, "{kind}: {text}");
    }
}

/// Whether a text has this word, and not only at the beginning of a longer one.
fn has(text: &str, word: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|next: char| next.is_ascii_hexdigit());
    text.match_indices(word).any(|(at, _)| !goes_on(&text[at + word.len()..]))
}

/// Everybody outside reaches the pod at these addresses, and is seen as itself.
fn is_reached_from_outside(host: &Host, pod: &Attached) {
    observe::settle_in(&pod.netns);
    let _server = Server::named(&pod.netns, "pod");
    let asked = pod.ips().into_iter().map(|ip| {
        let own = OUTSIDE[usize::from(ip.is_ipv6())];
        let name = format!("outside to {ip}");
        let attempt = Attempt { name, from: &host.outside, to: (ip, TCP).into(), protocol: Protocol::Tcp };
        (attempt, format!("as pod sees {own}"))
    });
    expect("a pod on the uplink", asked.collect());
}

fn kind_of(pod: &Attached, link: &str) -> Value {
    let links: Value = serde_json::from_str(&pod.netns.ip(&format!("-d -j link show {link}"))).unwrap();
    links[0]["linkinfo"]["info_kind"].clone()
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_limits_what_the_annotations_ask_for() {
    let plugins =
        |leases: &Path| vec![bridge(leases), json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } })];
    let asked = [("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "5M")];
    life(
        plugins,
        &asked,
        Some("probe type ifb"),
        |_| (),
        |host, _| {
            let queues: Value = serde_json::from_str(&host.netns.run("tc -j qdisc show")).unwrap();
            let rates = queues.as_array().unwrap().iter().filter(|queue| queue["kind"] == "tbf");
            let mut rates: Vec<_> = rates.map(|queue| queue["options"]["rate"].as_u64().unwrap()).collect();
            rates.sort_unstable();
            // Bytes a second.
            assert_eq!(rates, [5_000_000 / 8, 10_000_000 / 8], "{queues}");
            assert!(queues.as_array().unwrap().iter().any(|queue| queue["kind"] == "ingress"), "{queues}");
        },
    )
    .await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn tuning_sets_what_it_is_told() {
    let plugins = |leases: &Path| {
        let sysctl = json!({ "net.core.somaxconn": "517", "net.ipv4.conf.eth0.arp_filter": "1" });
        vec![bridge(leases), json!({ "type": "tuning", "sysctl": sysctl, "mtu": 1391, "mac": "02:11:22:33:44:55" })]
    };
    life(
        plugins,
        &[],
        None,
        |_| (),
        |host, pod| {
            let read = |name: &str| pod.netns.run(&format!("cat /proc/sys/net/{name}"));
            assert_eq!((read("core/somaxconn").trim(), read("ipv4/conf/eth0/arp_filter").trim()), ("517", "1"));
            assert_ne!(host.netns.run("cat /proc/sys/net/core/somaxconn").trim(), "517");
            let link: Value = serde_json::from_str(&pod.netns.ip("-j link show eth0")).unwrap();
            assert_eq!((&link[0]["mtu"], &link[0]["address"]), (&json!(1391), &json!("02:11:22:33:44:55")));
        },
    )
    .await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn firewall_lets_a_pod_out_of_a_host_that_forwards_nothing() {
    let plugins = |leases: &Path| vec![bridge(leases), json!({ "type": "firewall", "backend": "iptables" })];
    let closed = |host: &Host| _ = host.netns.run("iptables -P FORWARD DROP");
    life(plugins, &[], None, closed, |host, pod| {
        let rules = host.netns.run("iptables -S CNI-FORWARD");
        assert!(rules.contains(&texts(pod)[0]), "{rules}");
        let _server = Server::named(&host.outside, "outside");
        let to = (OUTSIDE[0].parse::<std::net::IpAddr>().unwrap(), TCP).into();
        let attempt = Attempt { name: "pod to outside".to_owned(), from: &pod.netns, to, protocol: Protocol::Tcp };
        expect("with a firewall", vec![(attempt, format!("as outside sees {}", HOST[0]))]);
    })
    .await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_come_after_another_route_by_source_and_by_table() {
    life(
        |leases| vec![bridge(leases), json!({ "type": "sbr" })],
        &[],
        None,
        |_| (),
        |_, pod| {
            let rules = pod.netns.ip("-j rule show");
            assert!(rules.contains(&format!("\"src\":\"{}\"", texts(pod)[0])), "{rules}");
        },
    )
    .await;
    let plugins = |leases: &Path| vec![bridge(leases), json!({ "type": "vrf", "vrfname": "red" })];
    life(
        plugins,
        &[],
        Some("probe type vrf table 10"),
        |_| (),
        |_, pod| {
            let link: Value = serde_json::from_str(&pod.netns.ip("-j link show eth0")).unwrap();
            assert_eq!((kind_of(pod, "red"), &link[0]["master"]), (json!("vrf"), &json!("red")));
        },
    )
    .await;
}
