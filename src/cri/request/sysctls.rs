//! Kernel parameters of a pod: only those that its own namespaces keep apart from the host's.

use std::collections::{BTreeMap, HashMap};

use model::{IpcMode, NetworkMode, PodNamespaces};

use super::environment;
use crate::{error::Error, field::Field};

/// Longest name or value, bytes: a page is the most that procfs takes at once.
const LONGEST: usize = 4095;
/// More parameters than any kernel keeps per namespace.
const MOST: usize = 1024;
/// Parameters of the IPC namespace, by name or by beginning.
const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// Checked parameters, their names with dots.
pub(crate) fn sysctls(
    field: &Field<'_>,
    map: HashMap<String, String>,
    namespaces: &PodNamespaces,
) -> Result<BTreeMap<String, String>, Error> {
    if map.len() > MOST {
        return Err(Error::invalid(field, format_args!("{} parameters", map.len()), format!("at most {MOST}")));
    }
    let mut checked = BTreeMap::new();
    for (given, value) in environment::pairs(field, map, LONGEST)? {
        let entry = field.key(&given);
        let name = dotted(&given);
        let components = if name.contains('/') { name.replace('/', "") } else { name.clone() };
        if components.split('.').any(str::is_empty) || !components.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::invalid(&entry, given.as_str(), "the name of a parameter, net.core.somaxconn"));
        }
        if name.starts_with("net.") {
            if namespaces.network == NetworkMode::Host {
                return Err(Error::invalid(&entry, value, "no net.* parameter in a pod that uses the host's network"));
            }
        } else if IPC.iter().any(|known| name.starts_with(known)) {
            if namespaces.ipc == IpcMode::Host {
                return Err(Error::invalid(&entry, value, "no IPC parameter in a pod that uses the host's IPC"));
            }
        } else {
            let want =
                "a parameter that a pod has of its own: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*";
            return Err(Error::invalid(&entry, value, want));
        }
        if checked.insert(name, value.clone()).is_some() {
            return Err(Error::invalid(&entry, value, "each parameter once, by dots or by slashes"));
        }
    }
    Ok(checked)
}

/// As sysctl(8) reads names: whichever of `.` and `/` comes first separates, and the other then is part of a name.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use model::PidMode;

    use super::*;

    fn read(name: &str, network: NetworkMode, ipc: IpcMode) -> Result<Vec<String>, String> {
        let namespaces = PodNamespaces { network, ipc, pid: PidMode::Container, user: None };
        let map = HashMap::from([(name.to_owned(), "1".to_owned())]);
        sysctls(&Field::root("sysctls"), map, &namespaces)
            .map(|read| read.into_keys().collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_what_the_pod_has_of_its_own_is_taken() {
        let own = |name| read(name, NetworkMode::Pod, IpcMode::Pod);
        assert_eq!(own("kernel.shm_rmid_forced"), Ok(vec!["kernel.shm_rmid_forced".to_owned()]));
        assert_eq!(own("fs/mqueue/msg_max"), Ok(vec!["fs.mqueue.msg_max".to_owned()]));
        assert_eq!(own("net/ipv4/conf/eth0.1/forwarding"), Ok(vec!["net.ipv4.conf.eth0/1.forwarding".to_owned()]));
        for wrong in
            ["", "net", "net.", "net..x", "kernel.pid_max", "vm.swappiness", "../../etc", "net.ipv4./../x", "net.a b"]
        {
            assert!(own(wrong).is_err(), "{wrong:?}");
        }
        assert!(read("net.core.somaxconn", NetworkMode::Host, IpcMode::Pod).is_err());
        assert!(read("kernel.sem", NetworkMode::Pod, IpcMode::Host).is_err());
        assert!(read("net.core.somaxconn", NetworkMode::Pod, IpcMode::Host).is_ok());
    }
}
