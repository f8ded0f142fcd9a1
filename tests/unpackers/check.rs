//! What was unpacked right is found right by the store's own check, whatever the layers hold.

use std::io::Cursor;

use images::{Config, Error, Images, Repair};
use testkit::ImageBuilder;
use tokio::runtime::Runtime;

use crate::corpus;

#[test]
#[ignore = "needs root: unpacks layers"]
fn a_store_with_every_layer_is_found_whole() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let dir = tempfile::Builder::new().prefix("crt-unpackers-").tempdir().unwrap();
    Runtime::new().unwrap().block_on(async {
        let images = Images::open(Config::default(), &dir.path().join("store")).unwrap();
        let cases = corpus::cases();
        let all = cases.len();
        for (n, case) in cases.into_iter().enumerate() {
            let packed = case.layers.into_iter();
            let image = packed
                .fold(ImageBuilder::new(), |image, layer| image.layer_packed(&layer.tar, layer.blob, layer.media_type));
            let image = image.set("User", n.to_string().into()).build();
            match images.import(Cursor::new(image.archive(&format!("localhost/{n}:1")))).await {
                // What leads out is refused, and compared as that elsewhere.
                Ok(_) | Err(Error::Layer { .. }) => {}
                Err(error) => panic!("{}: {error}", case.name),
            }
        }
        assert!(images.list().len() > all / 2);
        let mut check = images.check(Repair::No).unwrap();
        assert!(check.left() > all);
        while let Some(found) = check.next().await.unwrap() {
            assert_eq!(found, []);
        }
    });
}
