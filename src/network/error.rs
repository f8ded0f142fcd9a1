//! What can go wrong with a pod's network, each naming its object.

use std::{io, net::IpAddr, path::PathBuf, time::Duration};

use model::{Class, PodId};

use crate::netlink;

/// Shorthand of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// An act of this room that did not come about. Whatever it had begun has been undone, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that can never work; `key` is its name below `[network]`.
    #[error("network.{key}: {why}")]
    Setting {
        /// Name of the setting.
        key: &'static str,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// A CNI configuration that does not parse or says something impossible.
    #[error("network configuration, {key}: {why}")]
    Conflist {
        /// Path of the offending key, `plugins[0].ipam.ranges`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A template that no configuration can be made of.
    #[error("{}:{line}:{column}: {why}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// The place in it, from 1.
        line: usize,
        /// The place in its line, in characters, from 1.
        column: usize,
        /// What is wrong there.
        why: String,
    },
    /// What a template has become is no configuration of a network.
    #[error("{} became no network", path.display())]
    Rendered {
        /// The template.
        path: PathBuf,
        /// Why not.
        source: Box<Error>,
    },
    /// Plugins that somebody waited for.
    #[error("its plugins have not answered within {} s", within.as_secs())]
    Late {
        /// How long was waited.
        within: Duration,
    },
    /// An attachment is not any more as it was made.
    #[error("{what}")]
    Unlike {
        /// What of it.
        what: String,
    },
    /// The template, or the configuration that is made of it.
    #[error("{act} {}", path.display())]
    File {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An option that the native plugin does not do. It is refused, never ignored.
    #[error("plugin {plugin} does not do {key} natively")]
    NotNative {
        /// The plugin's type.
        plugin: String,
        /// The option it met.
        key: String,
    },
    /// What CNI has to say: a configuration, a plugin, the cache.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// What a pod asks of the network, which nobody can do.
    #[error("capability {capability}: {why}")]
    Asked {
        /// Name of the capability, or of the annotation.
        capability: String,
        /// What is wrong with it.
        why: String,
    },
    /// The plugins gave the pod no address on its interface.
    #[error("network {network:?} gave no address to {interface}")]
    NoAddress {
        /// The network.
        network: String,
        /// The interface inside the pod.
        interface: String,
    },
    /// A pod's place in the network could not be made.
    #[error("failed to setup network for sandbox \"{sandbox}\"")]
    SetUp {
        /// The pod.
        sandbox: PodId,
        /// Why not.
        source: Box<Error>,
    },
    /// A port of the host's belongs to another pod.
    #[error("host port {port} ({protocol}) of {address} is taken by {holder}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: &'static str,
        /// The host's address, or every one.
        address: String,
        /// Who has it.
        holder: String,
    },
    /// What is to be detached later could not be read.
    #[error("read what has to be detached later")]
    Pending {
        /// Why not.
        source: disk::Error,
    },
    /// The network cannot take pods now; the text says why and what to change.
    #[error("network is not ready: {why}")]
    NotReady {
        /// The reason.
        why: String,
    },
    /// The pod has its networks already.
    #[error("pod {pod:?} is attached already")]
    Attached {
        /// The pod.
        pod: PodId,
    },
    /// Every address of a range set is taken.
    #[error("no IP addresses available in range set {set} of network {network}: all {size} are taken{}", by(holders))]
    Exhausted {
        /// The network.
        network: String,
        /// The set as `start-end[,start-end]`.
        set: String,
        /// How many addresses it can hand out.
        size: u128,
        /// Ids of a few who have them.
        holders: Vec<String>,
    },
    /// Every port of the bridge is taken: the kernel has 1023.
    #[error("bridge {bridge} has no free port: it carries at most 1023 pods")]
    BridgeFull {
        /// The bridge.
        bridge: String,
    },
    /// The bridge cannot be taken down: a pod is on it.
    #[error("bridge {bridge} is in use")]
    InUse {
        /// The bridge.
        bridge: String,
    },
    /// The address that was asked for belongs to another pod.
    #[error("requested address {address} of network {network} is taken")]
    AddressTaken {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// The address that was asked for is in none of the ranges.
    #[error("requested address {address} is in no range of network {network}")]
    AddressOutside {
        /// The network.
        network: String,
        /// The address.
        address: IpAddr,
    },
    /// Somebody on the link has an address already that a pod was given.
    #[error("link {link} has address {address} in DADFAILED state: somebody else has it")]
    Duplicate {
        /// The link.
        link: String,
        /// The address.
        address: IpAddr,
    },
    /// A lease file or its directory.
    #[error("{act} {}", path.display())]
    Lease {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A network namespace or the file that names it.
    #[error("{act} network namespace {}", path.display())]
    Netns {
        /// What was being done.
        act: &'static str,
        /// The namespace's file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A link, address or route.
    #[error("{act} {name}")]
    Link {
        /// What was being done.
        act: &'static str,
        /// The link, address or route.
        name: String,
        /// The kernel's answer, with its own words where it gave any.
        source: io::Error,
    },
    /// A kernel parameter.
    #[error("set {name} to {value}")]
    Sysctl {
        /// Path below `/proc/sys`.
        name: String,
        /// What it should have become.
        value: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The nftables table of ours.
    #[error("{act} nftables table inet {table}")]
    Nftables {
        /// What was being done.
        act: &'static str,
        /// The table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The nftables table of ours that sees the frames of bridges.
    #[error("{act} nftables table bridge {table}")]
    NftablesOfBridges {
        /// What was being done.
        act: &'static str,
        /// The table.
        table: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be started, or ended without an answer.
    #[error("run {act} on a thread of its own")]
    Thread {
        /// What it was for.
        act: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The host's resolver configuration.
    #[error("read {}", path.display())]
    Dns {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another process does not let go of the lock of a lease directory.
    #[error("wait for lock {}: {} has held it for {} s", path.display(), process(*holder), waited.as_secs())]
    LeaseLock {
        /// The lock's file.
        path: PathBuf,
        /// The process that holds it, where the kernel tells.
        holder: Option<u32>,
        /// How long it was waited for.
        waited: Duration,
    },
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Setting { .. } | Self::Conflist { .. } | Self::AddressOutside { .. } | Self::Asked { .. } => {
                Class::Invalid
            }
            Self::Cni(error) => error.class(),
            // The request is good; the node has to be put right.
            Self::Template { .. } | Self::Rendered { .. } => Class::Precondition,
            Self::NoAddress { .. } => Class::Internal,
            Self::SetUp { source, .. } => source.class(),
            Self::Pending { source } => source.class(),
            Self::NotNative { .. } => Class::Unsupported,
            Self::NotReady { .. } | Self::LeaseLock { .. } | Self::Late { .. } => Class::Unavailable,
            Self::InUse { .. } | Self::Unlike { .. } => Class::Precondition,
            Self::Attached { .. } | Self::AddressTaken { .. } | Self::Duplicate { .. } | Self::PortTaken { .. } => {
                Class::Conflict
            }
            Self::Exhausted { .. } | Self::BridgeFull { .. } => Class::Exhausted,
            Self::Lease { source, .. }
            | Self::Netns { source, .. }
            | Self::Link { source, .. }
            | Self::Sysctl { source, .. }
            | Self::Nftables { source, .. }
            | Self::NftablesOfBridges { source, .. }
            | Self::Thread { source, .. }
            | Self::File { source, .. }
            | Self::Dns { source, .. } => of_kernel(source),
        }
    }
}

fn by(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(", among others by {}", holders.join(", ")) }
}

fn process(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

fn of_kernel(error: &io::Error) -> Class {
    match netlink::errno(error) {
        // EXFULL is how a bridge says that it has no port left.
        Some(
            libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EXFULL,
        ) => Class::Exhausted,
        Some(libc::ENODEV | libc::ENETDOWN) => Class::Unavailable,
        _ => Class::Internal,
    }
}
