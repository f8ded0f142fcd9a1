//! How a pod joins its networks and leaves them.
//!
//! Which networks is decided first, and written down by the caller before anything is done. Joining goes through them
//! in order; leaving goes backwards, is safe to repeat, and never holds a pod up: what a plugin will not give back is
//! owed to it and tried again beside.

use std::{
    collections::{BTreeMap, hash_map::Entry},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use cni::Runtime;
use model::{PodId, with_causes};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    Attachment, Choice, Error, IpPref, Joined, Living, Netns, Network, Pending, Request, Result,
    attachment::Chosen,
    chain::{Chain, Job},
    config::HostPortsBy,
    netns,
    network::Inner,
    thread,
};

/// How long a detaching that fails at once is tried again while somebody waits, and the first pause in between.
const TRY_FOR: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long somebody waits at most, turns of others included.
const TRY_WITHIN: Duration = Duration::from_secs(15);

/// The link that Kubernetes looks for in a pod; its other networks' have the next numbers.
pub(crate) fn interface(number: usize) -> String {
    format!("eth{number}")
}

impl Network {
    /// Decides which networks a pod gets. Nothing is done yet: this is what has to be written down before.
    pub fn choose(&self, pod: &PodId, request: &Request) -> Result<Choice> {
        let selection = self.inner.selection();
        if selection.chains().is_empty() {
            return Err(Error::NotReady { why: selection.why_none() });
        }
        let mut networks = Vec::new();
        for (number, chain) in selection.chains().iter().enumerate() {
            networks.push(self.inner.chosen(chain, pod, request, number)?);
        }
        Ok(Choice { networks })
    }

    /// Gives the pod its links and addresses. On return they work; after an error, what was made is to be detached.
    ///
    /// A caller that goes away does not stop it half-way: what was made for nobody is given back at once.
    pub async fn attach(&self, pod: &PodId, netns: &Netns, choice: &Choice, request: &Request) -> Result<Attachment> {
        let fd =
            netns.fd.try_clone().map_err(|source| Error::Netns { act: "hold", path: netns.path.clone(), source })?;
        match self.inner.state().attached.entry(pod.clone()) {
            Entry::Occupied(_) => return Err(Error::Attached { pod: pod.clone() }),
            Entry::Vacant(place) => drop(place.insert(Vec::new())),
        }
        let (tell, told) = oneshot::channel();
        let (network, pod, path) = (self.clone(), pod.clone(), netns.path.clone());
        let (choice, request) = (choice.clone(), request.clone());
        tokio::spawn(async move {
            let fd = Arc::new(fd);
            let made = network.inner.join_all(&pod, &fd, &path, &choice, &request).await;
            let made = made.map_err(|error| Error::SetUp { sandbox: pod.clone(), source: Box::new(error) });
            if let Err(unwanted) = tell.send(made)
                && let Err(error) = network.detach(&pod, &choice, &request, unwanted.as_ref().ok()).await
            {
                // The caller's record names the pod, and reconciliation comes back to it.
                tracing::warn!(%pod, error = with_causes(&error), "give back what nobody wants any more");
            }
        });
        let gone = |_| Err(Error::NotReady { why: "the daemon is going away".into() });
        told.await.unwrap_or_else(gone)
    }

    /// The pod came to nothing before it was attached: there is nothing to detach, and no plugin is called.
    pub fn never_attached(&self, pod: &PodId) {
        self.inner.state().attached.entry(pod.clone()).or_default();
    }

    /// Gives the pod's addresses back, exactly once however often it is called. Its links go with its namespace; what
    /// keeps one alive after a second is cut off, and at once when its address is handed out again.
    ///
    /// Works without the namespace, and without the attachment too (then the caches are asked, and every lease). A
    /// plugin that fails for some seconds holds nobody up: what it owes is written down and tried again beside.
    pub async fn detach(
        &self,
        pod: &PodId,
        choice: &Choice,
        request: &Request,
        attachment: Option<&Attachment>,
    ) -> Result<()> {
        if self.inner.queue.has(pod) {
            return Ok(());
        }
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let failed = loop {
            // Only what this process has seen being made is known so well.
            let reach = self.inner.state().attached.get(pod).cloned();
            let left = self.inner.leave_all(pod, choice, request, attachment, reach.as_deref());
            // What hangs is ended, and called again beside: whoever waits has only so much time.
            let left = timeout(TRY_WITHIN.saturating_sub(began.elapsed()), left).await;
            match left.unwrap_or(Err(Error::Late { within: TRY_WITHIN })) {
                Ok(()) => break None,
                Err(error) if began.elapsed() + pause > TRY_FOR => break Some(error),
                Err(error) => {
                    tracing::warn!(%pod, error = with_causes(&error), "detach a pod; it is tried again");
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        };
        if let Some(error) = failed {
            let error = with_causes(&error);
            tracing::error!(%pod, error, "a pod's network is not given back; it is tried again in the background");
            self.inner.owe(self.owed(pod, choice, request, attachment, 1, error)).await?;
        }
        self.inner.state().attached.remove(pod);
        self.inner.sweep();
        Ok(())
    }

    /// The same for the start of the daemon, which waits for no plugin: what binaries have to give back is owed to them
    /// at once, and they are run beside.
    pub async fn detach_at_start(
        &self,
        pod: &PodId,
        choice: &Choice,
        request: &Request,
        attachment: Option<&Attachment>,
    ) -> Result<()> {
        let is_ours = choice.networks.iter().all(|chosen| chosen.native.iter().all(|native| *native));
        if is_ours || self.inner.queue.has(pod) {
            return self.detach(pod, choice, request, attachment).await;
        }
        let why = "it is not tried yet".to_owned();
        self.inner.owe(self.owed(pod, choice, request, attachment, 0, why)).await
    }

    fn owed(
        &self,
        pod: &PodId,
        choice: &Choice,
        request: &Request,
        attachment: Option<&Attachment>,
        tries: u32,
        error: String,
    ) -> Pending {
        Pending {
            pod: pod.clone(),
            choice: choice.clone(),
            request: request.clone(),
            attachment: attachment.cloned(),
            netns: self.netns_path(pod),
            reach: self.inner.state().attached.get(pod).cloned(),
            since: SystemTime::now(),
            tries,
            error,
        }
    }
}

impl Inner {
    async fn join_all(
        self: &Arc<Self>,
        pod: &PodId,
        netns: &Arc<std::os::fd::OwnedFd>,
        path: &Path,
        choice: &Choice,
        request: &Request,
    ) -> Result<Attachment> {
        let mut networks = Vec::new();
        for chosen in &choice.networks {
            let chain = self.chain_of(chosen)?;
            let runtime = self.runtime(pod, request, Some(path), &chosen.interface)?;
            let job = Job::new(chain.clone(), chosen, runtime, Some(netns.clone()), self.tools.clone());
            let mut reach = 0;
            let result = job.add(&mut reach).await;
            if let Some(reached) = self.state().attached.get_mut(pod) {
                reached.push(reach);
            }
            let result = result?;
            if chosen.maps_ports {
                let (job, made) = (job.clone(), result.clone());
                thread::lent("show host ports", move || job.show_ports(&made)).await?;
            }
            // Of its other networks a pod may want the link alone.
            if networks.is_empty() && result.addresses_of(&chosen.interface).next().is_none() {
                let (network, interface) = (chain.list.name.clone(), chosen.interface.clone());
                return Err(Error::NoAddress { network, interface });
            }
            let interface = chosen.interface.clone();
            networks.push(Joined { network: chain.list.name.clone(), interface, result });
        }
        let ips = networks.first().map(|first| ordered(first, self.config.ip_pref)).unwrap_or_default();
        Ok(Attachment { ips, networks })
    }

    /// Leaves every network, whatever becomes of the others; the first failure is told.
    pub(crate) async fn leave_all(
        self: &Arc<Self>,
        pod: &PodId,
        choice: &Choice,
        request: &Request,
        attachment: Option<&Attachment>,
        reached: Option<&[usize]>,
    ) -> Result<()> {
        // A record of a release that knew one network only names none.
        let before;
        let choice = if choice.networks.is_empty() {
            before = Choice { networks: vec![self.chosen(&self.builtin, pod, &Request::default(), 0)?] };
            &before
        } else {
            choice
        };
        let path = self.netns.path(pod);
        // A file that a crash has left without its namespace is none: plugins fail at it, for good.
        let netns = Some(path.as_path()).filter(|path| netns::is_one(path));
        let mut failed = None;
        for (number, chosen) in choice.networks.iter().enumerate().rev() {
            let reach = reached.map(|reached| reached.get(number).copied().unwrap_or(0));
            let left = async {
                let chain = self.chain_of(chosen)?;
                // What nobody can read now was not asked for when it was made.
                let plain = || Request { annotations: BTreeMap::new(), ..request.clone() };
                let runtime = self.runtime(pod, request, netns, &chosen.interface);
                let runtime = runtime.or_else(|_| self.runtime(pod, &plain(), netns, &chosen.interface))?;
                let made = attachment.and_then(|attachment| {
                    attachment.networks.iter().find(|joined| joined.interface == chosen.interface)
                });
                let job = Job::new(chain, chosen, runtime, None, self.tools.clone());
                if chosen.maps_ports {
                    let job = job.clone();
                    thread::lent("show host ports no more", move || job.hide_ports()).await?;
                }
                job.del(made.map(|joined| &joined.result), reach).await
            };
            failed = failed.or(left.await.err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// Puts back what the kernel may have lost of a pod that was found alive: its ports, what it may send as. Blocks.
    pub(crate) fn restore(self: &Arc<Self>, living: &Living) -> Result<()> {
        let Living { pod, choice, request, attachment: Some(attachment) } = living else { return Ok(()) };
        for chosen in &choice.networks {
            let joined = attachment.networks.iter().find(|joined| joined.interface == chosen.interface);
            let Some(Joined { result, .. }) = joined else { continue };
            let runtime = self.runtime(pod, request, Some(&self.netns.path(pod)), &chosen.interface)?;
            let job = Job::new(self.chain_of(chosen)?, chosen, runtime, None, self.tools.clone());
            if chosen.maps_ports {
                job.show_ports(result)?;
            }
            job.restore(result)?;
        }
        Ok(())
    }

    /// The network that was chosen, whatever the settings are now.
    pub(crate) fn chain_of(&self, chosen: &Chosen) -> Result<Arc<Chain>> {
        if let Some(chain) =
            self.selection().find(&chosen.list, chosen.builtin).filter(|chain| chain.does(&chosen.native))
        {
            return Ok(chain);
        }
        let list = cni::Conflist::parse(chosen.list.as_bytes())?;
        if chosen.builtin {
            // With other settings than today's: the same owner, other addresses.
            return Ok(Arc::new(self.builtin.with(list)?));
        }
        // What we did ourselves then we do ourselves now.
        let wanted = crate::NativePlugins::All(true);
        let maker = crate::selection::Maker { wanted, ..self.selection().maker().clone() };
        Ok(Arc::new(maker.chain(list)?))
    }

    fn chosen(&self, chain: &Chain, pod: &PodId, request: &Request, number: usize) -> Result<Chosen> {
        let interface = interface(number);
        let runtime = self.runtime(pod, request, None, &interface)?;
        Ok(Chosen {
            list: chain.list.text.clone(),
            builtin: chain.builtin,
            interface,
            native: chain.native_for(&runtime),
            maps_ports: number == 0 && self.config.host_ports == HostPortsBy::Always && !chain.maps_ports(),
        })
    }

    pub(crate) fn runtime(
        &self,
        pod: &PodId,
        request: &Request,
        netns: Option<&Path>,
        interface: &str,
    ) -> Result<Runtime> {
        request.runtime(pod, netns, interface, &self.config.pod_capabilities)
    }
}

/// The pod's addresses on its first network, the primary one first.
fn ordered(first: &Joined, pref: IpPref) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = first.result.addresses_of(&first.interface).map(|ip| ip.address.addr()).collect();
    match pref {
        IpPref::Ipv4 => move_to_front(&mut ips, IpAddr::is_ipv4),
        IpPref::Ipv6 => move_to_front(&mut ips, IpAddr::is_ipv6),
        IpPref::Cni => {}
    }
    ips
}

fn move_to_front(ips: &mut [IpAddr], is_it: impl Fn(&IpAddr) -> bool) {
    if let Some(at) = ips.iter().position(is_it) {
        ips[..=at].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use cni::Success;

    use super::*;

    #[test]
    fn the_primary_address_is_of_the_family_that_is_preferred() {
        let text = br#"{"interfaces":[{"name":"eth0","sandbox":"/n"},{"name":"eth9","sandbox":"/n"}],"ips":[
            {"address":"fd00::2/64","interface":0},{"address":"10.0.0.9/24","interface":1},
            {"address":"10.0.0.2/24","interface":0},{"address":"10.0.1.2/24"}]}"#;
        let result = Success::parse(text).unwrap();
        let first = Joined { network: "n".into(), interface: "eth0".into(), result };
        let shown = |pref| ordered(&first, pref).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(shown(IpPref::Cni), ["fd00::2", "10.0.0.2", "10.0.1.2"]);
        assert_eq!(shown(IpPref::Ipv6), ["fd00::2", "10.0.0.2", "10.0.1.2"]);
        assert_eq!(shown(IpPref::Ipv4), ["10.0.0.2", "fd00::2", "10.0.1.2"]);
    }
}
