//! Who a container's first process is and what it may do.

use std::path::PathBuf;

use api::cri::v1::{self, security_profile::ProfileType};
use model::{AppArmor, Capabilities, ContainerPid, GroupsPolicy, RunAs, Seccomp, Security, UserChoice};

use super::{Host, namespaces, selinux, text};
use crate::{error::Error, field::Field};

/// Highest user or group id: what containers have everywhere (image-spec and runc), though the kernel knows more.
const ID_MAX: i64 = i32::MAX as i64;
/// Most supplementary groups: the kernel's `NGROUPS_MAX`.
const GROUPS_MAX: usize = 65_536;
/// Longest user name, bytes; `useradd` stops at 32, directories at 255.
const USERNAME_MAX: usize = 255;
/// Most capability names in a list: some ten times those that exist.
const CAPABILITIES_MAX: usize = 512;
/// Masked or read-only paths: a kubelet sends one for each possible CPU, and the kernel's NR_CPUS is at most 8192.
const PATHS_MAX: usize = 16_384;
/// All of them together, bytes: 50 a CPU are more than Linux needs.
const PATH_BYTES_MAX: usize = 512 << 10;
/// Longest name of an AppArmor profile, bytes.
const PROFILE_MAX: usize = 255;
/// Names of the profile types, for messages.
const PROFILES: &str = "RuntimeDefault (0), Unconfined (1) or Localhost (2)";
/// The words before the name in profiles as they were once written.
const LOCALHOST: &str = "localhost/";

/// Security context of a container. Absent, it is all zeros, as protobuf has it.
#[allow(deprecated)] // Old clients still fill the two profile strings, which their successors replace.
pub(crate) fn of_container(
    field: &Field<'_>,
    wire: Option<v1::LinuxContainerSecurityContext>,
    host: &Host,
) -> Result<Security, Error> {
    let Some(wire) = wire else {
        return Ok(Security { pid: ContainerPid::Pod, ..Security::default() });
    };
    let run_as = RunAs {
        user: user(field, wire.run_as_user, wire.run_as_username)?,
        group: group(&field.at("run_as_group"), wire.run_as_group)?,
        supplemental_groups: groups(&field.at("supplemental_groups"), wire.supplemental_groups)?,
        groups_policy: policy(&field.at("supplemental_groups_policy"), wire.supplemental_groups_policy)?,
    };
    if let (Some(group), UserChoice::Image) = (run_as.group, &run_as.user) {
        return Err(Error::invalid(&field.at("run_as_group"), group, "run_as_user or run_as_username beside it"));
    }
    let apparmor = match wire.apparmor {
        Some(profile) => apparmor(&field.at("apparmor"), profile, wire.privileged, host)?,
        None => old_apparmor(&field.at("apparmor_profile"), wire.apparmor_profile, wire.privileged, host)?,
    };
    let seccomp = match wire.seccomp {
        Some(profile) => seccomp(&field.at("seccomp"), profile)?,
        None => old_seccomp(&field.at("seccomp_profile_path"), wire.seccomp_profile_path)?,
    };
    Ok(Security {
        capabilities: capabilities(&field.at("capabilities"), wire.capabilities.unwrap_or_default())?,
        privileged: wire.privileged,
        pid: namespaces::of_container(&field.at("namespace_options"), wire.namespace_options)?,
        selinux: selinux::label(&field.at("selinux_options"), wire.selinux_options, host)?,
        run_as,
        readonly_rootfs: wire.readonly_rootfs,
        no_new_privs: wire.no_new_privs,
        masked_paths: paths(&field.at("masked_paths"), wire.masked_paths)?,
        readonly_paths: paths(&field.at("readonly_paths"), wire.readonly_paths)?,
        seccomp,
        apparmor,
    })
}

/// What a pod's security context says about the sandbox itself.
pub(crate) struct OfPod {
    /// Shared namespaces.
    pub(crate) namespaces: model::PodNamespaces,
    /// Whether privileged containers may be created.
    pub(crate) privileged: bool,
    /// Filter of the pod's init.
    pub(crate) seccomp: Seccomp,
}

/// Security context of a pod. Users, groups and AppArmor here concern the init alone, which is ours and has none of the
/// client's code: they are checked and have no effect.
#[allow(deprecated)] // As above.
pub(crate) fn of_pod(
    field: &Field<'_>,
    wire: Option<v1::LinuxSandboxSecurityContext>,
    host: &Host,
) -> Result<OfPod, Error> {
    let wire = wire.unwrap_or_default();
    let user = user(field, wire.run_as_user, String::new())?;
    if let (Some(group), UserChoice::Image) = (group(&field.at("run_as_group"), wire.run_as_group)?, user) {
        return Err(Error::invalid(&field.at("run_as_group"), group, "run_as_user beside it"));
    }
    groups(&field.at("supplemental_groups"), wire.supplemental_groups)?;
    policy(&field.at("supplemental_groups_policy"), wire.supplemental_groups_policy)?;
    selinux::label(&field.at("selinux_options"), wire.selinux_options, host)?;
    if let Some(profile) = &wire.apparmor {
        text::known::<ProfileType>(&field.at("apparmor").at("profile_type"), profile.profile_type, PROFILES)?;
    }
    Ok(OfPod {
        namespaces: namespaces::of_pod(&field.at("namespace_options"), wire.namespace_options)?,
        privileged: wire.privileged,
        seccomp: match wire.seccomp {
            Some(profile) => seccomp(&field.at("seccomp"), profile)?,
            None => old_seccomp(&field.at("seccomp_profile_path"), wire.seccomp_profile_path)?,
        },
    })
}

fn user(field: &Field<'_>, id: Option<v1::Int64Value>, name: String) -> Result<UserChoice, Error> {
    match (id, name) {
        (None, name) if name.is_empty() => Ok(UserChoice::Image),
        (Some(id), name) if name.is_empty() => Ok(UserChoice::Id(account(&field.at("run_as_user"), id.value)?)),
        (None, name) => {
            let field = field.at("run_as_username");
            let name = text::text(&field, name, USERNAME_MAX)?;
            if name.chars().any(|c| c.is_control() || matches!(c, ':' | '/')) {
                return Err(Error::invalid(&field, name, "a user's name as it stands in /etc/passwd"));
            }
            Ok(UserChoice::Name(name))
        }
        (Some(_), name) => {
            Err(Error::invalid(&field.at("run_as_username"), name, "it empty, since run_as_user is set"))
        }
    }
}

fn group(field: &Field<'_>, id: Option<v1::Int64Value>) -> Result<Option<u32>, Error> {
    id.map(|id| account(field, id.value)).transpose()
}

fn groups(field: &Field<'_>, ids: Vec<i64>) -> Result<Vec<u32>, Error> {
    let ids = text::at_most(field, ids, GROUPS_MAX)?;
    ids.into_iter().enumerate().map(|(i, id)| account(&field.index(i), id)).collect()
}

fn account(field: &Field<'_>, id: i64) -> Result<u32, Error> {
    let id = text::within(field, id, 0, ID_MAX, "")?;
    Ok(u32::try_from(id).expect("checked to be within 0 and 2^31-1"))
}

fn policy(field: &Field<'_>, number: i32) -> Result<GroupsPolicy, Error> {
    Ok(match text::known(field, number, "Merge (0) or Strict (1)")? {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn capabilities(field: &Field<'_>, wire: v1::Capability) -> Result<Capabilities, Error> {
    let list = |name, names: Vec<String>| {
        let field = field.at(name);
        let names = text::at_most(&field, names, CAPABILITIES_MAX)?;
        names.into_iter().enumerate().map(|(i, name)| capability(&field.index(i), name)).collect::<Result<_, _>>()
    };
    Ok(Capabilities {
        add: list("add_capabilities", wire.add_capabilities)?,
        drop: list("drop_capabilities", wire.drop_capabilities)?,
        add_ambient: list("add_ambient_capabilities", wire.add_ambient_capabilities)?,
    })
}

/// Whether this kernel has it is the engine's to say: it differs from node to node.
fn capability(field: &Field<'_>, name: String) -> Result<String, Error> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if bare.is_empty() || bare.len() > 64 || !bare.bytes().all(plain) {
        return Err(Error::invalid(field, name, "a capability such as NET_ADMIN, or ALL"));
    }
    Ok(bare.to_owned())
}

fn paths(field: &Field<'_>, paths: Vec<String>) -> Result<Vec<PathBuf>, Error> {
    let paths = text::at_most(field, paths, PATHS_MAX)?;
    text::together(field, paths.iter().map(String::len).sum(), PATH_BYTES_MAX)?;
    paths.into_iter().enumerate().map(|(i, path)| text::absolute(&field.index(i), path)).collect()
}

fn seccomp(field: &Field<'_>, profile: v1::SecurityProfile) -> Result<Seccomp, Error> {
    Ok(match text::known(&field.at("profile_type"), profile.profile_type, PROFILES)? {
        ProfileType::RuntimeDefault => Seccomp::RuntimeDefault,
        ProfileType::Unconfined => Seccomp::Unconfined,
        ProfileType::Localhost => Seccomp::Localhost(file(&field.at("localhost_ref"), profile.localhost_ref)?),
    })
}

fn old_seccomp(field: &Field<'_>, profile: String) -> Result<Seccomp, Error> {
    match profile.as_str() {
        "" | "unconfined" => Ok(Seccomp::Unconfined),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        path if path.starts_with(LOCALHOST) => Ok(Seccomp::Localhost(file(field, profile)?)),
        _ => Err(Error::invalid(field, profile, "runtime/default, unconfined or localhost/<absolute path>")),
    }
}

/// The kubelet sends an absolute path; the word before it is a habit of old profile names.
fn file(field: &Field<'_>, path: String) -> Result<PathBuf, Error> {
    let bare = path.strip_prefix(LOCALHOST).map_or(path.clone(), str::to_owned);
    text::absolute(field, bare)
}

fn apparmor(field: &Field<'_>, profile: v1::SecurityProfile, privileged: bool, host: &Host) -> Result<AppArmor, Error> {
    let asked = match text::known(&field.at("profile_type"), profile.profile_type, PROFILES)? {
        ProfileType::RuntimeDefault => AppArmor::RuntimeDefault,
        ProfileType::Unconfined => AppArmor::Unconfined,
        ProfileType::Localhost => named(&field.at("localhost_ref"), &profile.localhost_ref)?,
    };
    confined(&field.at("profile_type"), asked, privileged, host)
}

fn old_apparmor(field: &Field<'_>, profile: String, privileged: bool, host: &Host) -> Result<AppArmor, Error> {
    let asked = match profile.as_str() {
        "" | "unconfined" => AppArmor::Unconfined,
        "runtime/default" => AppArmor::RuntimeDefault,
        name if name.starts_with(LOCALHOST) => named(field, name)?,
        _ => return Err(Error::invalid(field, profile, "runtime/default, unconfined or localhost/<profile>")),
    };
    confined(field, asked, privileged, host)
}

fn named(field: &Field<'_>, name: &str) -> Result<AppArmor, Error> {
    let bare = name.strip_prefix(LOCALHOST).unwrap_or(name);
    let bare = text::text(field, bare.to_owned(), PROFILE_MAX)?;
    if bare.is_empty() {
        return Err(Error::invalid(field, name, "the name of a loaded profile"));
    }
    Ok(AppArmor::Localhost(bare))
}

/// Only "no profile" is built. On a host without AppArmor a profile can never be, on another it is not built yet.
fn confined(field: &Field<'_>, asked: AppArmor, privileged: bool, host: &Host) -> Result<AppArmor, Error> {
    match asked {
        AppArmor::Unconfined => Ok(AppArmor::Unconfined),
        // The default profile is made for unprivileged containers; every runtime leaves it off here.
        AppArmor::RuntimeDefault if privileged => Ok(AppArmor::Unconfined),
        asked if host.apparmor => Err(Error::refused(field, asked, "AppArmor profiles are not built yet")),
        asked => Err(Error::invalid(field, asked, "Unconfined: AppArmor is not enabled on this host")),
    }
}

#[cfg(test)]
mod tests;
