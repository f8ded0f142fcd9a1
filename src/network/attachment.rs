//! What a pod asks of the network, and what it got: enough to give everything back after a restart or a reboot.

use std::net::IpAddr;

use ipnet::IpNet;
use model::PodPlan;
use serde::{Deserialize, Serialize};

/// The link that Kubernetes looks for in a pod.
const POD_INTERFACE: &str = "eth0";

/// What a pod asks of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of the link inside the pod.
    pub interface: String,
    /// Addresses that it must get, at most one per range set; none leaves the choice to the network.
    pub addresses: Vec<IpAddr>,
    /// The pod's name, namespace and uid, for plugins that look them up (`CNI_ARGS`).
    pub pod: PodNames,
}

/// Who the pod is to Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodNames {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Default for Request {
    fn default() -> Self {
        Self { interface: POD_INTERFACE.into(), addresses: Vec::new(), pod: PodNames::default() }
    }
}

impl From<&PodPlan> for Request {
    fn from(plan: &PodPlan) -> Self {
        let of = &plan.metadata;
        let pod = PodNames { namespace: of.namespace.clone(), name: of.name.clone(), uid: of.uid.clone() };
        Self { pod, ..Self::default() }
    }
}

/// An address of the pod and the way out that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address with its subnet's prefix length.
    pub net: IpNet,
    /// The gateway on that subnet.
    pub gateway: Option<IpAddr>,
}

/// A pod's place in a network. Kept in the pod's record; [`crate::Network::detach`] needs nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// The pod's addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The same with prefix and gateway, in the same order.
    pub addresses: Vec<Address>,
    /// The link inside the pod.
    pub interface: String,
    /// Hardware address of that link, `0a:58:…`.
    pub mac: String,
    /// The link's other end on the host.
    pub host_interface: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// The configuration list that made it, as JSON: detaching follows this one even when the settings have changed.
    pub conflist: String,
}
