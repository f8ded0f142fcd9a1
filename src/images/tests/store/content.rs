//! What comes from a registry: forms, compressions, platforms, and everything that may be wrong with it.

use std::io::Write;

use model::Class;
use serde_json::{Value, json};
use testkit::{Access, BuiltImage, Layer, TinyRegistry, Trouble, digest_of};

use crate::node::{Node, image};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn manifest(built: &BuiltImage) -> Value {
    serde_json::from_slice(&built.manifest).unwrap()
}

/// Pushes the image with its layers compressed, in Docker's terms.
fn push_compressed(registry: &TinyRegistry, repository: &str, built: &BuiltImage, compress: fn(&[u8]) -> Vec<u8>) {
    registry.push(repository, "plain", built);
    let mut manifest = manifest(built);
    manifest["mediaType"] = json!(DOCKER_MANIFEST);
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    for (n, layer) in built.layers.iter().enumerate() {
        let blob = compress(layer);
        let size = blob.len();
        let digest = registry.put_blob(repository, blob);
        manifest["layers"][n] = json!({ "mediaType": DOCKER_LAYER, "digest": digest, "size": size });
    }
    registry.put_manifest(repository, "1", DOCKER_MANIFEST, manifest.to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn gzip_in_members_zstd_and_plain_layers_unpack_to_the_same() {
    let members: fn(&[u8]) -> Vec<u8> = |layer| layer.chunks(700).flat_map(gzip).collect();
    let zstd: fn(&[u8]) -> Vec<u8> = |layer| zstd::encode_all(layer, 3).unwrap();
    for compress in [members, zstd, |layer| layer.to_vec()] {
        let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
        let built = image("same");
        push_compressed(&registry, "x", &built, compress);
        let id = node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
        assert_eq!(id.as_str(), built.id());
        let leased = node.images.lease(id.as_str()).unwrap();
        assert_eq!(std::fs::read_to_string(leased.layers[0].join("etc/text")).unwrap(), "same");
        assert_eq!(std::fs::read_to_string(leased.layers[1].join("etc/base")).unwrap(), "base");
        node.settles();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_index_leads_to_the_image_of_this_machine() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let (mine, other) = (image("mine"), image("other"));
    for built in [&mine, &other] {
        registry.push("x", "scratch", built);
    }
    let ours = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entry = |built: &BuiltImage, architecture: &str| {
        json!({ "mediaType": BuiltImage::MEDIA_TYPE, "digest": built.digest(), "size": built.manifest.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = |entries: Value| {
        json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }).to_string().into_bytes()
    };
    let both = index(json!([entry(&other, "s390x"), entry(&other, "unknown"), entry(&mine, ours)]));
    let digest = registry.put_manifest("x", "1", media_type, both);
    let id = node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    assert_eq!(id.as_str(), mine.id());
    assert_eq!(node.found(id.as_str()).digests, [format!("{}/x@{digest}", registry.host())], "the index's digest");
    registry.put_manifest("x", "2", media_type, index(json!([entry(&other, "s390x")])));
    let error = node.pull(&format!("{}/x:2", registry.host())).await.unwrap_err();
    assert!(error.to_string().contains("no match for platform") && error.class() == Class::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn what_is_no_image_is_refused_by_name() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "good", &built);
    let mut chart = manifest(&built);
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let mut strange_layer = manifest(&built);
    strange_layer["layers"][0]["mediaType"] = json!("application/x-strange");
    let mut fewer = manifest(&built);
    fewer["layers"].as_array_mut().unwrap().pop();
    let mut sha512 = manifest(&built);
    sha512["layers"][0]["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
    let mut escape = manifest(&built);
    escape["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
    let mut large = manifest(&built);
    large["config"]["size"] = json!(1_u64 << 40);
    let schema_1 = json!({ "schemaVersion": 1, "name": "x", "fsLayers": [] });
    for (name, document) in [
        ("schema 1", schema_1),
        ("a chart", chart),
        ("a strange layer", strange_layer),
        ("fewer layers than diff ids", fewer),
        ("another digest algorithm", sha512),
        ("no digest", escape),
        ("a huge configuration", large),
        ("nothing", json!({})),
    ] {
        registry.put_manifest("x", "1", BuiltImage::MEDIA_TYPE, document.to_string().into_bytes());
        let error = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
        let class = error.class();
        assert!(matches!(class, Class::Invalid | Class::Unsupported), "{name}: {class:?}: {error}");
    }
    registry.put_manifest("x", "1", BuiltImage::MEDIA_TYPE, vec![b' '; 9 << 20]);
    assert!(node.pull(&format!("{}/x:1", registry.host())).await.is_err(), "larger than 8 MiB");
    assert!(node.images.list().is_empty());
    node.settles();
    assert_eq!(node.count("layers"), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_broken_connection_is_tried_again_and_a_wrong_blob_is_not_believed() {
    // The first blob is there before the second is asked for.
    let node = Node::with(|config| config.parallel_fetches = 1);
    let registry = TinyRegistry::http(Access::Open);
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let blob = digest_of(&built.layers[1]);
    registry.trouble(&blob, Trouble::Spoil, 1);
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains(&blob) && error.class() == Class::Invalid, "{error}");
    assert!(node.images.list().is_empty());
    node.settles();
    registry.trouble(&blob, Trouble::Cut(100), 1);
    registry.trouble(&blob, Trouble::Status(503, String::new()), 1);
    node.pull(&reference).await.unwrap();
    // What the first attempt had verified was not fetched again.
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{}", digest_of(&built.layers[0]))), 1);
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{blob}")), 4);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn no_image_can_poison_the_layer_of_another() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let honest = image("honest");
    registry.push("honest", "1", &honest);
    // The honest configuration with the attacker's layer: it claims the diff id of the honest one.
    let evil = Layer::new().file("etc/text", 0o644, b"evil").tar();
    let mut manifest = manifest(&honest);
    registry.push("evil", "x", &honest);
    let size = evil.len();
    manifest["layers"][1]["digest"] = json!(registry.put_blob("evil", evil));
    manifest["layers"][1]["size"] = json!(size);
    registry.put_manifest("evil", "1", BuiltImage::MEDIA_TYPE, manifest.to_string().into_bytes());
    let error = node.pull(&format!("{}/evil:1", registry.host())).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    node.settles();
    assert_eq!(node.count("layers"), 0);
    let id = node.pull(&format!("{}/honest:1", registry.host())).await.unwrap();
    let top = node.images.lease(id.as_str()).unwrap().layers.remove(0);
    assert_eq!(std::fs::read_to_string(top.join("etc/text")).unwrap(), "honest");
}
