//! What a kubelet asked a container to be, after the door has checked it.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{IdMapping, Resources, Security, Signal};

/// Who a container is within its pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerMetadata {
    /// Name of the container.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
}

/// The image as the request names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    /// Id, tag or digest reference: what is looked up in the local store.
    pub image: String,
    /// What the user wrote in the pod spec; empty when the client does not say.
    pub user_specified: String,
    /// Annotations of the image spec, echoed.
    pub annotations: BTreeMap<String, String>,
}

/// One environment variable. Values are bytes: anything but NUL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Name: not empty, no `=`, no NUL.
    pub name: String,
    /// Value.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A path of the host, absolute; symbolic links are followed; created as a directory when missing.
    Host(PathBuf),
    /// An image, read-only. Its place in the plan; refused by name until it is built.
    Image {
        /// Reference of the image.
        image: String,
        /// Directory inside the image; empty is its root.
        sub_path: String,
    },
}

/// How mounts made later under one side show on the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Neither way.
    Private,
    /// From the host to the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// Whether a mount can be written through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnly {
    /// It can.
    No,
    /// The top mount cannot; mounts below it keep their own setting.
    Top,
    /// No mount of the tree can. Refused by name until it is built.
    Recursive,
}

/// A mount that the request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path inside the container, as given: absolute, or taken from its root.
    pub target: PathBuf,
    /// Where the content comes from.
    pub source: MountSource,
    /// Read-only or not.
    pub read_only: ReadOnly,
    /// Propagation.
    pub propagation: Propagation,
    /// The request asked for a relabel; without SELinux there is nothing to do.
    pub selinux_relabel: bool,
    /// Any of `noexec`, `nodev`, `nosuid`. Refused by name until it is built.
    pub options: Vec<String>,
    /// User ids of an idmapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of an idmapped mount.
    pub gid_mappings: Vec<IdMapping>,
}

/// What a container may do with a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePermissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `m`
    pub mknod: bool,
}

impl DevicePermissions {
    /// `rwm`
    pub const ALL: DevicePermissions = DevicePermissions { read: true, write: true, mknod: true };
}

/// A device of the host that the request gives to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path on the host: a node, a link to one, or a directory of them.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// What the device cgroup allows.
    pub permissions: DevicePermissions,
}

/// What standard input of the first process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stdin {
    /// `/dev/null`.
    Null,
    /// A pipe that stays open whoever attaches and detaches.
    Open,
    /// A pipe that is closed when the first attached client's input ends.
    Once,
}

/// A container as accepted at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Who it is.
    pub metadata: ContainerMetadata,
    /// Its image.
    pub image: ImageRequest,
    /// Replaces the image's entrypoint, and clears its command.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; `None` takes the image's, else `/`.
    pub working_dir: Option<PathBuf>,
    /// Environment, later entries win.
    pub envs: Vec<EnvVar>,
    /// Mounts, in the order of the request.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Labels, echoed byte for byte.
    pub labels: BTreeMap<String, String>,
    /// Annotations, echoed byte for byte.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the pod's log directory; `None` keeps no log.
    pub log_path: Option<PathBuf>,
    /// Standard input.
    pub stdin: Stdin,
    /// Give it a terminal instead of pipes.
    pub tty: bool,
    /// Signal of a polite stop; `None` takes the image's, else TERM.
    pub stop_signal: Option<Signal>,
    /// Limits and weights.
    pub resources: Resources,
    /// Security context.
    pub security: Security,
}

impl fmt::Display for ContainerMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {})", self.name, self.attempt)
    }
}
