//! The room's face: the pods' networks, from namespace to address and back.
//!
//! Blocking work runs on threads of its own ([`crate::thread`]), a bounded number at a time; what is asked often
//! ([`Network::readiness`]) is answered from memory. Which networks pods get is the business of
//! [`crate::selection`]; how one is joined and left, of [`crate::chain`].

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use cni::{Cache, Conflist, Plugins, Watch};
use link::Programs;
use model::{PodId, with_causes};
use tokio::sync::{Notify, Semaphore};

use crate::{
    Config, Living, Netns, Pending, Readiness, Result, builtin,
    chain::{Chain, Tools},
    dns,
    host_ports::{self, HostPorts},
    lingering::Lingering,
    link::Links,
    look::Verdict,
    mac_spoof::MacSpoof,
    masquerade::{self, TABLE},
    native::Shared,
    netns::NetnsDir,
    nft::{NftWatch, Watched},
    pending::Queue,
    reconcile,
    report::Doer,
    selection::Selection,
    sysctl, thread,
};

/// Jobs in the kernel at a time: they queue for its one lock of links anyway, and each costs a thread.
const JOBS_AT_ONCE: usize = 16;

/// How the names of all our sets and maps begin, in all of our tables.
const SETS: [&str; 4] = [host_ports::SETS, "networks-", "checked", "senders"];

/// The node's network. Cheap to clone; every clone is the same network.
#[derive(Debug, Clone)]
pub struct Network {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) netns: NetnsDir,
    pub(crate) tools: Arc<Tools>,
    /// Attachments of lists from the directory, anybody's.
    pub(crate) cache: Cache,
    /// The built-in network, whether it counts now or not.
    pub(crate) builtin: Arc<Chain>,
    pub(crate) selection: RwLock<Selection>,
    /// Held by whoever reads the directory again.
    pub(crate) reading: Mutex<()>,
    pub(crate) queue: Queue,
    /// What the host cannot do, fixed when the network was opened.
    lacks: Vec<String>,
    pub(crate) state: Mutex<State>,
    /// Held by whoever writes a configuration.
    pub(crate) configuring: tokio::sync::Mutex<()>,
    /// Held while the built-in bridge is prepared or taken down: nobody makes again what is being taken down.
    pub(crate) preparing: Mutex<()>,
    /// Somebody wants the networks looked at.
    pub(crate) look: Arc<Notify>,
    /// Held for their ends only.
    watches: Mutex<(Option<Watch>, Option<NftWatch>)>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) verdict: Verdict,
    pub(crate) looked: Instant,
    /// Whether somebody looks when asked to.
    pub(crate) is_looked_after: bool,
    /// Pods that this process has attached, or is attaching right now, and how many plugins of each of their networks
    /// may have done something.
    pub(crate) attached: HashMap<PodId, Vec<usize>>,
    pub(crate) dismantled: bool,
    /// The log says already that a file beside ours gives a network.
    pub(crate) has_told_of_other: bool,
}

impl Network {
    /// Opens the network of this instance. `root` survives a reboot (leases), `state` need not (marks of namespaces).
    ///
    /// Fails only for settings that can never work and directories that cannot be used; a host that cannot carry the
    /// network now is told by [`Network::readiness`]. Blocks for a few milliseconds.
    pub fn open(config: Config, root: &Path, state: &Path) -> Result<Self> {
        Self::with_programs(config, root, state, Programs::none())
    }

    /// The same, with the launcher that runs plugins.
    pub fn with_programs(config: Config, root: &Path, state: &Path, programs: Programs) -> Result<Self> {
        config.check()?;
        let netns = NetnsDir::open(&config.netns_dir, state)?;
        let (host, lacks) = look_at_host(&config);
        let own = root.join("network");
        let list = Conflist::parse(builtin::conflist(&config, &own, host).as_bytes())?;
        let owner = reconcile::owner_of(root);
        let builtin = Chain::new(list, &crate::NativePlugins::All(true), Some(&owner), Cache::new(own.clone()))?;
        let builtin = Arc::new(builtin);
        let selection = Selection::open(&config, config.builtin.then(|| builtin.clone()));
        let plugins = Plugins::new(config.bin_dirs.clone(), Duration::from_secs(config.plugin_timeout_s), programs);
        let inner = Inner {
            netns,
            tools: Arc::new(Tools {
                plugins,
                shared: Shared {
                    lingering: Lingering::default(),
                    host_ports: HostPorts::new(&owner),
                    mac_spoof: MacSpoof::new(&owner),
                },
                jobs: Semaphore::new(JOBS_AT_ONCE),
            }),
            cache: Cache::new(config.cache_dir.clone()),
            builtin,
            selection: RwLock::new(selection),
            reading: Mutex::new(()),
            queue: Queue::open(&own.join("pending"))?,
            lacks,
            state: Mutex::new(State {
                verdict: Verdict::not_asked(),
                looked: Instant::now(),
                is_looked_after: false,
                attached: HashMap::new(),
                dismantled: false,
                has_told_of_other: false,
            }),
            configuring: tokio::sync::Mutex::default(),
            preparing: Mutex::new(()),
            look: Arc::new(Notify::new()),
            watches: Mutex::default(),
            config,
        };
        let network = Self { inner: Arc::new(inner) };
        network.inner.judge_ground();
        network.watch();
        Ok(network)
    }

    /// Whether pods can be attached. Answered from memory; an answer that has become old starts a new look.
    pub fn readiness(&self) -> Readiness {
        self.look_after();
        self.inner.state().verdict.readiness()
    }

    /// What an operator should know though the network works, one sentence each: no IPv6 here, files of the directory
    /// that give no network, plugins that are run by their binaries.
    pub fn notes(&self) -> Vec<String> {
        let selection = self.inner.selection();
        let faults = selection.faults().iter().map(|fault| format!("{}: {}", fault.file.display(), fault.why));
        let by_exec = selection.chains().iter().flat_map(|chain| {
            chain.plugins().filter_map(|(plugin, doer)| match doer {
                Doer::Binary { key } => {
                    Some(format!("network {:?}: plugin {plugin} is run by its binary, for {key}", chain.list.name))
                }
                Doer::Us | Doer::UsUnlessAsked => None,
            })
        });
        self.inner.shortcomings().into_iter().chain(faults).chain(by_exec).collect()
    }

    /// Names of the networks that pods get, in order.
    pub fn networks(&self) -> Vec<String> {
        self.inner.selection().chains().iter().map(|chain| chain.list.name.clone()).collect()
    }

    /// Attachments of pods that are gone, which could not be given back yet.
    pub fn pending(&self) -> Vec<Pending> {
        self.inner.queue.all()
    }

    /// Makes the pod's network namespace. It exists until [`Network::drop_netns`].
    pub async fn make_netns(&self, pod: &PodId) -> Result<Netns> {
        let (inner, pod, undo) = (Arc::clone(&self.inner), pod.clone(), Arc::clone(&self.inner));
        let _turn = self.inner.tools.turn().await;
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

    /// Removes a namespace's file. Idempotent: a missing file is success, a left-over empty file is removed. While
    /// something of the pod is still to be given back, its plugins may want the namespace: then it goes a while later.
    pub async fn drop_netns(&self, path: &Path) -> Result<()> {
        if self.inner.queue.keeps(path) {
            return Ok(());
        }
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        let _turn = self.inner.tools.turn().await;
        thread::lent("drop netns", move || inner.netns.remove(&path)).await
    }

    /// Gives back what belongs to this instance and to none of the `live` pods: attachments, leases, namespaces, links.
    /// For the start of the daemon, before it makes namespaces; pods attached since keep theirs in any case. What a
    /// live pod's attachment says that it has stays its own: a lease or a host port that is lost is written again.
    pub async fn reconcile(&self, live: Vec<Living>) -> Result<()> {
        let done = reconcile::run(self, live).await;
        self.inner.work_off();
        self.look_after();
        done
    }

    /// Removes the bridge and the nftables rules of an instance that ends for good (demo, tests). A running node never
    /// needs it. Refused with [`crate::Error::InUse`] while a pod is attached; links of detached pods go first.
    pub async fn dismantle(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let dismantle = move || {
            let _once = lock(&inner.preparing);
            inner.state().dismantled = true;
            inner.delete_links(true);
            let mut links = Links::open()?;
            inner.tools.shared.host_ports.dismantle()?;
            inner.tools.shared.mac_spoof.retain(|_| false)?;
            let done = inner.builtin.bridges().try_for_each(|bridge| bridge.dismantle(&mut links));
            inner.state().dismantled = done.is_ok();
            done
        };
        thread::run("dismantle", dismantle, |()| ()).await
    }

    /// The text of `/etc/resolv.conf` for pods that bring no DNS settings.
    pub fn host_dns(&self) -> Result<Vec<u8>> {
        dns::host_dns(&self.inner.config)
    }

    /// Our tables, which have one name, and by whom things may be taken out of them.
    fn watched(&self) -> Result<Watched> {
        let Shared { host_ports, mac_spoof, .. } = &self.inner.tools.shared;
        Ok(Watched { table: TABLE, sets: &SETS, own: [host_ports.port()?, mac_spoof.port()?] })
    }

    /// Has the directory of configurations and our rules watched. Without a watch they are looked at every few seconds.
    fn watch(&self) {
        // Weak: a watch ends with the network, not the other way round.
        let inner = Arc::downgrade(&self.inner);
        let lost = move || {
            if let Some(inner) = inner.upgrade().filter(|inner| !inner.state().dismantled) {
                inner.restore_rules();
                // Mended here; what there is to say of it the next look says.
                drop(inner.ground());
            }
        };
        match self.watched().and_then(|watched| NftWatch::start(watched, lost).map_err(masquerade::failed("watch"))) {
            Ok(watch) => lock(&self.inner.watches).1 = Some(watch),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "flushed rules are put back a few seconds late");
            }
        }
        let Some(dir) = self.inner.config.conf_dir.clone() else { return };
        let inner = Arc::downgrade(&self.inner);
        let changed = move || {
            if let Some(inner) = inner.upgrade() {
                inner.read_again();
            }
        };
        match Watch::start(dir, changed) {
            Ok(watch) => lock(&self.inner.watches).0 = Some(watch),
            Err(error) => tracing::warn!(error = with_causes(&error), "changes are seen a few seconds late"),
        }
    }
}

impl Inner {
    /// Whether this process has attached the pod, or is attaching it right now.
    pub(crate) fn is_attached(&self, pod: &PodId) -> bool {
        self.state().attached.contains_key(pod)
    }

    /// Pods that this process has attached, or is attaching right now.
    pub(crate) fn attached(&self) -> HashSet<PodId> {
        self.state().attached.keys().cloned().collect()
    }

    /// What this host keeps from the network though it works, one sentence each.
    pub(crate) fn shortcomings(&self) -> Vec<String> {
        let seen = self.state().verdict.notes.clone();
        self.lacks.iter().cloned().chain(seen).collect()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn selection(&self) -> RwLockReadGuard<'_, Selection> {
        self.selection.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the links of detached pods are gone some time after the answer.
    pub(crate) fn sweep(self: &Arc<Self>) {
        if !self.tools.shared.lingering.wants_sweeper() {
            return;
        }
        let inner = Arc::clone(self);
        let sweep = move || {
            while let Some(rest) = inner.tools.shared.lingering.rest() {
                std::thread::sleep(rest);
                inner.delete_links(false);
            }
        };
        if std::thread::Builder::new().name("network: sweep".into()).spawn(sweep).is_err() {
            self.tools.shared.lingering.give_up();
        }
    }

    /// Deletes links of detached pods whose time is over (or `all`), where the kernel has not done so by itself.
    fn delete_links(&self, all: bool) {
        for name in self.tools.shared.lingering.take_due(all) {
            let deleted = Links::open().and_then(|mut links| match links.by_name(&name)? {
                Some(link) if link.is_veth => links.delete(&name),
                // Gone by itself, or never a pod's.
                _ => Ok(()),
            });
            if let Err(error) = deleted {
                let error = with_causes(&error);
                tracing::warn!(link = name, error, "a detached pod's link stays until the next start");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever looks when asked to sees that there is nothing to look at any more.
        self.look.notify_one();
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
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
