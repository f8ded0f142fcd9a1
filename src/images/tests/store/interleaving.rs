//! What pulls, removals, uses and restarts do at the same time, in random order: whoever holds an image has all of it,
//! and what nobody needs is gone in the end.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc, time::Duration};

use images::{Images, Leased};
use testkit::{Access, BuiltImage, ImageBuilder, Layer, Random, TinyRegistry, eventually, seed};

use crate::node::{Node, SOON};

/// Images, each of two layers: one of [`BASES`] that others have too, and one of its own.
const IMAGES: usize = 6;
const BASES: usize = 2;

/// Who works at the same time, and how much each does before the store is opened anew.
const WORKERS: usize = 6;
const STEPS: usize = 40;
const RESTARTS: usize = 3;

/// A pull is given up after at most so many microseconds, half of the time: some have not begun then, others are over.
const LONGEST_PULL: usize = 20_000;

/// Names the order to have again.
const SEED: &str = "CORACLE_STORE_SEED";

/// Files that tell which layer one is: of the base, and of the top.
const MARKS: [&str; 2] = ["base", "top"];

fn built(number: usize) -> BuiltImage {
    let base = Layer::new().file(MARKS[0], 0o644, (number % BASES).to_string().as_bytes());
    let top = Layer::new().file(MARKS[1], 0o644, number.to_string().as_bytes());
    ImageBuilder::new().layer(base).layer(top).build()
}

/// What a worker has in its hands: an image and its number.
struct Held(usize, Leased);

impl Held {
    /// Every layer is there with what is in it.
    fn is_whole(&self) {
        let Held(number, leased) = self;
        let read = |layer: usize| fs::read_to_string(leased.layers[layer].join(MARKS[1 - layer]));
        let found = [read(0), read(1)].map(|text| text.map_err(|error| error.to_string()));
        assert_eq!(found, [number.to_string(), (number % BASES).to_string()].map(Ok), "image {number} in use");
    }
}

/// One worker's life: pulls, some given up, removals and uses, in a random order.
async fn work(images: Arc<Images>, names: Arc<Vec<String>>, mut random: Random) {
    let mut held: Vec<Held> = Vec::new();
    for _ in 0..STEPS {
        let number = random.below(names.len());
        let name = &names[number];
        match random.below(8) {
            0 | 1 => drop(images.pull(name, None).await.unwrap()),
            2 | 3 => {
                let patience = Duration::from_micros(random.below(LONGEST_PULL) as u64);
                if let Ok(pulled) = tokio::time::timeout(patience, images.pull(name, None)).await {
                    pulled.unwrap();
                }
            }
            4 => images.remove(name).await.unwrap(),
            5 | 6 => {
                // What was found may be gone by now; what was taken may not.
                if let Ok(leased) = images.lease(name) {
                    held.push(Held(number, leased));
                }
            }
            _ => drop((!held.is_empty()).then(|| held.swap_remove(random.below(held.len())))),
        }
        held.iter().for_each(Held::is_whole);
    }
}

/// Names of what lies in a directory of the store.
fn names_in(node: &Node, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(node.root.path().join("store").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Nothing is on disk but what the listed images need, and blobs that a pull which was given up has left.
fn is_in_order(node: &Node, names: &[String]) {
    node.settles();
    let mut layers = BTreeSet::new();
    for name in names {
        let Ok(leased) = node.images.lease(name) else { continue };
        let hex = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        layers.extend(leased.layers.iter().map(|layer| hex(layer)));
        Held(names.iter().position(|other| other == name).unwrap(), leased).is_whole();
    }
    // A lease's end is seen to on another thread.
    eventually(SOON, "the layers and records on disk are those of the listed images", || {
        let found = (names_in(node, "layers"), node.count("records"));
        let wanted = (layers.clone(), node.images.list().len());
        if found == wanted { Ok(()) } else { Err((found, wanted)) }
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn whoever_holds_an_image_has_all_of_it_and_what_nobody_needs_goes() {
    let seed = seed(SEED);
    println!("{SEED}={seed}");
    let mut random = Random::new(seed);
    let (mut node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let names: Vec<String> = (0..IMAGES).map(|number| format!("{}/x{number}:1", registry.host())).collect();
    for number in 0..IMAGES {
        registry.push(&format!("x{number}"), "1", &built(number));
    }
    let shared = Arc::new(names.clone());
    for _ in 0..RESTARTS {
        let images = Arc::new(node.images);
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| tokio::spawn(work(images.clone(), shared.clone(), Random::new(random.number()))))
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
        node = Node { root: node.root, images: Arc::into_inner(images).expect("every worker has ended") };
        is_in_order(&node, &names);
        let usage = node.images.usage();
        let listed = node.images.list().len();
        node = node.restart();
        node.images.recovered().await;
        is_in_order(&node, &names);
        let found = node.images.usage();
        assert_eq!((found.bytes, found.inodes), (usage.bytes, usage.inodes), "the account outlives a restart");
        assert_eq!(node.images.list().len(), listed);
    }
    for name in &names {
        node.pull_and_remove(name).await;
    }
    is_in_order(&node, &names);
    let usage = node.images.usage();
    assert_eq!((usage.bytes, usage.inodes), (0, 0), "nothing is left of any image");
}
