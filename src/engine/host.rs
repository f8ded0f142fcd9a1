//! What plans depend on and only this host knows; read once, when the engine starts.

use std::{fs, io, path::Path};

use kernel::{
    capability::{self, CapSet},
    limit::{self, Resource},
};

use crate::{Error, Result, capability::CapabilitySet, seccomp::kernel_version};

/// Facts of the host that shape a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// cgroup v2 alone is in use.
    pub unified_cgroups: bool,
    /// What the daemon can give: its own bounding set.
    pub capabilities: CapabilitySet,
    /// The daemon has CAP_SYS_RESOURCE: limits may go up and out-of-memory scores down.
    pub may_raise_limits: bool,
    /// The daemon's own hard limit of open files.
    pub nofile_hard: u64,
    /// The daemon's own out-of-memory score adjustment.
    pub oom_score_adj: i32,
    /// `/proc/kcore` exists.
    pub kcore: bool,
    /// The kernel has POSIX message queues.
    pub has_mqueue: bool,
    /// Version of the kernel: major, minor.
    pub kernel: (u32, u32),
}

impl HostFacts {
    /// Reads them. `notes` takes a sentence for each thing that will be done less well than asked.
    pub fn read(unified_cgroups: bool, notes: &mut Vec<String>) -> Result<Self> {
        let failed = |act| move |source| Error::Host { act, source };
        let bounding = CapabilitySet::from_bits(capability::bounding().0);
        let own = capability::capabilities().map_err(failed("read own capabilities"))?;
        let may_raise_limits = own.effective.contains(CapSet::SYS_RESOURCE);
        let nofile_hard = limit::limit(Resource::OPEN_FILES).map_err(failed("read own limit of open files"))?.hard;
        let oom_score_adj = read_number("/proc/self/oom_score_adj").map_err(failed("read own oom_score_adj"))?;
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(failed("read the kernel's release"))?;
        let missing = CapabilitySet::ALL.without(bounding);
        if !may_raise_limits {
            notes.push(format!(
                "without CAP_SYS_RESOURCE: open files of a container are limited to {nofile_hard}, and no container \
                 gets an oom_score_adj below {oom_score_adj}"
            ));
        }
        if missing != CapabilitySet::EMPTY {
            notes.push(format!("no container gets {}: this daemon does not have it", missing.names().join(", ")));
        }
        let filesystems = fs::read_to_string("/proc/filesystems").map_err(failed("read /proc/filesystems"))?;
        Ok(Self {
            unified_cgroups,
            capabilities: bounding,
            may_raise_limits,
            nofile_hard,
            oom_score_adj,
            kcore: Path::new("/proc/kcore").exists(),
            has_mqueue: filesystems.lines().any(|line| line.split_whitespace().last() == Some("mqueue")),
            kernel: kernel_version(release.trim()).unwrap_or((6, 1)),
        })
    }
}

fn read_number(path: &str) -> io::Result<i32> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
