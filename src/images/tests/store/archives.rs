//! Archives in and out, and the names that people give and take.

use std::io::{Cursor, Read, Write};

use flate2::{Compression, write::GzEncoder};
use images::{Config, Error, Export, Fault, Force, Images, Limits, Stage, Watch};
use model::ImageRef;
use serde_json::{Value, json};
use testkit::{Access, BuiltImage, Gate, ImageBuilder, Layer, TinyRegistry, Trouble, digest_of, eventually_async};

use crate::node::{Node, SOON, docker_archive, image};

async fn taken(mut export: Export) -> Result<Vec<u8>, Error> {
    let (promised, mut archive) = (export.bytes(), Vec::new());
    while let Some(bytes) = export.next().await? {
        archive.extend(bytes);
    }
    assert_eq!(archive.len() as u64, promised);
    Ok(archive)
}

async fn saved(node: &Node, names: &[&str]) -> Vec<u8> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    taken(node.images.export(names).await.unwrap()).await.unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Path and content of every file of a tar.
fn files(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut tar = tar::Archive::new(archive);
    let files = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    });
    files.collect()
}

fn document(archive: &[u8], path: &str) -> Value {
    let (_, content) = files(archive).into_iter().find(|(own, _)| own == path).unwrap_or_else(|| panic!("no {path}"));
    serde_json::from_slice(&content).unwrap()
}

/// The same image with layers by gzip, as Docker's documents describe it.
fn as_docker_has_it(built: &BuiltImage) -> BuiltImage {
    let layers: Vec<_> = built.layers.iter().map(|layer| gzip(layer)).collect();
    let describe = |media_type: &str, bytes: &[u8]| {
        let media_type = format!("application/vnd.docker.{media_type}");
        json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": describe("container.image.v1+json", &built.config),
        "layers": layers.iter().map(|layer| describe("image.rootfs.diff.tar.gzip", layer)).collect::<Vec<_>>(),
    });
    BuiltImage { manifest: manifest.to_string().into_bytes(), config: built.config.clone(), layers }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn what_is_saved_is_loaded_elsewhere_with_the_same_ids_and_names() {
    let (node, other) = (Node::new(), Node::new());
    for (text, name) in [("one", "localhost/a:1"), ("two", "localhost/b:1"), ("two", "localhost/b:2")] {
        node.images.import(Cursor::new(image(text).archive(name))).await.unwrap();
    }
    let archive = saved(&node, &["localhost/a:1", "localhost/b:2", "localhost/b:1", "localhost/a:1"]).await;
    let again = saved(&node, &["localhost/a:1", "localhost/b:2", "localhost/b:1"]).await;
    assert_eq!(archive, again, "the same images are the same bytes");

    // Each blob once, under its digest: two manifests, two configurations, three layers.
    let files = files(&archive);
    let blobs: Vec<_> = files.iter().filter(|(path, _)| path.len() > "blobs/sha256/".len() + 60).collect();
    assert_eq!(blobs.len(), 7);
    for (path, content) in blobs {
        assert_eq!(*path, format!("blobs/{}", digest_of(content).replace(':', "/")));
    }
    // A tag that only one image has is enough to find it by; one that two have is not.
    let index = document(&archive, "index.json");
    let short = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned();
    let names: Vec<_> = index["manifests"].as_array().unwrap().iter().map(short).collect();
    assert_eq!(names, ["localhost/a:1", "2", "localhost/b:1"]);
    let docker = document(&archive, "manifest.json");
    assert_eq!(
        (&docker[0]["RepoTags"], &docker[1]["RepoTags"]),
        (&json!(["localhost/a:1"]), &json!(["localhost/b:2", "localhost/b:1"]))
    );

    for archive in [archive.clone(), gzip(&archive), zstd::encode_all(&archive[..], 3).unwrap()] {
        let mut import = other.images.read_archive(Cursor::new(archive)).await.unwrap();
        let mut loaded = Vec::new();
        while let Some(one) = import.next(&Watch::default()).await.unwrap() {
            loaded.push((one.image.id.to_string(), one.names));
        }
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            loaded,
            [
                (image("one").id(), names(&["localhost/a:1"])),
                (image("two").id(), names(&["localhost/b:2", "localhost/b:1"]))
            ]
        );
        other.images.remove(&image("one").id()).await.unwrap();
        other.images.remove(&image("two").id()).await.unwrap();
        drop(import);
        other.settles();
        assert_eq!((other.count("blobs"), other.count("layers")), (0, 0));
    }
    // Without index.json it is what `docker save` writes.
    let mut older = Layer::new();
    for (path, content) in files.iter().filter(|(path, _)| !path.ends_with('/') && path != "index.json") {
        older = older.file(path, 0o644, content);
    }
    other.images.import(Cursor::new(older.tar())).await.unwrap();
    assert_eq!(other.found("localhost/b:1").id.as_str(), image("two").id());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_archive_takes_every_tag_that_it_names_from_the_build_before() {
    let node = Node::new();
    let (tags, kept) = (["localhost/app:1", "localhost/app:latest"], "localhost/app:kept");
    node.images.import(Cursor::new(docker_archive(&image("old"), &[tags[0], kept, tags[1]]))).await.unwrap();
    node.images.import(Cursor::new(docker_archive(&image("new"), &tags))).await.unwrap();
    let (old, new) = (image("old").id(), image("new").id());
    let is_theirs = |node: &Node| {
        assert_eq!(node.found(&new).tags, tags);
        assert_eq!(node.found(&old).tags, [kept]);
        tags.iter().for_each(|tag| assert_eq!(node.found(tag).id.as_str(), new));
    };
    is_theirs(&node);
    is_theirs(&node.as_found());
    // What it took does not come back to the other with its own end.
    node.images.remove(&new).await.unwrap();
    for node in [&node, &node.as_found()] {
        tags.iter().for_each(|tag| assert!(!node.is_here(tag), "{tag}"));
        assert_eq!(node.found(&old).tags, [kept]);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_image_by_id_or_digest_is_saved_without_a_name_and_one_that_is_not_here_not_at_all() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    registry.push("x", "1", &image("one"));
    node.pull(&format!("{}/x:1", registry.host())).await.unwrap();
    let digest = node.found(&image("one").id()).digests[0].clone();
    for name in [image("one").id().as_str(), &image("one").id()[7..20], &digest] {
        let archive = saved(&node, &[name]).await;
        assert_eq!(document(&archive, "index.json")["manifests"][0].get("annotations"), None);
        assert_eq!(document(&archive, "manifest.json")[0]["RepoTags"], json!([]));
    }
    let missing = node.images.export(vec![image("one").id(), "localhost/none:1".to_owned()]).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn dockers_documents_leave_in_the_words_of_oci() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let docker = as_docker_has_it(&image("one"));
    registry.push("x", "1", &docker);
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap();
    let archive = saved(&node, &[&name]).await;
    let entry = &document(&archive, "index.json")["manifests"][0];
    assert_eq!(entry["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let path = format!("blobs/{}", entry["digest"].as_str().unwrap().replace(':', "/"));
    let manifest = document(&archive, &path);
    assert_eq!(manifest["mediaType"], entry["mediaType"]);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
    for layer in manifest["layers"].as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    assert!(!files(&archive).iter().any(|(path, _)| path.contains(docker.digest().trim_start_matches("sha256:"))));
    let other = Node::new();
    other.images.import(Cursor::new(archive)).await.unwrap();
    assert_eq!(other.found(&name).id.as_str(), docker.id());
    // And what docker saved, layers by gzip in plain words, leaves as what it is.
    let saved_by_docker = Layer::new()
        .file("c.json", 0o644, &docker.config)
        .file("a.tar", 0o644, &docker.layers[0])
        .file("b.tar", 0o644, &docker.layers[1])
        .file("manifest.json", 0o644, br#"[{"Config":"c.json","RepoTags":null,"Layers":["a.tar","b.tar"]}]"#);
    let third = Node::new();
    third.images.import(Cursor::new(saved_by_docker.tar())).await.unwrap();
    let archive = saved(&third, &[&docker.id()]).await;
    let digest = document(&archive, "index.json")["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    let manifest = document(&archive, &format!("blobs/{digest}"));
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn a_layer_that_came_with_another_image_is_saved_as_that_had_it() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    node.images.import(Cursor::new(image("one").archive("localhost/one:1"))).await.unwrap();
    registry.push("x", "1", &as_docker_has_it(&image("two")));
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap();
    // The base is the other image's: its gzip was never fetched.
    let archive = saved(&node, &[&name]).await;
    let other = Node::new();
    other.images.import(Cursor::new(archive)).await.unwrap();
    assert_eq!(other.found(&name).id.as_str(), image("two").id());
    node.images.remove("localhost/one:1").await.unwrap();
    let lost = node.images.export(vec![name.clone()]).await.unwrap_err();
    assert!(matches!(&lost, Error::BlobMissing { image: id, .. } if id.as_str() == image("two").id()), "{lost}");
    // As the message says.
    node.images.remove(&name).await.unwrap();
    node.pull(&name).await.unwrap();
    saved(&node, &[&name]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn no_image_can_lend_another_a_blob_that_is_not_its_layer() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    // The base of the second came with the first, and in other words than the second has it in.
    node.images.import(Cursor::new(image("one").archive("localhost/one:1"))).await.unwrap();
    registry.push("x", "1", &as_docker_has_it(&image("two")));
    let name = format!("{}/x:1", registry.host());
    node.pull(&name).await.unwrap();
    let [base, top] = image("one").layers.try_into().unwrap();
    let evil = Layer::new().file("etc/base", 0o4755, b"evil").tar();
    let evils = ImageBuilder::new().layer_bytes(evil.clone()).build();
    node.images.import(Cursor::new(evils.archive("localhost/evil:1"))).await.unwrap();
    let plain = "application/vnd.oci.image.layer.v1.tar";
    let liar = ImageBuilder::new().layer_packed(&base, evil, plain).layer_bytes(top).build();
    let refused = node.images.import(Cursor::new(liar.archive("localhost/liar:1"))).await.unwrap_err();
    assert!(matches!(&refused, Error::Layer { source: Fault::DiffId { .. }, .. }), "{refused}");
    // By a registry its layers are here already, so nobody looks at what it says that they came as.
    registry.push("liar", "1", &liar);
    node.pull(&format!("{}/liar:1", registry.host())).await.unwrap();
    node.images.remove("localhost/one:1").await.unwrap();
    let lost = node.images.export(vec![name]).await.unwrap_err();
    assert!(matches!(&lost, Error::BlobMissing { image: id, .. } if id.as_str() == image("two").id()), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_image_that_is_removed_while_it_is_saved_is_saved_and_a_spoiled_one_is_not() {
    let node = Node::new();
    let archive = image("one").archive("localhost/a:1");
    node.images.import(Cursor::new(archive.clone())).await.unwrap();
    let whole = saved(&node, &["localhost/a:1"]).await;
    let mut export = node.images.export(vec!["localhost/a:1".to_owned()]).await.unwrap();
    let mut taken_so_far = export.next().await.unwrap().unwrap();
    node.images.remove("localhost/a:1").await.unwrap();
    while let Some(bytes) = export.next().await.unwrap() {
        taken_so_far.extend(bytes);
    }
    assert_eq!(taken_so_far, whole);
    drop(export);
    node.settles();
    assert_eq!((node.count("blobs"), node.count("layers")), (0, 0));

    node.images.import(Cursor::new(archive)).await.unwrap();
    let blob = node.root.path().join("store/blobs").join(&digest_of(&image("one").layers[1])[7..]);
    let mut content = std::fs::read(&blob).unwrap();
    let last = content.len() - 1;
    content[last] ^= 1;
    std::fs::write(&blob, content).unwrap();
    let export = node.images.export(vec!["localhost/a:1".to_owned()]).await.unwrap();
    assert!(matches!(taken(export).await, Err(Error::Mismatch { .. })));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn an_archive_cannot_give_its_bytes_a_name_that_promises_others() {
    let node = Node::new();
    let promised = format!("registry.example/pause@{}", image("good").digest());
    let built = image("evil");
    let lying = built.archive(&promised);
    let refused = node.images.import(Cursor::new(lying)).await.unwrap_err();
    assert!(matches!(&refused, Error::Archive { why } if why.contains(&promised)), "{refused}");
    let honest = format!("registry.example/pause@{}", built.digest());
    node.images.import(Cursor::new(built.archive(&honest))).await.unwrap();
    assert_eq!(node.found(&honest).digests, std::slice::from_ref(&honest));

    // The tag that a tool has changed is the one that counts; anything else beside a whole name is not.
    for (short, name) in [("changed", "localhost/x:changed"), ("1", "localhost/x:1"), ("r.io/y:2", "localhost/x:1")] {
        let entry = json!({
            "mediaType": BuiltImage::MEDIA_TYPE, "digest": built.digest(), "size": built.manifest.len(),
            "annotations": {
                "io.containerd.image.name": "localhost/x:1", "org.opencontainers.image.ref.name": short,
            },
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut layout = Layer::new().file("index.json", 0o644, index.to_string().as_bytes());
        for (digest, blob) in built.blobs() {
            layout = layout.file(&digest, 0o644, &blob);
        }
        let mut import = node.images.read_archive(Cursor::new(layout.tar())).await.unwrap();
        assert_eq!(import.next(&Watch::default()).await.unwrap().unwrap().names, [name]);
    }

    let docker = |names: Value, layers: &[&str]| {
        let manifest = json!([{ "Config": "c.json", "RepoTags": names, "Layers": layers }]);
        let mut archive = Layer::new().file("c.json", 0o644, &built.config);
        for (name, layer) in ["a", "b"].iter().zip(&built.layers) {
            archive = archive.file(name, 0o644, layer).file(&format!("{name}.gz"), 0o644, &gzip(layer));
        }
        archive.file("manifest.json", 0o644, manifest.to_string().as_bytes()).tar()
    };
    for wrong in [docker(json!([promised]), &["a", "b"]), docker(json!(["UPPER"]), &["a", "b"])] {
        assert!(node.images.import(Cursor::new(wrong)).await.is_err());
    }
    // Layers that are not what the configuration says, in number, order or content.
    for layers in [
        &["a"][..],
        &["b", "a"],
        &["b.gz", "a.gz"],
        &["a", "a.gz"],
        &["a", "b", "b"],
        &["a", "c.json"],
        &["a", "none"],
        &["a", "../../../etc/passwd"],
    ] {
        // Where they are to be made, and where they are here already.
        let other = Node::new();
        assert!(other.images.import(Cursor::new(docker(json!(null), layers))).await.is_err(), "{layers:?}");
        assert!(other.images.list().is_empty());
        assert!(node.images.import(Cursor::new(docker(json!(null), layers))).await.is_err(), "{layers:?}");
    }
    assert_eq!(node.images.list().len(), 1);
    node.settles();
    assert_eq!((node.count("blobs"), node.count("layers")), (4, 2), "nothing of what was refused is kept");
    for layers in [["a", "b"], ["a.gz", "b.gz"]] {
        node.images.import(Cursor::new(docker(json!(null), &layers))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn of_entries_with_one_path_the_last_counts() {
    let node = Node::new();
    let (built, other) = (image("right"), json!([{ "Config": "none", "Layers": [] }]).to_string());
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["x:1"], "Layers": ["a", "b"] }]).to_string();
    let (manifest, other) = (manifest.as_bytes(), other.as_bytes());
    let content = || {
        let archive = Layer::new().file("c.json", 0o644, &built.config).file("a", 0o644, &built.layers[0]);
        archive.file("b", 0o644, &built.layers[1]).file("right", 0o644, manifest).file("other", 0o644, other)
    };
    for archive in [
        content().link("manifest.json", "other").file("manifest.json", 0o644, manifest),
        content().file("manifest.json", 0o644, other).link("manifest.json", "right"),
    ] {
        node.images.import(Cursor::new(archive.tar())).await.unwrap();
        assert_eq!(node.found("x:1").id.to_string(), digest_of(&built.config));
        node.images.remove("x:1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn torn_and_oversized_archives_are_refused_and_leave_nothing() {
    let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
    let limits = Limits { archive_bytes: 256 << 10, ..Limits::default() };
    let images = Images::open(Config { limits, ..Config::default() }, &root.path().join("store")).unwrap();
    let archive = image("one").archive("localhost/a:1");
    assert!(archive.len() < 256 << 10);
    for end in (0..archive.len() - 1024).step_by(1024) {
        let torn = archive[..end].to_vec();
        let outcome = images.import(Cursor::new(torn)).await;
        assert!(outcome.is_err(), "cut at {end}");
    }
    let compressed = gzip(&archive);
    assert!(images.import(Cursor::new(compressed[..compressed.len() / 2].to_vec())).await.is_err());
    let huge = Layer::new().file("blob", 0o644, &vec![0; 257 << 10]).tar();
    let refused = images.import(Cursor::new(gzip(&huge))).await.unwrap_err();
    assert!(matches!(&refused, Error::Archive { why } if why.contains("archive_bytes")), "{refused}");
    // A header that promises more than ever comes, and many files with long names.
    let mut names = Layer::new();
    for n in 0..5000 {
        names = names.link(&format!("{n}/{}", "n/".repeat(1800)), &"t/".repeat(40));
    }
    let refused = images.import(Cursor::new(names.tar())).await.unwrap_err();
    assert!(matches!(&refused, Error::Archive { why } if why.contains("names")), "{refused}");
    let entry = json!({ "mediaType": "x", "size": 1, "digest": format!("sha256:{}", "a".repeat(64)) });
    let index = json!({ "schemaVersion": 2, "manifests": vec![entry; 1001] });
    let many = Layer::new().file("index.json", 0o644, index.to_string().as_bytes());
    assert!(images.import(Cursor::new(many.tar())).await.unwrap_err().to_string().contains("1001 images"));
    assert!(images.list().is_empty());
    testkit::eventually(SOON, "nothing is left", || {
        let count = |dir: &str| std::fs::read_dir(root.path().join("store").join(dir)).unwrap().count();
        match ["blobs", "layers", "ingest", "trash"].map(count) {
            [0, 0, 0, 0] => Ok(()),
            left => Err(left),
        }
    });
    // What is behind the end of an archive is not its own.
    let padded = [archive, vec![0; 1 << 20]].concat();
    images.import(Cursor::new(padded)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn people_give_names_and_take_them_and_the_last_one_takes_the_image() {
    let node = Node::new();
    for (text, name) in [("one", "localhost/a:1"), ("two", "localhost/b:1")] {
        node.images.import(Cursor::new(image(text).archive(name))).await.unwrap();
    }
    let tag = |text: &str| text.parse::<ImageRef>().unwrap();
    node.images.tag("localhost/a:1", &tag("new")).await.unwrap();
    assert_eq!(node.found("new").tags, ["docker.io/library/new:latest", "localhost/a:1"]);
    // A tag moves.
    node.images.tag(&image("two").id(), &tag("new")).await.unwrap();
    assert_eq!(node.found(&image("one").id()).tags, ["localhost/a:1"]);
    assert_eq!(node.found("new").id.as_str(), image("two").id());
    assert!(matches!(node.images.tag("none", &tag("x")).await, Err(Error::NotFound { .. })));
    let by_digest = tag(&format!("r.io/x@{}", image("one").digest()));
    assert!(matches!(node.images.tag("new", &by_digest).await, Err(Error::NoTag { .. })));

    let node = node.restart();
    node.images.recovered().await;
    assert!(matches!(node.images.untag("none", Force::Yes).await, Err(Error::NotFound { .. })));
    assert!(matches!(node.images.untag(&image("two").id(), Force::No).await, Err(Error::SeveralNames { .. })));
    let removed = node.images.untag("new", Force::No).await.unwrap();
    assert_eq!((removed.names, removed.image), (vec!["docker.io/library/new:latest".to_owned()], None));
    let leased = node.images.lease("localhost/b:1").unwrap();
    assert!(matches!(node.images.untag("localhost/b:1", Force::No).await, Err(Error::InUse { .. })));
    let removed = node.images.untag("localhost/b:1", Force::Yes).await.unwrap();
    assert_eq!(removed.image.map(|id| id.to_string()), Some(image("two").id()));
    assert!(leased.layers.iter().all(|layer| layer.exists()));
    drop(leased);
    let removed = node.images.untag(&image("one").id()[7..19], Force::No).await.unwrap();
    assert_eq!(removed.names, ["localhost/a:1"]);
    testkit::eventually(SOON, "nothing is left", || match ["records", "blobs", "layers"].map(|dir| node.count(dir)) {
        [0, 0, 0] => Ok(()),
        left => Err(left),
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root: unpacks layers"]
async fn whoever_looks_on_sees_bytes_come_and_layers_end() {
    let (node, registry) = (Node::new(), TinyRegistry::http(Access::Open));
    let built = image("one");
    registry.push("x", "1", &built);
    let (gate, blob) = (Gate::default(), digest_of(&built.layers[1]));
    registry.trouble(&format!("GET /v2/x/blobs/{blob}"), Trouble::Hold(gate.clone()), 1);
    let reference: ImageRef = format!("{}/x:1", registry.host()).parse().unwrap();
    let (first, second) = (Watch::default(), Watch::default());
    let pull = |watch: &Watch| {
        let (images, reference, watch) = (node.images.clone(), reference.clone(), watch.clone());
        tokio::spawn(async move { images.pull_watched(&reference, None, &watch).await })
    };
    let pulls = [pull(&first), pull(&second)];
    // Both see the one piece of work that they share.
    for watch in [&first, &second] {
        eventually_async(SOON, "one layer is done, the other is awaited", || async {
            let layers = watch.layers();
            match layers.as_slice() {
                [one, two] if one.stage == Stage::Done && two.blob.as_str() == blob && two.fetched == 0 => Ok(()),
                _ => Err(layers),
            }
        })
        .await;
    }
    gate.open();
    for pull in pulls {
        assert!(!pull.await.unwrap().unwrap().was_here);
    }
    assert!(first.layers().iter().all(|layer| layer.stage == Stage::Done && layer.fetched == layer.bytes));
    let third = Watch::default();
    let pulled = pull(&third).await.unwrap().unwrap();
    assert!(pulled.was_here && third.layers().is_empty());
    assert_eq!((pulled.id.to_string(), pulled.root.to_string()), (built.id(), built.digest()));
}
