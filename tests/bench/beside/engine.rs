//! An engine under measurement, whichever it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use api::cri::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
};
use serde_json::Value;
use testkit::{Cri, ImageBuilder, Layer, NodeOptions, TempNode};

use super::support;

/// Our subnet; containerd's has the same size.
const SUBNET: &str = "10.211.0.0/16";

/// A running engine.
pub(super) struct Engine {
    pub(super) cri: Cri,
    /// Its socket, for more clients.
    pub(super) socket: PathBuf,
    /// Where the logs of its pods go.
    pub(super) logs: PathBuf,
    /// Where its address leases lie.
    pub(super) leases: PathBuf,
    /// Its daemon.
    pub(super) daemon: i32,
}

impl Engine {
    /// The same engine by another connection.
    pub(super) fn with(&self, cri: Cri) -> Engine {
        let Engine { socket, logs, leases, daemon, .. } = self;
        Engine { cri, socket: socket.clone(), logs: logs.clone(), leases: leases.clone(), daemon: *daemon }
    }

    /// A pod as a kubelet asks for it: its containers see their own processes only.
    pub(super) fn pod(&self, name: &str) -> PodSandboxConfig {
        let namespace_options = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
        let security_context =
            LinuxSandboxSecurityContext { namespace_options: Some(namespace_options), ..Default::default() };
        let linux = LinuxPodSandboxConfig { security_context: Some(security_context), ..Default::default() };
        PodSandboxConfig { linux: Some(linux), ..testkit::pod(name, &self.logs) }
    }

    /// Whether any lease names the pod.
    pub(super) fn leases_to(&self, pod: &str) -> bool {
        names(&self.leases, pod)
    }
}

/// The image of all containers. As nearly every image does, it has the directories that a container's file systems are
/// mounted on.
pub(super) fn image() -> ImageBuilder {
    let mounted_on = ["dev", "proc", "sys"].into_iter().fold(Layer::new(), |layer, name| layer.directory(name, 0o755));
    support::probe().layer(mounted_on)
}

/// A fresh Coracle. What a boot forgets lies in memory for both engines, as on nearly all nodes.
pub(super) async fn coracle() -> (TempNode, Engine) {
    let subnets = format!("subnet_v4 = \"{SUBNET}\"\nsubnet_v6 = \"\"");
    let mut node =
        TempNode::prepare(NodeOptions { subnets: Some(subnets), state_in_memory: true, ..NodeOptions::default() });
    support::import(node.dir(), image().build().archive(support::PROBE)).await;
    node.start_daemon();
    let engine = Engine {
        cri: node.client().await,
        socket: node.socket(),
        logs: node.dir().to_owned(),
        leases: node.dir().join("root/network"),
        daemon: node.daemon_pid(),
    };
    (node, engine)
}

/// The same with the network of a configuration list in the node's directory, in place of the built-in one.
pub(super) async fn on_a_list(list: impl Fn(&Path, &str) -> Value, plugins: &Path, native: bool) -> (TempNode, Engine) {
    let mut node = TempNode::prepare(NodeOptions { state_in_memory: true, ..NodeOptions::default() });
    let dir = node.dir().to_owned();
    fs::create_dir(dir.join("net.d")).unwrap();
    fs::write(dir.join("net.d/10-bench.conflist"), list(&dir, SUBNET).to_string()).unwrap();
    node.set_network(format!(
        "conf_dir = \"{0}/net.d\"\ncache_dir = \"{0}/cni\"\nbin_dirs = [\"{1}\"]\nnative_plugins = {native}\n\
         builtin = false",
        dir.display(),
        plugins.display(),
    ));
    support::import(node.dir(), image().build().archive(support::PROBE)).await;
    node.start_daemon();
    let engine = Engine {
        cri: node.client().await,
        socket: node.socket(),
        logs: dir.clone(),
        leases: dir.join("leases"),
        daemon: node.daemon_pid(),
    };
    (node, engine)
}

/// Whether a file below `dir` holds the text. Files come and go meanwhile.
fn names(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => names(&entry.path(), text),
        _ => fs::read_to_string(entry.path()).is_ok_and(|content| content.contains(text)),
    })
}
