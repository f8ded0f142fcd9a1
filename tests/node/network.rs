//! The pods' network, seen from the pods and from the host.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use api::cri::v1::{
    ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandboxStatus, PodSandboxStatusRequest,
    StopPodSandboxRequest,
};
use testkit::{Cri, container, eventually_async, pod};

use crate::support::{PROBE, node};

const SOON: Duration = Duration::from_secs(10);

async fn pod_status(cri: &mut Cri, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
}

/// Every address of a pod, the primary one first.
async fn addresses(cri: &mut Cri, id: &str) -> Vec<IpAddr> {
    let network = pod_status(cri, id).await.network.unwrap();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip).chain(more).map(|ip| ip.parse().unwrap()).collect()
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_reached_from_the_host_and_from_other_pods_over_both_families() {
    let node = node().await;
    let mut cri = node.client().await;
    let server = pod("server", node.dir());
    let server_id = cri.run(&server).await.unwrap();
    cri.start(&server_id, &server, &container("http", PROBE, &["http", "8080", "served"])).await.unwrap();
    let client = pod("client", node.dir());
    let client_id = cri.run(&client).await.unwrap();
    let sleeper = cri.start(&client_id, &client, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();

    let all = addresses(&mut cri, &server_id).await;
    assert!(all[0].is_ipv4(), "IPv4 comes first: {all:?}");
    assert!(all.iter().any(IpAddr::is_ipv6), "dual stack: {all:?}");
    for ip in all {
        let address = SocketAddr::new(ip, 8080);
        let page = eventually_async(SOON, "the host reaches the pod", || async move {
            tokio::task::spawn_blocking(move || get(address)).await.unwrap()
        })
        .await;
        assert!(page.ends_with("served") || page.ends_with("served\n"), "{page:?}");
        let got = cri.exec(&sleeper, &["/probe", "get", &address.to_string()], 10).await.unwrap();
        let body = String::from_utf8_lossy(&got.stdout);
        assert!(body.contains("served"), "from the other pod over {ip}: {body:?} {:?}", got.stderr);
    }
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn addresses_are_unique_survive_a_restart_and_come_back_once() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let mut pods = Vec::new();
    for name in ["one", "two", "three"] {
        let id = cri.run(&pod(name, node.dir())).await.unwrap();
        pods.push((id.clone(), addresses(&mut cri, &id).await));
    }
    let mut all: Vec<_> = pods.iter().flat_map(|(_, ips)| ips.clone()).collect();
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "no address twice: {pods:?}");

    node.restart_daemon();
    let mut cri = node.client().await;
    for (id, before) in &pods {
        assert_eq!(&addresses(&mut cri, id).await, before);
    }
    let fourth = cri.run(&pod("four", node.dir())).await.unwrap();
    let new = addresses(&mut cri, &fourth).await;
    assert!(new.iter().all(|ip| !all.contains(ip)), "the restarted daemon knows what is taken: {new:?}");
    for _ in 0..2 {
        cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: fourth.clone() }).await.unwrap();
    }
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_pod_on_the_hosts_network_has_no_address_of_its_own_and_sees_the_hosts_links() {
    let node = node().await;
    let mut cri = node.client().await;
    let mut config = pod("host", node.dir());
    let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options = Some(options);
    let id = cri.run(&config).await.unwrap();
    let status = pod_status(&mut cri, &id).await;
    assert_eq!(status.network.map(|network| network.ip).unwrap_or_default(), "");
    let echoed = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(echoed.network(), NamespaceMode::Node);
    let runs = cri.start(&id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let seen = cri.exec(&runs, &["/probe", "cat", "/proc/net/dev"], 10).await.unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains(&node.bridge()), "the host's links, our bridge among them: {seen}");
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn when_addresses_run_out_the_error_says_so_and_nothing_is_left_of_the_pod() {
    let node = node().await;
    let mut cri = node.client().await;
    // A /24 less network, broadcast and gateway.
    let mut made = Vec::new();
    let refused = loop {
        match cri.run(&pod(&format!("pod-{}", made.len()), node.dir())).await {
            Ok(id) => made.push(id),
            Err(status) => break status,
        }
        assert!(made.len() <= 253, "more pods than addresses");
    };
    assert_eq!(made.len(), 253);
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    assert_eq!(listed.len(), 253);
    // One comes back, one can be made: under the very name that was refused.
    cri.remove(&made.pop().unwrap()).await.unwrap();
    cri.run(&pod("pod-253", node.dir())).await.unwrap();
    node.finish().await;
}
