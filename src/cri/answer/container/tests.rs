//! A container in each phase and after each kind of end, as the kubelet is told of it.

use std::{sync::Arc, time::Duration, time::SystemTime};

use api::cri::v1::{ContainerConfig, ContainerMetadata, ImageSpec, Mount, MountPropagation};
use model::{Digest, Exit, ExitRecord, Signal};
use pods::{Encoded, ImageNames};

use super::*;
use crate::{
    answer::info,
    request::{Host, container as request},
};

/// A launch plan of the engine's: with stop signal QUIT, user 1000:1001 and three groups.
const LAUNCH: &str = include_str!("../../../engine/tests/golden/kubelet.json");

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn exited(how: Exit) -> Phase {
    Phase::Exited { started: Some(at(20)), record: ExitRecord { how, at: at(30), oom_killed: false } }
}

fn killed_for_memory(how: Exit) -> Phase {
    Phase::Exited { started: Some(at(20)), record: ExitRecord { how, at: at(30), oom_killed: true } }
}

fn view(phase: Phase) -> ContainerView {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "web".into(), attempt: 4 }),
        image: Some(ImageSpec {
            image: "sha256:0101".into(),
            user_specified_image: "registry.example/web:1".into(),
            ..Default::default()
        }),
        mounts: vec![Mount {
            container_path: "/data".into(),
            host_path: "/srv/data".into(),
            readonly: true,
            propagation: MountPropagation::PropagationHostToContainer.into(),
            ..Default::default()
        }],
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: [("note".to_owned(), "kept as it is".to_owned())].into(),
        log_path: "web/4.log".into(),
        ..Default::default()
    };
    ContainerView {
        id: "b".repeat(64).parse().unwrap(),
        pod: "a".repeat(64).parse().unwrap(),
        plan: Arc::new(request::plan(Some(config), &Host::plain()).unwrap()),
        image: ImageNames {
            id: Digest::from_sha256([1; 32]),
            tag: Some("registry.example/web:1".into()),
            digest: Some(format!("registry.example/web@{}", Digest::from_sha256([2; 32]))),
        },
        created_at: at(10),
        phase,
        log_path: Some("/var/log/pods/x/web/4.log".into()),
        launch: Arc::new(serde_json::from_str(LAUNCH).unwrap()),
        trouble: None,
        listed: Encoded::default(),
    }
}

#[test]
fn every_phase_and_every_end_has_its_state_times_code_and_reason() {
    use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning, ContainerUnknown};
    const SECOND: i64 = 1_000_000_000;
    let (begun, ended) = (20 * SECOND, 30 * SECOND);
    let signal = |number| Exit::Signal(Signal::new(number).unwrap());
    let never_ran = |how| Phase::Exited { started: None, record: ExitRecord { how, at: at(30), oom_killed: false } };
    let why = || "exec /web: no such file or directory".to_owned();
    for (phase, state, started, finished, code, reason, message) in [
        (Phase::Created, ContainerCreated, 0, 0, 0, "", ""),
        (Phase::Running { pid: 7, since: at(20) }, ContainerRunning, begun, 0, 0, "", ""),
        (Phase::Unsettled { started: Some(at(20)) }, ContainerUnknown, begun, 0, 0, "", ""),
        (Phase::Unsettled { started: None }, ContainerUnknown, 0, 0, 0, "", ""),
        (exited(Exit::Code(0)), ContainerExited, begun, ended, 0, "Completed", ""),
        (exited(Exit::Code(3)), ContainerExited, begun, ended, 3, "Error", ""),
        (exited(signal(15)), ContainerExited, begun, ended, 143, "Error", ""),
        (exited(signal(9)), ContainerExited, begun, ended, 137, "Error", ""),
        (killed_for_memory(signal(9)), ContainerExited, begun, ended, 137, "OOMKilled", ""),
        // A shell that saw its child killed says so with its own code.
        (killed_for_memory(Exit::Code(137)), ContainerExited, begun, ended, 137, "OOMKilled", ""),
        // Some other process of the container was killed; the first one went on and ended by itself.
        (killed_for_memory(Exit::Code(0)), ContainerExited, begun, ended, 0, "Completed", ""),
        (never_ran(Exit::StartFailed { why: why() }), ContainerExited, 0, ended, 128, "StartError", &*why()),
        (exited(Exit::Unknown { why: why() }), ContainerExited, begun, ended, 255, "Unknown", &*why()),
    ] {
        let status = status(&view(phase.clone()));
        assert_eq!((status.state(), status.created_at), (state, 10 * SECOND), "{phase:?}");
        assert_eq!((status.started_at, status.finished_at), (started, finished), "{phase:?}");
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{phase:?}");
        assert_eq!(status.message, message, "{phase:?}");
        assert_eq!(item(&view(phase)).state(), state);
    }
}

#[test]
fn a_status_echoes_what_was_asked_and_names_the_image_in_each_way() {
    let view = view(Phase::Created);
    let (status, item) = (status(&view), item(&view));
    assert_eq!(status.metadata, Some(ContainerMetadata { name: "web".into(), attempt: 4 }));
    assert_eq!((status.metadata.as_ref(), &status.labels), (item.metadata.as_ref(), &item.labels));
    assert_eq!((&status.annotations, status.annotations["note"].as_str()), (&item.annotations, "kept as it is"));
    assert_eq!(status.log_path, "/var/log/pods/x/web/4.log");
    // The mounts that were asked for and no other: not `/proc`, not the pod's files.
    let [mount] = status.mounts.as_slice() else { panic!("{:?}", status.mounts) };
    assert_eq!((mount.container_path.as_str(), mount.host_path.as_str(), mount.readonly), ("/data", "/srv/data", true));
    assert_eq!(mount.propagation(), MountPropagation::PropagationHostToContainer);
    // A list shows the image as it was asked for, a status by its tag; the reference has a digest where there is one.
    let id = Digest::from_sha256([1; 32]).to_string();
    assert_eq!((&status.image_id, &item.image_id, &item.image_ref), (&id, &id, &id));
    assert_eq!(item.image.unwrap().image, "sha256:0101");
    let image = status.image.unwrap();
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        ("registry.example/web:1", "registry.example/web:1")
    );
    assert!(status.image_ref.starts_with("registry.example/web@sha256:"));
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 1001, vec![1001, 2000, 50]));
    assert_eq!(status.stop_signal, i32::from(v1::Signal::Sigquit));
}

#[test]
fn an_image_that_has_lost_its_names_is_still_named_by_its_id() {
    let mut view = view(exited(Exit::Code(0)));
    (view.image.tag, view.image.digest, view.log_path) = (None, None, None);
    let (status, id) = (status(&view), view.image.id.to_string());
    assert_eq!((status.image.unwrap().image, status.image_ref, status.log_path), (id.clone(), id, String::new()));
}

#[test]
fn a_verbose_status_has_the_pid_while_the_container_runs_and_the_plan_always() {
    for (phase, pid) in [(Phase::Created, 0), (Phase::Running { pid: 7, since: at(20) }, 7), (exited(Exit::Code(0)), 0)]
    {
        let told: serde_json::Value = serde_json::from_str(&info::container(&view(phase))["info"]).unwrap();
        assert_eq!(told["pid"], pid);
        assert_eq!(told["sandboxID"], "a".repeat(64));
        assert_eq!(told["config"]["metadata"]["name"], "web");
        assert_eq!(told["runtimeSpec"]["process"]["user"]["uid"], 1000);
    }
}
