//! Two nodes on one wire, each with a range of its own for its pods and a route to the other's: pods, nodes and who is
//! outside reach one another over both families, as whom the configuration says.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use api::cri::v1::Protocol as CriProtocol;
use serde_json::{Value, json};

use crate::{
    host::Netns,
    observe,
    ours::{Attached, By, Ours, port},
    reach::{Attempt, Protocol, Server, TCP, UDP, expect},
};

/// The link of each node to the wire.
const UPLINK: &str = "uplink";
/// Host ports of the pod on the first node.
const TCP_PORT: u16 = 18080;
const UDP_PORT: u16 = 18081;

/// A place by its number: 1 and 2 are the nodes, 3 is outside.
const NODES: [u8; 2] = [1, 2];
const OUTSIDE: u8 = 3;

/// Addresses of a place on the wire, of both families.
fn on_the_wire(place: u8) -> [String; 2] {
    [format!("192.168.178.{place}"), format!("fd77:178::{place}")]
}

/// The pods' ranges of a node, and the gateways in them.
fn ranges(node: u8) -> [String; 2] {
    [format!("172.21.3{node}.0/24"), format!("fd21:3{node}::/64")]
}

fn gateways(node: u8) -> [String; 2] {
    [format!("172.21.3{node}.1"), format!("fd21:3{node}::1")]
}

/// Two nodes and a machine outside, which is the wire itself: a bridge with an address.
struct Wire {
    nodes: [Netns; 2],
    outside: Netns,
}

impl Wire {
    fn new() -> Wire {
        let wire = Wire { nodes: [Netns::new(), Netns::new()], outside: Netns::new() };
        wire.outside.ip("link set lo up");
        wire.outside.ip("link add wire type bridge mcast_snooping 0");
        // Frames are passed on as on a wire, unseen by this machine's rules.
        for parameter in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            if Path::new("/proc/sys/net").join(parameter).exists() {
                wire.outside.set(parameter, "0");
            }
        }
        for (node, number) in wire.nodes.iter().zip(NODES) {
            node.ip("link set lo up");
            let path = wire.outside.path();
            node.ip(&format!("link add {UPLINK} type veth peer name node-{number} netns {}", path.display()));
            wire.outside.ip(&format!("link set node-{number} master wire up"));
        }
        wire.outside.ip("link set wire up");
        let places = [(&wire.nodes[0], UPLINK, 1), (&wire.nodes[1], UPLINK, 2), (&wire.outside, "wire", OUTSIDE)];
        for (netns, link, place) in places {
            let [v4, v6] = on_the_wire(place);
            netns.ip(&format!("address add {v4}/24 dev {link}"));
            netns.ip(&format!("address add {v6}/64 dev {link} nodad"));
            netns.ip(&format!("link set {link} up"));
            for other in NODES.into_iter().filter(|other| *other != place) {
                for (range, via) in ranges(other).iter().zip(on_the_wire(other)) {
                    netns.ip(&format!("route add {range} via {via}"));
                }
            }
        }
        wire
    }
}

/// A list of both families with host ports; `first` is its first plugin, less its addresses.
fn list(node: u8, mut first: Value, leases: &Path) -> Value {
    let [v4, v6] = ranges(node);
    first["ipam"] = json!({
        "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": v4 }], [{ "subnet": v6 }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [first, portmap] })
}

/// Who asks whom, and as whom the asked sees it: by the names of places, `a` and `b` being the pods, and by family.
struct Asks<'a> {
    attempts: Vec<(Attempt<'a>, String)>,
    addresses: BTreeMap<&'static str, [String; 2]>,
}

impl<'a> Asks<'a> {
    fn new(a: &Attached, b: &Attached) -> Asks<'a> {
        let of_pod = |pod: &Attached| <[String; 2]>::try_from(texts(pod)).unwrap();
        let addresses = BTreeMap::from([
            ("a", of_pod(a)),
            ("b", of_pod(b)),
            ("node 1", on_the_wire(1)),
            ("node 2", on_the_wire(2)),
            ("outside", on_the_wire(OUTSIDE)),
            ("gateway 1", gateways(1)),
        ]);
        Asks { attempts: Vec::new(), addresses }
    }

    /// Adds an attempt for each family and protocol: at the server's own ports.
    fn ask(&mut self, from: (&str, &'a Netns), to: &str, seen_as: &str) {
        self.at(from, to, [TCP, UDP], seen_as);
    }

    /// The same at the host ports of the first node's pod.
    fn ask_port(&mut self, from: (&str, &'a Netns), seen_as: &str) {
        self.at(from, "node 1", [TCP_PORT, UDP_PORT], seen_as);
    }

    fn at(&mut self, from: (&str, &'a Netns), to: &str, ports: [u16; 2], seen_as: &str) {
        for family in 0..2 {
            for (protocol, port) in [Protocol::Tcp, Protocol::Udp].into_iter().zip(ports) {
                let address = SocketAddr::new(self.addresses[to][family].parse().unwrap(), port);
                let name = format!("{} to {to} at {address} by {protocol:?}", from.0);
                let seen_as = format!("as {}", self.addresses[seen_as][family]);
                self.attempts.push((Attempt { name, from: from.1, to: address, protocol }, seen_as));
            }
        }
    }

    /// Makes them.
    fn expect(self, count: usize, when: &str) {
        assert_eq!(self.attempts.len(), count);
        tokio::task::block_in_place(|| expect(when, self.attempts));
    }
}

fn texts(pod: &Attached) -> Vec<String> {
    pod.ips().iter().map(ToString::to_string).collect()
}

/// Runs both nodes with such a first plugin, and has everybody ask everybody: before and after the daemons were killed
/// and started again. `masquerades`: pods are seen under their nodes' addresses by all who are not of their range.
async fn reach_one_another(by: By, first: Value, masquerades: bool) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let wire = Wire::new();
    let mut nodes = Vec::new();
    for (netns, number) in wire.nodes.iter().zip(NODES) {
        nodes.push(Ours::on(netns, by, "", |leases| list(number, first.clone(), leases)).await);
    }
    let mut with_ports = testkit::pod("a", nodes[0].node.dir());
    with_ports.port_mappings = vec![port(CriProtocol::Tcp, TCP_PORT, TCP), port(CriProtocol::Udp, UDP_PORT, UDP)];
    let a = nodes[0].run(&with_ports).await.unwrap();
    let b = testkit::pod("b", nodes[1].node.dir());
    let b = nodes[1].run(&b).await.unwrap();
    tokio::task::block_in_place(|| wire.nodes.iter().chain([&a.netns, &b.netns]).for_each(observe::settle_in));
    for round in ["as made", "after a restart"] {
        let servers = [&a.netns, &b.netns, &wire.nodes[0], &wire.nodes[1], &wire.outside].map(Server::new);
        let mut asks = Asks::new(&a, &b);
        let (in_a, in_b, outside) = (("a", &a.netns), ("b", &b.netns), ("outside", &wire.outside));
        let [on_one, on_two] = [("node 1", &wire.nodes[0]), ("node 2", &wire.nodes[1])];
        let [as_a, as_b] = if masquerades { ["node 1", "node 2"] } else { ["a", "b"] };
        asks.ask(in_a, "b", as_a);
        asks.ask(in_b, "a", as_b);
        asks.ask(in_a, "node 2", as_a);
        asks.ask(in_a, "outside", as_a);
        // What the own node takes for itself is not masqueraded.
        asks.ask(in_a, "gateway 1", "a");
        asks.ask(on_two, "a", "node 2");
        asks.ask(on_one, "a", "gateway 1");
        asks.ask(outside, "a", "outside");
        asks.ask_port(in_b, as_b);
        asks.ask_port(on_two, "node 2");
        asks.ask_port(outside, "outside");
        asks.ask_port(in_a, "gateway 1");
        asks.expect(48, &format!("{round}, by {by:?}: {first}"));
        drop(servers);
        if round == "as made" {
            let mut again = Vec::new();
            for node in nodes {
                again.push(node.restarted().await);
            }
            nodes = again;
        }
    }
    // Who comes next has the ports: nobody's flow leads to the pod that went.
    nodes[0].detach(&a.id).await.unwrap();
    nodes[0].remove(&a.id).await.unwrap();
    with_ports.metadata.as_mut().unwrap().uid = "uid-next".to_owned();
    let next = nodes[0].run(&with_ports).await.unwrap();
    let _server = Server::named(&next.netns, "the next");
    let mut asks = Asks::new(&next, &b);
    asks.ask_port(("b", &b.netns), if masquerades { "node 2" } else { "b" });
    asks.attempts.iter_mut().for_each(|(_, seen)| *seen = seen.replace("as ", "as the next sees "));
    asks.expect(4, &format!("the next pod with the ports, by {by:?}: {first}"));
    for node in nodes {
        node.finish().await;
    }
}

fn bridge(masquerades: bool) -> Value {
    json!({ "type": "bridge", "bridge": "cbr0", "isGateway": true, "hairpinMode": true, "ipMasq": masquerades })
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_nodes_on_bridges_see_one_another_as_themselves() {
    reach_one_another(By::Native, bridge(false), false).await;
    reach_one_another(By::Exec, bridge(false), false).await;
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_nodes_on_links_of_their_own_see_one_another_as_themselves() {
    reach_one_another(By::Native, json!({ "type": "ptp" }), false).await;
    reach_one_another(By::Exec, json!({ "type": "ptp" }), false).await;
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_masqueraded_are_seen_as_their_nodes_on_the_other() {
    reach_one_another(By::Native, bridge(true), true).await;
    reach_one_another(By::Exec, bridge(true), true).await;
}
