//! Hosts that lack something, played by plain directories: what is told at the start, and what who asks for it hears.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::Path,
};

use model::{DevicePermissions, HugepageLimit, Resources};

use super::*;
use crate::{
    PodCgroup,
    cgroup::{Hierarchy, V1, V2},
    device::DeviceRule,
    launch_plan,
};

/// The container's cgroup, and the pod's.
const LEAF: &str = "/pod/c";
const POD: &str = "/pod";

/// Version 2 whose root and pod have these controllers; the container's cgroup has `files`, as the kernel makes them
/// for what is handed down.
fn v2(dir: &Path, controllers: &str, files: &[&str]) -> Cgroups {
    let leaf = dir.join(LEAF.trim_start_matches('/'));
    fs::create_dir_all(&leaf).unwrap();
    for cgroup in [dir, dir.join("pod").as_path(), leaf.as_path()] {
        fs::write(cgroup.join("cgroup.controllers"), controllers).unwrap();
        fs::write(cgroup.join("cgroup.subtree_control"), controllers).unwrap();
    }
    files.iter().for_each(|file| fs::write(leaf.join(file), "").unwrap());
    Cgroups { layout: Layout::V2(V2 { mount: "/sys/fs/cgroup".into(), root: open(dir), on_v1: Vec::new() }) }
}

/// Version 1 with these controllers, each by itself, and beside it version 2 with those.
fn v1(dir: &Path, controllers: &[&str], beside: &str) -> Cgroups {
    let hierarchies = controllers.iter().map(|name| {
        let mount = dir.join(name);
        let leaf = mount.join(LEAF.trim_start_matches('/'));
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("tasks"), "").unwrap();
        Hierarchy { controllers: vec![(*name).to_owned()], root: open(&mount), mount }
    });
    let hierarchies = hierarchies.collect();
    let unified = dir.join("unified");
    fs::create_dir(&unified).unwrap();
    fs::write(unified.join("cgroup.controllers"), beside).unwrap();
    Cgroups { layout: Layout::V1(V1 { hierarchies, beside: Some(open(&unified)) }) }
}

fn open(dir: &Path) -> OwnedFd {
    File::open(dir).unwrap().into()
}

/// A privileged container that asks for these.
fn asking(resources: Resources) -> launch_plan::Cgroup {
    launch_plan::Cgroup { path: LEAF.to_owned(), resources, pids_limit: None, devices: vec![DeviceRule::ANY] }
}

fn memory(bytes: i64) -> Resources {
    Resources { memory_limit_bytes: Some(bytes), ..Resources::default() }
}

fn unified(file: &str) -> Resources {
    Resources { unified: [(file.to_owned(), "1".to_owned())].into(), ..Resources::default() }
}

/// Who was refused, and for want of which controller.
fn refused<T: std::fmt::Debug>(made: Result<T>) -> (String, String) {
    match made {
        Err(Error::NoController { asked, controller, path }) if path.starts_with(POD) => (asked, controller),
        other => panic!("not refused for want of a controller: {other:?}"),
    }
}

#[test]
fn a_host_that_has_all_is_told_nothing_about() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all = "cpuset cpu io memory hugetlb pids rdma misc\n";
    assert_eq!(v2(one.path(), all, &[]).notes(), [""; 0]);
    let all = ["cpu", "cpuset", "memory", "pids", "hugetlb", "devices", "freezer", "name=systemd"];
    assert_eq!(v1(other.path(), &all, "").notes(), [""; 0]);
}

#[test]
fn version_2_without_controllers_is_told_once_with_each_limit_that_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let told = v2(dir.path(), "\n", &[]).notes();
    let [told] = told.as_slice() else { panic!("one sentence: {told:?}") };
    for (controller, outcome) in WITHOUT {
        assert!(told.contains(&format!("{controller}: {outcome}")), "{told}");
    }
}

#[test]
fn what_may_not_be_handed_down_is_told_with_its_reason() {
    let there: Vec<_> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let refused = [
        ("memory", io::Error::from_raw_os_error(libc::EBUSY)),
        ("cpu", io::Error::from_raw_os_error(libc::EINVAL)),
        ("io", io::Error::from_raw_os_error(libc::EBUSY)),
    ];
    let root = tempfile::tempdir().unwrap();
    let v2 = V2 { mount: "/sys/fs/cgroup".into(), root: open(root.path()), on_v1: Vec::new() };
    let told = lack_of_v2(&v2, &there, &refused).unwrap();
    assert!(told.contains("memory (it cannot be handed down: processes are in it"), "{told}");
    assert!(told.contains("cpu (it cannot be handed down: Invalid argument"), "{told}");
    assert!(!told.contains("pids") && !told.contains("io ("), "{told}");
    assert_eq!(lack_of_v2(&v2, &there, &[]), None);
}

#[test]
fn a_hybrid_host_is_told_which_controllers_are_on_the_other_version() {
    let dir = tempfile::tempdir().unwrap();
    let told = v1(dir.path(), &["cpu", "cpuset", "pids", "freezer"], "memory io\n").notes();
    let [told] = told.as_slice() else { panic!("one sentence: {told:?}") };
    assert!(told.contains("memory (it is on version 2"), "{told}");
    assert!(told.contains("devices: only privileged containers"), "{told}");
    assert!(!told.contains("cpu_shares") && !told.contains("freezer"), "{told}");

    let mut other = v2(&dir.path().join("v2"), "cpu io memory pids\n", &[]);
    let Layout::V2(found) = &mut other.layout else { unreachable!("it was made so") };
    found.on_v1 = vec!["hugetlb".to_owned(), "freezer".to_owned()];
    let told = other.notes();
    let [told] = told.as_slice() else { panic!("one sentence: {told:?}") };
    assert!(told.contains("hugetlb (it is on version 1, and only one version is used): hugepage"), "{told}");
    assert!(told.contains("cpuset: cpuset_cpus") && !told.contains("freezer"), "{told}");
}

#[test]
fn version_2_keeps_what_it_can_and_refuses_the_rest_by_field_and_controller() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = v2(dir.path(), "cpu pids\n", &["cpu.weight", "pids.max"]);
    let kept = Resources { cpu_shares: Some(1024), ..Resources::default() };
    let opened = cgroups.make_container(&launch_plan::Cgroup { pids_limit: Some(7), ..asking(kept) }).unwrap();
    assert!(opened.oom.is_none());
    assert_eq!(fs::read_to_string(dir.path().join("pod/c/cpu.weight")).unwrap(), "100");
    assert_eq!(fs::read_to_string(dir.path().join("pod/c/pids.max")).unwrap(), "7");

    let (asked, controller) = refused(cgroups.make_container(&asking(memory(1 << 20))));
    assert_eq!(
        (asked.as_str(), &*controller),
        ("linux.resources.memory_limit_in_bytes (memory.max 1048576)", "memory")
    );
    let (asked, controller) = refused(cgroups.make_container(&asking(unified("io.weight"))));
    assert_eq!(asked, "linux.resources.unified (io.weight 1)");
    assert_eq!(controller, "io");
    // Not for want of a controller.
    for file in ["pids.nothing", "cgroup.nothing"] {
        let made = cgroups.make_container(&asking(unified(file)));
        assert!(matches!(made, Err(Error::Cgroup { .. })), "{file}: {made:?}");
    }
    // No limit is no limit, and huge pages nobody can be held to.
    cgroups.make_container(&asking(memory(-1))).unwrap();
    cgroups.make_container(&asking(Resources { cpu_quota_us: Some(-1), ..Resources::default() })).unwrap();
    let hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }];
    cgroups.make_container(&asking(Resources { hugepages, ..Resources::default() })).unwrap();
}

#[test]
fn version_1_keeps_what_it_can_and_refuses_the_rest_by_field_and_controller() {
    let dir = tempfile::tempdir().unwrap();
    let cgroups = v1(dir.path(), &["cpu", "freezer"], "");
    fs::write(dir.path().join("cpu/pod/c/cpu.shares"), "").unwrap();
    let kept = Resources { cpu_shares: Some(512), ..Resources::default() };
    assert_eq!(cgroups.make_container(&asking(kept)).unwrap().tasks.len(), 2);
    assert_eq!(fs::read_to_string(dir.path().join("cpu/pod/c/cpu.shares")).unwrap(), "512");

    let (asked, controller) = refused(cgroups.make_container(&asking(memory(1 << 20))));
    assert_eq!(asked, "linux.resources.memory_limit_in_bytes (memory.limit_in_bytes 1048576)");
    assert_eq!(controller, "memory");
    let limited = launch_plan::Cgroup { pids_limit: Some(7), ..asking(Resources::default()) };
    assert_eq!(refused(cgroups.make_container(&limited)), ("engine.container_pids (pids.max 7)".into(), "pids".into()));
    cgroups.make_container(&asking(memory(-1))).unwrap();
    // Without its list of devices a container would have all of the host's.
    let read = DevicePermissions { read: true, write: false, mknod: false };
    let devices = vec![DeviceRule { access: read, ..DeviceRule::ANY }];
    let confined = launch_plan::Cgroup { devices, ..asking(Resources::default()) };
    assert_eq!(refused(cgroups.make_container(&confined)).1, "devices");
}

#[test]
fn a_pods_processes_cannot_be_counted_without_the_controller() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pod = PodCgroup { path: POD.to_owned(), ours: true };
    for cgroups in [v2(one.path(), "cpu\n", &[]), v1(other.path(), &["cpu"], "")] {
        let (asked, controller) = refused(cgroups.make_pod(&pod, Some(5), Path::new("/nowhere")));
        assert_eq!(asked, "engine.pod_pids (5)");
        assert_eq!(controller, "pids");
        cgroups.make_pod(&pod, None, Path::new("/nowhere")).unwrap();
    }
}

#[test]
#[ignore = "needs root: makes a mount read-only"]
fn hierarchies_that_cannot_be_written_to_are_named() {
    use kernel::mount::{MountAttrs, mount_setattr, open_tree_clone};
    let dir = tempfile::tempdir().unwrap();
    v2(dir.path(), "cpu\n", &[]);
    let root = open_tree_clone(open(dir.path()).as_fd(), Path::new(""), false).unwrap();
    mount_setattr(root.as_fd(), false, MountAttrs::RDONLY, MountAttrs::empty(), None).unwrap();
    let told = Cgroups { layout: Layout::V2(V2 { mount: "/sys/fs/cgroup".into(), root, on_v1: Vec::new() }) }.notes();
    let [told] = told.as_slice() else { panic!("one sentence: {told:?}") };
    assert!(told.contains("read-only on /sys/fs/cgroup"), "{told}");
}
