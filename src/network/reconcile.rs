//! After a restart: what belongs to this instance and to no living pod is given back.
//!
//! Whose something is, is never guessed: leases lie in the instance's own directory, namespaces have its mark, links
//! are ports of the bridge that carries its name. Order: leases (a pod waits for them soonest), namespaces (the kernel
//! takes most links down with them), then links that something else keeps alive.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use model::{PodId, with_causes};

use crate::{Attachment, Result, bridge::link_names, host_local::Holder, link::Links, network::Inner};

/// Longest root path that fits a link's alias beside our prefix (`IFALIASZ` is 256).
const ROOT_MAX: usize = 240;

/// The name that this instance writes on its bridge.
pub(crate) fn owner_of(root: &Path) -> String {
    let root = root.display().to_string();
    // The end of a path tells instances apart better than its beginning.
    let skip = root.char_indices().map(|(at, _)| at).find(|at| root.len() - at <= ROOT_MAX).unwrap_or(0);
    format!("coracle {}", &root[skip..])
}

/// Gives back what no pod of `live` owns. What cannot be given back is named in the log and keeps nothing else.
pub(crate) fn run(network: &Inner, pods: HashMap<PodId, Option<Attachment>>) -> Result<()> {
    let live: HashSet<PodId> = pods.keys().cloned().collect();
    // A lease written by an attachment that runs right now must not be taken from under it.
    let lives = |pod: &PodId| live.contains(pod) || network.is_attached(pod);
    let given = network.bridge.ipam.leases.release_all(|id| id.parse().map_or(true, |id: PodId| !lives(&id)));
    let given = given.unwrap_or_else(|error| {
        tracing::warn!(error = with_causes(&error), "give back addresses of dead pods");
        0
    });
    let restored = restore_leases(network, &pods).unwrap_or_else(|error| {
        tracing::error!(error = with_causes(&error), "write the lost leases of living pods again");
        0
    });
    network.forget_all_but(&live);
    let mut namespaces = 0;
    for (pod, path) in network.netns.marked()? {
        let kept = match &pod {
            Some(pod) => lives(pod),
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
    let links = remove_links(network, &live)?;
    if given + namespaces + links > 0 {
        tracing::info!(leases = given, namespaces, links, "gave back what dead pods had left");
    }
    if restored > 0 {
        tracing::warn!(leases = restored, "leases of living pods were lost, and are written again");
    }
    Ok(())
}

fn restore_leases(network: &Inner, pods: &HashMap<PodId, Option<Attachment>>) -> Result<usize> {
    let ipam = &network.bridge.ipam;
    let attached = pods.iter().filter_map(|(pod, attachment)| Some((pod, attachment.as_ref()?)));
    let held = attached.flat_map(|(pod, attachment)| {
        let holder = Holder { id: pod.as_str(), interface: &attachment.interface };
        attachment.ips.iter().map(move |ip| (holder, *ip))
    });
    // What was given out under other settings lies elsewhere.
    ipam.leases.restore(&held.filter(|(_, ip)| ipam.gives_out(*ip)).collect::<Vec<_>>())
}

fn remove_links(network: &Inner, live: &HashSet<PodId>) -> Result<usize> {
    let Some(bridge) = network.bridge_index() else { return Ok(0) };
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
