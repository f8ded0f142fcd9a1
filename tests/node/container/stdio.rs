//! Standard input, output and the terminal of a container's first process.

use api::cri::v1::ContainerState;
use serde_json::json;
use testkit::eventually_async;

use crate::{
    log_file::{self, Stream},
    scene::{SOON, Scene, probe},
};

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn input_is_empty_unless_it_was_asked_for_and_then_stays_open() {
    let mut scene = Scene::new().await;
    let ended = scene.outcome(&probe("none", &["copy"])).await;
    assert_eq!((ended.status.exit_code, ended.stdout.as_str()), (0, "eof\n"));

    let mut waiting = Vec::new();
    for (name, once) in [("open", false), ("once", true)] {
        let mut config = probe(name, &["copy"]);
        (config.stdin, config.stdin_once) = (true, once);
        waiting.push(scene.start(&config).await);
    }
    // Time enough for an end of input to be seen: another container's whole life.
    scene.outcome(&probe("meanwhile", &["copy"])).await;
    for id in waiting {
        assert_eq!(scene.status(&id).await.state, ContainerState::ContainerRunning as i32);
        scene.stop(&id, 0).await;
    }
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_process_has_its_three_descriptors_and_no_others() {
    let mut scene = Scene::new().await;
    let report = scene.report(&probe("plain", &["report"])).await;
    let descriptors = report["descriptors"].as_object().unwrap();
    assert_eq!(descriptors.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{descriptors:?}");
    assert!(descriptors["1"] != descriptors["2"], "two outputs: {descriptors:?}");
    assert_eq!(report["terminals"], json!([false, false, false]));
    assert_eq!(report["blocked_signals"], "0000000000000000");
    // SIGPIPE alone, which the probe's own runtime ignores.
    assert_eq!(report["ignored_signals"], "0000000000001000");
    assert_eq!(report["umask"], "0022");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_terminal_is_one_stream_whose_lines_end_as_lines_do() {
    let mut scene = Scene::new().await;
    let mut config = probe("terminal", &["report"]);
    (config.tty, config.stdin) = (true, true);
    let report = scene.report(&config).await;
    assert_eq!(report["terminals"], json!([true, true, true]));
    assert_eq!(report["env"]["TERM"], "xterm");
    let descriptors = report["descriptors"].as_object().unwrap();
    assert_eq!(descriptors.len(), 3, "{descriptors:?}");
    assert!(report["devices"]["/dev/console"]["kind"] == "char", "{}", report["devices"]["/dev/console"]);

    let mut config = probe("both", &["print-err", "to", "the", "terminal"]);
    (config.tty, config.stdin) = (true, true);
    let id = scene.start(&config).await;
    scene.ended(&id).await;
    let log = scene.log(&config);
    assert_eq!(log.len(), 1);
    assert_eq!(
        (log[0].stream, log[0].full, log[0].content.as_slice()),
        (Stream::Stdout, true, &b"to the terminal"[..])
    );

    // The end of its only process is the end of the terminal, and all that it wrote is in the log.
    let mut config = probe("many", &["write-lines", "0", "2000"]);
    config.tty = true;
    let ended = scene.outcome(&config).await;
    assert_eq!(ended.stdout.lines().count(), 2000);

    let mut config = probe("alive", &["copy"]);
    (config.tty, config.stdin) = (true, true);
    let id = scene.start(&config).await;
    scene.stop(&id, 0).await;
    let path = scene.log_path(&config);
    eventually_async(SOON, "the log is whole", || async {
        log_file::read(&path);
        Ok::<_, ()>(())
    })
    .await;
    scene.finish().await;
}
