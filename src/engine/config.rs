//! What an operator may set about containers; every default is what containerd's users are used to.

use serde::Deserialize;

use crate::{Error, Result, cgroup};

/// The `[engine]` table of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// cgroup below which pods go that come without a parent of their own. Absolute.
    pub cgroup_root: String,
    /// Capabilities of a container that asks for no change; without `CAP_`.
    pub capabilities: Vec<String>,
    /// Soft limit of open files of a container's first process.
    pub nofile_soft: u64,
    /// Hard limit of open files. High enough for servers; not unlimited, because some programs loop over every number.
    pub nofile_hard: u64,
    /// Most processes and threads of one container; absent: no limit of ours (the kubelet limits the pod).
    pub container_pids: Option<u64>,
    /// Most processes and threads of a pod whose cgroup is ours to make; absent: no limit.
    pub pod_pids: Option<u64>,
    /// Keep the host's devices from privileged containers.
    pub privileged_without_host_devices: bool,
    /// Give a container's devices to the user and group that the container runs as.
    pub device_ownership_from_security_context: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup_root: "/coracle".to_owned(),
            capabilities: crate::capability::DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
            nofile_soft: 1024,
            nofile_hard: 524_288,
            container_pids: None,
            pod_pids: None,
            privileged_without_host_devices: false,
            device_ownership_from_security_context: false,
        }
    }
}

impl Config {
    /// Refuses what can never work, naming the setting.
    pub fn check(&self) -> Result<()> {
        cgroup::checked("cgroup_root", &self.cgroup_root)?;
        if !(1..=self.nofile_hard).contains(&self.nofile_soft) {
            let want = "a number from 1 to nofile_hard: no program starts without a descriptor";
            return Err(Error::Invalid { field: "nofile_soft", value: self.nofile_soft.to_string(), want });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_root_that_cannot_be_is_named() {
        Config::default().check().unwrap();
        for wrong in ["", "/", "relative", "/a/../../x", "/a/"] {
            let config = Config { cgroup_root: wrong.to_owned(), ..Config::default() };
            let refused = config.check();
            assert!(matches!(refused, Err(Error::Invalid { field: "cgroup_root", .. })), "{wrong}: {refused:?}");
        }
    }
}
