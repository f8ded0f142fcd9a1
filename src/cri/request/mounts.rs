//! Mounts and devices that a container asks for.

use std::path::PathBuf;

use api::cri::v1::{self, MountPropagation};
use model::{Device, DevicePermissions, Mount, MountSource, Propagation, ReadOnly};

use super::text;
use crate::{error::Error, field::Field};

/// Most mounts of a container: a pod of thousands of volumes has not been seen, and each costs system calls.
const MOUNTS_MAX: usize = 4096;
/// Most devices of a container.
const DEVICES_MAX: usize = 4096;
/// All paths of mounts, or of devices, inside the container together, bytes: they go to its monitor in one message.
const TARGETS_MAX: usize = 256 << 10;
/// Options that a mount may have.
const OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];

/// Mounts, in the order of the request.
pub(crate) fn mounts(field: &Field<'_>, mounts: Vec<v1::Mount>) -> Result<Vec<Mount>, Error> {
    let mounts = text::at_most(field, mounts, MOUNTS_MAX)?;
    text::together(field, mounts.iter().map(|mount| mount.container_path.len()).sum(), TARGETS_MAX)?;
    mounts.into_iter().enumerate().map(|(i, mount)| mount_of(&field.index(i), mount)).collect()
}

fn mount_of(field: &Field<'_>, wire: v1::Mount) -> Result<Mount, Error> {
    let target = text::path(&field.at("container_path"), wire.container_path)?;
    if text::is_root(&target) {
        return Err(Error::invalid(&field.at("container_path"), target, "a path below the container's root"));
    }
    let names = "PROPAGATION_PRIVATE (0), PROPAGATION_HOST_TO_CONTAINER (1) or PROPAGATION_BIDIRECTIONAL (2)";
    let propagation = match text::known(&field.at("propagation"), wire.propagation, names)? {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let read_only = read_only(field, wire.readonly, wire.recursive_read_only, propagation)?;
    options(&field.at("mount_options"), &wire.mount_options)?;
    for (name, mappings) in [("uidMappings", wire.uid_mappings), ("gidMappings", wire.gid_mappings)] {
        if !mappings.is_empty() {
            return Err(Error::refused(&field.at(name), mappings, "idmapped mounts are not built yet"));
        }
    }
    Ok(Mount {
        target,
        source: source(field, wire.host_path, wire.image, wire.image_sub_path, read_only)?,
        read_only,
        propagation,
        selinux_relabel: wire.selinux_relabel,
        options: Vec::new(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
    })
}

fn source(
    field: &Field<'_>,
    host_path: String,
    image: Option<v1::ImageSpec>,
    image_sub_path: String,
    read_only: ReadOnly,
) -> Result<MountSource, Error> {
    let Some(image) = image else {
        if !image_sub_path.is_empty() {
            return Err(Error::invalid(&field.at("image_sub_path"), image_sub_path, "it empty without an image"));
        }
        return Ok(MountSource::Host(text::absolute(&field.at("host_path"), host_path)?));
    };
    let field = field.at("image");
    if !host_path.is_empty() {
        return Err(Error::invalid(&field, image.image, "it absent beside a host_path"));
    }
    if read_only == ReadOnly::No {
        return Err(Error::invalid(&field, image.image, "readonly beside it: an image can only be read"));
    }
    Err(Error::refused(&field, image.image, "image volumes are not built yet"))
}

fn read_only(field: &Field<'_>, top: bool, recursive: bool, propagation: Propagation) -> Result<ReadOnly, Error> {
    let field = field.at("recursive_read_only");
    match (top, recursive) {
        (false, false) => Ok(ReadOnly::No),
        (true, false) => Ok(ReadOnly::Top),
        (false, true) => Err(Error::invalid(&field, true, "readonly beside it")),
        (true, true) if propagation != Propagation::Private => {
            Err(Error::invalid(&field, true, "private propagation beside it"))
        }
        (true, true) => Err(Error::RefusedByPrefix {
            // The kubelet tells its user more than our text when it sees this word.
            prefix: "RROUnsupported",
            field: field.to_string(),
            value: "true".to_owned(),
            why: "recursive read-only mounts are not built yet".into(),
        }),
    }
}

fn options(field: &Field<'_>, options: &[String]) -> Result<(), Error> {
    if let Some((i, unknown)) = options.iter().enumerate().find(|(_, option)| !OPTIONS.contains(&option.as_str())) {
        return Err(Error::invalid(&field.index(i), unknown, "noexec, nodev or nosuid"));
    }
    match options {
        [] => Ok(()),
        some => Err(Error::refused(field, some, "mount options are not built yet")),
    }
}

/// Devices, in the order of the request.
pub(crate) fn devices(field: &Field<'_>, devices: Vec<v1::Device>) -> Result<Vec<Device>, Error> {
    let devices = text::at_most(field, devices, DEVICES_MAX)?;
    text::together(
        field,
        devices.iter().map(|device| device.container_path.len().max(device.host_path.len())).sum(),
        TARGETS_MAX,
    )?;
    devices.into_iter().enumerate().map(|(i, device)| device_of(&field.index(i), device)).collect()
}

fn device_of(field: &Field<'_>, wire: v1::Device) -> Result<Device, Error> {
    let host_path = text::absolute(&field.at("host_path"), wire.host_path)?;
    let container_path = match wire.container_path {
        same if same.is_empty() => host_path.clone(),
        other => text::absolute(&field.at("container_path"), other)?,
    };
    if text::is_root(&container_path) {
        return Err(Error::invalid(&field.at("container_path"), container_path, "a path below the container's root"));
    }
    Ok(Device { host_path, container_path, permissions: permissions(&field.at("permissions"), &wire.permissions)? })
}

fn permissions(field: &Field<'_>, text: &str) -> Result<DevicePermissions, Error> {
    if text.is_empty() {
        return Ok(DevicePermissions::ALL);
    }
    if !text.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
        return Err(Error::invalid(field, text, "letters of rwm, or empty for all three"));
    }
    Ok(DevicePermissions { read: text.contains('r'), write: text.contains('w'), mknod: text.contains('m') })
}

/// A mount as a status echoes it: exactly as requested.
pub(crate) fn echoed(mount: &Mount) -> v1::Mount {
    let lossy = |path: &PathBuf| path.to_string_lossy().into_owned();
    let propagation = match mount.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    let ids = |mappings: &[model::IdMapping]| {
        mappings
            .iter()
            .map(|m| v1::IdMapping { host_id: m.host, container_id: m.container, length: m.length })
            .collect()
    };
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (lossy(path), None, String::new()),
        MountSource::Image { image, sub_path } => {
            let spec = v1::ImageSpec { image: image.clone(), ..Default::default() };
            (String::new(), Some(spec), sub_path.clone())
        }
    };
    v1::Mount {
        container_path: lossy(&mount.target),
        host_path,
        readonly: mount.read_only != ReadOnly::No,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: ids(&mount.uid_mappings),
        gid_mappings: ids(&mount.gid_mappings),
        recursive_read_only: mount.read_only == ReadOnly::Recursive,
        image,
        image_sub_path,
        mount_options: mount.options.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind() -> v1::Mount {
        v1::Mount { container_path: "/data".into(), host_path: "/srv/data".into(), ..Default::default() }
    }

    fn read(mount: v1::Mount) -> Result<Mount, Error> {
        mounts(&Field::root("mounts"), vec![mount]).map(|mut mounts| mounts.remove(0))
    }

    #[test]
    fn a_status_echoes_the_mount_as_it_was_asked_for() {
        for asked in [
            bind(),
            v1::Mount { readonly: true, propagation: 1, selinux_relabel: true, ..bind() },
            v1::Mount {
                container_path: "data/../x/".into(),
                host_path: "/srv//data/".into(),
                propagation: 2,
                ..bind()
            },
        ] {
            assert_eq!(echoed(&read(asked.clone()).unwrap()), asked);
        }
    }

    #[test]
    fn every_wrong_mount_names_its_field() {
        let image = Some(v1::ImageSpec { image: "data:1".into(), ..Default::default() });
        for (name, unsupported, wrong) in [
            ("container_path", false, v1::Mount { container_path: String::new(), ..bind() }),
            ("container_path", false, v1::Mount { container_path: "/a/..".into(), ..bind() }),
            ("container_path", false, v1::Mount { container_path: "x".repeat(300), ..bind() }),
            ("host_path", false, v1::Mount { host_path: "srv".into(), ..bind() }),
            ("host_path", false, v1::Mount { host_path: String::new(), ..bind() }),
            ("image", false, v1::Mount { image: image.clone(), readonly: true, ..bind() }),
            ("propagation", false, v1::Mount { propagation: 3, ..bind() }),
            ("recursive_read_only", false, v1::Mount { recursive_read_only: true, ..bind() }),
            (
                "recursive_read_only",
                false,
                v1::Mount { readonly: true, recursive_read_only: true, propagation: 1, ..bind() },
            ),
            ("recursive_read_only", true, v1::Mount { readonly: true, recursive_read_only: true, ..bind() }),
            ("image", false, v1::Mount { image: image.clone(), host_path: String::new(), ..bind() }),
            ("image", true, v1::Mount { image, host_path: String::new(), readonly: true, ..bind() }),
            ("image_sub_path", false, v1::Mount { image_sub_path: "x".into(), ..bind() }),
            ("mount_options[0]", false, v1::Mount { mount_options: vec!["suid".into()], ..bind() }),
            ("mount_options", true, v1::Mount { mount_options: vec!["nosuid".into()], ..bind() }),
            ("uidMappings", true, v1::Mount { uid_mappings: vec![v1::IdMapping::default()], ..bind() }),
        ] {
            let error = read(wrong).expect_err(name);
            assert!(error.to_string().contains(&format!("mounts[0].{name}: ")), "{error}");
            assert_eq!(error.class() == model::Class::Unsupported, unsupported, "{error}");
        }
    }

    #[test]
    fn a_device_defaults_to_the_same_path_and_all_permissions() {
        let field = Field::root("devices");
        let wire = v1::Device { host_path: "/dev/fuse".into(), ..Default::default() };
        let device = devices(&field, vec![wire.clone()]).unwrap().remove(0);
        assert_eq!((device.container_path, device.permissions), (PathBuf::from("/dev/fuse"), DevicePermissions::ALL));
        for wrong in [
            v1::Device { host_path: String::new(), ..wire.clone() },
            v1::Device { container_path: "dev/fuse".into(), ..wire.clone() },
            v1::Device { permissions: "rwx".into(), ..wire },
        ] {
            assert!(devices(&field, vec![wrong]).is_err());
        }
    }
}
