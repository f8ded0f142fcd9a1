//! Addresses by DHCP: a server behind the uplink, the plugin's daemon, and what becomes of a pod without it.

use std::{path::Path, time::Duration};

use serde_json::json;
use testkit::eventually;

use super::{GIVEN, SOON, belongings, is_reached_from_outside, life, nothing_is_left, texts};
use crate::{
    dhcp::{Daemon, DhcpServer, Lease},
    host::{Host, Netns, OUTSIDE, UPLINK},
    ours::{By, Ours},
};

/// For what is tried again with growing pauses.
const SOME_TIME: Duration = Duration::from_secs(60);

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn without_its_daemon_dhcp_is_refused_and_what_is_owed_is_given_back_when_it_comes() {
    let host = Host::new();
    let dir = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
    let socket = dir.path().join("dhcp.sock");
    let list = |_: &Path| {
        let plugin = json!({
            "type": "bridge", "bridge": "cbr0", "ipam": { "type": "dhcp", "daemonSocketPath": socket },
        });
        json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [plugin] })
    };
    let mut ours = Ours::on(&host.netns, By::Exec, "", list).await;
    let before = belongings(&host.netns);
    let pod = testkit::pod("a", ours.node.dir());
    let Err(status) = ours.run(&pod).await else { panic!("it runs without an address") };
    assert!(status.message().contains(&socket.display().to_string()), "{status}");
    let owed = ours.node.leaks();
    assert!(owed.0.iter().any(|leak| leak.contains("netns")), "the plugin has failed at DEL, too: {owed:?}");
    let _daemon = Daemon::new(&socket);
    tokio::task::block_in_place(|| {
        eventually(SOME_TIME, "what is owed is given back", || {
            let owed = ours.node.leaks();
            if owed.is_empty() { Ok(()) } else { Err(owed) }
        });
    });
    nothing_is_left(&host, &before, &[]);
    assert_eq!(ours.cached(), Vec::<String>::new(), "results of nobody");
    ours.finish().await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn dhcp_asks_the_server_behind_the_uplink_and_gives_the_address_back() {
    let dir = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
    let socket = dir.path().join("dhcp.sock");
    let _daemon = Daemon::new(&socket);
    let lease = Lease {
        server: OUTSIDE[0].parse().unwrap(),
        address: GIVEN[0].parse().unwrap(),
        mask: [255, 255, 255, 0].into(),
    };
    let (mut server, mut outside) = (None, None);
    let plugins = |_: &Path| {
        let ipam = json!({ "type": "dhcp", "daemonSocketPath": socket });
        vec![json!({ "type": "macvlan", "master": UPLINK, "mode": "bridge", "ipam": ipam })]
    };
    let kind = format!("link {UPLINK} name probe type macvlan mode bridge");
    let serve = |host: &Host| {
        server = Some(DhcpServer::new(&host.outside, lease));
        // Only to give an address back is the server asked by its own; from no address, so that no socket hears it.
        host.outside.run("nft add table ip heard");
        host.outside.run("nft add chain ip heard released { type filter hook prerouting priority -300 ; }");
        host.outside.run(&format!("nft add rule ip heard released ip daddr {} udp dport 67 counter", OUTSIDE[0]));
        outside = Some(Netns::at(&host.outside.path().display().to_string()));
    };
    life(plugins, &[], Some(&kind), serve, |host, pod| {
        assert_eq!(texts(pod), [GIVEN[0]]);
        let out = pod.netns.ip("-j route show default");
        assert!(out.contains(OUTSIDE[0]), "{out}");
        is_reached_from_outside(host, pod);
    })
    .await;
    let outside = outside.expect("life prepares the host");
    eventually(SOON, "the server is told that the address is free", || {
        let heard = outside.run("nft list chain ip heard released");
        if heard.contains("counter packets 0 ") { Err(heard) } else { Ok(()) }
    });
    drop(server);
}
