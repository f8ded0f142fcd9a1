//! Which mounts a container gets, in which order.
//!
//! Default mounts first, then files of the pod, mounts of the request and image volumes, together sorted by depth. A
//! mount of the request replaces a default one at the same place and everything default below it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use model::{MountSource, Propagation, ReadOnly};

use super::{PlanInput, clean};
use crate::{
    Error, HostFacts, Result,
    launch_plan::{Missing, Mount, MountFlag, MountWhat},
    proc_file::may_be_covered,
};

/// Most mounts of a container: each takes a descriptor of those that its launch order may have. The rest of them is for
/// the root, the cgroup's files in each hierarchy, the log and the filter.
const MOST: usize = link::MAX_MESSAGE_FDS - 64;

/// The mounts, and whether `/dev` is a filesystem of the container's own (nodes and links belong there) or the host's.
pub(super) fn mounts(input: &PlanInput<'_>, host: &HostFacts) -> Result<(Vec<Mount>, bool)> {
    let mut asked = Vec::new();
    for mount in &input.container.mounts {
        asked.push(of_request(mount)?);
    }
    let is_asked = |path: &Path| asked.iter().any(|mount| mount.target == path);
    let mut mounts = defaults(input, host);
    mounts.retain(|default| !asked.iter().any(|mount| default.target.starts_with(&mount.target)));
    let dev_is_ours = !is_asked(Path::new("/dev"));

    let mut rest = pod_files(input);
    rest.retain(|file| !is_asked(&file.target));
    for volume in input.volumes {
        let target = clean(&volume.target);
        if !is_asked(&target) {
            rest.push(bind(target, volume.source.clone(), false, Missing::Refuse));
        }
    }
    rest.extend(asked);
    // Stable, so that equal depths keep the request's order, and a parent is there before its child.
    rest.sort_by_key(|mount| mount.target.components().count());
    mounts.extend(rest);
    if mounts.len() > MOST {
        return Err(Error::TooManyMounts { mounts: mounts.len(), most: MOST });
    }
    Ok((mounts, dev_is_ours))
}

fn of_request(mount: &model::Mount) -> Result<Mount> {
    let target = clean(&mount.target);
    let invalid =
        |want| Error::Invalid { field: "mounts[].container_path", value: mount.target.display().to_string(), want };
    let source = match &mount.source {
        MountSource::Host(source) => source.clone(),
        MountSource::Image { image, .. } => {
            return Err(Error::Unsupported { field: "mounts[].image", value: image.clone() });
        }
    };
    if let Some(option) = mount.options.first() {
        return Err(Error::Unsupported { field: "mounts[].mount_options", value: option.clone() });
    }
    if let Some(mapping) = mount.uid_mappings.first().or(mount.gid_mappings.first()) {
        let value = format!("{}:{}:{}", mapping.container, mapping.host, mapping.length);
        return Err(Error::Unsupported { field: "mounts[].uidMappings (idmap)", value });
    }
    if mount.read_only == ReadOnly::Recursive {
        return Err(Error::RecursiveReadOnly { target });
    }
    if target == Path::new("/") {
        return Err(invalid("a mount cannot replace the root filesystem"));
    }
    if target == Path::new("/proc") && source != Path::new("/proc") {
        return Err(invalid("only the host's /proc can be mounted on /proc"));
    }
    if target != Path::new("/proc") && target.starts_with("/proc") && !may_be_covered(&target) {
        return Err(invalid("it cannot be mounted because it is inside /proc"));
    }
    if !source.is_absolute() {
        return Err(Error::Invalid {
            field: "mounts[].host_path",
            value: source.display().to_string(),
            want: "an absolute path of the host",
        });
    }
    Ok(Mount {
        target,
        what: MountWhat::Bind {
            source,
            read_only: mount.read_only != ReadOnly::No,
            propagation: mount.propagation,
            missing: Missing::MakeDirectory,
        },
    })
}

fn defaults(input: &PlanInput<'_>, host: &HostFacts) -> Vec<Mount> {
    use MountFlag::{NoDev, NoExec, NoSuid, ReadOnly, RelAtime, StrictAtime};
    let privileged = input.container.security.privileged;
    let host_ipc = input.pod.namespaces.ipc == model::IpcMode::Host;
    let read_only = |flags: &[MountFlag]| -> Vec<MountFlag> {
        let lock = (!privileged).then_some(ReadOnly);
        flags.iter().copied().chain(lock).collect()
    };
    let mut mounts = vec![
        filesystem("/proc", "proc", &[], &[NoSuid, NoDev, NoExec]),
        filesystem("/dev", "tmpfs", &["mode=755", "size=65536k"], &[NoSuid, StrictAtime]),
        filesystem("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"], &[NoSuid, NoExec]),
    ];
    if host.has_mqueue {
        // Shows the queues of the ipc namespace it is mounted in: with the host's, the host's, mounted there or not.
        mounts.push(filesystem("/dev/mqueue", "mqueue", &[], &[NoSuid, NoDev, NoExec]));
    }
    if host_ipc {
        // POSIX segments are files: the host's are seen through the host's own mount.
        mounts.push(bind("/dev/shm".into(), "/dev/shm".into(), false, Missing::Refuse));
    } else {
        mounts.push(Mount { target: "/dev/shm".into(), what: MountWhat::PodShm });
    }
    mounts.push(filesystem("/sys", "sysfs", &[], &read_only(&[NoSuid, NoDev, NoExec, RelAtime])));
    mounts.push(Mount { target: "/sys/fs/cgroup".into(), what: MountWhat::Cgroup { read_only: !privileged } });
    mounts
}

/// Written by the pod, shared by its containers; they may change them as everywhere in the field.
fn pod_files(input: &PlanInput<'_>) -> Vec<Mount> {
    let files = input.pod_files;
    [("/etc/hosts", &files.hosts), ("/etc/hostname", &files.hostname), ("/etc/resolv.conf", &files.resolv_conf)]
        .into_iter()
        .filter_map(|(target, source)| {
            let source = source.clone()?;
            Some(bind(target.into(), source, input.container.security.readonly_rootfs, Missing::Refuse))
        })
        .collect()
}

fn filesystem(target: &str, fstype: &str, options: &[&str], flags: &[MountFlag]) -> Mount {
    Mount {
        target: target.into(),
        what: MountWhat::Filesystem {
            fstype: fstype.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            flags: flags.iter().copied().collect::<BTreeSet<_>>(),
        },
    }
}

fn bind(target: PathBuf, source: PathBuf, read_only: bool, missing: Missing) -> Mount {
    Mount { target, what: MountWhat::Bind { source, read_only, propagation: Propagation::Private, missing } }
}
