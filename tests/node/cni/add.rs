//! A pod is attached: how the plugin is called, and what becomes of a pod whose plugin fails.

use std::{
    fs,
    time::{Duration, Instant},
};

use api::coracle::v1::CheckNodeRequest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use testkit::{Call, eventually_async, patience, pod};

use super::{
    KIND, NETWORK, PLUGIN_TIMEOUT_S, Place, SOME_TIME, SOON, await_network, list, pod_status, ready_pods, refused, stop,
};

/// How long a start may take whose plugins hang: less than their calls would, were they waited for.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// What CRI clients' tools look for in an error.
const HEAD: &str = "failed to setup network for sandbox \"";

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_called_as_the_specification_says() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    let status = pod_status(&mut cri, &id).await;
    assert_eq!(status.network.unwrap().ip, "192.0.2.10");
    let added = place.plugin.calls_of("ADD");
    let [add] = &added[..] else { panic!("{added:?}") };
    assert_eq!((&add.stdin["name"], &add.stdin["cniVersion"]), (&json!(NETWORK), &json!("1.0.0")));
    assert_eq!(add.stdin.get("prevResult"), None);
    assert_eq!((&add.env["CNI_CONTAINERID"], add.env["CNI_IFNAME"].as_str()), (&id, "eth0"));
    assert!(add.env["CNI_NETNS"].starts_with(&node.dir().join("netns").display().to_string()), "{add:?}");
    assert_eq!(add.env["CNI_PATH"], place.dir.path().join("bin").display().to_string());
    assert!(add.env.contains_key("PATH"), "plugins look for iptables: {add:?}");
    let arguments: Vec<_> = add.env["CNI_ARGS"].split(';').collect();
    let infra = format!("K8S_POD_INFRA_CONTAINER_ID={id}");
    for wanted in ["IgnoreUnknown=1", "K8S_POD_NAMESPACE=default", "K8S_POD_NAME=one", "K8S_POD_UID=uid-one", &infra] {
        assert!(arguments.contains(&wanted), "{wanted}: {arguments:?}");
    }
    let cached = fs::read(place.dir.path().join(format!("cache/results/{NETWORK}-{id}-eth0"))).unwrap();
    let cached: Value = serde_json::from_slice(&cached).unwrap();
    assert_eq!((&cached["kind"], &cached["containerId"]), (&json!("cniCacheV1"), &json!(id)));

    stop(&mut cri, &id).await.unwrap();
    stop(&mut cri, &id).await.unwrap();
    let deleted = place.plugin.calls_of("DEL");
    let [del] = &deleted[..] else { panic!("one is enough: {deleted:?}") };
    assert_eq!(del.stdin["prevResult"]["ips"][0]["address"], "192.0.2.10/24");
    for same in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"] {
        assert_eq!(del.env[same], add.env[same], "{same}");
    }
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_is_named_with_its_words_and_nothing_is_left_of_the_pod() {
    let place = Place::new();
    let mut node = place.node().await;
    let mut cri = node.client().await;
    let cases = [
        (json!({ "error": { "code": 11, "msg": "come back later", "details": "no room" } }), "come back later"),
        (json!({ "error": { "code": 999, "msg": "of our own" } }), "of our own"),
        (json!({ "stderr": "panic: only words\n", "exit": 2 }), "panic: only words"),
        (json!({ "stderr": "words beside garbage\n", "prints": "no json", "exit": 1 }), "words beside garbage"),
        (json!({ "prints": "{\"ips\": [" }), ""),
        (json!({ "prints": "" }), ""),
        (json!({ "result": { "ips": "none" } }), ""),
        (json!({ "result": {} }), "eth0"),
        (json!({ "pours_mb": 100 }), ""),
        (json!({ "signal": 9 }), "9"),
    ];
    for (number, (act, words)) in cases.into_iter().enumerate() {
        place.plugin.script(&json!({ "ADD": act }));
        // The very same name each time: nothing may hold it.
        let status = refused(&mut cri, "one", node.dir()).await;
        let (id, rest) = told(status.message());
        assert!(rest.contains(words), "{act}: {rest}");
        assert!(act.get("result").is_some() || rest.contains(KIND), "{act}: {rest}");
        let length = status.message().len();
        assert!(length < 8 << 10, "{act}: {length} bytes of error");
        let deleted = place.plugin.await_calls("DEL", number + 1, SOON);
        assert_eq!(deleted.last().unwrap().env["CNI_CONTAINERID"], id, "{act}");
        await_nothing(&place, &mut node).await;
    }
    place.plugin.script(&Value::Null);
    cri.run(&pod("one", node.dir())).await.unwrap();
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_hangs_is_ended_and_holds_up_nobody_else() {
    let place = Place::new();
    let mut node = place.node().await;
    let mut cri = node.client().await;
    place.plugin.script(&json!({ "ADD": { "stderr": "waiting for a lock", "hangs": true, "ignores_term": true } }));
    let from = Instant::now();
    let (mut hung, config) = (cri.clone(), pod("hung", node.dir()));
    let run = tokio::spawn(async move { hung.run(&config).await });
    let calls = place.plugin.await_calls("ADD", 1, SOON);
    place.plugin.script(&Value::Null);
    let other = cri.run(&pod("other", node.dir())).await.unwrap();
    assert!(alive(&calls[0]), "the other pod did not wait for it");
    let status = run.await.unwrap().unwrap_err();
    let (id, rest) = told(status.message());
    assert!(rest.contains(KIND) && rest.contains("waiting for a lock"), "{rest}");
    let took = from.elapsed();
    assert!(took >= Duration::from_secs(PLUGIN_TIMEOUT_S) && took < testkit::patience(SOME_TIME / 3), "{took:?}");
    assert!(!alive(&calls[0]));
    let deleted = place.plugin.await_calls("DEL", 1, SOON);
    assert_eq!(deleted[0].env["CNI_CONTAINERID"], id);
    cri.remove(&other).await.unwrap();
    await_nothing(&place, &mut node).await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_keeps_a_plugins_output_open_is_not_waited_for() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    place.plugin.script(&json!({ "ADD": { "leaves_child_s": 9 } }));
    let from = Instant::now();
    let id = cri.run(&pod("one", node.dir())).await.unwrap();
    assert!(from.elapsed() < Duration::from_secs(8), "{:?}", from.elapsed());
    assert_eq!(pod_status(&mut cri, &id).await.network.unwrap().ip, "192.0.2.10");
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_know_the_lists_version_is_not_asked_for_more() {
    let place = Place::new();
    place.plugin.script(&json!({ "VERSION": { "versions": ["0.3.1", "0.4.0"] } }));
    let mut node = place.node().await;
    let mut cri = node.client().await;
    let status = refused(&mut cri, "one", node.dir()).await;
    for word in [KIND, "1.0.0", "0.4.0"] {
        assert!(status.message().contains(word), "{word}: {}", status.message());
    }
    assert_eq!(place.plugin.calls_of("ADD").len(), 0);
    await_nothing(&place, &mut node).await;
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_not_there_is_named_and_found_as_soon_as_it_is() {
    let place = Place::new();
    place.plugin.uninstall();
    let mut node = place.node().await;
    let mut cri = node.client().await;
    let status = refused(&mut cri, "one", node.dir()).await;
    let bin = place.dir.path().join("bin").display().to_string();
    assert!(status.message().contains(KIND) && status.message().contains(&bin), "{}", status.message());
    await_nothing(&place, &mut node).await;
    place.plugin.reinstall();
    await_network(&cri, true).await;
    cri.run(&pod("one", node.dir())).await.unwrap();
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_finds_wrong_with_a_pod_is_told_to_whoever_asks() {
    let place = Place::new();
    let node = place.node().await;
    let mut cri = node.client().await;
    let one = cri.run(&pod("one", node.dir())).await.unwrap();
    let problems = async || {
        let told = node.operator().await.system.check_node(CheckNodeRequest {}).await.unwrap().into_inner();
        told.problems.into_iter().map(|problem| (problem.object, problem.what)).collect::<Vec<_>>()
    };
    assert_eq!(problems().await, []);
    let checked = place.plugin.calls_of("CHECK");
    assert_eq!(checked.len(), 1);
    assert_eq!(checked[0].env["CNI_CONTAINERID"], one);
    assert_eq!(checked[0].stdin["prevResult"]["ips"][0]["address"], "192.0.2.10/24");

    place.plugin.script(&json!({ "CHECK": { "error": { "code": 100, "msg": "its policy is gone" } } }));
    let [(object, what)] = &problems().await[..] else { panic!("one pod has one problem") };
    assert_eq!(*object, format!("pod {one}"));
    assert!(what.contains(NETWORK) && what.contains(KIND) && what.contains("its policy is gone"), "{what}");
    place.plugin.script(&json!({ "CHECK": { "hangs": true } }));
    let [(_, what)] = &problems().await[..] else { panic!("one pod has one problem") };
    assert!(what.contains(KIND), "{what}");

    // Of a list that says so nobody is asked.
    let before = place.plugin.calls_of("CHECK").len();
    cri.remove(&one).await.unwrap();
    let mut quiet = list(NETWORK, json!({}));
    quiet["disableCheck"] = true.into();
    place.write("10-good.conflist", &quiet);
    let two = eventually_async(SOON, "a pod is attached by the new list", || async {
        let id = cri.clone().run(&pod("two", node.dir())).await.map_err(|status| status.to_string())?;
        let by = fs::read_to_string(place.dir.path().join("cache/results").join(&place.cached()[0])).unwrap();
        let by: Value = serde_json::from_str(&by).unwrap();
        let config = by["config"].as_str().unwrap();
        let config = String::from_utf8(BASE64.decode(config).unwrap()).unwrap();
        if config.contains("disableCheck") {
            return Ok(id);
        }
        cri.clone().remove(&id).await.unwrap();
        Err(config)
    })
    .await;
    assert_eq!(problems().await, []);
    assert_eq!(place.plugin.calls_of("CHECK").len(), before);
    cri.remove(&two).await.unwrap();
    place.finish(node).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_daemon_that_died_was_attaching_the_next_one_gives_back() {
    let place = Place::new();
    let mut node = place.node().await;
    let gate = place.dir.path().join("gate");
    fs::write(&gate, "").unwrap();
    place.plugin.script(&json!({ "ADD": { "waits_while": gate } }));
    let (mut cri, config) = (node.client().await, pod("one", node.dir()));
    let run = tokio::spawn(async move { cri.run(&config).await });
    let added = place.plugin.await_calls("ADD", 1, SOON);
    node = tokio::task::spawn_blocking(move || {
        node.kill_daemon();
        node
    })
    .await
    .unwrap();
    run.await.unwrap().unwrap_err();
    // The plugin finishes what it has begun, and nobody hears of it.
    fs::remove_file(&gate).unwrap();
    place.plugin.script(&json!({ "DEL": { "hangs": true, "ignores_term": true } }));
    let from = Instant::now();
    node = tokio::task::spawn_blocking(move || {
        node.start_daemon();
        node
    })
    .await
    .unwrap();
    // It is not waited for, neither by the start nor by a pod of the same name.
    let mut cri = node.client().await;
    assert_eq!(ready_pods(&mut cri).await, 0);
    assert!(from.elapsed() < patience(STARTS_WITHIN), "{:?}", from.elapsed());
    let next = cri.run(&pod("one", node.dir())).await.unwrap();
    let deleted = place.plugin.await_calls("DEL", 1, SOON);
    assert_eq!(deleted[0].env["CNI_CONTAINERID"], added[0].env["CNI_CONTAINERID"]);
    assert_eq!(deleted[0].env["CNI_IFNAME"], "eth0");
    place.plugin.script(&Value::Null);
    place.plugin.await_calls("DEL", 2, SOME_TIME);
    cri.remove(&next).await.unwrap();
    place.finish(node).await;
}

/// The id in an error's text, and what comes after it.
fn told(message: &str) -> (String, String) {
    let after = message.split_once(HEAD).unwrap_or_else(|| panic!("{message:?} does not say {HEAD:?}")).1;
    let (id, rest) = after.split_once("\": ").unwrap_or_else(|| panic!("{message:?} gives no reason"));
    (id.to_owned(), rest.to_owned())
}

/// Whether the process of a call still runs.
fn alive(call: &Call) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", call.pid)).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

/// Waits until nothing is left of pods that came to nothing.
async fn await_nothing(place: &Place, node: &mut testkit::TempNode) {
    let node = &*node;
    eventually_async(SOON, "nothing is left of the pod", || async {
        let (leaks, cached, running) = (node.leaks(), place.cached(), place.plugin.running());
        if leaks.is_empty() && cached.is_empty() && running.is_empty() { Ok(()) } else { Err((leaks, cached, running)) }
    })
    .await;
}
