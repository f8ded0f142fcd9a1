//! What a pull would do, told without one.

use std::fs;

use testkit::{Access, TinyRegistry};

use crate::command::{Coracle, image};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_pull_is_explained_host_by_host_and_fetches_nothing() {
    let coracle = Coracle::start();
    let (mirror, registry) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let hosts = coracle.node.dir().join("certs.d/registry.example/hosts.toml");
    fs::create_dir_all(hosts.parent().unwrap()).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.host(),
        mirror.host()
    );
    fs::write(&hosts, text).unwrap();

    let offline = coracle.ok(&["explain-pull", "--offline", "registry.example/x:1"]);
    assert!(offline.starts_with("registry.example/x:1\n"), "{offline}");
    assert!(offline.contains(&hosts.display().to_string()), "{offline}");
    assert_eq!(offline.matches("not asked").count(), 2, "{offline}");
    assert_eq!((mirror.asked().len(), registry.asked().len()), (0, 0));

    let told = coracle.ok(&["explain-pull", "registry.example/x:1"]);
    let (first, second) = told.split_once("\n2. ").unwrap();
    assert!(first.contains(&mirror.host()) && first.contains("HTTP 404"), "{told}");
    assert!(second.contains(&registry.host()) && second.contains(&built.digest()), "{told}");
    let object = coracle.ok(&["explain-pull", "--format", "json", "registry.example/x:1"]);
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["Hosts"][1]["Answer"]["Digest"], built.digest());
    assert_eq!(object["Hosts"][0]["Answer"]["Digest"], "");
    assert_eq!(object["Hosts"][0]["Credentials"]["Kind"], "none");

    // What proves us is told by its kind, and by nothing else.
    let given =
        ["explain-pull", "-u", "ann", "--password-stdin", "--format", "json", &format!("{}/x:1", registry.host())];
    let given = coracle.fed(&given, b"hunter2\n");
    let shown = String::from_utf8(given.stdout).unwrap();
    assert!(given.status.success() && !shown.contains("hunter2"), "{shown}");
    let object: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(object["Hosts"][0]["Credentials"]["Kind"], "request");
    assert!(!coracle.node.log().contains("hunter2"));

    let (code, _) = coracle.fails(&["explain-pull", "registry.example/none:1"]);
    assert_eq!(code, 1, "nobody has it");
    assert!(coracle.images().is_empty());
    assert_eq!(registry.asked_for("/blobs/"), 0);
    coracle.finish().await;
}
