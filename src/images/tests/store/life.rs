//! The life of images in the store: shared work, cancelled work, removal, leases, restarts, archives.

use std::{fs, io::Cursor, os::unix::fs::MetadataExt, path::Path};

use model::Digest;
use testkit::{Access, Gate, Layer, TinyRegistry, Trouble, digest_of, eventually_async};

use crate::node::{Node, SOON, image};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn pulls_of_the_same_image_share_the_work_and_the_last_one_to_go_cancels_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    let (reference, again) = (format!("{}/x:1", registry.host()), format!("{}/x:2", registry.host()));
    registry.push("x", "1", &built);
    registry.push("x", "2", &built);
    let gate = Gate::default();
    let blob = digest_of(&built.layers[1]);
    registry.trouble(&format!("GET /v2/x/blobs/{blob}"), Trouble::Hold(gate.clone()), 1);
    let pull = |reference: &str| {
        let (images, reference) = (node.images.clone(), reference.to_owned());
        tokio::spawn(async move { images.pull(&reference, None).await })
    };
    let asked = |what: &'static str, times: usize| {
        let registry = &registry;
        eventually_async(SOON, what, move || async move {
            if registry.asked_for(what) >= times { Ok(()) } else { Err(registry.asked()) }
        })
    };
    let first = pull(&reference);
    asked("GET /v2/x/blobs", 3).await;
    let (second, third) = (pull(&again), pull(&reference));
    asked("HEAD /v2/x/manifests", 3).await;
    // The one that began it goes; the others wait on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open();
    let id = second.await.unwrap().unwrap();
    assert_eq!(third.await.unwrap().unwrap(), id);
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{blob}")), 1);
    assert_eq!(node.found(id.as_str()).tags, [reference, again]);
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_cancelled_pull_leaves_verified_blobs_and_nothing_else() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let gate = Gate::default();
    registry.trouble(&digest_of(&built.layers[1]), Trouble::Hold(gate.clone()), 1);
    let (images, reference) = (node.images.clone(), format!("{}/x:1", registry.host()));
    let pull = tokio::spawn({
        let reference = reference.clone();
        async move { images.pull(&reference, None).await }
    });
    eventually_async(SOON, "the first layer is unpacked", || async {
        if node.count("layers") == 1 { Ok(()) } else { Err(node.count("layers")) }
    })
    .await;
    pull.abort();
    let _ = pull.await;
    eventually_async(SOON, "no layer and nothing half-made is left", || async {
        match (node.count("layers"), node.count("ingest"), node.count("trash")) {
            (0, 0, 0) => Ok(()),
            left => Err(left),
        }
    })
    .await;
    gate.open();
    // Manifest, configuration, first layer.
    assert_eq!((node.images.list().len(), node.count("blobs")), (0, 3));
    node.pull(&reference).await.unwrap();
    assert_eq!(registry.asked_for(&digest_of(&built.layers[0])), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_blob_that_rots_between_two_starts_is_fetched_again() {
    let (node, registry) = (Node::with(|config| config.parallel_fetches = 1), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let [kept, missing] = [0, 1].map(|layer: usize| digest_of(&built.layers[layer]));
    registry.trouble(&missing, Trouble::Status(404, String::new()), usize::MAX);
    node.pull(&reference).await.unwrap_err();
    node.settles();
    let blob = node.root.path().join("store/blobs").join(kept.trim_start_matches("sha256:"));
    let mut content = fs::read(&blob).unwrap();
    content[100] ^= 1;
    fs::write(&blob, content).unwrap();
    registry.calm();
    // Of a store of its own: the pull that failed may have work here that has not ended.
    let node = node.as_found();
    node.pull(&reference).await.unwrap();
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{kept}")), 2);
    let layers = node.images.lease(&reference).unwrap().layers;
    assert_eq!(fs::read_to_string(layers[1].join("etc/base")).unwrap(), "base");
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn removal_takes_every_name_at_once_and_everything_that_nobody_needs() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    registry.push("x", "2", &image("one"));
    registry.push("y", "1", &image("two"));
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    let id = node.pull(&name("x:1")).await.unwrap();
    node.pull(&name("x:2")).await.unwrap();
    node.pull(&name("y:1")).await.unwrap();
    let removals = (0..5).map(|_| {
        let (images, what) = (node.images.clone(), id.to_string());
        tokio::spawn(async move {
            images.remove(&what).await.unwrap();
            assert!(images.find(&what).unwrap().is_none());
        })
    });
    for removal in removals.collect::<Vec<_>>() {
        removal.await.unwrap();
    }
    for gone in [name("x:1"), name("x:2"), id.to_string()] {
        assert!(!node.is_here(&gone));
    }
    // The base layer is the other image's too.
    assert_eq!((node.count("layers"), node.count("blobs"), node.count("records")), (2, 4, 1));
    node.images.remove("never-heard-of").await.unwrap();
    node.images.remove(&name("y:1")).await.unwrap();
    assert_eq!((node.count("layers"), node.count("blobs"), node.count("records")), (0, 0, 0));
    assert_eq!((node.images.usage().bytes, node.images.usage().inodes), (0, 0));
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_removed_image_stays_for_its_containers_even_over_a_restart() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let id = node.pull(&reference).await.unwrap();
    let leased = node.images.lease(&reference).unwrap();
    node.images.remove(&reference).await.unwrap();
    assert!(!node.is_here(id.as_str()) && node.images.lease(&reference).is_err());
    assert!(leased.layers.iter().all(|layer| layer.exists()));
    // The daemon is killed: no lease is given back in order.
    std::mem::forget(leased);
    let node = node.restart();
    assert!(!node.is_here(id.as_str()));
    let leased = node.images.lease_by_id(&id).unwrap();
    node.images.recovered().await;
    assert!(leased.layers.iter().all(|layer| layer.exists()));
    drop(leased);
    eventually_async(SOON, "the layers go with the last lease", || async {
        match (node.count("layers"), node.count("records")) {
            (0, 0) => Ok(()),
            left => Err(left),
        }
    })
    .await;
    // And where nobody claims it after the restart, it goes as well.
    node.pull(&reference).await.unwrap();
    std::mem::forget(node.images.lease(&reference).unwrap());
    node.images.remove(&reference).await.unwrap();
    let node = node.restart();
    node.images.recovered().await;
    assert_eq!((node.count("layers"), node.count("records")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn pulling_a_removed_image_that_is_in_use_lists_it_again() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    node.pull(&reference).await.unwrap();
    let leased = node.images.lease(&reference).unwrap();
    node.images.remove(&reference).await.unwrap();
    let blobs = registry.asked_for("/blobs/");
    let id = node.pull(&reference).await.unwrap();
    assert_eq!(registry.asked_for("/blobs/"), blobs, "nothing is fetched again");
    drop(leased);
    assert_eq!(node.found(&reference).id, id);
    assert!(node.images.lease(&reference).unwrap().layers[0].exists());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_restart_finds_what_is_whole_and_forgets_what_is_not() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    registry.push("y", "1", &image("two"));
    let (x, y) = (format!("{}/x:1", registry.host()), format!("{}/y:1", registry.host()));
    let id = node.pull(&x).await.unwrap();
    node.pull(&y).await.unwrap();
    let (before, usage) = (node.found(&x), node.images.usage());
    let spoiled = node.images.lease(&y).unwrap().layers.remove(0);
    let store = node.root.path().join("store");
    fs::create_dir(store.join("ingest/layer-7")).unwrap();
    fs::create_dir(store.join("layers").join("f".repeat(64))).unwrap();
    fs::write(store.join("trash/12"), "x").unwrap();
    let node = node.restart();
    node.images.recovered().await;
    let after = node.found(&x);
    assert_eq!((&after.tags, &after.digests, after.size), (&before.tags, &before.digests, before.size));
    assert_eq!((node.images.usage().bytes, node.images.usage().inodes), (usage.bytes, usage.inodes));
    node.settles();
    assert_eq!(node.count("layers"), 3);
    fs::remove_dir_all(spoiled).unwrap();
    let node = node.restart();
    assert!(!node.is_here(&y) && node.is_here(id.as_str()));
    node.pull(&y).await.unwrap();
    assert!(node.is_here(&y));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn layers_stay_as_long_as_a_container_may_use_an_image_whose_record_is_lost() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    let id = node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    let record = node.root.path().join("store/records").join(id.hex());
    let content = fs::read(&record).unwrap();
    // Lost, and a container says that it uses it.
    fs::remove_file(&record).unwrap();
    let node = node.restart();
    assert!(node.images.lease_by_id(&id).is_err());
    node.images.recovered().await;
    assert_eq!(node.count("layers"), 2);
    // Damaged: set aside by the first start, and there still at the second.
    fs::write(&record, &content[..content.len() / 2]).unwrap();
    let mut node = node;
    for _ in 0..2 {
        node = node.restart();
        node.images.recovered().await;
        assert_eq!(node.count("layers"), 2);
    }
    fs::remove_dir_all(node.root.path().join("store/records/quarantine")).unwrap();
    let node = node.restart();
    node.images.recovered().await;
    assert_eq!(node.count("layers"), 0, "nobody claims them any more");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_the_disk_cannot_give_once_is_there_when_it_can() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap();
    let configuration = node.root.path().join("store/blobs").join(&built.id()[7..]);
    let content = fs::read(&configuration).unwrap();
    // What reads as an error, and is no absence.
    fs::remove_file(&configuration).unwrap();
    fs::create_dir(&configuration).unwrap();
    let node = node.restart();
    node.images.recovered().await;
    assert!(!node.is_here(&name));
    node.settles();
    assert_eq!((node.count("records"), node.count("layers"), node.count("blobs")), (1, 2, 4));
    fs::remove_dir(&configuration).unwrap();
    fs::write(&configuration, content).unwrap();
    let node = node.restart();
    node.images.recovered().await;
    assert_eq!(node.found(&name).tags, [name]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn the_account_is_what_a_walk_would_find() {
    fn walk(path: &Path) -> (u64, u64) {
        let meta = path.symlink_metadata().unwrap();
        let own = if meta.is_file() { meta.size().next_multiple_of(4096) } else { 4096 * u64::from(meta.is_dir()) };
        let below = if meta.is_dir() {
            fs::read_dir(path).unwrap().map(|e| walk(&e.unwrap().path())).collect()
        } else {
            Vec::new()
        };
        below.iter().fold((own, 1), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image(&"long ".repeat(5000)));
    node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    let store = node.root.path().join("store");
    let (layers, blobs) = (walk(&store.join("layers")), walk(&store.join("blobs")));
    let usage = node.images.usage();
    // Without the two directories themselves.
    assert_eq!((usage.bytes, usage.inodes), (layers.0 + blobs.0 - 8192, layers.1 + blobs.1 - 2));
    assert_eq!(usage.mountpoint, store.join("layers"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn archives_come_in_by_the_same_way() {
    let node = Node::new();
    let built = image("one");
    let imported = node.images.import(Cursor::new(built.archive("localhost/demo:1"))).await.unwrap();
    assert_eq!((imported.len(), imported[0].id.as_str()), (1, built.id().as_str()));
    assert_eq!(imported[0].tags, ["localhost/demo:1"]);
    let leased = node.images.lease("localhost/demo:1").unwrap();
    assert_eq!(fs::read_to_string(leased.layers[0].join("etc/text")).unwrap(), "one");
    assert_eq!(leased.facts.cmd, ["sh"]);
    drop(leased);
    // As `docker save` wrote it for years, with a layer shared by a link.
    let layers = ["a/layer.tar", "b/layer.tar"];
    let saved = serde_json::json!([{ "Config": "config.json", "RepoTags": ["demo:2"], "Layers": layers }]);
    let archive = Layer::new()
        .file("config.json", 0o644, &built.config)
        .file("c/layer.tar", 0o644, &built.layers[0])
        .link("a/layer.tar", "../c/layer.tar")
        .file("b/layer.tar", 0o644, &built.layers[1])
        .file("junk", 0o644, b"junk")
        .file("manifest.json", 0o644, saved.to_string().as_bytes())
        .tar();
    node.images.import(Cursor::new(archive)).await.unwrap();
    assert_eq!(node.found("demo:2").tags, ["docker.io/library/demo:2", "localhost/demo:1"]);
    node.settles();
    // The manifest (the one made for the other archive is the same), configuration, two layers; no junk.
    assert_eq!((node.count("blobs"), node.count("layers")), (4, 2));
    for wrong in [b"".to_vec(), b"garbage".repeat(200), Layer::new().file("x", 0o644, b"").tar()] {
        assert!(node.images.import(Cursor::new(wrong)).await.is_err());
    }
    let id: Digest = built.id().parse().unwrap();
    node.images.remove(id.as_str()).await.unwrap();
    node.settles();
    assert_eq!((node.count("blobs"), node.count("layers")), (0, 0));
}
