//! Devices that a container asks for.

use api::cri::v1::Device;
use serde_json::{Value, json};

use crate::scene::{Scene, probe, sleeper};

fn device(host: &str, container: &str, permissions: &str) -> Device {
    Device { host_path: host.into(), container_path: container.into(), permissions: permissions.into() }
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_device_is_there_under_its_name_and_with_its_permissions_only() {
    let mut scene = Scene::new().await;
    let mut config = sleeper("one");
    config.devices = vec![device("/dev/kmsg", "/dev/journal", "w"), device("/dev/fuse", "", "")];
    let id = scene.start(&config).await;
    let devices = scene.report_in(&id).await["devices"].clone();
    assert_eq!(devices["/dev/journal"]["open"], json!({ "read": "EPERM", "write": "ok" }));
    assert_eq!((&devices["/dev/journal"]["major"], &devices["/dev/journal"]["minor"]), (&json!(1), &json!(11)));
    assert_eq!(devices["/dev/fuse"]["open"], json!({ "read": "ok", "write": "ok" }));
    assert_eq!(devices["/dev/kmsg"], Value::Null);

    // Its neighbour has nothing of that.
    let devices = scene.report(&probe("two", &["report"])).await["devices"].clone();
    assert_eq!((&devices["/dev/journal"], &devices["/dev/fuse"]), (&Value::Null, &Value::Null));

    let mut config = probe("absent", &["report"]);
    config.devices = vec![device("/dev/no-such-device", "/dev/x", "rwm")];
    let refused = scene.try_create(&config).await.unwrap_err();
    assert!(refused.message().contains("/dev/no-such-device"), "{}", refused.message());
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_directory_stands_for_every_device_below_it_and_a_link_for_what_it_names() {
    let mut scene = Scene::new().await;
    let dir = scene.node.dir().join("devices");
    std::fs::create_dir_all(dir.join("below")).unwrap();
    let kind = nix::sys::stat::SFlag::S_IFCHR;
    for (name, minor) in [("one", 11), ("below/two", 1)] {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
        nix::sys::stat::mknod(&dir.join(name), kind, mode, nix::sys::stat::makedev(1, minor)).unwrap();
    }
    std::fs::write(dir.join("notes.txt"), "no device").unwrap();
    std::os::unix::fs::symlink(dir.join("one"), scene.node.dir().join("alias")).unwrap();
    let mut config = probe("one", &["report"]);
    config.devices = vec![
        device(&dir.display().to_string(), "/dev/set", "rwm"),
        device(&scene.node.dir().join("alias").display().to_string(), "/dev/alias", "rwm"),
    ];
    let devices = scene.report(&config).await["devices"].clone();
    for (name, minor) in [("/dev/set/one", 11), ("/dev/set/below/two", 1), ("/dev/alias", 11)] {
        assert_eq!((&devices[name]["kind"], &devices[name]["minor"]), (&json!("char"), &json!(minor)), "{name}");
    }
    assert_eq!(devices["/dev/set/notes.txt"], Value::Null);
    scene.finish().await;
}
