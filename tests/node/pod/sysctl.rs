//! Kernel settings of a pod: those of its namespaces, and no others.

use api::cri::v1::{ListPodSandboxRequest, NamespaceMode};
use testkit::pod;

use crate::{
    scene::{Scene, namespaces, sleeper},
    support,
};

const SAFE: [(&str, &str, &str); 5] = [
    ("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced", "1"),
    ("net.ipv4.ip_local_port_range", "/proc/sys/net/ipv4/ip_local_port_range", "1024\t65000"),
    ("net/ipv4/tcp_keepalive_time", "/proc/sys/net/ipv4/tcp_keepalive_time", "1234"),
    ("kernel.msgmax", "/proc/sys/kernel/msgmax", "16384"),
    ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max", "42"),
];

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn settings_of_the_pods_namespaces_are_seen_in_it_and_not_on_the_host() {
    let host: Vec<_> = SAFE.iter().map(|(_, file, _)| std::fs::read_to_string(file).ok()).collect();
    let mut scene = Scene::with(|pod| {
        let linux = pod.linux.get_or_insert_default();
        linux.sysctls = SAFE.iter().map(|(name, _, value)| ((*name).to_owned(), value.replace('\t', " "))).collect();
    })
    .await;
    let container = scene.start(&sleeper("one")).await;
    for (name, file, value) in SAFE {
        assert_eq!(scene.look(&container, &["/probe", "cat", file]).await.trim_end(), value, "{name}");
    }
    // What is not asked for is as pods of the field have it: any user may ping and open low ports.
    let port = scene.look(&container, &["/probe", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]).await;
    assert_eq!(port.trim_end(), "0");
    let now: Vec<_> = SAFE.iter().map(|(_, file, _)| std::fs::read_to_string(file).ok()).collect();
    assert_eq!(now, host);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_setting_that_is_not_the_pods_is_refused_by_name_and_leaves_nothing() {
    let node = support::node().await;
    let mut cri = node.client().await;
    let sharing = |network: NamespaceMode, ipc: NamespaceMode| (network, ipc);
    let own = sharing(NamespaceMode::Pod, NamespaceMode::Pod);
    for (name, value, (network, ipc)) in [
        ("vm.swappiness", "10", own),
        ("kernel.panic", "10", own),
        ("fs.file-max", "1000", own),
        ("net.ipv4.no_such_setting", "1", own),
        ("net.ipv4.ip_forward/../../../kernel/panic", "1", own),
        ("net.ipv4.ip_local_port_range", "nonsense", own),
        ("net.ipv4.tcp_keepalive_time", "1", sharing(NamespaceMode::Node, NamespaceMode::Pod)),
        ("kernel.msgmax", "1", sharing(NamespaceMode::Pod, NamespaceMode::Node)),
        ("", "1", own),
    ] {
        let mut config = pod("strict", node.dir());
        namespaces(&mut config).network = network.into();
        namespaces(&mut config).ipc = ipc.into();
        config.linux.as_mut().unwrap().sysctls.insert(name.into(), value.into());
        let refused = cri.run(&config).await.expect_err(name);
        assert!(refused.message().contains(name), "{name}: {}", refused.message());
    }
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert!(listed.items.is_empty(), "{listed:?}");
    cri.run(&pod("strict", node.dir())).await.expect("the name was not used up");
    node.finish().await;
}
