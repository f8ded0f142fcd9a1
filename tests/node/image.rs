//! Images through the whole node: what registries do to it, what a pull's error says, and images that are removed while
//! containers have them.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use api::cri::v1::{
    AuthConfig, ContainerStatus, ContainerStatusRequest, ImageSpec, ImageStatusRequest, PullImageRequest,
    RemoveImageRequest,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use testkit::{
    Access, Cri, Gate, ImageBuilder, Layer, NodeOptions, TempNode, TinyProxy, TinyRegistry, Trouble, container,
    digest_of, eventually_async, pod,
};
use tonic::{Code, Status};

use crate::support::{PROBE, node, node_with};

const SOON: Duration = Duration::from_secs(20);

/// More pulls than the daemon has threads for work that blocks.
const SLOW_PULLS: usize = 140;
/// Downloads that one registry may have at a time: sixteen, and six more of small blobs.
const SHARE: usize = 16 + 6;

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lets_every_download_stand_still_keeps_no_pod_from_its_life() {
    let node = node().await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    let gate = Gate::default();
    registry.trouble("GET /v2/x/blobs/", Trouble::Stall(10, gate.clone()), usize::MAX);
    let mut pulls = Vec::new();
    for n in 0..SLOW_PULLS {
        let built = ImageBuilder::new().layer(Layer::new().file("n", 0o644, n.to_string().as_bytes())).build();
        registry.push("x", &n.to_string(), &built);
        let (mut cri, reference) = (node.client().await, format!("{}/x:{n}", registry.host()));
        pulls.push(tokio::spawn(async move { cri.pull(&reference).await }));
    }
    eventually_async(SOON, "every pull has its manifest, and as many as may download", || async {
        let (pulls, blobs) = (registry.asked_for("GET /v2/x/manifests/"), registry.asked_for("GET /v2/x/blobs/"));
        if pulls == SLOW_PULLS && blobs == SHARE { Ok(()) } else { Err((pulls, blobs)) }
    })
    .await;
    let brisk = TinyRegistry::http(Access::Open);
    brisk.push("y", "1", &ImageBuilder::new().build());
    let reference = format!("{}/y:1", brisk.host());
    tokio::time::timeout(SOON, cri.pull(&reference)).await.expect("no pull waits for another registry").unwrap();

    let config = pod("meanwhile", node.dir());
    let life = async {
        let id = cri.run(&config).await.unwrap();
        let runs = cri.start(&id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
        assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0);
        cri.remove(&id).await.unwrap();
    };
    tokio::time::timeout(SOON, life).await.expect("no step of a pod's life waits for a registry");
    gate.open();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    node.finish().await;
}

/// Nice value and class for the disk of every thread of this name of a process.
fn threads(pid: i32, name: &str) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap();
        let read = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if read("comm").trim() != name {
            continue;
        }
        let stat = read("stat");
        // The 19th of all fields, of which the second may hold anything.
        let nice =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(16)).unwrap().parse().unwrap();
        let class = Command::new("ionice").arg("-p").arg(thread.file_name()).output().unwrap();
        found.push((nice, String::from_utf8(class.stdout).unwrap().trim().to_owned()));
    }
    found
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_comes_after_everybody_else_and_says_how_far_it_is() {
    let node = node().await;
    let (registry, gate) = (TinyRegistry::http(Access::Open), Gate::default());
    let built = ImageBuilder::new().layer(Layer::new().file("large", 0o644, &vec![1; 3 << 20])).build();
    registry.push("x", "1", &built);
    registry.trouble(&digest_of(&built.layers[0]), Trouble::Stall(2 << 20, gate.clone()), usize::MAX);
    let (mut cri, reference) = (node.client().await, format!("{}/x:1", registry.host()));
    let pull = tokio::spawn(async move { cri.pull(&reference).await });
    let bytes = built.layers[0].len();
    let told = eventually_async(SOON, "the log tells of a layer that is under way", || async {
        let log = node.log();
        let told = log.lines().find(|line| line.contains(" pulling ") && !line.contains("bytes=0")).map(str::to_owned);
        told.ok_or(log)
    })
    .await;
    for part in [&format!("image=\"{}/x:1\"", registry.host()), "layers_done=0 layers=1", &format!(" bytes={bytes}")] {
        assert!(told.contains(part), "{told}");
    }
    let done = told.split_once("bytes_done=").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    assert!((1 << 20..=2 << 20).contains(&done.parse::<usize>().unwrap()), "{told}");
    // One unpacks, one inflates, one hashes.
    for (name, least) in [("images-work", 3), ("images-trash", 1), ("trash", 1)] {
        let threads = threads(node.daemon_pid(), name);
        let come_last = threads.iter().all(|thread| *thread == (19, "idle".to_owned()));
        assert!(threads.len() >= least && come_last, "{name}: {threads:?}");
    }
    gate.open();
    pull.await.unwrap().unwrap();
    node.finish().await;
}

/// A node whose log holds all that it can.
async fn talkative() -> TempNode {
    node_with(NodeOptions { log: "debug".to_owned(), ..NodeOptions::default() }).await
}

async fn refused(cri: &mut Cri, reference: &str, auth: Option<AuthConfig>) -> Status {
    let image = ImageSpec { image: reference.to_owned(), ..Default::default() };
    let request = PullImageRequest { image: Some(image), auth, ..Default::default() };
    cri.images.pull_image(request).await.unwrap_err()
}

/// The kubelet takes the bare message of code Unknown and looks how it begins; of every other code it looks at the
/// code.
#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_or_busy_is_told_in_the_words_that_the_kubelet_looks_for() {
    let node = node().await;
    let mut cri = node.client().await;
    // A port that was free a moment ago, and is nobody's.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = refused(&mut cri, &format!("{nobody}/x:1"), None).await;
    assert_eq!(away.code(), Code::Unknown, "{away}");
    assert!(away.message().starts_with("RegistryUnavailable: "), "{away}");
    assert!(away.message().contains(&nobody.to_string()), "{away}");

    let busy = TinyRegistry::http(Access::Open);
    for (status, body) in
        [(503, "<html>a proxy's page</html>"), (500, ""), (429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#)]
    {
        busy.trouble("/v2/", Trouble::Status(status, body.to_owned()), usize::MAX);
        let told = refused(&mut cri, &format!("{}/x:1", busy.host()), None).await;
        assert_eq!(told.code(), Code::Unknown, "{told}");
        assert!(told.message().starts_with("RegistryUnavailable: "), "{told}");
        assert!(told.message().contains(&format!("{}: HTTP {status}", busy.host())), "{told}");
        busy.calm();
    }
    let missing = refused(&mut cri, &format!("{}/x:1", busy.host()), None).await;
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    assert!(missing.message().contains("not found"), "{missing}");
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_so_and_no_credential_is_in_any_log() {
    let node = talkative().await;
    let mut cri = node.client().await;
    let access = Access::Basic { user: "ann".to_owned(), password: "right".to_owned() };
    let basic = TinyRegistry::http(access);
    let token = Access::Token { user: "ann".to_owned(), password: "right".to_owned(), post: true };
    let token = TinyRegistry::http(token);
    let forbidding = TinyRegistry::http(Access::Open);
    forbidding.trouble("/v2/", Trouble::Status(403, String::new()), usize::MAX);
    let secrets = ["hunter2-password", "hunter2-identity", "hunter2-registry"];
    let encoded = STANDARD.encode(format!("ann:{}", secrets[0]));
    let [password, identity, own] = [
        AuthConfig { username: "ann".into(), password: secrets[0].into(), ..Default::default() },
        AuthConfig { identity_token: secrets[1].into(), ..Default::default() },
        AuthConfig { registry_token: secrets[2].into(), ..Default::default() },
    ];
    let both = AuthConfig { auth: encoded.clone(), ..Default::default() };
    let mut texts = Vec::new();
    for registry in [&basic, &token, &forbidding] {
        for auth in [None, Some(password.clone()), Some(both.clone()), Some(identity.clone()), Some(own.clone())] {
            let denied = refused(&mut cri, &format!("{}/x:1", registry.host()), auth).await;
            assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
            let wanted = "pull access denied, repository does not exist or may require authorization";
            assert!(denied.message().contains(wanted), "{denied}");
            assert!(denied.message().contains(&registry.host()), "{denied}");
            texts.push(denied.message().to_owned());
        }
    }
    let log = node.log();
    assert!(log.contains("DEBUG") && log.contains("PullImage"), "the log is the one that is meant");
    texts.push(log);
    for text in texts {
        assert!(!text.contains("hunter2") && !text.contains(&encoded), "{text}");
    }
    node.finish().await;
}

/// A credential helper of the tests: a script in the daemon's PATH.
fn helper(dir: &Path, name: &str, script: &str) {
    let path = dir.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn credential_helpers_are_run_by_the_launcher_and_only_when_a_host_demands_something() {
    let programs = tempfile::tempdir().unwrap();
    let docker_config = programs.path().join("docker.json");
    let path = format!("{}:/usr/bin:/bin", programs.path().display());
    let node = node_with(NodeOptions {
        images: format!("docker_config = {docker_config:?}"),
        environment: vec![("PATH".to_owned(), path)],
        log: "debug".to_owned(),
        ..NodeOptions::default()
    })
    .await;
    let mut cri = node.client().await;
    let registries = [(); 4].map(|()| {
        let registry = TinyRegistry::http(Access::Basic { user: "ann".to_owned(), password: "hunter2".to_owned() });
        registry.push("x", "1", &ImageBuilder::new().build());
        registry
    });
    let open = TinyRegistry::http(Access::Open);
    open.push("x", "1", &ImageBuilder::new().build());
    let [good, nothing, broken, endless] = &registries;
    let helpers: Vec<_> =
        [(good, "good"), (nothing, "nothing"), (broken, "broken"), (endless, "endless"), (&open, "good")]
            .into_iter()
            .map(|(registry, name)| format!("{:?}: {name:?}", registry.host()))
            .collect();
    fs::write(&docker_config, format!("{{\"credHelpers\": {{{}}}}}", helpers.join(","))).unwrap();
    let dir = programs.path();
    let seen = dir.join("seen");
    let answer = r#"printf '{"Username":"ann","Secret":"hunter2"}'"#;
    helper(dir, "good", &format!("{{ echo $1; cat; echo; cat /proc/$PPID/comm; }} >> {}\n{answer}", seen.display()));
    helper(dir, "nothing", "echo credentials not found in native keychain; exit 1");
    helper(dir, "broken", "echo hunter3-of-standard-error >&2; echo the safe is locked; exit 7");
    helper(dir, "endless", "exec yes hunter4");

    cri.pull(&format!("{}/x:1", open.host())).await.unwrap();
    assert!(!seen.exists(), "a host that lets everybody in needs no helper");
    cri.pull(&format!("{}/x:1", good.host())).await.unwrap();
    assert_eq!(fs::read_to_string(&seen).unwrap(), format!("get\n{}\ncoracle-launch\n", good.host()));
    for (registry, told) in
        [(nothing, ""), (broken, "exit code 7: the safe is locked"), (endless, "it wrote more than")]
    {
        let denied = refused(&mut cri, &format!("{}/x:1", registry.host()), None).await;
        assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
        assert!(denied.message().contains(told), "{denied}");
        assert_eq!(denied.message().contains("docker-credential-"), !told.is_empty(), "{denied}");
    }
    let log = node.log();
    assert!(!log.contains("hunter"), "{log}");
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_through_the_proxies_of_the_environment() {
    let secure = TinyRegistry::https(Access::AnonymousToken);
    let plain = TinyRegistry::http(Access::Open);
    for registry in [&secure, &plain] {
        registry.push("x", "1", &ImageBuilder::new().build());
    }
    let tunnel = TinyProxy::start(&secure.host());
    let variable = |name: &str, value: String| (name.to_owned(), value);
    let node = node_with(NodeOptions {
        environment: vec![
            variable("HTTPS_PROXY", format!("http://ann:hunter2@{}", tunnel.host())),
            // A registry that is asked as a proxy answers as one.
            variable("HTTP_PROXY", plain.url()),
            variable("NO_PROXY", "inside.example".to_owned()),
        ],
        ..NodeOptions::default()
    })
    .await;
    let mut cri = node.client().await;
    let certs = node.dir().join("certs.d");
    for (host, text) in [
        ("registry.example", "ca = \"ca.pem\"\n"),
        ("plain.example", "server = \"http://plain.example\"\n"),
        ("inside.example", "server = \"http://inside.example:1\"\ndial_timeout = \"3s\"\n"),
    ] {
        fs::create_dir_all(certs.join(host)).unwrap();
        fs::write(certs.join(host).join("hosts.toml"), text).unwrap();
    }
    fs::write(certs.join("registry.example/ca.pem"), secure.certificate()).unwrap();
    // Its token server is named by an address of this machine, which no proxy stands before.
    cri.pull("registry.example/x:1").await.unwrap();
    assert!(!tunnel.asked().is_empty());
    for asked in tunnel.asked() {
        assert_eq!(asked, "CONNECT registry.example:443 Basic YW5uOmh1bnRlcjI=");
    }
    cri.pull("plain.example/x:1").await.unwrap();
    assert!(plain.headers("host").iter().all(|host| host == "plain.example"));
    let before = plain.asked().len();
    let away = refused(&mut cri, "inside.example/x:1", None).await;
    assert_eq!(away.code(), Code::Unknown, "{away}");
    assert_eq!(plain.asked().len(), before, "it is not asked for through a proxy");
    node.finish().await;
}

async fn status(cri: &mut Cri, container: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
    cri.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
}

/// The kubelet takes a status without image or image_ref for an error of ours.
#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_container_keeps_the_names_of_its_image_when_that_is_removed() {
    let mut node = node().await;
    let mut cri = node.client().await;
    let config = pod("keeps", node.dir());
    let pod_id = cri.run(&config).await.unwrap();
    let id = cri.start(&pod_id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let before = status(&mut cri, &id).await;
    let spec = ImageSpec { image: PROBE.to_owned(), ..Default::default() };
    assert_eq!(before.image.as_ref().map(|image| image.image.as_str()), Some(PROBE));
    assert!(!before.image_ref.is_empty() && !before.image_id.is_empty());

    for _ in 0..2 {
        cri.images.remove_image(RemoveImageRequest { image: Some(spec.clone()) }).await.unwrap();
    }
    let request = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
    assert_eq!(cri.images.image_status(request.clone()).await.unwrap().into_inner().image, None);
    assert_eq!(status(&mut cri, &id).await, before);
    assert_eq!(cri.exec(&id, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0, "its files are there");
    let gone = cri.create(&pod_id, &config, &container("another", PROBE, &[])).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound, "no container is made of it any more: {gone}");

    node.restart_daemon();
    let mut cri = node.client().await;
    assert_eq!(status(&mut cri, &id).await, before);
    assert_eq!(cri.images.image_status(request).await.unwrap().into_inner().image, None);
    node.finish().await;
}

/// The daemon's largest resident memory so far, in KiB.
fn most_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// By far more than may be in memory, in layers that come and are unpacked side by side, one of them much larger than
/// the others.
#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_takes_no_more_memory_the_larger_the_image_is() {
    const MIB: usize = 1 << 20;
    const MOST: u64 = 64 << 10;
    let node = node().await;
    let mut cri = node.client().await;
    let registry = TinyRegistry::http(Access::Open);
    let mut image = ImageBuilder::new();
    for (n, mib) in [96, 12, 12, 12, 12, 12, 12, 12, 12].into_iter().enumerate() {
        // Every block another one, so that each layer is of its own.
        let content: Vec<u8> = (0..mib * MIB / 8).flat_map(|at| (at * 31 + n).to_le_bytes()).collect();
        image = image.layer(Layer::new().file(&format!("{n}"), 0o644, &content));
    }
    registry.push("x", "1", &image.build());
    let before = most_memory(node.daemon_pid());
    cri.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    let grown = most_memory(node.daemon_pid()) - before;
    assert!(grown < MOST, "{grown} KiB more than {before}, for an image of 192 MiB");
    node.finish().await;
}
