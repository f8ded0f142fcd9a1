//! From request, image and host to a [`LaunchPlan`]. Pure: the same input gives the same plan, byte for byte.
//!
//! Order of the work: refuse what this version does not do, identity, capabilities, filter, environment and arguments,
//! devices, mounts, cgroup. Owns: every rule about what a container gets. Does not own: how any of it is done.

mod mounts;
mod process;

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use model::{
    ContainerId, ContainerPid, ContainerPlan, ImageFacts, IpcMode, NetworkMode, PidMode, PodId, PodPlan, Propagation,
    Signal,
};

use crate::{
    Accounts, Error, HostFacts, Result,
    capability::{self, CapabilitySet},
    config::Config,
    device::{self, DeviceNode, DeviceRule, HostDevice},
    launch_plan::{
        Capabilities, Cgroup, LaunchPlan, Link, Mount, MountWhat, Namespaces, PidNamespace, Root, SeccompChoice,
        Shared, Stdio,
    },
    seccomp::Profile,
};

/// Everything that a plan is made of, except the host.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The pod as accepted.
    pub pod: &'a PodPlan,
    /// Its id.
    pub pod_id: &'a PodId,
    /// The pod's cgroup, as [`crate::Engine::pod_cgroup`] places it.
    pub pod_cgroup: &'a str,
    /// Its host name, decided.
    pub hostname: &'a str,
    /// Files of the pod that containers see.
    pub pod_files: &'a PodFiles,
    /// The container as accepted.
    pub container: &'a ContainerPlan,
    /// Its id.
    pub container_id: &'a ContainerId,
    /// With [`ContainerPid::Target`]: the container that it names, found running in the same pod.
    pub pid_target: Option<&'a ContainerId>,
    /// What its image says.
    pub image: &'a ImageFacts,
    /// What the image's `/etc/passwd` and `/etc/group` say.
    pub accounts: &'a Accounts,
    /// Storage of the image's volumes: one for each of [`wanted_volumes`].
    pub volumes: &'a [Volume],
}

/// Storage of a volume that an image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Path inside the container.
    pub target: PathBuf,
    /// Directory on the host.
    pub source: PathBuf,
}

/// Files on the host that the pod's containers see in `/etc`. `None`: the image's own stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFiles {
    /// `/etc/hosts`
    pub hosts: Option<PathBuf>,
    /// `/etc/hostname`
    pub hostname: Option<PathBuf>,
    /// `/etc/resolv.conf`
    pub resolv_conf: Option<PathBuf>,
}

/// What was read of the host for this one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// The devices of the request, found.
    pub devices: Vec<HostDevice>,
    /// For privileged containers: every device of the host.
    pub host_devices: Vec<HostDevice>,
    /// Content of the Localhost profile.
    pub profile: Option<Profile>,
}

/// The plan of a container.
pub fn plan(input: &PlanInput<'_>, host: &HostFacts, found: &Resources, config: &Config) -> Result<LaunchPlan> {
    let (container, security) = (input.container, &input.container.security);
    refuse_unsupported(input)?;
    let user = input.accounts.user(&security.run_as, &input.image.user)?;
    let capabilities = capabilities(input, host, config)?;
    let (devices, rules) = devices(input, found, config, user.uid, user.gid);
    let (mounts, dev_is_ours) = mounts::mounts(input, host)?;
    // On the host's own /dev nothing is made: it has what it has, and it is not ours.
    let links = if dev_is_ours { links(host) } else { Vec::new() };
    // A privileged container's terminals are its own: the host's /dev/ptmx gives way to the link.
    let devices = devices.into_iter().filter(|node| dev_is_ours && links.iter().all(|link| link.path != node.path));
    let propagation = mounts.iter().map(propagation_of).max_by_key(|kind| strength(*kind));
    let process = process::process(input, host, config, user, capabilities, seccomp(input, found)?)?;
    let pids_limit = config.container_pids;
    Ok(LaunchPlan {
        container: input.container_id.clone(),
        pod: input.pod_id.clone(),
        hostname: input.hostname.to_owned(),
        namespaces: namespaces(input, host)?,
        root: Root { readonly: security.readonly_rootfs, propagation: propagation.unwrap_or(Propagation::Private) },
        mounts,
        devices: devices.collect(),
        links,
        masked_paths: if security.privileged { Vec::new() } else { clean_all(&security.masked_paths) },
        readonly_paths: if security.privileged { Vec::new() } else { clean_all(&security.readonly_paths) },
        process,
        cgroup: Cgroup {
            path: format!("{}/{}", input.pod_cgroup, input.container_id),
            resources: container.resources.clone(),
            pids_limit,
            devices: rules,
        },
        stdio: Stdio { tty: container.tty, stdin: container.stdin },
        stop_signal: container.stop_signal.or(input.image.stop_signal).unwrap_or(Signal::TERM),
    })
}

/// Paths that the image wants storage for and the request mounts nothing on: each once, outer before inner, which is
/// the order in which they have to be mounted.
pub fn wanted_volumes(image: &ImageFacts, container: &ContainerPlan) -> Vec<PathBuf> {
    let mounted: HashSet<PathBuf> = container.mounts.iter().map(|mount| clean(&mount.target)).collect();
    let declared: BTreeSet<PathBuf> = image.volumes.iter().map(|path| clean(path)).collect();
    // The root is the image itself, and the kernel's own filesystems are no storage: an image that declares them is
    // passed over there.
    let can_be_stored = |path: &Path| {
        path != Path::new("/") && !["/proc", "/sys", "/dev"].iter().any(|kernels| path.starts_with(kernels))
    };
    let mut wanted: Vec<PathBuf> =
        declared.into_iter().filter(|path| can_be_stored(path) && !mounted.contains(path)).collect();
    wanted.sort_by_key(|path| path.components().count());
    wanted
}

/// An absolute path without `.`, `..` and doubled slashes, as the container sees it: nothing is looked up, and `..`
/// stops at the root.
pub fn clean(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

fn clean_all(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut known = HashSet::with_capacity(paths.len());
    paths.iter().map(|path| clean(path)).filter(|path| known.insert(path.clone())).collect()
}

/// What has its place in the plan and is not built yet. Named here, one by one, so that nothing is dropped in silence.
fn refuse_unsupported(input: &PlanInput<'_>) -> Result<()> {
    let security = &input.container.security;
    let refuse = |field, value: String| Err(Error::Unsupported { field, value });
    if let Some(user) = &input.pod.namespaces.user {
        let ids = &user.uids;
        return refuse("namespace_options.userns_options", format!("{}:{}:{}", ids.container, ids.host, ids.length));
    }
    match &security.apparmor {
        model::AppArmor::Unconfined => {}
        // Without AppArmor in the kernel the default is nothing; a profile that was named must not be lost.
        model::AppArmor::RuntimeDefault if security.privileged => {}
        model::AppArmor::RuntimeDefault => return refuse("security_context.apparmor", "RuntimeDefault".to_owned()),
        model::AppArmor::Localhost(profile) => return refuse("security_context.apparmor", profile.clone()),
    }
    if let Some(label) = security.selinux.as_ref().filter(|label| **label != model::SelinuxLabel::default()) {
        let label = format!("{}:{}:{}:{}", label.user, label.role, label.kind, label.level);
        return refuse("security_context.selinux_options", label);
    }
    if security.privileged && !input.pod.privileged {
        return Err(Error::Invalid {
            field: "security_context.privileged",
            value: "true".to_owned(),
            want: "no privileged container allowed in sandbox",
        });
    }
    Ok(())
}

fn namespaces(input: &PlanInput<'_>, host: &HostFacts) -> Result<Namespaces> {
    let pod = &input.pod.namespaces;
    let network = match pod.network {
        NetworkMode::Pod => Shared::Pod,
        NetworkMode::Host => Shared::Host,
    };
    let ipc = match pod.ipc {
        IpcMode::Pod => Shared::Pod,
        IpcMode::Host => Shared::Host,
    };
    let mismatch = |value: &str| Error::Invalid {
        field: "namespace_options.pid",
        value: value.to_owned(),
        want: "a container's mode must be one that its pod has namespaces for",
    };
    let pid = match &input.container.security.pid {
        ContainerPid::Container => PidNamespace::Container,
        ContainerPid::Pod if pod.pid == PidMode::Pod => PidNamespace::Pod,
        ContainerPid::Pod => return Err(mismatch("POD")),
        ContainerPid::Host => PidNamespace::Host,
        ContainerPid::Target(name) => match input.pid_target {
            Some(target) => PidNamespace::Target(target.clone()),
            None => {
                return Err(Error::Invalid {
                    field: "namespace_options.target_id",
                    value: name.chars().take(80).collect(),
                    want: "the id of a running container of the same pod",
                });
            }
        },
    };
    Ok(Namespaces {
        network,
        ipc,
        uts: network,
        pid,
        private_cgroup: host.unified_cgroups && !input.container.security.privileged,
        user: None,
    })
}

fn capabilities(input: &PlanInput<'_>, host: &HostFacts, config: &Config) -> Result<Capabilities> {
    let security = &input.container.security;
    if security.privileged {
        let all = host.capabilities;
        return Ok(Capabilities { bounding: all, inheritable: CapabilitySet::EMPTY, ambient: CapabilitySet::EMPTY });
    }
    let default = CapabilitySet::of(&config.capabilities)?;
    let (bounding, ambient) = capability::requested(default, &security.capabilities, host.capabilities)?;
    Ok(Capabilities { bounding, inheritable: ambient, ambient })
}

fn seccomp(input: &PlanInput<'_>, found: &Resources) -> Result<SeccompChoice> {
    let security = &input.container.security;
    if security.privileged {
        return Ok(SeccompChoice::Unconfined);
    }
    Ok(match &security.seccomp {
        model::Seccomp::Unconfined => SeccompChoice::Unconfined,
        model::Seccomp::RuntimeDefault => SeccompChoice::Default,
        model::Seccomp::Localhost(path) => {
            let profile = found.profile.clone().ok_or_else(|| Error::SeccompFile {
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            })?;
            SeccompChoice::Profile { path: path.clone(), profile: Box::new(profile) }
        }
    })
}

/// Nodes and access rules. A node of the request replaces a default one of the same path.
fn devices(
    input: &PlanInput<'_>,
    found: &Resources,
    config: &Config,
    uid: u32,
    gid: u32,
) -> (Vec<DeviceNode>, Vec<DeviceRule>) {
    let privileged = input.container.security.privileged;
    let mut nodes = device::default_nodes();
    let mut rules = device::default_rules();
    let host_devices = (privileged && !config.privileged_without_host_devices).then_some(&found.host_devices);
    for asked in host_devices.into_iter().flatten().chain(&found.devices) {
        let mut node = asked.node();
        node.path = clean(&node.path);
        if config.device_ownership_from_security_context && !privileged {
            (node.uid, node.gid) = (uid, gid);
        }
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
        rules.extend(asked.rule().filter(|rule| !rules.contains(rule)));
    }
    if host_devices.is_some() {
        rules = vec![DeviceRule::ANY];
    }
    (nodes, rules)
}

/// Names below `/dev` that programs expect.
fn links(host: &HostFacts) -> Vec<Link> {
    let mut links = vec![
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    if host.kcore {
        links.push(("/dev/core", "/proc/kcore"));
    }
    links.into_iter().map(|(path, target)| Link { path: path.into(), target: target.into() }).collect()
}

fn propagation_of(mount: &Mount) -> Propagation {
    match mount.what {
        MountWhat::Bind { propagation, .. } => propagation,
        _ => Propagation::Private,
    }
}

fn strength(propagation: Propagation) -> u8 {
    match propagation {
        Propagation::Private => 0,
        Propagation::HostToContainer => 1,
        Propagation::Bidirectional => 2,
    }
}
