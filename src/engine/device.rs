//! Devices: the nodes every container has, those a request adds, and the access list of the device cgroup.
//!
//! Resolving a host path reads the host ([`resolve`], [`host_devices`]); everything after that is data.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use model::DevicePermissions;
use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Deepest directory below a device path that is searched: `/dev/bus/usb/001` needs three.
const MAX_DEPTH: usize = 16;

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// `c`
    Char,
    /// `b`
    Block,
    /// `p`: a named pipe; the device cgroup does not know it.
    Fifo,
}

/// A node to make in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path inside the container.
    pub path: PathBuf,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One entry of the device access list. `None` stands for every number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Kind; `None` is every kind.
    pub kind: Option<DeviceKind>,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: DevicePermissions,
}

impl DeviceRule {
    /// Everything, for privileged containers.
    pub const ANY: DeviceRule = DeviceRule { kind: None, major: None, minor: None, access: DevicePermissions::ALL };

    /// In the form of v1's `devices.allow`: `c 1:3 rwm`. `None` where the device cgroup knows no such kind.
    pub fn v1_line(&self) -> Option<String> {
        let kind = match self.kind {
            None => 'a',
            Some(DeviceKind::Char) => 'c',
            Some(DeviceKind::Block) => 'b',
            Some(DeviceKind::Fifo) => return None,
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        Some(format!("{kind} {}:{} {}", number(self.major), number(self.minor), letters(self.access)))
    }
}

/// Permissions in the kernel's letters, in its order.
pub fn letters(access: DevicePermissions) -> String {
    [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')]
        .into_iter()
        .filter_map(|(has, letter)| has.then_some(letter))
        .collect()
}

/// Device as found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Path at which the container gets it.
    pub container_path: PathBuf,
    /// Kind.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits on the host.
    pub mode: u32,
    /// Owner on the host.
    pub uid: u32,
    /// Group on the host.
    pub gid: u32,
    /// What the request allows.
    pub access: DevicePermissions,
}

impl HostDevice {
    /// The node to make.
    pub fn node(&self) -> DeviceNode {
        DeviceNode {
            path: self.container_path.clone(),
            kind: self.kind,
            major: self.major,
            minor: self.minor,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        }
    }

    /// The rule that lets it be used.
    pub fn rule(&self) -> Option<DeviceRule> {
        (self.kind != DeviceKind::Fifo).then_some(DeviceRule {
            kind: Some(self.kind),
            major: Some(self.major),
            minor: Some(self.minor),
            access: self.access,
        })
    }
}

/// The nodes that every container has.
pub fn default_nodes() -> Vec<DeviceNode> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .into_iter()
        .map(|(name, major, minor)| DeviceNode {
            path: Path::new("/dev").join(name),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect()
}

/// The access that every container has: any node may be made, these may be opened.
pub fn default_rules() -> Vec<DeviceRule> {
    let make_only = DevicePermissions { read: false, write: false, mknod: true };
    let mut rules: Vec<DeviceRule> = [DeviceKind::Char, DeviceKind::Block]
        .into_iter()
        .map(|kind| DeviceRule { kind: Some(kind), major: None, minor: None, access: make_only })
        .collect();
    let open = |major: u32, minor: Option<u32>| DeviceRule {
        kind: Some(DeviceKind::Char),
        major: Some(major),
        minor,
        access: DevicePermissions::ALL,
    };
    // null, zero, full, random, urandom, tty, console, ptmx; then every pseudo-terminal, and tun for VPN programs
    // that were given NET_ADMIN and make the node themselves.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(open(major, Some(minor)));
    }
    rules.push(open(136, None));
    rules.push(open(10, Some(200)));
    rules
}

/// What a device of a request stands for on this host: one node, or every node below a directory. Links are followed.
pub fn resolve(device: &model::Device) -> Result<Vec<HostDevice>> {
    let failed = |source| Error::Device { path: device.host_path.clone(), source };
    let real = fs::canonicalize(&device.host_path).map_err(failed)?;
    let found = fs::metadata(&real).map_err(failed)?;
    if !found.is_dir() {
        let node = host_device(&device.container_path, &found, device.permissions);
        return node.map(|node| vec![node]).ok_or_else(|| failed(not_a_device()));
    }
    let mut nodes = Vec::new();
    walk(&real, &device.container_path, device.permissions, 0, &mut nodes).map_err(failed)?;
    if nodes.is_empty() {
        return Err(failed(not_a_device()));
    }
    Ok(nodes)
}

/// Every device node of the host's `/dev`, for privileged containers. What belongs to namespaces or is remade in the
/// container (`pts`, `shm`, `mqueue`, `fd`, `console`) is left out.
pub fn host_devices() -> Result<Vec<HostDevice>> {
    let mut nodes = Vec::new();
    let dev = Path::new("/dev");
    walk(dev, dev, DevicePermissions::ALL, 0, &mut nodes)
        .map_err(|source| Error::Device { path: dev.to_owned(), source })?;
    Ok(nodes)
}

fn not_a_device() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a device node")
}

fn walk(
    from: &Path,
    to: &Path,
    access: DevicePermissions,
    depth: usize,
    nodes: &mut Vec<HostDevice>,
) -> io::Result<()> {
    let left_out: BTreeSet<&str> =
        ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"].into_iter().collect();
    let mut entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| left_out.contains(name)) {
            continue;
        }
        // A node may go between listing and looking: hot-plugged hardware. Then it is simply not there.
        let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
        if found.is_dir() {
            if depth < MAX_DEPTH {
                walk(&entry.path(), &to.join(&name), access, depth + 1, nodes)?;
            }
        } else if let Some(node) = host_device(&to.join(&name), &found, access)
            && node.kind != DeviceKind::Fifo
        {
            nodes.push(node);
        }
    }
    Ok(())
}

fn host_device(container_path: &Path, found: &fs::Metadata, access: DevicePermissions) -> Option<HostDevice> {
    let kind = found.file_type();
    let kind = if kind.is_char_device() {
        DeviceKind::Char
    } else if kind.is_block_device() {
        DeviceKind::Block
    } else if kind.is_fifo() {
        DeviceKind::Fifo
    } else {
        return None;
    };
    let number = |number: u64| u32::try_from(number).unwrap_or(0);
    Some(HostDevice {
        container_path: container_path.to_owned(),
        kind,
        major: number(major(found.rdev())),
        minor: number(minor(found.rdev())),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &Path) -> model::Device {
        model::Device {
            host_path: host.to_owned(),
            container_path: "/dev/mine".into(),
            permissions: DevicePermissions { read: true, write: false, mknod: false },
        }
    }

    #[test]
    fn a_link_to_a_node_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let found = resolve(&device(&link)).unwrap();
        assert_eq!((found[0].major, found[0].minor, found[0].kind), (1, 3, DeviceKind::Char));
        assert_eq!(found[0].container_path, Path::new("/dev/mine"));
        assert_eq!(found[0].rule().unwrap().v1_line().unwrap(), "c 1:3 r");
    }

    #[test]
    fn files_missing_paths_and_empty_directories_are_no_devices() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [dir.path(), &file, Path::new("/dev/none-such")] {
            assert!(matches!(resolve(&device(path)), Err(Error::Device { .. })), "{}", path.display());
        }
    }

    #[test]
    fn the_hosts_devices_hold_null_and_no_terminals() {
        let all = host_devices().unwrap();
        assert!(all.iter().any(|node| node.container_path == Path::new("/dev/null")));
        assert!(!all.iter().any(|node| node.container_path.starts_with("/dev/pts")));
    }

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        assert_eq!(DeviceRule::ANY.v1_line().unwrap(), "a *:* rwm");
        let lines: Vec<String> = default_rules().iter().filter_map(DeviceRule::v1_line).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert!(lines.contains(&"c 136:* rwm".to_owned()));
    }
}
