//! One network: the plugins of its list one after the other, some done by us and some by their binaries.
//!
//! Order of an attachment: each plugin's part in the list's order, every one told what the ones before have made; then
//! the cache, where other tools find it. Detaching goes the other way round and needs nothing of it to exist.
//! A failure half-way is given back by detaching, which is the caller's. Where a plugin fails to detach, those before
//! it in the list are not asked either, as the specification has it, ours no more than others: an address must not be
//! another pod's while a plugin still has something of it.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use cni::{Cache, Conflist, Plugins, Runtime, Success};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Error, NativePlugins, Result,
    attachment::Chosen,
    native::{Bridge, HostLocal, Native, Place, Ptp, Shared, portmap},
    report::Doer,
    thread,
};

/// A list, and which of its plugins we can do.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) list: Conflist,
    pub(crate) builtin: bool,
    /// In the list's order; `None` is the binary's.
    parts: Vec<Option<Native>>,
    /// For each plugin that is its binary's, the key that makes it so.
    keys: Vec<Option<String>>,
    cache: Cache,
    owner: Option<String>,
}

/// What all chains work with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) plugins: Plugins,
    pub(crate) shared: Shared,
    /// Turns for jobs in the kernel. Never held while a plugin runs: one that hangs holds its own pod only.
    pub(crate) jobs: Semaphore,
}

impl Tools {
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.jobs.acquire().await.expect("the semaphore is never closed")
    }
}

/// A pod's place in one network, being made or given back.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) chain: Arc<Chain>,
    pub(crate) runtime: Runtime,
    /// As decided when the pod's networks were chosen.
    pub(crate) native: Vec<bool>,
    pub(crate) netns: Option<Arc<OwnedFd>>,
    pub(crate) tools: Arc<Tools>,
}

impl Chain {
    /// Judges a list. A mistake in the options of a plugin that we do is an error that names its key.
    pub(crate) fn new(list: Conflist, wanted: &NativePlugins, owner: Option<&str>, cache: Cache) -> Result<Self> {
        let (mut parts, mut keys) = (Vec::with_capacity(list.plugins.len()), Vec::new());
        for (at, plugin) in list.plugins.iter().enumerate() {
            let native = match owner {
                Some(owner) if plugin.kind == "bridge" => {
                    Bridge::new(&list.name, plugin, Some(owner.to_owned())).map(|bridge| Native::Bridge(bridge.into()))
                }
                _ => Native::new(&list, plugin, wanted),
            };
            let (part, key) = match native {
                Ok(native) => (Some(native), None),
                Err(Error::NotNative { key, .. }) => (None, Some(key)),
                Err(Error::Conflist { key, why }) => {
                    return Err(Error::Conflist { key: format!("plugins[{at}].{key}"), why: cni::bounded(why) });
                }
                Err(error) => return Err(error),
            };
            parts.push(part);
            keys.push(key);
        }
        Ok(Self { list, builtin: owner.is_some(), parts, keys, cache, owner: owner.map(str::to_owned) })
    }

    /// The network that another list makes, with the same owner and cache, all of it done by us where we can.
    pub(crate) fn with(&self, list: Conflist) -> Result<Self> {
        Self::new(list, &NativePlugins::All(true), self.owner.as_deref(), self.cache.clone())
    }

    /// Where its attachments are kept.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Whether some of its plugins are always run by their binaries.
    pub(crate) fn has_binaries(&self) -> bool {
        self.parts.iter().any(Option::is_none)
    }

    /// Whether the binaries that it always needs are there.
    pub(crate) fn missing(&self, plugins: &Plugins) -> Result<()> {
        for (plugin, _) in self.list.plugins.iter().zip(&self.parts).filter(|(_, part)| part.is_none()) {
            plugins.find(&plugin.kind)?;
        }
        Ok(())
    }

    /// For each plugin, whether we do it for such a pod.
    pub(crate) fn native_for(&self, runtime: &Runtime) -> Vec<bool> {
        let does = |(part, plugin): (&Option<Native>, _)| part.as_ref().is_some_and(|part| part.does(plugin, runtime));
        self.parts.iter().zip(&self.list.plugins).map(does).collect()
    }

    /// Whether we do all of these plugins.
    pub(crate) fn does(&self, native: &[bool]) -> bool {
        native.len() == self.parts.len()
            && native.iter().zip(&self.parts).all(|(native, part)| !native || part.is_some())
    }

    /// Each plugin's type, and who does its part.
    pub(crate) fn plugins(&self) -> impl Iterator<Item = (&str, Doer)> {
        let each = self.list.plugins.iter().zip(&self.parts).zip(&self.keys);
        each.map(|((plugin, part), key)| {
            let doer = match (part, key) {
                (Some(Native::Idle(_)), _) => Doer::UsUnlessAsked,
                (Some(_), _) => Doer::Us,
                (None, key) => Doer::Binary { key: key.clone().unwrap_or_default() },
            };
            (plugin.kind.as_str(), doer)
        })
    }

    /// The bridges that we make pods' links to.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &Bridge> {
        self.parts.iter().filter_map(|part| match part {
            Some(Native::Bridge(bridge)) => Some(bridge.as_ref()),
            _ => None,
        })
    }

    /// What gives pods a link to the host alone.
    pub(crate) fn ptps(&self) -> impl Iterator<Item = &Ptp> {
        self.parts.iter().filter_map(|part| match part {
            Some(Native::Ptp(ptp)) => Some(ptp.as_ref()),
            _ => None,
        })
    }

    /// The addresses that we hand out.
    pub(crate) fn ipams(&self) -> impl Iterator<Item = &HostLocal> {
        self.parts.iter().filter_map(|part| match part {
            Some(Native::Bridge(bridge)) => Some(&bridge.ipam),
            Some(Native::Ptp(ptp)) => Some(ptp.ipam()),
            _ => None,
        })
    }

    /// Whether some plugin says that it maps ports.
    pub(crate) fn maps_ports(&self) -> bool {
        self.list.plugins.iter().any(|plugin| plugin.capabilities.get("portMappings") == Some(&true))
    }

    /// Whether the binaries that it needs are there, know its version and can make attachments.
    pub(crate) async fn status(&self, plugins: &Plugins) -> Result<()> {
        for (plugin, _) in self.list.plugins.iter().zip(&self.parts).filter(|(_, part)| part.is_none()) {
            plugins.status(&self.list, plugin).await?;
        }
        Ok(())
    }

    /// Has every binary give back what it holds beside these attachments (container and interface).
    pub(crate) async fn gc(&self, plugins: &Plugins, valid: &[(String, String)]) -> Result<()> {
        let mut failed = None;
        for (plugin, _) in self.list.plugins.iter().zip(&self.parts).filter(|(_, part)| part.is_none()) {
            failed = failed.or(plugins.gc(&self.list, plugin, valid).await.err());
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Job {
    /// The job that was decided on.
    pub(crate) fn new(
        chain: Arc<Chain>,
        chosen: &Chosen,
        runtime: Runtime,
        netns: Option<Arc<OwnedFd>>,
        tools: Arc<Tools>,
    ) -> Self {
        let mut native = chosen.native.clone();
        // A record of another release may know another length; what it does not say is not ours.
        native.resize(chain.parts.len(), false);
        Self { chain, runtime, native, netns, tools }
    }

    /// Makes the attachment. On an error what was made so far is to be detached: `reach` tells how many plugins may
    /// have done something.
    pub(crate) async fn add(&self, reach: &mut usize) -> Result<Success> {
        let whole = self.chain.parts.len();
        let (mut made, mut at) = (None, 0);
        while at < whole {
            let until = at + self.natively_from(at);
            if until > at {
                // What stands side by side is one piece of work, and the end of the chain with it.
                let (job, before) = (self.clone(), made.take());
                let work = move || job.add_natively(at..until, before);
                let _turn = self.tools.turn().await;
                *reach = until;
                made = Some(thread::run("attach", work, drop).await?);
                at = until;
            } else {
                let (list, plugin) = (&self.chain.list, &self.chain.list.plugins[at]);
                // One that is not there, or of another version, has done nothing.
                self.tools.plugins.check_version(list, plugin).await?;
                at += 1;
                *reach = at;
                made = Some(self.tools.plugins.add(list, plugin, &self.runtime, made.as_ref()).await?);
            }
        }
        let made = made.unwrap_or_default();
        if self.native.last() != Some(&true) {
            let (job, kept) = (self.clone(), made.clone());
            thread::lent("keep the attachment", move || job.keep(&kept)).await?;
        }
        Ok(made)
    }

    /// Gives the attachment back, by what was made or else by what the cache knows of it. Safe to repeat. Of a chain
    /// that is known to have come only so far, the first `reach` plugins.
    pub(crate) async fn del(&self, made: Option<&Success>, reach: Option<usize>) -> Result<()> {
        let made = match made {
            Some(made) => Some(made.clone()),
            None => {
                let job = self.clone();
                thread::lent("look for the attachment", move || Ok(job.cached())).await?
            }
        };
        let whole = self.chain.parts.len();
        let mut until = reach.map_or(whole, |reach| reach.min(whole));
        while until > 0 {
            let from = until - self.natively_until(until);
            if from < until {
                let (job, made) = (self.clone(), made.clone());
                let _turn = self.tools.turn().await;
                thread::lent("detach", move || job.del_natively(from..until, made.as_ref())).await?;
                until = from;
            } else {
                let Chain { list, .. } = &*self.chain;
                let plugin = &list.plugins[until - 1];
                self.tools.plugins.del(list, plugin, &self.runtime, made.as_ref()).await?;
                until -= 1;
            }
        }
        if self.native.first() != Some(&true) || reach == Some(0) {
            let job = self.clone();
            thread::lent("forget the attachment", move || job.forget()).await?;
        }
        Ok(())
    }

    /// Shows the pod's ports, where no plugin does. Blocks.
    pub(crate) fn show_ports(&self, made: &Success) -> Result<()> {
        portmap::map(self.place(), &portmap::mappings(&self.runtime.capabilities)?, made, true)
    }

    /// Shows them no more. Blocks.
    pub(crate) fn hide_ports(&self) -> Result<()> {
        self.tools.shared.host_ports.unmap(&portmap::key(&self.runtime))
    }

    /// Puts back what the kernel may have lost of the parts that we did ourselves. Blocks.
    pub(crate) fn restore(&self, made: &Success) -> Result<()> {
        let native = self.chain.parts.iter().zip(&self.chain.list.plugins).zip(&self.native);
        for ((part, plugin), _) in native.filter(|(_, native)| **native) {
            if let Some(part) = part {
                part.restore(plugin, self.place(), made)?;
            }
        }
        Ok(())
    }

    /// Whether the attachment is as it was made, plugin by plugin in the list's order. Lists may say that nobody is to
    /// ask.
    pub(crate) async fn check(&self, made: &Success) -> Result<()> {
        let list = &self.chain.list;
        if list.disable_check {
            return Ok(());
        }
        for (at, plugin) in list.plugins.iter().enumerate() {
            if self.native[at] {
                let (job, made) = (self.clone(), made.clone());
                let _turn = self.tools.turn().await;
                let work = move || job.part(at)?.check(&job.chain.list.plugins[at], job.place(), &made);
                thread::run("check", work, drop).await?;
            } else {
                self.tools.plugins.check(list, plugin, &self.runtime, made).await?;
            }
        }
        Ok(())
    }

    /// Whether the pod's ports are shown, where no plugin does. Blocks.
    pub(crate) fn check_ports(&self, made: &Success) -> Result<()> {
        portmap::check(self.place(), &portmap::mappings(&self.runtime.capabilities)?, made)
    }

    fn natively_from(&self, at: usize) -> usize {
        self.native[at..].iter().take_while(|native| **native).count()
    }

    fn natively_until(&self, until: usize) -> usize {
        self.native[..until].iter().rev().take_while(|native| **native).count()
    }

    fn add_natively(&self, range: std::ops::Range<usize>, before: Option<Success>) -> Result<Success> {
        let mut made = before;
        let is_whole = range.end == self.chain.parts.len();
        for at in range {
            let plugin = &self.chain.list.plugins[at];
            let part = self.part(at)?;
            made = Some(part.add(plugin, self.place(), made)?);
        }
        let made = made.unwrap_or_default();
        if is_whole {
            self.keep(&made)?;
        }
        Ok(made)
    }

    fn del_natively(&self, range: std::ops::Range<usize>, made: Option<&Success>) -> Result<()> {
        let is_whole = range.start == 0;
        for at in range.rev() {
            self.part(at)?.del(self.place(), made)?;
        }
        if is_whole { self.forget() } else { Ok(()) }
    }

    /// A plugin that was ours when the pod's networks were chosen. A release that does not know it any more says so.
    fn part(&self, at: usize) -> Result<&Native> {
        let kind = || self.chain.list.plugins[at].kind.clone();
        self.chain.parts[at].as_ref().ok_or_else(|| Error::NotNative { plugin: kind(), key: "its options".into() })
    }

    fn place(&self) -> Place<'_> {
        Place {
            runtime: &self.runtime,
            netns: self.netns.as_ref().map(|netns| netns.as_fd()),
            shared: &self.tools.shared,
        }
    }

    fn keep(&self, made: &Success) -> Result<()> {
        Ok(self.chain.cache.put(&self.chain.list, &self.runtime, made)?)
    }

    fn cached(&self) -> Option<Success> {
        let Runtime { container, interface, .. } = &self.runtime;
        self.chain.cache.get(&self.chain.list.name, container, interface)?.result
    }

    fn forget(&self) -> Result<()> {
        let Runtime { container, interface, .. } = &self.runtime;
        Ok(self.chain.cache.remove(&self.chain.list.name, container, interface)?)
    }
}
