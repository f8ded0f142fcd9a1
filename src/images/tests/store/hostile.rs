//! Registries that mean harm, or are merely very slow: what they cannot make the node do.

use std::time::Duration;

use model::Class;
use serde_json::json;
use testkit::{Access, BuiltImage, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of, eventually_async};
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn what_a_server_says_that_a_registry_calls_its_token_server_is_not_told() {
    let (node, registry, inside) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    let demand = ("www-authenticate", format!("Bearer realm=\"{}/secret\"", inside.url()));
    registry.trouble("/v2/", Trouble::Answer(401, vec![demand], String::new()), usize::MAX);
    let reference = format!("{}/x:1", registry.host());
    for (said, told) in [
        ("the secret", ""),
        (r#"{"error":"secret","message":"a secret","details":"the secret"}"#, ""),
        (r#"{"errors":[{"code":"SECRET","message":"x"},{"code":"DENIED","message":"the secret"}]}"#, "DENIED"),
        (r#"{"error":"invalid_grant","error_description":"a secret"}"#, "invalid_grant"),
    ] {
        inside.calm();
        inside.trouble("/secret", Trouble::Status(403, said.to_owned()), usize::MAX);
        let error = node.pull(&reference).await.unwrap_err().to_string();
        assert!(error.contains("403") && error.contains(&inside.host()) && error.contains(told), "{error}");
        assert!(!error.to_lowercase().contains("secret"), "{error}");
    }
    assert!(inside.asked_for("/secret") > 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn documents_without_end_are_left_early() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let before = resident();
    for which in ["GET /v2/x/manifests/1", "GET /v2/x/manifests/sha256", "GET /v2/x/blobs/"] {
        for told in [true, false] {
            registry.trouble(which, Trouble::Flood(100 << 20, told), usize::MAX);
            // Without a HEAD that tells the digest the document itself has to come.
            registry.trouble("HEAD", Trouble::NoDigest, if which.ends_with("/1") { usize::MAX } else { 0 });
            let error = node.pull(&reference).await.unwrap_err();
            assert!(matches!(error.class(), Class::Invalid | Class::Unavailable), "{which} {told}: {error}");
            assert!(error.to_string().contains(&registry.host()), "{error}");
            registry.calm();
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more for six documents of 100 MiB");
    node.settles();
    node.pull(&reference).await.unwrap();
}

/// Each layer is within its limits, the image is not.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_image_has_one_budget_for_all_its_layers() {
    const LAYER: usize = 1 << 20;
    let node = Node::with(|config| {
        (config.limits.image_bytes, config.limits.image_entries) = (3 * LAYER as u64, 12);
    });
    let registry = TinyRegistry::http(Access::Open);
    let name = |tag: &str| format!("{}/x:{tag}", registry.host());
    let layer = |n: usize, bytes: usize, files: usize| {
        let layer = Layer::new().file(&format!("large-{n}"), 0o644, &vec![n as u8; bytes]);
        (1..files).fold(layer, |layer, file| layer.file(&format!("{n}-{file}"), 0o644, b"")).tar()
    };
    let plain = |tag: &str, layers: &[Vec<u8>]| {
        let built = layers.iter().fold(ImageBuilder::new(), |image, tar| image.layer_bytes(tar.clone())).build();
        registry.push("x", tag, &built);
        built
    };
    let small = |tag: &str, layers: &[Vec<u8>]| {
        let pack = |image: ImageBuilder, tar: &Vec<u8>| {
            let blob = zstd::encode_all(&tar[..], 1).unwrap();
            image.layer_packed(tar, blob, "application/vnd.oci.image.layer.v1.tar+zstd")
        };
        registry.push("x", tag, &layers.iter().fold(ImageBuilder::new(), pack).build());
    };
    let four: Vec<_> = (0..4).map(|n| layer(n, LAYER - (64 << 10), 1)).collect();
    // What the manifest says is too much already.
    let told = plain("told", &four);
    // Only what it inflates to is.
    small("inflated", &four);
    let crowded: Vec<_> = (0..4).map(|n| layer(n, 1, 4)).collect();
    small("crowded", &crowded);
    for (tag, what) in [("told", "bytes"), ("inflated", "bytes"), ("crowded", "files and directories")] {
        let error = node.pull(&name(tag)).await.unwrap_err();
        assert_eq!(error.class(), Class::Exhausted, "{tag}: {error}");
        let text = whole_text(&error);
        assert!(text.contains(&format!("{what} in all layers (images.limits)")), "{tag}: {text}");
        assert!(node.images.list().is_empty());
        node.settles();
    }
    assert!(told.layers.iter().all(|layer| registry.asked_for(&digest_of(layer)) == 0), "nothing of it was fetched");
    small("three", &four[..3]);
    node.pull(&name("three")).await.unwrap();
    // What is here counts as if it were made.
    small("one-more", &four);
    let error = node.pull(&name("one-more")).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{error}");
    node.settles();
}

fn whole_text(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", whole_text(source)))
}

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn who_sends_a_byte_now_and_then_keeps_nobody_for_ever() {
    // A document may take five times as long as a connection may stand idle.
    let node = Node::with(|config| config.idle_timeout_s = 1);
    let registry = TinyRegistry::http(Access::AnonymousToken);
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    // The token first: one that was given is kept.
    for which in ["GET /token", "HEAD /v2/x/manifests/1", "GET /v2/x/manifests/sha256"] {
        registry.trouble(which, Trouble::Trickle, usize::MAX);
        let pulled = tokio::time::timeout(SOON, node.pull(&reference)).await;
        let error = pulled.expect("it comes to an end").unwrap_err();
        assert!(error.kubelet_const().is_some(), "{which}: {error}");
        registry.calm();
    }
    node.pull(&reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn content_is_what_its_digest_says_whatever_it_is_called_and_a_page_is_no_manifest() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    for kind in ["text/html", "image/png", "", "application/vnd.oci.image.index.v1+json; charset=utf-8"] {
        registry.trouble("/blobs/", Trouble::ContentType(kind), usize::MAX);
        node.pull(&reference).await.unwrap();
        node.images.remove(&reference).await.unwrap();
        registry.calm();
    }
    // The document's own word counts where it has one, and a type that contradicts its shape is refused.
    registry.trouble("/manifests/", Trouble::ContentType("application/octet-stream"), usize::MAX);
    node.pull(&reference).await.unwrap();
    node.images.remove(&reference).await.unwrap();
    registry.calm();

    // A portal answers everything with its page.
    let portal = TinyRegistry::http(Access::Open);
    let page =
        || Trouble::Answer(200, vec![("content-type", "text/html".to_owned())], "<html>log in</html>".to_owned());
    portal.trouble("", page(), usize::MAX);
    let error = node.pull(&format!("{}/x:1", portal.host())).await.unwrap_err();
    assert!(error.to_string().contains("text/html") && error.to_string().contains(&portal.host()), "{error}");
    node.hosts("r.example", &format!("server = {:?}\n[host.{:?}]\n", registry.url(), portal.url()));
    node.pull("r.example/x:1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn strange_heads_are_an_error_with_the_hosts_name() {
    // After a status that promises another answer that one is waited for.
    let node = Node::with(|config| config.idle_timeout_s = 2);
    let registry = TinyRegistry::http(Access::Open);
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let long = "x".repeat(1 << 20);
    let answer = |status: u16, header: &'static str, value: &str| {
        Trouble::Answer(status, vec![(header, value.to_owned())], String::new())
    };
    for trouble in [
        answer(200, "x-long", &long),
        answer(401, "www-authenticate", &format!("Bearer realm=\"{long}\"")),
        answer(401, "www-authenticate", "Bearer realm=\"file:///etc/passwd\""),
        answer(401, "www-authenticate", "Bearer realm=\"http://\""),
        answer(401, "www-authenticate", "Bearer realm=\"nonsense\""),
        answer(401, "www-authenticate", &"Basic ,".repeat(10_000)),
        answer(429, "retry-after", "99999999999999999999999"),
        answer(429, "retry-after", "never"),
        answer(200, "docker-content-digest", "sha256:nonsense"),
        answer(999, "x", "y"),
        answer(204, "x", "y"),
        answer(206, "content-range", "bytes 5-6/7"),
        answer(304, "x", "y"),
        answer(100, "x", "y"),
    ] {
        registry.trouble("/v2/", trouble.clone(), usize::MAX);
        let pulled = tokio::time::timeout(SOON, node.pull(&reference)).await.expect("it comes to an end");
        let error = pulled.unwrap_err().to_string();
        let shown: String = format!("{trouble:?}").chars().take(100).collect();
        assert!(error.contains(&registry.host()) && error.len() < 2000, "{shown}: {error}");
        registry.calm();
    }
    node.settles();
}
