//! Plugins whose link is more than one end of a pair: on the host's uplink, leading nowhere, or lent by the host.

use std::path::Path;

use serde_json::{Value, json};

use super::{GIVEN, given, is_reached_from_outside, kind_of, life, texts};
use crate::{
    host::{Host, UPLINK},
    reach::{Attempt, Protocol, Server, TCP, expect},
};

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn links_on_the_uplink_are_the_pods_own() {
    let on_uplink = |kind: &str, more: Value| {
        let mut plugin = json!({ "type": kind, "master": UPLINK, "ipam": given() });
        plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        move |_: &Path| vec![plugin]
    };
    let macvlan = on_uplink("macvlan", json!({ "mode": "bridge" }));
    let kind = format!("link {UPLINK} name probe type macvlan mode bridge");
    life(
        macvlan,
        &[],
        Some(&kind),
        |_| (),
        |host, pod| {
            assert_eq!((kind_of(pod, "eth0"), texts(pod)), (json!("macvlan"), GIVEN.map(str::to_owned).to_vec()));
            is_reached_from_outside(host, pod);
        },
    )
    .await;
    let ipvlan = on_uplink("ipvlan", json!({ "mode": "l2" }));
    let kind = format!("link {UPLINK} name probe type ipvlan mode l2");
    life(
        ipvlan,
        &[],
        Some(&kind),
        |_| (),
        |host, pod| {
            assert_eq!((kind_of(pod, "eth0"), texts(pod)), (json!("ipvlan"), GIVEN.map(str::to_owned).to_vec()));
            is_reached_from_outside(host, pod);
        },
    )
    .await;
    let vlan = on_uplink("vlan", json!({ "vlanId": 42 }));
    let kind = format!("link {UPLINK} name probe type vlan id 42");
    life(
        vlan,
        &[],
        Some(&kind),
        |_| (),
        |_, pod| {
            let link: Value = serde_json::from_str(&pod.netns.ip("-d -j link show eth0")).unwrap();
            assert_eq!(link[0]["linkinfo"]["info_data"]["id"], 42, "{link}");
            assert_eq!(texts(pod), GIVEN);
        },
    )
    .await;
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_nowhere_have_their_addresses() {
    for (kind, shown, probe) in
        [("dummy", "dummy", "probe type dummy"), ("tap", "tun", "probe type veth peer name far-probe")]
    {
        let plugins = move |_: &Path| vec![json!({ "type": kind, "ipam": given() })];
        life(
            plugins,
            &[],
            Some(probe),
            |_| (),
            |_, pod| {
                assert_eq!((kind_of(pod, "eth0"), texts(pod)), (json!(shown), GIVEN.map(str::to_owned).to_vec()));
            },
        )
        .await;
    }
}

#[ignore = "needs root: runs a node in a network namespace"]
#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_the_host_is_lent_and_comes_back() {
    let lent = |host: &Host| {
        host.netns.ip("link add lent type veth peer name far");
        let outside = host.outside.path();
        host.netns.ip(&format!("link set far netns {}", outside.display()));
        host.outside.ip("address add 172.21.62.2/24 dev far");
        host.outside.ip("link set far up");
    };
    let plugins = |_: &Path| {
        let ipam = json!({ "type": "static", "addresses": [{ "address": "172.21.62.1/24" }] });
        vec![json!({ "type": "host-device", "device": "lent", "ipam": ipam })]
    };
    life(plugins, &[], None, lent, |host, pod| {
        assert!(!host.netns.ip("-j link show").contains("\"lent\""), "it is the pod's");
        let _server = Server::new(&pod.netns);
        let to = (pod.ips()[0], TCP).into();
        let attempt = Attempt { name: "far end".to_owned(), from: &host.outside, to, protocol: Protocol::Tcp };
        expect("a lent device", vec![(attempt, "as 172.21.62.2".to_owned())]);
    })
    .await;
}
