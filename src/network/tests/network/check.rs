//! Pods that are not attached any more as they were made.

use std::{fs, process::Command};

use model::Protocol;
use network::Network;

use crate::{
    hosts::{close, ip, on_a_host_of_its_own, open},
    node::{Attached, inside, pod_id},
    ports::{end, give_address, port, run},
};

/// What is told of one pod.
async fn told(network: &Network, number: usize, attached: &Attached) -> Vec<String> {
    let pod = pod_id("check", number);
    let unlike = network.check(vec![attached.living(&pod)]).await;
    assert!(unlike.iter().all(|unlike| unlike.pod == pod && unlike.network == attached.networks[0].network));
    unlike.into_iter().map(|unlike| unlike.why).collect()
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn what_has_become_of_a_pod_s_links_addresses_routes_leases_and_ports_is_told() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (dir, config, network) = open("check", |_| {});
        let ran = run(&network, &pod_id("check", 1), &[port(Protocol::Tcp, 8080, None)]).await.unwrap();
        let ((netns, attached), link) = (&ran, ran.1.host_interface());
        assert_eq!(told(&network, 1, attached).await, [""; 0]);

        let address = attached.networks[0].result.ips[0].address.to_string();
        let gateway = attached.networks[0].result.ips[0].gateway.unwrap();
        let in_pod = |arguments: String| inside(&netns.fd, move || ip(&arguments));
        let bare = address.split('/').next().unwrap().to_owned();
        let lease = dir.path().join("root/network/coracle").join(&bare);
        let was = fs::read_to_string(&lease).unwrap();

        in_pod(format!("address del {address} dev eth0"));
        assert_eq!(told(&network, 1, attached).await, [format!("eth0 in the pod has not the address {address}")]);
        // The routes by it have gone with it.
        in_pod(format!("address add {address} dev eth0"));
        assert_eq!(told(&network, 1, attached).await, ["the pod has no route to 0.0.0.0/0 by eth0"]);
        in_pod(format!("route add default via {gateway} dev eth0"));
        assert_eq!(told(&network, 1, attached).await, [""; 0]);

        in_pod("link set eth0 address 02:00:00:00:00:07".into());
        let mac = attached.networks[0].result.interfaces[2].mac.clone();
        let changed = format!("the link eth0 has the hardware address 02:00:00:00:00:07 in place of {mac}");
        assert_eq!(told(&network, 1, attached).await, [changed]);
        in_pod(format!("link set eth0 address {mac}"));

        ip(&format!("link set {link} nomaster"));
        assert_eq!(told(&network, 1, attached).await, [format!("{link} is no port of {}", config.bridge)]);
        ip(&format!("link set {link} master {}", config.bridge));
        ip(&format!("link set {link} down"));
        assert_eq!(told(&network, 1, attached).await, [format!("the link {link} is down")]);
        ip(&format!("link set {link} up"));

        fs::remove_file(&lease).unwrap();
        assert_eq!(told(&network, 1, attached).await, [format!("no lease says that {bare} is the pod's")]);
        fs::write(&lease, "somebody\r\neth0").unwrap();
        assert_eq!(told(&network, 1, attached).await, [format!("no lease says that {bare} is the pod's")]);
        fs::write(&lease, was).unwrap();
        assert_eq!(told(&network, 1, attached).await, [""; 0]);

        end(&network, &pod_id("check", 1), ran).await;
        network.dismantle().await.unwrap();
        close(&config);
    });
}

#[test]
#[ignore = "needs root: makes links and network namespaces"]
fn a_port_that_somebody_else_has_now_is_told_and_so_is_a_namespace_that_is_gone() {
    on_a_host_of_its_own(|| async {
        give_address();
        let (_dir, config, network) = open("check-ports", |_| {});
        let pod = pod_id("check", 2);
        let ran = run(&network, &pod, &[port(Protocol::Udp, 5353, None)]).await.unwrap();
        assert_eq!(told(&network, 2, &ran.1).await, [""; 0]);
        // In one transaction, so that it is not put back in between.
        let swap = "delete element inet coracle host-ports-v4 { udp . 5353 }\n\
                    add element inet coracle host-ports-v4 { udp . 5353 : 192.0.2.7 . 53 }\n";
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), swap).unwrap();
        assert!(Command::new("nft").arg("-f").arg(script.path()).status().unwrap().success());
        assert_eq!(told(&network, 2, &ran.1).await, ["UDP port 5353 is not shown"]);
        end(&network, &pod, ran).await;
        // A record of a pod whose namespace somebody has removed.
        let (netns, attached) = run(&network, &pod, &[]).await.unwrap();
        network.drop_netns(&netns.path).await.unwrap();
        let gone = told(&network, 2, &attached).await;
        assert!(gone.len() == 1 && gone[0].contains(&netns.path.display().to_string()), "{gone:?}");
        end(&network, &pod, (netns, attached)).await;
        network.dismantle().await.unwrap();
        close(&config);
    });
}
