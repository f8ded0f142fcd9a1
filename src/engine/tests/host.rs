//! The planning half on the real kernel: cgroups, root filesystems, volumes, and what a launch needs of the host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{
    fs,
    io::{Read, Seek},
    os::{
        fd::AsFd,
        unix::{
            fs::{MetadataExt, PermissionsExt, chown, symlink},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use engine::{
    Accounts, Config, Engine, Error, PodCgroup,
    cgroup::{Cgroups, Layout},
    device, launch_plan,
};
use kernel::path_in_root::{OpenFlags, open_in_root};
use model::{IpcMode, NetworkMode, PidMode, PodId, PodMetadata, PodNamespaces, PodPlan, Resources, Seccomp};

fn assert_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
}

/// An id of our own for each test, so that nothing of another run is touched.
fn pod_id(test: u8) -> PodId {
    let mut bytes = [test; 32];
    bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    PodId::from_random(bytes)
}

fn pod(parent: Option<&str>) -> PodPlan {
    PodPlan {
        metadata: PodMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 },
        hostname: None,
        log_directory: None,
        dns: None,
        port_mappings: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        runtime_handler: String::new(),
        cgroup_parent: parent.map(str::to_owned),
        sysctls: Default::default(),
        namespaces: PodNamespaces { network: NetworkMode::Pod, pid: PidMode::Container, ipc: IpcMode::Pod, user: None },
        privileged: false,
        seccomp: Seccomp::RuntimeDefault,
        overhead: None,
        resources: None,
    }
}

/// Directories of a cgroup, one in each hierarchy.
fn directories(cgroups: &Cgroups, path: &str) -> Vec<PathBuf> {
    let roots: Vec<PathBuf> = match cgroups.layout() {
        Layout::V1(v1) => v1.hierarchies.iter().map(|hierarchy| hierarchy.mount.clone()).collect(),
        Layout::V2(v2) => vec![v2.mount.clone()],
    };
    roots.into_iter().map(|root| root.join(path.trim_start_matches('/'))).collect()
}

fn value(cgroups: &Cgroups, path: &str, controller: &str, file: &str) -> String {
    let dir = match cgroups.layout() {
        Layout::V1(v1) => v1.of(controller).unwrap().mount.join(path.trim_start_matches('/')),
        Layout::V2(v2) => v2.mount.join(path.trim_start_matches('/')),
    };
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

fn is_v1(cgroups: &Cgroups) -> bool {
    matches!(cgroups.layout(), Layout::V1(_))
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn a_containers_cgroup_is_limited_and_leaves_nothing_behind() {
    assert_root();
    let root = format!("/crt-engine-{}", std::process::id());
    let engine = Engine::new(Config { cgroup_root: root.clone(), pod_pids: Some(500), ..Config::default() }).unwrap();
    let cgroups = Cgroups::find().unwrap();
    let made = engine.pod_cgroup(&pod(None), &pod_id(1)).unwrap();
    assert_eq!(made, PodCgroup { path: format!("{root}/{}", pod_id(1)), ours: true });
    assert!(!directories(&cgroups, &made.path).iter().any(|directory| directory.exists()), "a place makes nothing");
    engine.make_pod_cgroup(&made, Path::new("/nowhere")).unwrap();
    assert_eq!(value(&cgroups, &made.path, "pids", "pids.max"), "500");
    if is_v1(&cgroups) {
        // What is made below begins with its CPUs: to write them makes the kernel go through all cpusets.
        for path in [&root, &made.path] {
            assert_eq!(value(&cgroups, path, "cpuset", "cgroup.clone_children"), "1", "{path}");
        }
    }

    let plan = launch_plan::Cgroup {
        path: format!("{}/c", made.path),
        resources: Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(64 << 20),
            cpuset_cpus: Some("0".into()),
            ..Resources::default()
        },
        pids_limit: Some(50),
        devices: device::default_rules(),
    };
    let mut opened = cgroups.make_container(&plan).unwrap();
    assert_eq!(value(&cgroups, &plan.path, "pids", "pids.max"), "50");
    assert_eq!(value(&cgroups, &plan.path, "cpuset", "cpuset.cpus"), "0");
    if is_v1(&cgroups) {
        assert_eq!(value(&cgroups, &plan.path, "memory", "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(value(&cgroups, &plan.path, "cpu", "cpu.shares"), "512");
        assert!(!value(&cgroups, &plan.path, "cpuset", "cpuset.mems").is_empty(), "filled from the parent");
        let devices = value(&cgroups, &plan.path, "devices", "devices.list");
        assert!(devices.contains("c 1:3 rwm") && !devices.contains("a *:*"), "{devices}");
        let mut oom = String::new();
        let mut file = fs::File::from(opened.oom.take().unwrap());
        file.read_to_string(&mut oom).unwrap();
        assert!(oom.contains("oom_kill "), "{oom}");
        file.rewind().unwrap();
    }

    // A process in it, and one below it as an exec has it: killing takes both.
    let mut children = Vec::new();
    if is_v1(&cgroups) {
        for directory in directories(&cgroups, &plan.path) {
            fs::create_dir(directory.join("exec-1")).unwrap();
        }
    }
    for sub in ["", "exec-1"] {
        let files: Vec<PathBuf> = directories(&cgroups, &plan.path)
            .iter()
            .map(|dir| dir.join(sub).join("cgroup.procs"))
            .filter(|file| file.exists() && !file.starts_with("/sys/fs/cgroup/cpuset") || sub.is_empty())
            .collect();
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null()).process_group(0);
        let child = command.spawn().unwrap();
        for file in files {
            fs::write(&file, child.id().to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        children.push(child);
    }
    engine.kill_cgroup(&plan.path).unwrap();
    for child in &mut children {
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }
    cgroups.remove(&plan.path).unwrap();
    cgroups.remove(&plan.path).unwrap();
    engine.remove_pod_cgroup(&made).unwrap();
    for directory in directories(&cgroups, &root) {
        assert!(!directory.exists(), "{} is left", directory.display());
    }
}

#[test]
#[ignore = "needs root: makes cgroups"]
fn the_kubelets_parent_is_used_and_not_removed() {
    assert_root();
    let parent = format!("/crt-engine-kube-{}/pod1", std::process::id());
    let engine = Engine::new(Config::default()).unwrap();
    let cgroups = Cgroups::find().unwrap();
    let first = engine.pod_cgroup(&pod(Some(&parent)), &pod_id(2)).unwrap();
    assert_eq!(first, PodCgroup { path: parent.clone(), ours: true }, "nobody had made it");
    engine.make_pod_cgroup(&first, Path::new("/nowhere")).unwrap();
    let second = engine.pod_cgroup(&pod(Some(&format!("{parent}/"))), &pod_id(2)).unwrap();
    assert_eq!(second, PodCgroup { path: parent.clone(), ours: false });
    engine.make_pod_cgroup(&second, Path::new("/nowhere")).unwrap();
    engine.remove_pod_cgroup(&second).unwrap();
    assert!(directories(&cgroups, &parent).iter().all(|directory| directory.exists()));
    let init = engine.pod_init(&pod(Some(&parent)), &second, &pod_id(2)).unwrap();
    assert!(init.seccomp.is_some());
    assert_eq!(init.cgroup_tasks.is_empty(), !is_v1(&cgroups));
    engine.remove_pod_init(&second, &pod_id(2)).unwrap();
    engine.remove_pod_cgroup(&first).unwrap();
    assert!(!directories(&cgroups, &parent).iter().any(|directory| directory.exists()));
}

#[test]
#[ignore = "needs root: opens cgroup roots"]
fn a_systemd_slice_is_refused_in_words_that_help() {
    assert_root();
    let engine = Engine::new(Config::default()).unwrap();
    let slices = ["kubepods-burstable-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"];
    for parent in slices {
        let refused = engine.pod_cgroup(&pod(Some(parent)), &pod_id(3));
        assert!(matches!(refused, Err(Error::CgroupDriver { .. })), "{parent}");
    }
    for parent in ["relative", "/a/../b", "/a//b"] {
        let refused = engine.pod_cgroup(&pod(Some(parent)), &pod_id(3));
        assert!(matches!(refused, Err(Error::Invalid { field: "cgroup_parent", .. })), "{parent}");
    }
}

#[test]
#[ignore = "needs root: mounts overlay"]
fn layers_are_one_root_that_shows_nowhere_on_the_host() {
    assert_root();
    let dir = tempfile::tempdir().unwrap();
    let (top, bottom, own) = (dir.path().join("top"), dir.path().join("bottom"), dir.path().join("own"));
    for path in [&top.join("etc"), &bottom.join("data/sub"), &own] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(top.join("etc/passwd"), "web:x:7:8::/srv:\n").unwrap();
    fs::write(bottom.join("data/sub/file"), "content").unwrap();
    fs::set_permissions(bottom.join("data/sub/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    chown(bottom.join("data/sub/file"), Some(5), Some(6)).unwrap();
    fs::set_permissions(bottom.join("data/sub/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    symlink("/etc/passwd", bottom.join("data/link")).unwrap();
    // An image whose group file is a link out of the root, and a named pipe: neither may be followed or waited for.
    symlink("/../../../../etc/group", top.join("etc/group")).unwrap();

    let engine = Engine::new(Config::default()).unwrap();
    let rootfs = engine.rootfs(&own, &[top.clone(), bottom], true).unwrap();
    let file = open_in_root(rootfs.root(), Path::new("/data/sub/file"), OpenFlags::O_RDONLY, 0).unwrap();
    assert_eq!(fs::File::from(file).metadata().unwrap().len(), 7);
    let accounts = Accounts::read(rootfs.root());
    assert!(matches!(&accounts, Err(Error::Accounts { file: "/etc/group", .. })), "a link to itself: {accounts:?}");

    let table = kernel::mount_table::read().unwrap();
    assert!(!table.iter().any(|mount| mount.mount_point.starts_with(dir.path())), "nothing in the host's table");
}

#[test]
#[ignore = "needs root: mounts overlay"]
fn the_root_directory_looks_as_in_the_image() {
    assert_root();
    let dir = tempfile::tempdir().unwrap();
    let (top, bottom, own) = (dir.path().join("top"), dir.path().join("bottom"), dir.path().join("own"));
    for path in [&top, &bottom, &own] {
        fs::create_dir(path).unwrap();
    }
    let opened = fs::File::open(&top).unwrap();
    for (name, value) in [(c"user.note", b"of the image".as_slice()), (c"trusted.overlay.opaque", b"y")] {
        kernel::xattr::set(opened.as_fd(), name, value).unwrap();
    }
    chown(&top, Some(7), Some(8)).unwrap();
    fs::set_permissions(&top, fs::Permissions::from_mode(0o3751)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    opened.set_times(fs::FileTimes::new().set_modified(old)).unwrap();

    let engine = Engine::new(Config::default()).unwrap();
    let layers = [top, bottom];
    let rootfs = engine.rootfs(&own, &layers, false).unwrap();
    let about = fs::File::from(rootfs.root().try_clone_to_owned().unwrap()).metadata().unwrap();
    assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (7, 8, 0o3751));
    assert_eq!(about.modified().unwrap(), old);
    let upper = fs::File::open(own.join("upper")).unwrap();
    assert_eq!(kernel::xattr::get(upper.as_fd(), c"user.note").unwrap().unwrap(), b"of the image");
    assert_eq!(kernel::xattr::get(upper.as_fd(), c"trusted.overlay.opaque").unwrap(), None, "of the layer's place");

    // What the container has made of it stays when it is mounted again.
    drop(rootfs);
    fs::set_permissions(own.join("upper"), fs::Permissions::from_mode(0o700)).unwrap();
    engine.rootfs(&own, &layers, false).unwrap();
    assert_eq!(fs::metadata(own.join("upper")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
#[ignore = "needs root: mounts overlay"]
fn a_pipe_where_an_account_file_should_be_is_not_waited_for() {
    assert_root();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("etc/passwd"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let root = fs::File::open(dir.path()).unwrap();
    assert!(matches!(Accounts::read(root.as_fd()), Err(Error::Accounts { file: "/etc/passwd", .. })));
    fs::remove_file(dir.path().join("etc/passwd")).unwrap();
    assert_eq!(Accounts::read(root.as_fd()).unwrap(), Accounts::default());
}
