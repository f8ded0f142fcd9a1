//! The nouns of a node and their life cycles: ids, digests, plans, phases, exits.
//!
//! Pure: no I/O, no async, no system call, no protobuf. Every other room speaks in these types; text from outside
//! becomes one of them at the door (`cri` for requests, `config` for files, `link` for messages) or is refused.
//! Never knows: how anything here is done.

mod argument;
mod bytes;
mod causes;
mod class;
mod container_plan;
mod digest;
mod exit;
mod id;
mod image_facts;
mod image_ref;
mod phase;
mod pod_plan;
mod resources;
mod security;
mod signal;
mod sysctl;

pub use argument::{ARGUMENT_MAX, ARGUMENTS_MAX, argument_space};
pub use causes::{with_causes, with_causes_within};
pub use class::Class;
pub use container_plan::{
    ContainerMetadata, ContainerPlan, Device, DevicePermissions, EnvVar, ImageRequest, Mount, MountSource, Propagation,
    ReadOnly, Stdin,
};
pub use digest::{Digest, InvalidDigest};
pub use exit::{Exit, ExitRecord};
pub use id::{ContainerId, InvalidId, PodId};
pub use image_facts::ImageFacts;
pub use image_ref::{ImageRef, InvalidImageRef};
pub use phase::{Event, Phase, Refused};
pub use pod_plan::{
    Dns, IdMapping, IpcMode, NetworkMode, PidMode, PodMetadata, PodNamespaces, PodPlan, PortMapping, Protocol,
    UserNamespace,
};
pub use resources::{HugepageLimit, Resources};
pub use security::{
    AppArmor, Capabilities, ContainerPid, GroupsPolicy, RunAs, Seccomp, Security, SelinuxLabel, UserChoice,
};
pub use signal::{InvalidSignal, Signal};
pub use sysctl::{InvalidSysctl, sysctl_path};
