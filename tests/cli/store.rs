//! What takes how much of the disk, and whether it is whole.

use std::fs;

use serde_json::Value;

use crate::command::{Coracle, image};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn what_takes_how_much_is_told_in_sum_and_thing_by_thing() {
    let coracle = Coracle::start();
    coracle.load(&image("one").archive("docker.io/library/one:1"));
    coracle.load(&image("two").archive("localhost/two:1"));
    let table = coracle.ok(&["system", "df"]);
    let cells =
        |line: usize| table.lines().nth(line).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(0), ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert_eq!(cells(1)[..3], ["Images", "2", "0"]);
    assert_eq!(cells(2)[..5], ["of", "them", "layers", "3", "0"]);
    let sums = coracle.ok(&["system", "df", "--format", "json"]);
    let sums: Vec<Value> = sums.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes = |n: usize| sums[n]["SizeBytes"].as_u64().unwrap();
    assert!(bytes(0) > 0 && bytes(0) == bytes(1) + bytes(2), "{sums:?}");
    assert_eq!(sums[0]["ReclaimableBytes"], sums[0]["SizeBytes"]);

    let told = coracle.ok(&["system", "df", "-v"]);
    let line = |start: &str| told.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    assert!(line("one:1").contains(&image("one").id()[7..19]), "{told}");
    // The base of both names both; a configuration its one.
    assert!(
        told.lines().any(|line| line.ends_with("one:1, localhost/two:1") || line.ends_with("localhost/two:1, one:1"))
    );
    assert!(line(&image("two").id()[7..19]).ends_with("localhost/two:1"), "{told}");
    let all = coracle.ok(&["system", "df", "-v", "--format", "json"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all["Layers"].as_array().unwrap().len(), 3);
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn damage_is_told_with_exit_code_1_until_it_is_mended() {
    let coracle = Coracle::start();
    coracle.load(&image("one").archive("localhost/one:1"));
    let well = coracle.ok(&["system", "fsck"]);
    assert!(well.ends_with("things looked at: all is well\n"), "{well}");
    let layers = coracle.node.dir().join("root/images/layers");
    let file = |name: &str| {
        let mut found = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path().join(name));
        found.find(|path| path.exists()).unwrap()
    };
    let text = file("etc/text");
    fs::write(&text, "eno").unwrap();
    fs::create_dir(layers.join("strange")).unwrap();
    for _ in 0..2 {
        let output = coracle.command(&["system", "fsck"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains(" of localhost/one:1: damaged: etc/text has another "), "{told}");
        assert!(told.contains("layers/strange: extra; with --repair: deleted"), "{told}");
        assert!(told.ends_with("2 are not well, 2 of them still\n"), "{told}");
        assert_eq!(fs::read_to_string(&text).unwrap(), "eno", "only told");
    }
    let objects = coracle.command(&["system", "fsck", "-q", "--format", "json"]).output().unwrap();
    let objects: Vec<Value> =
        String::from_utf8(objects.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&objects[0]["Fault"], &objects[1]["Kind"]), (&"extra".into(), &"layer".into()));
    let mended = coracle.ok(&["system", "fsck", "--repair"]);
    assert!(mended.contains("; mended: unpacked again from its blob\n"), "{mended}");
    assert!(mended.ends_with("things looked at: 2 mended\n"), "{mended}");
    assert_eq!(fs::read_to_string(file("etc/text")).unwrap(), "one");
    assert!(!layers.join("strange").exists());
    assert_eq!(coracle.ok(&["system", "fsck"]), well);
    coracle.finish().await;
}
