//! Opening everything of the host that a plan needs, so that the monitor, which sees no path of the host, gets
//! descriptors only.

use std::{
    fs::{DirBuilder, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::Path,
};

use kernel::{
    mount::{MountAttrs, PropagationType, mount_setattr, open_tree_clone},
    mount_table,
};
use link::wire;
use model::Propagation;

use crate::{
    Engine, Error, LaunchPlan, Result, Rootfs,
    cgroup::Layout,
    launch_plan::{Missing, MountWhat},
    orders::{self, Descriptors, OpenedAll, OpenedHierarchy, OpenedMount},
};

/// A container whose plan and descriptors are together. Dropped, its descriptors close; its cgroup stays until
/// [`Engine::remove_cgroup`].
#[derive(Debug)]
pub struct Prepared {
    launch: wire::Launch,
    fds: Vec<OwnedFd>,
}

impl Prepared {
    /// The orders, and the descriptors that they speak of.
    pub(crate) fn new(launch: wire::Launch, fds: Descriptors) -> Self {
        Self { launch, fds: fds.into_inner() }
    }

    /// Hands it to the pod's monitor, which brings it up to just before `exec`. Returns the waiting process, as the
    /// host numbers it.
    pub async fn send(self, monitor: &link::Monitor) -> Result<i32> {
        monitor.create(self.launch, self.fds).await.map_err(|source| Error::Launch { source })
    }
}

impl Engine {
    /// Makes and limits the container's cgroup and opens all that belongs to the host. `log`: opened for appending.
    ///
    /// On failure the cgroup is removed again; directories made for missing mount sources stay, as they are the user's.
    pub fn prepare(&self, plan: &LaunchPlan, rootfs: Rootfs, log: Option<OwnedFd>) -> Result<Prepared> {
        let cgroup = self.cgroups.make_container(&plan.cgroup);
        let opened = cgroup.and_then(|cgroup| {
            let mut mounts = Vec::with_capacity(plan.mounts.len());
            for mount in &plan.mounts {
                mounts.push(self.open_mount(plan, &mount.what)?);
            }
            let bounding = plan.process.capabilities.bounding;
            let seccomp = self.filters.filter(&plan.process.seccomp, bounding)?;
            Ok(OpenedAll { rootfs: rootfs.into_mount(), mounts, cgroup, seccomp, log })
        });
        let opened = opened.inspect_err(|_| {
            if let Err(error) = self.cgroups.remove(&plan.cgroup.path) {
                tracing::warn!(container = %plan.container, %error, "a cgroup stays behind");
            }
        })?;
        let (launch, fds) = orders::launch(plan, opened);
        Ok(Prepared::new(launch, fds))
    }

    fn open_mount(&self, plan: &LaunchPlan, what: &MountWhat) -> Result<OpenedMount> {
        match what {
            MountWhat::Filesystem { .. } | MountWhat::PodShm => Ok(OpenedMount::Nothing),
            MountWhat::Bind { source, read_only, propagation, missing } => {
                if *missing == Missing::MakeDirectory {
                    make_missing(source)?;
                }
                let (mount, file) = self.open_tree(source, *propagation)?;
                if *read_only {
                    set_read_only(mount.as_fd(), source)?;
                }
                Ok(OpenedMount::Tree { mount, file })
            }
            MountWhat::Cgroup { read_only } => match self.cgroups.layout() {
                Layout::V2(_) if plan.namespaces.private_cgroup => Ok(OpenedMount::Nothing),
                // In the host's cgroup namespace a fresh mount would show the same tree: copy the host's own mount, so
                // that its options hold too.
                Layout::V2(v2) => {
                    let (mount, file) = self.open_tree(&v2.mount, Propagation::Private)?;
                    if *read_only {
                        set_read_only(mount.as_fd(), &v2.mount)?;
                    }
                    Ok(OpenedMount::Tree { mount, file })
                }
                Layout::V1(v1) => {
                    let mut opened = Vec::with_capacity(v1.hierarchies.len());
                    for hierarchy in &v1.hierarchies {
                        let source = Path::new(plan.cgroup.path.trim_start_matches('/'));
                        let mount = open_tree_clone(hierarchy.root.as_fd(), source, false)
                            .map_err(failed("open", &hierarchy.mount))?;
                        let lock = if *read_only { MountAttrs::RDONLY } else { MountAttrs::empty() };
                        let set = lock | MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC;
                        let private = Some(PropagationType::Private);
                        mount_setattr(mount.as_fd(), false, set, MountAttrs::empty(), private)
                            .map_err(failed("set attributes of", &hierarchy.mount))?;
                        opened.push(OpenedHierarchy {
                            directory: hierarchy.directory().to_owned(),
                            links: hierarchy.links().map(str::to_owned).collect(),
                            mount,
                        });
                    }
                    Ok(OpenedMount::Hierarchies(opened))
                }
            },
        }
    }

    /// A detached copy of a tree of the host, its propagation set, and whether it is no directory.
    fn open_tree(&self, source: &Path, propagation: Propagation) -> Result<(OwnedFd, bool)> {
        if propagation != Propagation::Private {
            check_propagation(source, propagation)?;
        }
        let mount = open_tree_clone(self.host_root.as_fd(), source, true).map_err(failed("open", source))?;
        let kind = match propagation {
            Propagation::Private => PropagationType::Private,
            Propagation::HostToContainer => PropagationType::Slave,
            Propagation::Bidirectional => PropagationType::Shared,
        };
        let none = MountAttrs::empty();
        mount_setattr(mount.as_fd(), true, none, none, Some(kind)).map_err(failed("set propagation of", source))?;
        let about = mount.try_clone().and_then(|fd| File::from(fd).metadata()).map_err(failed("look at", source))?;
        Ok((mount, !about.is_dir()))
    }
}

/// Only the top mount: what lies below keeps its own setting.
fn set_read_only(mount: BorrowedFd<'_>, source: &Path) -> Result<()> {
    mount_setattr(mount, false, MountAttrs::RDONLY, MountAttrs::empty(), None).map_err(failed("make read-only", source))
}

/// What the kubelet forgot, or a person never made: a directory, as everywhere in the field.
pub(crate) fn make_missing(source: &Path) -> Result<()> {
    match source.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => DirBuilder::new().recursive(true).mode(0o755).create(source).map_err(failed("make", source)),
        Err(error) => Err(failed("look at", source)(error)),
    }
}

/// Propagation from a mount that takes no part in it would silently do nothing: say so instead.
pub(crate) fn check_propagation(source: &Path, propagation: Propagation) -> Result<()> {
    let real = source.canonicalize().map_err(failed("look at", source))?;
    let table = mount_table::read().map_err(failed("read the mount of", source))?;
    let Some(mount) = mount_table::holding(&table, &real) else { return Ok(()) };
    let (fits, want) = match propagation {
        Propagation::Private => (true, ""),
        Propagation::HostToContainer => (mount.shared.is_some() || mount.master.is_some(), "shared or slave"),
        Propagation::Bidirectional => (mount.shared.is_some(), "shared"),
    };
    if fits {
        return Ok(());
    }
    Err(Error::MountPropagation { path: source.to_owned(), mounted_on: mount.mount_point.clone(), want })
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::MountSource { act, path, source }
}
