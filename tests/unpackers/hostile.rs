//! Images that are made to do harm, through the door by which archives enter: each ends in an error that names what is
//! wrong, and leaves nothing.

use std::{fs, io::Cursor, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use images::{Config, Error, Fault, Images, Limits};
use serde_json::json;
use testkit::{BuiltImage, ImageBuilder, Member, archive, digest_of};
use tokio::runtime::Runtime;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Bytes that a layer may have in these tests.
const BUDGET: u64 = 4 << 20;
/// Bytes of a bomb: more than there is patience for, were it inflated to its end.
const BOMB: u64 = 1 << 40;

/// What the import of an image comes to, in a store where little is allowed.
fn refused(image: &BuiltImage) -> Error {
    let dir = tempfile::Builder::new().prefix("crt-unpackers-").tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let archive = image.archive("localhost/hostile:1");
    runtime.block_on(async {
        let limits = Limits { layer_bytes: BUDGET, layer_entries: 1000, depth: 50, layers: 10, ..Limits::default() };
        let images = Images::open(Config { limits, ..Config::default() }, &dir.path().join("store")).unwrap();
        let error = images.import(Cursor::new(archive)).await.expect_err("it should be refused");
        assert!(images.list().is_empty());
        let count = |name: &str| fs::read_dir(dir.path().join("store").join(name)).unwrap().count();
        testkit::eventually_async(std::time::Duration::from_secs(10), "nothing is left", || async {
            let left = (count("layers"), count("blobs"), count("ingest"), count("trash"));
            if left == (0, 0, 0, 0) { Ok(()) } else { Err(left) }
        })
        .await;
        assert_eq!(names(dir.path()), ["store"]);
        error
    })
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn layer(image: ImageBuilder) -> Fault {
    match refused(&image.build()) {
        Error::Layer { source, .. } => source,
        other => panic!("{other}"),
    }
}

/// The beginning of an archive: a file of so many bytes, whose content follows.
fn head(size: u64) -> Vec<u8> {
    Member::file("bomb", "").size(size).bytes()
}

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    parts.iter().for_each(|part| encoder.write_all(part).unwrap());
    encoder.finish().unwrap()
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_bomb_ends_at_its_budget() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let zeros = vec![0; 64 << 20];
    let packed = |blob: Vec<u8>, media_type| ImageBuilder::new().layer_packed(b"", blob, media_type);
    for (what, image) in [
        // Told by the header, before a byte of it is read.
        ("a large file", packed(gzip(&[&head(BOMB)]), GZIP)),
        // Not told: what follows the archive's end, which only the digest wants.
        ("behind the end", packed(gzip(&[&archive(&[Member::file("f", "x")]), &zeros]), GZIP)),
        ("members", packed([gzip(&[&head(BUDGET)]), gzip(&[&zeros]).repeat(40)].concat(), GZIP)),
        (
            "a zstd frame",
            packed(zstd::encode_all([head(BUDGET), zeros.clone()].concat().as_slice(), 19).unwrap(), ZSTD),
        ),
        ("long records", packed(gzip(&[&Member::file("x", "").pax(&[("comment", &zeros[..1 << 20])]).bytes()]), GZIP)),
        ("more entries than are allowed", ImageBuilder::new().layer_bytes(Member::file("f", "").bytes().repeat(1001))),
    ] {
        let fault = layer(image);
        match what {
            "long records" => assert!(matches!(fault, Fault::Archive { .. }), "{what}: {fault}"),
            _ => assert!(matches!(fault, Fault::Budget { .. }), "{what}: {fault}"),
        }
    }
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_window_that_needs_too_much_memory_is_refused() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    // A frame's header: the magic, a descriptor without sizes, a window of 2^31 bytes; then an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0].to_vec();
    let fault = layer(ImageBuilder::new().layer_packed(b"", frame, ZSTD));
    assert!(matches!(fault, Fault::Stream { .. }), "{fault}");
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_configuration_with_an_absurd_history_is_refused() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let good = ImageBuilder::new().layer_bytes(archive(&[Member::file("f", "x")])).build();
    let config: serde_json::Value = serde_json::from_slice(&good.config).unwrap();
    for (what, absurd) in [
        ("history", json!(vec![json!({}); 2_000_000])),
        ("history", json!(vec![""; 2_000_000])),
        ("extra", json!(vec![json!([]); 2_000_000])),
    ] {
        let mut config = config.clone();
        config[what] = absurd;
        let config = config.to_string().into_bytes();
        assert!(config.len() < 8 << 20, "not refused for its size");
        let manifest = String::from_utf8(good.manifest.clone()).unwrap();
        let sized = manifest.replace(&format!("\"size\":{}", good.config.len()), &format!("\"size\":{}", config.len()));
        let manifest = sized.replace(&good.id(), &digest_of(&config)).into_bytes();
        let error = refused(&BuiltImage { manifest, config, ..good.clone() });
        assert!(matches!(&error, Error::Content { what: "configuration", .. }), "{error}");
    }
}
