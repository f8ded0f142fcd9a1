//! From a plan and opened descriptors to the monitor's orders, in the words of the wire.
//!
//! Order of the steps: mounts as the plan has them, device nodes, links, read-only paths, masked paths. Masks come
//! last so that no mount of the plan can uncover what they hide.

use std::{
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use kernel::limit::Resource;
use link::wire::{self, launch, step::Act};
use model::{Propagation, Stdin};

use crate::{
    cgroup,
    device::{DeviceKind, DeviceNode},
    launch_plan::{self, LaunchPlan, MountFlag, MountWhat, PidNamespace, RlimitKind},
};

/// Longest content of one log entry, bytes: what the kubelet's own reader and containerd use.
const LOG_LINE: u32 = 16 * 1024;

/// Descriptors of a launch, each known to the monitor by its index.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    pub(crate) fn place(&mut self, fd: OwnedFd) -> u32 {
        self.0.push(fd);
        // Far fewer than 2³²: each is open.
        (self.0.len() - 1) as u32
    }

    pub(crate) fn into_inner(self) -> Vec<OwnedFd> {
        self.0
    }
}

/// What was opened for one mount of the plan, in the plan's order.
#[derive(Debug)]
pub(crate) enum OpenedMount {
    /// Nothing needs to be opened.
    Nothing,
    /// A tree of the host.
    Tree {
        /// The detached mount, attributes and propagation set.
        mount: OwnedFd,
        /// It is not a directory.
        file: bool,
    },
    /// v1: each hierarchy's directory of the container.
    Hierarchies(Vec<OpenedHierarchy>),
}

/// One v1 hierarchy as the container sees it.
#[derive(Debug)]
pub(crate) struct OpenedHierarchy {
    pub(crate) directory: String,
    pub(crate) links: Vec<String>,
    pub(crate) mount: OwnedFd,
}

/// Everything that was opened.
#[derive(Debug)]
pub(crate) struct OpenedAll {
    pub(crate) rootfs: OwnedFd,
    pub(crate) mounts: Vec<OpenedMount>,
    pub(crate) cgroup: cgroup::Opened,
    pub(crate) seccomp: Option<OwnedFd>,
    pub(crate) log: Option<OwnedFd>,
}

/// The orders. The index of every descriptor is right by construction: it is given where the descriptor is placed.
pub(crate) fn launch(plan: &LaunchPlan, opened: OpenedAll) -> (wire::Launch, Descriptors) {
    let mut fds = Descriptors::default();
    let rootfs_fd = fds.place(opened.rootfs);
    let mut steps = Vec::new();
    for (mount, opened) in plan.mounts.iter().zip(opened.mounts) {
        mount_steps(mount, opened, &mut fds, &mut steps);
    }
    steps.extend(plan.devices.iter().map(|node| Act::Node(self::node(node))));
    for link in &plan.links {
        steps.push(symlink(&link.path, link.target.as_os_str().as_bytes()));
    }
    steps.extend(plan.readonly_paths.iter().map(|path| Act::MakeReadonly(bytes(path))));
    steps.extend(plan.masked_paths.iter().map(|path| Act::Mask(bytes(path))));

    let mut process = process(&plan.process);
    process.seccomp_fd = opened.seccomp.map(|fd| fds.place(fd));
    let launch = wire::Launch {
        private_cgroup_namespace: plan.namespaces.private_cgroup,
        root_propagation: propagation_flag(plan.root.propagation),
        steps: steps.into_iter().map(|act| wire::Step { act: Some(act) }).collect(),
        readonly_rootfs: plan.root.readonly,
        process: Some(process),
        ..frame(plan, rootfs_fd, opened.cgroup, opened.log, &mut fds)
    };
    (launch, fds)
}

/// The part of the orders that holds whoever brings the container up: who it is, its cgroup, its streams and its log.
pub(crate) fn frame(
    plan: &LaunchPlan,
    rootfs_fd: u32,
    cgroup: cgroup::Opened,
    log: Option<OwnedFd>,
    fds: &mut Descriptors,
) -> wire::Launch {
    let kill_dir_is_v2 = cgroup.dir.is_some();
    let (pid, pid_target) = match &plan.namespaces.pid {
        PidNamespace::Container => (launch::Pid::Container, String::new()),
        PidNamespace::Pod => (launch::Pid::Pod, String::new()),
        PidNamespace::Host => (launch::Pid::Host, String::new()),
        PidNamespace::Target(target) => (launch::Pid::Target, target.to_string()),
    };
    let stdin = match plan.stdio.stdin {
        Stdin::Null => launch::Stdin::Null,
        Stdin::Open => launch::Stdin::Open,
        Stdin::Once => launch::Stdin::Once,
    };
    wire::Launch {
        container_id: plan.container.to_string(),
        pid: pid.into(),
        pid_target,
        cgroup_tasks_fd: cgroup.tasks.into_iter().map(|fd| fds.place(fd)).collect(),
        cgroup_dir_fd: cgroup.dir.map(|fd| fds.place(fd)),
        kill_dir_fd: fds.place(cgroup.kill_dir),
        kill_dir_is_v2,
        oom_fd: cgroup.oom.map(|fd| fds.place(fd)),
        rootfs_fd,
        tty: plan.stdio.tty,
        stdin: stdin.into(),
        log_fd: log.map(|fd| fds.place(fd)),
        log_line_bytes: LOG_LINE,
        ..wire::Launch::default()
    }
}

/// A process, without its filter's descriptor.
pub(crate) fn process(process: &launch_plan::Process) -> wire::Process {
    let bounding = process.capabilities.bounding.bits();
    wire::Process {
        argv: process.args.iter().map(|arg| arg.clone().into_bytes()).collect(),
        env: process.env.iter().map(|line| line.as_bytes().to_vec()).collect(),
        cwd: bytes(&process.cwd),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.groups.clone(),
        bounding,
        effective: bounding,
        permitted: bounding,
        inheritable: process.capabilities.inheritable.bits(),
        ambient: process.capabilities.ambient.bits(),
        no_new_privs: process.no_new_privs,
        seccomp_fd: None,
        rlimits: process.rlimits.iter().map(rlimit).collect(),
        oom_score_adj: Some(process.oom_score_adj),
        umask: 0,
    }
}

fn rlimit(limit: &launch_plan::Rlimit) -> wire::Rlimit {
    let resource = match limit.kind {
        RlimitKind::Nofile => Resource::OPEN_FILES,
    };
    // Numbers of limits are below 16.
    wire::Rlimit { resource: resource.number() as i32, soft: limit.soft, hard: limit.hard }
}

fn mount_steps(mount: &launch_plan::Mount, opened: OpenedMount, fds: &mut Descriptors, steps: &mut Vec<Act>) {
    let target = bytes(&mount.target);
    match (&mount.what, opened) {
        (MountWhat::Filesystem { fstype, options, flags }, _) => {
            steps.push(filesystem(&mount.target, fstype, options.clone(), attributes(flags.iter().copied())));
        }
        (MountWhat::PodShm, _) => steps.push(Act::AttachShm(wire::AttachShm { target })),
        (_, OpenedMount::Tree { mount, file }) => {
            steps.push(Act::Attach(wire::Attach { target, mount_fd: fds.place(mount), file }));
        }
        (MountWhat::Cgroup { read_only }, OpenedMount::Hierarchies(hierarchies)) => {
            hierarchy_steps(&mount.target, *read_only, hierarchies, fds, steps);
        }
        (MountWhat::Cgroup { read_only }, OpenedMount::Nothing) => {
            use MountFlag::{NoDev, NoExec, NoSuid, ReadOnly, RelAtime};
            let lock = read_only.then_some(ReadOnly);
            let flags = [NoSuid, NoDev, NoExec, RelAtime].into_iter().chain(lock);
            steps.push(filesystem(&mount.target, "cgroup2", Vec::new(), attributes(flags)));
        }
        (MountWhat::Bind { .. }, _) => {}
    }
}

/// v1: a small tmpfs that holds the hierarchies' directories, closed once they and their links are in it.
fn hierarchy_steps(
    target: &Path,
    read_only: bool,
    hierarchies: Vec<OpenedHierarchy>,
    fds: &mut Descriptors,
    steps: &mut Vec<Act>,
) {
    use MountFlag::{NoDev, NoExec, NoSuid, ReadOnly};
    let open = [NoSuid, NoDev, NoExec];
    steps.push(filesystem(target, "tmpfs", vec!["mode=755".to_owned()], attributes(open)));
    let mut links = Vec::new();
    for hierarchy in hierarchies {
        let at = target.join(&hierarchy.directory);
        let mount_fd = fds.place(hierarchy.mount);
        steps.push(Act::Attach(wire::Attach { target: bytes(&at), mount_fd, file: false }));
        links.extend(hierarchy.links.iter().map(|name| symlink(&target.join(name), hierarchy.directory.as_bytes())));
    }
    steps.extend(links);
    if read_only {
        let set = attributes([ReadOnly]);
        steps.push(Act::SetAttributes(wire::SetAttributes { target: bytes(target), set, clear: 0 }));
    }
}

fn filesystem(target: &Path, fstype: &str, options: Vec<String>, attributes: u64) -> Act {
    Act::NewFilesystem(wire::NewFilesystem { target: bytes(target), r#type: fstype.to_owned(), options, attributes })
}

fn symlink(path: &Path, target: &[u8]) -> Act {
    Act::Symlink(wire::Symlink { path: bytes(path), target: target.to_vec() })
}

fn node(node: &DeviceNode) -> wire::Node {
    let kind = match node.kind {
        DeviceKind::Char => libc::S_IFCHR,
        DeviceKind::Block => libc::S_IFBLK,
        DeviceKind::Fifo => libc::S_IFIFO,
    };
    wire::Node {
        path: bytes(&node.path),
        mode: kind | node.mode,
        major: node.major,
        minor: node.minor,
        uid: node.uid,
        gid: node.gid,
    }
}

/// `MOUNT_ATTR_*`. relatime is the kernel's default and has no bit.
fn attributes(flags: impl IntoIterator<Item = MountFlag>) -> u64 {
    flags.into_iter().fold(0, |bits, flag| {
        bits | match flag {
            MountFlag::ReadOnly => libc::MOUNT_ATTR_RDONLY,
            MountFlag::NoSuid => libc::MOUNT_ATTR_NOSUID,
            MountFlag::NoDev => libc::MOUNT_ATTR_NODEV,
            MountFlag::NoExec => libc::MOUNT_ATTR_NOEXEC,
            MountFlag::StrictAtime => libc::MOUNT_ATTR_STRICTATIME,
            MountFlag::RelAtime => 0,
        }
    })
}

pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The `MS_*` number of the root's propagation. Of the host's mounts nothing is below it but what volumes brought, each
/// with a propagation of its own: this one is for mounts that the container's own programs make.
fn propagation_flag(propagation: Propagation) -> u64 {
    match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::HostToContainer => libc::MS_SLAVE,
        Propagation::Bidirectional => libc::MS_SHARED,
    }
}
