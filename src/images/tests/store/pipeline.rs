//! Layers that are unpacked while their blobs come, and beside those below them.

use std::{fs, io::Write, path::PathBuf};

use images::Error;
use model::Class;
use testkit::{Access, BuiltImage, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of, eventually_async};

use crate::node::{Node, SOON};

/// Many files: more than goes through the pipeline at a time.
fn large() -> Layer {
    (0..64).fold(Layer::new().directory("big", 0o755), |layer, n| {
        layer.file(&format!("big/{n:02}"), 0o644, &vec![n; 100_000])
    })
}

fn built(layers: impl IntoIterator<Item = Layer>) -> BuiltImage {
    layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

/// Files in the workplace that have this path in a layer.
fn in_the_making(node: &Node, path: &str) -> Vec<PathBuf> {
    let layers = fs::read_dir(node.root.path().join("store/ingest")).unwrap();
    layers.map(|layer| layer.unwrap().path().join(path)).filter(|path| path.exists()).collect()
}

async fn comes_to_be(node: &Node, path: &'static str) {
    eventually_async(SOON, path, || async { if in_the_making(node, path).is_empty() { Err(()) } else { Ok(()) } })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_layer_is_unpacked_while_its_blob_comes_and_has_no_name_before() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = built([large()]);
    registry.push("x", "1", &built);
    let gate = Gate::default();
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Stall(5_000_000, gate.clone()), 1);
    let reference = format!("{}/x:1", registry.host());
    let pull = tokio::spawn({
        let (images, reference) = (node.images.clone(), reference.clone());
        async move { images.pull(&reference, None).await }
    });
    comes_to_be(&node, "big/20").await;
    assert_eq!((node.count("layers"), node.images.list().len()), (0, 0));
    gate.open();
    pull.await.unwrap().unwrap();
    let top = node.images.lease(&reference).unwrap().layers.remove(0);
    for n in 0..64 {
        assert!(fs::read(top.join(format!("big/{n:02}"))).unwrap() == vec![n; 100_000], "{n}");
    }
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn layers_are_unpacked_beside_those_below_and_wait_for_what_they_must_know_of_them() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let base = Layer::new()
        .directory("usr", 0o755)
        .directory("usr/lib", 0o711)
        .file("usr/lib/old", 0o644, b"old")
        .link("lib", "usr/lib");
    // Knows all that it needs by itself, until its last entries.
    let top = Layer::new()
        .directory("own", 0o700)
        .file("own/file", 0o600, b"own")
        .file("lib/new", 0o644, b"new")
        .file("usr/lib/.wh.old", 0o644, b"")
        .file("usr/lib/.wh.never", 0o644, b"");
    let built = built([base, top]);
    registry.push("x", "1", &built);
    let gate = Gate::default();
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Hold(gate.clone()), 1);
    let reference = format!("{}/x:1", registry.host());
    let pull = tokio::spawn({
        let (images, reference) = (node.images.clone(), reference.clone());
        async move { images.pull(&reference, None).await }
    });
    comes_to_be(&node, "own/file").await;
    assert!(in_the_making(&node, "lib").is_empty(), "what it leads to is not known yet");
    gate.open();
    pull.await.unwrap().unwrap();
    let top = node.images.lease(&reference).unwrap().layers.remove(0);
    assert_eq!(fs::read_to_string(top.join("usr/lib/new")).unwrap(), "new");
    assert!(top.join("usr/lib/old").symlink_metadata().is_ok(), "it hides what is below");
    assert!(top.join("usr/lib/never").symlink_metadata().is_err(), "it hides nothing");
    assert!(top.join("lib").symlink_metadata().is_err());
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_was_made_of_wrong_bytes_is_made_again_of_the_right_ones() {
    let node = Node::new();
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = built([large()]);
    for host in [&mirror, &registry] {
        host.push("x", "1", &built);
    }
    // What comes from here can be unpacked all the same: the last byte of an archive says nothing.
    mirror.trouble(&digest_of(&built.layers[0]), Trouble::Spoil, 1);
    node.hosts(
        "some.example",
        &format!("server = {:?}\n[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", registry.url(), mirror.url()),
    );
    node.pull("some.example/x:1").await.unwrap();
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{}", digest_of(&built.layers[0]))), 1);
    let top = node.images.lease("some.example/x:1").unwrap().layers.remove(0);
    assert!(fs::read(top.join("big/63")).unwrap() == vec![63; 100_000]);
    node.settles();
    assert_eq!(node.count("layers"), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn the_same_blob_may_be_several_layers_of_an_image_and_of_many() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let again = || Layer::new().file("etc/again", 0o644, b"again").file(".wh.other", 0o644, b"");
    let other = |n: u8| Layer::new().file("other", 0o644, &[n; 10]);
    // More than there are places for those that wait for others.
    let references: Vec<String> = (0..9).map(|n| format!("{}/x:{n}", registry.host())).collect();
    for (n, _) in references.iter().enumerate() {
        let layers = [again(), other(n as u8), again(), large(), again(), other(100), again()];
        registry.push("x", &n.to_string(), &built(layers));
    }
    let pulls = references.iter().map(|reference| {
        let (images, reference) = (node.images.clone(), reference.clone());
        tokio::spawn(async move { images.pull(&reference, None).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        pull.await.unwrap().unwrap();
    }
    // The lowest is the same for all, the others have different ones below.
    assert_eq!(node.count("layers"), 1 + 9 * 6);
    assert_eq!(registry.asked_for(&digest_of(&again().tar())), 1);
    for reference in &references {
        let layers = node.images.lease(reference).unwrap().layers;
        let hides = |layer: usize| layers[layer].join("other").symlink_metadata().is_ok();
        assert!(hides(0) && hides(4) && !hides(6), "{layers:?}");
    }
    node.settles();
}

/// As the highest levels of zstd write, and whoever asks for long distances.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn layers_that_take_much_memory_to_inflate_come_to_be_too() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let mut image = ImageBuilder::new();
    for n in 0..4 {
        let tar = Layer::new().file(&format!("{n}"), 0o644, &[n; 1000]).tar();
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24 + u32::from(n)).unwrap();
        encoder.write_all(&tar).unwrap();
        image = image.layer_packed(&tar, encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    registry.push("x", "1", &image.build());
    let reference = format!("{}/x:1", registry.host());
    node.pull(&reference).await.unwrap();
    let layers = node.images.lease(&reference).unwrap().layers;
    for (n, layer) in layers.iter().rev().enumerate() {
        assert!(fs::read(layer.join(n.to_string())).unwrap() == vec![n as u8; 1000], "{n}");
    }
    node.settles();
}

/// Inflates to four times what a layer may have, at its very beginning; then so many bytes come that say nothing.
fn bomb(rest: usize) -> Vec<u8> {
    let tar = Layer::new().file("bomb", 0o644, &vec![0; 4 * LAYER]).tar();
    let skipped = u32::try_from(rest).unwrap().to_le_bytes();
    [zstd::encode_all(&tar[..], 1).unwrap(), vec![0x50, 0x2a, 0x4d, 0x18], skipped.to_vec(), vec![7; rest]].concat()
}

const LAYER: usize = 8 << 20;
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_bomb_is_refused_as_soon_as_it_is_seen_by_every_host_that_has_it() {
    let node = Node::with(|config| config.limits.layer_bytes = LAYER as u64);
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let tar = Layer::new().file("bomb", 0o644, &vec![0; 4 * LAYER]).tar();
    let built = ImageBuilder::new().layer_packed(&tar, bomb(LAYER / 2), ZSTD).build();
    let blob = digest_of(&built.layers[0]);
    // Nothing comes after the bomb, and nobody waits for it.
    let gate = Gate::default();
    for host in [&mirror, &registry] {
        host.push("x", "1", &built);
        host.trouble(&blob, Trouble::Stall(LAYER / 4, gate.clone()), usize::MAX);
    }
    node.hosts("some.example", &format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url()));
    let error = node.pull("some.example/x:1").await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    assert!(matches!(&error, Error::Joined(_) | Error::Layer { .. }), "{error:?}");
    assert_eq!([mirror.asked_for(&blob), registry.asked_for(&blob)], [1, 1]);
    node.settles();
    assert!(node.images.list().is_empty());
    // What another says is heard as well: it may have the right one.
    registry.calm();
    registry.trouble(&blob, Trouble::Answer(403, Vec::new(), "not you".to_owned()), usize::MAX);
    let error = node.pull("some.example/x:1").await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.class(), Class::Denied, "{text}");
    let told = [&*mirror.host(), "unpacks to more than is allowed", &*registry.host(), "403", "not you"];
    assert!(told.iter().all(|part| text.contains(part)), "{text}");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn entries_that_are_too_many_are_refused_before_the_rest_of_the_layer_comes() {
    let node = Node::with(|config| config.limits.layer_entries = 100);
    let registry = TinyRegistry::http(Access::Open);
    let built = built([(0..4000).fold(Layer::new(), |layer, n| layer.file(&n.to_string(), 0o644, b"little"))]);
    registry.push("x", "1", &built);
    let gate = Gate::default();
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Stall(built.layers[0].len() / 2, gate.clone()), usize::MAX);
    let error = tokio::time::timeout(SOON, node.pull(&format!("{}/x:1", registry.host()))).await.unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    node.settles();
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_host_that_sends_a_bomb_in_the_place_of_a_layer_keeps_nobody_from_getting_it_elsewhere() {
    let node = Node::with(|config| config.limits.layer_bytes = LAYER as u64);
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = built([large()]);
    let blob = digest_of(&built.layers[0]);
    for host in [&mirror, &registry] {
        host.push("x", "1", &built);
    }
    let liar = bomb(built.layers[0].len() - bomb(0).len());
    assert_eq!(liar.len(), built.layers[0].len());
    mirror.put(&format!("/v2/x/blobs/{blob}"), "application/octet-stream", liar);
    let gate = Gate::default();
    mirror.trouble(&blob, Trouble::Stall(LAYER / 4, gate.clone()), usize::MAX);
    node.hosts("some.example", &format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url()));
    node.pull("some.example/x:1").await.unwrap();
    assert_eq!([mirror.asked_for(&blob), registry.asked_for(&blob)], [1, 1]);
    let top = node.images.lease("some.example/x:1").unwrap().layers.remove(0);
    assert!(fs::read(top.join("big/63")).unwrap() == vec![63; 100_000]);
    assert!(!top.join("bomb").exists());
    node.settles();
    gate.open();
}
