//! Services beside host ports: a cluster address and a node port, as kube-proxy programs them, lead to a pod of ours
//! from every side, also where it is the pod itself that asks; and neither kube-proxy nor we disturb what the other has
//! written.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use api::cri::v1::Protocol as CriProtocol;
use serde_json::{Value, json};
use testkit::eventually;

use crate::{
    host::{HOST, Host, Netns, OUTSIDE},
    kube_proxy::{KubeProxy, Mode, Service},
    observe,
    ours::{Attached, By, Ours, port},
    reach::{Attempt, Protocol, Server, TCP, UDP, expect, expect_no_answer},
};

/// The pods' ranges and gateways.
const RANGES: [&str; 2] = ["172.21.41.0/24", "fd21:41::/64"];
const GATEWAYS: [&str; 2] = ["172.21.41.1", "fd21:41::1"];
/// The services' addresses, which nobody has; their ports, and one at which nobody serves.
const CLUSTER: [&str; 2] = ["172.31.41.10", "fd31:41::10"];
const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];
const NOBODY: u16 = 81;
/// Their ports on every node, and the pod's own.
const NODE_PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 30_080), (Protocol::Udp, 30_053)];
const HOST_PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 18_080), (Protocol::Udp, 18_081)];

/// For what happens at once.
const SOON: Duration = Duration::from_secs(10);

fn list(first: &Value, leases: &Path) -> Value {
    let mut first = first.clone();
    first["ipam"] = json!({
        "type": "host-local", "dataDir": leases, "ranges": RANGES.map(|range| [json!({ "subnet": range })]),
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
    });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [first, portmap] })
}

/// The services of both families, with this pod as their endpoint.
fn services(pod: &[IpAddr]) -> Vec<Service> {
    let names = [["WEB4", "NAMES4", "NONE4"], ["WEB6", "NAMES6", "NONE6"]];
    let mut all = Vec::new();
    for (family, [web, dns, none]) in names.into_iter().enumerate() {
        let cluster = |port| SocketAddr::new(CLUSTER[family].parse().unwrap(), port);
        let endpoint = |port| Some(SocketAddr::new(pod[family], port));
        let service =
            |name, protocol, cluster, node_port, endpoint| Service { name, protocol, cluster, node_port, endpoint };
        all.push(service(web, "tcp", cluster(PORTS[0].1), NODE_PORTS[0].1, endpoint(TCP)));
        all.push(service(dns, "udp", cluster(PORTS[1].1), NODE_PORTS[1].1, endpoint(UDP)));
        all.push(service(none, "tcp", cluster(NOBODY), 30_081, None));
    }
    all
}

/// Who asks.
struct Askers<'a> {
    host: &'a Host,
    a: &'a Attached,
    b: &'a Attached,
    /// As whom the pod sees another that asks at its host port: on a bridge the answer has to go by the host.
    neighbour: [String; 2],
}

type Expected<'a> = Vec<(Attempt<'a>, String)>;

impl<'a> Askers<'a> {
    /// Adds an attempt for each family, which the pod `a` answers.
    fn ask(
        all: &mut Expected<'a>,
        from: (&str, &'a Netns),
        to: [&str; 2],
        ports: [(Protocol, u16); 2],
        seen_as: [&str; 2],
    ) {
        for (to, seen_as) in to.into_iter().zip(seen_as) {
            for (protocol, port) in ports {
                let to = SocketAddr::new(to.parse().unwrap(), port);
                let name = format!("{} to {to} by {protocol:?}", from.0);
                all.push((Attempt { name, from: from.1, to, protocol }, format!("as a sees {seen_as}")));
            }
        }
    }

    /// At the services, from everywhere.
    fn at_services(&self) -> Expected<'a> {
        let mut all = Vec::new();
        let as_b: Vec<_> = self.b.ips().iter().map(ToString::to_string).collect();
        let (a, b) = (("a", &self.a.netns), ("b", &self.b.netns));
        let (host, outside) = (("host", &self.host.netns), ("outside", &self.host.outside));
        Self::ask(&mut all, b, CLUSTER, PORTS, [&as_b[0], &as_b[1]]);
        // The pod itself, which has to be answered by way of the host.
        Self::ask(&mut all, a, CLUSTER, PORTS, GATEWAYS);
        Self::ask(&mut all, host, CLUSTER, PORTS, GATEWAYS);
        for from in [a, b, host, outside] {
            Self::ask(&mut all, from, HOST, NODE_PORTS, GATEWAYS);
        }
        all
    }

    /// At a port of the services' addresses that has no endpoint.
    fn at_nobody(&self) -> Expected<'a> {
        let places = [("b", &self.b.netns), ("host", &self.host.netns)].into_iter();
        let all = places.flat_map(|place| CLUSTER.map(|to| (place, to))).map(|((from, netns), to)| {
            let (name, to) = (format!("{from} to nobody at {to}"), SocketAddr::new(to.parse().unwrap(), NOBODY));
            (Attempt { name, from: netns, to, protocol: Protocol::Tcp }, "refused".to_owned())
        });
        all.collect()
    }

    /// At the pod's host ports.
    fn at_ports(&self) -> Expected<'a> {
        let mut all = Vec::new();
        Self::ask(&mut all, ("outside", &self.host.outside), HOST, HOST_PORTS, OUTSIDE);
        Self::ask(&mut all, ("host", &self.host.netns), HOST, HOST_PORTS, HOST);
        Self::ask(&mut all, ("a", &self.a.netns), HOST, HOST_PORTS, GATEWAYS);
        let [v4, v6] = &self.neighbour;
        Self::ask(&mut all, ("b", &self.b.netns), HOST, HOST_PORTS, [v4, v6]);
        all
    }

    fn expect_all(&self, when: &str) {
        let all = [self.at_services(), self.at_nobody(), self.at_ports()].into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(all.len(), 28 + 4 + 16);
        tokio::task::block_in_place(|| expect(when, all));
    }

    fn expect_ports(&self, when: &str) {
        tokio::task::block_in_place(|| expect(when, self.at_ports()));
    }
}

/// A node with this first plugin and kube-proxy on one host.
async fn beside_kube_proxy(by: By, mode: Mode, first: Value) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    // From pod to pod of one bridge, answers pass no rule of IP otherwise, and nobody takes the service's address back.
    let sees_frames = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    assert!(sees_frames, "kube-proxy wants the kernel's br_netfilter: modprobe br_netfilter");
    let host = Host::new();
    let mut ours = Ours::on(&host.netns, by, "", |leases| list(&first, leases)).await;
    let mut config = testkit::pod("a", ours.node.dir());
    let of = |(protocol, host_port): (Protocol, u16)| match protocol {
        Protocol::Tcp => port(CriProtocol::Tcp, host_port, TCP),
        Protocol::Udp => port(CriProtocol::Udp, host_port, UDP),
    };
    config.port_mappings = HOST_PORTS.map(of).into();
    let a = ours.run(&config).await.unwrap();
    let b = testkit::pod("b", ours.node.dir());
    let b = ours.run(&b).await.unwrap();
    tokio::task::block_in_place(|| [&host.netns, &a.netns, &b.netns].into_iter().for_each(observe::settle_in));
    let _server = Server::named(&a.netns, "a");
    let of_b = || b.ips().iter().map(ToString::to_string).collect::<Vec<_>>().try_into().unwrap();
    let neighbour = if first["type"] == "bridge" { GATEWAYS.map(str::to_owned) } else { of_b() };
    let askers = Askers { host: &host, a: &a, b: &b, neighbour };
    let node = HOST.map(|ip| ip.parse().unwrap());
    let proxy = KubeProxy { mode, host: &host.netns, node, pods: RANGES, services: services(&a.ips()) };
    askers.expect_ports("before there are services");
    proxy.program();
    let written = proxy.written();
    askers.expect_all("with services");

    ours = ours.restarted().await;
    assert_eq!(proxy.written(), written, "our daemon has come again");
    askers.expect_all("after our restart");

    proxy.flush();
    tokio::task::block_in_place(|| expect_no_answer("flushed", askers.at_services()));
    askers.expect_ports("while kube-proxy's are flushed");
    proxy.program();
    askers.expect_all("with services again");

    // Others come and go.
    let mut other = testkit::pod("other", ours.node.dir());
    other.port_mappings = vec![port(CriProtocol::Tcp, 18_090, TCP)];
    let other = ours.run(&other).await.unwrap();
    ours.detach(&other.id).await.unwrap();
    ours.remove(&other.id).await.unwrap();
    assert_eq!(proxy.written(), written, "another pod has come and gone");
    if by == By::Native {
        let table = || host.netns.run("nft list table inet coracle");
        let elements = |text: &str| text.matches(&a.id).count();
        let before = elements(&table());
        assert!(before > 0, "{}", table());
        host.netns.run("nft delete table inet coracle");
        eventually(SOON, "our table is back", || {
            let now = host.netns.run("nft list ruleset");
            if elements(&now) == before { Ok(()) } else { Err(now) }
        });
    }
    askers.expect_all("at the end");
    assert_eq!(proxy.written(), written);
    ours.finish().await;
    assert_eq!(proxy.written(), written, "our node has gone");
}

fn bridge() -> Value {
    json!({ "type": "bridge", "bridge": "cbr0", "isGateway": true, "hairpinMode": true, "ipMasq": true })
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn services_by_nftables_stand_beside_our_host_ports() {
    beside_kube_proxy(By::Native, Mode::Nftables, bridge()).await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn services_by_iptables_stand_beside_our_host_ports() {
    beside_kube_proxy(By::Native, Mode::Iptables, bridge()).await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn services_stand_beside_the_host_ports_of_the_reference_plugins() {
    beside_kube_proxy(By::Exec, Mode::Nftables, bridge()).await;
    beside_kube_proxy(By::Exec, Mode::Iptables, bridge()).await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn services_lead_to_pods_on_links_of_their_own() {
    beside_kube_proxy(By::Native, Mode::Nftables, json!({ "type": "ptp", "ipMasq": true })).await;
    beside_kube_proxy(By::Native, Mode::Iptables, json!({ "type": "ptp", "ipMasq": true })).await;
}
