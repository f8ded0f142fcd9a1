//! A disk that loses writes and says so once.

use std::io::Cursor;

use images::Step;
use testkit::{Access, BuiltImage, TinyRegistry, digest_of};

use crate::node::{Node, docker_archive, image};

/// How often each blob of an image was asked for.
fn asked(registry: &TinyRegistry, built: &BuiltImage) -> Vec<usize> {
    built.layers.iter().map(|layer| registry.asked_for(&format!("GET /v2/x/blobs/{}", digest_of(layer)))).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_may_have_been_lost_is_fetched_and_made_anew_and_what_an_image_has_is_not() {
    let node = Node::with_faults(&format!("{}=fail@2", Step::Sync));
    let (registry, kept, lost) = (TinyRegistry::http(Access::Open), image("kept"), image("lost"));
    registry.push("x", "kept", &kept);
    registry.push("x", "lost", &lost);
    let [kept_name, lost_name] = ["kept", "lost"].map(|tag| format!("{}/x:{tag}", registry.host()));
    node.pull(&kept_name).await.unwrap();
    // The lower layer is the same in both.
    assert_eq!((asked(&registry, &kept), asked(&registry, &lost)), (vec![1, 1], vec![1, 0]));

    let refused = node.pull(&lost_name).await.unwrap_err();
    assert!(refused.to_string().contains(Step::Sync.name()), "{refused}");
    assert!(!node.is_here(&lost_name));
    node.settles();
    assert_eq!((node.count("blobs"), node.count("layers")), (4, 2), "of what nobody vouches for nothing stays");

    node.pull(&lost_name).await.unwrap();
    assert_eq!((asked(&registry, &kept), asked(&registry, &lost)), (vec![1, 1], vec![1, 2]));
    assert!(node.restart().is_here(&lost_name));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_image_in_the_making_when_writes_are_lost_is_not_listed() {
    let node = Node::with_faults(&format!("{}=fail@1", Step::Sync));
    // Everything of the archive was read, and nothing of it synced, when another image's writes are lost.
    let mut import = node.images.read_archive(Cursor::new(docker_archive(&image("a"), &["a:1"]))).await.unwrap();
    node.images.import(Cursor::new(docker_archive(&image("b"), &["b:1"]))).await.unwrap_err();
    assert!(import.next(&images::Watch::default()).await.is_err());
    drop(import);
    assert!(node.images.list().is_empty());
    node.settles();
    assert_eq!((node.count("blobs"), node.count("layers")), (0, 0));
    for name in ["a", "b"] {
        let archive = docker_archive(&image(name), &[&format!("{name}:1")]);
        node.images.import(Cursor::new(archive)).await.unwrap();
    }
    assert_eq!(node.images.list().len(), 2);
}
