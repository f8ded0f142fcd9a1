//! The names that a pod's containers know: their host's, and the servers that they ask for others.

use api::cri::v1::{DnsConfig, NamespaceMode};

use crate::scene::{Scene, namespaces, probe, sleeper};

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pod_has_the_host_name_and_the_resolver_that_it_asked_for() {
    let mut scene = Scene::with(|pod| {
        pod.hostname = "chosen-name".into();
        pod.dns_config = Some(DnsConfig {
            servers: vec!["10.10.10.10".into(), "fd00::53".into()],
            searches: vec!["google.com".into(), "example.org".into()],
            options: vec!["ndots:8".into()],
        });
    })
    .await;
    let container = scene.start(&sleeper("one")).await;
    let report = scene.report_in(&container).await;
    assert_eq!(report["hostname"], "chosen-name");
    assert_eq!(report["env"]["HOSTNAME"], "chosen-name");
    assert_eq!(scene.look(&container, &["/probe", "cat", "/etc/hostname"]).await, "chosen-name\n");
    assert_eq!(
        scene.look(&container, &["/probe", "cat", "/etc/resolv.conf"]).await,
        "search google.com example.org\nnameserver 10.10.10.10\nnameserver fd00::53\noptions ndots:8\n"
    );
    let hosts = scene.look(&container, &["/probe", "cat", "/etc/hosts"]).await;
    assert!(hosts.contains("127.0.0.1"), "{hosts}");
    // They are the container's to change, and its neighbours see it.
    scene.look(&container, &["/probe", "write", "/etc/hosts", "changed"]).await;
    let neighbour = scene.outcome(&probe("two", &["cat", "/etc/hosts"])).await;
    assert_eq!(neighbour.stdout.trim_end(), "changed");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn without_a_resolver_of_its_own_a_pod_has_the_hosts_and_an_empty_one_is_empty() {
    let mut scene = Scene::with(|pod| pod.hostname = String::new()).await;
    let (short, host) = (scene.pod[..12].to_owned(), std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let container = scene.start(&sleeper("one")).await;
    assert_eq!(scene.report_in(&container).await["hostname"], short.as_str());
    assert_eq!(scene.look(&container, &["/probe", "cat", "/etc/resolv.conf"]).await, host);

    let (pod, config) = scene.another("empty", |pod| pod.dns_config = Some(DnsConfig::default())).await;
    let container = scene.sleeper_in(&pod, &config, "one").await;
    assert_eq!(scene.look(&container, &["/probe", "cat", "/etc/resolv.conf"]).await, "");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_host_network_pod_has_the_hosts_network_and_no_address_of_its_own() {
    let mut scene = Scene::with(|pod| {
        namespaces(pod).network = NamespaceMode::Node.into();
        pod.hostname = String::new();
    })
    .await;
    let id = scene.pod.clone();
    let status = super::life::status(&mut scene, &id).await.unwrap().status.unwrap();
    assert_eq!(status.network.unwrap_or_default().ip, "");
    assert_eq!(status.linux.unwrap().namespaces.unwrap().options.unwrap().network, NamespaceMode::Node as i32);

    let container = scene.start(&sleeper("one")).await;
    let report = scene.report_in(&container).await;
    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(report["namespaces"]["net"], host("net"));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(report["hostname"], name.trim_end());
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert_eq!(scene.look(&container, &["/probe", "cat", "/etc/hosts"]).await, hosts);
    scene.finish().await;
}
