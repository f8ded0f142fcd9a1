//! A node with many images: what it costs to list them, and to ask for one.

use std::time::Duration;

use api::cri::v1::{ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest};
use serde_json::json;
use testkit::{Access, ImageBuilder, Layer, TinyRegistry};

use super::{
    containerd::Containerd,
    engine::{self, Engine},
    life::timed,
    options::{Options, Part},
    report::{Row, Spread, Unit},
    support,
};

/// Images of each engine, besides the one that it has from the start.
const IMAGES: usize = 1000;

/// Times that each call is measured.
const ROUNDS: usize = 30;

/// Files of the image in whose store a daemon starts, and how often one does.
const FILES: usize = 100_000;
const STARTS: usize = 9;

/// What is measured.
const CALLS: [&str; 2] = ["ListImages", "ImageStatus"];

/// Both engines, one after the other.
pub(super) async fn of_both(options: &Options) -> Vec<Row> {
    let registry = TinyRegistry::http(Access::Open);
    for number in 0..IMAGES {
        // The same layer in all, another configuration in each.
        let image = ImageBuilder::new().layer(Layer::new().file("content", 0o644, b"content"));
        registry.push("many", &tag(number), &image.set("Labels", json!({ "number": number.to_string() })).build());
    }
    let (node, mut ours) = engine::coracle().await;
    let coracle = of(&mut ours, &registry, options.pause()).await;
    node.finish().await;
    let peer = Containerd::start(options);
    let containerd = of(&mut peer.engine().await, &registry, options.pause()).await;
    peer.finish().await;
    let row = |(call, name): (usize, &&str)| Row {
        part: Part::Pull,
        what: format!("{name}, {IMAGES} images"),
        unit: Unit::Ms,
        coracle: coracle[call],
        containerd: Some(containerd[call]),
    };
    CALLS.iter().enumerate().map(row).collect()
}

/// What a store with many files takes, asked of daemons that have just started. With no containerd beside it, which
/// walks its snapshots after a start and knows nothing until it is done.
pub(super) async fn right_after_a_start(options: &Options) -> Row {
    let (mut node, _) = engine::coracle().await;
    assert!(node.stop_daemon().success());
    let files = |layer: Layer, n| layer.file(&format!("of-{}/{n}", n / 1000), 0o644, b"content");
    let image = ImageBuilder::new().layer((0..FILES).fold(Layer::new(), files));
    support::import(node.dir(), image.build().archive("localhost/many-files:1")).await;
    let mut took = Vec::new();
    for _ in 0..STARTS {
        node.start_daemon();
        let mut cri = node.client().await;
        let (answer, time) = timed(cri.images.image_fs_info(ImageFsInfoRequest {}), options.pause()).await;
        let [images] = answer.image_filesystems.try_into().unwrap();
        assert!(images.inodes_used.unwrap().value >= FILES as u64);
        took.push(time);
        assert!(node.stop_daemon().success());
    }
    node.start_daemon();
    node.finish().await;
    Row {
        part: Part::Pull,
        what: format!("ImageFsInfo right after a start, {FILES} files"),
        unit: Unit::Ms,
        coracle: Spread::of_times(took),
        containerd: None,
    }
}

fn tag(number: usize) -> String {
    format!("n{number}")
}

async fn of(engine: &mut Engine, registry: &TinyRegistry, pause: Duration) -> [Spread; CALLS.len()] {
    let reference = |number| format!("{}/many:{}", registry.host(), tag(number));
    for number in 0..IMAGES {
        engine.cri.pull(&reference(number)).await.unwrap();
    }
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let (all, time) = timed(engine.cri.images.list_images(ListImagesRequest::default()), pause).await;
        let pulled = |tags: &[String]| tags.iter().any(|tag| tag.starts_with(&registry.host()));
        assert_eq!(all.images.iter().filter(|image| pulled(&image.repo_tags)).count(), IMAGES);
        took[0].push(time);
        let image = ImageSpec { image: reference(round), ..Default::default() };
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        let (one, time) = timed(engine.cri.images.image_status(request), pause).await;
        assert_eq!(one.image.unwrap().repo_tags, [reference(round)]);
        took[1].push(time);
    }
    took.map(Spread::of_times)
}
