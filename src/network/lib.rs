//! The pods' network: namespaces, addresses, links and the way out of the node.
//!
//! A network is a CNI configuration list. The built-in one is such a list too, written by [`Config`] and run by the
//! same native plugins that will run lists from `/etc/cni/net.d`: `bridge` makes links, `host_local` hands out
//! addresses, `masquerade` keeps one nftables table. Everything is done in-process over netlink.
//! Laws: no link is ever moved between namespaces and none is deleted while a request waits; an address is on disk
//! (the intent) before a link uses it; detaching is idempotent and needs nothing but the lease files.
//! Never knows: what a container is, what CRI is, when a pod should live.

mod attachment;
mod bridge;
mod builtin;
mod config;
mod conflist;
mod dns;
mod error;
mod host_local;
mod linger;
mod link;
mod masquerade;
mod netlink;
mod netns;
mod network;
mod nft;
mod readiness;
mod reconcile;
mod sysctl;
mod thread;

pub use attachment::{Address, Attachment, PodNames, Request};
pub use config::Config;
pub use conflist::{Conflist, PluginConf};
pub use error::{Error, Result};
pub use netns::Netns;
pub use network::Network;
pub use readiness::Readiness;
