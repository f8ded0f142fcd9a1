//! The most that a container or a command can be given: at each bound it works or is refused by name, and nothing
//! hangs.

use std::time::Duration;

use api::cri::v1::{ContainerConfig, ExecSyncRequest, KeyValue, Mount, StartContainerRequest};
use model::{ARGUMENT_MAX, ARGUMENTS_MAX, argument_space};
use tonic::{Code, Status};

use crate::scene::{Scene, probe, security, sleeper};

/// Far more than any of this takes, far less than the kubelet waits.
const PROMPTLY: Duration = Duration::from_secs(30);
/// As the door has them.
const PATHS_MAX: usize = 16_384;
const PATH_BYTES_MAX: usize = 512 << 10;

/// So many texts of these bytes, told apart by the numbers that they begin with.
fn texts(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:06}{}", "x".repeat(bytes - 6))).collect()
}

/// As many of the longest texts as fit together, less some room for what the image brings.
fn longest() -> Vec<String> {
    texts(ARGUMENTS_MAX / argument_space(ARGUMENT_MAX) - 1, ARGUMENT_MAX)
}

fn variables(texts: Vec<String>) -> Vec<KeyValue> {
    let split = |text: String| KeyValue { key: format!("V{}", &text[..6]), value: text.into_bytes().split_off(8) };
    texts.into_iter().map(split).collect()
}

fn paths(count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|n| format!("/{n:06}{}", "/x".repeat((bytes - 7) / 2))).collect()
}

/// A container that is changed by one field, and what comes of it.
struct Case {
    what: &'static str,
    change: Box<dyn Fn(&mut ContainerConfig)>,
    /// The field that a refusal names; none when it has to work.
    refused: Option<&'static str>,
}

fn case(what: &'static str, refused: Option<&'static str>, change: impl Fn(&mut ContainerConfig) + 'static) -> Case {
    Case { what, change: Box::new(change), refused }
}

fn assert_refused(what: &str, field: &str, status: &Status) {
    let code = status.code();
    assert!(matches!(code, Code::InvalidArgument | Code::ResourceExhausted), "{what}: {status}");
    assert!(status.message().contains(field), "{what}: {status}");
    assert!(status.message().contains("at most"), "{what}: {status}");
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn each_field_of_a_container_works_up_to_its_bound_and_is_refused_by_name_beyond() {
    let mut scene = Scene::new().await;
    let small = ARGUMENTS_MAX / argument_space(7);
    for (n, Case { what, change, refused }) in [
        case("long arguments", None, |c| c.args.extend(longest())),
        case("many arguments", None, move |c| c.args.extend(texts(small - 1000, 7))),
        case("long variables", None, |c| c.envs = variables(texts(longest().len(), ARGUMENT_MAX))),
        case("many variables", None, move |c| c.envs = variables(texts(small / 2, 14))),
        case("one argument too long", Some("config.args[2]"), |c| c.args.extend(texts(1, ARGUMENT_MAX + 1))),
        case("too many arguments", Some("config.args"), move |c| c.args.extend(texts(small + 1, 7))),
        case("too long a command", Some("config.command"), move |c| c.command = texts(small + 1, 7)),
        case("too many variables", Some("config.envs"), move |c| c.envs = variables(texts(small + 1, 8))),
        case("one variable too long", Some("config.envs[0].value"), |c| {
            c.envs = vec![KeyValue { key: "V".into(), value: vec![b'x'; ARGUMENT_MAX] }];
        }),
        case("arguments and variables together", Some("config.envs"), move |c| {
            c.args.extend(texts(small / 2, 7));
            c.envs = variables(texts(small * 2 / 3, 8));
        }),
        case("many masked paths", None, |c| security(c).masked_paths = paths(PATHS_MAX, 31)),
        case("long masked paths", None, |c| security(c).masked_paths = paths(PATH_BYTES_MAX / 4095, 4095)),
        case("too many masked paths", Some("masked_paths"), |c| security(c).masked_paths = paths(PATHS_MAX + 1, 7)),
        case("too long masked paths", Some("masked_paths"), |c| security(c).masked_paths = paths(PATHS_MAX, 4095 / 8)),
        case("too long read-only paths", Some("readonly_paths"), |c| {
            security(c).readonly_paths = paths(PATH_BYTES_MAX / 4095 + 1, 4095);
        }),
        case("too long paths of mounts", Some("config.mounts"), |c| {
            let mount = |path| Mount { host_path: "/tmp".into(), container_path: path, ..Default::default() };
            c.mounts = paths(100, 4095).into_iter().map(mount).collect();
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = probe(&format!("case-{n}"), &["sleep", "forever"]);
        change(&mut config);
        let created = tokio::time::timeout(PROMPTLY, scene.try_create(&config)).await;
        let created = created.unwrap_or_else(|_| panic!("{what}: no answer in {PROMPTLY:?}"));
        match (created, refused) {
            (Ok(id), None) => {
                let start = StartContainerRequest { container_id: id.clone() };
                scene.runtime.start_container(start).await.unwrap_or_else(|status| panic!("{what}: {status}"));
                let seen = scene.look(&id, &["/probe", "print", "here"]).await;
                assert_eq!(seen.trim_end(), "here", "{what}");
                scene.discard(&id).await;
            }
            (Err(status), Some(field)) => assert_refused(what, field, &status),
            (Ok(_), Some(_)) => panic!("{what}: it was taken"),
            (Err(status), None) => panic!("{what}: {status}"),
        }
    }
    scene.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_command_works_up_to_its_bound_and_is_refused_by_name_beyond() {
    let mut scene = Scene::new().await;
    let runs = scene.start(&sleeper("runs")).await;
    let small = ARGUMENTS_MAX / argument_space(7);
    for (what, words, refused) in [
        ("long words", longest(), None),
        ("many words", texts(small - 1000, 7), None),
        ("a word too long", texts(1, ARGUMENT_MAX + 1), Some("cmd[2]")),
        ("too many words", texts(small + 1, 7), Some("cmd")),
    ] {
        let cmd = ["/probe", "print"].map(str::to_owned).into_iter().chain(words).collect();
        let request = ExecSyncRequest { container_id: runs.clone(), cmd, timeout: 0 };
        let done = tokio::time::timeout(PROMPTLY, scene.runtime.exec_sync(request)).await;
        match (done.unwrap_or_else(|_| panic!("{what}: no answer in {PROMPTLY:?}")), refused) {
            (Ok(done), None) => assert_eq!(done.into_inner().exit_code, 0, "{what}"),
            (Err(status), Some(field)) => assert_refused(what, field, &status),
            (other, _) => panic!("{what}: {:?}", other.map(|done| done.into_inner().exit_code)),
        }
    }
    scene.finish().await;
}
