//! After a restart: what belongs to this instance and to no living pod is given back.
//!
//! Whose something is, is never guessed: attachments name a namespace that has this instance's mark, the built-in
//! network's leases lie in its own directory, links are ports of the bridge that carries its name; shared leases are
//! taken only where they are older than the machine's start, when all pods ended. Order: attachments (their plugins may
//! want the namespace), leases, namespaces (the kernel takes most links down with them), links that something else
//! keeps alive; then the plugins are told which attachments are good.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use cni::{Cached, Conflist};
use model::{PodId, with_causes};
use tokio::time::timeout;

use crate::{
    Choice, Joined, Living, Network, Pending, Result,
    attachment::Chosen,
    chain::{Chain, Job},
    link::Links,
    native::{Bridge, Holder, HostLocal, link_names},
    network::Inner,
    thread,
};

/// How long the start waits for plugins that are told which pods live.
const CLEARING: Duration = Duration::from_secs(5);

/// Longest root path that fits a link's alias beside our prefix (`IFALIASZ` is 256).
const ROOT_MAX: usize = 240;

/// The name that this instance writes on its bridge.
pub(crate) fn owner_of(root: &Path) -> String {
    let root = root.display().to_string();
    // The end of a path tells instances apart better than its beginning.
    let skip = root.char_indices().map(|(at, _)| at).find(|at| root.len() - at <= ROOT_MAX).unwrap_or(0);
    format!("coracle {}", &root[skip..])
}

/// Gives back what no pod of these owns. What cannot be given back is named in the log and keeps nothing else.
pub(crate) async fn run(network: &Network, pods: Vec<Living>) -> Result<()> {
    let inner = &network.inner;
    let live: HashSet<PodId> = pods.iter().map(|living| living.pod.clone()).collect();
    let attachments = leave_for_the_dead(inner, &live).await?;
    let (blocking, known) = (inner.clone(), live);
    let known_pods: Vec<(PodId, Choice)> =
        pods.iter().map(|living| (living.pod.clone(), living.choice.clone())).collect();
    let Cleared { leases, ports, namespaces, links } =
        thread::run("reconcile", move || clear(&blocking, &known, &pods), drop).await?;
    if attachments + leases + ports + namespaces + links > 0 {
        tracing::info!(attachments, leases, ports, namespaces, links, "gave back what dead pods had left");
    }
    // Before anybody is served: an attachment that is being made meanwhile would count as nobody's. A plugin that takes
    // too long is ended.
    if timeout(CLEARING, tell_plugins(inner, &known_pods)).await.is_err() {
        tracing::warn!("plugins were to clear up, and took too long");
    }
    Ok(())
}

/// Tells the plugins of lists that can be told so (1.1) which attachments are good. What they hold beside, they give
/// back.
async fn tell_plugins(inner: &Arc<Inner>, live: &[(PodId, Choice)]) {
    let chains = inner.selection().chains().to_vec();
    for chain in chains.iter().filter(|chain| !chain.builtin) {
        let cached = inner.cache.clone();
        let all = thread::lent("list attachments", move || Ok((cached.all()?, cached.unreadable()))).await;
        let (all, unreadable) = match all {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(error = with_causes(&error), "plugins are not told which attachments are good");
                return;
            }
        };
        let of_network = format!("{}-", chain.list.name);
        let is_of_it =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&of_network));
        if let Some(path) = unreadable.iter().find(is_of_it) {
            // Whose it is nobody knows, and its address must not be given to another.
            let path = path.display();
            tracing::error!(%path, "an attachment cannot be read: plugins are not told which are good");
            continue;
        }
        // Anybody's that is in the cache, and those of living pods in any case.
        let known = all.into_iter().filter(|cached| cached.network == chain.list.name);
        let mut valid: Vec<_> = known.map(|cached| (cached.runtime.container, cached.runtime.interface)).collect();
        let chosen = live.iter().flat_map(|(pod, choice)| choice.networks.iter().map(move |chosen| (pod, chosen)));
        valid.extend(chosen.map(|(pod, chosen)| (pod.to_string(), chosen.interface.clone())));
        valid.sort();
        valid.dedup();
        if let Err(error) = chain.gc(&inner.tools.plugins, &valid).await {
            tracing::warn!(network = chain.list.name, error = with_causes(&error), "have plugins clear up");
        }
    }
}

/// Leaves the networks of pods that nobody knows, by the cache. No plugin is waited for: what binaries have to give
/// back is owed to them, which also keeps addresses and namespace until then. Returns how many pods there were.
async fn leave_for_the_dead(inner: &Arc<Inner>, live: &HashSet<PodId>) -> Result<usize> {
    let (own, live) = (inner.clone(), live.clone());
    let dead = thread::lent("look for attachments of dead pods", move || Ok(dead(&own, &live))).await?;
    let count = dead.len();
    for (pod, attached) in dead {
        let mut owed = Pending::of_nobody(pod.clone(), inner.netns.path(&pod));
        for (cached, builtin) in attached {
            match leave(inner, &cached, builtin).await {
                Ok(None) => {}
                Ok(Some((chosen, joined))) => owed.add(chosen, joined),
                Err(error) => {
                    let network = &cached.network;
                    tracing::warn!(%pod, network, error = with_causes(&error), "detach a pod that is no more");
                }
            }
        }
        if !owed.choice.networks.is_empty() {
            inner.owe(owed).await?;
        }
    }
    Ok(count)
}

/// The attachments of pods of ours that nobody knows, and whether each is to the built-in network. Blocks.
fn dead(inner: &Inner, live: &HashSet<PodId>) -> BTreeMap<PodId, Vec<(Cached, bool)>> {
    let mut dead: BTreeMap<PodId, Vec<_>> = BTreeMap::new();
    for (cache, builtin) in [(inner.builtin.cache(), true), (&inner.cache, false)] {
        let all = cache.all().unwrap_or_else(|error| {
            tracing::warn!(error = with_causes(&error), "look for attachments of dead pods");
            Vec::new()
        });
        for cached in all {
            let Ok(pod) = cached.runtime.container.parse::<PodId>() else { continue };
            let is_known = live.contains(&pod) || inner.is_attached(&pod) || inner.queue.has(&pod);
            if !is_known && is_ours(inner, &pod, &cached) {
                dead.entry(pod).or_default().push((cached, builtin));
            }
        }
    }
    dead
}

/// Whether an attachment was made by this instance: it names the pod's namespace as we would, which has our mark, or is
/// no more.
fn is_ours(inner: &Inner, pod: &PodId, cached: &Cached) -> bool {
    let path = inner.netns.path(pod);
    cached.runtime.netns.as_deref() == Some(&path) && (inner.netns.is_marked(&path) || !path.exists())
}

/// Leaves a network that is all ours. Of another it says what is to be given back.
async fn leave(inner: &Arc<Inner>, cached: &Cached, builtin: bool) -> Result<Option<(Chosen, Option<Joined>)>> {
    let list = Conflist::parse(cached.config.as_bytes())?;
    let chain = if builtin { inner.builtin.with(list)? } else { inner.selection().maker().chain(list)? };
    let mut runtime = cached.runtime.clone();
    let chosen = Chosen {
        list: chain.list.text.clone(),
        builtin,
        interface: runtime.interface.clone(),
        native: chain.native_for(&runtime),
        maps_ports: false,
    };
    if !chosen.native.iter().all(|native| *native) {
        let (network, interface) = (cached.network.clone(), runtime.interface.clone());
        return Ok(Some((chosen, cached.result.clone().map(|result| Joined { network, interface, result }))));
    }
    // What is ours needs none to detach.
    runtime.netns = None;
    let job = Job::new(Arc::new(chain), &chosen, runtime, None, inner.tools.clone());
    job.del(cached.result.as_ref(), None).await.map(|()| None)
}

/// What was given back: of how many pods, where it is ports.
struct Cleared {
    leases: usize,
    ports: usize,
    namespaces: usize,
    links: usize,
}

/// Gives back leases, ports, namespaces and links, and writes again what living pods have lost.
fn clear(network: &Arc<Inner>, live: &HashSet<PodId>, pods: &[Living]) -> Result<Cleared> {
    // What is written by an attachment that runs right now must not be taken from under it.
    let lives = |pod: &PodId| live.contains(pod) || network.is_attached(pod);
    // What is still owed keeps its address, too.
    let is_dead = |id: &str| id.parse().map_or(true, |id: PodId| !lives(&id) && !network.queue.has(&id));
    let boot = machine_start();
    let chains = network.selection().chains().to_vec();
    let (mut leases, mut restored) = (0, 0);
    for chain in chains.iter().chain([&network.builtin]) {
        for ipam in chain.ipams() {
            let kept = &ipam.leases;
            let cleared = match (chain.builtin, boot) {
                (true, _) => kept.release_all(is_dead),
                (false, Some(boot)) => kept.release_before(boot, is_dead),
                (false, None) => Ok(0),
            };
            leases += cleared.unwrap_or_else(|error| {
                tracing::warn!(error = with_causes(&error), "give back addresses of dead pods");
                0
            });
            restored += restore_leases(chain, ipam, pods).unwrap_or_else(|error| {
                tracing::error!(error = with_causes(&error), "write the lost leases of living pods again");
                0
            });
        }
    }
    if restored > 0 {
        tracing::warn!(leases = restored, "leases of living pods were lost, and are written again");
    }
    let owed = |id: &str| id.parse().is_ok_and(|id: PodId| lives(&id) || network.queue.has(&id));
    let ports = network.tools.shared.host_ports.retain(owed).unwrap_or_else(|error| {
        tracing::warn!(error = with_causes(&error), "give back host ports of dead pods");
        0
    });
    if let Err(error) = network.tools.shared.mac_spoof.retain(owed) {
        tracing::warn!(error = with_causes(&error), "take back what dead pods may send as");
    }
    for living in pods {
        if let Err(error) = network.restore(living) {
            let error = with_causes(&error);
            tracing::error!(pod = %living.pod, error, "restore what the kernel has lost of a living pod");
        }
    }
    let mut namespaces = 0;
    for (pod, path) in network.netns.marked()? {
        let kept = match &pod {
            Some(pod) => lives(pod) || network.queue.has(pod),
            // A mark that a crash left empty: the file's name still tells which pod it was for.
            None => live.iter().any(|pod| network.netns.path(pod) == path),
        };
        if !kept {
            match network.netns.remove(&path) {
                Ok(()) => namespaces += 1,
                Err(error) => tracing::warn!(error = with_causes(&error), "remove the namespace of a dead pod"),
            }
        }
    }
    Ok(Cleared { leases, ports, namespaces, links: remove_links(network, live)? })
}

fn restore_leases(chain: &Chain, ipam: &HostLocal, pods: &[Living]) -> Result<usize> {
    let attached = pods.iter().filter_map(|living| Some((&living.pod, living.attachment.as_ref()?)));
    let joined = attached.flat_map(|(pod, attachment)| attachment.networks.iter().map(move |joined| (pod, joined)));
    let here = joined.filter(|(_, joined)| joined.network == chain.list.name);
    let held = here.flat_map(|(pod, joined)| {
        let holder = Holder { id: pod.as_str(), interface: &joined.interface };
        joined.result.ips.iter().map(move |ip| (holder, ip.address.addr()))
    });
    // What was given out under other settings lies elsewhere.
    let held: Vec<_> = held.filter(|(_, ip)| ipam.gives_out(*ip)).collect();
    if held.is_empty() { Ok(0) } else { ipam.leases.restore(&held) }
}

/// Ports of the built-in network's bridge, which is ours alone.
fn remove_links(network: &Inner, live: &HashSet<PodId>) -> Result<usize> {
    let Some(bridge) = network.builtin.bridges().find_map(Bridge::index) else { return Ok(0) };
    let mut links = Links::open()?;
    let ports: Vec<_> = links.all()?.into_iter().filter(|link| link.master == Some(bridge)).collect();
    // After the listing: a link that is made meanwhile is not on it.
    let kept: HashSet<String> =
        live.iter().chain(&network.attached()).flat_map(|pod| link_names(pod.as_str()).collect::<Vec<_>>()).collect();
    let mut removed = 0;
    for stale in ports.iter().filter(|link| link.name.starts_with("veth") && !kept.contains(&link.name)) {
        match links.delete(&stale.name) {
            Ok(()) => removed += 1,
            Err(error) => {
                tracing::warn!(link = stale.name, error = with_causes(&error), "delete the link of a dead pod")
            }
        }
    }
    Ok(removed)
}

/// When the machine was started (proc_stat(5)).
fn machine_start() -> Option<SystemTime> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Largest packet of the link by which the host reaches the world; `None` without a default route.
pub(crate) fn mtu_of_default_route(links: &mut Links) -> Result<Option<u32>> {
    for ipv6 in [false, true] {
        let routes = links.routes(ipv6)?;
        let best = routes.iter().filter(|route| route.to.prefix_len() == 0).min_by_key(|route| route.metric);
        if let Some(index) = best.and_then(|route| route.link)
            && let Some(link) = links.by_index(index)?
        {
            return Ok(Some(link.mtu));
        }
    }
    Ok(None)
}
