//! What the store holds and for whom; and what is missing, extra or damaged in it, found and mended.

use std::{
    fs::{self, File, FileTimes},
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use images::{End, Finding, Object, Repair, Wrong};
use model::Class;
use testkit::{Access, ImageBuilder, Layer, TinyRegistry, digest_of, eventually_async};

use crate::node::{Node, SOON, image};

async fn checked(node: &Node, repair: Repair) -> Vec<Finding> {
    let mut check = node.images.check(repair).unwrap();
    let mut findings = Vec::new();
    while let Some(found) = check.next().await.unwrap() {
        findings.extend(found);
    }
    findings
}

fn store(node: &Node) -> PathBuf {
    node.root.path().join("store")
}

/// The directory of an image's topmost layer.
fn top(node: &Node, name: &str) -> PathBuf {
    node.images.lease(name).unwrap().layers[0].clone()
}

/// Finds this one thing and no other: told and left as it is, then mended, then well.
async fn is_found_and_mended(
    node: &Node,
    what: &str,
    object: impl Fn(&Object) -> bool,
    wrong: impl Fn(&Wrong) -> bool,
) {
    for _ in 0..2 {
        let told = checked(node, Repair::No).await;
        let [finding] = told.as_slice() else { panic!("{what}: {told:?}") };
        assert!(object(&finding.object) && wrong(&finding.wrong), "{what}: {finding:?}");
        assert!(matches!(finding.end, End::Mendable { .. }), "{what}: {finding:?}");
    }
    let mended = checked(node, Repair::Yes).await;
    let [finding] = mended.as_slice() else { panic!("{what}: {mended:?}") };
    assert!(matches!(finding.end, End::Mended { .. }), "{what}: {finding:?}");
    assert_eq!(checked(node, Repair::Yes).await, [], "{what}");
    node.settles();
}

fn is_missing(wrong: &Wrong) -> bool {
    *wrong == Wrong::Missing
}

fn is_extra(wrong: &Wrong) -> bool {
    *wrong == Wrong::Extra
}

fn is_damaged(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Damaged { .. })
}

/// Turns one bit over and leaves the times as they were: what a disk does.
fn rot(path: &Path) {
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut content = fs::read(path).unwrap();
    content[0] ^= 1;
    fs::write(path, content).unwrap();
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn everything_that_is_damaged_missing_or_extra_is_told_with_its_owners_and_mended() {
    let node = Node::new();
    for text in ["one", "two"] {
        node.images.import(Cursor::new(image(text).archive(&format!("localhost/{text}:1")))).await.unwrap();
    }
    let (layers, blobs) = (store(&node).join("layers"), store(&node).join("blobs"));
    let layer = top(&node, "localhost/one:1");
    let base = node.images.lease("localhost/one:1").unwrap().layers[1].clone();
    let is_layer = |object: &Object| matches!(object, Object::Layer(_));
    let is_blob = |object: &Object| matches!(object, Object::Blob(_));
    let is_record = |object: &Object| matches!(object, Object::Record(_));
    let is_file = |object: &Object| matches!(object, Object::File(_));

    let before = node.images.usage();
    rot(&layer.join("etc/text"));
    let told = checked(&node, Repair::No).await;
    assert_eq!(told[0].owners, ["localhost/one:1"]);
    assert_eq!(told[0].wrong, Wrong::Damaged { why: "etc/text has another content".to_owned() });
    is_found_and_mended(&node, "a rotten file", is_layer, is_damaged).await;
    assert_eq!(fs::read_to_string(layer.join("etc/text")).unwrap(), "one");
    rot(&base.join("etc/base"));
    assert_eq!(checked(&node, Repair::No).await[0].owners, ["localhost/one:1", "localhost/two:1"]);
    is_found_and_mended(&node, "a rotten base", is_layer, is_damaged).await;
    // What lies on top has this mode from below: it is well, and found so.
    fs::set_permissions(base.join("etc"), PermissionsExt::from_mode(0o700)).unwrap();
    is_found_and_mended(&node, "another mode below", is_layer, is_damaged).await;
    fs::remove_file(layer.join("etc/text")).unwrap();
    is_found_and_mended(&node, "a lost file", is_layer, is_damaged).await;
    fs::write(layer.join("etc/more"), "").unwrap();
    is_found_and_mended(&node, "a strange file", is_layer, is_damaged).await;
    fs::set_permissions(layer.join("etc/text"), PermissionsExt::from_mode(0o4755)).unwrap();
    is_found_and_mended(&node, "another mode", is_layer, is_damaged).await;
    fs::remove_dir_all(&layer).unwrap();
    is_found_and_mended(&node, "a lost layer", is_layer, is_missing).await;
    assert_eq!(fs::read_to_string(layer.join("etc/text")).unwrap(), "one");

    fs::create_dir(layers.join("strange")).unwrap();
    is_found_and_mended(&node, "a strange layer", is_file, is_extra).await;
    fs::write(blobs.join("strange"), "").unwrap();
    is_found_and_mended(&node, "a strange blob", is_file, is_extra).await;
    let record = store(&node).join("records").join(&image("one").id()[7..]);
    fs::remove_file(&record).unwrap();
    is_found_and_mended(&node, "a lost record", is_record, is_missing).await;
    rot(&record);
    is_found_and_mended(&node, "a rotten record", is_record, is_damaged).await;
    assert_eq!(node.images.usage().bytes, before.bytes);

    let blob = |text: &str| blobs.join(&digest_of(&image(text).layers[1])[7..]);
    rot(&blob("one"));
    is_found_and_mended(&node, "a rotten blob", is_blob, is_damaged).await;
    fs::remove_file(blob("two")).unwrap();
    is_found_and_mended(&node, "a lost blob", is_blob, is_missing).await;
    let node = node.restart();
    node.images.recovered().await;
    assert_eq!(node.images.list().len(), 2);
    assert_eq!(checked(&node, Repair::No).await, []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_the_store_takes_is_known_right_after_a_start_and_nothing_is_walked_for_it() {
    const FILES: u64 = 2000;
    let node = Node::new();
    let files = (0..FILES).fold(Layer::new(), |layer, n| layer.file(&format!("f/{n}"), 0o644, b"x"));
    node.images.import(Cursor::new(ImageBuilder::new().layer(files).build().archive("localhost/x:1"))).await.unwrap();
    let before = node.images.usage();
    assert!(before.inodes > FILES && before.bytes > FILES * 4096, "{before:?}");
    // Whoever walked would not find them.
    fs::remove_dir_all(top(&node, "localhost/x:1").join("f")).unwrap();
    let node = node.restart();
    let after = node.images.usage();
    assert_eq!((after.bytes, after.inodes), (before.bytes, before.inodes));
    let held = node.images.holdings();
    assert_eq!(held.images.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_layers_blob_that_is_lost_while_the_daemon_is_down_is_told_and_one_that_never_was_here_is_not() {
    let (mut node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let (built, name) = (image("one"), format!("{}/x:1", registry.host()));
    registry.push("x", "1", &built);
    node.pull(&name).await.unwrap();
    // Made of the same layers, in other blobs that nobody fetches.
    let other = built.layers.iter().fold(ImageBuilder::new(), |image, layer| {
        let blob = zstd::encode_all(&layer[..], 1).unwrap();
        image.layer_packed(layer, blob, "application/vnd.oci.image.layer.v1.tar+zstd")
    });
    registry.push("x", "2", &other.layer(Layer::new().file("etc/own", 0o644, b"own")).build());
    node.pull(&format!("{}/x:2", registry.host())).await.unwrap();
    assert_eq!(checked(&node, Repair::No).await, []);

    let lost = digest_of(&built.layers[1]);
    fs::remove_file(store(&node).join("blobs").join(&lost[7..])).unwrap();
    node = node.restart();
    node.images.recovered().await;
    let is_it = |object: &Object| matches!(object, Object::Blob(digest) if digest.to_string() == lost);
    assert_eq!(checked(&node, Repair::No).await[0].owners, [name.as_str()]);
    is_found_and_mended(&node, "a blob that was lost meanwhile", is_it, is_missing).await;
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{lost}")), 1, "nothing was fetched again");
    // Forgotten for good; and there again with a new pull.
    node = node.restart();
    node.images.recovered().await;
    assert_eq!(checked(&node, Repair::No).await, []);
    // Brought again by other ways, and lost again, it is told again.
    node.images.import(Cursor::new(built.archive("localhost/again:1"))).await.unwrap();
    fs::remove_file(store(&node).join("blobs").join(&lost[7..])).unwrap();
    node = node.restart();
    node.images.recovered().await;
    is_found_and_mended(&node, "a blob that came again", is_it, is_missing).await;
    node.images.remove("localhost/again:1").await.unwrap();
    for tag in ["1", "2"] {
        node.images.remove(&format!("{}/x:{tag}", registry.host())).await.unwrap();
    }
    node.pull(&name).await.unwrap();
    assert!(store(&node).join("blobs").join(&lost[7..]).exists());
    assert_eq!(checked(&node, Repair::No).await, []);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_check_beside_another_is_refused_and_comes_next() {
    let node = Node::new();
    node.images.import(Cursor::new(image("one").archive("localhost/one:1"))).await.unwrap();
    rot(&top(&node, "localhost/one:1").join("etc/text"));
    let mut first = node.images.check(Repair::Yes).unwrap();
    let mut found = first.next().await.unwrap().unwrap();
    for repair in [Repair::Yes, Repair::No] {
        let refused = node.images.check(repair).unwrap_err();
        assert_eq!(refused.class(), Class::Precondition, "{refused}");
        assert!(refused.to_string().contains("another check of the store is under way"), "{refused}");
    }
    while let Some(more) = first.next().await.unwrap() {
        found.extend(more);
    }
    assert!(matches!(found.as_slice(), [Finding { end: End::Mended { .. }, .. }]), "{found:?}");
    drop(first);
    assert_eq!(checked(&node, Repair::Yes).await, []);
    // One that is dropped in the middle of a step holds the next up until the step is over.
    let mut dropped = node.images.check(Repair::No).unwrap();
    let _ = tokio::time::timeout(Duration::ZERO, dropped.next()).await;
    drop(dropped);
    eventually_async(SOON, "its turn is over", || async { node.images.check(Repair::No).map(drop) }).await;
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_has_no_source_here_stays_and_a_new_pull_brings_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap();
    let (layer, blobs) = (top(&node, &name), store(&node).join("blobs"));
    // The layer and what it could be made from; and a document, which has no other source either.
    fs::remove_dir_all(&layer).unwrap();
    rot(&blobs.join(&digest_of(&built.layers[1])[7..]));
    fs::remove_file(blobs.join(&built.digest()[7..])).unwrap();
    let found = checked(&node, Repair::Yes).await;
    let stays = |finding: &&Finding| matches!(&finding.end, End::Stays { why } if why.contains("pull it again"));
    assert_eq!((found.len(), found.iter().filter(stays).count()), (3, 2), "{found:?}");
    assert!(found.iter().all(|finding| finding.owners == [name.clone()]), "{found:?}");
    // As it says.
    node.images.remove(&name).await.unwrap();
    node.pull(&name).await.unwrap();
    assert_eq!(checked(&node, Repair::No).await, []);
    assert_eq!(fs::read_to_string(top(&node, &name).join("etc/text")).unwrap(), "one");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn nothing_is_replaced_beneath_a_container_and_what_is_used_is_said_to_be() {
    let node = Node::new();
    for text in ["one", "two"] {
        node.images.import(Cursor::new(image(text).archive(&format!("localhost/{text}:1")))).await.unwrap();
    }
    let leased = node.images.lease("localhost/one:1").unwrap();
    let held = node.images.holdings();
    let used: Vec<_> = held.images.iter().map(|held| (held.image.id.to_string(), held.containers)).collect();
    let mut expected = [(image("one").id(), 1), (image("two").id(), 0)];
    expected.sort();
    assert_eq!(used, expected);
    // The base is both's, the rest has one owner each; all that the container's image needs is in use.
    let mut owners: Vec<_> = held.layers.iter().map(|layer| (layer.owners.len(), layer.in_use)).collect();
    owners.sort_unstable();
    assert_eq!(owners, [(1, false), (1, true), (2, true)]);
    assert_eq!(held.blobs.iter().filter(|blob| blob.in_use).count(), 4);
    let usage = node.images.usage();
    let sum = |held: &[images::Held]| held.iter().fold((0, 0), |sum, one| (sum.0 + one.bytes, sum.1 + one.inodes));
    let (layers, blobs) = (sum(&held.layers), sum(&held.blobs));
    assert_eq!((layers.0 + blobs.0, layers.1 + blobs.1), (usage.bytes, usage.inodes));

    rot(&leased.layers[0].join("etc/text"));
    let found = checked(&node, Repair::Yes).await;
    let [finding] = found.as_slice() else { panic!("{found:?}") };
    assert!(
        matches!(&finding.end, End::Stays { why } if why.contains("containers use localhost/one:1")),
        "{finding:?}"
    );
    assert_ne!(fs::read_to_string(leased.layers[0].join("etc/text")).unwrap(), "one");
    // What is gone harms nobody when it comes back.
    fs::remove_dir_all(&leased.layers[0]).unwrap();
    let found = checked(&node, Repair::Yes).await;
    assert!(matches!(found.as_slice(), [Finding { end: End::Mended { .. }, .. }]), "{found:?}");
    assert_eq!(fs::read_to_string(leased.layers[0].join("etc/text")).unwrap(), "one");
    rot(&leased.layers[0].join("etc/text"));
    drop(leased);
    let found = checked(&node, Repair::Yes).await;
    assert!(matches!(found.as_slice(), [Finding { end: End::Mended { .. }, .. }]), "{found:?}");
}
