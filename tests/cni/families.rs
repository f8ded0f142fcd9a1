//! Pods of IPv6 alone, of IPv4 alone and of both, as a client of CRI meets them: which addresses the status names and
//! which of them first, who reaches whom from within containers, host ports, and the resolver's file.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::cri::v1::{DnsConfig, PodSandboxStatusRequest, Protocol as CriProtocol};
use serde_json::{Value, json};
use testkit::{Cri, NodeOptions, eventually_async};

use crate::{
    host::{HOST, Host, Netns, OUTSIDE},
    observe,
    ours::port,
    reach::{Attempt, Protocol, Server, TCP, UDP, expect},
    reference,
    support::{self, PROBE},
};

const SOON: Duration = Duration::from_secs(10);

/// The pods' ranges, IPv4's first.
const RANGES: [&str; 2] = ["172.21.51.0/24", "fd21:51::/64"];
/// Host ports of the first pod, and where its own server listens beside the test's.
const HOST_PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 18_080), (Protocol::Udp, 18_081)];
const HTTP: u16 = 8000;

/// Where the pods' network comes from.
#[derive(Debug, Clone, Copy)]
enum Network {
    /// The built-in one.
    BuiltIn,
    /// A list of the usual plugins, done by ourselves or by their binaries.
    List { native: bool },
}

/// Families in an order: `4`, `6`.
type Families = &'static [u8];

/// The built-in network, and a list by ourselves and by the reference plugins, each with these ranges; the addresses in
/// the order that the status is to have.
async fn by_every_network(ranges: Families, ip_pref: &str, expected: Families) {
    for network in [Network::BuiltIn, Network::List { native: true }, Network::List { native: false }] {
        // The built-in one has no order of its own but IPv4's first.
        let is_another_order = ranges == [6, 4];
        if !(is_another_order && matches!(network, Network::BuiltIn)) {
            live(network, ranges, ip_pref, expected).await;
        }
    }
}

fn range(family: u8) -> &'static str {
    RANGES[usize::from(family == 6)]
}

/// Lines of the settings, with files of the list where it has any.
fn settings(network: Network, ranges: Families, ip_pref: &str, dir: &std::path::Path) -> (String, Option<String>) {
    let pref = format!("ip_pref = \"{ip_pref}\"\n");
    let Network::List { native } = network else {
        let of = |family| if ranges.contains(&family) { range(family) } else { "" };
        let subnets = format!("subnet_v4 = \"{}\"\nsubnet_v6 = \"{}\"", of(4), of(6));
        return (pref, Some(subnets));
    };
    fs::create_dir(dir.join("net.d")).unwrap();
    let sets = ranges.iter().map(|family| vec![json!({ "subnet": range(*family) })]).collect::<Vec<_>>();
    let routes = ranges.iter().map(|family| json!({ "dst": if *family == 4 { "0.0.0.0/0" } else { "::/0" } }));
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [
        {
            "type": "bridge", "bridge": "cbr0", "isGateway": true, "hairpinMode": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "dataDir": dir.join("leases"), "ranges": sets,
                "routes": routes.collect::<Vec<Value>>(),
            },
        },
        { "type": "portmap", "capabilities": { "portMappings": true } },
    ]});
    fs::write(dir.join("net.d/10-net.conflist"), list.to_string()).unwrap();
    let (dir, plugins) = (dir.display(), reference::plugins());
    let lines = format!(
        "{pref}conf_dir = \"{dir}/net.d\"\ncache_dir = \"{dir}/cache\"\nbin_dirs = [\"{}\"]\n\
         native_plugins = {native}\nbuiltin = false\n",
        plugins.display()
    );
    (lines, None)
}

/// The addresses of a pod as its status names them, and the path of its namespace.
async fn status(cri: &mut Cri, id: &str) -> (Vec<IpAddr>, String) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let answer = cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let network = answer.status.unwrap().network.unwrap();
    let all = [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let netns = namespaces.iter().find(|one| one["type"] == "network").unwrap();
    (all.map(|ip| ip.parse().unwrap()).collect(), netns["path"].as_str().unwrap().to_owned())
}

fn families(ips: &[IpAddr]) -> Vec<u8> {
    ips.iter().map(|ip| if ip.is_ipv4() { 4 } else { 6 }).collect()
}

/// Two pods on such a network, from their making to their end.
async fn live(network: Network, ranges: Families, ip_pref: &str, expected: Families) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let what = format!("{network:?} with {ranges:?} by {ip_pref}");
    let (host, dir) = (Host::new(), tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap());
    let (lines, subnets) = settings(network, ranges, ip_pref, dir.path());
    let options = NodeOptions { network: lines, subnets, netns: Some(host.netns.path()), ..Default::default() };
    let mut node = support::node_with(options).await;
    let mut cri = node.client().await;

    let mut web = testkit::pod("web", node.dir());
    let of = |(protocol, host_port): (Protocol, u16)| match protocol {
        Protocol::Tcp => port(CriProtocol::Tcp, host_port, TCP),
        Protocol::Udp => port(CriProtocol::Udp, host_port, UDP),
    };
    web.port_mappings = HOST_PORTS.map(of).into();
    web.dns_config = Some(DnsConfig {
        servers: vec!["fd21:51::53".to_owned(), "172.21.51.53".to_owned()],
        searches: vec!["default.svc.example".to_owned(), "example".to_owned()],
        options: vec!["ndots:5".to_owned(), "edns0".to_owned()],
    });
    let web_id = cri.run(&web).await.unwrap_or_else(|status| panic!("{what}: {status}"));
    let serves = testkit::container("http", PROBE, &["http", &HTTP.to_string(), "served"]);
    let container = cri.start(&web_id, &web, &serves).await.unwrap();
    let client = testkit::pod("client", node.dir());
    let client_id = cri.run(&client).await.unwrap();
    let asks = testkit::container("asks", PROBE, &["sleep", "forever"]);
    let asks = cri.start(&client_id, &client, &asks).await.unwrap();

    let (ips, path) = status(&mut cri, &web_id).await;
    assert_eq!(families(&ips), expected, "{what}: {ips:?}");
    assert_eq!(families(&status(&mut cri, &client_id).await.0), expected, "{what}");
    let netns = Netns::at(&path);
    for (family, option) in [(4, "-4"), (6, "-6")] {
        let found = netns.ip(&format!("{option} -j address show dev eth0 scope global"));
        let has = |ip: &IpAddr| found.contains(&format!("\"{ip}\""));
        let has_any = found.contains("\"local\"");
        assert_eq!(has_any, ranges.contains(&family), "{what}: {found}");
        assert!(ips.iter().filter(|ip| ip.is_ipv4() == (family == 4)).all(has), "{what}: {ips:?} in {found}");
        let out = netns.ip(&format!("{option} -j route show default"));
        assert_eq!(out.contains("\"gateway\""), ranges.contains(&family), "{what}: {out}");
    }
    for ip in &ips {
        let address = SocketAddr::new(*ip, HTTP).to_string();
        let cri = cri.clone();
        eventually_async(SOON, &format!("{what}: the other pod gets {address}"), || async {
            let got = cri.clone().exec(&asks, &["/probe", "get", &address], 10).await.unwrap();
            if got.stdout == b"served\n" { Ok(()) } else { Err(String::from_utf8_lossy(&got.stderr).into_owned()) }
        })
        .await;
    }
    let resolver = cri.exec(&container, &["/probe", "cat", "/etc/resolv.conf"], 10).await.unwrap().stdout;
    assert_eq!(
        String::from_utf8(resolver).unwrap(),
        "search default.svc.example example\nnameserver fd21:51::53\nnameserver 172.21.51.53\noptions ndots:5 edns0\n"
    );

    tokio::task::block_in_place(|| {
        [&host.netns, &netns].into_iter().for_each(observe::settle_in);
        let _server = Server::named(&netns, "web");
        let ports = ranges.iter().flat_map(|family| HOST_PORTS.map(|port| (*family, port)));
        let asked = ports.map(|(family, (protocol, port))| {
            let at = usize::from(family == 6);
            let to = SocketAddr::new(HOST[at].parse().unwrap(), port);
            let attempt = Attempt { name: format!("outside to {to}"), from: &host.outside, to, protocol };
            (attempt, format!("as web sees {}", OUTSIDE[at]))
        });
        expect(&what, asked.collect());
    });

    node.restart_daemon();
    let mut cri = node.client().await;
    assert_eq!(status(&mut cri, &web_id).await.0, ips, "{what}, after a restart");
    for id in [&web_id, &client_id] {
        cri.remove(id).await.unwrap();
    }
    let left = fs::read_dir(dir.path().join("cache/results")).into_iter().flatten().count();
    assert_eq!(left, 0, "{what}: results of nobody");
    node.finish().await;
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_can_be_of_ipv6_alone() {
    for ip_pref in ["ipv4", "ipv6"] {
        by_every_network(&[6], ip_pref, &[6]).await;
    }
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_can_be_of_ipv4_alone() {
    by_every_network(&[4], "ipv6", &[4]).await;
}

#[ignore = "needs root: runs nodes in network namespaces"]
#[tokio::test(flavor = "multi_thread")]
async fn the_first_address_of_two_families_is_the_one_that_is_preferred() {
    by_every_network(&[4, 6], "ipv4", &[4, 6]).await;
    by_every_network(&[4, 6], "ipv6", &[6, 4]).await;
    by_every_network(&[6, 4], "ipv4", &[4, 6]).await;
    by_every_network(&[6, 4], "cni", &[6, 4]).await;
    by_every_network(&[4, 6], "cni", &[4, 6]).await;
}
