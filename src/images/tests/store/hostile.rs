//! Registries that mean harm, or are merely very slow: what they cannot make the node do.

use std::time::Duration;

use model::Class;
use serde_json::json;
use testkit::{Access, BuiltImage, Gate, TinyRegistry, Trouble, digest_of, eventually_async};
use tokio::runtime::Builder;

use crate::node::{Node, SOON, image};

/// Downloads that stand still: more than there are threads.
const SLOW: usize = 8;

#[test]
#[ignore = "needs root: unpacks layers"]
fn downloads_that_stand_still_take_no_thread_from_anybody() {
    // Two threads for all work that blocks, of this whole process.
    let runtime = Builder::new_multi_thread().worker_threads(2).max_blocking_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (node, slow, brisk) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
        let gate = Gate::default();
        slow.trouble("GET /v2/x/blobs/", Trouble::Stall(10, gate.clone()), usize::MAX);
        let mut pulls = Vec::new();
        for n in 0..SLOW {
            slow.push("x", &n.to_string(), &image(&format!("slow {n}")));
            let (images, reference) = (node.images.clone(), format!("{}/x:{n}", slow.host()));
            pulls.push(tokio::spawn(async move { images.pull(&reference, None).await }));
        }
        eventually_async(SOON, "all downloads stand still", || async {
            let asked = slow.asked_for("GET /v2/x/blobs/");
            if asked == SLOW { Ok(()) } else { Err(asked) }
        })
        .await;
        brisk.push("y", "1", &image("brisk"));
        let reference = format!("{}/y:1", brisk.host());
        tokio::time::timeout(SOON, node.pull(&reference)).await.expect("a thread is free").unwrap();
        node.images.remove(&reference).await.unwrap();
        gate.open();
        for pull in pulls {
            pull.await.unwrap().unwrap();
        }
        node.settles();
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_pull_that_is_given_up_while_its_download_stands_still_leaves_nothing() {
    let (node, slow) = (Node::new(), TinyRegistry::http(Access::Open));
    slow.push("x", "1", &image("slow"));
    let gate = Gate::default();
    slow.trouble("GET /v2/x/blobs/", Trouble::Stall(10, gate.clone()), usize::MAX);
    let reference = format!("{}/x:1", slow.host());
    assert!(tokio::time::timeout(Duration::from_millis(300), node.pull(&reference)).await.is_err());
    node.settles();
    gate.open();
    node.pull(&reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn addresses_in_a_manifest_are_never_asked_and_foreign_layers_are_refused_by_name() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    // What only this machine can reach.
    let inside = TinyRegistry::http(Access::Open);
    inside.put("/secret", "text/plain", b"the secret".to_vec());
    let built = image("one");
    registry.push("x", "plain", &built);
    let reference = format!("{}/x:1", registry.host());
    let with = |media_type: &str| {
        let mut manifest: serde_json::Value = serde_json::from_slice(&built.manifest).unwrap();
        manifest["layers"][1]["urls"] = json!([format!("{}/secret", inside.url())]);
        manifest["layers"][1]["mediaType"] = json!(media_type);
        registry.put_manifest("x", "1", BuiltImage::MEDIA_TYPE, manifest.to_string().into_bytes());
    };
    for foreign in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ] {
        with(foreign);
        let error = node.pull(&reference).await.unwrap_err();
        assert_eq!(error.class(), Class::Unsupported, "{error}");
        assert!(error.to_string().contains(foreign) && error.to_string().contains("foreign ("), "{error}");
    }
    with("application/vnd.oci.image.layer.v1.tar");
    node.pull(&reference).await.unwrap();
    assert_eq!(inside.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_a_server_says_to_which_a_registry_sends_us_on_is_not_told() {
    let (node, registry, inside) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let blob = digest_of(&built.layers[1]);
    registry.trouble(&blob, Trouble::Redirect(format!("{}/secret", inside.url())), usize::MAX);
    inside.trouble("/secret", Trouble::Status(403, "the secret".to_owned()), usize::MAX);
    let error = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert!(error.to_string().contains("403") && !error.to_string().contains("secret"), "{error}");
    assert!(inside.asked_for("/secret") > 0);
}
