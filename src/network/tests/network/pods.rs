//! Pods on the built-in network, on the real kernel: reachability, leases, churn, restarts.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
};

use crate::node::{
    Attached, Node, attach, attach_asking, detach, eventually, inside, listener_in, pod_id, reaches, reason,
};
use model::Class;
use network::{Config, Error, Readiness, Request};

const PORT: u16 = 8080;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn two_pods_the_gateway_and_the_host_reach_each_other_on_both_families() {
    let node = Node::new("reach");
    node.assert_ready();
    let (one, other) = (pod_id("reach", 1), pod_id("reach", 2));
    let (ns_one, ns_other) =
        (node.network.make_netns(&one).await.unwrap(), node.network.make_netns(&other).await.unwrap());
    let a = attach(&node.network, &one, &ns_one).await.unwrap();
    // Listening before the second pod exists: nothing but the attachment may be needed for its first connection.
    let in_one = listener_in(&ns_one.fd, PORT);
    let b = attach(&node.network, &other, &ns_other).await.unwrap();
    let in_other = listener_in(&ns_other.fd, PORT);
    assert_eq!((a.ips.len(), b.ips.len()), (2, 2), "{a:?}");
    assert!(a.ips[0].is_ipv4() && a.ips[1].is_ipv6(), "IPv4 is primary");
    assert_eq!(a.mtu(), b.mtu());
    for &ip in &a.ips {
        assert!(reaches(Some(&ns_other.fd), ip, &in_one), "pod to pod, {ip}");
        assert!(reaches(None, ip, &in_one), "host to pod, {ip}");
        assert!(reaches(Some(&ns_one.fd), ip, &in_one), "a pod to itself, {ip}");
    }
    for &ip in &b.ips {
        assert!(reaches(Some(&ns_one.fd), ip, &in_other), "pod to pod, {ip}");
    }
    let on_host = TcpListener::bind(SocketAddr::from(([0_u16; 8], 0))).unwrap();
    for ip in &a.networks[0].result.ips {
        assert!(reaches(Some(&ns_one.fd), ip.gateway.unwrap(), &on_host), "pod to gateway, {ip:?}");
    }
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    assert!(reaches(Some(&ns_one.fd), loopback, &in_one), "the loopback of a pod is up");
    for (pod, netns, attachment) in [(&one, &ns_one, &a), (&other, &ns_other, &b)] {
        detach(&node.network, pod, Some(attachment)).await.unwrap();
        node.network.drop_netns(&netns.path).await.unwrap();
    }
    drop((ns_one, ns_other, in_one, in_other));
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn an_address_is_given_back_once_and_no_longer_answers() {
    let node = Node::with("once", |config| {
        config.subnet_v4 = config.subnet_v4.map(|net| net.subnets(29).unwrap().next().unwrap())
    });
    let pod = pod_id("once", 1);
    let netns = node.network.make_netns(&pod).await.unwrap();
    let attachment = attach(&node.network, &pod, &netns).await.unwrap();
    let listener = listener_in(&netns.fd, PORT);
    assert!(matches!(attach(&node.network, &pod, &netns).await, Err(Error::Attached { .. })));
    assert!(reaches(None, attachment.ips[0], &listener));
    detach(&node.network, &pod, Some(&attachment)).await.unwrap();
    assert_eq!(node.leases(), [""; 0]);
    // The namespace is still open (a process that will not die): whoever gets the address next has it alone.
    let next = pod_id("once", 2);
    let next_netns = node.network.make_netns(&next).await.unwrap();
    let request = Request { addresses: vec![attachment.ips[0]], ..Request::default() };
    let taken_over = attach_asking(&node.network, &next, &next_netns, &request).await.unwrap();
    assert_eq!(taken_over.ips[0], attachment.ips[0]);
    let next_listener = listener_in(&next_netns.fd, PORT);
    assert!(reaches(None, attachment.ips[0], &next_listener), "the new holder answers");
    next_listener.accept().unwrap();
    eventually("the old holder's link is gone", || node.ports() == [taken_over.host_interface()]);
    // A late second detach of the first pod must not take the address from the second.
    detach(&node.network, &pod, Some(&attachment)).await.unwrap();
    detach(&node.network, &pod, None).await.unwrap();
    assert_eq!(node.leases().len(), 2);
    detach(&node.network, &next, None).await.unwrap();
    for netns in [netns, next_netns] {
        node.network.drop_netns(&netns.path).await.unwrap();
        node.network.drop_netns(&netns.path).await.unwrap();
    }
    drop((listener, next_listener));
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn two_hundred_pods_at_once_get_two_hundred_addresses_and_leave_nothing() {
    let node = Node::new("churn");
    let started = (0..200).map(|n| {
        let network = node.network.clone();
        tokio::spawn(async move {
            let pod = pod_id("churn", n);
            let netns = network.make_netns(&pod).await.unwrap();
            let attachment = attach(&network, &pod, &netns).await.unwrap();
            (pod, netns.path, attachment)
        })
    });
    let mut pods = Vec::new();
    for task in started.collect::<Vec<_>>() {
        pods.push(task.await.unwrap());
    }
    let ips: HashSet<IpAddr> = pods.iter().flat_map(|(_, _, attachment)| attachment.ips.clone()).collect();
    assert_eq!(ips.len(), 400);
    assert_eq!(node.ports().len(), 200);
    for (pod, path, attachment) in pods {
        detach(&node.network, &pod, Some(&attachment)).await.unwrap();
        node.network.drop_netns(&path).await.unwrap();
    }
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn a_full_subnet_is_refused_as_exhausted_and_leaves_nothing_half_made() {
    let node = Node::with("full", |config| {
        config.subnet_v4 = config.subnet_v4.map(|net| net.subnets(30).unwrap().next().unwrap());
    });
    let (one, two) = (pod_id("full", 1), pod_id("full", 2));
    let (ns_one, ns_two) = (node.network.make_netns(&one).await.unwrap(), node.network.make_netns(&two).await.unwrap());
    let attachment = attach(&node.network, &one, &ns_one).await.unwrap();
    let refused = attach(&node.network, &two, &ns_two).await.unwrap_err();
    assert!(matches!(reason(&refused), Error::Exhausted { size: 1, .. }), "{refused:?}");
    assert_eq!(refused.class(), Class::Exhausted);
    assert_eq!((node.leases().len(), node.ports().len()), (2, 1));
    detach(&node.network, &one, Some(&attachment)).await.unwrap();
    // The refused pod may try again with the same namespace, once it has been taken back.
    detach(&node.network, &two, None).await.unwrap();
    let second = attach(&node.network, &two, &ns_two).await.unwrap();
    detach(&node.network, &two, Some(&second)).await.unwrap();
    for netns in [ns_one, ns_two] {
        node.network.drop_netns(&netns.path).await.unwrap();
    }
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn after_a_crash_only_the_dead_pods_things_are_given_back() {
    let node = Node::new("crash");
    let neighbour = Node::with("crash-neighbour", |config| config.netns_dir = node.config.netns_dir.clone());
    let (live, dead, held, other) =
        (pod_id("crash", 1), pod_id("crash", 2), pod_id("crash", 3), pod_id("crash-neighbour", 1));
    let mut kept = Vec::new();
    for pod in [&live, &dead, &held] {
        let netns = node.network.make_netns(pod).await.unwrap();
        kept.push((attach(&node.network, pod, &netns).await.unwrap(), netns));
    }
    let other_ns = neighbour.network.make_netns(&other).await.unwrap();
    let other_attachment = attach(&neighbour.network, &other, &other_ns).await.unwrap();
    let (_, dead_ns) = kept.remove(1);
    drop(dead_ns);
    // A crash between "made the file" and "mounted the namespace", and one between "made the lease" and "filled it".
    fs::write(node.dir.path().join("state/netns/coracle-0123456789ab"), "").unwrap();
    fs::write(node.config.netns_dir.join("coracle-0123456789ab"), "").unwrap();
    fs::write(node.root().join("network/coracle/10.255.255.254"), "").unwrap();

    let after = node.restarted();
    assert_eq!(after.readiness(), Readiness::Ready);
    let attachment = &kept[0].0;
    // And one of a living pod's that is lost.
    fs::remove_file(node.root().join("network/coracle").join(attachment.ips[0].to_string())).unwrap();
    after.reconcile(vec![attachment.living(&live)]).await.unwrap();
    let ips: HashSet<String> = attachment.ips.iter().map(IpAddr::to_string).collect();
    assert_eq!(node.leases().into_iter().collect::<HashSet<_>>(), ips);
    let names: HashSet<String> = [live.short(), other.short()].map(|short| format!("coracle-{short}")).into();
    assert_eq!(node.namespaces().into_iter().collect::<HashSet<_>>(), names, "the neighbour's is not touched");
    // The third pod's namespace is still held by a descriptor here: its link is removed all the same.
    eventually("the dead pods' links are gone", || node.ports() == [attachment.host_interface()]);
    let listener = listener_in(&kept[0].1.fd, PORT);
    assert!(reaches(None, attachment.ips[0], &listener), "the living pod never noticed");

    // A detach after the restart, by a record that was read back.
    let record = serde_json::to_string(attachment).unwrap();
    let again: Attached = serde_json::from_str(&record).unwrap();
    detach(&after, &live, Some(&again)).await.unwrap();
    after.drop_netns(&kept[0].1.path).await.unwrap();
    detach(&neighbour.network, &other, Some(&other_attachment)).await.unwrap();
    neighbour.network.drop_netns(&other_ns.path).await.unwrap();
    drop((kept, other_ns, listener));
    neighbour.network.dismantle().await.unwrap();
    // Its watch would make again what is taken down.
    eventually("the bridge has no port", || node.ports().is_empty());
    after.dismantle().await.unwrap();
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn after_a_reboot_leases_go_back_without_namespace_and_bridge() {
    let node = Node::new("reboot");
    let pod = pod_id("reboot", 1);
    let netns = node.network.make_netns(&pod).await.unwrap();
    let attachment = attach(&node.network, &pod, &netns).await.unwrap();
    node.network.drop_netns(&netns.path).await.unwrap();
    drop(netns);
    eventually("the pod's link is gone", || node.ports().is_empty());
    node.network.dismantle().await.unwrap();
    fs::remove_dir_all(node.dir.path().join("state")).unwrap();

    let after = node.restarted();
    assert_eq!(node.leases().len(), 2, "the pod is still known to its owner");
    detach(&after, &pod, Some(&attachment)).await.unwrap();
    detach(&after, &pod, Some(&attachment)).await.unwrap();
    after.drop_netns(&node.config.netns_dir.join(format!("coracle-{}", pod.short()))).await.unwrap();
    after.dismantle().await.unwrap();
    // Its watch would make again what is taken down.
    drop(after);
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn a_network_that_cannot_work_says_what_is_in_the_way() {
    let node = Node::new("taken");
    let why = |config: Config, name: &str| {
        let network =
            network::Network::open(config, &node.dir.path().join(name), &node.dir.path().join("state-2")).unwrap();
        match network.readiness() {
            Readiness::NotReady { why } => why,
            Readiness::Ready => panic!("{name} should not be ready"),
        }
    };
    fs::create_dir(node.root()).unwrap_or(());
    let same_subnet = Config { bridge: "crtn-other".into(), ..node.config.clone() };
    assert!(why(same_subnet, "same-subnet").contains("is in use"));
    let same_bridge = Config { ..node.config.clone() };
    let text = why(same_bridge, "same-bridge");
    assert!(text.contains(node.root().to_str().unwrap()), "{text}");
    let ip = |arguments: &[&str]| assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success());
    ip(&["link", "add", "crtn-none", "type", "veth", "peer", "name", "crtn-nobody"]);
    let no_bridge = Config { bridge: "crtn-none".into(), ..Config::apart("a link that is no bridge") };
    let text = why(no_bridge, "none");
    ip(&["link", "delete", "crtn-none"]);
    assert!(text.contains("crtn-none") && text.contains("is not a bridge"), "{text}");
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn a_bridge_that_somebody_deleted_is_made_again() {
    let node = Node::new("mend");
    let deleted = std::process::Command::new("ip").args(["link", "delete", &node.config.bridge]).status().unwrap();
    assert!(deleted.success());
    let pod = pod_id("mend", 1);
    let netns = node.network.make_netns(&pod).await.unwrap();
    let attachment = attach(&node.network, &pod, &netns).await.unwrap();
    let listener = listener_in(&netns.fd, PORT);
    assert!(reaches(None, attachment.ips[0], &listener));
    detach(&node.network, &pod, Some(&attachment)).await.unwrap();
    node.network.drop_netns(&netns.path).await.unwrap();
    drop((netns, listener));
    node.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: makes links and network namespaces"]
async fn the_world_sees_pods_under_the_node_s_address() {
    let node = Node::new("masquerade");
    // The world is another namespace, reached by a link of this host's whose other end knows nothing of pods.
    let world = pod_id("masquerade", 99);
    let world_ns = node.network.make_netns(&world).await.unwrap();
    let (near, far) = ("crtn-near", "crtn-far");
    let ip = |arguments: &str| {
        let status = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    };
    ip(&format!("link add {near} type veth peer name {far} netns {}", world_ns.path.display()));
    for family in [("198.18.77.1/24", "198.18.77.2/24"), ("2001:db8:77::1/64", "2001:db8:77::2/64")] {
        ip(&format!("address add {} dev {near}{}", family.0, if family.0.contains(':') { " nodad" } else { "" }));
        let far_address =
            format!("address add {} dev {far}{}", family.1, if family.1.contains(':') { " nodad" } else { "" });
        inside(&world_ns.fd, move || {
            let status = std::process::Command::new("ip").args(far_address.split(' ')).status().unwrap();
            assert!(status.success());
        });
    }
    ip(&format!("link set {near} up"));
    let up = format!("link set {far} up");
    inside(&world_ns.fd, move || {
        assert!(std::process::Command::new("ip").args(up.split(' ')).status().unwrap().success())
    });
    let outside = listener_in(&world_ns.fd, PORT);

    let pod = pod_id("masquerade", 1);
    let netns = node.network.make_netns(&pod).await.unwrap();
    let attachment = attach(&node.network, &pod, &netns).await.unwrap();
    for (to, seen_as) in [("198.18.77.2", "198.18.77.1"), ("2001:db8:77::2", "2001:db8:77::1")] {
        // The world has no route to pods: an answer at all proves the translation, the peer's address names it.
        assert!(reaches(Some(&netns.fd), to.parse().unwrap(), &outside), "{to}");
        let peer = outside.accept().unwrap().1.ip().to_canonical();
        assert_eq!(peer, seen_as.parse::<IpAddr>().unwrap());
    }
    detach(&node.network, &pod, Some(&attachment)).await.unwrap();
    for netns in [netns, world_ns] {
        node.network.drop_netns(&netns.path).await.unwrap();
    }
    ip(&format!("link delete {near}"));
    drop(outside);
    node.ends_clean().await;
}
