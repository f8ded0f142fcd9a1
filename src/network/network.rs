//! The room's face: one built-in network, from namespace to address and back.
//!
//! Blocking work runs on threads of its own ([`crate::thread`]), a bounded number at a time; what is asked often
//! ([`Network::readiness`]) is answered from memory. The bridge is prepared when the network is opened and again
//! whenever a look finds it amiss.

use std::{
    collections::HashSet,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::{PodId, with_causes};
use tokio::sync::Semaphore;

use crate::{
    Attachment, Config, Conflist, Error, Netns, Readiness, Request, Result,
    bridge::{Bridge, Ground, Port, link_names},
    builtin, dns,
    linger::Lingering,
    link::Links,
    netlink::errno,
    netns::NetnsDir,
    reconcile, sysctl, thread,
};

/// Jobs in the kernel at a time: they queue for its one lock of links anyway, and each costs a thread.
const JOBS_AT_ONCE: usize = 16;

/// How old an answer about readiness may become before a new look is taken in the background. The kubelet asks every
/// five seconds.
const LOOK_AFTER: Duration = Duration::from_secs(4);

/// The node's network. Cheap to clone; every clone is the same network.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    config: Config,
    /// Written on the bridge, so that instances know theirs.
    owner: String,
    /// The list as text, kept with every attachment.
    conflist: String,
    pub(crate) bridge: Bridge,
    pub(crate) netns: NetnsDir,
    /// What the host cannot do, fixed when the network was opened.
    lacks: Vec<String>,
    jobs: Semaphore,
    lingering: Lingering,
    state: Mutex<State>,
    /// Held while the bridge is prepared: once at a time.
    preparing: Mutex<()>,
    looking: AtomicBool,
}

#[derive(Debug)]
struct State {
    ground: std::result::Result<Ground, String>,
    looked: Instant,
    /// Pods whose leases an earlier life of the daemon left: kept if they live, else given back by reconciliation.
    found: HashSet<PodId>,
    /// Pods that this process has attached, or is attaching right now.
    attached: HashSet<PodId>,
    dismantled: bool,
}

impl Network {
    /// Opens the network of this instance and prepares its bridge. `root` survives a reboot (leases), `state` need not
    /// (marks of namespaces).
    ///
    /// Fails only for settings that can never work and directories that cannot be used; a host that cannot carry the
    /// network now is told by [`Network::readiness`]. Blocks for a few milliseconds.
    pub fn open(config: Config, root: &Path, state: &Path) -> Result<Self> {
        config.check()?;
        let netns = NetnsDir::open(&config.netns_dir, state)?;
        let (host, lacks) = look_at_host(&config);
        let conflist = builtin::conflist(&config, &root.join("network"), host);
        let list = Conflist::parse(conflist.as_bytes())?;
        let bridge = Bridge::new(&list.name, &list.plugins[0])?;
        let holders = bridge.ipam.leases.holders()?;
        let inner = Inner {
            owner: reconcile::owner_of(root),
            conflist,
            netns,
            lacks,
            jobs: Semaphore::new(JOBS_AT_ONCE),
            lingering: Lingering::default(),
            state: Mutex::new(State {
                ground: Err("it has not been looked at yet".into()),
                looked: Instant::now(),
                found: holders.iter().filter_map(|id| id.parse().ok()).collect(),
                attached: HashSet::new(),
                dismantled: false,
            }),
            preparing: Mutex::new(()),
            looking: AtomicBool::new(false),
            bridge,
            config,
        };
        if let Err(error) = inner.prepare() {
            tracing::warn!(bridge = inner.bridge.name, error = with_causes(&error), "the network is not ready");
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether pods can be attached. Answered from memory; an answer that has become old starts a new look.
    pub fn readiness(&self) -> Readiness {
        let state = self.inner.state();
        let answer = match &state.ground {
            Ok(_) => Readiness::Ready,
            Err(why) => Readiness::NotReady { why: why.clone() },
        };
        if state.looked.elapsed() > LOOK_AFTER && !state.dismantled {
            drop(state);
            self.look();
        }
        answer
    }

    /// What an operator should know though the network works, one sentence each: no IPv6 here, addresses that the
    /// pods' subnet hides.
    pub fn notes(&self) -> Vec<String> {
        let state = self.inner.state();
        let found = state.ground.iter().flat_map(|ground| ground.notes.iter());
        self.inner.lacks.iter().chain(found).cloned().collect()
    }

    /// Makes the pod's network namespace. It exists until [`Network::drop_netns`].
    pub async fn make_netns(&self, pod: &PodId) -> Result<Netns> {
        let (inner, pod, undo) = (Arc::clone(&self.inner), pod.clone(), Arc::clone(&self.inner));
        let _turn = self.turn().await;
        let make = move || inner.netns.make(&pod);
        thread::run("make netns", make, move |netns| {
            // Nobody hears of a failure; the mark stays, and reconciliation comes back to it.
            let _ = undo.netns.remove(&netns.path);
        })
        .await
    }

    /// Where a pod's namespace is named, or would be: known before it is made, so that a record can name it first.
    pub fn netns_path(&self, pod: &PodId) -> PathBuf {
        self.inner.netns.path(pod)
    }

    /// Opens a namespace made earlier, after a restart. One that is gone (reboot) is an error whose source is
    /// `NotFound` or `InvalidInput`.
    pub fn open_netns(&self, path: &Path) -> Result<Netns> {
        NetnsDir::open_netns(path)
    }

    /// Gives the pod its link and addresses. On return they work; on an error nothing is left.
    ///
    /// A caller that goes away does not stop it half-way: what was made for nobody is given back at once.
    pub async fn attach(&self, pod: &PodId, netns: &Netns, request: &Request) -> Result<Attachment> {
        let fd =
            netns.fd.try_clone().map_err(|source| Error::Netns { act: "hold", path: netns.path.clone(), source })?;
        let _turn = self.turn().await;
        let (inner, undo) = (Arc::clone(&self.inner), Arc::clone(&self.inner));
        let (pod, unwanted, path, request) = (pod.clone(), pod.clone(), netns.path.clone(), request.clone());
        thread::run(
            "attach",
            move || inner.attach(&pod, &fd, &path, &request),
            move |attachment| {
                // As above: the lease names a pod that nobody knows, which reconciliation gives back.
                let _ = undo.detach(&unwanted, Some(&attachment));
            },
        )
        .await
    }

    /// Gives the pod's addresses back, exactly once however often it is called. Its link goes with its namespace; what
    /// keeps it alive after a second is cut off, and at once when the address is handed out again.
    ///
    /// Works without the namespace, and without the attachment too (then every lease is looked at: slower).
    pub async fn detach(&self, pod: &PodId, attachment: Option<&Attachment>) -> Result<()> {
        let (inner, pod, attachment) = (Arc::clone(&self.inner), pod.clone(), attachment.cloned());
        let _turn = self.turn().await;
        thread::lent("detach", move || inner.detach(&pod, attachment.as_ref())).await
    }

    /// Removes a namespace's file. Idempotent: a missing file is success, a left-over empty file is removed.
    pub async fn drop_netns(&self, path: &Path) -> Result<()> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        let _turn = self.turn().await;
        thread::lent("drop netns", move || inner.netns.remove(&path)).await
    }

    /// Gives back what belongs to this instance and to none of the `live` pods: leases, namespaces, links. For the
    /// start of the daemon, before it makes namespaces; pods attached since then keep their leases and links in any
    /// case. What a live pod's attachment says that it has stays its own: a lease that is lost or damaged is written
    /// again.
    pub async fn reconcile(&self, live: Vec<(PodId, Option<Attachment>)>) -> Result<()> {
        let (inner, live) = (Arc::clone(&self.inner), live.into_iter().collect());
        thread::run("reconcile", move || reconcile::run(&inner, live), |()| ()).await
    }

    /// Removes the bridge and the nftables rules of an instance that ends for good (demo, tests). A running node never
    /// needs it. Refused with [`Error::InUse`] while a pod is attached; links of detached pods are deleted first.
    pub async fn dismantle(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let dismantle = move || {
            let _once = lock(&inner.preparing);
            inner.delete_links(true);
            inner.bridge.dismantle(&mut Links::open()?, &inner.owner)?;
            inner.state().dismantled = true;
            Ok(())
        };
        thread::run("dismantle", dismantle, |()| ()).await
    }

    /// The text of `/etc/resolv.conf` for pods that bring no DNS settings.
    pub fn host_dns(&self) -> Result<Vec<u8>> {
        dns::host_dns(&self.inner.config)
    }

    async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.inner.jobs.acquire().await.expect("the semaphore is never closed")
    }

    /// Looks at the bridge in the background, one look at a time.
    fn look(&self) {
        if self.inner.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let look = move || {
            let before = inner.state().ground.is_ok();
            match inner.prepare() {
                Ok(_) if !before => tracing::info!(bridge = inner.bridge.name, "the network is ready"),
                Err(error) if before => {
                    tracing::warn!(bridge = inner.bridge.name, error = with_causes(&error), "the network is not ready");
                }
                _ => {}
            }
            inner.looking.store(false, Ordering::Release);
        };
        if std::thread::Builder::new().name("network: look".into()).spawn(look).is_err() {
            // No thread to be had: the next question tries again.
            self.inner.looking.store(false, Ordering::Release);
        }
    }
}

impl Inner {
    /// Makes or mends the bridge and remembers how that went.
    fn prepare(&self) -> Result<Ground> {
        let _once = lock(&self.preparing);
        if self.state().dismantled {
            return Err(Error::NotReady { why: "the network has been dismantled".into() });
        }
        let done = Links::open().and_then(|mut links| self.bridge.prepare(&mut links, Some(&self.owner)));
        let mut state = self.state();
        state.looked = Instant::now();
        state.ground = done.as_ref().map(Clone::clone).map_err(|error| match error {
            Error::NotReady { why } => why.clone(),
            error => with_causes(error),
        });
        done
    }

    fn attach(&self, pod: &PodId, netns: &OwnedFd, path: &Path, request: &Request) -> Result<Attachment> {
        {
            let mut state = self.state();
            if state.found.contains(pod) || !state.attached.insert(pod.clone()) {
                return Err(Error::Attached { pod: pod.clone(), network: builtin::NAME.into() });
            }
        }
        let port = self.add(pod, netns, path, request);
        if port.is_err() {
            self.state().attached.remove(pod);
        }
        let Port { addresses, mac, host_interface } = port?;
        let [a, b, c, d, e, f] = mac;
        Ok(Attachment {
            network: builtin::NAME.into(),
            ips: addresses.iter().map(|address| address.net.addr()).collect(),
            addresses,
            interface: request.interface.clone(),
            mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            host_interface,
            mtu: self.bridge.mtu,
            conflist: self.conflist.clone(),
        })
    }

    fn add(&self, pod: &PodId, netns: &OwnedFd, path: &Path, request: &Request) -> Result<Port> {
        let known = self.state().ground.as_ref().map(|ground| ground.index).ok();
        let index = match known {
            Some(index) => index,
            None => self.prepare()?.index,
        };
        let mut links = Links::open()?;
        let netns = (netns.as_fd(), path);
        match self.bridge.add(&mut links, index, pod.as_str(), netns, request, &self.lingering) {
            // Somebody took the bridge away; it is made anew, once.
            Err(Error::Link { act: "make veth", source, .. })
                if matches!(errno(&source), Some(libc::ENODEV | libc::EINVAL)) =>
            {
                let index = self.prepare()?.index;
                self.bridge.add(&mut links, index, pod.as_str(), netns, request, &self.lingering)
            }
            done => done,
        }
    }

    /// Follows the list that made the attachment, which may be an older one than today's.
    fn detach(self: &Arc<Self>, pod: &PodId, attachment: Option<&Attachment>) -> Result<()> {
        match attachment {
            Some(attachment) if attachment.conflist == self.conflist => {
                self.bridge.remove(pod.as_str(), attachment)?;
            }
            Some(attachment) => {
                let list = Conflist::parse(attachment.conflist.as_bytes())?;
                for plugin in list.plugins.iter().rev() {
                    Bridge::new(&list.name, plugin)?.remove(pod.as_str(), attachment)?;
                }
            }
            None => drop(self.bridge.ipam.leases.release_all(|id| id == pod.as_str())?),
        }
        match attachment {
            Some(attachment) => self.linger(attachment.host_interface.clone(), attachment.ips.clone()),
            None => link_names(pod.as_str()).for_each(|name| self.linger(name, Vec::new())),
        }
        let mut state = self.state();
        state.found.remove(pod);
        state.attached.remove(pod);
        Ok(())
    }

    /// Sees to it that the link is gone some time after the answer.
    fn linger(self: &Arc<Self>, link: String, ips: Vec<IpAddr>) {
        if !self.lingering.add(link, ips) {
            return;
        }
        let inner = Arc::clone(self);
        let sweep = move || {
            while let Some(rest) = inner.lingering.rest() {
                std::thread::sleep(rest);
                inner.delete_links(false);
            }
        };
        if std::thread::Builder::new().name("network: sweep".into()).spawn(sweep).is_err() {
            self.lingering.give_up();
        }
    }

    /// Deletes links of detached pods whose time is over (or `all`), where the kernel has not done so by itself.
    fn delete_links(&self, all: bool) {
        for name in self.lingering.take_due(all) {
            let deleted = Links::open().and_then(|mut links| links.delete(&name));
            if let Err(error) = deleted {
                tracing::warn!(
                    link = name,
                    error = with_causes(&error),
                    "a detached pod's link stays until the next start"
                );
            }
        }
    }

    /// Whether this process has attached the pod, or is attaching it right now.
    pub(crate) fn is_attached(&self, pod: &PodId) -> bool {
        self.state().attached.contains(pod)
    }

    /// Pods that this process has attached, or is attaching right now.
    pub(crate) fn attached(&self) -> HashSet<PodId> {
        self.state().attached.clone()
    }

    /// Forgets pods of an earlier life whose leases have been given back.
    pub(crate) fn forget_all_but(&self, live: &HashSet<PodId>) {
        self.state().found.retain(|pod| live.contains(pod));
    }

    /// Index of the bridge, when there is one of ours.
    pub(crate) fn bridge_index(&self) -> Option<u32> {
        self.state().ground.as_ref().ok().map(|ground| ground.index)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What the host decides about the network, and what it lacks.
fn look_at_host(config: &Config) -> (builtin::Host, Vec<String>) {
    let ipv6 = sysctl::has_ipv6();
    let mut lacks = Vec::new();
    if let (Some(subnet), false) = (config.subnet_v6, ipv6) {
        lacks.push(format!("pods get no address of {subnet}: IPv6 is turned off in this kernel"));
    }
    let mtu = Links::open().and_then(|mut links| reconcile::mtu_of_default_route(&mut links));
    (builtin::Host { ipv6, mtu: mtu.ok().flatten().unwrap_or(1500) }, lacks)
}

/// The state behind the lock is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
