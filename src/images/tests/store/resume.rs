//! Downloads that go on where they were cut off.

use std::fs;

use testkit::{Access, BuiltImage, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of};

use crate::node::Node;

/// One layer of some six million bytes.
fn large() -> BuiltImage {
    let layer = (0..64).fold(Layer::new(), |layer, n| layer.file(&format!("{n:02}"), 0o644, &vec![n; 100_000]));
    ImageBuilder::new().layer(layer).build()
}

/// From which byte on a blob was asked for, each time.
fn asked_from(registry: &TinyRegistry, built: &BuiltImage) -> Vec<usize> {
    let blob = format!("/blobs/{}", digest_of(&built.layers[0]));
    let asked = registry.asked().into_iter().filter(|line| line.starts_with("GET") && line.contains(&blob));
    asked.map(|line| line.split_once(" from ").map_or(0, |(_, from)| from.parse().unwrap())).collect()
}

fn is_whole(node: &Node, reference: &str) {
    let layer = node.images.lease(reference).unwrap().layers.remove(0);
    for n in 0..64 {
        assert!(fs::read(layer.join(format!("{n:02}"))).unwrap() == vec![n; 100_000], "{n}");
    }
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_download_goes_on_as_often_as_it_comes_nearer_to_its_end() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = large();
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    // One more than would be borne without progress.
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Cut(1_200_000), 5);
    node.pull(&reference).await.unwrap();
    assert_eq!(asked_from(&registry, &built), [0, 1_200_000, 2_400_000, 3_600_000, 4_800_000, 6_000_000]);
    is_whole(&node, &reference);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_download_without_progress_comes_to_its_end() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = large();
    registry.push("x", "1", &built);
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Cut(100), usize::MAX);
    node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert_eq!(asked_from(&registry, &built), [0, 100, 200, 300]);
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_connection_that_stands_still_is_given_up_and_another_goes_on() {
    // Long enough for a busy machine to answer.
    let node = Node::with(|config| config.idle_timeout_s = 5);
    let registry = TinyRegistry::http(Access::Open);
    let built = large();
    registry.push("x", "1", &built);
    let gate = Gate::default();
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Stall(2_000_000, gate.clone()), 1);
    let reference = format!("{}/x:1", registry.host());
    node.pull(&reference).await.unwrap();
    assert_eq!(asked_from(&registry, &built), [0, 2_000_000]);
    gate.open();
    is_whole(&node, &reference);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_host_that_knows_no_ranges_sends_all_again_and_one_that_refuses_them_is_asked_for_all() {
    for (trouble, asked) in
        [(Trouble::NoRange, &[0, 3_000_000][..]), (Trouble::Status(416, String::new()), &[0, 3_000_000, 0])]
    {
        let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
        let built = large();
        registry.push("x", "1", &built);
        let blob = digest_of(&built.layers[0]);
        registry.trouble(&blob, Trouble::Cut(3_000_000), 1);
        registry.trouble(&blob, trouble, 1);
        let reference = format!("{}/x:1", registry.host());
        node.pull(&reference).await.unwrap();
        assert_eq!(asked_from(&registry, &built), asked);
        is_whole(&node, &reference);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_host_is_not_blamed_for_what_another_sent_before_it() {
    let node = Node::new();
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = large();
    mirror.push("x", "1", &built);
    registry.push("x", "1", &built);
    let blob = digest_of(&built.layers[0]);
    let wrong = vec![7; built.layers[0].len()];
    mirror.put(&format!("/v2/x/blobs/{blob}"), "application/octet-stream", wrong);
    mirror.trouble(&blob, Trouble::Cut(3_000_000), 1);
    let text = format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url());
    node.hosts("r.example", &text);
    node.pull("r.example/x:1").await.unwrap();
    assert_eq!(asked_from(&registry, &built), [3_000_000, 0]);
    is_whole(&node, "r.example/x:1");
}

/// The idle time-out is a connection's, and starts anew with each byte: nothing is given up for taking long.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_download_may_take_as_long_as_it_likes_while_something_comes() {
    let node = Node::with(|config| config.idle_timeout_s = 1);
    let registry = TinyRegistry::http(Access::Open);
    let built = large();
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    // Ten pieces a second for six seconds: more than a connection may stand still, and than a document may take.
    let before = built.layers[0].len() - 60 * 1000;
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Drip(before, 1000), usize::MAX);
    node.pull(&reference).await.unwrap();
    assert_eq!(asked_from(&registry, &built), [0]);
    is_whole(&node, &reference);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_connection_that_brings_a_few_bytes_now_and_then_is_given_up_and_another_host_goes_on() {
    let node = Node::with(|config| config.idle_timeout_s = 1);
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = large();
    for host in [&mirror, &registry] {
        host.push("x", "1", &built);
    }
    mirror.trouble(&digest_of(&built.layers[0]), Trouble::Drip(2_000_000, 10), usize::MAX);
    node.hosts(
        "some.example",
        &format!("server = {:?}\n[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", registry.url(), mirror.url()),
    );
    node.pull("some.example/x:1").await.unwrap();
    assert_eq!(asked_from(&mirror, &built), [0]);
    let gone_on = asked_from(&registry, &built);
    assert!(matches!(gone_on[..], [from] if (2_000_000..2_010_000).contains(&from)), "{gone_on:?}");
    is_whole(&node, "some.example/x:1");
}
