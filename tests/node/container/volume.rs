//! Volumes that an image declares.

use std::fs;

use serde_json::json;
use testkit::{Layer, TempNode};

use super::mount::{bind, data};
use crate::{
    scene::{Scene, of_image},
    support::{self, PROBE},
};

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_volume_begins_with_the_images_content_and_belongs_to_one_container() {
    const IMAGE: &str = "localhost/coracle/volumes:1";
    let mut node = TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let layer = Layer::new()
        .directory("vol", 0o750)
        .file("vol/word", 0o640, b"from the image")
        .link("vol/link", "/etc/passwd")
        .directory("vol/below", 0o1777);
    let image = support::probe().layer(layer).set("Volumes", json!({ "/vol": {}, "/fresh/one": {} }));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;

    let config = of_image("one", IMAGE, &["sleep", "forever"]);
    let (one, two) = {
        let one = scene.start(&config).await;
        (one, scene.start(&of_image("two", IMAGE, &["sleep", "forever"])).await)
    };
    let tree = scene.look(&one, &["/probe", "tree", "/vol"]).await;
    assert_eq!(
        tree,
        "directory 040750 0:0 0 /vol\ndirectory 041777 0:0 0 /vol/below\nlink 120777 0:0 0 /vol/link -> /etc/passwd\n\
         file 100640 0:0 14 /vol/word\n"
    );
    let report = scene.report_in(&one).await;
    for volume in ["/vol", "/fresh/one"] {
        let is_mounted = report["mounts"].as_array().unwrap().iter().any(|mount| mount["at"] == volume);
        assert!(is_mounted, "{volume}: {}", report["mounts"]);
    }
    scene.look(&one, &["/probe", "write", "/vol/word", "changed"]).await;
    assert_eq!(scene.look(&two, &["/probe", "cat", "/vol/word"]).await, "from the image");
    assert!(scene.status(&one).await.mounts.is_empty(), "nobody asked for them");

    // A mount of the request takes the volume's place.
    let dir = data(&scene, "mine");
    fs::write(dir.join("mine"), "mine").unwrap();
    let mut config = of_image("three", IMAGE, &["tree", "/vol"]);
    config.mounts = vec![bind(&dir, "/vol/")];
    let tree = scene.outcome(&config).await.stdout;
    assert!(tree.contains("/vol/mine") && !tree.contains("/vol/word"), "{tree}");
    scene.finish().await;
}
