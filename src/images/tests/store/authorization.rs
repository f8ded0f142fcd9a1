//! Who is let in, how they prove it, and who never learns of it.

use images::{AuthFields, Credentials};
use model::Class;
use serde_json::json;
use testkit::{Access, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, eventually_async};

use crate::node::{Node, SOON, image};

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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn the_nodes_own_file_opens_hosts_that_the_request_has_nothing_for_and_mirrors_each_with_its_own() {
    let (node, registry) = (Node::new(), TinyRegistry::http(token(true)));
    let mirror = TinyRegistry::http(Access::Basic { user: "mia".into(), password: "mirrored".into() });
    let built = image("one");
    registry.push("team/x", "1", &built);
    mirror.push("team/y", "1", &image("two"));
    let own = |user: &str, password: &str| json!({ "username": user, "password": password });
    node.docker_config(&json!({ "auths": {
        registry.host(): own("nobody", "wrong"),
        format!("{}/team", registry.host()): own("ann", "hunter2"),
        mirror.host(): own("mia", "mirrored"),
    }}));
    node.pull(&format!("{}/team/x:1", registry.host())).await.unwrap();
    // What the request brings for this host comes first, and what it brings for another counts for nothing here.
    let reference = format!("{}/team/x:1", registry.host());
    assert_eq!(node.pull_as(&reference, password("ann", "guess")).await.unwrap_err().class(), Class::Denied);
    let elsewhere = AuthFields { username: "eve".into(), server_address: "r.io".into(), ..AuthFields::default() };
    node.pull_as(&reference, Credentials::read(elsewhere).unwrap()).await.unwrap();
    // Of a mirrored name: the mirror's own, never those for the registry.
    node.hosts("r.example", &format!("server = {:?}\n[host.{:?}]\n", registry.url(), mirror.url()));
    node.pull_as("r.example/team/y:1", password("ann", "hunter2")).await.unwrap();
    let shown = mirror.authorizations();
    assert!(!shown.is_empty() && shown.iter().all(|shown| shown == "Basic bWlhOm1pcnJvcmVk"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn a_file_that_is_none_is_named_and_a_helper_that_cannot_be_run_is_told_when_nobody_is_let_in() {
    let (node, registry) = (Node::new(), TinyRegistry::http(basic()));
    registry.push("x", "1", &image("one"));
    let open = TinyRegistry::http(Access::Open);
    open.push("x", "1", &image("one"));
    node.docker_config(&json!({ "credsStore": "that-is-not-there" }));
    let denied = node.pull(&format!("{}/x:1", registry.host())).await.unwrap_err();
    assert_eq!(denied.class(), Class::Denied);
    assert!(denied.to_string().contains("docker-credential-that-is-not-there"), "{denied}");
    node.pull(&format!("{}/x:1", open.host())).await.unwrap();
    node.docker_config(&json!({ "auths": "hunter2" }));
    let error = node.pull(&format!("{}/x:1", open.host())).await.unwrap_err();
    assert!(matches!(&error, images::Error::Hosts { path, .. } if path.ends_with("docker.json")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn a_token_that_is_never_taken_and_a_token_server_that_means_harm_come_to_an_end() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::AnonymousToken));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let inside = TinyRegistry::http(Access::Open);
    inside.put("/secret", "application/json", br#"{"token":"the secret"}"#.to_vec());
    let json = |body: &str| Trouble::Answer(200, Vec::new(), body.to_owned());
    for (trouble, told) in [
        (json(r#"{"token":"another"}"#), "HTTP 401"),
        (json(r#"{"token":""}"#), "no token"),
        (json("[1,2"), "no token"),
        (Trouble::Flood(100 << 20, true), "larger than"),
        (Trouble::Flood(100 << 20, false), "larger than"),
        (Trouble::Reset(20), "token server"),
        (Trouble::Redirect(format!("{}/secret", inside.url())), "sends us on to"),
        (Trouble::Redirect(format!("{}/token", registry.url())), "sends us on to"),
        (Trouble::Redirect("file:///etc/passwd".to_owned()), "sends us on without"),
        (Trouble::Status(403, "no".to_owned()), "token server"),
    ] {
        let before = registry.asked_for("/token");
        registry.trouble("/token", trouble.clone(), usize::MAX);
        let error = node.pull(&reference).await.unwrap_err();
        assert!(error.to_string().contains(told), "{trouble:?}: {error}");
        assert!(registry.asked_for("/token") - before <= 8, "{trouble:?}: {:?}", registry.asked());
        registry.calm();
    }
    assert_eq!(inside.asked(), Vec::<String>::new());
    node.pull(&reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn what_another_server_demands_is_not_answered() {
    let (node, registry) = (Node::new(), TinyRegistry::http(basic()));
    let built = image("one");
    registry.push("x", "1", &built);
    let blob = testkit::digest_of(&built.layers[0]);
    // The thief asks for a password, and names a token server that it likes.
    let thief = TinyRegistry::http(token(true));
    for path in [format!("/v2/x/blobs/{blob}"), "/v2/x/manifests/1".to_owned()] {
        registry.trouble(&path, Trouble::Redirect(format!("{}{path}", thief.url())), usize::MAX);
        let denied = node.pull_as(&format!("{}/x:1", registry.host()), password("ann", "hunter2")).await.unwrap_err();
        assert_eq!(denied.class(), Class::Denied);
        assert!(denied.to_string().contains(&format!("from {}, to which it sends us on", thief.host())), "{denied}");
        registry.calm();
    }
    assert!(thief.asked_for("/v2/x") > 0);
    assert_eq!((thief.asked_for("/token"), thief.authorizations().len()), (0, 0));
}

/// Of a token that is good no longer, every request under way is told at the same time; the next one is the same for
/// all of them where a server gives the same to whoever asks in the same second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_token_that_ends_while_several_blobs_come_is_renewed_for_each_of_them() {
    for _ in 0..5 {
        let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
        let layers = (0..3).map(|n: u8| Layer::new().file("n", 0o644, &[n]));
        let built = layers.fold(ImageBuilder::new(), ImageBuilder::layer).build();
        registry.push("x", "1", &built);
        let demand = ("www-authenticate", format!("Bearer realm=\"{}/token\"", registry.url()));
        let token = |token: &str| Trouble::Answer(200, Vec::new(), format!(r#"{{"token":"{token}"}}"#));
        registry.trouble("HEAD /v2/x/manifests", Trouble::Answer(401, vec![demand], String::new()), 1);
        registry.trouble("/token", token("first"), 1);
        registry.trouble("/token", token("second"), usize::MAX);
        let gate = Gate::default();
        registry.trouble(&built.id(), Trouble::Hold(gate.clone()), 1);
        let pull = tokio::spawn({
            let (images, reference) = (node.images.clone(), format!("{}/x:1", registry.host()));
            async move { images.pull(&reference, None).await }
        });
        eventually_async(SOON, "the configuration is asked for", || async {
            if registry.asked_for(&built.id()) == 1 { Ok(()) } else { Err(registry.asked()) }
        })
        .await;
        registry.end_token("first");
        gate.open();
        pull.await.unwrap().unwrap();
        let shown = registry.authorizations();
        assert!(shown.contains(&"Bearer first".to_owned()) && shown.contains(&"Bearer second".to_owned()), "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn who_joins_a_pull_that_is_under_way_has_to_be_let_in_all_the_same() {
    let (node, registry) = (Node::new(), TinyRegistry::http(basic()));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let gate = Gate::default();
    let blob = testkit::digest_of(&built.layers[1]);
    registry.trouble(&format!("GET /v2/x/blobs/{blob}"), Trouble::Hold(gate.clone()), 1);
    let pull = |credentials: Option<Credentials>| {
        let (images, reference) = (node.images.clone(), reference.clone());
        tokio::spawn(async move { images.pull(&reference, credentials).await })
    };
    let first = pull(password("ann", "hunter2"));
    eventually_async(SOON, "a blob comes", || async {
        if registry.asked_for(&blob) == 1 { Ok(()) } else { Err(registry.asked()) }
    })
    .await;
    for wrong in [None, password("ann", "guess")] {
        assert_eq!(pull(wrong).await.unwrap().unwrap_err().class(), Class::Denied);
    }
    let second = pull(password("ann", "hunter2"));
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(registry.asked_for(&format!("GET /v2/x/blobs/{blob}")), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_token_is_kept_for_whom_it_was_given_to_and_a_present_image_costs_one_request() {
    let (node, registry) = (Node::new(), TinyRegistry::http(token(true)));
    for repository in ["x", "y"] {
        registry.push(repository, "1", &image("one"));
    }
    let reference = format!("{}/x:1", registry.host());
    let ann = || password("ann", "hunter2");
    let asked = |before: usize| registry.asked().split_off(before);
    node.pull_as(&reference, ann()).await.unwrap();
    let before = registry.asked().len();
    node.pull_as(&reference, ann()).await.unwrap();
    assert!(
        matches!(asked(before).as_slice(), [one] if one.starts_with("HEAD /v2/x/manifests/1")),
        "{:?}",
        asked(before)
    );

    // Nobody else is let in by it, nor she herself elsewhere.
    for other in [None, password("ann", "guess"), password("eve", "hunter2")] {
        let (before, tokens) = (registry.asked().len(), registry.asked_for("/token"));
        assert_eq!(node.pull_as(&reference, other).await.unwrap_err().class(), Class::Denied);
        assert!(registry.asked_for("/token") > tokens, "{:?}", asked(before));
    }
    let tokens = registry.asked_for("/token");
    node.pull_as(&format!("{}/y:1", registry.host()), ann()).await.unwrap();
    assert_eq!(registry.asked_for("/token"), tokens + 1);
    let identity = AuthFields { identity_token: "hunter2".into(), ..AuthFields::default() };
    node.pull_as(&reference, Credentials::read(identity).unwrap()).await.unwrap();
    assert_eq!(registry.asked_for("/token"), tokens + 2);
    // A dry run tells what happens without it.
    let explained = node.images.explain(&reference, ann(), images::Asking::Everybody).await.unwrap();
    assert!(explained.hosts[0].answer.as_ref().unwrap().found.is_ok());
    assert_eq!(registry.asked_for("/token"), tokens + 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_kept_token_that_is_refused_costs_one_new_one_and_one_that_ends_soon_is_not_kept() {
    let (node, registry) = (Node::new(), TinyRegistry::http(token(true)));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let ann = || password("ann", "hunter2");
    registry.give_token("first".to_owned());
    node.pull_as(&reference, ann()).await.unwrap();
    registry.end_token("first");
    registry.give_token("second".to_owned());
    let (before, tokens) = (registry.asked().len(), registry.asked_for("/token"));
    node.pull_as(&reference, ann()).await.unwrap();
    assert_eq!(registry.asked_for("/token"), tokens + 1);
    assert_eq!(registry.asked().len(), before + 3, "{:?}", registry.asked());
    // That one is kept instead.
    node.pull_as(&reference, ann()).await.unwrap();
    assert_eq!(registry.asked().len(), before + 4, "{:?}", registry.asked());

    registry.end_token("second");
    for told in [r#","expires_in":5"#, r#","expires_in":"5""#] {
        registry.give_token("third".to_owned());
        let answer = Trouble::Answer(200, Vec::new(), format!(r#"{{"token":"third"{told}}}"#));
        registry.trouble("/token", answer, 2);
        for _ in 0..2 {
            let tokens = registry.asked_for("/token");
            node.pull_as(&reference, ann()).await.unwrap();
            assert_eq!(registry.asked_for("/token"), tokens + 1, "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_kept_token_hides_neither_rights_that_were_given_since_nor_what_the_configuration_shows() {
    let (node, registry) = (Node::new(), TinyRegistry::http(token(true)));
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    let ann = || password("ann", "hunter2");
    node.pull_as(&reference, ann()).await.unwrap();
    for status in [403, 404] {
        // As a host does that knows the token, and of nothing that it allows.
        let tokens = registry.asked_for("/token");
        registry.trouble("HEAD /v2/x/manifests/1", Trouble::Answer(status, Vec::new(), String::new()), 1);
        node.pull_as(&reference, ann()).await.unwrap();
        assert_eq!(registry.asked_for("/token"), tokens + 1, "{status}");
    }
    // What is not there for a new one either is not there.
    registry.trouble("HEAD /v2/x/manifests/1", Trouble::Answer(404, Vec::new(), String::new()), usize::MAX);
    registry.trouble("GET /v2/x/manifests/1", Trouble::Answer(404, Vec::new(), String::new()), usize::MAX);
    assert_eq!(node.pull_as(&reference, ann()).await.unwrap_err().class(), Class::NotFound);

    let (open, image) = (TinyRegistry::http(Access::AnonymousToken), image("one"));
    open.push("x", "1", &image);
    let url = open.url();
    let shown = format!("server = {url:?}\n[host.{url:?}.header]\nAuthorization = \"Bearer mistyped\"\n");
    node.hosts("some.example", &shown);
    for _ in 0..2 {
        let tokens = open.asked_for("/token");
        node.pull("some.example/x:1").await.unwrap();
        assert_eq!(open.asked_for("/token"), tokens + 1, "what is configured is shown first");
    }
}
