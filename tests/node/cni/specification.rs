//! What the specification's versions differ in, and pods in several networks.

use api::cri::v1::PodSandboxConfig;
use serde_json::{Value, json};
use testkit::{TempNode, eventually_async, pod};

use super::{KIND, NETWORK, Place, SOON, await_network, list, pod_status, refused};

/// A list of that version.
fn of(version: &str, name: &str) -> Value {
    let mut list = list(name, json!({}));
    list["cniVersion"] = version.into();
    list
}

async fn restarted(mut node: TempNode) -> TempNode {
    tokio::task::spawn_blocking(move || {
        node.restart_daemon();
        node
    })
    .await
    .unwrap()
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_attach_anybody_now_makes_the_network_not_ready_until_it_can() {
    let place = Place::without_configuration();
    place.write("10-new.conflist", &of("1.1.0", NETWORK));
    let node = place.node().await;
    let mut cri = node.client().await;
    await_network(&cri, true).await;
    // 50: the plugin is not available (specification 1.1, error codes).
    place.plugin.script(&json!({ "STATUS": { "error": { "code": 50, "msg": "its controller is away" } } }));
    let condition = await_network(&cri, false).await;
    for word in [NETWORK, KIND, "its controller is away"] {
        assert!(condition.message.contains(word), "{word}: {condition:?}");
    }
    let asked = place.plugin.calls_of("STATUS");
    assert_eq!(asked.last().unwrap().stdin["cniVersion"], "1.1.0");
    place.plugin.script(&Value::Null);
    await_network(&cri, true).await;
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    cri.remove(&id).await.unwrap();

    // Who does not know the question is not asked it.
    place.write("10-new.conflist", &of("1.0.0", NETWORK));
    place.plugin.script(&json!({ "STATUS": { "error": { "code": 50, "msg": "nobody asks" } } }));
    let node = restarted(node).await;
    let before = place.plugin.calls_of("STATUS").len();
    let mut cri = node.client().await;
    await_network(&cri, true).await;
    let id = cri.run(&pod("two", node.dir())).await.unwrap();
    cri.remove(&id).await.unwrap();
    assert_eq!(place.plugin.calls_of("STATUS").len(), before);
    place.finish(node).await;
}

/// Waits until pods are attached by a list of that version.
async fn await_version(place: &Place, node: &TempNode, version: &str) {
    let cri = node.client().await;
    eventually_async(SOON, "a pod is attached by the new list", || async {
        let mut cri = cri.clone();
        let id = cri.run(&pod("by-the-new-list", node.dir())).await.map_err(|status| status.to_string())?;
        let sent = place.plugin.calls_of("ADD").last().unwrap().stdin["cniVersion"].clone();
        cri.remove(&id).await.unwrap();
        if sent == version { Ok(()) } else { Err(sent.to_string()) }
    })
    .await;
    await_network(&cri, true).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn at_the_start_a_plugin_is_told_which_attachments_are_good() {
    let place = Place::without_configuration();
    place.write("10-new.conflist", &of("1.1.0", NETWORK));
    let node = place.node().await;
    let mut cri = node.client().await;
    let [kept, gone] =
        [cri.run(&pod("kept", node.dir())).await.unwrap(), cri.run(&pod("gone", node.dir())).await.unwrap()];
    cri.remove(&gone).await.unwrap();
    let before = place.plugin.calls_of("GC").len();
    let node = restarted(node).await;
    let told = place.plugin.await_calls("GC", before + 1, SOON);
    let valid = &told.last().unwrap().stdin["cni.dev/valid-attachments"];
    assert_eq!(*valid, json!([{ "containerID": kept, "ifname": "eth0" }]));

    let mut quiet = of("1.1.0", NETWORK);
    quiet["disableGC"] = true.into();
    let (before, mut node) = (told.len(), node);
    for quiet in [quiet, of("1.0.0", NETWORK)] {
        place.write("10-new.conflist", &quiet);
        node = restarted(node).await;
        await_network(&node.client().await, true).await;
        assert_eq!(place.plugin.calls_of("GC").len(), before, "nobody is asked by {quiet}");
    }
    node.client().await.remove(&kept).await.unwrap();
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_spoken_to_in_the_version_of_its_list() {
    let place = Place::without_configuration();
    place.write("10-good.conflist", &of("0.3.1", NETWORK));
    let node = place.node().await;
    let mut several = of("0.4.0", NETWORK);
    several["cniVersions"] = json!(["0.4.0", "1.1.0", "1.0.0"]);
    for (version, list) in [
        ("0.3.1", of("0.3.1", NETWORK)),
        ("0.4.0", of("0.4.0", NETWORK)),
        ("1.0.0", of("1.0.0", NETWORK)),
        ("1.1.0", several),
    ] {
        place.write("10-good.conflist", &list);
        await_version(&place, &node, version).await;
        let deleted = place.plugin.calls_of("DEL");
        let deleted = deleted.last().unwrap();
        assert_eq!(deleted.stdin["cniVersion"], version);
        // From 0.4 on a plugin is told at DEL what the whole attachment came to.
        assert_eq!(deleted.stdin.get("prevResult").is_some(), version != "0.3.1");
    }
    // What no release of the specification has, gives no network, and the file is named.
    place.write("10-good.conflist", &of("7.0.0", "another"));
    eventually_async(SOON, "the file is told of", || async {
        let told = cri_faults(&node).await;
        if told.contains("10-good.conflist") && told.contains("7.0.0") { Ok(()) } else { Err(told) }
    })
    .await;
    place.finish(node).await;
}

/// What `coracle check` has to say of the directory's files.
async fn cri_faults(node: &TempNode) -> String {
    let request = api::coracle::v1::CheckNodeRequest {};
    let told = node.operator().await.system.check_node(request).await.unwrap().into_inner();
    told.problems.into_iter().map(|problem| format!("{}: {}\n", problem.object, problem.what)).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_as_many_networks_as_are_asked_for_in_the_order_of_their_files() {
    let place = Place::without_configuration();
    // Written in another order than their names have.
    for (file, name) in
        [("30-third.conflist", "third"), ("10-first.conflist", "first"), ("20-second.conflist", "second")]
    {
        place.write(file, &of("1.0.0", name));
    }
    let mut options = place.options();
    options.network += "max_conf_num = 2\n";
    let node = tokio::task::spawn_blocking(|| TempNode::start_with(options)).await.unwrap();
    let mut cri = node.client().await;
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    let of_calls = |command: &str| -> Vec<(String, String)> {
        let calls = place.plugin.calls_of(command);
        calls.iter().map(|call| (call.stdin["name"].as_str().unwrap().into(), call.env["CNI_IFNAME"].clone())).collect()
    };
    let both = [("first", "eth0"), ("second", "eth1")].map(|(name, link)| (name.to_owned(), link.to_owned()));
    assert_eq!(of_calls("ADD"), both);
    assert_eq!(pod_status(&mut cri, &id).await.network.unwrap().ip, "192.0.2.10");
    cri.remove(&id).await.unwrap();
    let [first, second] = both;
    assert_eq!(of_calls("DEL"), [second.clone(), first.clone()], "the last one first");

    // Where the second fails, the first is given back.
    let script = json!([{}, { "error": { "code": 100, "msg": "no room" } }]);
    place.plugin.script(&json!({ "ADD": script }));
    let refusal = refused(&mut cri, "two", node.dir()).await;
    assert!(refusal.message().contains("no room"), "{}", refusal.message());
    place.plugin.script(&Value::Null);
    let deleted = of_calls("DEL");
    assert!(deleted[2..].contains(&first), "{deleted:?}");
    let config: PodSandboxConfig = pod("two", node.dir());
    let id = cri.run(&config).await.unwrap();
    cri.remove(&id).await.unwrap();
    place.finish(node).await;
}
