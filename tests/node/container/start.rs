//! What a container runs, and how it is told when that cannot be.

use api::cri::v1::{ContainerConfig, ContainerState, ListContainersRequest, StartContainerRequest};
use serde_json::json;
use testkit::{Layer, NodeOptions, TempNode};

use crate::{
    scene::{Scene, of_image, probe, security},
    support,
};

/// A node that has the probe image, and one more under this name.
async fn node_with_image(name: &str, image: testkit::ImageBuilder) -> TempNode {
    let mut node = TempNode::prepare(NodeOptions::default());
    support::import(node.dir(), support::probe().build().archive(support::PROBE)).await;
    support::import(node.dir(), image.build().archive(name)).await;
    node.start_daemon();
    node
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn command_and_arguments_replace_the_images_as_kubernetes_says() {
    const IMAGE: &str = "localhost/coracle/words:1";
    let image = support::probe().set("Entrypoint", json!(["/probe", "print"])).set("Cmd", json!(["from", "image"]));
    let mut scene = Scene::on(node_with_image(IMAGE, image).await, |_| ()).await;
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (name, command, args, printed) in [
        ("neither", words(&[]), words(&[]), "from image\n"),
        ("args", words(&[]), words(&["my", "args"]), "my args\n"),
        ("both", words(&["/probe", "print-n"]), words(&["a", "b"]), "a b\n"),
        ("command", words(&["/probe", "print", "alone"]), words(&[]), "alone\n"),
        // Looked for along PATH, as a shell would.
        ("by-name", words(&["probe", "print", "found"]), words(&[]), "found\n"),
    ] {
        let mut config = of_image(name, IMAGE, &[]);
        (config.command, config.args) = (command, args);
        config.envs = vec![api::cri::v1::KeyValue { key: "PATH".into(), value: b"/nowhere:/".to_vec() }];
        let ended = scene.outcome(&config).await;
        assert_eq!((ended.status.exit_code, ended.stdout.as_str()), (0, printed), "{name}: {}", ended.stderr);
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_program_that_cannot_be_started_is_a_start_error_in_known_words() {
    const IMAGE: &str = "localhost/coracle/traps:1";
    let image = support::probe().layer(
        Layer::new().file("notes.txt", 0o644, b"no program").file("garbage", 0o755, b"\x01\x02\x03").file(
            "orphan.sh",
            0o755,
            b"#!/no/such/interpreter\n",
        ),
    );
    let mut scene = Scene::on(node_with_image(IMAGE, image).await, |_| ()).await;
    for (name, program, words) in [
        ("absent", "/no/such/program", "no such file or directory"),
        ("unfound", "no-such-program", "executable file not found in $PATH"),
        ("plain", "/notes.txt", "permission denied"),
        ("directory", "/tmp", "permission denied"),
        ("garbage", "/garbage", "exec format error"),
        ("orphan", "/orphan.sh", "no such file or directory"),
        ("orphan-by-name", "orphan.sh", "no such file or directory"),
        ("below-file", "/notes.txt/program", "not a directory"),
    ] {
        let mut config = of_image(name, IMAGE, &[]);
        config.command = vec![program.to_owned()];
        config.envs = vec![api::cri::v1::KeyValue { key: "PATH".into(), value: b"/nowhere:/".to_vec() }];
        let id = scene.create(&config).await;
        let request = StartContainerRequest { container_id: id.clone() };
        let refused = scene.runtime.start_container(request).await.expect_err(name);
        assert!(refused.message().to_lowercase().contains(&words.to_lowercase()), "{name}: {}", refused.message());
        assert!(refused.message().contains(program), "{name}: {}", refused.message());

        let status = scene.status(&id).await;
        assert_eq!(status.state, ContainerState::ContainerExited as i32, "{name}");
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"), "{name}");
        assert!(status.message.to_lowercase().contains(&words.to_lowercase()), "{name}: {}", status.message);
        assert!(status.started_at >= status.created_at && status.finished_at >= status.started_at, "{status:?}");
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn what_can_never_be_started_is_refused_when_it_is_created() {
    let mut scene = Scene::new().await;
    let change = |name: &str, act: &dyn Fn(&mut ContainerConfig)| {
        let mut config = probe(name, &["exit", "0"]);
        act(&mut config);
        config
    };
    for config in [
        change("unknown-user", &|c| security(c).run_as_username = "nobody-knows".into()),
        change("group-without-user", &|c| security(c).run_as_group = Some(api::cri::v1::Int64Value { value: 7 })),
        change("bad-capability", &|c| {
            security(c).capabilities.get_or_insert_default().add_capabilities = vec!["NO_SUCH_THING".into()];
        }),
        change("file-as-directory", &|c| c.working_dir = "/etc/passwd".into()),
        change("privileged-in-a-plain-pod", &|c| security(c).privileged = true),
        change("log-outside", &|c| c.log_path = "../../outside.log".into()),
        change("relative-mount", &|c| {
            c.mounts = vec![api::cri::v1::Mount {
                host_path: "relative".into(),
                container_path: "/mnt".into(),
                ..Default::default()
            }];
        }),
    ] {
        let name = config.metadata.as_ref().unwrap().name.clone();
        assert!(scene.try_create(&config).await.is_err(), "{name} was created");
        let mut good = config.clone();
        (good.linux, good.mounts) = (probe("", &[]).linux, Vec::new());
        (good.working_dir, good.log_path) = (String::new(), String::new());
        scene.create(&good).await;
    }
    let listed = scene.runtime.list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.containers.len(), 7, "only those that could be created");
    scene.finish().await;
}
