//! Hosts that are not like this one: each test makes a whole host's network in a namespace of its own.

use std::{fs, future::Future, process::Command};

use network::{Config, Error, Network, Readiness};
use nix::sched::{CloneFlags, unshare};

use crate::node::{attach, detach, inside, listener_in, pod_id, reaches, reason};

/// Runs the test in a new network namespace: every thread of its runtime is born there, and so are the room's.
pub(crate) fn on_a_host_of_its_own<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
    let host = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    std::thread::spawn(host).join().unwrap();
}

pub(crate) fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// Everything that `ip` tells of a link and its addresses.
fn shown(link: &str) -> String {
    let output = Command::new("ip").args(["-d", "address", "show", "dev", link]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn open(test: &str, change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Config, Network) {
    let dir = tempfile::Builder::new().prefix(&format!("crt-network-{test}-")).tempdir().unwrap();
    let mut config = Config { netns_dir: dir.path().join("netns"), ..Config::apart(test) };
    change(&mut config);
    let network = Network::open(config.clone(), &dir.path().join("root"), &dir.path().join("state")).unwrap();
    (dir, config, network)
}

pub(crate) fn close(config: &Config) {
    nix::mount::umount2(&config.netns_dir, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_host_without_ipv6_gives_ipv4_and_says_so() {
    on_a_host_of_its_own(|| async {
        for conf in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1").unwrap();
        }
        let (_dir, config, network) = open("no-ipv6", |_| {});
        assert_eq!(network.readiness(), Readiness::Ready);
        assert!(network.notes().iter().any(|note| note.contains("IPv6")), "{:?}", network.notes());
        let pod = pod_id("no-ipv6", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        assert_eq!(attachment.ips.len(), 1);
        assert!(reaches(None, attachment.ips[0], &listener_in(&netns.fd, 8080)));
        detach(&network, &pod, Some(&attachment)).await.unwrap();
        network.drop_netns(&netns.path).await.unwrap();
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn only_a_pod_with_an_ipv6_address_has_a_link_local_one_and_no_port_has() {
    on_a_host_of_its_own(|| async {
        for (test, has_ipv6) in [("two-families", true), ("ipv4-alone", false)] {
            let (_dir, config, network) = open(test, |config| {
                config.subnet_v6 = config.subnet_v6.filter(|_| has_ipv6);
            });
            let pod = pod_id(test, 1);
            let netns = network.make_netns(&pod).await.unwrap();
            let attachment = attach(&network, &pod, &netns).await.unwrap();
            assert!(shown(&config.bridge).contains("mcast_snooping 0"), "{}", shown(&config.bridge));
            // The kernel gives one as soon as it acts upon a carrier, and the attachment has waited for that.
            let port = shown(&attachment.host_interface());
            assert!(port.contains("state UP") && !port.contains("inet6"), "{port}");
            let own = inside(&netns.fd, || shown("eth0"));
            assert!(own.contains("state UP"), "{own}");
            assert_eq!(own.contains("inet6 fe80:"), has_ipv6, "{own}");
            inside(&netns.fd, || ip("address add fd79::9/64 dev eth0 nodad"));
            detach(&network, &pod, Some(&attachment)).await.unwrap();
            network.drop_netns(&netns.path).await.unwrap();
            close(&config);
        }
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_host_whose_packets_are_too_small_for_ipv6_gives_ipv4() {
    on_a_host_of_its_own(|| async {
        ip("link add uplink mtu 1000 type bridge");
        ip("link set uplink up");
        ip("address add 192.0.2.2/24 dev uplink");
        ip("route add default via 192.0.2.1");
        let (_dir, config, network) = open("small", |config| config.subnet_v6 = None);
        assert_eq!(network.readiness(), Readiness::Ready);
        let pod = pod_id("small", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        assert_eq!(attachment.mtu(), 1000);
        assert!(reaches(None, attachment.ips[0], &listener_in(&netns.fd, 8080)));
        detach(&network, &pod, Some(&attachment)).await.unwrap();
        network.drop_netns(&netns.path).await.unwrap();
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_network_of_ipv6_alone_works_too() {
    on_a_host_of_its_own(|| async {
        let (_dir, config, network) = open("only-ipv6", |config| config.subnet_v4 = None);
        assert_eq!(network.readiness(), Readiness::Ready);
        let pod = pod_id("only-ipv6", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        assert!(attachment.ips.len() == 1 && attachment.ips[0].is_ipv6());
        assert!(reaches(None, attachment.ips[0], &listener_in(&netns.fd, 8080)));
        detach(&network, &pod, Some(&attachment)).await.unwrap();
        network.drop_netns(&netns.path).await.unwrap();
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_route_into_the_subnet_is_in_the_way_and_one_around_it_is_a_note() {
    on_a_host_of_its_own(|| async {
        ip("link add lan type bridge");
        ip("link set lan up");
        ip("route add 10.0.0.0/8 dev lan");
        let subnet = |config: &mut Config| config.subnet_v4 = Some("10.88.0.0/16".parse().unwrap());
        let (_dir, config, network) = open("around", subnet);
        assert_eq!(network.readiness(), Readiness::Ready);
        assert!(network.notes().iter().any(|note| note.contains("10.0.0.0/8")), "{:?}", network.notes());
        network.dismantle().await.unwrap();
        close(&config);
        ip("route add 10.88.7.0/24 dev lan");
        let (_dir, config, network) = open("into", subnet);
        match network.readiness() {
            Readiness::NotReady { why } => assert!(why.contains("10.88.7.0/24") && why.contains("lan"), "{why}"),
            Readiness::Ready => panic!("pods' packets would go elsewhere"),
        }
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_bridge_that_somebody_else_uses_is_refused_and_stays_as_it_is_and_a_bare_one_becomes_ours() {
    on_a_host_of_its_own(|| async {
        ip("link add lan type bridge");
        ip("link add wire type veth peer name far");
        // As the kernel gives one to every bridge that is up: no use by anybody.
        ip("address add fe80::1/64 dev lan nodad");
        for (used, named, freed) in [
            ("address add 192.168.79.1/24 dev lan", "192.168.79.1/24", "address delete 192.168.79.1/24 dev lan"),
            ("address add 169.254.7.1/16 dev lan", "169.254.7.1/16", "address delete 169.254.7.1/16 dev lan"),
            ("address add fd79::1/64 dev lan nodad", "fd79::1/64", "address delete fd79::1/64 dev lan"),
            ("link set wire master lan", "port wire", "link set wire nomaster"),
        ] {
            ip(used);
            let before = shown("lan");
            let (_dir, config, network) = open("foreign", |config| config.bridge = "lan".into());
            match network.readiness() {
                Readiness::NotReady { why } => assert!(why.contains("bridge lan") && why.contains(named), "{why}"),
                Readiness::Ready => panic!("the bridge was taken over in spite of: ip {used}"),
            }
            assert_eq!(shown("lan"), before);
            close(&config);
            ip(freed);
        }
        let (_dir, config, network) = open("foreign", |config| config.bridge = "lan".into());
        assert_eq!(network.readiness(), Readiness::Ready);
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_changed_subnet_moves_an_unused_bridge_and_waits_for_a_used_one() {
    on_a_host_of_its_own(|| async {
        let (dir, config, network) = open("changed", |_| {});
        let pod = pod_id("changed", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        let reopen = |subnet: &str| {
            let changed = Config { subnet_v4: Some(subnet.parse().unwrap()), ..config.clone() };
            Network::open(changed, &dir.path().join("root"), &dir.path().join("state")).unwrap()
        };
        let waiting = reopen("10.77.0.0/24");
        assert!(matches!(waiting.readiness(), Readiness::NotReady { .. }));
        assert!(reaches(None, attachment.ips[0], &listener_in(&netns.fd, 8080)), "the pod never noticed");
        // By its own list: the address goes back although the settings have changed.
        detach(&waiting, &pod, Some(&attachment)).await.unwrap();
        waiting.drop_netns(&netns.path).await.unwrap();
        drop(netns);
        // The kernel takes the pod's link down a moment later.
        crate::node::eventually("the bridge has moved", || reopen("10.77.0.0/24").readiness() == Readiness::Ready);
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn the_gateway_of_a_family_that_is_turned_off_goes_once_no_pod_is_on_the_bridge() {
    on_a_host_of_its_own(|| async {
        let (dir, config, network) = open("off", |_| {});
        let (v4, v6) = (config.subnet_v4.unwrap(), config.subnet_v6.unwrap());
        let gateways = [format!("inet {}/24 ", v4.hosts().next().unwrap()), format!("inet6 {}1/64 ", v6.addr())];
        let present = || gateways.clone().map(|gateway| shown(&config.bridge).contains(&gateway));
        assert_eq!(present(), [true, true], "{gateways:?}: {}", shown(&config.bridge));
        let pod = pod_id("off", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        let reopen = |subnet_v4, subnet_v6| {
            let changed = Config { subnet_v4, subnet_v6, ..config.clone() };
            let network = Network::open(changed, &dir.path().join("root"), &dir.path().join("state")).unwrap();
            assert_eq!(network.readiness(), Readiness::Ready);
            network
        };
        let without = reopen(Some(v4), None);
        assert_eq!(present(), [true, true], "a pod may need it");
        assert!(without.notes().iter().any(|note| note.contains(&v6.addr().to_string())), "{:?}", without.notes());
        detach(&without, &pod, Some(&attachment)).await.unwrap();
        without.drop_netns(&netns.path).await.unwrap();
        drop(netns);
        // The kernel takes the pod's link down a moment later.
        crate::node::eventually("IPv6 has gone", || reopen(Some(v4), None).notes().is_empty());
        assert_eq!(present(), [true, false]);
        reopen(None, Some(v6));
        assert_eq!(present(), [false, true]);
        reopen(Some(v4), Some(v6));
        assert_eq!(present(), [true, true]);
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_bridge_without_a_free_port_says_that_it_is_full() {
    on_a_host_of_its_own(|| async {
        let (dir, config, network) = open("ports", |_| {});
        let ports: String = (0..1023)
            .map(|n| format!("link add p{n} type veth peer name q{n}\nlink set p{n} master {}\n", config.bridge))
            .collect();
        let batch = dir.path().join("ports");
        fs::write(&batch, ports).unwrap();
        ip(&format!("-batch {}", batch.display()));
        let pod = pod_id("ports", 1);
        let netns = network.make_netns(&pod).await.unwrap();
        let refused = attach(&network, &pod, &netns).await.unwrap_err();
        assert!(matches!(reason(&refused), Error::BridgeFull { .. }), "{refused:?}");
        detach(&network, &pod, None).await.unwrap();
        ip("link delete p7");
        let attachment = attach(&network, &pod, &netns).await.unwrap();
        detach(&network, &pod, Some(&attachment)).await.unwrap();
        network.drop_netns(&netns.path).await.unwrap();
        close(&config);
    });
}
