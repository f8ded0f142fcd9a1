//! Directories and files of the host in a container.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use api::cri::v1::{ContainerConfig, Mount};

use crate::scene::{Scene, of_image, probe, security, sleeper};

pub(super) fn bind(host: &Path, container: &str) -> Mount {
    Mount { host_path: host.display().to_string(), container_path: container.into(), ..Default::default() }
}

/// A directory of the node's for a container's data.
pub(super) fn data(scene: &Scene, name: &str) -> PathBuf {
    let dir = scene.node.dir().join("data").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn with_mounts(mut config: ContainerConfig, mounts: Vec<Mount>) -> ContainerConfig {
    config.mounts = mounts;
    config
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn mounts_show_the_hosts_files_and_are_told_exactly_as_asked_for() {
    let mut scene = Scene::new().await;
    let (writable, protected, missing) =
        (data(&scene, "rw"), data(&scene, "ro"), scene.node.dir().join("data/a/b/new"));
    fs::write(writable.join("word"), "from the host").unwrap();
    fs::write(protected.join("word"), "protected").unwrap();
    let link = scene.node.dir().join("data/link");
    symlink(&writable, &link).unwrap();
    let config = with_mounts(
        sleeper("one"),
        vec![
            // The inner one first: the order of the request is not the order of the mounting.
            bind(&protected, "/outer/inner"),
            bind(&writable, "/outer"),
            Mount { readonly: true, ..bind(&protected, "/ro") },
            bind(&protected.join("word"), "/etc/app/settings"),
            bind(&missing, "/missing"),
            bind(&link, "/linked/"),
            bind(&writable.join("word"), "/etc/hosts"),
            bind(&writable, "/dev/shm"),
        ],
    );
    let id = scene.start(&config).await;
    let cat = async |scene: &mut Scene, path: &str| scene.look(&id, &["/probe", "cat", path]).await;
    assert_eq!(cat(&mut scene, "/outer/word").await, "from the host");
    assert_eq!(cat(&mut scene, "/outer/inner/word").await, "protected");
    assert_eq!(cat(&mut scene, "/linked/word").await, "from the host");
    assert_eq!(cat(&mut scene, "/etc/app/settings").await, "protected");
    assert_eq!(cat(&mut scene, "/etc/hosts").await, "from the host");
    assert_eq!(cat(&mut scene, "/dev/shm/word").await, "from the host");
    assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o7777, 0o755, "a missing source is made");

    scene.look(&id, &["/probe", "write", "/outer/answer", "from the container"]).await;
    assert_eq!(fs::read_to_string(writable.join("answer")).unwrap(), "from the container");
    let (code, why) = scene.attempt(&id, &["/probe", "write", "/ro/word", "changed"]).await;
    assert!(code == 1 && why.contains("Read-only file system"), "{why}");
    assert_eq!(fs::read_to_string(protected.join("word")).unwrap(), "protected");

    assert_eq!(scene.status(&id).await.mounts, config.mounts);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn read_only_is_the_top_mount_alone_and_what_lies_below_comes_along() {
    let mut scene = Scene::new().await;
    let dir = data(&scene, "tree");
    let below = dir.join("below");
    fs::create_dir(&below).unwrap();
    let none = None::<&str>;
    nix::mount::mount(Some("tmpfs"), &below, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    fs::write(below.join("word"), "in the mount below").unwrap();
    let config = with_mounts(sleeper("one"), vec![Mount { readonly: true, ..bind(&dir, "/mnt") }]);
    let id = scene.start(&config).await;
    assert_eq!(scene.look(&id, &["/probe", "cat", "/mnt/below/word"]).await, "in the mount below");
    assert_eq!(scene.attempt(&id, &["/probe", "touch", "/mnt/file"]).await.0, 1);
    scene.look(&id, &["/probe", "touch", "/mnt/below/file"]).await;
    scene.discard(&id).await;
    nix::mount::umount(&below).expect("nobody holds the host's mount any more");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_mount_point_is_found_inside_of_the_container_and_made_in_its_own_layer() {
    const IMAGE: &str = "localhost/coracle/links:1";
    let mut node = testkit::TempNode::prepare(Default::default());
    crate::support::import(node.dir(), crate::support::probe().build().archive(crate::support::PROBE)).await;
    let layer = testkit::Layer::new().link("away", "/../../../../tmp/crt-nodetests-away").link("var", "/tmp/real");
    crate::support::import(node.dir(), crate::support::probe().layer(layer).build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;
    let dir = data(&scene, "src");
    fs::write(dir.join("word"), "here").unwrap();
    let mut config = of_image("one", IMAGE, &["sleep", "forever"]);
    config.mounts = vec![bind(&dir, "/away/deep"), bind(&dir, "/var/run/deep"), bind(&dir, "relative/dots/../path")];
    let id = scene.start(&config).await;
    for path in ["/tmp/crt-nodetests-away/deep/word", "/tmp/real/run/deep/word", "/relative/path/word"] {
        assert_eq!(scene.look(&id, &["/probe", "cat", path]).await, "here", "{path}");
    }
    assert!(!Path::new("/tmp/crt-nodetests-away").exists(), "made on the host");
    assert_eq!(scene.status(&id).await.mounts, config.mounts);

    // Another container of the image has none of the directories that were made.
    let other = scene.start(&of_image("two", IMAGE, &["sleep", "forever"])).await;
    assert_eq!(scene.attempt(&other, &["/probe", "stat", "/relative"]).await.0, 1);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_can_do_nothing_to_a_mount_of_another() {
    let mut scene = Scene::new().await;
    let dir = data(&scene, "shared");
    let mut config = with_mounts(sleeper("one"), vec![bind(&dir, "/data")]);
    let capability = security(&mut config).capabilities.get_or_insert_default();
    capability.add_capabilities = vec!["SYS_ADMIN".into()];
    let one = scene.start(&config).await;
    let two = scene.start(&with_mounts(sleeper("two"), vec![bind(&dir, "/data")])).await;
    scene.look(&one, &["/probe", "mkdir", "/data/inner"]).await;
    scene.look(&one, &["/probe", "mount", "tmpfs", "/data/inner"]).await;
    scene.look(&one, &["/probe", "touch", "/data/inner/file"]).await;
    assert_eq!(scene.attempt(&two, &["/probe", "stat", "/data/inner/file"]).await.0, 1);
    let seen = scene.report(&probe("three", &["report"])).await;
    assert!(seen["mounts"].as_array().unwrap().iter().all(|mount| mount["at"] != "/data"), "{}", seen["mounts"]);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_container_may_have_more_mounts_than_the_kernel_passes_descriptors_at_once() {
    const MOUNTS: usize = 600;
    let mut scene = Scene::new().await;
    let mounts = (0..MOUNTS).map(|number| {
        let dir = data(&scene, &format!("many-{number}"));
        fs::write(dir.join("word"), number.to_string()).unwrap();
        bind(&dir, &format!("/many/{number}"))
    });
    let config = with_mounts(sleeper("one"), mounts.collect());
    let id = scene.start(&config).await;
    // Across the borders of what goes in one packet.
    for number in [0, 100, 228, 229, 252, 253, 254, 505, 506, MOUNTS - 1] {
        let word = scene.look(&id, &["/probe", "cat", &format!("/many/{number}/word")]).await;
        assert_eq!(word, number.to_string());
    }
    let mounts = scene.report_in(&id).await["mounts"].as_array().unwrap().clone();
    let many = mounts.iter().filter(|mount| mount["at"].as_str().unwrap().starts_with("/many/")).count();
    assert_eq!(many, MOUNTS);
    scene.finish().await;
}
