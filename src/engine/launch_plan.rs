//! `LaunchPlan`: everything that will be true of a container, decided before anything is done.
//!
//! Pure data. It is written into the container's record (execs after a restart need it), compared with golden files in
//! the tests, turned into an OCI runtime spec for people and other runtimes ([`LaunchPlan::to_spec`]) and, together
//! with opened descriptors, into the monitor's orders.

use std::{collections::BTreeSet, path::PathBuf};

use model::{ContainerId, PodId, Propagation, Resources, Signal, Stdin, UserNamespace};
use serde::{Deserialize, Serialize};

use crate::{
    capability::CapabilitySet,
    device::{DeviceNode, DeviceRule},
    seccomp::Profile,
};

/// One container, fully decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The container.
    pub container: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// Host name inside, for people; the pod's UTS namespace has it already.
    pub hostname: String,
    /// Which namespaces it is in.
    pub namespaces: Namespaces,
    /// Its root filesystem.
    pub root: Root,
    /// Mounts, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<DeviceNode>,
    /// Symbolic links below `/dev`.
    pub links: Vec<Link>,
    /// Paths that nobody can read; absent ones are passed over.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that nobody can write; absent ones are passed over.
    pub readonly_paths: Vec<PathBuf>,
    /// The first process.
    pub process: Process,
    /// Limits and device access.
    pub cgroup: Cgroup,
    /// Standard streams.
    pub stdio: Stdio,
    /// Signal of a polite stop.
    pub stop_signal: Signal,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidNamespace {
    /// Its own.
    Container,
    /// The pod's.
    Pod,
    /// The host's.
    Host,
    /// Those of this container of the same pod.
    Target(ContainerId),
}

/// A namespace that is either the pod's or the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// The pod's own.
    Pod,
    /// The host's.
    Host,
}

/// The namespaces of a container. The mount namespace is always its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Network.
    pub network: Shared,
    /// System V IPC and POSIX queues.
    pub ipc: Shared,
    /// Host name: the pod's, unless it uses the host's network.
    pub uts: Shared,
    /// Processes.
    pub pid: PidNamespace,
    /// Whether it sees its own cgroup as the root of all.
    pub private_cgroup: bool,
    /// Users; `None` is the host's. Always `None` until user namespaces are built: the request is refused by name.
    pub user: Option<UserNamespace>,
}

/// The root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Nobody can write to it (mounts on it keep their own setting).
    pub readonly: bool,
    /// Strongest propagation that one of the mounts asks for.
    pub propagation: Propagation,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, inside the container: absolute, without `.` and `..`.
    pub target: PathBuf,
    /// What.
    pub what: MountWhat,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountWhat {
    /// A filesystem of the container's own namespaces.
    Filesystem {
        /// `proc`, `tmpfs`, `devpts` and so on.
        fstype: String,
        /// `key` or `key=value`.
        options: Vec<String>,
        /// Attributes of the mount.
        flags: BTreeSet<MountFlag>,
    },
    /// The container's part of the cgroup tree, in the form of the host's version.
    Cgroup {
        /// Only privileged containers may write.
        read_only: bool,
    },
    /// The pod's shared memory.
    PodShm,
    /// A tree of the host.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Nothing can be written through the top mount.
        read_only: bool,
        /// Propagation of the whole tree.
        propagation: Propagation,
        /// What to do when the source is missing.
        missing: Missing,
    },
}

/// What to do about a bind source that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Make a directory, 0755, with its parents.
    MakeDirectory,
    /// Refuse.
    Refuse,
}

/// An attribute of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountFlag {
    /// `ro`
    ReadOnly,
    /// `nosuid`
    NoSuid,
    /// `nodev`
    NoDev,
    /// `noexec`
    NoExec,
    /// `strictatime`
    StrictAtime,
    /// `relatime`, the kernel's default.
    RelAtime,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where it stands.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// The first process, and the pattern of every exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<EnvLine>,
    /// Working directory, absolute; made when missing.
    pub cwd: PathBuf,
    /// User and groups.
    pub user: User,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// `no_new_privs`.
    pub no_new_privs: bool,
    /// System-call filter.
    pub seccomp: SeccompChoice,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Already clamped to what the daemon may set.
    pub oom_score_adj: i32,
    /// AppArmor profile. Always `None` until AppArmor is built.
    pub apparmor_profile: Option<String>,
    /// SELinux label of the process. Always `None` until SELinux is built.
    pub selinux_label: Option<String>,
}

/// One `NAME=value`. Values may hold any byte but NUL; text is written as text, the rest as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvLine {
    /// Valid UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl EnvLine {
    /// The line `name=value`.
    pub fn new(name: &str, value: &[u8]) -> Self {
        let mut line = Vec::with_capacity(name.len() + 1 + value.len());
        line.extend_from_slice(name.as_bytes());
        line.push(b'=');
        line.extend_from_slice(value);
        String::from_utf8(line).map_or_else(|wrong| EnvLine::Bytes(wrong.into_bytes()), EnvLine::Text)
    }

    /// As exec takes it, without the final NUL.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            EnvLine::Text(text) => text.as_bytes(),
            EnvLine::Bytes(bytes) => bytes,
        }
    }

    /// What stands before the first `=`.
    pub fn name(&self) -> &[u8] {
        let line = self.as_bytes();
        line.split(|byte| *byte == b'=').next().unwrap_or(line)
    }
}

/// User and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
}

/// Capabilities: the effective and permitted sets equal the bounding one at exec; the kernel empties them for other
/// users than root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding, effective and permitted.
    pub bounding: CapabilitySet,
    /// Inheritable: what is ambient, since the kernel demands it.
    pub inheritable: CapabilitySet,
    /// Ambient: what other users than root keep over exec.
    pub ambient: CapabilitySet,
}

/// A system-call filter, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompChoice {
    /// None.
    Unconfined,
    /// The default profile, as it is for this container's bounding capabilities.
    Default,
    /// The content of a file of the host, read once: what the file says later does not change this container.
    Profile {
        /// Where it was read.
        path: PathBuf,
        /// What it said.
        profile: Box<Profile>,
    },
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Which.
    pub kind: RlimitKind,
    /// What the process gets.
    pub soft: u64,
    /// How far it may raise that.
    pub hard: u64,
}

/// Limits that a plan may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RlimitKind {
    /// Open files (`RLIMIT_NOFILE`).
    Nofile,
}

/// The container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Path below the root of each hierarchy: `<pod cgroup>/<container id>`, absolute.
    pub path: String,
    /// Limits and weights of the request.
    pub resources: Resources,
    /// Most processes and threads.
    pub pids_limit: Option<u64>,
    /// Device access: the first entry that fits decides; what fits none is denied.
    pub devices: Vec<DeviceRule>,
}

/// Standard streams of the first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Standard input.
    pub stdin: Stdin,
}
