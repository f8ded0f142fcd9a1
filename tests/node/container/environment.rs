//! Variables and the working directory of a container's first process.

use api::cri::v1::KeyValue;
use serde_json::json;

use crate::{
    log_file::{self, Stream},
    scene::{Scene, of_image, probe, security},
    support::{self, PROBE},
};

fn variable(key: &str, value: &[u8]) -> KeyValue {
    KeyValue { key: key.into(), value: value.to_vec() }
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn variables_come_from_defaults_pod_image_and_request_the_later_the_stronger() {
    const IMAGE: &str = "localhost/coracle/env:1";
    let mut node = testkit::TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let image = support::probe().set("Env", json!(["A=image", "B=image", "EMPTY=", "PATH=/image/bin"]));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;

    // The image that says nothing: the defaults.
    let config = probe("plain", &["report"]);
    let report = scene.report(&config).await;
    let environment = report["env"].as_object().unwrap();
    assert_eq!(environment["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(environment["HOME"], "/root");
    assert_eq!(environment["HOSTNAME"], "scene");
    assert_eq!(environment.len(), 3, "{environment:?}");

    let mut config = of_image("full", IMAGE, &["print-env"]);
    config.envs = vec![
        variable("C", b"request"),
        variable("A", b"request"),
        variable("RAW", b"\xff\xfe=\"quoted\" $A"),
        variable("HOSTNAME", b"mine"),
        variable("C", b"again"),
    ];
    let ended = scene.outcome(&config).await;
    assert_eq!(ended.status.exit_code, 0, "{}", ended.stderr);
    let raw: Vec<Vec<u8>> = scene.log(&config).into_iter().map(|entry| entry.content).collect();
    let mut lines: Vec<_> = raw.iter().map(Vec::as_slice).collect();
    lines.sort();
    let wanted: [&[u8]; 8] = [
        b"A=request",
        b"B=image",
        b"C=again",
        b"EMPTY=",
        b"HOME=/root",
        b"HOSTNAME=mine",
        b"PATH=/image/bin",
        b"RAW=\xff\xfe=\"quoted\" $A",
    ];
    assert_eq!(lines, wanted);

    for (name, user, home) in [("known", 1000, "/home/user"), ("stranger", 4242, "/")] {
        let mut config = probe(name, &["report"]);
        security(&mut config).run_as_user = Some(api::cri::v1::Int64Value { value: user });
        assert_eq!(scene.report(&config).await["env"]["HOME"], home);
    }
    let mut config = probe("homely", &["report"]);
    config.envs = vec![variable("HOME", b"/chosen")];
    assert_eq!(scene.report(&config).await["env"]["HOME"], "/chosen");

    let mut config = probe("wrong", &["report"]);
    config.envs = vec![variable("NUL", b"a\0b")];
    assert!(scene.try_create(&config).await.is_err(), "a value that no process can have");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_working_directory_is_made_and_never_outside_of_the_container() {
    const IMAGE: &str = "localhost/coracle/cwd:1";
    let mut node = testkit::TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let escape = testkit::Layer::new().link("escape", "/../../../tmp/crt-nodetests-escape");
    let image = support::probe().layer(escape).set("WorkingDir", json!("/image/dir"));
    support::import(node.dir(), image.build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;

    assert_eq!(scene.report(&probe("root", &["report"])).await["cwd"], "/");
    for (name, asked, wanted) in [
        ("image", "", "/image/dir"),
        ("request", "/made/for/me", "/made/for/me"),
        ("slashes", "//made//twice/", "/made/twice"),
        ("dots", "/../../tmp", "/tmp"),
        ("link", "/escape/dir", "/tmp/crt-nodetests-escape/dir"),
    ] {
        let mut config = of_image(name, IMAGE, &["report"]);
        config.working_dir = asked.into();
        assert_eq!(scene.report(&config).await["cwd"], wanted, "{name}");
    }
    assert!(!std::path::Path::new("/tmp/crt-nodetests-escape").exists(), "made on the host");

    let mut config = of_image("made", IMAGE, &["stat", "/made/for/me"]);
    config.working_dir = "/made/for/me".into();
    let ended = scene.outcome(&config).await;
    let stat: serde_json::Value = serde_json::from_str(&log_file::text(&scene.log(&config), Stream::Stdout)).unwrap();
    assert_eq!((ended.status.exit_code, &stat["mode"], &stat["uid"]), (0, &json!("0755"), &json!(0)));
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_working_directory_must_be_a_directory_that_root_or_the_user_may_enter() {
    const IMAGE: &str = "localhost/coracle/cwd:2";
    let mut node = testkit::TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let layer = testkit::Layer::new().directory("root-only", 0o700).file("file", 0o644, b"").link("to-file", "/file");
    support::import(node.dir(), support::probe().layer(layer).build().archive(IMAGE)).await;
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;
    let at = |name: &str, dir: &str, user: i64| {
        let mut config = of_image(name, IMAGE, &["report"]);
        config.working_dir = dir.into();
        security(&mut config).run_as_user = Some(api::cri::v1::Int64Value { value: user });
        config
    };
    for (name, dir) in [("file", "/file"), ("link", "/to-file"), ("below-file", "/file/below")] {
        let refused = scene.try_create(&at(name, dir, 0)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{name}: {refused}");
        assert!(refused.message().contains(&format!("working directory {dir}")), "{refused}");
    }
    // As images do that were made for root: whoever else runs them is taken there too.
    for (name, user) in [("root", 0), ("other", 1000)] {
        assert_eq!(scene.report(&at(name, "/root-only", user)).await["cwd"], "/root-only", "{name}");
    }

    // A volume that its owner alone may enter, as kubelets make for a user of the pod.
    let dir = scene.node.dir().join("owned");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut config = at("owner", "/owned", 1000);
    config.mounts = vec![super::mount::bind(&dir, "/owned")];
    assert_eq!(scene.report(&config).await["cwd"], "/owned");
    scene.finish().await;
}
