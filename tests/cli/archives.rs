//! Archives through files and pipes: whole ones, torn ones, large ones.

use std::{
    fs::{self, File},
    io::{Read, Write},
    process::Stdio,
    time::Duration,
};

use testkit::{Access, Layer, TinyRegistry, eventually};

use crate::command::{Coracle, image, told};

const SOON: Duration = Duration::from_secs(20);
/// Bytes of a large layer, and KiB of memory that the daemon may take for it beyond what it has.
const LARGE: usize = 96 << 20;
const MEMORY: u64 = 32 << 10;

/// How many things lie in a directory of the store.
fn count(coracle: &Coracle, directory: &str) -> usize {
    fs::read_dir(coracle.node.dir().join("root/images").join(directory)).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn several_images_leave_and_come_by_file_and_by_pipe_plain_and_compressed() {
    let (coracle, other) = (Coracle::start(), Coracle::start());
    coracle.load(&image("one").archive("localhost/one:1"));
    coracle.load(&image("two").archive("localhost/two:1"));
    coracle.ok(&["save", "-o", "plain.tar", "localhost/one:1", "localhost/two:1"]);
    let plain = fs::read(coracle.node.dir().join("plain.tar")).unwrap();
    let piped = coracle.command(&["save", "localhost/one:1", "localhost/two:1"]).output().unwrap();
    assert_eq!(piped.stdout, plain, "{}", told(&piped));
    for (how, magic) in [("gzip", &[0x1f, 0x8b][..]), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd])] {
        coracle.ok(&["save", "--compress", how, "-o", how, "localhost/one:1", "localhost/two:1"]);
        assert!(fs::read(coracle.node.dir().join(how)).unwrap().starts_with(magic));
    }
    let loaded = "Loaded image: localhost/one:1\nLoaded image: localhost/two:1\n";
    for name in ["plain.tar", "gzip", "zstd"] {
        let file = coracle.node.dir().join(name);
        assert_eq!(other.ok(&["load", "-q", "--input", file.to_str().unwrap()]), loaded);
        other.ok(&["rmi", "localhost/one:1", "localhost/two:1"]);
        // From a file that is no pipe, as a shell's `<` gives it.
        let redirected = other.command(&["load"]).stdin(File::open(&file).unwrap()).output().unwrap();
        assert_eq!(String::from_utf8(redirected.stdout).unwrap(), loaded);
        other.ok(&["rmi", "localhost/one:1", "localhost/two:1"]);
    }
    // One node into the other, without a file between.
    let mut from = coracle.command(&["save", "localhost/one:1"]).stdout(Stdio::piped()).spawn().unwrap();
    let to = other.command(&["load"]).stdin(from.stdout.take().unwrap()).output().unwrap();
    assert!(from.wait().unwrap().success() && to.status.success(), "{}", told(&to));
    assert_eq!(other.ok(&["images", "-q", "--no-trunc"]).trim(), image("one").id());
    // An archive that names nothing.
    coracle.ok(&["save", "-o", "id.tar", &image("two").id()]);
    let id = coracle.node.dir().join("id.tar");
    assert_eq!(other.ok(&["load", "-i", id.to_str().unwrap()]), format!("Loaded image ID: {}\n", image("two").id()));
    let names: Vec<_> = other.images().iter().map(|image| image["Repository"].as_str().unwrap().to_owned()).collect();
    assert!(names.contains(&"<none>".to_owned()), "{names:?}");
    coracle.finish().await;
    other.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn what_cannot_be_saved_or_loaded_leaves_nothing_behind() {
    let coracle = Coracle::start();
    let (code, why) = coracle.fails(&["save", "-o", "none.tar", "none"]);
    assert_eq!(code, 1);
    assert!(why.contains("\"none\" not found"), "{why}");
    assert_eq!(coracle.fails(&["save", "-o", "/nowhere/x.tar", "none"]).0, 1);
    let left: Vec<_> = fs::read_dir(coracle.node.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("none.tar")), "{left:?}");

    let archive = image("one").archive("localhost/one:1");
    for (bytes, why) in [
        (&b""[..], "neither index.json"),
        (b"garbage", ""),
        (&[0x1f, 0x8b, 1, 2, 3], ""),
        (&archive[..archive.len() / 2], ""),
        (&Layer::new().file("x", 0o644, b"").tar(), "neither index.json"),
    ] {
        let refused = coracle.fed(&["load"], bytes);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(text.starts_with("coracle: import the archive: ") && text.contains(why), "{text}");
    }
    assert_eq!(coracle.fails(&["load", "-i", "none.tar"]).0, 1);
    // Somebody who goes away in the middle.
    let mut child = coracle.command(&["load"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&archive[..archive.len() / 2]).unwrap();
    eventually(SOON, "the first blob is here", || if count(&coracle, "blobs") > 0 { Ok(()) } else { Err("none") });
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(SOON, "nothing is left of what was half loaded", || {
        match ["blobs", "layers", "ingest", "trash"].map(|directory| count(&coracle, directory)) {
            [0, 0, 0, 0] => Ok(()),
            left => Err(left),
        }
    });
    assert!(coracle.images().is_empty());
    coracle.load(&archive);
    // A reader that has enough: nobody wants to read of it.
    let mut save = coracle.command(&["save", "localhost/one:1"]);
    let mut child = save.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 512];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.stderr.is_empty(), "{}", told(&ended));
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn loads_that_stand_still_keep_nobody_from_a_pull_nor_the_daemon_from_its_end() {
    let mut coracle = Coracle::start();
    let archive = image("one").archive("localhost/one:1");
    let begin = || {
        let mut load = coracle.command(&["load"]);
        let mut child = load.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(&archive[..archive.len() / 2]).unwrap();
        child
    };
    let mut first = begin();
    eventually(SOON, "it has begun", || if count(&coracle, "blobs") > 0 { Ok(()) } else { Err("none") });
    // With it, more than may be read at once.
    let others: Vec<_> = (0..5).map(|_| begin()).collect();
    let registry = TinyRegistry::http(Access::Open);
    registry.push("x", "1", &image("two"));
    coracle.ok(&["pull", "-q", &format!("{}/x:1", registry.host())]);
    // One ends well after all, and gives its place to another.
    first.stdin.take().unwrap().write_all(&archive[archive.len() / 2..]).unwrap();
    assert!(first.wait().unwrap().success());
    assert!(coracle.node.stop_daemon().success());
    for load in others {
        let ended = load.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", told(&ended));
    }
    coracle.node.start_daemon();
    assert_eq!(coracle.images().len(), 2);
    coracle.finish().await;
}

/// The highest that the daemon's memory ever was, KiB.
fn memory(coracle: &Coracle) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", coracle.node.daemon_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn a_large_archive_takes_little_memory_in_and_out() {
    let coracle = Coracle::start();
    // Not compressible by chance: each block says where it is.
    let content: Vec<u8> = (0..LARGE / 8).flat_map(|n| (n as u64).to_le_bytes()).collect();
    let large = testkit::ImageBuilder::new().layer(Layer::new().file("large", 0o644, &content)).build();
    drop(content);
    coracle.load(&image("one").archive("localhost/small:1"));
    coracle.ok(&["save", "-o", "small.tar", "localhost/small:1"]);
    let before = memory(&coracle);
    coracle.load(&large.archive("localhost/large:1"));
    let loaded = memory(&coracle);
    assert!(loaded - before < MEMORY, "from {before} to {loaded} KiB");
    coracle.ok(&["save", "-o", "large.tar", "localhost/large:1"]);
    let saved = memory(&coracle);
    assert!(saved - before < MEMORY, "from {before} to {saved} KiB");
    assert!(fs::metadata(coracle.node.dir().join("large.tar")).unwrap().len() > LARGE as u64);
    coracle.finish().await;
}
