//! Many pulls at once: who waits for whom, and what those see who look on.

use images::{LayerProgress, Pulled, Stage, Watch};
use model::ImageRef;
use serde_json::Value;
use testkit::{
    Access, BuiltImage, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of, eventually, eventually_async,
};
use tokio::task::JoinHandle;

use crate::node::{Node, SOON, image};

/// Downloads that one registry may have at a time, but for small ones.
const DOWNLOADS: usize = 16;
/// One more than may wait for others while they are unpacked.
const UNPACKED: usize = 7;
/// A little more than a small blob has.
const LARGE: usize = 9 << 20;

fn of_one_file(content: &[u8]) -> BuiltImage {
    ImageBuilder::new().layer(Layer::new().file("file", 0o644, content)).build()
}

/// Its manifest says that its layer is huge.
fn said_to_be_huge(mut built: BuiltImage) -> BuiltImage {
    let mut manifest: Value = serde_json::from_slice(&built.manifest).unwrap();
    manifest["layers"][0]["size"] = (64_u64 << 30).into();
    built.manifest = manifest.to_string().into_bytes();
    built
}

fn pull(node: &Node, reference: String) -> JoinHandle<Result<model::Digest, images::Error>> {
    let images = node.images.clone();
    tokio::spawn(async move { images.pull(&reference, None).await })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn small_images_come_while_huge_ones_of_the_same_registry_hold_every_place_and_stand_still() {
    let (node, registry, gate) = (Node::new(), TinyRegistry::http(Access::Open), Gate::default());
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    let mut huge = Vec::new();
    for n in 0..DOWNLOADS {
        // Of some a part comes and is unpacked, of the others nothing.
        let (built, trouble) = if n < UNPACKED {
            (of_one_file(&vec![n as u8; LARGE]), Trouble::Stall(1_000_000, gate.clone()))
        } else {
            (said_to_be_huge(of_one_file(&[n as u8])), Trouble::Hold(gate.clone()))
        };
        registry.push("huge", &n.to_string(), &built);
        let blob = digest_of(&built.layers[0]);
        registry.trouble(&blob, trouble, usize::MAX);
        huge.push((blob, pull(&node, name(&format!("huge:{n}")))));
    }
    eventually_async(SOON, "every place for a huge download is taken", || async {
        let asked = huge.iter().filter(|(blob, _)| registry.asked_for(blob) == 1).count();
        if asked == DOWNLOADS { Ok(()) } else { Err(asked) }
    })
    .await;
    let one_more = of_one_file(&vec![100; LARGE]);
    registry.push("huge", "late", &one_more);
    let late = pull(&node, name("huge:late"));
    for n in 0..3 {
        registry.push("small", &n.to_string(), &image(&format!("small {n}")));
        let pulled = node.pull(&name(&format!("small:{n}"))).await;
        pulled.unwrap();
    }
    assert_eq!(registry.asked_for(&digest_of(&one_more.layers[0])), 0, "who is huge waits");
    for (_, pull) in huge {
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
    }
    gate.open();
    late.await.unwrap().unwrap();
    node.settles();
}

/// A pull that somebody looks on.
fn watched(node: &Node, reference: &str) -> (Watch, JoinHandle<Pulled>) {
    let (watch, images, reference) = (Watch::default(), node.images.clone(), reference.parse::<ImageRef>().unwrap());
    let looks = watch.clone();
    (watch, tokio::spawn(async move { images.pull_watched(&reference, None, &looks).await.unwrap() }))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn whoever_looks_on_sees_each_layer_its_bytes_and_how_many_there_will_be() {
    let (node, registry, gate) = (Node::new(), TinyRegistry::http(Access::Open), Gate::default());
    let here = || Layer::new().file("here", 0o644, b"here");
    registry.push("x", "base", &ImageBuilder::new().layer(here()).build());
    let built = ImageBuilder::new().layer(here()).layer(Layer::new().file("large", 0o644, &vec![1; LARGE])).build();
    registry.push("x", "1", &built);
    node.pull(&format!("{}/x:base", registry.host())).await.unwrap();

    registry.trouble(&digest_of(&built.layers[1]), Trouble::Stall(2 << 20, gate.clone()), 1);
    let reference = format!("{}/x:1", registry.host());
    let (first, pull) = watched(&node, &reference);
    let sees = |watch: Watch| async move {
        eventually_async(SOON, "two MiB are here, but for what was not written yet", || async {
            let layers = watch.layers();
            match &layers[..] {
                [_, large] if large.fetched > 1 << 20 => Ok(layers),
                _ => Err(layers),
            }
        })
        .await
    };
    let seen = sees(first.clone()).await;
    let bytes = |n: usize| built.layers[n].len() as u64;
    let whole = |n: usize, stage| LayerProgress {
        blob: digest_of(&built.layers[n]).parse().unwrap(),
        bytes: bytes(n),
        fetched: bytes(n),
        stage,
    };
    assert_eq!(seen[0], whole(0, Stage::WasHere));
    assert_eq!((seen[1].bytes, seen[1].stage), (bytes(1), Stage::Fetching));
    assert!(seen[1].fetched <= 2 << 20, "{seen:?}");
    // Who joins sees the same.
    let (second, joined) = watched(&node, &reference);
    assert_eq!(sees(second.clone()).await[0], seen[0]);
    gate.open();
    for (watch, pull) in [(first, pull), (second, joined)] {
        assert!(!pull.await.unwrap().was_here);
        assert_eq!(watch.layers(), [whole(0, Stage::WasHere), whole(1, Stage::Done)]);
    }
    let (third, pull) = watched(&node, &reference);
    assert!(pull.await.unwrap().was_here && third.layers().is_empty(), "nothing had to be made");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_registry_that_is_slow_with_an_image_keeps_nobody_from_it_who_has_another() {
    let (node, gate) = (Node::new(), Gate::default());
    let (slow, brisk) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = of_one_file(&vec![7; LARGE]);
    let _digests = [&slow, &brisk].map(|registry| registry.push("x", "1", &built));
    let blob = digest_of(&built.layers[0]);
    slow.trouble(&blob, Trouble::Stall(1 << 20, gate.clone()), 1);
    let names = [&slow, &brisk].map(|registry| format!("{}/x:1", registry.host()));
    let (seen, first) = watched(&node, &names[0]);
    eventually_async(SOON, "its layer is begun", || async {
        if seen.layers().iter().any(|layer| layer.fetched > 0) { Ok(()) } else { Err(seen.layers()) }
    })
    .await;
    tokio::time::timeout(SOON, node.pull(&names[1])).await.unwrap().unwrap();
    assert!(!first.is_finished() && !node.is_here(&names[0]));
    gate.open();
    assert!(!first.await.unwrap().was_here);
    assert_eq!(node.found(&built.id()).tags.len(), 2);
    // Both have made the layer, and it is there once.
    node.settles();
    assert_eq!((node.count("layers"), node.count("blobs")), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn whoever_says_that_it_brings_a_layer_in_other_words_keeps_nobody_from_it() {
    let tar = Layer::new().file("file", 0o644, &vec![7; LARGE]).tar();
    let mut said = tar.clone();
    said.extend([0; 512]);
    let theirs = ImageBuilder::new().layer_packed(&tar, said, "application/vnd.oci.image.layer.v1.tar").build();
    let honest = ImageBuilder::new().layer_bytes(tar).set("Cmd", serde_json::json!(["sh"])).build();
    for same in [true, false] {
        let (node, gate) = (Node::new(), Gate::default());
        let (slow, other) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
        let brisk = if same { &slow } else { &other };
        slow.push("evil", "1", &theirs);
        brisk.push("x", "1", &honest);
        slow.trouble(&digest_of(&theirs.layers[0]), Trouble::Stall(1 << 20, gate.clone()), 1);
        let (seen, evil) = watched(&node, &format!("{}/evil:1", slow.host()));
        eventually_async(SOON, "its layer is begun", || async {
            if node.count("ingest") > 1 { Ok(()) } else { Err(seen.layers()) }
        })
        .await;
        let name = format!("{}/x:1", brisk.host());
        tokio::time::timeout(SOON, node.pull(&name)).await.unwrap().unwrap();
        evil.abort();
        gate.open();
        assert!(evil.await.unwrap_err().is_cancelled());
        node.settles();
        assert!(node.images.lease(&name).unwrap().layers[0].join("file").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_a_registry_spoils_spoils_no_pull_from_another_nor_one_that_only_joined() {
    let (node, gate) = (Node::new(), Gate::default());
    let (liar, honest) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    let _digests = [&liar, &honest].map(|registry| registry.push("x", "1", &built));
    let blob = digest_of(&built.layers[1]);
    let path = format!("/v2/x/blobs/{blob}");
    let mut spoiled = built.layers[1].clone();
    spoiled[600] ^= 1;
    liar.put(&path, "application/octet-stream", spoiled);
    liar.trouble(&blob, Trouble::Hold(gate.clone()), 1);
    let names = [&liar, &honest].map(|registry| format!("{}/x:1", registry.host()));
    let first = pull(&node, names[0].clone());
    eventually_async(SOON, "the blob is asked for", || async {
        if liar.asked_for(&blob) == 1 { Ok(()) } else { Err(liar.asked()) }
    })
    .await;
    // What is held is spoiled; what is asked for from now on is not.
    liar.put(&path, "application/octet-stream", built.layers[1].clone());
    let joined = [watched(&node, &names[0]), watched(&node, &names[1])];
    for (watch, _) in &joined {
        eventually_async(SOON, "it has begun", || async {
            if watch.layers().is_empty() { Err(watch.layers()) } else { Ok(()) }
        })
        .await;
    }
    gate.open();
    let error = first.await.unwrap().unwrap_err();
    assert!(error.to_string().contains(&liar.host()), "{error}");
    for (_, pull) in joined {
        assert_eq!(pull.await.unwrap().id.as_str(), built.id());
    }
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_pull_that_is_cancelled_amid_entries_that_take_long_stops_at_the_next_of_them() {
    const DEEP: usize = 190;
    const LOWERS: u8 = 20;
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let path = vec!["d"; DEEP].join("/");
    let below = |n: u8| Layer::new().file(&format!("{path}/{n}"), 0o644, b"");
    // Each of them is looked for in every layer below, at every name on the way.
    let top = (0..4000).fold(Layer::new(), |layer, n| layer.file(&format!("{path}/.wh.not-there-{n}"), 0o644, b""));
    let built = (0..LOWERS).map(below).fold(ImageBuilder::new(), ImageBuilder::layer).layer(top).build();
    registry.push("x", "1", &built);
    let pull = pull(&node, format!("{}/x:1", registry.host()));
    eventually_async(3 * SOON, "all but the last are there, and that is being made", || async {
        let is_begun = std::fs::read_dir(node.root.path().join("store/ingest")).unwrap().any(|layer| {
            let layer = layer.unwrap().path();
            layer.is_dir() && layer.join(&path).is_dir()
        });
        let count = node.count("layers");
        if count == usize::from(LOWERS) && is_begun { Ok(()) } else { Err((count, is_begun)) }
    })
    .await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    // To be deleted, which may take as long as it likes.
    eventually(SOON, "what was being made is given up", || match node.count("ingest") {
        0 => Ok(()),
        left => Err(left),
    });
}
