//! The room's face: one built-in network, from namespace to address and back.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use model::PodId;

use crate::{Attachment, Config, Error, Netns, Readiness, Request, Result, dns, netns::NetnsDir, thread};

/// The node's network. Cheap to clone; every clone is the same network.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    netns: NetnsDir,
    readiness: Mutex<Readiness>,
}

impl Network {
    /// Opens the network of this instance. `root` survives a reboot (leases), `state` need not (marks of namespaces).
    ///
    /// Fails only for settings that can never work and directories that cannot be made; a host that cannot carry the
    /// network now is told by [`Network::readiness`].
    pub fn open(config: Config, root: &Path, state: &Path) -> Result<Self> {
        config.check()?;
        let _ = root;
        let netns = NetnsDir::open(&config.netns_dir, state)?;
        let readiness = Mutex::new(Readiness::NotReady { why: "the bridge plugin is not part of this build".into() });
        Ok(Self { inner: Arc::new(Inner { config, netns, readiness }) })
    }

    /// Whether pods can be attached. Answered from memory.
    pub fn readiness(&self) -> Readiness {
        self.inner.readiness.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// What this host makes us do without, one sentence each (no IPv6, no masquerade).
    pub fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Makes the pod's network namespace. It exists until [`Network::drop_netns`].
    pub async fn make_netns(&self, pod: &PodId) -> Result<Netns> {
        let (inner, pod, undo) = (Arc::clone(&self.inner), pod.clone(), Arc::clone(&self.inner));
        let make = move || inner.netns.make(&pod);
        thread::run("make netns", make, move |netns| {
            let _ = undo.netns.remove(&netns.path);
        })
        .await
    }

    /// Opens a namespace made earlier, after a restart. One that is gone (reboot) is an error of class `Internal`
    /// whose source is `NotFound` or `InvalidInput`.
    pub fn open_netns(&self, path: &Path) -> Result<Netns> {
        NetnsDir::open_netns(path)
    }

    /// Gives the pod its link and addresses. On return they work; on an error nothing is left.
    ///
    /// A caller that goes away does not stop it half-way: what was made for nobody is given back at once.
    pub async fn attach(&self, pod: &PodId, netns: &Netns, request: &Request) -> Result<Attachment> {
        let _ = (pod, netns, request);
        match self.readiness() {
            Readiness::NotReady { why } => Err(Error::NotReady { why }),
            Readiness::Ready => Err(Error::NotReady { why: "the bridge plugin is not part of this build".into() }),
        }
    }

    /// Gives the pod's addresses back, exactly once however often it is called. Its link goes with its namespace.
    ///
    /// Works without the namespace, and without the attachment too (then every lease is looked at: slower).
    pub async fn detach(&self, pod: &PodId, attachment: Option<&Attachment>) -> Result<()> {
        let _ = (pod, attachment);
        Ok(())
    }

    /// Removes a namespace's file. Idempotent: a missing file is success, a left-over empty file is removed.
    pub async fn drop_netns(&self, path: &Path) -> Result<()> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        thread::run("drop netns", move || inner.netns.remove(&path), |()| ()).await
    }

    /// Gives back what belongs to this instance and to none of the `live` pods: leases, links, namespaces.
    pub async fn reconcile(&self, live: &[PodId]) -> Result<()> {
        let _ = live;
        Ok(())
    }

    /// The text of `/etc/resolv.conf` for pods that bring no DNS settings.
    pub fn host_dns(&self) -> Result<Vec<u8>> {
        dns::host_dns(&self.inner.config)
    }
}
