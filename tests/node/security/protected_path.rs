//! Paths that a container may not read or not write, and a root that it may not change.

use serde_json::json;

use crate::scene::{Scene, probe, security, sleeper};

/// What a kubelet sends for every container, and some that this kernel may not have.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_a_kubelet_protects_is_protected() {
    let mut scene = Scene::new().await;
    let mut config = probe("kubelet", &["report"]);
    security(&mut config).masked_paths = words(MASKED);
    security(&mut config).readonly_paths = words(READ_ONLY);
    let report = scene.report(&config).await;
    let guarded = &report["guarded"];
    for path in MASKED {
        let how = &guarded[path];
        let hidden = match how["kind"].as_str() {
            // Not in the report, or not in this kernel.
            None | Some("absent") => true,
            Some("directory") => how["entries"] == 0 && how["write"] == "EROFS",
            Some(_) => how["read"] != "content",
        };
        assert!(hidden, "{path}: {how}");
    }
    for path in READ_ONLY {
        let how = &guarded[path];
        assert!(how["kind"] == "absent" || how["write"] != "ok", "{path}: {how}");
    }
    let settings = report["mounts"].as_array().unwrap().iter().find(|mount| mount["at"] == "/proc/sys").unwrap();
    assert!(settings["options"].as_array().unwrap().contains(&json!("ro")), "{settings}");

    // Nobody asked: the lists are taken as they are, and empty ones are empty.
    let bare = scene.report(&probe("bare", &["report"])).await;
    assert_eq!(bare["guarded"]["/proc/keys"]["read"], "content");
    let options = |at: &str| {
        let mounts = bare["mounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["at"] == at).map(|mount| mount["options"].clone()).unwrap_or_default()
    };
    assert!(options("/sys").as_array().unwrap().contains(&json!("ro")), "/sys is read-only always");
    for at in ["/proc", "/sys", "/dev/pts", "/dev/mqueue", "/dev/shm"] {
        assert!(options(at).as_array().unwrap().contains(&json!("nosuid")), "{at}: {}", options(at));
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn files_and_directories_of_the_image_can_be_masked_and_protected() {
    let mut scene = Scene::new().await;
    let mut config = sleeper("one");
    security(&mut config).masked_paths = words(&["/etc/passwd", "/home", "/no/such/path"]);
    security(&mut config).readonly_paths = words(&["/tmp", "/etc/group", "/no/such/path"]);
    let id = scene.start(&config).await;
    assert_eq!(scene.look(&id, &["/probe", "cat", "/etc/passwd"]).await, "");
    assert_eq!(scene.look(&id, &["/probe", "tree", "/home"]).await.lines().count(), 1);
    for (path, allowed) in [("/tmp/file", false), ("/etc/group", false), ("/home/file", false), ("/etc/other", true)] {
        let (code, why) = scene.attempt(&id, &["/probe", "touch", path]).await;
        assert_eq!(code == 0, allowed, "{path}: {why}");
        assert!(allowed || why.contains("Read-only file system"), "{path}: {why}");
    }
    assert!(scene.look(&id, &["/probe", "cat", "/etc/group"]).await.starts_with("root:"));
    // What hides a file is one device for all containers of the node: none of them may change it.
    let (code, why) = scene.attempt(&id, &["/probe", "chmod", "0600", "/etc/passwd"]).await;
    assert!(code == 1 && why.contains("Read-only file system"), "{why}");

    // A program that is masked cannot be run.
    let mut config = probe("masked-program", &["exit", "0"]);
    security(&mut config).masked_paths = words(&["/probe"]);
    let refused = scene.node.client().await.start(&scene.pod, &scene.config, &config).await.unwrap_err();
    assert!(refused.message().to_lowercase().contains("permission denied"), "{}", refused.message());
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_protected_directory_keeps_the_mounts_below_it_and_they_their_own_setting() {
    let mut scene = Scene::new().await;
    let dir = scene.node.dir().join("data");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("word"), "of the volume").unwrap();
    let mut config = sleeper("one");
    security(&mut config).readonly_paths = words(&["/etc"]);
    config.mounts = vec![api::cri::v1::Mount {
        host_path: dir.display().to_string(),
        container_path: "/etc/app".into(),
        ..Default::default()
    }];
    let id = scene.start(&config).await;
    assert_eq!(scene.look(&id, &["/probe", "cat", "/etc/app/word"]).await, "of the volume");
    assert_eq!(scene.look(&id, &["/probe", "cat", "/etc/hostname"]).await, "scene\n");
    for (path, allowed) in [("/etc/new", false), ("/etc/passwd", false), ("/etc/app/new", true), ("/etc/hosts", true)] {
        let (code, why) = scene.attempt(&id, &["/probe", "touch", path]).await;
        assert_eq!(code == 0, allowed, "{path}: {why}");
        assert!(allowed || why.contains("Read-only file system"), "{path}: {why}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn numbers_of_proc_may_be_covered_and_nothing_else_of_it() {
    let mut scene = Scene::new().await;
    let file = scene.node.dir().join("shown");
    std::fs::write(&file, "of the volume").unwrap();
    let over = |name: &str, paths: &[&str]| {
        let mut config = sleeper(name);
        security(&mut config).readonly_paths = words(READ_ONLY);
        config.mounts = paths
            .iter()
            .map(|path| api::cri::v1::Mount {
                host_path: file.display().to_string(),
                container_path: (*path).into(),
                ..Default::default()
            })
            .collect();
        config
    };
    let covered = ["/proc/meminfo", "/proc/uptime", "/proc/sys/kernel/ns_last_pid"];
    let id = scene.start(&over("numbers", &covered)).await;
    for path in covered {
        assert_eq!(scene.look(&id, &["/probe", "cat", path]).await, "of the volume", "{path}");
    }
    for path in ["/proc/net/dev", "/proc/sys/kernel/hostname", "/proc/self/attr/exec", "/proc/1/environ", "/proc/x"] {
        let refused = scene.try_create(&over("refused", &[path])).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{path}: {refused}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_read_only_root_has_writable_islands_only_where_they_were_asked_for() {
    let mut scene = Scene::new().await;
    let mut config = sleeper("one");
    security(&mut config).readonly_rootfs = true;
    let dir = scene.node.dir().join("data");
    config.mounts = vec![api::cri::v1::Mount {
        host_path: dir.display().to_string(),
        container_path: "/data".into(),
        ..Default::default()
    }];
    let id = scene.start(&config).await;
    assert_eq!(scene.report_in(&id).await["root"]["write"], "EROFS");
    for (path, allowed) in [
        ("/tmp/file", false),
        ("/etc/hosts", false),
        ("/etc/resolv.conf", false),
        ("/etc/hostname", false),
        ("/data/file", true),
        ("/dev/shm/file", true),
    ] {
        let (code, why) = scene.attempt(&id, &["/probe", "touch", path]).await;
        assert_eq!(code == 0, allowed, "{path}: {why}");
    }
    let report = scene.report(&probe("two", &["report"])).await;
    assert_eq!(report["root"]["write"], "ok");
    scene.finish().await;
}
