//! The node's policy: what it keeps out is kept out before anybody is asked, and what we cannot verify is never passed
//! over.

use std::{fs, io::Cursor};

use images::{Asking, Error};
use serde_json::{Value, json};
use testkit::{Access, TinyRegistry};

use crate::node::{Node, image};

fn write(node: &Node, policy: &Value) {
    fs::write(node.root.path().join("policy.json"), policy.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_the_policy_keeps_out_is_asked_of_nobody_and_the_file_is_read_at_each_pull() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("free/x", "1", &image("free"));
    registry.push("team/x", "1", &image("team"));
    let (free, team) = (format!("{}/free/x:1", registry.host()), format!("{}/team/x:1", registry.host()));
    let scope = format!("{}/team", registry.host());
    let with = |demand: Value| {
        let scopes = json!({ (scope.clone()): [demand] });
        json!({ "default": [{ "type": "insecureAcceptAnything" }], "transports": { "docker": scopes } })
    };
    // Here already, which is no permission either.
    node.pull(&team).await.unwrap();
    let asked = registry.asked().len();
    for (demand, kind) in [
        (json!({ "type": "reject" }), None),
        (json!({ "type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/pki/key" }), Some("signedBy")),
        (json!({ "type": "sigstoreSigned", "keyPath": "/etc/pki/key.pub" }), Some("sigstoreSigned")),
    ] {
        write(&node, &with(demand));
        let refused = node.pull(&team).await.unwrap_err();
        assert!(matches!(&refused, Error::Policy { wants, .. } if wants.as_deref() == kind), "{refused}");
        assert_eq!(refused.kubelet_const(), Some("SignatureValidationFailed"));
        for part in ["policy.json", &scope, kind.unwrap_or("rejects"), &team] {
            assert!(refused.to_string().contains(part), "{part}: {refused}");
        }
        assert!(matches!(node.images.explain(&team, None, Asking::Everybody).await, Err(Error::Policy { .. })));
    }
    assert_eq!(registry.asked().len(), asked, "nobody was asked");
    node.pull(&free).await.unwrap();
    for wrong in ["", "{}", r#"{"default":[{"type":"trustMe"}]}"#] {
        fs::write(node.root.path().join("policy.json"), wrong).unwrap();
        let refused = node.pull(&free).await.unwrap_err();
        assert!(matches!(&refused, Error::Hosts { path, .. } if path.ends_with("policy.json")), "{wrong}: {refused}");
    }
    fs::remove_file(node.root.path().join("policy.json")).unwrap();
    node.pull(&team).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_archive_that_the_policy_keeps_out_leaves_nothing() {
    let node = Node::new();
    let archive = image("one").archive("r.example/x:1");
    let accept = json!([{ "type": "insecureAcceptAnything" }]);
    write(&node, &json!({ "default": accept, "transports": { "oci-archive": { "": [{ "type": "signedBy" }] } } }));
    let refused = node.images.import(Cursor::new(archive.clone())).await.unwrap_err();
    assert!(matches!(&refused, Error::Policy { wants: Some(kind), .. } if kind == "signedBy"), "{refused}");
    node.settles();
    assert_eq!((node.images.list().len(), node.count("blobs")), (0, 0));
    // What is said of registries is not said of archives.
    write(&node, &json!({ "default": accept, "transports": { "docker": { "": [{ "type": "reject" }] } } }));
    node.images.import(Cursor::new(archive)).await.unwrap();
    assert!(node.is_here("r.example/x:1"));
}
