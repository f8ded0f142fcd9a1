//! What a kubelet asked a pod sandbox to be, after the door has checked it.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Resources, Seccomp};

/// Who a sandbox is to Kubernetes. The four together are its name: two live sandboxes never share them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodMetadata {
    /// Name of the pod.
    pub name: String,
    /// The pod's uid in the API.
    pub uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

/// The pod's view of DNS, written into its `resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the pod, and where the host shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the host; `None` when the host shows none.
    pub host_port: Option<u16>,
    /// Host address it is shown on; `None` for all.
    pub host_ip: Option<IpAddr>,
}

/// Whose network the pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Its own.
    Pod,
    /// The host's.
    Host,
}

/// Whose System V IPC and POSIX queues the pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// Its own.
    Pod,
    /// The host's.
    Host,
}

/// Which processes the pod's containers see, unless one of them asks otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// Each container its own.
    Container,
    /// All containers of the pod see each other; our init is process 1.
    Pod,
    /// The host's processes.
    Host,
}

/// One range of an id mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the host.
    pub host: u32,
    /// First id inside.
    pub container: u32,
    /// How many.
    pub length: u32,
}

/// The pod's own user namespace. Its place in the plan; the engine refuses it by name until it is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User id mapping.
    pub uids: IdMapping,
    /// Group id mapping.
    pub gids: IdMapping,
}

/// The namespaces that the pod's containers share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNamespaces {
    /// Network.
    pub network: NetworkMode,
    /// Processes.
    pub pid: PidMode,
    /// IPC.
    pub ipc: IpcMode,
    /// Users; `None` is the host's.
    pub user: Option<UserNamespace>,
}

/// A pod sandbox as accepted at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    /// Who it is.
    pub metadata: PodMetadata,
    /// Host name; `None` leaves the choice to us (the host's with host network, else the short id).
    pub hostname: Option<String>,
    /// Absolute directory that holds the containers' logs; `None` means no logs are kept.
    pub log_directory: Option<PathBuf>,
    /// DNS; `None` copies the host's `resolv.conf`.
    pub dns: Option<Dns>,
    /// Ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, echoed byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Annotations, echoed byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// Name of the runtime handler; empty is the default one.
    pub runtime_handler: String,
    /// Parent cgroup as the kubelet names it (`/kubepods/…`); `None` leaves the choice to us. Checked: absolute, no
    /// `..`.
    pub cgroup_parent: Option<String>,
    /// Kernel parameters of the pod's own namespaces, names with dots (`net.ipv4.…`).
    pub sysctls: BTreeMap<String, String>,
    /// Shared namespaces.
    pub namespaces: PodNamespaces,
    /// Whether privileged containers are allowed in it.
    pub privileged: bool,
    /// Seccomp of the pod's init process, where one is needed.
    pub seccomp: Seccomp,
    /// What running the pod costs beside its containers; informational.
    pub overhead: Option<Resources>,
    /// Sum of the containers' resources; informational.
    pub resources: Option<Resources>,
}

impl fmt::Display for PodMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, uid, namespace, attempt } = self;
        write!(f, "{namespace}/{name} (uid {uid}, attempt {attempt})")
    }
}
