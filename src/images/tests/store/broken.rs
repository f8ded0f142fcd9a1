//! Bytes that end too soon, at every layer of what is spoken: TLS, HTTP, documents, compressed streams, archives.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use model::Class;
use serde_json::{Value, json};
use testkit::{Access, BuiltImage, ImageBuilder, Layer, TinyRegistry, digest_of};

use crate::node::{Node, SOON, image};

/// A server that answers every connection with these bytes, whatever it is asked, and ends it; or says nothing and
/// keeps it. Its address.
fn answers(bytes: Option<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let kept = Arc::new(Mutex::new(Vec::new()));
        for mut connection in listener.incoming().flatten() {
            let (bytes, kept) = (bytes.clone(), kept.clone());
            thread::spawn(move || match bytes {
                None => kept.lock().unwrap().push(connection),
                Some(bytes) => {
                    let _ = connection.read(&mut [0; 4096]);
                    let _ = connection.write_all(&bytes);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn who_speaks_another_language_or_ends_too_soon_is_told_by_name() {
    let node = Node::with(|config| (config.connect_timeout_s, config.idle_timeout_s) = (1, 1));
    for (plain, secure, said) in [
        (true, true, None),
        (true, true, Some(&b""[..])),
        (true, true, Some(b"SSH-2.0-OpenSSH_9.2p1\r\n")),
        (false, true, Some(b"HTTP/1.1 400 Bad Request\r\n\r\nplain HTTP was sent to a port of TLS")),
        // An alert, a record longer than there are, half a head.
        (true, true, Some(b"\x15\x03\x03\x00\x02\x02\x28")),
        (true, true, Some(b"\x16\x03\x03\xff\xff\x02")),
        (true, true, Some(b"\x16\x03")),
        (true, false, Some(b"HTTP/1.1 200")),
        (true, false, Some(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n")),
        (true, false, Some(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}")),
        (true, false, Some(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")),
        (true, false, Some(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{}")),
        (true, false, Some(b"HTTP/1.1 200 OK\r\n\0: x\r\n\r\n{}")),
        (true, false, Some(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        (true, false, Some(b"HTTP/9.9 200 OK\r\n\r\n{}")),
    ] {
        for scheme in [plain.then_some("http"), secure.then_some("https")].into_iter().flatten() {
            let address = answers(said.map(<[u8]>::to_vec));
            node.hosts("r.example", &format!("server = \"{scheme}://{address}\"\nskip_verify = true\n"));
            let shown = format!("{scheme}: {:?}", said.map(String::from_utf8_lossy));
            let pulled = tokio::time::timeout(SOON, node.pull("r.example/x:1")).await.expect("it comes to an end");
            let error = pulled.expect_err(&shown);
            assert!(error.to_string().contains(&address) && error.to_string().len() < 1000, "{shown}: {error}");
            assert!(matches!(error.class(), Class::Unavailable | Class::Invalid), "{shown}: {error}");
        }
    }
    assert_eq!((node.images.list().len(), node.count("blobs")), (0, 0));
}

fn pushed(registry: &TinyRegistry, config: &[u8], built: &BuiltImage) {
    let mut manifest: Value = serde_json::from_slice(&built.manifest).unwrap();
    manifest["config"]["digest"] = json!(digest_of(config));
    manifest["config"]["size"] = json!(config.len());
    registry.put_blob("x", config.to_vec());
    registry.put_manifest("x", "1", BuiltImage::MEDIA_TYPE, manifest.to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: opens a store"]
async fn a_document_that_ends_anywhere_is_an_error_that_names_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    for end in (0..built.manifest.len()).step_by(11) {
        // Its digest is that of what there is of it: no host has lied.
        let digest = registry.put_manifest("x", "1", BuiltImage::MEDIA_TYPE, built.manifest[..end].to_vec());
        let error = node.pull(&reference).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{end}: {error}");
        assert!(error.to_string().contains(&digest), "{end}: {error}");
    }
    for end in (0..built.config.len()).step_by(11) {
        pushed(&registry, &built.config[..end], &built);
        let error = node.pull(&reference).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{end}: {error}");
        assert!(error.to_string().contains(&digest_of(&built.config[..end])), "{end}: {error}");
    }
    assert_eq!((node.images.list().len(), node.count("layers")), (0, 0));
    node.settles();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_configuration_may_have_a_long_history_and_no_absurd_one() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let reference = format!("{}/x:1", registry.host());
    let with = |entry: Value, times: usize| {
        let mut config: Value = serde_json::from_slice(&built.config).unwrap();
        config["history"] = json!(vec![entry; times]);
        config.to_string().into_bytes()
    };
    let usual = json!({ "created": "2026-01-01T00:00:00Z", "created_by": "RUN x", "empty_layer": true });
    for (entry, times, told) in [
        (json!({}), 200_000, "values"),
        (json!({ "comment": "x".repeat(9 << 20) }), 1, "bytes"),
        (json!([[[[]]]]), 10, "history"),
        (json!({ "created": 5 }), 1, "line"),
    ] {
        pushed(&registry, &with(entry, times), &built);
        let error = node.pull(&reference).await.unwrap_err();
        assert!(error.class() == Class::Invalid && error.to_string().contains("configuration"), "{error}");
        assert!(error.to_string().contains(told) || told == "history", "{told}: {error}");
    }
    pushed(&registry, &with(usual, 10_000), &built);
    node.pull(&reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_layer_whose_bytes_end_anywhere_is_an_error_that_names_it() {
    let tar = Layer::new().directory("a", 0o755).file("a/b", 0o644, &[7; 3000]).link("a/c", "b").tar();
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(tar.as_slice(), 3).unwrap();
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let reference = format!("{}/x:1", registry.host());
    for (blob, kind, step) in [(&tar, "tar", 401), (&gzip, "tar+gzip", 13), (&zstd, "tar+zstd", 7)] {
        let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
        let last = [blob.len() - 8, blob.len() - 4, blob.len() - 1];
        for end in (0..blob.len()).step_by(step).chain(last) {
            let cut = blob[..end].to_vec();
            let digest = digest_of(&cut);
            registry.push("x", "1", &ImageBuilder::new().layer_packed(&tar, cut, &media_type).build());
            let error = node.pull(&reference).await.unwrap_err();
            assert_eq!(error.class(), Class::Invalid, "{kind} {end}: {error}");
            assert!(error.to_string().contains(&digest), "{kind} {end}: {error}");
        }
        let whole = ImageBuilder::new().layer_packed(&tar, blob.clone(), &media_type).build();
        registry.push("x", "1", &whole);
        node.pull_and_remove(&reference).await;
    }
    assert_eq!((node.images.list().len(), node.count("layers")), (0, 0));
    node.settles();
}
