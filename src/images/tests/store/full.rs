//! A disk that is full: at every write of a pull in turn the pull ends with the reason, and what it leaves is in
//! order.

use std::{
    error::Error,
    fs,
    io::Cursor,
    iter,
    path::{Path, PathBuf},
};

use model::Class;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statvfs::statvfs,
};
use testkit::{Access, BuiltImage, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of, eventually};

use crate::node::{Node, SOON, docker_archive, image};

/// Room in which everything fits.
const LARGE: &str = "nr_blocks=4096,nr_inodes=4096";
/// More than a pull of these tests ever takes, blocks or files.
const MOST: u64 = 200;

/// A disk of its own under the store of a node, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn under(root: &Path, room: &str) -> Disk {
        let at = root.join("store");
        fs::create_dir(&at).unwrap();
        let kind = Some("tmpfs");
        mount(kind, &at, kind, MsFlags::empty(), Some(format!("mode=0700,{room}").as_str())).unwrap();
        Disk(at)
    }

    /// Has another size.
    fn resize(&self, room: &str) {
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some(room)).unwrap();
    }

    /// Blocks and inodes that are taken.
    fn taken(&self) -> (u64, u64) {
        let found = statvfs(&self.0).unwrap();
        (found.blocks() - found.blocks_free(), found.files() - found.files_free())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// What can run out.
#[derive(Debug, Clone, Copy)]
enum Short {
    Blocks,
    Inodes,
}

impl Short {
    /// So much more than is taken now.
    fn more(self, disk: &Disk, more: u64) -> String {
        let (blocks, inodes) = disk.taken();
        match self {
            // None would mean that there is no bound.
            Short::Blocks => format!("nr_blocks={},nr_inodes=4096", (blocks + more).max(1)),
            Short::Inodes => format!("nr_blocks=4096,nr_inodes={}", inodes + more),
        }
    }
}

/// Two layers, of which one takes more than one write.
fn built(text: &str) -> BuiltImage {
    let base = Layer::new().directory("etc", 0o755).file("etc/base", 0o644, b"base");
    let large: Vec<u8> = text.bytes().cycle().take(40_000).collect();
    let top = Layer::new().file("etc/text", 0o640, text.as_bytes()).file("large", 0o644, &large);
    ImageBuilder::new().layer(base).layer(top).build()
}

fn is_whole(node: &Node, reference: &str, text: &str) {
    let top = node.images.lease(reference).unwrap().layers.remove(0);
    assert_eq!(fs::read_to_string(top.join("etc/text")).unwrap(), text);
    assert_eq!(fs::metadata(top.join("large")).unwrap().len(), 40_000);
}

/// Digests of the blobs that are there. Each has the content that it is named by.
fn blobs(node: &Node) -> Vec<String> {
    let named = |path: PathBuf| {
        let digest = digest_of(&fs::read(&path).unwrap());
        assert!(digest.ends_with(path.file_name().unwrap().to_str().unwrap()), "{}", path.display());
        digest
    };
    fs::read_dir(node.root.path().join("store/blobs")).unwrap().map(|entry| named(entry.unwrap().path())).collect()
}

/// What these directories of the store hold goes, and what is half-made: threads that outlive a pull keep it so long.
fn clears(node: &Node, directories: &[&str]) {
    eventually(SOON, "what nobody needs is gone", || {
        let count = |directory: &&str| node.count(directory);
        let left: Vec<_> = directories.iter().chain(&["ingest", "trash"]).map(count).collect();
        if left.iter().all(|count| *count == 0) { Ok(()) } else { Err(left) }
    });
}

/// The whole chain of an error, as a client of the daemon gets it.
fn line(error: &images::Error) -> String {
    let causes = iter::successors(Some(error as &dyn Error), |error| <dyn Error>::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Pulls with so much room, and again with enough. Whether the room was enough at once.
async fn pulled_with(short: Short, more: u64) -> bool {
    let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |_| ());
    let registry = TinyRegistry::http(Access::Open);
    registry.push("x", "1", &built("text"));
    let reference = format!("{}/x:1", registry.host());
    disk.resize(&short.more(&disk, more));
    let enough = match node.pull(&reference).await {
        Ok(_) => true,
        Err(error) => {
            let told = line(&error);
            assert_eq!(error.class(), Class::Exhausted, "{short:?} {more}: {told}");
            assert!(told.contains("No space left on device"), "{short:?} {more}: {told}");
            false
        }
    };
    if enough {
        is_whole(&node, &reference, "text");
        node.settles();
        return true;
    }
    assert_eq!(node.images.list().len(), 0, "{short:?} {more}");
    clears(&node, &["records", "layers"]);
    let kept = blobs(&node);
    assert_eq!(node.images.usage().inodes, kept.len() as u64, "{short:?} {more}");
    let found = node.as_found();
    found.images.recovered().await;
    assert_eq!((found.images.list().len(), blobs(&found).len()), (0, kept.len()), "{short:?} {more}");
    disk.resize(LARGE);
    let asked = registry.asked().len();
    node.pull(&reference).await.unwrap();
    is_whole(&node, &reference, "text");
    let again = registry.asked().split_off(asked);
    // Whatever is whole need not come again; the manifest is not worth a request less.
    let fetched = again.iter().filter(|line| kept.iter().any(|blob| line.contains(&format!("/blobs/{blob}"))));
    assert_eq!(fetched.count(), 0, "{short:?} {more}: {again:?}");
    node.settles();
    false
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn at_whichever_write_the_disk_is_full_a_pull_says_so_and_keeps_what_is_whole() {
    for short in [Short::Blocks, Short::Inodes] {
        let mut failed = 0;
        while !pulled_with(short, failed).await {
            failed += 1;
            assert!(failed < MOST, "{short:?}");
        }
        assert!(failed > 8, "{short:?}: only {failed} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn at_whichever_write_the_disk_is_full_a_tag_points_to_something_whole() {
    for short in [Short::Blocks, Short::Inodes] {
        let mut moved = false;
        for more in 0..MOST {
            let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |_| ());
            let registry = TinyRegistry::http(Access::Open);
            let reference = format!("{}/x:1", registry.host());
            registry.push("x", "1", &built("old"));
            let old = node.pull(&reference).await.unwrap();
            registry.push("x", "1", &built("new"));
            disk.resize(&short.more(&disk, more));
            let pulled = node.pull(&reference).await;
            let is_what_it_says = |node: &Node| match &pulled {
                Ok(new) => {
                    assert_eq!(node.found(&reference).id, *new);
                    is_whole(node, &reference, "new");
                    assert!(node.found(old.as_str()).tags.is_empty());
                }
                Err(error) => {
                    assert_eq!(error.class(), Class::Exhausted, "{}", line(error));
                    assert_eq!(node.found(&reference).id, old, "{short:?} {more}");
                    is_whole(node, &reference, "old");
                }
            };
            is_what_it_says(&node);
            // Of two images with the same base; threads that outlive a pull keep what they have made so long.
            let layers = if pulled.is_ok() { 3 } else { 2 };
            eventually(SOON, "the layers are those of the images", || match node.count("layers") {
                count if count == layers => Ok(()),
                count => Err(count),
            });
            let found = node.as_found();
            found.images.recovered().await;
            is_what_it_says(&found);
            if pulled.is_ok() {
                assert!(more > 8, "{short:?}: only {more} writes");
                moved = true;
                break;
            }
        }
        assert!(moved, "{short:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn at_whichever_write_the_disk_is_full_tags_of_two_images_move_both_or_neither() {
    let mut old = ["one", "two"].map(built);
    // In the order in which they are written; the later takes more room, so there is enough for the first alone.
    old.sort_by_key(BuiltImage::id);
    let (new, tags) = (built("both"), ["r.example/x:1", "r.example/x:2"]);
    let others: Vec<String> = (0..100).map(|n| format!("r.example/{}:{n}", "long/".repeat(20) + "x")).collect();
    let many: Vec<&str> = others.iter().map(String::as_str).chain([tags[1]]).collect();
    let archives = [docker_archive(&old[0], &tags[..1]), docker_archive(&old[1], &many), docker_archive(&new, &tags)];
    for short in [Short::Blocks, Short::Inodes] {
        let (mut failed, mut moved) = (0, false);
        while !moved {
            let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |_| ());
            for archive in &archives[..2] {
                node.images.import(Cursor::new(archive.clone())).await.unwrap();
            }
            node.settles();
            disk.resize(&short.more(&disk, failed));
            moved = node.images.import(Cursor::new(archives[2].clone())).await.is_ok();
            let owners = if moved { [new.id(), new.id()] } else { [old[0].id(), old[1].id()] };
            for (node, when) in [(&node, "now"), (&node.as_found(), "after a start")] {
                for (tag, owner) in tags.iter().zip(&owners) {
                    assert_eq!(node.found(tag).id.as_str(), owner, "{short:?} {failed} {when}: {tag}");
                }
                let named: usize = node.images.list().iter().map(|image| image.tags.len()).sum();
                assert_eq!(named, tags.len() + others.len(), "{short:?} {failed} {when}");
            }
            failed += 1;
            assert!(failed < MOST, "{short:?}");
        }
        assert!(failed > 8, "{short:?}: only {failed} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn at_whichever_write_the_disk_is_full_an_archive_leaves_nothing() {
    let archive = built("text").archive("r.example/x:1");
    for short in [Short::Blocks, Short::Inodes] {
        let mut failed = 0;
        loop {
            let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |_| ());
            disk.resize(&short.more(&disk, failed));
            let imported = node.images.import(Cursor::new(archive.clone())).await;
            if imported.is_ok() {
                is_whole(&node, "r.example/x:1", "text");
                break;
            }
            let error = imported.unwrap_err();
            assert_eq!(error.class(), Class::Exhausted, "{short:?} {failed}: {}", line(&error));
            assert_eq!(node.images.list().len(), 0, "{short:?} {failed}");
            clears(&node, &["records", "layers", "blobs"]);
            disk.resize(LARGE);
            node.images.import(Cursor::new(archive.clone())).await.unwrap();
            is_whole(&node, "r.example/x:1", "text");
            failed += 1;
            assert!(failed < MOST, "{short:?}");
        }
        assert!(failed > 8, "{short:?}: only {failed} writes");
    }
}

/// A pull of an image whose second layer is not there: its first layer's blob stays.
async fn left_over(node: &Node, registry: &TinyRegistry, name: &str, blocks: usize) -> PathBuf {
    let large: Vec<u8> = name.bytes().cycle().take(blocks * 4096).collect();
    let layers = ["first", "second"].map(|path| Layer::new().file(path, 0o644, &large));
    let built = layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build();
    registry.push(name, "1", &built);
    registry.trouble(&digest_of(&built.layers[1]), Trouble::Status(404, String::new()), 1);
    node.pull(&format!("{}/{name}:1", registry.host())).await.unwrap_err();
    let blob = node.root.path().join("store/blobs").join(&digest_of(&built.layers[0])[7..]);
    eventually(SOON, "what it has made is gone, and the blob is not", || {
        let in_use = node.images.holdings().blobs.iter().filter(|held| held.in_use).count();
        let left = (node.count("layers"), node.count("ingest"), node.count("trash"), in_use, blob.exists());
        if left == (0, 0, 0, 0, true) { Ok(()) } else { Err(left) }
    });
    blob
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn what_a_pull_has_left_makes_room_for_another_and_when_an_image_is_removed() {
    let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |config| config.parallel_fetches = 1);
    let registry = TinyRegistry::http(Access::Open);
    let blob = left_over(&node, &registry, "lost", 64).await;
    // There is room for a part of this one, and with what the other has left for all of it.
    registry.push("x", "1", &built("text"));
    disk.resize(&Short::Blocks.more(&disk, 12));
    let reference = format!("{}/x:1", registry.host());
    let error = node.pull(&reference).await.unwrap_err();
    assert_eq!(error.class(), Class::Exhausted, "{}", line(&error));
    assert!(!blob.exists(), "it has made room");
    clears(&node, &["layers"]);
    node.pull(&reference).await.unwrap();
    is_whole(&node, &reference, "text");
    node.images.remove(&reference).await.unwrap();

    disk.resize(LARGE);
    let blob = left_over(&node, &registry, "again", 64).await;
    node.images.remove("r.example/is-not-here:1").await.unwrap();
    assert!(blob.exists(), "there is room enough");
    disk.resize(&Short::Blocks.more(&disk, 4));
    node.images.remove("r.example/is-not-here:1").await.unwrap();
    assert!(!blob.exists());
    clears(&node, &[]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: mounts a disk, unpacks layers"]
async fn images_can_be_removed_from_a_full_disk_and_those_in_use_stay_for_their_users() {
    for short in [Short::Blocks, Short::Inodes] {
        let (node, disk) = Node::on(|root| Disk::under(root, LARGE), |_| ());
        let registry = TinyRegistry::http(Access::Open);
        registry.push("x", "1", &image("one"));
        registry.push("y", "1", &image("two"));
        let [idle, used] = ["x:1", "y:1"].map(|name| format!("{}/{name}", registry.host()));
        node.pull(&idle).await.unwrap();
        let id = node.pull(&used).await.unwrap();
        let leased = node.images.lease(&used).unwrap();
        disk.resize(&short.more(&disk, 0));
        fs::write(disk.0.join("ballast"), b"x").unwrap_err();
        node.images.remove(&used).await.unwrap();
        assert!(!node.is_here(&used) && node.is_here(&idle));
        // A start finds it as little, and what is in use as long as somebody says so.
        let found = node.as_found();
        assert!(!found.is_here(id.as_str()) && found.is_here(&idle));
        assert!(found.images.lease_by_id(&id).is_err());
        found.images.recovered().await;
        assert_eq!(found.count("layers"), 3, "{short:?}");
        node.images.remove(&idle).await.unwrap();
        node.settles();
        assert!(leased.layers.iter().all(|layer| layer.exists()));
        drop(leased);
        clears(&node, &["layers", "blobs", "records"]);
    }
}
