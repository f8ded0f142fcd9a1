//! Kernel parameters of a pod: only those that belong to a namespace of its own.
//!
//! sysctl(8) spells names with dots or with slashes, whichever comes first being the separator; the monitor gets paths
//! below `/proc/sys`. A parameter of the whole host is refused by name: writing it would change every other pod.

use std::collections::BTreeMap;

use model::{IpcMode, NetworkMode, PodPlan};

use crate::{Error, Result};

/// Parameters of the IPC namespace (ipc_namespaces(7)).
const OF_IPC: &[&str] =
    &["kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/msg_next_id", "kernel/sem_next_id"];
const OF_IPC_PREFIXES: &[&str] = &["kernel/shm", "fs/mqueue/"];
/// Parameters of the network namespace.
const OF_NETWORK_PREFIX: &str = "net/";

/// What a pod with a network of its own gets unless it asks otherwise: any user may bind any port, and may ping. Every
/// runtime of the field does so, since nothing outside the pod is touched by it.
const DEFAULTS: &[(&str, &str)] =
    &[("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 2147483647")];

/// The parameters to set, as paths below `/proc/sys`.
pub(crate) fn of_pod(plan: &PodPlan) -> Result<BTreeMap<String, String>> {
    let own_network = plan.namespaces.network == NetworkMode::Pod;
    let own_ipc = plan.namespaces.ipc == IpcMode::Pod;
    let mut paths = BTreeMap::new();
    if own_network {
        paths.extend(DEFAULTS.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())));
    }
    for (name, value) in &plan.sysctls {
        let path = path_of(name);
        let invalid = |want| Error::Invalid { field: "config.linux.sysctls", value: name.clone(), want };
        let segments_are_names = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !segments_are_names || path.contains('\0') {
            return Err(invalid("a name such as net.ipv4.ip_forward"));
        }
        let of_network = path.starts_with(OF_NETWORK_PREFIX);
        let of_ipc = OF_IPC.contains(&path.as_str()) || OF_IPC_PREFIXES.iter().any(|prefix| path.starts_with(prefix));
        match (of_network, of_ipc) {
            (true, _) if !own_network => return Err(invalid("not a net parameter: the pod uses the host's network")),
            (_, true) if !own_ipc => return Err(invalid("not an ipc parameter: the pod uses the host's ipc")),
            (false, false) => {
                return Err(invalid("a parameter of a namespace: it is not in a separate kernel namespace"));
            }
            _ => {}
        }
        paths.insert(path, value.clone());
    }
    Ok(paths)
}

/// A name with its separators as slashes.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'.' => {
            let swap = |letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(path_of("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("kernel"), "kernel");
    }
}
