//! Our half: a daemon on a host of its own that reads the same list, driven by CRI.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use api::cri::v1::{
    DnsConfig, PodSandboxConfig, PodSandboxStatusRequest, PortMapping, Protocol, RemovePodSandboxRequest,
    StopPodSandboxRequest,
};
use serde_json::Value;
use testkit::{Cri, NodeOptions, TempNode};
use tonic::Status;

use crate::{
    cases::Case,
    host::{Host, Netns},
    reference::{ETH0, plugins},
};

/// Who runs the plugins of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The daemon itself, as far as it knows them.
    Native,
    /// The reference plugins, which the daemon calls.
    Exec,
}

/// A node on a host.
pub(crate) struct Ours {
    pub(crate) node: TempNode,
    pub(crate) cri: Cri,
    dir: tempfile::TempDir,
    case: PathBuf,
}

/// A pod of ours.
pub(crate) struct Attached {
    pub(crate) id: String,
    pub(crate) netns: Netns,
    pub(crate) result: Value,
}

impl Attached {
    /// Its addresses, in the plugins' order.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        let texts = self.result["ips"].as_array().into_iter().flatten().map(|ip| ip["address"].as_str().unwrap());
        texts.map(|text| text.split('/').next().unwrap().parse().unwrap()).collect()
    }
}

/// A host port as a pod asks for it, under every address of the host.
pub(crate) fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
    let (host_port, container_port) = (host_port.into(), container_port.into());
    PortMapping { protocol: protocol.into(), container_port, host_port, host_ip: String::new() }
}

impl Ours {
    /// A node that has this case's list, and no other network.
    pub(crate) async fn new(host: &Host, by: By, case: &Case) -> Ours {
        Ours::on(&host.netns, by, "", |leases| case.list_at(leases)).await
    }

    /// The same in any namespace, for any list whose name is `net`, given where its leases are to be; with more lines
    /// of the settings.
    pub(crate) async fn on(netns: &Netns, by: By, more: &str, list_at: impl FnOnce(&Path) -> Value) -> Ours {
        let dir = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
        for below in ["net.d", "leases", "cache"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        let list = list_at(&dir.path().join("leases"));
        fs::write(dir.path().join("net.d/10-net.conflist"), list.to_string()).unwrap();
        let case = dir.path().to_owned();
        let network = lines(&case, by) + more;
        let options = NodeOptions { network, netns: Some(netns.path()), ..Default::default() };
        // On a thread of its own: to start one is to wait for it.
        let node = tokio::task::spawn_blocking(|| TempNode::start_with(options)).await.unwrap();
        let cri = node.client().await;
        Ours { node, cri, dir, case }
    }

    /// Where the case's leases are.
    pub(crate) fn leases(&self) -> PathBuf {
        self.case.join("leases")
    }

    /// The same node with its plugins run by somebody else from now on.
    pub(crate) async fn now_by(mut self, by: By) -> Ours {
        self.node.set_network(lines(&self.case, by));
        self.restarted().await
    }

    /// The same node, its daemon killed and started again.
    pub(crate) async fn restarted(mut self) -> Ours {
        self.node = tokio::task::spawn_blocking(move || {
            self.node.restart_daemon();
            self.node
        })
        .await
        .unwrap();
        self.cri = self.node.client().await;
        self
    }

    /// Runs a pod.
    pub(crate) async fn attach(&mut self, name: &str, case: &Case, with_ports: bool) -> Result<Attached, Status> {
        self.run(&self.pod(name, case, with_ports)).await
    }

    /// Runs a pod of any configuration.
    pub(crate) async fn run(&mut self, pod: &PodSandboxConfig) -> Result<Attached, Status> {
        let id = self.cri.run(pod).await?;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let info = self.cri.runtime.pod_sandbox_status(request).await?.into_inner().info;
        let info: Value = serde_json::from_str(&info["info"]).unwrap();
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
        let netns = namespaces.iter().find(|one| one["type"] == "network").unwrap();
        let netns = Netns::at(netns["path"].as_str().unwrap());
        let cached = fs::read(self.case.join(format!("cache/results/net-{id}-{ETH0}"))).expect("the cached result");
        let cached: Value = serde_json::from_slice(&cached).unwrap();
        assert_eq!(cached["kind"], "cniCacheV1", "{cached}");
        Ok(Attached { id, netns, result: cached["result"].clone() })
    }

    /// Stops a pod twice.
    pub(crate) async fn detach(&mut self, id: &str) -> Result<(), Status> {
        for _ in 0..2 {
            self.cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
        }
        Ok(())
    }

    /// Removes a pod that was stopped.
    pub(crate) async fn remove(&mut self, id: &str) -> Result<(), Status> {
        self.cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await?;
        Ok(())
    }

    /// The results that are still cached.
    pub(crate) fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.case.join("cache/results")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Ends the node, which has to leave nothing.
    pub(crate) async fn finish(self) {
        self.node.finish().await;
        drop(self.dir);
    }

    fn pod(&self, name: &str, case: &Case, with_ports: bool) -> PodSandboxConfig {
        let mut pod = testkit::pod(name, self.node.dir());
        for port in case.ports.iter().filter(|_| with_ports) {
            let protocol = match port.protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => Protocol::Sctp,
            };
            pod.port_mappings.push(PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port.into(),
                host_port: port.host_port.into(),
                host_ip: port.host_ip.to_owned(),
            });
        }
        if let Some(server) = case.resolver {
            let (searches, options) = (vec!["a.example".to_owned()], vec!["ndots:3".to_owned()]);
            pod.dns_config = Some(DnsConfig { servers: vec![server.to_owned()], searches, options });
        }
        pod
    }
}

/// The settings: nothing of the machine's own.
fn lines(case: &Path, by: By) -> String {
    format!(
        "conf_dir = \"{case}/net.d\"\nbin_dirs = [\"{plugins}\"]\ncache_dir = \"{case}/cache\"\n\
         native_plugins = {native}\nbuiltin = false\n",
        case = case.display(),
        plugins = plugins().display(),
        native = by == By::Native,
    )
}
