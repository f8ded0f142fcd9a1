//! Who a container's processes are and what they may do.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A system-call filter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// None. What a kubelet gets when it names nothing, too.
    #[default]
    Unconfined,
    /// The default profile, which every runtime of the field shares.
    RuntimeDefault,
    /// The profile in this file of the host, absolute.
    Localhost(PathBuf),
}

/// AppArmor confinement. Only `Unconfined` is accepted until the engine knows AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppArmor {
    /// None.
    #[default]
    Unconfined,
    /// The default profile.
    RuntimeDefault,
    /// A loaded profile of the host, by name.
    Localhost(String),
}

/// SELinux label parts. Their place in the plan; refused by name until the engine knows SELinux.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SelinuxLabel {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub kind: String,
    /// Level.
    pub level: String,
}

/// Changes to the default capability list. Names are upper case without `CAP_`; `ALL` stands for every one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// To add.
    pub add: Vec<String>,
    /// To drop.
    pub drop: Vec<String>,
    /// To add to the ambient set as well.
    pub add_ambient: Vec<String>,
}

/// The user that the request names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserChoice {
    /// What the image says, else root.
    #[default]
    Image,
    /// A user id.
    Id(u32),
    /// A name, looked up in the container's `/etc/passwd`.
    Name(String),
}

/// How supplementary groups are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupsPolicy {
    /// Those of the request and those that the image's `/etc/group` gives the user.
    #[default]
    Merge,
    /// Those of the request alone.
    Strict,
}

/// Which user and groups the container's first process has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunAs {
    /// The user.
    pub user: UserChoice,
    /// The primary group, when the request names one.
    pub group: Option<u32>,
    /// Supplementary groups of the request.
    pub supplemental_groups: Vec<u32>,
    /// How they are merged with the image's.
    pub groups_policy: GroupsPolicy,
}

/// Which processes this container sees.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPid {
    /// Its own only.
    #[default]
    Container,
    /// All of the pod.
    Pod,
    /// All of the host.
    Host,
    /// Those of another container of the same pod, by its id as given.
    Target(String),
}

/// A container's security context.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Security {
    /// Capability changes.
    pub capabilities: Capabilities,
    /// All capabilities and devices, no filter, no masks.
    pub privileged: bool,
    /// Process visibility.
    pub pid: ContainerPid,
    /// SELinux label parts, if any.
    pub selinux: Option<SelinuxLabel>,
    /// User and groups.
    pub run_as: RunAs,
    /// Mount the root filesystem read-only.
    pub readonly_rootfs: bool,
    /// Set `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths inside that nobody can read.
    pub masked_paths: Vec<PathBuf>,
    /// Paths inside that nobody can write.
    pub readonly_paths: Vec<PathBuf>,
    /// System-call filter.
    pub seccomp: Seccomp,
    /// AppArmor confinement.
    pub apparmor: AppArmor,
}
