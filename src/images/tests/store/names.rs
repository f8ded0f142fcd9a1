//! What an image is called after a pull, and how it is found.

use testkit::{Access, ImageBuilder, TinyRegistry, Trouble};

use crate::node::{Node, image};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_pull_by_tag_lists_the_tag_and_the_digest_and_the_next_costs_one_request() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    let digest = registry.push("a/b", "1", &built);
    let reference = format!("{}/a/b:1", registry.host());
    let id = node.pull(&reference).await.unwrap();
    assert_eq!(id.as_str(), built.id());
    let found = node.found(&reference);
    assert_eq!(found.tags, std::slice::from_ref(&reference));
    assert_eq!(found.digests, [format!("{}/a/b@{digest}", registry.host())]);
    let content: usize = built.layers.iter().map(Vec::len).sum::<usize>() + built.manifest.len() + built.config.len();
    assert_eq!(found.size, content as u64);
    for what in [id.as_str(), id.hex(), &id.hex()[..13], &found.digests[0]] {
        assert_eq!(node.found(what).id, id);
    }
    assert_eq!(node.images.list().len(), 1);
    let asked = registry.asked().len();
    assert_eq!(node.pull(&reference).await.unwrap(), id);
    assert_eq!(registry.asked().len(), asked + 1);
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_pull_by_digest_has_no_tag_and_a_tag_beside_a_digest_counts_for_nothing() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let digest = registry.push("x", "1", &image("one"));
    let reference = format!("{}/x@{digest}", registry.host());
    node.pull(&format!("{}/x:other@{digest}", registry.host())).await.unwrap();
    let found = node.found(&reference);
    assert!(found.tags.is_empty());
    assert_eq!(found.digests, [reference]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn one_image_from_two_registries_is_one_image_with_all_its_names() {
    let (node, one, two) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let (first, second) = (image("one"), image("two"));
    one.push("x", "1", &first);
    one.push("x", "2", &first);
    two.push("y", "latest", &first);
    one.push("z", "1", &second);
    let id = node.pull(&format!("{}/x:1", one.host())).await.unwrap();
    let other = node.pull(&format!("{}/z:1", one.host())).await.unwrap();
    for reference in [format!("{}/x:2", one.host()), format!("{}/y", two.host())] {
        assert_eq!(node.pull(&reference).await.unwrap(), id);
    }
    assert_ne!(id, other);
    let found = node.found(id.as_str());
    assert_eq!((found.tags.len(), found.digests.len()), (3, 2));
    assert_eq!(node.images.list().len(), 2);
    // The base layer is shared.
    assert_eq!(node.count("layers"), 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_tag_that_moves_leaves_the_older_image_without_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let reference = format!("{}/x:1", registry.host());
    registry.push("x", "1", &image("old"));
    let old = node.pull(&reference).await.unwrap();
    registry.push("x", "1", &image("new"));
    let new = node.pull(&reference).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(node.found(&reference).id, new);
    assert!(node.found(old.as_str()).tags.is_empty());
    let node = node.restart();
    assert_eq!(node.found(&reference).id, new);
    assert_eq!(node.images.list().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_registry_that_tells_no_digest_or_knows_no_head_will_do() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let digest = registry.push("x", "1", &image("one"));
    registry.trouble("/x/manifests/1", Trouble::NoDigest, 2);
    node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    assert!(node.is_here(&format!("{}/x@{digest}", registry.host())));
    registry.push("y", "1", &image("two"));
    registry.trouble("HEAD /v2/y", Trouble::Status(405, String::new()), 1);
    node.pull(&format!("{}/y:1", registry.host())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn the_error_of_a_failed_pull_names_the_host_and_its_answer() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let error = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert_eq!(error.class(), model::Class::NotFound);
    let text = error.to_string();
    assert!(text.contains(&registry.host()) && text.contains("404") && text.contains("MANIFEST_UNKNOWN"), "{text}");
    let error = node.pull("127.0.0.1:1/x").await.unwrap_err();
    assert_eq!((error.class(), error.kubelet_const()), (model::Class::Unavailable, Some("RegistryUnavailable")));
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    registry.trouble("/busy/", Trouble::Status(503, "later".into()), 100);
    let error = node.pull(&format!("{}/busy:1", registry.host())).await.unwrap_err();
    assert!(error.to_string().contains("503") && error.kubelet_const().is_some(), "{error}");
    assert!(matches!(node.pull("UPPER").await, Err(images::Error::Reference(_))));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn the_user_of_an_image_is_told_as_the_cri_wants_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    for (tag, user, wanted) in [
        ("a", "1002", images::ImageUser::Uid(1002)),
        ("b", "www-data:www-data", images::ImageUser::Name("www-data".into())),
        ("c", "", images::ImageUser::Unset),
    ] {
        registry.push("u", tag, &ImageBuilder::new().set("User", serde_json::json!(user)).build());
        let reference = format!("{}/u:{tag}", registry.host());
        node.pull(&reference).await.unwrap();
        assert_eq!(node.found(&reference).user, wanted);
        // An image without layers can be used too.
        assert_eq!(node.images.lease(&reference).unwrap().layers.len(), 1);
    }
}
