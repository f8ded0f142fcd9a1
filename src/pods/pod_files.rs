//! The files a pod's containers find in `/etc`: `hosts`, `hostname`, `resolv.conf`.
//!
//! A kubelet mounts a hosts file of its own over ours; `crictl` and people do not.

use std::path::Path;

use engine::PodFiles;
use model::{Dns, NetworkMode, PodId, PodPlan};

use crate::{error::Error, home::Home, step::Step};

/// Where the host keeps its own.
const HOST_HOSTS: &str = "/etc/hosts";

/// Names of the files in the pod's directory.
const HOSTS: &str = "hosts";
const HOSTNAME: &str = "hostname";
const RESOLV_CONF: &str = "resolv.conf";

/// What a pod gets where the host has no hosts file.
const BARE_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Largest hosts file that is copied, bytes.
const LARGEST_HOSTS: u64 = 1 << 20;

/// Makes the pod's directory and its files. Blocks.
pub(crate) fn write(home: &Home, id: &PodId, plan: &PodPlan) -> Result<PodFiles, Error> {
    let dir = home.pod_dir(id);
    let hostname = format!("{}\n", hostname(plan, id));
    let resolv_conf = match &plan.dns {
        Some(dns) => resolv_conf(dns).into_bytes(),
        None => home.network.host_dns().map_err(|error| Error::at(Step::RunFiles, error.class(), error))?,
    };
    let hosts = match std::fs::metadata(HOST_HOSTS) {
        Ok(found) if found.len() <= LARGEST_HOSTS => std::fs::read(HOST_HOSTS).unwrap_or_default(),
        _ => BARE_HOSTS.into(),
    };
    make_dir(&dir)?;
    for (name, content) in [(HOSTS, hosts), (HOSTNAME, hostname.into_bytes()), (RESOLV_CONF, resolv_conf)] {
        let path = dir.join(name);
        std::fs::write(&path, content).map_err(|error| Error::file("write", path, error))?;
    }
    Ok(paths(&dir))
}

/// Where the files of the pod in `dir` are.
pub(crate) fn paths(dir: &Path) -> PodFiles {
    PodFiles {
        hosts: Some(dir.join(HOSTS)),
        hostname: Some(dir.join(HOSTNAME)),
        resolv_conf: Some(dir.join(RESOLV_CONF)),
    }
}

/// The directory is ours alone; the files in it are read by any user of the container, through their own mounts.
fn make_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| Error::file("make the pod's directory", dir, error))
}

/// The pod's host name: as asked; else the host's on the host's network, else the short id.
pub(crate) fn hostname(plan: &PodPlan, id: &PodId) -> String {
    match (&plan.hostname, plan.namespaces.network) {
        (Some(name), _) => name.clone(),
        (None, NetworkMode::Host) => {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        (None, NetworkMode::Pod) => id.short().to_owned(),
    }
}

/// `resolv.conf(5)` of a DNS configuration.
fn resolv_conf(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_search_servers_and_options() {
        let dns = Dns {
            servers: vec!["10.10.10.10".into(), "::1".into()],
            searches: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:8".into()],
        };
        let text = "search a.example b.example\nnameserver 10.10.10.10\nnameserver ::1\noptions ndots:8\n";
        assert_eq!(resolv_conf(&dns), text);
        assert_eq!(resolv_conf(&Dns::default()), "");
    }
}
