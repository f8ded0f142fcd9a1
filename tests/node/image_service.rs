//! The image service as the kubelet and its conformance suite use it: names and ids, what is there at once and what is
//! gone at once, the node's policy.

use std::{fs, time::Duration};

use api::cri::v1::{
    ContainerFilter, ContainerStatusRequest, Image, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    ListContainersRequest, ListImagesRequest, PullImageRequest, RemoveImageRequest, StreamImagesRequest,
};
use testkit::{
    Access, BuiltImage, Cri, Gate, Layer, NodeOptions, TempNode, TinyRegistry, Trouble, container, eventually,
    eventually_async, pod,
};
use tonic::{Code, Request};

use crate::{
    scene::SOON,
    support::{PROBE, node, node_with, probe},
};

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..Default::default() })
}

async fn status(cri: &mut Cri, image: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: spec(image), verbose: false };
    cri.images.image_status(request).await.unwrap().into_inner().image
}

async fn list(cri: &mut Cri, filter: Option<&str>) -> Vec<Image> {
    let filter = filter.map(|image| ImageFilter { image: spec(image) });
    let listed =
        cri.images.list_images(ListImagesRequest { filter: filter.clone() }).await.unwrap().into_inner().images;
    let mut stream = cri.images.stream_images(StreamImagesRequest { filter }).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        streamed.extend(piece.images);
    }
    assert_eq!(listed, streamed, "the list and the stream are one");
    listed
}

async fn remove(cri: &mut Cri, image: &str) {
    cri.images.remove_image(RemoveImageRequest { image: spec(image) }).await.unwrap();
}

/// Bytes and inodes that the images take.
async fn usage(cri: &mut Cri) -> (u64, u64) {
    let info = cri.images.image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
    let [images] = info.image_filesystems.as_slice() else { panic!("{info:?}") };
    assert!(images.timestamp > 0 && !images.fs_id.as_ref().unwrap().mountpoint.is_empty(), "{images:?}");
    (images.used_bytes.unwrap().value, images.inodes_used.unwrap().value)
}

/// The probe with something on top, so that it is an image of its own that runs.
fn image(text: &str) -> BuiltImage {
    probe().layer(Layer::new().file("text", 0o644, text.as_bytes())).build()
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_came_by_digest_has_no_tag_and_every_name_leads_to_the_same_answer() {
    let node = node().await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    let built = image("one");
    let digest = registry.push("team/x", "1", &built);
    let by_digest = format!("{}/team/x@{digest}", registry.host());
    let id = cri.pull(&by_digest).await.unwrap();
    assert_eq!(id, built.id());
    let found = status(&mut cri, &by_digest).await.unwrap();
    assert_eq!((found.repo_tags.len(), found.repo_digests.as_slice()), (0, std::slice::from_ref(&by_digest)));
    assert!(found.size > 0 && !found.pinned && found.id == id);

    // A tag of the same, and the short names by which people know what docker.io has.
    let by_tag = format!("{}/team/x:1", registry.host());
    assert_eq!(cri.pull(&by_tag).await.unwrap(), id);
    node.mirror("docker.io", &registry.host());
    registry.push("library/short", "latest", &built);
    assert_eq!(cri.pull("short").await.unwrap(), id);
    let found = status(&mut cri, &id).await.unwrap();
    let mut tags = [by_tag.clone(), "docker.io/library/short:latest".to_owned()];
    tags.sort();
    assert_eq!(found.repo_tags, tags);
    let bare = id.trim_start_matches("sha256:");
    let names = [&id, bare, &bare[..13], &bare[..4], &by_tag, &by_digest];
    let short = ["short", "short:latest", "library/short", "docker.io/short", "index.docker.io/library/short:latest"];
    let other = format!("{}/team/x:9@{digest}", registry.host());
    for name in names.into_iter().chain(short).chain([other.as_str()]) {
        assert_eq!(status(&mut cri, name).await.as_ref(), Some(&found), "{name}");
        assert_eq!(list(&mut cri, Some(name)).await, std::slice::from_ref(&found), "{name}");
    }
    assert_eq!(list(&mut cri, None).await.len(), 2, "beside the probe");
    assert_eq!(list(&mut cri, Some("")).await.len(), 2);
    // What cannot be a name is nobody's.
    for name in ["none", "r.example/none:1", "UPPER", "sha256:", &"0".repeat(64), "a@sha256:0"] {
        assert_eq!(status(&mut cri, name).await, None, "{name}");
        assert!(list(&mut cri, Some(name)).await.is_empty(), "{name}");
        remove(&mut cri, name).await;
    }
    let verbose = ImageStatusRequest { image: spec(&by_tag), verbose: true };
    let info = cri.images.image_status(verbose).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    assert!(info["chainID"].as_str().unwrap().starts_with("sha256:"), "{info}");
    assert_eq!(info["imageSpec"]["config"]["Entrypoint"], serde_json::json!(["/probe"]));

    remove(&mut cri, &by_tag).await;
    for name in [&id, &by_tag, &by_digest, "short"] {
        assert_eq!(status(&mut cri, name).await, None, "{name}");
    }
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn the_id_is_the_same_wherever_it_is_told_and_from_whichever_registry_it_came() {
    let node = node().await;
    let mut cri = node.client().await;
    let (one, two) = (TinyRegistry::http(Access::Open), TinyRegistry::http(Access::Open));
    let built = image("one");
    let references = [&one, &two].map(|registry| {
        registry.push("x", "1", &built);
        format!("{}/x:1", registry.host())
    });
    let id = cri.pull(&references[0]).await.unwrap();
    assert_eq!(cri.pull(&references[1]).await.unwrap(), id);
    for reference in &references {
        assert_eq!(status(&mut cri, reference).await.unwrap().id, id);
    }
    let config = pod("same", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    // As the kubelet asks for it: by what the pull has answered.
    let mut wanted = container("same", &id, &["sleep", "forever"]);
    wanted.image.as_mut().unwrap().user_specified_image = references[1].clone();
    let container_id = cri.start(&pod_id, &config, &wanted).await.unwrap();
    let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
    let told = cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap();
    assert_eq!(told.image_id, id);
    let digests = status(&mut cri, &id).await.unwrap().repo_digests;
    assert!(digests.len() == 2 && digests.contains(&told.image_ref), "{digests:?}: {}", told.image_ref);
    assert!(!told.image.unwrap().image.is_empty());
    let filter = ContainerFilter { id: container_id, ..Default::default() };
    let request = ListContainersRequest { filter: Some(filter) };
    let listed = cri.runtime.list_containers(request).await.unwrap().into_inner().containers;
    let [listed] = api::cri::containers(listed).unwrap().try_into().unwrap();
    assert_eq!(listed.image_id, id);
    // Removed by the name of one registry, it is gone from the other too.
    remove(&mut cri, &references[0]).await;
    assert_eq!(status(&mut cri, &references[1]).await, None);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_there_at_once_and_what_was_removed_is_gone_at_once() {
    let node = node().await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    let before = usage(&mut cri).await;
    for round in 0..3 {
        registry.push("x", "1", &image(&format!("round {round}")));
        let reference = format!("{}/x:1", registry.host());
        let id = cri.pull(&reference).await.unwrap();
        assert!(list(&mut cri, None).await.iter().any(|image| image.repo_tags.contains(&reference)));
        assert!(status(&mut cri, &reference).await.is_some());
        let with = usage(&mut cri).await;
        assert!(with.0 > before.0 && with.1 > before.1, "{before:?} {with:?}");
        let removals = (0..5).map(|_| {
            let (mut cri, id) = (cri.clone(), id.clone());
            tokio::spawn(async move {
                remove(&mut cri, &id).await;
                assert_eq!(status(&mut cri, &id).await, None);
            })
        });
        for removal in removals.collect::<Vec<_>>() {
            removal.await.unwrap();
        }
        assert!(list(&mut cri, None).await.iter().all(|image| image.id != id));
        assert_eq!(usage(&mut cri).await, before, "the kubelet measures right after it has removed something");
    }
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_with_its_clients_deadline_or_with_its_client_and_leaves_nothing_half_made() {
    let node = node().await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let gate = Gate::default();
    registry.trouble("GET /v2/x/blobs/", Trouble::Stall(100, gate.clone()), usize::MAX);
    let request = || PullImageRequest { image: spec(&reference), ..Default::default() };
    for allowed in [Duration::from_millis(1), Duration::from_secs(2)] {
        let mut timed = Request::new(request());
        timed.set_timeout(allowed);
        let late = cri.images.pull_image(timed).await.unwrap_err();
        // Whichever looks at its clock first: the client ends the call too, and says so itself.
        assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{allowed:?}: {late}");
    }
    eventually(SOON, "the daemon has given up what had two seconds, by itself or since its client had", || {
        let log = node.log();
        let told =
            ["PullImage took longer than the 2000 ms that the client allowed", "PullImage given up by its client"];
        if told.iter().any(|told| log.contains(told)) { Ok(()) } else { Err(log) }
    });
    let gone = tokio::time::timeout(Duration::from_millis(300), cri.images.pull_image(request())).await;
    assert!(gone.is_err(), "it stands still");
    eventually(SOON, "nothing half-made is left", || {
        let left = fs::read_dir(node.dir().join("root/images/ingest")).unwrap().count();
        if left == 0 { Ok(()) } else { Err(left) }
    });
    assert_eq!(status(&mut cri, &reference).await, None);
    gate.open();
    assert_eq!(cri.pull(&reference).await.unwrap(), built.id());
    node.finish().await;
}

/// What the kubelet matches is the beginning of the bare message, of code Unknown only.
#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_nodes_policy_keeps_out_is_told_in_the_words_that_the_kubelet_looks_for() {
    let place = tempfile::tempdir().unwrap();
    let policy = place.path().join("policy.json");
    let images = format!("policy = [{policy:?}]");
    let node = node_with(NodeOptions { images, ..NodeOptions::default() }).await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    registry.push("x", "1", &image("one"));
    let reference = format!("{}/x:1", registry.host());
    for (kind, told) in [("reject", "rejects"), ("signedBy", "signedBy"), ("sigstoreSigned", "sigstoreSigned")] {
        fs::write(&policy, format!(r#"{{"default":[{{"type":"{kind}"}}]}}"#)).unwrap();
        let refused = cri.pull(&reference).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unknown, "{refused}");
        assert!(refused.message().starts_with("SignatureValidationFailed: "), "{refused}");
        for part in [told, &policy.display().to_string(), "default", &reference] {
            assert!(refused.message().contains(part), "{part}: {refused}");
        }
    }
    fs::write(&policy, "{}").unwrap();
    let wrong = cri.pull(&reference).await.unwrap_err();
    assert_eq!(wrong.code(), Code::FailedPrecondition, "{wrong}");
    assert!(wrong.message().contains(&policy.display().to_string()), "{wrong}");
    assert_eq!(registry.asked(), Vec::<String>::new());
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    cri.pull(&reference).await.unwrap();
    node.finish().await;
}

async fn are_pinned(node: &TempNode, wanted: &[(&str, bool)]) {
    let mut cri = node.client().await;
    for (name, pinned) in wanted {
        assert_eq!(status(&mut cri, name).await.unwrap().pinned, *pinned, "{name}");
    }
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_pin_is_pinned_also_when_it_comes_later_and_over_a_restart() {
    let registry = TinyRegistry::http(Access::Open);
    registry.push("x", "1", &image("one"));
    registry.push("x", "2", &image("two"));
    let [one, two] = ["1", "2"].map(|tag| format!("{}/x:{tag}", registry.host()));
    registry.push("base/y", "1", &image("three"));
    let three = format!("{}/base/y:1", registry.host());
    let images = format!("pinned = [{PROBE:?}, {one:?}, \"{}/base/*\"]", registry.host());
    let mut node = node_with(NodeOptions { images, ..NodeOptions::default() }).await;
    let mut cri = node.client().await;
    for reference in [&one, &two, &three] {
        cri.pull(reference).await.unwrap();
    }
    let wanted = [(PROBE, true), (&one, true), (&two, false), (&three, true)];
    are_pinned(&node, &wanted).await;
    node.restart_daemon();
    are_pinned(&node, &wanted).await;
    // The kubelet leaves it alone; a person may still remove it.
    remove(&mut node.client().await, &one).await;
    eventually_async(SOON, "it is gone", || async {
        if status(&mut node.client().await, &one).await.is_none() { Ok(()) } else { Err("it is listed") }
    })
    .await;
    node.finish().await;
}
