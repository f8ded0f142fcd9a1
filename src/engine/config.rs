//! What an operator may set about containers; every default is what containerd's users are used to.

use serde::Deserialize;

use crate::{Error, Result, capability::CapabilitySet, cgroup};

/// Most that the kernel takes as a limit of processes, and as its own `kernel.pid_max` (`PID_MAX_LIMIT`).
const MOST_PIDS: u64 = 4_194_304;

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
        for (field, pids) in [("container_pids", self.container_pids), ("pod_pids", self.pod_pids)] {
            if let Some(pids) = pids
                && !(1..=MOST_PIDS).contains(&pids)
            {
                let want = "a number from 1 to 4194304, which is the most that Linux has; without the key: no limit";
                return Err(Error::Invalid { field, value: pids.to_string(), want });
            }
        }
        match CapabilitySet::of(&self.capabilities) {
            Err(Error::Invalid { value, .. }) => {
                let want = "names of capabilities, such as NET_BIND_SERVICE";
                Err(Error::Invalid { field: "capabilities", value, want })
            }
            other => other.map(drop),
        }
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

    #[test]
    fn a_limit_of_processes_that_cannot_be_is_named() {
        for good in [None, Some(1), Some(4_194_304)] {
            Config { container_pids: good, pod_pids: good, ..Config::default() }.check().unwrap();
        }
        for wrong in [0, 4_194_305, u64::MAX] {
            for (config, named) in [
                (Config { container_pids: Some(wrong), ..Config::default() }, "container_pids"),
                (Config { pod_pids: Some(wrong), ..Config::default() }, "pod_pids"),
            ] {
                match config.check() {
                    Err(Error::Invalid { field, value, .. }) => assert_eq!((field, value), (named, wrong.to_string())),
                    other => panic!("{named} {wrong}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_capability_that_does_not_exist_is_named() {
        let config = Config { capabilities: vec!["KILL".into(), "FLY".into()], ..Config::default() };
        match config.check() {
            Err(Error::Invalid { field, value, .. }) => assert_eq!((field, value.as_str()), ("capabilities", "FLY")),
            other => panic!("{other:?}"),
        }
    }
}
