//! How a pull would go, told without doing it.

use images::{Asking, AuthFields, CredentialSource, Credentials, Outcome};
use serde_json::json;
use testkit::{Access, TinyRegistry};

use crate::node::{Node, image};

fn ann() -> Option<Credentials> {
    let fields = AuthFields { username: "ann".into(), password: "hunter2".into(), ..AuthFields::default() };
    Credentials::read(fields).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn every_host_is_told_with_its_file_its_credentials_and_its_answer() {
    let node = Node::new();
    let access = Access::Basic { user: "ann".into(), password: "hunter2".into() };
    let (registry, mirror) = (TinyRegistry::http(access.clone()), TinyRegistry::http(access));
    let built = image("one");
    registry.push("x", "1", &built);
    mirror.push("x", "1", &built);
    let file = node
        .hosts(
            "r.example",
            &format!(
                "server = {:?}\n[host.\"http://127.0.0.1:1/prefix\"]\ncapabilities = [\"resolve\"]\n\
                 [host.{:?}]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n\
                 header = {{ x-secret = \"hidden\" }}\n\
                 [host.\"http://127.0.0.1:2\"]\ncapabilities = [\"pull\"]\n",
                registry.url(),
                mirror.url()
            ),
        )
        .join("hosts.toml");
    node.docker_config(&json!({ "auths": {
        mirror.host(): { "username": "ann", "password": "hunter2" },
        "127.0.0.1:2": { "username": "x", "password": "y" },
    }, "credHelpers": { "127.0.0.1:1": "safe" } }));
    let told = node.images.explain("r.example/x", ann(), Asking::Everybody).await;
    let told_to_bound = node.images.explain("r.example/x:1", ann(), Asking::Everybody).await.unwrap();
    assert_eq!(told.unwrap().reference, "r.example/x:latest");
    let told = told_to_bound;
    assert_eq!(told.from.as_ref(), Some(&file));
    assert_eq!(
        told.hosts.iter().map(|host| host.address.clone()).collect::<Vec<_>>(),
        [
            "http://127.0.0.1:1/prefix/v2".to_owned(),
            format!("{}/v2", mirror.url()),
            "http://127.0.0.1:2/v2".to_owned(),
            format!("{}/v2", registry.url())
        ]
    );
    let [away, good, content, itself] = told.hosts.as_slice() else { panic!("{told:?}") };
    assert!(matches!(&away.answer.as_ref().unwrap().found, Err(Outcome::Unreachable { .. })), "{away:?}");
    assert!(matches!(&away.credentials, CredentialSource::Helper { name, .. } if name == "safe"));
    let (digest, _) = good.answer.as_ref().unwrap().found.as_ref().unwrap();
    assert_eq!(digest.as_str(), built.digest());
    assert!(matches!(&good.credentials, CredentialSource::Entry { key, .. } if *key == mirror.host()));
    assert!(good.skip_verify && good.headers == ["x-secret"]);
    assert!(content.answer.is_none() && content.pull && !content.resolve, "it is not asked what a tag points to");
    // The caller's are for r.example, which is none of these hosts.
    assert_eq!(itself.credentials, CredentialSource::None);
    assert!(matches!(&itself.answer.as_ref().unwrap().found, Err(Outcome::Refused { status: 401, .. })), "{itself:?}");
    let text = format!("{told:?}");
    assert!(!text.contains("hunter2") && !text.contains("hidden"), "{text}");
    assert!(node.images.list().is_empty() && node.count("blobs") == 0, "nothing was pulled");

    let dry = node.images.explain("r.example/x:1", None, Asking::Nobody).await.unwrap();
    assert!(dry.hosts.iter().all(|host| host.answer.is_none()));
    let direct = node.images.explain(&format!("{}/x:1", registry.host()), ann(), Asking::Everybody).await.unwrap();
    assert_eq!((direct.from, direct.hosts.len()), (None, 1));
    assert_eq!(direct.hosts[0].credentials, CredentialSource::Request);
    assert!(direct.hosts[0].answer.as_ref().unwrap().found.is_ok());
    assert!(node.images.explain("not a reference", None, Asking::Nobody).await.is_err());
}
