//! The index keeps what is needed and hands back what is not.

use std::collections::BTreeMap;

use super::*;
use crate::{pinned::Pins, record::LayerRecord, shelf::image};

fn digest(n: u8) -> Digest {
    Digest::from_sha256([n; 32])
}

fn made(id: u8, layers: &[u8], tags: &[&str]) -> Arc<Image> {
    let layer = |n: &u8| LayerRecord {
        blob: digest(100 + n),
        blob_bytes: 10,
        media_type: String::new(),
        diff_id: digest(*n),
        chain_id: digest(*n),
        size: LayerSize { bytes: 4096, inodes: 3 },
        has_blob: false,
    };
    let record = ImageRecord {
        id: digest(id),
        tags: tags.iter().map(|tag| (tag.parse::<ImageRef>().unwrap().to_string(), 1)).collect(),
        digests: Vec::new(),
        roots: vec![digest(id + 50)],
        manifest: digest(id + 50),
        documents: BTreeMap::from([(digest(id), 5), (digest(id + 50), 5)]),
        layers: layers.iter().map(layer).collect(),
        removed: false,
    };
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    Arc::new(image(&Pins::default(), record, serde_json::from_str(config).unwrap()).unwrap())
}

fn with_blobs(index: &mut Index, blobs: &[u8]) {
    for blob in blobs {
        index.found_blob(&digest(*blob), 10, Instant::now());
    }
}

#[test]
fn an_image_is_found_by_every_name_it_has() {
    let mut index = Index::default();
    index.put_image(made(0xa1, &[], &["busybox", "r.io/x:1"]));
    let id = digest(0xa1);
    for what in [
        id.as_str(),
        id.hex(),
        &id.hex()[..12],
        &id.as_str()[..20],
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        "r.io/x:1",
    ] {
        assert_eq!(index.find(what).unwrap().map(|image| image.id.clone()), Some(id.clone()), "{what}");
    }
    for what in ["", "sha256:", "a1a", "b1b1", "busybox:2", "%%%", "r.io/x", &"c".repeat(64)] {
        assert!(index.find(what).unwrap().is_none(), "{what}");
    }
}

#[test]
fn a_beginning_that_two_ids_share_is_ambiguous() {
    let mut index = Index::default();
    index.put_image(made(0xaa, &[], &[]));
    let other: Digest = format!("sha256:{}{}", "a".repeat(10), "b".repeat(54)).parse().unwrap();
    let mut second = ImageRecord { id: other.clone(), ..made(0xab, &[], &[]).record.clone() };
    second.roots.clear();
    let config = made(0xab, &[], &[]).config.clone();
    index.put_image(Arc::new(image(&Pins::default(), second, config).unwrap()));
    assert!(matches!(index.find("aaaaaa"), Err(Error::Ambiguous { .. })));
    assert_eq!(index.find("aaaaaaaaaab").unwrap().unwrap().id, other);
}

#[test]
fn layers_and_blobs_go_with_the_last_image_that_needs_them() {
    let mut index = Index::default();
    with_blobs(&mut index, &[1, 51, 2, 52, 110, 111, 112]);
    index.put_image(made(1, &[10, 11], &["a"]));
    index.put_image(made(2, &[10, 12], &["b"]));
    let (bytes, inodes) = index.usage();
    assert_eq!((bytes, inodes), (7 * 4096 + 3 * 4096, 7 + 9));
    let mut garbage = index.drop_image(&digest(1));
    garbage.sort();
    let wanted =
        [Garbage::Layer(digest(11)), Garbage::Blob(digest(1)), Garbage::Blob(digest(51)), Garbage::Blob(digest(111))];
    assert_eq!(garbage, wanted);
    index.drop_image(&digest(2));
    assert_eq!(index.usage(), (0, 0));
}

#[test]
fn a_claim_keeps_what_a_removal_would_take() {
    let mut index = Index::default();
    with_blobs(&mut index, &[1, 110]);
    index.put_image(made(1, &[10], &[]));
    assert!(index.claim_layer(&digest(10)).is_some());
    assert_eq!(index.claim_blob(&digest(110)), Some(true));
    assert_eq!(index.drop_image(&digest(1)), [Garbage::Blob(digest(1))]);
    let garbage = index.unclaim(&[digest(10)], &[digest(110)], Instant::now());
    assert_eq!(garbage, [Garbage::Layer(digest(10)), Garbage::Blob(digest(110))]);
}

#[test]
fn a_pull_that_was_cut_short_leaves_its_blobs_and_no_layer() {
    let mut index = Index::default();
    index.made_blob(&digest(110), 10, Stay::ForTheNextAttempt);
    index.made_layer(&digest(10), LayerSize { bytes: 1, inodes: 1 });
    assert_eq!(index.unclaim(&[digest(10)], &[digest(110)], Instant::now()), [Garbage::Layer(digest(10))]);
    assert_eq!(index.claim_blob(&digest(110)), Some(true));
}

#[test]
fn what_an_archive_brings_stays_only_if_it_was_here_before() {
    let mut index = Index::default();
    index.made_blob(&digest(110), 10, Stay::ForTheNextAttempt);
    assert_eq!(index.unclaim(&[], &[digest(110)], Instant::now()), []);
    for blob in [110, 111] {
        index.made_blob(&digest(blob), 10, Stay::WhileClaimed);
    }
    let garbage = index.unclaim(&[], &[digest(110), digest(111)], Instant::now());
    assert_eq!(garbage, [Garbage::Blob(digest(111))]);
}

#[test]
fn after_a_loss_nobody_is_given_what_no_image_vouches_for_until_it_is_made_again() {
    let mut index = Index::default();
    with_blobs(&mut index, &[1, 110]);
    index.put_image(made(1, &[10], &[]));
    let size = LayerSize { bytes: 1, inodes: 1 };
    index.made_blob(&digest(111), 10, Stay::ForTheNextAttempt);
    index.made_blob(&digest(112), 10, Stay::ForTheNextAttempt);
    index.made_layer(&digest(11), size);
    assert_eq!(index.unclaim(&[], &[digest(112)], Instant::now()), []);
    let before = index.usage();

    assert_eq!(index.doubt(), [Garbage::Blob(digest(112))]);
    assert!(index.claim_layer(&digest(10)).is_some() && index.claim_blob(&digest(110)).is_some());
    assert!(index.claim_layer(&digest(11)).is_none() && index.claim_blob(&digest(111)).is_none());
    assert!(!index.is_verified(&digest(111)));

    index.made_blob(&digest(111), 10, Stay::ForTheNextAttempt);
    index.made_layer(&digest(11), size);
    assert!(index.claim_layer(&digest(11)).is_some());
    assert_eq!(index.claim_blob(&digest(111)), Some(true));
    assert_eq!(before.1 - index.usage().1, 1, "the blob that went");
}

#[test]
fn a_new_record_of_the_same_image_takes_nothing_away() {
    let mut index = Index::default();
    with_blobs(&mut index, &[1, 51, 110]);
    index.put_image(made(1, &[10], &["a"]));
    let before = index.usage();
    assert_eq!(index.put_image(made(1, &[10], &["b"])), []);
    assert_eq!(index.usage(), before);
    assert!(index.by_name("docker.io/library/a:latest").is_none());
    assert!(index.by_name("docker.io/library/b:latest").is_some());
}

#[test]
fn a_removed_image_is_kept_for_its_users_and_for_nobody_else() {
    let mut index = Index::default();
    index.put_image(made(1, &[10], &["a"]));
    index.lease(&digest(1));
    let mut record = made(1, &[10], &[]).record.clone();
    record.removed = true;
    let config = made(1, &[], &[]).config.clone();
    index.put_image(Arc::new(image(&Pins::default(), record, config).unwrap()));
    assert!(index.find("a").unwrap().is_none() && index.find(digest(1).as_str()).unwrap().is_none());
    assert!(index.list().is_empty() && index.by_root(&digest(51)).is_none());
    assert!(index.with_removed(&digest(1)).is_some());
    assert!(index.left_over().is_empty());
    assert!(index.end_lease(&digest(1)));
    assert_eq!(index.left_over(), [digest(1)]);
}
