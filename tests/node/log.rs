//! The log of a container: its form, its completeness, its rotation.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::SystemTime,
};

use api::cri::v1::{ContainerState, ReopenContainerLogRequest};
use testkit::NodeOptions;
use tonic::{Code, Status};

use crate::{
    log_file::{self, Stream},
    scene::{Scene, probe, sleeper},
    support::node_with,
};

/// Longest content of an entry.
const PIECE: usize = 16 << 10;

async fn reopen(scene: &mut Scene, id: &str) -> Result<(), Status> {
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    scene.runtime.reopen_container_log(request).await.map(|_| ())
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_pods_log_directory_is_there_before_its_first_container() {
    let scene = Scene::with(|pod| pod.log_directory.push_str("/deep/er")).await;
    assert!(fs::metadata(&scene.config.log_directory).unwrap().is_dir());
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_creation_that_fails_leaves_no_log_that_was_not_there() {
    let environment = vec![("CORACLED_FAULTS".to_owned(), "create.prepare=fail".to_owned())];
    let node = node_with(NodeOptions { environment, ..NodeOptions::default() }).await;
    let mut scene = Scene::on(node, |_| ()).await;
    let logs = std::path::PathBuf::from(&scene.config.log_directory);
    // As the kubelet prepares it for a second attempt, and as a person may ask.
    fs::create_dir(logs.join("ours")).unwrap();
    fs::write(logs.join("ours/0.log"), "earlier").unwrap();
    for path in ["ours/0.log", "ours/1.log", "not/ours/0.log", "0.log"] {
        let mut config = sleeper("never");
        config.log_path = path.into();
        assert!(scene.try_create(&config).await.is_err(), "{path}");
    }
    let names =
        |dir: &std::path::Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&logs), ["ours"]);
    assert_eq!(names(&logs.join("ours")), ["0.log"]);
    assert_eq!(fs::read(logs.join("ours/0.log")).unwrap(), b"earlier");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_line_is_an_entry_and_a_long_one_is_several() {
    let mut scene = Scene::new().await;
    for (bytes, pieces) in [
        (1, vec![1]),
        (PIECE - 1, vec![PIECE - 1]),
        (PIECE, vec![PIECE]),
        (PIECE + 1, vec![PIECE, 1]),
        (3 * PIECE, vec![PIECE; 3]),
        (100_000, vec![PIECE, PIECE, PIECE, PIECE, PIECE, PIECE, 100_000 - 6 * PIECE]),
    ] {
        // No newline at all: the end of the output is the end of the line.
        let config = probe(&format!("bytes-{bytes}"), &["write-bytes", &bytes.to_string(), "q"]);
        scene.outcome(&config).await;
        let log = scene.log(&config);
        assert_eq!(log.iter().map(|entry| entry.content.len()).collect::<Vec<_>>(), pieces);
        assert!(log.iter().all(|entry| entry.stream == Stream::Stdout && entry.content.iter().all(|b| *b == b'q')));
        let (last, others) = log.split_last().unwrap();
        assert!(last.full && others.iter().all(|entry| !entry.full), "{bytes}");
    }
    // With newlines, empty lines and bytes that are no text.
    let config = probe("lines", &["print", "one\n\n two  spaces \r\nthree\t\u{1}"]);
    scene.outcome(&config).await;
    let log = scene.log(&config);
    assert!(log.iter().all(|entry| entry.full));
    let contents: Vec<_> = log.iter().map(|entry| entry.content.clone()).collect();
    let wanted: [&[u8]; 4] = [b"one", b"", b" two  spaces \r", b"three\t\x01"];
    assert_eq!(contents, wanted);

    let silent = probe("silent", &["exit", "0"]);
    scene.outcome(&silent).await;
    assert!(scene.log(&silent).is_empty(), "nothing said is an empty file");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn both_streams_are_there_in_order_and_with_their_time() {
    let before = SystemTime::now();
    let mut scene = Scene::new().await;
    let mut config = probe("both", &["no-such-verb"]);
    let ended = scene.outcome(&config).await;
    assert_eq!((ended.status.exit_code, ended.stdout.as_str()), (64, ""));
    assert!(ended.stderr.starts_with("coracle-probe: no verb \"no-such-verb\""), "{}", ended.stderr);

    config = probe("lines", &["write-lines", "0", "3000"]);
    config.log_path = "deep/er/lines_0.log".into();
    let ended = scene.outcome(&config).await;
    let log = scene.log(&config);
    assert_eq!(log.len(), 3000);
    for (number, entry) in log.iter().enumerate() {
        assert_eq!(entry.content, format!("line {number}").into_bytes());
    }
    assert!(log.windows(2).all(|pair| pair[0].time <= pair[1].time), "time goes forward");
    let year = |time: &str| time[..4].parse::<u64>().unwrap();
    let seconds = before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(year(&log[0].time).abs_diff(1970 + seconds / 31_556_952) <= 1, "{}", log[0].time);

    let path = scene.log_path(&config);
    assert_eq!(ended.status.log_path, path.display().to_string());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o755);
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: runs a node"]
async fn the_log_is_complete_when_the_container_is_told_to_have_ended() {
    let mut scene = Scene::new().await;
    for round in 0..5 {
        let config = probe(&format!("burst-{round}"), &["write-lines", "0", "20000"]);
        let id = scene.start(&config).await;
        // No pause between looks: the first that says so is the one that counts.
        while scene.status(&id).await.state != ContainerState::ContainerExited as i32 {}
        let log = scene.log(&config);
        assert_eq!(log.last().map(|entry| entry.content.clone()), Some(b"line 19999".to_vec()), "round {round}");
        assert_eq!(log.len(), 20_000, "round {round}");
    }
    // Nor does a stop lose what was written before it.
    let config = probe("stopped", &["children", "0"]);
    let id = scene.start(&config).await;
    scene.attentive(&id).await;
    scene.stop(&id, 10).await;
    assert_eq!(log_file::text(&scene.log(&config), Stream::Stdout), "started 0\n");
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn after_reopening_the_new_file_is_there_and_the_old_one_is_at_rest() {
    let mut scene = Scene::new().await;
    let config = probe("writer", &["write-lines", "500"]);
    let id = scene.start(&config).await;
    let path = scene.log_path(&config);
    let old = path.with_extension("log.20240101-000000");
    fs::rename(&path, &old).unwrap();
    reopen(&mut scene, &id).await.unwrap();
    assert!(path.exists(), "the new file exists when the call returns");
    assert_ne!(fs::metadata(&path).unwrap().ino(), fs::metadata(&old).unwrap().ino());
    let at_rest = fs::read(&old).unwrap();
    testkit::eventually(crate::scene::SOON, "the new file is written to", || {
        if fs::metadata(&path).unwrap().len() > 2000 { Ok(()) } else { Err("not yet") }
    });
    assert_eq!(fs::read(&old).unwrap(), at_rest);
    // A file that somebody has removed comes back as well.
    fs::remove_file(&path).unwrap();
    reopen(&mut scene, &id).await.unwrap();
    assert!(path.exists());
    // And without a rename it goes on where it was.
    reopen(&mut scene, &id).await.unwrap();
    testkit::eventually(crate::scene::SOON, "the file that came back is written to", || {
        if fs::metadata(&path).unwrap().len() > 0 { Ok(()) } else { Err("not yet") }
    });
    scene.stop(&id, 0).await;
    let log = scene.log(&config);
    let first = String::from_utf8(log[0].content.clone()).unwrap();
    let from: usize = first.trim_start_matches("line ").parse().unwrap();
    for (offset, entry) in log.iter().enumerate() {
        assert_eq!(entry.content, format!("line {}", from + offset).into_bytes());
    }
    scene.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: runs a node"]
async fn no_line_is_lost_or_torn_however_often_the_log_is_reopened() {
    const LINES: usize = 60_000;
    let mut scene = Scene::new().await;
    let config = probe("writer", &["write-lines", "0", &LINES.to_string()]);
    let path = scene.log_path(&config);
    let id = scene.start(&config).await;
    let mut files = Vec::new();
    while scene.status(&id).await.state == ContainerState::ContainerRunning as i32 && files.len() < 200 {
        let old = path.with_extension(format!("log.{}", files.len()));
        fs::rename(&path, &old).unwrap();
        files.push(old);
        if reopen(&mut scene, &id).await.is_err() {
            // It has ended meanwhile, which must not have made a file.
            assert!(!path.exists());
            break;
        }
    }
    scene.ended(&id).await;
    if path.exists() {
        files.push(path);
    }
    assert!(files.len() > 2, "the container was too quick for this test");
    let mut next = 0;
    for file in &files {
        for entry in log_file::read(file) {
            assert!(entry.full);
            assert_eq!(entry.content, format!("line {next}").into_bytes(), "in {}", file.display());
            next += 1;
        }
    }
    assert_eq!(next, LINES);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn only_a_running_container_with_a_log_can_have_it_reopened() {
    let mut scene = Scene::new().await;
    assert_eq!(reopen(&mut scene, "no-such-container").await.unwrap_err().code(), Code::NotFound);
    let created = sleeper("created");
    let id = scene.create(&created).await;
    let path = scene.log_path(&created);
    let _ = fs::remove_file(&path);
    assert_eq!(reopen(&mut scene, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(!path.exists(), "a refused call makes no file");

    let ended = probe("ended", &["print", "last words"]);
    let id = scene.outcome(&ended).await.id;
    let path = scene.log_path(&ended);
    fs::rename(&path, path.with_extension("old")).unwrap();
    assert_eq!(reopen(&mut scene, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(!path.exists(), "a refused call makes no file");

    let mut without = sleeper("without");
    without.log_path = String::new();
    let id = scene.start(&without).await;
    assert_eq!(scene.status(&id).await.log_path, "");
    assert_eq!(reopen(&mut scene, &id).await.unwrap_err().code(), Code::FailedPrecondition);
    // And whatever it says, nobody has to read it.
    let mut loud = probe("loud", &["write-bytes", "1000000"]);
    loud.log_path = String::new();
    let id = scene.start(&loud).await;
    assert_eq!(scene.ended(&id).await.exit_code, 0);
    scene.finish().await;
}

#[tokio::test]
#[ignore = "needs root: runs a node"]
async fn a_log_path_is_never_followed_out_of_its_directory() {
    let mut scene = Scene::new().await;
    let victim = scene.node.dir().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let directory = std::path::PathBuf::from(&scene.config.log_directory);
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(&victim, directory.join("trap.log")).unwrap();
    std::os::unix::fs::symlink(scene.node.dir(), directory.join("way-out")).unwrap();
    for path in ["trap.log", "way-out/made.log"] {
        let mut config = probe("trapped", &["print", "written"]);
        config.log_path = path.into();
        // Either it is refused, or the link is replaced: never followed.
        if let Ok(id) = scene.try_create(&config).await {
            scene.discard(&id).await;
        }
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert!(!scene.node.dir().join("made.log").exists());
    scene.finish().await;
}
