//! The same CNI configurations by the reference plugins and by ours: results, links, addresses, routes, parameters of
//! the kernel, leases, and who reaches whom are equal, or the difference is listed with its reason.
//!
//! `cases` has the configurations, `reference` runs the plugins as the specification says, `ours` a daemon that reads
//! the same list; `observe` and `reach` tell what is then there, `compare` what of it differs. Each half has a `host`
//! of its own, made of network namespaces. The plugins are built by `tests/tools/cni/build`. `scripted`: the plugin
//! that other tests give a node in their place does as it is told.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod cases;
mod compare;
mod dhcp;
mod families;
mod host;
mod kube_proxy;
mod left;
#[path = "../differential/list.rs"]
mod list;
mod observe;
mod ours;
mod plugins;
mod reach;
mod reference;
mod scripted;
mod services;
#[path = "../node/support.rs"]
#[allow(dead_code, reason = "the tests of `node` need all of it")]
mod support;
mod two_nodes;

use compare::{by_ours, by_reference, crossed, every_case, of_links_and_leases};
use ours::By;
use testkit::{NodeOptions, TempNode};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_compared_is_the_same_whenever_the_reference_is_run() {
    every_case(|_| true, "the reference again", by_reference, by_reference, 20_000);
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_a_configuration_says_is_seen() {
    let plain = "bridge with masquerade";
    let port = |what: &str| format!("host link veth-of-A linkinfo info_slave_data {what}");
    let spoofed = "A under another hardware address to its gateway".to_owned();
    compare::expect_differences(&[
        ("bridge", plain, "host address cbr0 172.21.5.1/24".to_owned()),
        ("bridge", plain, "host parameter   ipv4/ip_forward".to_owned()),
        ("bridge that is the gateway", plain, "A to outside by tcp4".to_owned()),
        ("bridge with hairpins", plain, port("hairpin")),
        ("bridge that takes all packets", plain, "host link cbr0 promiscuity".to_owned()),
        ("bridge with an mtu", plain, "A link eth0 mtu".to_owned()),
        ("bridge with isolated ports", plain, port("isolated")),
        ("bridge with isolated ports", plain, "A to B by tcp4".to_owned()),
        ("bridge with a check of hardware addresses", plain, spoofed),
        ("two families", plain, "A address eth0 fd21:5::2/64".to_owned()),
        ("a part of a range", plain, "lease net/172.21.5.20".to_owned()),
        ("a resolver", plain, "A result dns nameservers 0".to_owned()),
        ("a resolver of the addresses", plain, "A result dns nameservers 0".to_owned()),
        ("ptp with masquerade", "ptp", "A to outside by tcp4".to_owned()),
        ("ptp", plain, "A route -4 1 172.21.5.1 table 254 dev eth0".to_owned()),
        ("host ports", "host ports without hairpins", "A to host port 18080 by tcp4".to_owned()),
        ("host ports", "host ports without masquerade", "host by loopback to host port 18080 by tcp4".to_owned()),
        ("host ports", "host ports of the loopback", "outside to host port 18080 by tcp4".to_owned()),
        ("host ports", "host ports of an address", "outside to host port 18081 by udp4".to_owned()),
        ("version 0.3.1", "version 0.4.0", "A check 0 bridge".to_owned()),
    ]);
}

#[test]
#[ignore = "needs root: runs nodes in network namespaces"]
fn our_plugins_do_what_the_reference_plugins_do() {
    every_case(|_| true, "native", by_reference, |case| by_ours(By::Native, case), 20_000);
}

#[test]
#[ignore = "needs root: runs nodes in network namespaces"]
fn the_reference_plugins_do_the_same_when_we_call_them() {
    every_case(|_| true, "exec", by_reference, |case| by_ours(By::Exec, case), 20_000);
}

#[test]
#[ignore = "needs root: runs nodes in network namespaces"]
fn what_the_reference_plugins_have_made_ours_take_back() {
    let theirs = |case: &_| of_links_and_leases(by_reference(case));
    every_case(is_crossed, "exec then native", theirs, |case| crossed(By::Exec, By::Native, case), 300);
}

#[test]
#[ignore = "needs root: runs nodes in network namespaces"]
fn what_our_plugins_have_made_the_reference_plugins_take_back() {
    let theirs = |case: &_| of_links_and_leases(by_reference(case));
    every_case(is_crossed, "native then exec", theirs, |case| crossed(By::Native, By::Exec, case), 300);
}

#[test]
#[ignore = "needs root: runs a node in a network namespace"]
fn a_node_is_put_on_a_host_of_its_own() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = host::Host::new();
        let options = NodeOptions { netns: Some(host.netns.path()), ..Default::default() };
        let node = tokio::task::spawn_blocking(|| TempNode::start_with(options)).await.unwrap();
        node.client().await.run(&testkit::pod("one", node.dir())).await.unwrap();
        let bridge = format!("link show {}", node.bridge());
        assert!(host.netns.ip(&bridge).contains("state UP"));
        let on_the_machine = std::process::Command::new("ip").args(bridge.split(' ')).output().unwrap();
        assert!(!on_the_machine.status.success(), "{on_the_machine:?}");
        node.finish().await;
    });
}

/// One of each kind is enough to know whose links and leases are whose.
fn is_crossed(case: &cases::Case) -> bool {
    ["two families", "a set of two ranges", "ptp of two families", "a usual chain"].contains(&case.name)
}
