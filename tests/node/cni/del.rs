//! A pod is given back: also when its plugin fails, its configuration changed, or its namespace is gone.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use api::cri::v1::PodSandboxState;
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};
use testkit::{eventually_async, patience, pod};

use super::{KIND, NETWORK, Place, SOME_TIME, SOON, list, pod_status, refused, remove, stop};

/// How long a stop may try before it leaves the rest to the background, and some room for a loaded machine.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_goes_although_its_plugin_fails_and_the_plugin_is_called_until_it_works() {
    let place = Place::new();
    let mut node = place.node().await;
    let mut cri = node.client().await;
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    place.plugin.script(&json!({ "DEL": { "error": { "code": 100, "msg": "its server is down" } } }));
    let from = Instant::now();
    stop(&mut cri, &id).await.unwrap();
    assert!(from.elapsed() < patience(STOPS_WITHIN), "{:?}", from.elapsed());
    let tries = place.plugin.calls_of("DEL").len();
    assert!(tries >= 2, "it was tried {tries} times");
    assert_eq!(pod_status(&mut cri, &id).await.state(), PodSandboxState::SandboxNotready);
    remove(&mut cri, &id).await.unwrap();
    // The name is free at once.
    let next = cri.run(&pod("one", node.dir())).await.unwrap();
    place.plugin.await_calls("DEL", tries + 1, SOME_TIME);
    assert!(place.cached().iter().any(|name| name.contains(&id)), "what is still owed is still cached");

    // It is not forgotten by the next daemon either.
    node = tokio::task::spawn_blocking(move || {
        node.restart_daemon();
        node
    })
    .await
    .unwrap();
    let before = place.plugin.calls_of("DEL").len();
    let after = place.plugin.await_calls("DEL", before + 1, SOME_TIME);
    assert_eq!(after.last().unwrap().env["CNI_CONTAINERID"], id);
    place.plugin.script(&Value::Null);
    await_not_cached(&place, &id).await;
    let worked = place.plugin.calls_of("DEL");
    assert_eq!(worked.last().unwrap().stdin["prevResult"]["ips"][0]["address"], "192.0.2.10/24");
    node.client().await.remove(&next).await.unwrap();
    let count = place.plugin.calls_of("DEL").iter().filter(|call| call.env["CNI_CONTAINERID"] == next).count();
    assert_eq!(count, 1);
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_or_is_gone_holds_up_no_stop() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    let hung = cri.run(&pod("hung", node.dir())).await.unwrap();
    place.plugin.script(&json!({ "DEL": { "hangs": true, "ignores_term": true } }));
    let from = Instant::now();
    stop(&mut cri, &hung).await.unwrap();
    remove(&mut cri, &hung).await.unwrap();
    assert!(from.elapsed() < patience(STOPS_WITHIN), "{:?}", from.elapsed());
    place.plugin.script(&Value::Null);
    await_not_cached(&place, &hung).await;

    let gone = cri.run(&pod("gone", node.dir())).await.unwrap();
    place.plugin.uninstall();
    let before = place.plugin.calls_of("DEL").len();
    stop(&mut cri, &gone).await.unwrap();
    remove(&mut cri, &gone).await.unwrap();
    assert_eq!(place.plugin.calls_of("DEL").len(), before);
    place.plugin.reinstall();
    let after = place.plugin.await_calls("DEL", before + 1, SOME_TIME);
    assert_eq!(after.last().unwrap().env["CNI_CONTAINERID"], gone);
    await_not_cached(&place, &gone).await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_is_there_until_the_plugin_has_ended() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    place.plugin.script(&json!({ "DEL": { "delay_ms": 300, "needs_netns": true } }));
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    stop(&mut cri, &id).await.unwrap();
    // A device of the host's, for one, is moved out of it.
    assert_eq!(place.plugin.calls_of("DEL").len(), 1, "it failed, and was called again");
    await_not_cached(&place, &id).await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_nobody_elses_while_a_plugin_still_owes_something_for_it() {
    let place = Place::without_configuration();
    let leases = place.dir.path().join("leases");
    let ipam = json!({ "type": "host-local", "subnet": "172.21.200.0/29", "dataDir": leases });
    let plugins = json!([{ "type": "ptp", "ipam": ipam }, { "type": KIND }]);
    place.write("10-mixed.conflist", &json!({ "cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins }));
    let node = place.node().await;
    let mut cri = node.client().await;
    let one = cri.run(&pod("one", node.dir())).await.unwrap();
    let address = pod_status(&mut cri, &one).await.network.unwrap().ip;
    place.plugin.script(&json!({ "DEL": { "error": { "code": 100, "msg": "its server is down" } } }));
    cri.remove(&one).await.unwrap();
    let lease = leases.join(NETWORK).join(&address);
    assert!(lease.exists(), "what the plugin has begun to undo may still know the address");
    let mut others = Vec::new();
    // As many as there are.
    for number in 2..=5 {
        let id = cri.run(&pod(&format!("pod-{number}"), node.dir())).await.unwrap();
        assert_ne!(pod_status(&mut cri, &id).await.network.unwrap().ip, address);
        others.push(id);
    }
    refused(&mut cri, "one-too-many", node.dir()).await;
    place.plugin.script(&Value::Null);
    await_not_cached(&place, &one).await;
    assert!(!lease.exists());
    let next = cri.run(&pod("next", node.dir())).await.unwrap();
    assert_eq!(pod_status(&mut cri, &next).await.network.unwrap().ip, address);
    others.push(next);
    for id in others {
        cri.remove(&id).await.unwrap();
    }
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_its_namespace_is_given_to_no_plugin() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    let netns = place.plugin.calls_of("ADD")[0].env["CNI_NETNS"].clone();
    // As a crash leaves it that comes between the file and the mount.
    umount2(Path::new(&netns), MntFlags::MNT_DETACH).unwrap();
    assert!(Path::new(&netns).exists());
    cri.remove(&id).await.unwrap();
    let deleted = place.plugin.calls_of("DEL");
    assert_eq!(deleted.last().unwrap().env["CNI_NETNS"], "");
    assert!(!Path::new(&netns).exists());
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_goes_by_the_configuration_by_which_it_came() {
    let place = Place::without_configuration();
    place.write("10-good.conflist", &list(NETWORK, json!({ "colour": "old" })));
    let node = place.node().await;
    let mut cri = node.client().await;
    let [changed, removed] =
        [cri.run(&pod("changed", node.dir())).await.unwrap(), cri.run(&pod("removed", node.dir())).await.unwrap()];
    place.write("10-good.conflist", &list("another", json!({ "colour": "new" })));
    eventually_async(SOON, "a pod is attached to the other network", || async {
        let id = cri.clone().run(&pod("other", node.dir())).await.map_err(|status| status.to_string())?;
        let name = place.plugin.calls_of("ADD").last().unwrap().stdin["name"].clone();
        cri.clone().remove(&id).await.unwrap();
        if name == "another" { Ok(()) } else { Err(name.to_string()) }
    })
    .await;
    cri.remove(&changed).await.unwrap();
    fs::remove_file(place.conf_dir().join("10-good.conflist")).unwrap();
    cri.remove(&removed).await.unwrap();
    let deleted = place.plugin.calls_of("DEL");
    for id in [changed, removed] {
        let call = deleted.iter().find(|call| call.env["CNI_CONTAINERID"] == id).unwrap();
        let told = ["name", "type", "colour"].map(|key| call.stdin[key].as_str().unwrap_or_default());
        assert_eq!(told, [NETWORK, KIND, "old"]);
    }
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_a_pod_is_given_back_without_a_namespace() {
    let place = Place::new();
    let mut node = place.node().await;
    let id = node.client().await.run(&pod("one", node.dir())).await.unwrap();
    node = tokio::task::spawn_blocking(move || {
        node.lose_power();
        node.start_daemon();
        node
    })
    .await
    .unwrap();
    let mut cri = node.client().await;
    // Either the daemon has given it back by itself, or it does so now.
    let _ = stop(&mut cri, &id).await;
    let deleted = place.plugin.await_calls("DEL", 1, SOON);
    assert_eq!((&deleted[0].env["CNI_CONTAINERID"], deleted[0].env["CNI_NETNS"].as_str()), (&id, ""));
    assert_eq!(deleted[0].stdin["prevResult"]["ips"][0]["address"], "192.0.2.10/24");
    place.finish(node).await;
}

async fn await_not_cached(place: &Place, id: &str) {
    eventually_async(SOME_TIME, "the attachment is given back", || async {
        let cached = place.cached();
        if cached.iter().any(|name| name.contains(id)) { Err(cached) } else { Ok(()) }
    })
    .await;
}
