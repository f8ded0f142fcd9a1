//! The daemon killed during a pull: while a layer comes in, while one is unpacked, between two of them, and at random
//! instants. What is listed afterwards is whole, what is not is pulled again, and nothing half-made stays.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use api::cri::v1::{ImageSpec, ImageStatusRequest, ListImagesRequest, RemoveImageRequest};
use testkit::{
    Access, BuiltImage, Cri, Gate, Layer, Random, TempNode, TinyRegistry, Trouble, container, eventually,
    eventually_async, patience, pod, seed,
};

use crate::{
    scene::SOON,
    support::{self, node},
};

/// Kills at random instants.
const KILLS: usize = 20;

/// A pull of such an image takes about so long: a kill comes anywhere in it, or just after.
const PULL: Duration = Duration::from_millis(400);

/// Files of a layer that takes long to unpack.
const MANY: usize = 6000;

/// The probe, and above it two layers, the upper of so many files.
fn image(text: &str, files: usize) -> BuiltImage {
    let few = Layer::new().file("text", 0o644, text.as_bytes());
    let many =
        (0..files).fold(Layer::new(), |layer, number| layer.file(&format!("many/{number}"), 0o644, text.as_bytes()));
    support::probe().layer(few).layer(many).build()
}

fn inside(node: &TempNode, below: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.dir().join("root/images").join(below)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

async fn is_listed(cri: &mut Cri, reference: &str) -> bool {
    let image = ImageSpec { image: reference.to_owned(), ..Default::default() };
    let request = ImageStatusRequest { image: Some(image), verbose: false };
    cri.images.image_status(request).await.unwrap().into_inner().image.is_some()
}

/// A container of the image finds all of its files.
async fn is_whole(node: &TempNode, cri: &mut Cri, reference: &str, text: &str, files: usize) {
    let config = pod(&format!("of-{text}"), node.dir());
    let id = cri.run(&config).await.unwrap();
    let runs = cri.start(&id, &config, &container("runs", reference, &["sleep", "forever"])).await.unwrap();
    let said = cri.exec(&runs, &["/probe", "cat", "/text"], 10).await.unwrap();
    assert_eq!(said.stdout, text.as_bytes());
    let tree = cri.exec(&runs, &["/probe", "tree", "/many"], 20).await.unwrap();
    let found = String::from_utf8_lossy(&tree.stdout).lines().filter(|line| line.contains("many/")).count();
    assert_eq!(found, files);
    cri.remove(&id).await.unwrap();
}

/// Has a pull begun and forgotten.
fn begin(mut cri: Cri, reference: &str) {
    let reference = reference.to_owned();
    tokio::spawn(async move { cri.pull(&reference).await });
}

/// Every image is removed, and nothing of any stays.
async fn nothing_stays(node: &TempNode, cri: &mut Cri) {
    let listed = cri.images.list_images(ListImagesRequest::default()).await.unwrap().into_inner().images;
    for image in listed {
        let image = ImageSpec { image: image.id, ..Default::default() };
        cri.images.remove_image(RemoveImageRequest { image: Some(image) }).await.unwrap();
    }
    eventually(SOON, "nothing of any image is left", || {
        let left: Vec<_> = ["layers", "ingest", "trash"].iter().flat_map(|below| inside(node, below)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Kills the daemon as soon as the store looks as it should, and has the pull done by the next one.
async fn killed_when(
    node: &mut TempNode,
    registry: &TinyRegistry,
    gate: &Gate,
    (text, files): (&str, usize),
    is_there: impl Fn(&TempNode) -> bool,
) {
    registry.push(text, "1", &image(text, files));
    let reference = format!("{}/{text}:1", registry.host());
    begin(node.client().await, &reference);
    let there = || if is_there(node) { Ok(()) } else { Err("not yet") };
    eventually_async(SOON, "the pull is where it is to be cut short", || async { there() }).await;
    node.kill_daemon();
    assert!(is_there(node), "{text}: it was cut short there");
    gate.open();
    node.start_daemon();
    let mut cri = node.client().await;
    assert!(!is_listed(&mut cri, &reference).await, "{text}");
    eventually(SOON, "nothing half-made is left", || {
        let left: Vec<_> = ["ingest", "trash"].iter().flat_map(|below| inside(node, below)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    cri.pull(&reference).await.unwrap();
    is_whole(node, &mut cri, &reference, text, files).await;
}

fn is_layer(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with("layer-")
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_a_crash_cut_short_is_not_listed_and_is_done_when_it_is_asked_again() {
    let mut node = node().await;
    let registry = TinyRegistry::http(Access::Open);
    let layers = inside(&node, "layers").len();

    // While a layer comes in, of which the rest is held back; as are those beside it.
    let gate = Gate::default();
    registry.trouble("GET /v2/incoming/blobs/", Trouble::Stall(100, gate.clone()), usize::MAX);
    let comes_in = |node: &TempNode| inside(node, "ingest").iter().any(|file| !is_layer(file));
    killed_when(&mut node, &registry, &gate, ("incoming", 1), comes_in).await;
    assert!(inside(&node, "layers").len() > layers);
    // While one is unpacked.
    let is_unpacked = |node: &TempNode| {
        inside(node, "ingest").iter().filter(|dir| is_layer(dir)).any(|dir| dir.join("many").is_dir())
    };
    killed_when(&mut node, &registry, &gate, ("unpacked", MANY), is_unpacked).await;
    nothing_stays(&node, &mut node.client().await).await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn at_whatever_instant_a_pull_is_cut_short_what_is_listed_is_whole() {
    let seed = seed("CORACLE_STORM_SEED");
    println!("{KILLS} kills with CORACLE_STORM_SEED={seed}");
    let mut random = Random::new(seed);
    let mut node = node().await;
    let registry = TinyRegistry::http(Access::Open);
    let mut listed_at_once = 0;
    for number in 0..KILLS {
        let text = format!("number-{number}");
        registry.push(&text, "1", &image(&text, 20));
        let reference = format!("{}/{text}:1", registry.host());
        begin(node.client().await, &reference);
        let instant = Duration::from_micros(random.below(PULL.as_micros() as usize) as u64);
        // Not for an event: an instant that nobody chose is what this test is about.
        tokio::time::sleep(patience(instant)).await;
        node.restart_daemon();
        let mut cri = node.client().await;
        if is_listed(&mut cri, &reference).await {
            listed_at_once += 1;
        } else {
            cri.pull(&reference).await.unwrap();
        }
        is_whole(&node, &mut cri, &reference, &text, 20).await;
    }
    println!("{listed_at_once} of {KILLS} pulls had been done");
    nothing_stays(&node, &mut node.client().await).await;
    node.finish().await;
}
