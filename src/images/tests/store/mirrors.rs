//! `hosts.toml`: mirrors, certificates, and what is told when all fail.

use std::fs;

use testkit::{Access, TinyRegistry, Trouble};

use crate::node::{Node, image};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_mirror_serves_a_name_of_another_host_and_is_told_which() {
    let (node, mirror) = (Node::new(), TinyRegistry::http(Access::Open));
    mirror.push("e2e/busybox", "1", &image("one"));
    node.hosts("registry.k8s.io", &format!("[host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.url()));
    node.pull("registry.k8s.io/e2e/busybox:1").await.unwrap();
    assert_eq!(node.found("registry.k8s.io/e2e/busybox:1").tags, ["registry.k8s.io/e2e/busybox:1"]);
    assert_eq!(mirror.asked_for("?ns=registry.k8s.io"), mirror.asked().len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_a_mirror_lacks_or_spoils_comes_from_the_next_host() {
    let (node, mirror, registry) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    mirror.push("x", "1", &built);
    registry.push("x", "1", &built);
    registry.push("y", "1", &image("two"));
    let text = format!("server = {:?}\n[host.\"http://127.0.0.1:1\"]\n[host.{:?}]\n", registry.url(), mirror.url());
    node.hosts("r.example", &text);
    mirror.trouble(&testkit::digest_of(&built.layers[1]), Trouble::Spoil, 10);
    node.pull("r.example/x:1").await.unwrap();
    node.pull("r.example/y:1").await.unwrap();
    assert_eq!(registry.asked_for("HEAD /v2/x"), 0, "the mirror resolved it");
    let error = node.pull("r.example/z:1").await.unwrap_err().to_string();
    for host in ["127.0.0.1:1", &mirror.host(), &registry.host()] {
        assert!(error.contains(host), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn tls_is_believed_only_with_the_right_authority_or_when_told_so() {
    let (node, registry) = (Node::new(), TinyRegistry::https(Access::AnonymousToken));
    registry.push("x", "1", &image("one"));
    let server = format!("server = {:?}\n", registry.url());
    node.hosts("r.example", &server);
    let error = node.pull("r.example/x:1").await.unwrap_err();
    assert!(error.kubelet_const().is_some() && error.to_string().contains("certificate"), "{error}");
    let dir = node.hosts("r.example", &format!("{server}ca = \"ca.pem\"\n"));
    assert!(matches!(node.pull("r.example/x:1").await, Err(images::Error::Hosts { .. })), "the file is missing");
    fs::write(dir.join("ca.pem"), registry.certificate()).unwrap();
    node.pull("r.example/x:1").await.unwrap();
    node.hosts("other.example", &format!("{server}skip_verify = true\n"));
    node.pull("other.example/x:1").await.unwrap();
}
