//! Hosts that send us on: where to, how often, and what goes along.

use testkit::{Access, TinyRegistry, Trouble, digest_of};

use crate::node::{Node, image};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn headers_of_a_host_go_to_that_host_alone() {
    let access = Access::Basic { user: "ann".into(), password: "hunter2".into() };
    let (node, registry, far) = (Node::new(), TinyRegistry::http(access), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    far.push("x", "1", &built);
    let blob = digest_of(&built.layers[0]);
    registry.trouble(&blob, Trouble::Redirect(format!("{}/v2/x/blobs/{blob}?signature=abc", far.url())), 10);
    // Another answer of its own, at another path: there the header goes along.
    let manifest = format!("/v2/x/manifests/{}", built.digest());
    registry.put("/elsewhere", testkit::BuiltImage::MEDIA_TYPE, built.manifest.clone());
    registry.trouble(&manifest, Trouble::Redirect("/elsewhere".to_owned()), 10);
    let headers = "X-Meta-Token = \"the secret\"\nX-Two = [\"a\", \"b\"]\nAuthorization = \"Basic YW5uOmh1bnRlcjI=\"\n";
    let text = format!("server = {:?}\n[header]\n{headers}", registry.url());
    node.hosts("r.example", &text);
    node.pull("r.example/x:1").await.unwrap();
    assert_eq!(registry.asked_for("/elsewhere"), 1);
    assert_eq!(registry.headers("x-meta-token").len(), registry.asked().len());
    assert_eq!(registry.headers("x-two").len(), 2 * registry.asked().len());
    assert!(far.asked_for(&blob) > 0 && far.headers("x-meta-token").is_empty() && far.headers("x-two").is_empty());
    assert_eq!(registry.authorizations().len(), registry.asked().len());
    assert!(far.authorizations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn circles_long_ways_and_strange_addresses_come_to_an_end() {
    let (node, registry, other) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let pointer = "/v2/x/manifests/1";
    let way = |from: usize| Trouble::Redirect(format!("/way/{from}"));
    registry.trouble(pointer, way(0), usize::MAX);
    for step in 0..20 {
        registry.trouble(&format!("/way/{step}"), way(step + 1), usize::MAX);
    }
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains("more than 10 times"), "{error}");
    registry.calm();
    registry.trouble(pointer, Trouble::Redirect(format!("{}/back", other.url())), usize::MAX);
    other.trouble("/back", Trouble::Redirect(format!("{}{pointer}", registry.url())), usize::MAX);
    let before = registry.asked().len();
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains("in a circle"), "{error}");
    assert!(registry.asked().len() - before <= 2, "{:?}", registry.asked());
    for to in ["", "file:///etc/passwd", "http://", "//", "gopher://x/", "http://[::bad", "unix:///run/x"] {
        registry.calm();
        registry.trouble(pointer, Trouble::Redirect(to.to_owned()), usize::MAX);
        let error = node.pull(&reference).await.unwrap_err();
        assert!(error.to_string().contains("sends us"), "{to}: {error}");
    }
    registry.calm();
    let nobody = "http://127.0.0.1:1/x?signature=secret";
    registry.trouble(pointer, Trouble::Redirect(nobody.to_owned()), usize::MAX);
    let error = node.pull(&reference).await.unwrap_err().to_string();
    assert!(error.contains("it sends us on to 127.0.0.1:1: ") && !error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn only_what_a_digest_names_may_come_in_the_clear_from_a_registry_with_tls() {
    let (node, registry, plain) = (Node::new(), TinyRegistry::https(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    for registry in [&registry, &plain] {
        registry.push("x", "1", &built);
    }
    node.hosts("r.example", &format!("server = {:?}\nskip_verify = true\n", registry.url()));
    let blob = digest_of(&built.layers[1]);
    registry.trouble(&blob, Trouble::Redirect(format!("{}/v2/x/blobs/{blob}", plain.url())), usize::MAX);
    node.pull("r.example/x:1").await.unwrap();
    let pointer = "/v2/x/manifests/1";
    registry.trouble(pointer, Trouble::Redirect(format!("{}{pointer}", plain.url())), usize::MAX);
    let error = node.pull("r.example/x:1").await.unwrap_err();
    assert!(error.to_string().contains("plain HTTP"), "{error}");
}
