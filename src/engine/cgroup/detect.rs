//! Which cgroup hierarchies this host has, from `/proc/self/mountinfo` and `/proc/self/cgroup`.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use kernel::mount_table::{self, MountEntry};

use crate::{Error, Result};

/// Controllers without which a node limits next to nothing: the version that has any of them is the one that is used,
/// version 1 where both have some.
const CHIEF: [&str; 3] = ["cpu", "memory", "pids"];

/// All that limit what a container uses. Where no version has a chief one, that of any of them is used.
const LIMITS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"];

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
    /// The root of a version 2 tree beside them. Nothing of ours goes there; other runtimes put their containers there
    /// too.
    pub beside: Option<OwnedFd>,
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
    /// Controllers that are on a hierarchy of version 1 beside it, and so are not used.
    pub on_v1: Vec<String>,
}

impl Layout {
    /// Looks at this host and opens every root.
    pub fn find() -> Result<Self> {
        let failed = |source| Error::Host { act: "read which cgroups there are", source };
        let own = fs::read_to_string("/proc/self/cgroup").map_err(failed)?;
        let on_v2 = |mount: &Path| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let found = sort(&mount_table::read().map_err(failed)?, &own, on_v2);
        let open = |mount: &Path| -> Result<OwnedFd> {
            let opened: io::Result<File> = File::open(mount);
            opened.map(OwnedFd::from).map_err(super::failed("open root", &mount.display().to_string()))
        };
        match found {
            Found::Nothing => Err(Error::NoCgroups),
            Found::V2(mount, on_v1) => Ok(Layout::V2(V2 { root: open(&mount)?, mount, on_v1 })),
            Found::V1(found, beside) => {
                let mut hierarchies = Vec::with_capacity(found.len());
                for (controllers, mount) in found {
                    hierarchies.push(Hierarchy { root: open(&mount)?, controllers, mount });
                }
                let beside = beside.map(|mount| open(&mount)).transpose()?;
                Ok(Layout::V1(V1 { hierarchies, beside }))
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
    V1(Vec<(Vec<String>, PathBuf)>, Option<PathBuf>),
    V2(PathBuf, Vec<String>),
    Nothing,
}

/// Hierarchies are matched by controllers: a mount's options hold all that `/proc/self/cgroup` names for one of them.
/// `on_v2` reads which controllers a version 2 tree has.
fn sort(mounts: &[MountEntry], own: &str, on_v2: impl Fn(&Path) -> String) -> Found {
    let v1_mounts: Vec<(Vec<&str>, &Path)> = mounts
        .iter()
        .filter(|mount| mount.fstype == "cgroup")
        .map(|mount| (mount.options.split(',').collect(), mount.mount_point.as_path()))
        .collect();
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
            hierarchies.push((controllers, mount.to_path_buf()));
        }
    }
    let v2 = mounts.iter().find(|mount| mount.fstype == "cgroup2").map(|mount| mount.mount_point.clone());
    let any = |is_one: fn(&str) -> bool| hierarchies.iter().flat_map(|(names, _)| names).any(|name| is_one(name));
    let v1_is_chief = any(|name| CHIEF.contains(&name));
    let has_chief = |v2: &Path| on_v2(v2).split_whitespace().any(|name| CHIEF.contains(&name));
    match v2 {
        // A named hierarchy of systemd's, one of a lone controller that marks packets, or one of huge pages: they count
        // for nothing where there is a version 2 beside them that limits more.
        Some(v2) if !v1_is_chief && (has_chief(&v2) || !any(|name| LIMITS.contains(&name))) => {
            let names = hierarchies.into_iter().flat_map(|(names, _)| names);
            Found::V2(v2, names.filter(|name| !name.starts_with("name=")).collect())
        }
        v2 if any(|name| !name.starts_with("name=")) => Found::V1(hierarchies, v2),
        _ => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, fstype: &str, options: &str) -> MountEntry {
        MountEntry {
            id: 1,
            parent: 0,
            device: (0, 1),
            root: "/".into(),
            mount_point: at.into(),
            attributes: "rw".into(),
            shared: None,
            master: None,
            fstype: fstype.into(),
            source: fstype.into(),
            options: options.into(),
        }
    }

    /// What a version 2 tree of these controllers says.
    fn having(controllers: &str) -> impl Fn(&Path) -> String + '_ {
        move |_| controllers.to_owned()
    }

    fn v2(on_v1: &[&str]) -> Found {
        Found::V2("/sys/fs/cgroup".into(), on_v1.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn version_1_is_found_with_its_co_mounted_controllers() {
        let mounts = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            mount("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,name=systemd"),
            mount("/sys/fs/cgroup/unified", "cgroup2", "rw"),
        ];
        let own = "4:memory:/a\n3:cpu,cpuacct:/\n2:name=systemd:/x\n5:blkio:/\n0::/y\n";
        let Found::V1(found, beside) = sort(&mounts, own, having("hugetlb\n")) else { panic!("not version 1") };
        assert_eq!(beside.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        let found: Vec<(String, &Path)> =
            found.iter().map(|(names, mount)| (names.join(","), mount.as_path())).collect();
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
        let alone = mount("/sys/fs/cgroup", "cgroup2", "rw,nsdelegate");
        let all = "cpuset cpu io memory hugetlb pids\n";
        assert_eq!(sort(std::slice::from_ref(&alone), "0::/init.scope\n", having(all)), v2(&[]));
        let named = [alone, mount("/sys/fs/cgroup/systemd", "cgroup", "rw,name=systemd")];
        assert_eq!(sort(&named, "1:name=systemd:/\n0::/\n", having(all)), v2(&[]));
        assert_eq!(sort(&[], "0::/\n", having("")), Found::Nothing);
    }

    #[test]
    fn a_lone_controller_of_version_1_that_limits_little_does_not_hide_version_2() {
        let mounts = [
            mount("/sys/fs/cgroup", "cgroup2", "rw,nsdelegate"),
            mount("/opt/vpn/net_cls", "cgroup", "rw,net_cls"),
            mount("/mnt/freezer", "cgroup", "rw,freezer"),
        ];
        let own = "2:freezer:/\n1:net_cls:/\n0::/init.scope\n";
        for controllers in ["cpu memory pids\n", "", "io\n"] {
            assert_eq!(sort(&mounts, own, having(controllers)), v2(&["freezer", "net_cls"]), "{controllers}");
        }
        assert!(
            matches!(sort(&mounts[1..], own, having("")), Found::V1(found, None) if found.len() == 2),
            "all that there is"
        );
        for lone in ["hugetlb", "blkio", "cpuset", "cpu", "memory", "pids"] {
            let mut hybrid = mounts.to_vec();
            hybrid.push(mount("/mnt/lone", "cgroup", &format!("rw,{lone}")));
            let own = format!("3:{lone}:/\n1:net_cls:/\n0::/\n");
            let sort = |controllers: &str| sort(&hybrid, &own, having(controllers));
            let is_v1 = |found: Found| matches!(found, Found::V1(found, Some(_)) if found.len() == 2);
            // Chief controllers on each version: version 1 is what limits.
            match CHIEF.contains(&lone) {
                true => assert!(is_v1(sort("cpu memory pids\n")), "{lone}"),
                false => assert_eq!(sort("cpu memory pids\n"), v2(&[lone, "net_cls"])),
            }
            assert!(is_v1(sort("")), "{lone}: it limits more than a version 2 without controllers");
            assert!(is_v1(sort("io misc\n")), "{lone}");
        }
    }

    #[test]
    fn co_mounted_controllers_get_links_to_their_directory() {
        let hierarchy = Hierarchy {
            controllers: vec!["cpu".into(), "cpuacct".into()],
            mount: "/sys/fs/cgroup/cpu,cpuacct".into(),
            root: File::open("/").unwrap().into(),
        };
        assert_eq!(hierarchy.links().collect::<Vec<_>>(), ["cpu", "cpuacct"]);
        assert_eq!(hierarchy.directory(), "cpu,cpuacct");
    }
}
