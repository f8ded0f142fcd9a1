//! Ports of pods under the host's addresses: from everywhere, for every protocol, through flushes and restarts.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::Command,
    time::Duration,
};

use model::{Class, PodId, PortMapping, Protocol};
use network::{Error, Netns, Network, Request};

use crate::{
    hosts::{close, ip, on_a_host_of_its_own, open},
    node::{Attached, attach_asking, detach, eventually, inside, listener_in, pod_id, reaches, reason},
};

/// Elements of one port that every address shows: for each family where it leads and from which link it is reached, and
/// that the loopback reaches it.
const SAYS_SO: usize = 5;

/// The host's own addresses, on a link that leads nowhere.
pub(crate) const HOST: &str = "192.168.177.1";
pub(crate) const HOST_V6: &str = "fd77::1";
/// Another machine's, beside them.
const ELSEWHERE: &str = "192.168.177.9";

pub(crate) fn port(protocol: Protocol, host_port: u16, host_ip: Option<&str>) -> PortMapping {
    let host_ip = host_ip.map(|ip| ip.parse().unwrap());
    PortMapping { protocol, container_port: 8080, host_port: Some(host_port), host_ip }
}

fn asking(ports: &[PortMapping]) -> Request {
    Request { ports: ports.to_vec(), ..Request::default() }
}

/// A pod with these ports.
pub(crate) async fn run(network: &Network, pod: &PodId, ports: &[PortMapping]) -> Result<(Netns, Attached), Error> {
    let netns = network.make_netns(pod).await.unwrap();
    match attach_asking(network, pod, &netns, &asking(ports)).await {
        Ok(attached) => Ok((netns, attached)),
        Err(error) => {
            let choice = network.choose(pod, &asking(ports)).unwrap();
            network.detach(pod, &choice, &asking(ports), None).await.unwrap();
            network.drop_netns(&netns.path).await.unwrap();
            Err(error)
        }
    }
}

pub(crate) async fn end(network: &Network, pod: &PodId, (netns, attached): (Netns, Attached)) {
    detach(network, pod, Some(&attached)).await.unwrap();
    network.drop_netns(&netns.path).await.unwrap();
}

/// A link with the host's address. IPv6 wants a carrier.
pub(crate) fn give_address() {
    ip("link add uplink type veth peer name far");
    ip("link set far up");
    ip(&format!("address add {HOST}/24 dev uplink"));
    ip(&format!("address add {HOST_V6}/64 dev uplink nodad"));
    ip("link set uplink up");
}

fn connects(from: Option<&OwnedFd>, to: &str, port: u16) -> bool {
    let address = SocketAddr::new(to.parse().unwrap(), port);
    let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok();
    match from {
        Some(netns) => inside(netns, connect),
        None => connect(),
    }
}

fn rules() -> String {
    let listed = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_port_is_reached_from_everywhere_and_by_both_families() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_dir, config, network) = open("ports-reach", |_| {});
        let (one, other) = (pod_id("ports-reach", 1), pod_id("ports-reach", 2));
        let with = run(&network, &one, &[port(Protocol::Tcp, 8080, None)]).await.unwrap();
        let beside = run(&network, &other, &[]).await.unwrap();
        let _listener = listener_in(&with.0.fd, 8080);
        for to in ["127.0.0.1", HOST, HOST_V6, &config.subnet_v4.unwrap().hosts().next().unwrap().to_string()] {
            assert!(connects(None, to, 8080), "from the host to {to}");
        }
        for to in [HOST, HOST_V6] {
            assert!(connects(Some(&beside.0.fd), to, 8080), "from another pod to {to}");
            assert!(connects(Some(&with.0.fd), to, 8080), "from the pod itself to {to}");
        }
        assert!(!connects(None, HOST, 8081), "another port is nobody's");
        // A packet from the loopback of IPv6 never leaves the host: what listens there has the port.
        let loopback = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 8080);
        let refused = TcpStream::connect_timeout(&loopback, Duration::from_secs(2)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let listener = TcpListener::bind(loopback).unwrap();
        assert!(connects(None, "::1", 8080));
        drop(listener);
        let shown = rules();
        assert!(shown.contains(one.as_str()) && shown.contains("tcp . 8080"), "{shown}");
        end(&network, &one, with).await;
        assert!(!connects(None, HOST, 8080), "the port is free again");
        assert!(!rules().contains(one.as_str()));
        end(&network, &other, beside).await;
        network.dismantle().await.unwrap();
        assert!(!rules().contains("coracle"), "{}", rules());
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_port_of_one_address_is_that_address_s_alone_and_a_taken_one_names_its_holder() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_dir, config, network) = open("ports-taken", |_| {});
        let (one, two, three) = (pod_id("ports-taken", 1), pod_id("ports-taken", 2), pod_id("ports-taken", 3));
        let first = run(&network, &one, &[port(Protocol::Tcp, 80, Some(HOST))]).await.unwrap();
        let _listener = listener_in(&first.0.fd, 8080);
        assert!(connects(None, HOST, 80) && !connects(None, "127.0.0.1", 80));
        let second = run(&network, &two, &[port(Protocol::Tcp, 80, Some("127.0.0.1"))]).await.unwrap();
        for ip in [None, Some(HOST), Some("0.0.0.0")] {
            let refused = run(&network, &three, &[port(Protocol::Tcp, 80, ip)]).await.unwrap_err();
            assert_eq!(refused.class(), Class::Conflict, "{refused:?}");
            let Error::PortTaken { port: 80, holder, .. } = reason(&refused) else { panic!("{refused:?}") };
            assert!([one.as_str(), two.as_str()].contains(&holder.as_str()), "{holder}");
        }
        // All or none, also where the last of several is taken.
        let many = [port(Protocol::Tcp, 81, None), port(Protocol::Udp, 80, None), port(Protocol::Tcp, 80, Some(HOST))];
        assert!(run(&network, &three, &many).await.is_err());
        assert!(!rules().contains(three.as_str()));
        let third =
            run(&network, &three, &[port(Protocol::Udp, 80, None), port(Protocol::Sctp, 80, None)]).await.unwrap();
        end(&network, &one, first).await;
        let again = run(&network, &one, &[port(Protocol::Tcp, 80, Some(HOST))]).await.unwrap();
        for (pod, ran) in [(&one, again), (&two, second), (&three, third)] {
            end(&network, pod, ran).await;
        }
        network.dismantle().await.unwrap();
        assert!(!rules().contains("coracle"));
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn what_somebody_flushes_is_put_back_and_a_restart_knows_whose_ports_are_whose() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (dir, config, network) = open("ports-flush", |_| {});
        let (live, dead) = (pod_id("ports-flush", 1), pod_id("ports-flush", 2));
        let kept = run(&network, &live, &[port(Protocol::Tcp, 8080, None)]).await.unwrap();
        let lost = run(&network, &dead, &[port(Protocol::Tcp, 8081, None)]).await.unwrap();
        let _listener = listener_in(&kept.0.fd, 8080);
        for flush in [
            &["flush", "ruleset"][..],
            &["delete", "table", "inet", "coracle"],
            &["flush", "map", "inet", "coracle", "host-ports-v4"],
            &["delete", "element", "inet", "coracle", "host-ports-local", "{ tcp . 8080 }"],
        ] {
            assert!(Command::new("nft").args(flush).status().unwrap().success());
            eventually("the rules are back", || rules().matches("tcp . 8080").count() == SAYS_SO);
            assert!(connects(None, HOST, 8080) && connects(None, "127.0.0.1", 8080), "{flush:?}");
        }
        drop(network);
        // While nobody watches.
        assert!(
            Command::new("nft").args(["flush", "map", "inet", "coracle", "host-ports-v4"]).status().unwrap().success()
        );
        let reopened = Network::open(config.clone(), &dir.path().join("root"), &dir.path().join("state")).unwrap();
        reopened.reconcile(vec![kept.1.living(&live)]).await.unwrap();
        assert!(connects(None, HOST, 8080), "{}", rules());
        let shown = rules();
        assert!(shown.contains(live.as_str()) && !shown.contains(dead.as_str()), "{shown}");
        drop(lost);
        let next = run(&reopened, &pod_id("ports-flush", 3), &[port(Protocol::Tcp, 8080, None)]).await.unwrap_err();
        assert!(matches!(reason(&next), Error::PortTaken { holder, .. } if holder == live.as_str()), "{next:?}");
        end(&reopened, &live, kept).await;
        reopened.dismantle().await.unwrap();
        assert!(!rules().contains("coracle"));
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_client_that_keeps_sending_reaches_the_pod_that_has_the_port_now() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_dir, config, network) = open("ports-udp", |_| {});
        let client = UdpSocket::bind((HOST.parse::<IpAddr>().unwrap(), 40_000)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Before anybody has the port: the kernel remembers a flow to the host itself.
        client.send_to(b"nobody", (HOST, 5353)).unwrap();
        for number in 1..=3 {
            // Somebody asks the same port of another machine: that is no business of the host's port.
            client.send_to(b"elsewhere", (ELSEWHERE, 5353)).unwrap();
            let is_remembered = || {
                let flows = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
                flows.lines().any(|flow| flow.contains(&format!("dst={ELSEWHERE} sport=40000 dport=5353")))
            };
            assert!(is_remembered(), "flows are remembered from the first rule on");
            let pod = pod_id("ports-udp", number);
            let ran = run(&network, &pod, &[port(Protocol::Udp, 5353, None)]).await.unwrap();
            assert!(is_remembered(), "it is not forgotten with the port's own flows");
            let server = inside(&ran.0.fd, || UdpSocket::bind("0.0.0.0:8080").unwrap());
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.send_to(format!("to {number}").as_bytes(), (HOST, 5353)).unwrap();
            let mut heard = [0; 32];
            let (length, from) = server.recv_from(&mut heard).unwrap();
            assert_eq!(&heard[..length], format!("to {number}").as_bytes());
            server.send_to(b"back", from).unwrap();
            let (length, _) = loop {
                match client.recv_from(&mut heard) {
                    // A refusal of what was sent before anybody listened.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                    done => break done.unwrap(),
                }
            };
            assert_eq!(&heard[..length], b"back");
            end(&network, &pod, ran).await;
        }
        network.dismantle().await.unwrap();
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn two_instances_share_the_table_and_neither_takes_the_other_s_ports() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_one_dir, one_config, one) = open("ports-two-one", |_| {});
        let (_two_dir, two_config, two) = open("ports-two-two", |_| {});
        let (a, b) = (pod_id("ports-two", 1), pod_id("ports-two", 2));
        let first = run(&one, &a, &[port(Protocol::Tcp, 8080, None)]).await.unwrap();
        let refused = run(&two, &b, &[port(Protocol::Tcp, 8080, None)]).await.unwrap_err();
        assert!(
            matches!(reason(&refused), Error::PortTaken { holder, .. } if holder.contains(a.as_str())),
            "{refused:?}"
        );
        let second = run(&two, &b, &[port(Protocol::Tcp, 8081, None)]).await.unwrap();
        two.reconcile(vec![second.1.living(&b)]).await.unwrap();
        assert!(rules().contains(a.as_str()) && rules().contains(b.as_str()));
        let (in_a, in_b) = (listener_in(&first.0.fd, 8080), listener_in(&second.0.fd, 8080));
        end(&one, &a, first).await;
        one.dismantle().await.unwrap();
        assert!(reaches(None, second.1.ips[0], &in_b) && connects(None, HOST, 8081), "{}", rules());
        drop(in_a);
        end(&two, &b, second).await;
        two.dismantle().await.unwrap();
        assert!(!rules().contains("coracle"), "{}", rules());
        close(&one_config);
        close(&two_config);
    });
}
