//! Who is let in, how they prove it, and who never learns of it.

use images::{AuthFields, Credentials};
use model::Class;
use testkit::{Access, TinyRegistry, Trouble};

use crate::node::{Node, image};

fn password(user: &str, password: &str) -> Option<Credentials> {
    let fields = AuthFields { username: user.into(), password: password.into(), ..AuthFields::default() };
    Credentials::read(fields).unwrap()
}

fn basic() -> Access {
    Access::Basic { user: "ann".into(), password: "hunter2".into() }
}

fn token(post: bool) -> Access {
    Access::Token { user: "ann".into(), password: "hunter2".into(), post }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn basic_and_token_authorization_let_in_whom_they_should() {
    for access in [basic(), token(true), token(false)] {
        let (node, registry) = (Node::new(), TinyRegistry::http(access.clone()));
        registry.push("x", "1", &image("one"));
        let reference = format!("{}/x:1", registry.host());
        for wrong in [None, password("ann", "guess"), password("eve", "hunter2")] {
            let error = node.pull_as(&reference, wrong).await.unwrap_err();
            assert_eq!(error.class(), Class::Denied, "{access:?}: {error}");
            let text = format!("{error} {error:?}");
            assert!(text.contains("401") && !text.contains("hunter2") && !text.contains("guess"), "{text}");
        }
        node.pull_as(&reference, password("ann", "hunter2")).await.unwrap();
        // Being here already is no permission.
        for wrong in [None, password("ann", "guess")] {
            assert_eq!(node.pull_as(&reference, wrong).await.unwrap_err().class(), Class::Denied, "{access:?}");
        }
        node.pull_as(&reference, password("ann", "hunter2")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn anonymous_identity_and_registry_tokens_work() {
    let identity = AuthFields { identity_token: "hunter2".into(), ..AuthFields::default() };
    let own = AuthFields { registry_token: "own-token".into(), ..AuthFields::default() };
    for (access, fields) in [
        (Access::AnonymousToken, AuthFields::default()),
        (token(true), identity),
        (Access::OwnToken("own-token".into()), own),
    ] {
        let (node, registry) = (Node::new(), TinyRegistry::http(access.clone()));
        registry.push("x", "1", &image("one"));
        let credentials = Credentials::read(fields).unwrap();
        let pulled = node.pull_as(&format!("{}/x:1", registry.host()), credentials).await;
        assert!(pulled.is_ok(), "{access:?}: {pulled:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn credentials_go_to_their_host_and_to_no_mirror_and_no_redirect() {
    let (node, registry) = (Node::new(), TinyRegistry::http(basic()));
    let (mirror, far) = (TinyRegistry::http(basic()), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    far.push("x", "1", &built);
    node.hosts(&registry.host(), &format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url()));
    let blob = testkit::digest_of(&built.layers[0]);
    registry.trouble(&blob, Trouble::Redirect(format!("{}/v2/x/blobs/{blob}?signature=abc", far.url())), 10);
    node.pull_as(&format!("{}/x:1", registry.host()), password("ann", "hunter2")).await.unwrap();
    assert!(mirror.asked_for("/v2/x") > 0 && mirror.authorizations().is_empty());
    assert!(far.asked_for(&blob) > 0 && far.authorizations().is_empty());
    assert!(!registry.authorizations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn credentials_for_another_server_are_not_shown() {
    let (node, registry) = (Node::new(), TinyRegistry::http(basic()));
    registry.push("x", "1", &image("one"));
    let fields = AuthFields {
        username: "ann".into(),
        password: "hunter2".into(),
        server_address: "https://elsewhere.example".into(),
        ..AuthFields::default()
    };
    let pulled = node.pull_as(&format!("{}/x:1", registry.host()), Credentials::read(fields).unwrap()).await;
    assert_eq!(pulled.unwrap_err().class(), Class::Denied);
    assert!(registry.authorizations().is_empty());
}
