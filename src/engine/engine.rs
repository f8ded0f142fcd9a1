//! The engine: what was learnt of the host at start, and the verbs that `pods` uses.
//!
//! Every verb here may block for as long as the kernel takes: callers run it on a thread that may.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use kernel::{mount::overlay_takes_layers_one_by_one, path_in_root::read_regular};
use link::ExecOrder;
use model::{ContainerId, PodId, PodPlan, Seccomp};

use crate::{
    Config, Error, HostFacts, LaunchPlan, PlanInput, PodCgroup, Result, Rootfs,
    capability::CapabilitySet,
    cgroup::Cgroups,
    device,
    launch_plan::SeccompChoice,
    orders,
    plan::{self, Resources},
    rootfs::{Durability, LayerOption},
    seccomp::{Filters, MAX_PROFILE, Profile},
    sysctl,
};

/// The planning half of this room, on one host.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    pub(crate) cgroups: Cgroups,
    host: HostFacts,
    pub(crate) filters: Filters,
    layers: LayerOption,
    /// The host's root: where paths of bind sources begin.
    pub(crate) host_root: OwnedFd,
    notes: Vec<String>,
}

/// What the init of a pod with a shared pid namespace needs.
#[derive(Debug)]
pub struct PodInit {
    /// v1: `tasks` of each hierarchy.
    pub cgroup_tasks: Vec<OwnedFd>,
    /// v2: the directory.
    pub cgroup_dir: Option<OwnedFd>,
    /// Its system-call filter.
    pub seccomp: Option<OwnedFd>,
}

impl Engine {
    /// Looks at the host. An error means that no container could run here.
    pub fn new(config: Config) -> Result<Self> {
        let mut notes = Vec::new();
        // Refuses a wrong name now, not at the first container.
        config.check()?;
        let cgroups = Cgroups::find()?;
        notes.extend(cgroups.notes());
        let host = HostFacts::read(cgroups.layout().is_unified(), &mut notes)?;
        let layers = if overlay_takes_layers_one_by_one() { LayerOption::Each } else { LayerOption::Joined };
        if layers == LayerOption::Joined {
            notes.push("before Linux 6.7: an image's layers must fit into one mount option of 4 KiB".to_owned());
        }
        let host_root = File::open("/").map_err(|source| Error::Host { act: "open the root directory", source })?;
        let filters = Filters::new(host.kernel);
        Ok(Self { config, cgroups, host, filters, layers, host_root: host_root.into(), notes })
    }

    /// What is done less well than asked on this host: one sentence each, for the log at start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What plans depend on.
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// Where a pod's cgroup is to be, and whether it will be ours to remove. Makes nothing.
    pub fn pod_cgroup(&self, pod: &PodPlan, id: &PodId) -> Result<PodCgroup> {
        self.cgroups.place_pod(&self.config.cgroup_root, pod, id)
    }

    /// Makes a pod's cgroup, or finds the kubelet's. Safe to repeat. One of ours is marked with `owner`, the root
    /// directory of the instance.
    pub fn make_pod_cgroup(&self, pod: &PodCgroup, owner: &Path) -> Result<()> {
        self.cgroups.make_pod(pod, self.config.pod_pids, owner)
    }

    /// Removes a pod's cgroup where we made it. One that is gone is fine.
    pub fn remove_pod_cgroup(&self, pod: &PodCgroup) -> Result<()> {
        self.cgroups.remove_pod(pod)
    }

    /// What the init of a pod with a shared pid namespace needs: a cgroup below the pod's, and a filter.
    pub fn pod_init(&self, pod: &PodPlan, cgroup: &PodCgroup, id: &PodId) -> Result<PodInit> {
        let opened = self.cgroups.make_unlimited(&init_path(cgroup, id))?;
        let bounding = CapabilitySet::of(&self.config.capabilities)?.and(self.host.capabilities);
        let seccomp = self.filters.filter(&self.seccomp_choice(&pod.seccomp)?, bounding)?;
        Ok(PodInit { cgroup_tasks: opened.tasks, cgroup_dir: opened.dir, seccomp })
    }

    /// Removes the cgroup of a pod's init. One that never was is fine.
    pub fn remove_pod_init(&self, cgroup: &PodCgroup, id: &PodId) -> Result<()> {
        self.cgroups.remove(&init_path(cgroup, id))
    }

    /// Mounts a container's root filesystem, detached. `dir` keeps its writable layer; `layers`: the top one first.
    /// `volatile`: the writable layer need not survive a power loss.
    pub fn rootfs(&self, dir: &Path, layers: &[PathBuf], volatile: bool) -> Result<Rootfs> {
        let durability = if volatile { Durability::Volatile } else { Durability::Durable };
        Rootfs::make(dir, layers, durability, self.layers)
    }

    /// Decides everything about a container. Reads the host's devices and profile files that the request names.
    pub fn plan(&self, input: &PlanInput<'_>) -> Result<LaunchPlan> {
        let security = &input.container.security;
        let mut found = Resources::default();
        for device in &input.container.devices {
            found.devices.extend(device::resolve(device)?);
        }
        if security.privileged && !self.config.privileged_without_host_devices {
            found.host_devices = device::host_devices()?;
        }
        if let (Seccomp::Localhost(path), false) = (&security.seccomp, security.privileged) {
            found.profile = Some(self.read_profile(path)?);
        }
        let plan = plan::plan(input, &self.host, &found, &self.config)?;
        // A profile that cannot be compiled is the creation's error, not the start's.
        self.filters.filter(&plan.process.seccomp, plan.process.capabilities.bounding)?;
        Ok(plan)
    }

    /// A process inside a running container: everything as its first process has it, but the arguments.
    pub fn exec_order(&self, plan: &LaunchPlan, argv: Vec<Vec<u8>>) -> Result<ExecOrder> {
        if argv.first().is_none_or(Vec::is_empty) {
            return Err(Error::NoCommand);
        }
        let seccomp = self.filters.filter(&plan.process.seccomp, plan.process.capabilities.bounding)?;
        let process = link::wire::Process { argv, ..orders::process(&plan.process) };
        Ok(ExecOrder { process: Some(process), seccomp, stdin: None, stdout: None, stderr: None })
    }

    /// Why a container did not come as far as its program, where that is that its memory was used up. Asked before its
    /// cgroup is removed.
    pub fn lacked_memory(&self, plan: &LaunchPlan) -> Option<Error> {
        if !self.cgroups.has_lacked_memory(&plan.cgroup.path) {
            return None;
        }
        let resources = &plan.cgroup.resources;
        let written =
            resources.unified.get("memory.max").map(|limit| ("linux.resources.unified memory.max", limit.clone()));
        let limit = resources.memory_limit_bytes.filter(|limit| *limit > 0);
        let limit = limit.map(|limit| ("linux.resources.memory_limit_in_bytes", limit.to_string()));
        let why = match written.or(limit) {
            Some((field, value)) => format!("{field} {value:?} is too little for it"),
            None => "it has no limit of its own, so its pod or the host has no more".to_owned(),
        };
        Some(Error::LackedMemory { why })
    }

    /// Kills every process of a container. For containers whose monitor is gone; otherwise the monitor does it.
    pub fn kill_cgroup(&self, path: &str) -> Result<()> {
        self.cgroups.kill(path)
    }

    /// Kernel parameters that the pod asks for, and those that every pod gets: paths below `/proc/sys`. One that does
    /// not belong to a namespace of the pod's own is refused.
    pub fn pod_sysctls(&self, pod: &PodPlan) -> Result<BTreeMap<String, String>> {
        sysctl::of_pod(pod)
    }

    /// Makes a container's cgroup, without limits yet: [`Engine::prepare`] finds it and goes on. Its path follows from
    /// the two names, so it can be made while the rest of the plan is still to come.
    pub fn make_container_cgroup(&self, pod: &PodCgroup, container: &ContainerId) -> Result<()> {
        self.cgroups.make_leaf(&format!("{}/{container}", pod.path)).map(drop)
    }

    /// Removes the cgroup of a container whose launch plan was never recorded. One that never was is fine.
    pub fn remove_container_cgroup(&self, pod: &PodCgroup, container: &ContainerId) -> Result<()> {
        self.cgroups.remove(&format!("{}/{container}", pod.path))
    }

    /// Removes a container's cgroup, killing what is left in it. One that is gone is fine.
    pub fn remove_cgroup(&self, plan: &LaunchPlan) -> Result<()> {
        self.cgroups.remove(&plan.cgroup.path)
    }

    /// The pods that have a cgroup below the root of ours and are of the instance whose root directory is `owner`:
    /// another instance may have the same cgroup root.
    pub fn pods(&self, owner: &Path) -> Result<Vec<PodId>> {
        let root = self.config.cgroup_root.as_str();
        let names = self.cgroups.below(root)?;
        let ours = names.into_iter().filter(|name| self.cgroups.is_of(&format!("{root}/{name}"), owner));
        Ok(ours.filter_map(|name| name.parse().ok()).collect())
    }

    /// Removes the cgroup of a pod without a record, and kills the processes in it.
    pub fn remove_unknown_pod(&self, id: &PodId) -> Result<()> {
        self.cgroups.remove(&format!("{}/{id}", self.config.cgroup_root))
    }

    fn read_profile(&self, path: &Path) -> Result<Profile> {
        let failed = |source| Error::SeccompFile { path: path.to_owned(), source };
        let text = read_regular(self.host_root.as_fd(), path, MAX_PROFILE).map_err(failed)?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::SeccompProfile { name: path.display().to_string(), why: error.to_string() })
    }

    fn seccomp_choice(&self, asked: &Seccomp) -> Result<SeccompChoice> {
        Ok(match asked {
            Seccomp::Unconfined => SeccompChoice::Unconfined,
            Seccomp::RuntimeDefault => SeccompChoice::Default,
            Seccomp::Localhost(path) => {
                SeccompChoice::Profile { path: path.clone(), profile: Box::new(self.read_profile(path)?) }
            }
        })
    }
}

/// Where the init lives: on cgroup v2 a pod's own directory, which has children, can hold no process.
fn init_path(cgroup: &PodCgroup, id: &PodId) -> String {
    format!("{}/{id}", cgroup.path)
}
