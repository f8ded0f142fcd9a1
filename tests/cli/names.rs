//! Images by their names: listed, tagged, removed; and what the exit codes say.

use std::{fs, process::Stdio, time::Duration};

use testkit::{TempNode, container, eventually, pod, programs};

use crate::command::{Coracle, image};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn images_are_listed_tagged_and_removed_as_dockers_users_expect() {
    let coracle = Coracle::start();
    let headers = "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n";
    assert_eq!(coracle.ok(&["images"]), headers);
    let loaded = coracle.load(&image("one").archive("docker.io/library/one:1"));
    assert_eq!(loaded, "Loaded image: docker.io/library/one:1\n");
    coracle.load(&image("two").archive("localhost/two:1"));
    assert_eq!(coracle.ok(&["tag", "one:1", "localhost/team/one"]), "");

    let table = coracle.ok(&["images"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let (one, two) = (image("one").id(), image("two").id());
    assert_eq!(
        rows[1..],
        [["localhost/team/one", "latest", &one[7..19]], ["localhost/two", "1", &two[7..19]], ["one", "1", &one[7..19]]]
    );
    assert_eq!(coracle.ok(&["images", "-q", "--no-trunc", "one"]), format!("{one}\n"));
    assert_eq!(coracle.ok(&["images", "-q", &two[..20]]), format!("{}\n", &two[7..19]));
    assert_eq!(coracle.ok(&["images", "one:2"]), headers);
    let objects = coracle.images();
    assert_eq!(objects.len(), 3);
    assert_eq!((objects[2]["Repository"].as_str(), objects[2]["ID"].as_str()), (Some("one"), Some(one.as_str())));

    let (code, told) = coracle.fails(&["rmi", &one]);
    assert_eq!(code, 1);
    assert!(told.contains("several names") && told.contains("hint: --force"), "{told}");
    assert_eq!(coracle.ok(&["rmi", "one:1"]), "Untagged: docker.io/library/one:1\n");
    let both = coracle.command(&["rmi", "none", "localhost/team/one"]).output().unwrap();
    assert_eq!(both.status.code(), Some(1), "one of two is not all");
    assert_eq!(
        String::from_utf8(both.stdout).unwrap(),
        format!("Untagged: localhost/team/one:latest\nDeleted: {one}\n")
    );
    assert!(String::from_utf8(both.stderr).unwrap().contains("\"none\" not found"));
    coracle.ok(&["rmi", "--force", &two]);
    assert_eq!(coracle.ok(&["images"]), headers);
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn an_image_in_use_goes_only_by_force_and_its_container_runs_on() {
    const PROBE: &str = "localhost/coracle/probe:test";
    let coracle = Coracle::start();
    let program = std::fs::read(programs().join("coracle-probe")).unwrap();
    coracle.load(&testkit::ImageBuilder::probe(&program).build().archive(PROBE));
    let mut cri = coracle.node.client().await;
    let config = pod("uses", coracle.node.dir());
    let id = cri.run(&config).await.unwrap();
    let runs = cri.start(&id, &config, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    let (code, told) = coracle.fails(&["rmi", PROBE]);
    assert_eq!(code, 1);
    assert!(told.contains("in use by containers"), "{told}");
    assert!(coracle.ok(&["rmi", "-f", PROBE]).contains("Deleted: sha256:"));
    assert_eq!(cri.exec(&runs, &["/probe", "print", "here"], 10).await.unwrap().exit_code, 0, "its files are there");
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn exit_codes_are_dockers_and_messages_tell_refusals_from_silence() {
    let coracle = Coracle::start();
    let (code, told) = coracle.fails(&["tag", "none", "x"]);
    assert_eq!(code, 1);
    assert!(told.starts_with("coracle: image \"none\" not found\nhint: "), "{told}");
    for wrong in [&["nonsense"][..], &["rmi"], &["images", "--format", "yaml"], &["-H", "tcp://x", "images"], &[]] {
        assert_eq!(coracle.fails(wrong).0, 125, "{wrong:?}");
    }
    for wrong in [&["tag", "UPPER", "x"][..], &["tag", "x", "UPPER"], &["pull", "a b"], &["save", "none"]] {
        assert_eq!(coracle.fails(wrong).0, 1, "{wrong:?}");
    }
    let (code, told) = coracle.fails(&["--host", "unix:///nowhere/coracle.sock", "images"]);
    assert_eq!(code, 1);
    assert!(told.contains("/nowhere/coracle.sock") && told.contains("hint: is coracled running?"), "{told}");
    // A daemon that was killed leaves its socket.
    let mut node: TempNode = coracle.node;
    node.kill_daemon();
    let coracle = Coracle { node };
    let (code, told) = coracle.fails(&["images"]);
    assert!(code == 1 && told.starts_with("coracle: connect to the daemon at "), "{code} {told}");
    let Coracle { mut node } = coracle;
    node.start_daemon();
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn an_interruption_from_the_keyboard_ends_it_with_130() {
    let coracle = Coracle::start();
    let mut child = coracle.command(&["load"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    eventually(Duration::from_secs(20), "the program waits for the signal", || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap().to_owned();
        // SIGINT is the second.
        if u64::from_str_radix(&caught, 16).unwrap() & 2 != 0 { Ok(()) } else { Err(caught) }
    });
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn more_images_than_one_message_holds_are_listed() {
    let coracle = Coracle::start();
    coracle.load(&image("one").archive("localhost/one:1"));
    let mut archive = testkit::Layer::new();
    let mut entries = Vec::new();
    for n in 0..250 {
        let built = testkit::ImageBuilder::new().set("User", serde_json::json!(n.to_string())).build();
        let (config, name) = (format!("{n}.json"), format!("localhost/many:{n}"));
        archive = archive.file(&config, 0o644, &built.config);
        entries.push(serde_json::json!({ "Config": config, "RepoTags": [name], "Layers": [] }));
    }
    let archive = archive.file("manifest.json", 0o644, serde_json::json!(entries).to_string().as_bytes());
    assert_eq!(coracle.load(&archive.tar()).lines().count(), 250);
    assert_eq!(coracle.images().len(), 251);
    assert_eq!(coracle.ok(&["images", "-q", "localhost/many"]).lines().count(), 250);
    coracle.finish().await;
}
