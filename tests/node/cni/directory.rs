//! The directory of configurations comes, goes and changes, and the node's readiness with it.

use std::{fs, os::unix::fs::symlink};

use api::cri::v1::{NamespaceMode, NamespaceOption};
use serde_json::json;
use testkit::{Cri, TempNode, eventually_async, pod};

use super::{NETWORK, Place, SOON, await_network, list, network, refused};

/// A pod is attached to the network of this name, sooner or later.
async fn await_pod_on(place: &Place, node: &TempNode, cri: &Cri, name: &str) {
    eventually_async(SOON, &format!("a pod is attached to {name}"), || async {
        let id = cri.clone().run(&pod("looks", node.dir())).await.map_err(|status| status.to_string())?;
        let seen = place.plugin.calls_of("ADD").last().unwrap().stdin["name"].clone();
        cri.clone().remove(&id).await.unwrap();
        if seen == name { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_only_pods_on_the_hosts_network_run() {
    let place = Place::without_configuration();
    let node = place.node().await;
    let mut cri = node.client().await;
    let condition = network(&mut cri).await;
    assert_eq!((condition.status, condition.reason.as_str()), (false, "NetworkPluginNotReady"), "{condition:?}");
    assert!(condition.message.contains("cni"), "{condition:?}");
    refused(&mut cri, "one", node.dir()).await;
    let mut on_host = pod("host", node.dir());
    let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
    on_host.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options = Some(options);
    cri.run(&on_host).await.unwrap();
    assert_eq!(place.plugin.calls().iter().filter(|call| call.command == "ADD").count(), 0);

    place.write("10-good.conflist", &list(NETWORK, json!({})));
    await_network(&cri, true).await;
    await_pod_on(&place, &node, &cri, NETWORK).await;
    fs::remove_file(place.conf_dir().join("10-good.conflist")).unwrap();
    await_network(&cri, false).await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_comes_late_or_is_another_one_is_noticed() {
    let place = Place::without_configuration();
    fs::remove_dir(place.conf_dir()).unwrap();
    let node = place.node().await;
    let cri = node.client().await;
    await_network(&cri, false).await;

    // With all that is in it, as a package is unpacked.
    let aside = place.dir.path().join("aside");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("10.conflist"), list("late", json!({})).to_string()).unwrap();
    // One that the daemon has made in the meantime makes room.
    let _ = fs::remove_dir(place.conf_dir());
    fs::rename(&aside, place.conf_dir()).unwrap();
    await_network(&cri, true).await;
    await_pod_on(&place, &node, &cri, "late").await;

    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("10.conflist"), list("second", json!({})).to_string()).unwrap();
    fs::rename(place.conf_dir(), place.dir.path().join("old")).unwrap();
    fs::rename(&aside, place.conf_dir()).unwrap();
    await_pod_on(&place, &node, &cri, "second").await;

    fs::remove_dir_all(place.conf_dir()).unwrap();
    await_network(&cri, false).await;
    fs::create_dir(place.conf_dir()).unwrap();
    place.write("10.conflist", &list("third", json!({})));
    await_pod_on(&place, &node, &cri, "third").await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_in_or_swapped_behind_a_link_is_noticed() {
    let place = Place::without_configuration();
    let node = place.node().await;
    let cri = node.client().await;
    let aside = place.dir.path().join("10.conflist");
    fs::write(&aside, list("moved", json!({})).to_string()).unwrap();
    fs::rename(&aside, place.conf_dir().join("10.conflist")).unwrap();
    await_network(&cri, true).await;
    await_pod_on(&place, &node, &cri, "moved").await;
    fs::remove_file(place.conf_dir().join("10.conflist")).unwrap();
    await_network(&cri, false).await;

    // As a ConfigMap's volume is made: files are links through `..data`, which is swapped by rename.
    let dir = place.conf_dir();
    let version = |name: &str| {
        let below = format!("..{name}");
        fs::create_dir(dir.join(&below)).unwrap();
        fs::write(dir.join(&below).join("10.conflist"), list(name, json!({})).to_string()).unwrap();
        symlink(&below, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version("first");
    symlink("..data/10.conflist", dir.join("10.conflist")).unwrap();
    await_network(&cri, true).await;
    await_pod_on(&place, &node, &cri, "first").await;
    version("second");
    fs::remove_dir_all(dir.join("..first")).unwrap();
    await_pod_on(&place, &node, &cri, "second").await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_is_named_and_the_next_one_is_taken() {
    let place = Place::new();
    fs::write(place.conf_dir().join("00-broken.conflist"), "{\"name\": \"bro").unwrap();
    let empty = json!({ "cniVersion": "1.0.0", "name": "empty", "plugins": [] });
    place.write("05-empty.conflist", &empty);
    let node = place.node().await;
    let cri = node.client().await;
    await_network(&cri, true).await;
    await_pod_on(&place, &node, &cri, NETWORK).await;
    for file in ["00-broken.conflist", "05-empty.conflist"] {
        assert!(node.log().contains(file), "{file} is not named in the log");
    }
    // One that was mended goes before the others, as its name says.
    place.write("00-broken.conflist", &list("mended", json!({})));
    await_pod_on(&place, &node, &cri, "mended").await;
    place.finish(node).await;
}
