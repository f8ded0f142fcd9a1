//! Kernel parameters that a pod may set: those that its own namespaces keep apart from the host's.
//!
//! The only list of them, for the door that reads requests and for the engine that writes the files.

use crate::{IpcMode, NetworkMode, PodNamespaces};

/// Beginnings of the parameters of the IPC namespace (ipc_namespaces(7)), as paths.
const OF_IPC: [&str; 3] = ["kernel/shm", "kernel/msg", "fs/mqueue/"];
/// Those that begin as nothing else may.
const OF_IPC_WHOLE: [&str; 2] = ["kernel/sem", "kernel/sem_next_id"];
/// Beginning of the parameters of the network namespace.
const OF_NETWORK: &str = "net/";

/// Why a pod may not set a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.want())]
pub enum InvalidSysctl {
    /// The text names none.
    Name,
    /// It is one of the whole machine: writing it would change every other pod.
    OfTheHost,
    /// The pod has no network of its own.
    HostNetwork,
    /// The pod has no IPC of its own.
    HostIpc,
}

impl InvalidSysctl {
    /// What would be right, in words.
    pub const fn want(self) -> &'static str {
        match self {
            InvalidSysctl::Name => "the name of a parameter, net.core.somaxconn",
            InvalidSysctl::OfTheHost => {
                "a parameter that a pod has of its own: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*"
            }
            InvalidSysctl::HostNetwork => "no net.* parameter in a pod that uses the host's network",
            InvalidSysctl::HostIpc => "no IPC parameter in a pod that uses the host's IPC",
        }
    }
}

/// Path below `/proc/sys` of a parameter that a pod with these namespaces may set.
///
/// Names are read as sysctl(8) does: whichever of `.` and `/` comes first separates, and the other is then part of a
/// name (`net.ipv4.conf.eth0/1.forwarding` and `net/ipv4/conf/eth0.1/forwarding` are the same).
pub fn sysctl_path(name: &str, namespaces: &PodNamespaces) -> Result<String, InvalidSysctl> {
    let path = path(name);
    let is_name = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_graphic());
    if !path.split('/').all(is_name) {
        return Err(InvalidSysctl::Name);
    }
    if path.starts_with(OF_NETWORK) {
        match namespaces.network {
            NetworkMode::Pod => Ok(path),
            NetworkMode::Host => Err(InvalidSysctl::HostNetwork),
        }
    } else if OF_IPC.iter().any(|beginning| path.starts_with(beginning)) || OF_IPC_WHOLE.contains(&path.as_str()) {
        match namespaces.ipc {
            IpcMode::Pod => Ok(path),
            IpcMode::Host => Err(InvalidSysctl::HostIpc),
        }
    } else {
        Err(InvalidSysctl::OfTheHost)
    }
}

fn path(name: &str) -> String {
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
    use crate::PidMode;

    fn read(name: &str, network: NetworkMode, ipc: IpcMode) -> Result<String, InvalidSysctl> {
        sysctl_path(name, &PodNamespaces { network, ipc, pid: PidMode::Container, user: None })
    }

    fn own(name: &str) -> Result<String, InvalidSysctl> {
        read(name, NetworkMode::Pod, IpcMode::Pod)
    }

    #[test]
    fn the_first_separator_decides() {
        let path = "net/ipv4/conf/eth0.1/forwarding";
        assert_eq!(own("net.ipv4.conf.eth0/1.forwarding").as_deref(), Ok(path));
        assert_eq!(own(path).as_deref(), Ok(path));
        assert_eq!(own("kernel.shm_rmid_forced").as_deref(), Ok("kernel/shm_rmid_forced"));
        assert_eq!(own("fs/mqueue/msg_max").as_deref(), Ok("fs/mqueue/msg_max"));
    }

    #[test]
    fn only_what_the_pod_has_of_its_own_is_taken() {
        for wrong in ["", "net.", "net..x", "../../etc", "net.ipv4./../x", "net.a b", "net.a\0b", "net/../kernel/x"] {
            assert_eq!(own(wrong), Err(InvalidSysctl::Name), "{wrong:?}");
        }
        for of_the_host in ["net", "kernel", "kernel.pid_max", "vm.swappiness", "kernel.semantics", "fs.mqueue"] {
            assert_eq!(own(of_the_host), Err(InvalidSysctl::OfTheHost), "{of_the_host:?}");
        }
        assert_eq!(read("net.core.somaxconn", NetworkMode::Host, IpcMode::Pod), Err(InvalidSysctl::HostNetwork));
        assert_eq!(read("kernel.sem", NetworkMode::Pod, IpcMode::Host), Err(InvalidSysctl::HostIpc));
        assert!(read("net.core.somaxconn", NetworkMode::Pod, IpcMode::Host).is_ok());
    }
}
