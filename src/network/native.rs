//! Plugins of a configuration list that we do ourselves, in-process, with the results of the reference plugins.
//!
//! Whether a plugin is done natively is decided from its own object alone, and once for each pod: an option that ours
//! does not know sends the plugin to its binary, and is never ignored.

use std::os::fd::BorrowedFd;

use cni::{Conflist, PluginConf, Runtime, Success};
use serde::de::DeserializeOwned;

use crate::{Error, NativePlugins, Result, host_ports::HostPorts, lingering::Lingering};

mod bridge;
mod host_local;
mod idle;
mod loopback;
pub(crate) mod portmap;

pub(crate) use bridge::{Bridge, link_names};
pub(crate) use host_local::Holder;

/// A plugin of a list, done by us.
#[derive(Debug)]
pub(crate) enum Native {
    /// A veth to a bridge.
    Bridge(Box<Bridge>),
    /// The pod's own loopback.
    Loopback,
    /// Ports of the pod under the host's addresses.
    Portmap(portmap::Portmap),
    /// One that has nothing to do for most pods; for the others its binary has.
    Idle(idle::Idle),
}

/// An attachment as native plugins see it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) runtime: &'a Runtime,
    /// The pod's namespace; `None` once it is gone, which only detaching bears.
    pub(crate) netns: Option<BorrowedFd<'a>>,
    pub(crate) shared: &'a Shared,
}

/// What all native plugins of this instance share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lingering: Lingering,
    pub(crate) host_ports: HostPorts,
}

impl Native {
    /// Checks the plugin's object. `Err(NotNative)`: its binary does it.
    pub(crate) fn new(list: &Conflist, plugin: &PluginConf, wanted: &NativePlugins) -> Result<Self> {
        let not_native = |key: &str| Err(Error::NotNative { plugin: plugin.kind.clone(), key: key.to_owned() });
        if !wanted.includes(&plugin.kind) {
            return not_native("native_plugins of the settings");
        }
        match plugin.kind.as_str() {
            "bridge" => Ok(Self::Bridge(Box::new(Bridge::new(&list.name, plugin, None)?))),
            "portmap" => portmap::Portmap::new(plugin).map(Self::Portmap),
            "loopback" => loopback::check(plugin).map(|()| Self::Loopback),
            "bandwidth" | "tuning" => idle::Idle::new(plugin).map(Self::Idle),
            _ => not_native("this type"),
        }
    }

    /// Whether it does its part for this pod; otherwise its binary does.
    pub(crate) fn does(&self, plugin: &PluginConf, runtime: &Runtime) -> bool {
        match self {
            Self::Bridge(_) | Self::Loopback | Self::Portmap(_) => true,
            Self::Idle(idle) => idle.has_nothing_to_do(&plugin.runtime_config(runtime)),
        }
    }

    /// Makes its part of the attachment. Blocks; on one of [`crate::thread`]'s threads.
    pub(crate) fn add(&self, plugin: &PluginConf, place: Place<'_>, previous: Option<Success>) -> Result<Success> {
        match self {
            Self::Bridge(bridge) => bridge.add(plugin, place),
            Self::Loopback => loopback::add(place, previous),
            Self::Portmap(portmap) => portmap.add(plugin, place, previous),
            Self::Idle(_) => Ok(previous.unwrap_or_default()),
        }
    }

    /// Puts back what the kernel may have lost of it while the pod lives. Blocks.
    pub(crate) fn restore(&self, plugin: &PluginConf, place: Place<'_>, made: &Success) -> Result<()> {
        match self {
            Self::Portmap(portmap) => portmap.restore(plugin, place, made),
            Self::Bridge(_) | Self::Loopback | Self::Idle(_) => Ok(()),
        }
    }

    /// Gives it back; safe to repeat, and without anything of it. Blocks.
    pub(crate) fn del(&self, place: Place<'_>, made: Option<&Success>) -> Result<()> {
        match self {
            Self::Bridge(bridge) => bridge.del(place, made),
            Self::Portmap(_) => place.shared.host_ports.unmap(&place.runtime.container),
            Self::Loopback | Self::Idle(_) => Ok(()),
        }
    }
}

/// Reads a plugin's own keys as `T`. A key that we do not know is the binary's business; one that holds what nobody can
/// take is a mistake.
pub(crate) fn own<T: DeserializeOwned>(plugin: &PluginConf) -> Result<T> {
    plugin.own().map_err(|error| match error {
        cni::Error::Conflist { why, .. } if why.starts_with("unknown field") => {
            let key = why.split('`').nth(1).unwrap_or("a key").to_owned();
            Error::NotNative { plugin: plugin.kind.clone(), key }
        }
        cni::Error::Conflist { key, why } => Error::Conflist { key, why },
        other => Error::Cni(other),
    })
}
