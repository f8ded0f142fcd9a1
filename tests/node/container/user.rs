//! Whom a container's first process runs as.

use api::cri::v1::{ContainerConfig, Int64Value, SupplementalGroupsPolicy};
use serde_json::{Value, json};
use testkit::TempNode;

use crate::{
    scene::{Scene, of_image, probe, security},
    support::{self, PROBE},
};

/// What the process and the status agree on: user, group, all groups sorted.
async fn identity(scene: &mut Scene, config: &ContainerConfig) -> (u64, u64, Vec<i64>) {
    let ended = scene.outcome(config).await;
    assert_eq!(ended.status.exit_code, 0, "{}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    // Real, effective, saved and file system id are one.
    let one = |list: &Value| {
        let ids: Vec<_> = list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        assert!(ids.len() == 4 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0]
    };
    let (uid, gid) = (one(&report["uids"]), one(&report["gids"]));
    let mut groups: Vec<i64> = report["groups"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
    groups.sort_unstable();
    let told = ended.status.user.unwrap().linux.unwrap();
    assert_eq!((told.uid as u64, told.gid as u64), (uid, gid));
    let mut supplemental = told.supplemental_groups.clone();
    supplemental.sort_unstable();
    assert_eq!(supplemental, groups, "the status and the process");
    (uid, gid, groups)
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_user_comes_by_number_or_name_with_the_groups_that_the_policy_says() {
    let mut scene = Scene::new().await;
    let mut number = 0;
    let mut case = |act: &dyn Fn(&mut api::cri::v1::LinuxContainerSecurityContext)| {
        number += 1;
        let mut config = probe(&format!("case-{number}"), &["report"]);
        act(security(&mut config));
        config
    };
    let id = |value| Some(Int64Value { value });
    let strict = SupplementalGroupsPolicy::Strict as i32;
    for (config, wanted) in [
        (case(&|_| ()), (0, 0, vec![0])),
        (case(&|s| s.run_as_user = id(1000)), (1000, 1000, vec![1000, 2000])),
        (case(&|s| s.run_as_username = "user".into()), (1000, 1000, vec![1000, 2000])),
        (case(&|s| s.run_as_user = id(4242)), (4242, 0, vec![0])),
        (case(&|s| (s.run_as_user, s.run_as_group) = (id(1001), id(1002))), (1001, 1002, vec![1002])),
        (
            case(&|s| (s.run_as_user, s.supplemental_groups) = (id(1000), vec![1234, 1000])),
            (1000, 1000, vec![1000, 1234, 2000]),
        ),
        (
            case(&|s| {
                (s.run_as_user, s.supplemental_groups) = (id(1000), vec![1234]);
                s.supplemental_groups_policy = strict;
            }),
            (1000, 1000, vec![1000, 1234]),
        ),
        (case(&|s| s.supplemental_groups = vec![1234, 5678]), (0, 0, vec![0, 1234, 5678])),
    ] {
        let name = config.metadata.as_ref().unwrap().name.clone();
        assert_eq!(identity(&mut scene, &config).await, wanted, "{name}");
    }
    // A command in the container is who the container is.
    let mut config = probe("by-command", &["sleep", "forever"]);
    security(&mut config).run_as_username = "user".into();
    let container = scene.start(&config).await;
    let report = scene.report_in(&container).await;
    assert_eq!((&report["uids"][1], &report["groups"]), (&json!(1000), &json!([1000, 2000])));
    assert_eq!(scene.attempt(&container, &["/probe", "cat", "/root"]).await.0, 1);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn the_images_user_counts_where_the_request_names_none() {
    let mut node = TempNode::prepare(Default::default());
    support::import(node.dir(), support::probe().build().archive(PROBE)).await;
    let cases = [
        ("user", "user", (1000, 1000, vec![1000, 2000])),
        ("pair", "user:extra", (1000, 2000, vec![2000])),
        ("numbers", "1234:5678", (1234, 5678, vec![5678])),
        ("number", "1000", (1000, 1000, vec![1000, 2000])),
    ];
    for (name, user, _) in &cases {
        let image = support::probe().set("User", json!(user));
        support::import(node.dir(), image.build().archive(&format!("localhost/coracle/{name}:1"))).await;
    }
    node.start_daemon();
    let mut scene = Scene::on(node, |_| ()).await;
    for (name, user, (uid, gid, groups)) in cases {
        let config = of_image(name, &format!("localhost/coracle/{name}:1"), &["report"]);
        let (have_uid, have_gid, have_groups) = identity(&mut scene, &config).await;
        assert_eq!((have_uid, have_gid), (uid, gid), "{user}");
        assert!(groups.iter().all(|group| have_groups.contains(group)), "{user}: {have_groups:?}");
    }
    // The request is stronger.
    let mut config = of_image("override", "localhost/coracle/pair:1", &["report"]);
    security(&mut config).run_as_user = Some(Int64Value { value: 0 });
    assert_eq!(identity(&mut scene, &config).await.0, 0);
    scene.finish().await;
}
