//! Which cgroup hierarchies this host has, from `/proc/self/mountinfo` and `/proc/self/cgroup`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// The shape of a host's cgroups.
#[derive(Debug)]
pub enum Layout {
    /// A tree for each group of controllers; a version 2 tree without controllers may stand beside them (hybrid).
    V1(V1),
    /// One tree.
    V2(V2),
}

/// Version 1.
#[derive(Debug)]
pub struct V1 {
    /// Every mounted hierarchy, named ones (`name=systemd`) included.
    pub hierarchies: Vec<Hierarchy>,
}

/// One tree of version 1.
#[derive(Debug)]
pub struct Hierarchy {
    /// Controllers on it, as `/proc/self/cgroup` spells them: `cpu`, `cpuacct`, `name=systemd`.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its root.
    pub root: OwnedFd,
}

/// Version 2.
#[derive(Debug)]
pub struct V2 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its root.
    pub root: OwnedFd,
}

impl Layout {
    /// Looks at this host and opens every root.
    pub fn find() -> Result<Self> {
        let read = |path: &'static str| {
            fs::read_to_string(path).map_err(|source| Error::Host { act: "read which cgroups there are", source })
        };
        let found = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let open = |mount: &Path| -> Result<OwnedFd> {
            let opened: io::Result<File> = File::open(mount);
            opened.map(OwnedFd::from).map_err(super::failed("open root", &mount.display().to_string()))
        };
        match found {
            Found::Nothing => Err(Error::NoCgroups),
            Found::V2(mount) => Ok(Layout::V2(V2 { root: open(&mount)?, mount })),
            Found::V1(found) => {
                let mut hierarchies = Vec::with_capacity(found.len());
                for (controllers, mount) in found {
                    hierarchies.push(Hierarchy { root: open(&mount)?, controllers, mount });
                }
                Ok(Layout::V1(V1 { hierarchies }))
            }
        }
    }

    /// Version 2 alone.
    pub fn is_unified(&self) -> bool {
        matches!(self, Layout::V2(_))
    }
}

impl V1 {
    /// The hierarchy that this controller is on.
    pub fn of(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(controller))
    }
}

impl Hierarchy {
    /// Whether this controller is on it.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    /// Name of its directory below `/sys/fs/cgroup`, as this host has it: `cpu,cpuacct`.
    pub fn directory(&self) -> &str {
        self.mount.file_name().and_then(|name| name.to_str()).unwrap_or("cgroup")
    }

    /// Links beside that directory: `cpu -> cpu,cpuacct`. Named hierarchies have none.
    pub fn links(&self) -> impl Iterator<Item = &str> {
        let directory = self.directory();
        self.controllers.iter().map(String::as_str).filter(move |name| *name != directory && !name.starts_with("name="))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    V1(Vec<(Vec<String>, PathBuf)>),
    V2(PathBuf),
    Nothing,
}

/// Hierarchies are matched by controllers: a mount's options hold all that `/proc/self/cgroup` names for one of them.
fn parse(mountinfo: &str, own: &str) -> Found {
    let mut v1_mounts: Vec<(Vec<&str>, PathBuf)> = Vec::new();
    let mut v2_mount = None;
    for line in mountinfo.lines() {
        let Some((mount, fs)) = line.split_once(" - ") else { continue };
        let target = mount.split(' ').nth(4).map(unescape).unwrap_or_default();
        let mut fs = fs.split(' ');
        match fs.next() {
            Some("cgroup") => v1_mounts.push((fs.nth(1).unwrap_or_default().split(',').collect(), target)),
            Some("cgroup2") => v2_mount = v2_mount.or(Some(target)),
            _ => {}
        }
    }
    let mut hierarchies = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers)) = (fields.next(), fields.next()) else { continue };
        if number == "0" || controllers.is_empty() {
            continue;
        }
        let controllers: Vec<String> = controllers.split(',').map(str::to_owned).collect();
        let fits = |options: &[&str]| controllers.iter().all(|controller| options.contains(&controller.as_str()));
        if let Some((_, mount)) = v1_mounts.iter().find(|(options, _)| fits(options)) {
            hierarchies.push((controllers, mount.clone()));
        }
    }
    // systemd keeps a named hierarchy beside version 2 on some hosts: it limits nothing and counts for nothing.
    let any_controller = hierarchies.iter().flat_map(|(names, _)| names).any(|name| !name.starts_with("name="));
    match v2_mount {
        _ if any_controller => Found::V1(hierarchies),
        Some(mount) => Found::V2(mount),
        None => Found::Nothing,
    }
}

/// Undoes the octal escapes of mountinfo: space, tab, newline, backslash.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let escapes: HashMap<&str, char> = [("040", ' '), ("011", '\t'), ("012", '\n'), ("134", '\\')].into();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|code| escapes.get(code)) {
            Some(character) => {
                out.push(*character);
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_1_is_found_with_its_co_mounted_controllers() {
        let mountinfo = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/a\n3:cpu,cpuacct:/\n2:name=systemd:/x\n5:blkio:/\n0::/y\n";
        let Found::V1(found) = parse(mountinfo, own) else { panic!("not version 1") };
        let found: Vec<(String, &Path)> = found.iter().map(|(names, mount)| (names.join(","), mount.as_path())).collect();
        assert_eq!(
            found,
            [
                ("memory".to_owned(), Path::new("/sys/fs/cgroup/memory")),
                ("cpu,cpuacct".to_owned(), Path::new("/sys/fs/cgroup/cpu,cpuacct")),
                ("name=systemd".to_owned(), Path::new("/sys/fs/cgroup/systemd")),
            ]
        );
    }

    #[test]
    fn version_2_alone_or_beside_a_named_hierarchy_is_version_2() {
        assert_eq!(parse(V2_MOUNT, "0::/init.scope\n"), Found::V2("/sys/fs/cgroup".into()));
        let named = format!("{V2_MOUNT}34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n");
        assert_eq!(parse(&named, "1:name=systemd:/\n0::/\n"), Found::V2("/sys/fs/cgroup".into()));
        assert_eq!(parse("", "0::/\n"), Found::Nothing);
    }

    #[test]
    fn escaped_mount_points_are_read_back() {
        assert_eq!(unescape("/a\\040b\\134c\\x"), Path::new("/a b\\c\\x"));
    }
}
