//! Privileged containers: everything but the host's files.

use std::{
    fs::{self, DirEntry},
    os::unix::fs::FileTypeExt,
};

use api::cri::v1::{SecurityProfile, security_profile::ProfileType};
use serde_json::json;

use super::capability::{all, set};
use crate::scene::{Scene, pod_security, probe, security, sleeper};

/// Device nodes at the top of the host's `/dev`. The console is the container's own, where it has one.
fn devices_of_the_host() -> Vec<String> {
    let is_device = |entry: &DirEntry| {
        let kind = entry.file_type().unwrap();
        (kind.is_char_device() || kind.is_block_device()) && entry.file_name() != "console"
    };
    let entries = fs::read_dir("/dev").unwrap().flatten();
    entries.filter(is_device).map(|entry| entry.path().display().to_string()).collect()
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_privileged_container_is_held_by_nothing_but_its_root() {
    let mut scene = Scene::with(|pod| pod_security(pod).privileged = true).await;
    let mut config = probe("privileged", &["report"]);
    let context = security(&mut config);
    context.privileged = true;
    // None of these may have an effect on it.
    context.seccomp = Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), ..Default::default() });
    context.masked_paths = vec!["/proc/keys".into(), "/sys/firmware".into()];
    context.readonly_paths = vec!["/proc/sys".into()];
    // Looked for beforehand: the report opens every device, and opening a virtual terminal makes the host more of them.
    let before = devices_of_the_host();
    let report = scene.report(&config).await;
    for kind in ["bounding", "permitted", "effective"] {
        assert_eq!(set(&report, kind), all(), "{kind}");
    }
    assert_eq!((&report["seccomp"], &report["no_new_privs"]), (&json!(0), &json!(false)));
    assert_eq!(report["guarded"]["/proc/keys"]["read"], "content");
    let mounts = report["mounts"].as_array().unwrap();
    let options = |at: &str| mounts.iter().find(|mount| mount["at"] == at).map(|mount| mount["options"].clone());
    assert!(options("/sys").unwrap().as_array().unwrap().contains(&json!("rw")), "{:?}", options("/sys"));
    assert!(options("/proc/sys").is_none());

    // The host's devices, all of them, and any other that it makes.
    let kmsg = &report["devices"]["/dev/kmsg"];
    assert_eq!((&kmsg["major"], &kmsg["open"]["write"]), (&json!(1), &json!("ok")), "{kmsg}");
    for device in before {
        assert!(report["devices"][&device].is_object(), "{device} is missing");
    }
    let root = report["mounts"].as_array().unwrap().iter().find(|mount| mount["at"] == "/").unwrap();
    assert_eq!(root["type"], "overlay");

    let mut config = sleeper("maker");
    security(&mut config).privileged = true;
    let id = scene.start(&config).await;
    scene.look(&id, &["/probe", "mknod", "/tmp/kmsg", "c", "1", "11"]).await;
    assert_eq!(scene.look(&id, &["/probe", "open", "/tmp/kmsg"]).await.matches("ok").count(), 2);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn an_ordinary_container_of_a_privileged_pod_is_an_ordinary_one() {
    let mut scene = Scene::with(|pod| pod_security(pod).privileged = true).await;
    let mut config = probe("ordinary", &["report"]);
    security(&mut config).seccomp = Some(SecurityProfile::default());
    let report = scene.report(&config).await;
    assert_ne!(set(&report, "bounding"), all());
    assert_eq!(report["seccomp"], 2);
    assert!(report["devices"]["/dev/kmsg"].is_null());
    scene.finish().await;
}
