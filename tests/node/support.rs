//! What the tests of a whole node share: a node with the probe image in it.

use std::{io::Cursor, path::Path};

use testkit::{ImageBuilder, NodeOptions, TempNode, programs};

/// The image of nearly every test: our static probe, and a few files to look at.
pub(crate) const PROBE: &str = "localhost/coracle/probe:test";

/// A node that has the probe image, and nothing else.
pub(crate) async fn node() -> TempNode {
    node_with(NodeOptions::default()).await
}

/// The same, with options.
pub(crate) async fn node_with(options: NodeOptions) -> TempNode {
    let mut node = prepared(options).await;
    node.start_daemon();
    node
}

/// The same, whose daemon has never run.
pub(crate) async fn prepared(options: NodeOptions) -> TempNode {
    let node = TempNode::prepare(options);
    import(node.dir(), probe().build().archive(PROBE)).await;
    node
}

/// The probe image, to be changed.
pub(crate) fn probe() -> ImageBuilder {
    let program = std::fs::read(programs().join("coracle-probe")).expect("the probe program");
    ImageBuilder::probe(&program)
}

/// Puts an archive into the store of a node whose daemon does not run, by the path that `load` takes.
pub(crate) async fn import(node: &Path, archive: Vec<u8>) {
    let store = images::Images::open(images::Config::default(), &node.join("root/images")).expect("the image store");
    store.import(Cursor::new(archive)).await.expect("the archive is an image");
}
