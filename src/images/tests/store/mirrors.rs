//! `hosts.toml`: mirrors, certificates, and what is told when all fail.

use std::fs;

use testkit::{Access, Authority, TinyRegistry, Trouble};

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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_client_shows_the_certificate_that_the_server_asks_for() {
    let (theirs, other) = (Authority::new("theirs"), Authority::new("another"));
    let (node, registry) = (Node::new(), TinyRegistry::https_for(Access::Open, Some(&theirs)));
    registry.push("x", "1", &image("one"));
    let (ours, wrong) = (theirs.identity(&["node.example"]), other.identity(&["node.example"]));
    let start = format!("server = {:?}\nca = \"ca.pem\"\n", registry.url());
    let dir = node.hosts("r.example", &start);
    for (name, text) in [
        ("ca.pem", registry.certificate().to_owned()),
        ("ours.cert", ours.certificate.clone()),
        ("ours.key", ours.key.clone()),
        ("both.pem", format!("{}{}", ours.certificate, ours.key)),
        ("wrong.cert", wrong.certificate.clone()),
        ("wrong.key", wrong.key.clone()),
        ("garbage.pem", "garbage".to_owned()),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    assert!(node.pull("r.example/x:1").await.is_err(), "without one");
    for client in [
        "\"both.pem\"",
        "[\"both.pem\"]",
        "[[\"ours.cert\", \"ours.key\"]]",
        "[[\"both.pem\", \"\"]]",
        "[[\"wrong.cert\", \"wrong.key\"], [\"ours.cert\", \"ours.key\"]]",
    ] {
        node.hosts("r.example", &format!("{start}client = {client}\n"));
        node.pull("r.example/x:1").await.unwrap_or_else(|error| panic!("{client}: {error}"));
    }
    for client in ["[[\"wrong.cert\", \"wrong.key\"]]", "[[\"ours.cert\", \"wrong.key\"]]"] {
        node.hosts("r.example", &format!("{start}client = {client}\n"));
        assert!(node.pull("r.example/x:1").await.is_err(), "{client}");
    }
    for client in ["\"garbage.pem\"", "\"ours.cert\"", "[[\"ours.cert\", \"missing.key\"]]"] {
        node.hosts("r.example", &format!("{start}client = {client}\n"));
        assert!(matches!(node.pull("r.example/x:1").await, Err(images::Error::Hosts { .. })), "{client}");
    }
    // The older form of such a directory.
    fs::remove_file(dir.join("hosts.toml")).unwrap();
    for file in ["wrong.cert", "wrong.key"] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    fs::rename(dir.join("ca.pem"), dir.join("ca.crt")).unwrap();
    let named = node.root.path().join("certs.d").join(registry.host());
    fs::rename(&dir, named).unwrap();
    // On this machine plain HTTP is spoken, unless the port is 443 or the file says otherwise.
    assert!(node.pull(&format!("{}/x:1", registry.host())).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_certificate_is_shown_to_its_host_and_to_nobody_whom_that_names() {
    let authority = Authority::new("theirs");
    let registries = [(); 2].map(|()| TinyRegistry::https_for(Access::Open, Some(&authority)));
    let (node, [registry, other]) = (Node::new(), &registries);
    let (built, ours) = (image("one"), authority.identity(&["node.example"]));
    for (host, registry) in [("r.example", registry), ("other.example", other)] {
        registry.push("x", "1", &built);
        let text = format!("server = {:?}\nca = \"ca.pem\"\nclient = \"both.pem\"\n", registry.url());
        let dir = node.hosts(host, &text);
        // Both are believed to be who they are.
        let authorities = registries.iter().map(TinyRegistry::certificate).collect::<String>();
        fs::write(dir.join("ca.pem"), authorities).unwrap();
        fs::write(dir.join("both.pem"), format!("{}{}", ours.certificate, ours.key)).unwrap();
    }
    // It sends us on to one that lets in nobody without a certificate; or calls it its token server.
    let blob = testkit::digest_of(&built.layers[0]);
    registry.trouble(&blob, Trouble::Redirect(format!("{}/v2/x/blobs/{blob}", other.url())), usize::MAX);
    let error = node.pull("r.example/x:1").await.unwrap_err().to_string();
    assert!(error.contains(&format!("sends us on to {}", other.host())), "{error}");
    registry.calm();
    let demand = ("www-authenticate", format!("Bearer realm=\"{}/token\"", other.url()));
    registry.trouble("/v2/", Trouble::Answer(401, vec![demand], String::new()), usize::MAX);
    let error = node.pull("r.example/x:1").await.unwrap_err().to_string();
    assert!(error.contains(&format!("token server {}", other.host())), "{error}");
    assert_eq!(other.asked(), Vec::<String>::new());
    // The same certificate by the other's own configuration.
    node.pull("other.example/x:1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn paths_capabilities_and_defaults_of_the_file_are_kept() {
    let (node, mirror, registry) = (Node::new(), TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    mirror.push("proxy/x", "1", &built);
    // A proxy cache below a path: as Harbor has it.
    node.hosts("_default", &format!("[host.\"{}/v2/proxy\"]\noverride_path = true\n", mirror.url()));
    node.pull("any.example/x:1").await.unwrap();
    assert_eq!(mirror.asked_for("/v2/proxy/x/"), mirror.asked().len());
    assert_eq!(mirror.asked_for("?ns=any.example"), mirror.asked().len());
    // One that is good for content only is not asked what a tag points to.
    node.images.remove("any.example/x:1").await.unwrap();
    mirror.push("x", "1", &built);
    let text = "capabilities = [\"pull\"]\ndial_timeout = \"1s500ms\"\n";
    node.hosts("r.example", &format!("server = {:?}\n[host.{:?}]\n{text}", registry.url(), mirror.url()));
    let before = mirror.asked().len();
    node.pull("r.example/x:1").await.unwrap();
    assert_eq!(registry.asked(), ["HEAD /v2/x/manifests/1?ns=r.example"]);
    assert_eq!(mirror.asked()[before..].iter().filter(|line| line.starts_with("HEAD")).count(), 0);
    // By digest it may be asked for everything.
    node.images.remove("r.example/x:1").await.unwrap();
    node.pull(&format!("r.example/x@{}", built.digest())).await.unwrap();
    assert_eq!(registry.asked().len(), 1);
}
