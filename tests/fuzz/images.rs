//! Targets that make images: manifests, configurations, layers and whole archives, through the door by which archives
//! enter.
//!
//! The archive around the damaged part is always right (its digests are those of what it holds), so that the damage
//! reaches the code that it is meant for.

use std::{fs, io::Cursor, path::Path};

use images::{Config, Images};
use testkit::{BuiltImage, ImageBuilder, Layer, digest_of, mend};
use tokio::runtime::Runtime;

use crate::{corpus, runner::Target};

/// How a layer is packed is told by its bytes, whatever its media type says.
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A store in a directory of its own, beside which nothing may appear.
struct Store {
    runtime: Runtime,
    images: Images,
    dir: tempfile::TempDir,
}

impl Store {
    fn open() -> Store {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::Builder::new().prefix("crt-fuzz-").tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let guard = runtime.enter();
        let images = Images::open(Config::default(), &dir.path().join("images")).unwrap();
        drop(guard);
        fs::write(dir.path().join("canary"), "sings").unwrap();
        Store { runtime, images, dir }
    }

    /// Imports the image, removes what came of it, and looks for anything outside the store.
    fn swallow(&self, image: &BuiltImage) {
        self.swallow_archive(image.archive("localhost/fuzz:1"));
    }

    /// The same with a whole archive. What came in also goes out.
    fn swallow_archive(&self, archive: Vec<u8>) {
        self.runtime.block_on(async {
            let made = self.images.import(Cursor::new(archive)).await;
            for image in made.unwrap_or_default() {
                let mut export = self.images.export(vec![image.id.to_string()]).await.unwrap();
                let mut left = export.bytes();
                while let Some(bytes) = export.next().await.unwrap() {
                    left -= bytes.len() as u64;
                }
                assert_eq!(left, 0);
            }
            // Also what an archive brought that failed at its second image.
            for image in self.images.list() {
                self.images.remove(image.id.as_str()).await.unwrap();
            }
        });
        assert_eq!(names(self.dir.path()), ["canary", "images"]);
        assert_eq!(fs::read_to_string(self.dir.path().join("canary")).unwrap(), "sings");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn good() -> BuiltImage {
    let layer = Layer::new().directory("etc", 0o755).file("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n");
    ImageBuilder::new()
        .layer(layer)
        .set("Entrypoint", serde_json::json!(["/x"]))
        .set("Env", serde_json::json!(["A=b"]))
        .set("User", serde_json::json!("root"))
        .set("Volumes", serde_json::json!({ "/data": {} }))
        .build()
}

/// Words of the documents.
const JSON: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"1e999",
    b"\"sha256:\"",
    b"\"../../x\"",
    b"\\u0000",
    b"[[[[[[[[",
    b"true",
    b"\"size\":",
    b"\"digest\":",
    b"\"layers\":",
    b"\"mediaType\":",
    b"\"Volumes\":{\"/../..\":{}}",
];

#[test]
#[ignore = "needs root: unpacking keeps owners"]
fn a_manifest_is_an_image_or_an_error() {
    let (store, good) = (Store::open(), good());
    Target { name: "manifest", seeds: vec![good.manifest.clone()], words: JSON }.run(|bytes| {
        store.swallow(&BuiltImage { manifest: bytes.to_vec(), ..good.clone() });
    });
}

#[test]
#[ignore = "needs root: unpacking keeps owners"]
fn an_image_configuration_is_an_image_or_an_error() {
    let (store, good) = (Store::open(), good());
    Target { name: "configuration", seeds: vec![good.config.clone()], words: JSON }.run(|bytes| {
        let manifest = String::from_utf8(good.manifest.clone()).unwrap();
        let sized = manifest.replace(&format!("\"size\":{}", good.config.len()), &format!("\"size\":{}", bytes.len()));
        let manifest = sized.replace(&good.id(), &digest_of(bytes));
        store.swallow(&BuiltImage { manifest: manifest.into_bytes(), config: bytes.to_vec(), ..good.clone() });
    });
}

/// Larger layers of the corpus cost more time than they reach far, bytes.
const LARGEST_SEED: usize = 64 << 10;

/// Whatever packs a layer: what comes out is an archive or an error, and no more of it than is allowed.
#[test]
#[ignore = "needs root: unpacking keeps owners"]
fn a_packed_layer_is_unpacked_or_refused() {
    let store = Store::open();
    let corpus = corpus::cases().into_iter().flat_map(|case| case.layers).filter(|layer| layer.tar != layer.blob);
    let mut seeds: Vec<_> = corpus.map(|layer| layer.blob).filter(|blob| blob.len() < LARGEST_SEED).collect();
    seeds.sort();
    seeds.dedup();
    assert!(seeds.len() > 8, "the corpus has lost its packed layers");
    let words: &[&[u8]] = &[
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
        b"\x28\xb5\x2f\xfd",
        b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
        b"\x5f\x2a\x4d\x18\0\0\0\0",
        b"SG",
        b"GNUlInUx",
    ];
    Target { name: "packed-layer", seeds, words }.run(|bytes| {
        store.swallow(&ImageBuilder::new().layer_packed(b"", bytes.to_vec(), ZSTD).build());
    });
}

#[test]
#[ignore = "needs root: unpacking keeps owners"]
fn a_layer_is_unpacked_below_its_directory_or_refused() {
    let store = Store::open();
    let plain = Layer::new()
        .directory("a", 0o755)
        .file("a/b", 0o4755, b"content")
        .hard_link("a/c", "a/b")
        .link("a/d", "../../../../canary")
        .file("a/d/e", 0o644, b"through a link")
        .file("a/.wh.b", 0o644, b"");
    let opaque = Layer::new()
        .directory("x", 0o700)
        .file("x/.wh..wh..opq", 0o644, b"")
        .link("y", "/")
        .file("y/canary", 0o644, b"!");
    let words: &[&[u8]] = &[
        b"../",
        b"/",
        b".wh.",
        b".wh..wh..opq",
        b"ustar\0",
        b"0000777\0",
        b"././@LongLink",
        b"30 path=../../canary\n",
        b"L",
        b"x",
        b"S",
        b"g",
        b"\0",
        b"\x80\0\0\0\0\0\0\xff",
        b"22 GNU.sparse.major=1\n",
        b"24 GNU.sparse.map=0,1,9\n",
        b"40 SCHILY.xattr.security.capability=abc\n",
        b"20 size=18446744073\n",
    ];
    let corpus = corpus::cases().into_iter().flat_map(|case| case.layers);
    let mut seeds: Vec<_> = corpus.map(|layer| layer.tar).filter(|tar| tar.len() < LARGEST_SEED).collect();
    seeds.extend([plain.tar(), opaque.tar()]);
    Target { name: "layer", seeds, words }.run(|bytes| {
        let image = ImageBuilder::new().layer_bytes(mended(bytes)).build();
        store.swallow(&image);
    });
}

#[test]
#[ignore = "needs root: unpacking keeps owners"]
fn an_archive_is_images_that_can_be_saved_again_or_an_error() {
    let (store, good) = (Store::open(), good());
    let saved = br#"[{"Config":"c.json","RepoTags":["localhost/fuzz:2"],"Layers":["a/layer.tar"]}]"#;
    let docker = Layer::new()
        .file("c.json", 0o644, &good.config)
        .file("b/layer.tar", 0o644, &good.layers[0])
        .link("a/layer.tar", "../b/layer.tar")
        .file("manifest.json", 0o644, saved);
    let words: &[&[u8]] = &[
        b"index.json",
        b"manifest.json",
        b"blobs/sha256/",
        b"../",
        b"io.containerd.image.name",
        b"org.opencontainers.image.ref.name",
        b"localhost/fuzz@sha256:",
        b"\"RepoTags\":null",
        b"\"Layers\":[]",
        b"\"platform\":{\"os\":\"linux\",\"architecture\":\"arm\"}",
        b"ustar\0",
        b"0000777\0",
        b"2",
        b"\0",
    ];
    let seeds = vec![good.archive("localhost/fuzz:1"), docker.tar()];
    Target { name: "archive", seeds, words }.run(|bytes| store.swallow_archive(mended(bytes)));
}

/// The checksums of headers are mended, or nearly every damage would end there.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    for header in tar.chunks_exact_mut(512) {
        if header[257..262] == *b"ustar" {
            mend(header);
        }
    }
    tar
}
