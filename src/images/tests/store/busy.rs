//! Registries that are busy, or whose connections break: who is asked again, when, and how often.

use std::time::{Duration, Instant};

use model::Class;
use testkit::{Access, Random, TinyRegistry, Trouble, digest_of, seed};

use crate::node::{Node, image};

fn busy(status: u16, wait: &str) -> Trouble {
    Trouble::Answer(status, vec![("retry-after", wait.to_owned())], String::new())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_busy_registry_is_asked_again_for_everything_when_it_wants_to_be() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let blob = digest_of(&built.layers[0]);
    for (which, trouble) in [
        ("HEAD /v2/x/manifests/1", busy(429, "1")),
        ("GET /v2/x/manifests/sha256", busy(503, "1")),
        (&format!("GET /v2/x/blobs/{blob}"), busy(429, "1")),
    ] {
        registry.trouble(which, trouble, 1);
    }
    let begun = Instant::now();
    node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3), "it wanted to be left alone three times");
    for which in ["HEAD /v2/x/manifests/1", "GET /v2/x/manifests/sha256", &format!("GET /v2/x/blobs/{blob}")] {
        assert_eq!(registry.asked_for(which), 2, "{which}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn who_wants_to_be_left_alone_for_an_hour_is_told_at_once_and_another_host_is_asked_meanwhile() {
    let (node, registry, mirror) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    mirror.trouble("/v2/", busy(429, "3600"), usize::MAX);
    let begun = Instant::now();
    let error = node.pull(&format!("{}/x:1", mirror.host())).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3) && mirror.asked().len() == 1, "{:?}", mirror.asked());
    assert!(error.to_string().contains("HTTP 429") && error.to_string().contains("3600 s"), "{error}");
    assert!(error.kubelet_const().is_some() && error.class() == Class::Unavailable);
    node.hosts("r.example", &format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url()));
    node.pull("r.example/x:1").await.unwrap();
}

/// Wherever the connection is reset, the pull ends as if it had not been, or with the host's name.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn connections_that_are_reset_anywhere_are_made_again() {
    let mut random = Random::new(seed("CORACLE_TEST_SEED"));
    for round in 0..12_u64 {
        let (node, registry) = (Node::new(), TinyRegistry::http(Access::AnonymousToken));
        registry.push("x", "1", &image(&format!("reset {round}")));
        for which in ["HEAD /v2/", "GET /v2/x/manifests", "GET /v2/x/blobs"] {
            registry.trouble(which, Trouble::Reset(random.below(600) as usize), 1 + random.below(2) as usize);
        }
        node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
        node.settles();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn a_registry_that_breaks_every_connection_is_told_and_left() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    registry.trouble("/v2/", Trouble::Reset(10), usize::MAX);
    let error = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert!(error.kubelet_const().is_some() && error.to_string().contains(&registry.host()), "{error}");
    assert_eq!(registry.asked_for("HEAD"), 4);
    registry.calm();
    registry.trouble("GET /v2/x/blobs/", Trouble::Cut(3), usize::MAX);
    let error = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    node.settles();
}
