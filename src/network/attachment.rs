//! A pod's place in its networks: which were chosen before anything was done, and what came of it.
//!
//! Both are kept in the pod's record; detaching needs nothing else, whatever has become of the configurations.

use std::{net::IpAddr, sync::Arc};

use cni::Success;
use model::PodId;
use serde::{Deserialize, Serialize};

use crate::Request;

/// The networks that a pod is to be in, decided before any plugin runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Choice {
    pub(crate) networks: Vec<Chosen>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    /// The list as text: detaching follows this one even when the settings have changed.
    pub(crate) list: Arc<str>,
    /// Whether it is the built-in network.
    pub(crate) builtin: bool,
    /// The link inside the pod.
    pub(crate) interface: String,
    /// For each plugin of the list, whether we do it ourselves.
    pub(crate) native: Vec<bool>,
    /// Whether we map the pod's ports, since no plugin does.
    #[serde(default)]
    pub(crate) maps_ports: bool,
}

/// A pod that is found alive, as its record has it.
#[derive(Debug, Clone)]
pub struct Living {
    /// The pod.
    pub pod: PodId,
    /// Its networks.
    pub choice: Choice,
    /// What it asked of them.
    pub request: Request,
    /// What came of it; `None` when it may have been given back already.
    pub attachment: Option<Attachment>,
}

/// A pod's place in its networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod's addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// What came of each network, in order. Records of releases that knew one network only have none.
    #[serde(default)]
    pub networks: Vec<Joined>,
}

/// A pod's place in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Name of the network.
    pub network: String,
    /// The link inside the pod.
    pub interface: String,
    /// What its plugins made.
    pub result: Success,
}
