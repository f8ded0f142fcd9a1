//! Bulk work comes after everybody else, wherever it is done.

use std::{
    fs::{self, File, OpenOptions},
    io::{Cursor, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use nix::{
    libc::{O_NONBLOCK, SYS_read},
    sys::stat::Mode,
    unistd::mkfifo,
};
use testkit::{Access, TinyRegistry, Trouble, digest_of, eventually};

use crate::node::{Node, SOON, image};

/// What comes last.
const LAST: i64 = 19;

fn nice(thread: &Path) -> i64 {
    let stat = fs::read_to_string(thread.join("stat")).unwrap();
    // The 19th of all fields, of which the second may hold anything.
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(16)).unwrap().parse().unwrap()
}

/// The thread of ours that waits in a read of this file, by its directory in `/proc`.
fn reader_of(file: &Path) -> Option<PathBuf> {
    let reads = |thread: &Path| {
        let call = fs::read_to_string(thread.join("syscall")).ok()?;
        let mut fields = call.split_whitespace();
        let is_read = fields.next()?.parse() == Ok(SYS_read);
        let descriptor = i32::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
        let read = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
        (is_read && read == file).then_some(())
    };
    let mut threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    threads.find(|thread| reads(thread).is_some())
}

/// In the place of a file something that is read as long as it is held open.
fn stall(file: &Path) {
    fs::remove_file(file).unwrap();
    mkfifo(file, Mode::S_IRUSR).unwrap();
}

/// Waits until what stalls is read, and says how nice that reader is. Then the file ends.
fn nice_of_reader(file: &Path) -> i64 {
    let writer: File =
        eventually(SOON, "the file is opened", || OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(file));
    let thread = eventually(SOON, "the file is read", || reader_of(file).ok_or("by nobody"));
    let nice = nice(&thread);
    drop(writer);
    nice
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_blob_that_a_start_has_found_is_hashed_after_everybody_else() {
    let (node, registry) = (Node::with(|config| config.parallel_fetches = 1), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let [found, missing] = [0, 1].map(|layer: usize| digest_of(&built.layers[layer]));
    registry.trouble(&missing, Trouble::Status(404, String::new()), 1);
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap_err();
    let node = node.as_found();
    let blob = node.root.path().join("store/blobs").join(&found[7..]);
    stall(&blob);
    let (images, pulled) = (node.images.clone(), name.clone());
    let pull = tokio::spawn(async move { images.pull(&pulled, None).await });
    let nice = tokio::task::spawn_blocking(move || nice_of_reader(&blob)).await.unwrap();
    assert_eq!(nice, LAST);
    // It was nothing, and is fetched again.
    pull.await.unwrap().unwrap();
    assert!(node.is_here(&name));
}

/// Notes how nice whoever reads it is.
struct Asking {
    archive: Cursor<Vec<u8>>,
    seen: Arc<Mutex<Vec<i64>>>,
}

impl Read for Asking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.seen.lock().unwrap().push(nice(Path::new("/proc/thread-self")));
        self.archive.read(buffer)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_archive_is_read_and_written_after_everybody_else() {
    let (node, built, seen) = (Node::new(), image("one"), Arc::<Mutex<Vec<i64>>>::default());
    let archive = Asking { archive: Cursor::new(built.archive("localhost/x:1")), seen: seen.clone() };
    node.images.import(archive).await.unwrap();
    let seen = seen.lock().unwrap().clone();
    assert!(!seen.is_empty() && seen.iter().all(|nice| *nice == LAST), "{seen:?}");

    let blob = node.root.path().join("store/blobs").join(&digest_of(&built.layers[1])[7..]);
    let mut export = node.images.export(vec!["localhost/x:1".to_owned()]).await.unwrap();
    stall(&blob);
    let save = tokio::spawn(async move { while let Ok(Some(_)) = export.next().await {} });
    let nice = tokio::task::spawn_blocking(move || nice_of_reader(&blob)).await.unwrap();
    assert_eq!(nice, LAST);
    save.await.unwrap();
}
