//! cgroups of pods and containers: found, made, limited, killed, removed.
//!
//! Version 2 is what production runs, version 1 (one tree for each group of controllers) what older machines have;
//! machines with controllers on both count as version 1 if cpu, memory or pids are among those that are on it. All work
//! goes through descriptors of the hierarchies' roots, opened once: a container's start writes a dozen small files, and
//! looking up long paths again would cost more than that. Limits of pods, which are cold, are left to the cgroups-rs
//! crate ([`pod_limits`]).

mod detect;
mod device_program;
mod kill;
mod lack;
mod limits;
mod make;
mod memory;
mod owner;
mod pod_limits;
mod remove;

use std::{os::fd::OwnedFd, path::Path};

use model::{PodId, PodPlan};
use serde::{Deserialize, Serialize};

pub use detect::{Hierarchy, Layout, V1, V2};
pub use device_program::program as device_program;
pub use kill::{Tree, remove_tree};
pub use limits::{IfMissing, Write, v1 as v1_limits, v2 as v2_limits, weight};
pub use memory::out_of_memory_kills;

use crate::{Error, Result, launch_plan};

/// A pod's cgroup. Goes into the pod's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCgroup {
    /// Path below the root of each hierarchy, absolute.
    pub path: String,
    /// We made it, so we remove it; otherwise it is the kubelet's.
    pub ours: bool,
}

/// The cgroup hierarchies of this host.
#[derive(Debug)]
pub struct Cgroups {
    layout: Layout,
}

/// A container's cgroup with what its launch needs of it.
#[derive(Debug)]
pub struct Opened {
    /// v1: `tasks` of each hierarchy. v2: empty.
    pub tasks: Vec<OwnedFd>,
    /// v2: the directory.
    pub dir: Option<OwnedFd>,
    /// Where all processes are found: v1 the freezer, v2 the directory.
    pub kill_dir: OwnedFd,
    /// Where kills by the out-of-memory killer are counted; `None` without a memory controller.
    pub oom: Option<OwnedFd>,
}

impl Cgroups {
    /// Finds the hierarchies of this host.
    pub fn find() -> Result<Self> {
        Ok(Self { layout: Layout::find()? })
    }

    /// Their shape.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a pod's cgroup is: the kubelet's parent itself, or `<root>/<pod id>` where it names none. Makes nothing;
    /// what is not there yet will be ours.
    pub fn place_pod(&self, root: &str, plan: &PodPlan, id: &PodId) -> Result<PodCgroup> {
        match plan.cgroup_parent.as_deref().map(|parent| parent.trim_end_matches('/')) {
            Some(parent) if parent.rsplit('/').next().is_some_and(|last| last.ends_with(".slice")) => {
                Err(Error::CgroupDriver { parent: parent.to_owned() })
            }
            Some(parent) if !parent.is_empty() => {
                let path = checked("cgroup_parent", parent)?;
                Ok(PodCgroup { ours: !self.exists(&path), path })
            }
            _ => Ok(PodCgroup { path: format!("{root}/{id}"), ours: true }),
        }
    }

    /// Makes (or finds) a pod's cgroup.
    pub fn make_pod(&self, pod: &PodCgroup, pids: Option<u64>, owner: &Path) -> Result<()> {
        self.make_directories(&pod.path)?;
        if pod.ours {
            self.mark(&pod.path, owner);
        }
        if let (true, Some(pids)) = (pod.ours, pids) {
            self.check_controller(&pod.path, "pids", || format!("engine.pod_pids ({pids})"))?;
            self.limit_pids(&pod.path, pids)?;
        }
        Ok(())
    }

    /// Makes a container's cgroup, sets its limits and device access, and opens what its launch needs.
    pub fn make_container(&self, plan: &launch_plan::Cgroup) -> Result<Opened> {
        let made = self.make_leaf(&plan.path)?;
        made.limit(plan)?;
        made.open()
    }

    /// Makes a cgroup for processes that nothing here limits: a pod's init, or a container that another runtime limits.
    pub fn make_unlimited(&self, path: &str) -> Result<Opened> {
        self.make_leaf(path)?.open()
    }
}

/// A cgroup path that stays where it says: absolute, without `.` and `..`.
pub(crate) fn checked(field: &'static str, path: &str) -> Result<String> {
    let fits = path.starts_with('/')
        && path.len() < 3800
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
    if fits {
        return Ok(path.to_owned());
    }
    let want = "an absolute path without . and .., and without a slash at its end";
    Err(Error::Invalid { field, value: path.chars().take(200).collect(), want })
}

/// The path as `openat` takes it below a hierarchy's root.
fn relative(path: &str) -> &str {
    match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    }
}

fn failed(act: impl Into<String>, path: &str) -> impl FnOnce(std::io::Error) -> Error {
    let (act, path) = (act.into(), path.to_owned());
    move |source| Error::Cgroup { act, path, source }
}
