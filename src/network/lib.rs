//! The pods' network: namespaces, addresses, links and the way out of the node.
//!
//! A network is a CNI configuration list: of the directory, or the built-in one, which is written by [`Config`].
//! [`chain`] runs its plugins one after the other, some ourselves (`native`: in-process by netlink, with the reference
//! plugins' results and lease files), the others by their binaries (room `cni`).
//! Laws: no link is ever moved between namespaces and none is deleted while a request waits; an address is on disk
//! (the intent) before a link uses it; detaching is idempotent, needs nothing but what was chosen, and holds nobody up.
//! Never knows: what a container is, what CRI is, when a pod should live.

mod address;
mod attach;
mod attachment;
mod builtin;
mod chain;
mod check;
mod config;
mod conntrack;
mod dns;
mod error;
mod from_template;
mod host_ports;
mod lingering;
mod link;
mod look;
mod mac_spoof;
mod masquerade;
mod native;
mod netlink;
mod netns;
mod network;
mod nft;
mod owed;
mod pending;
mod readiness;
mod reconcile;
mod report;
mod request;
mod selection;
mod sysctl;
mod template;
mod thread;

pub use cni::Fault;

pub use attachment::{Attachment, Choice, Joined, Living};
pub use check::Unlike;
pub use config::{Config, HostPortsBy, IpPref, NativePlugins};
pub use error::{Error, Result};
pub use netns::Netns;
pub use network::Network;
pub use pending::Pending;
pub use readiness::Readiness;
pub use report::{Directories, Doer, Listed, Origin, Owed, PluginUse, Report};
pub use request::{PodNames, Request};
