//! Archives between tools: skopeo and umoci read ours, and we read theirs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use testkit::{Access, TinyRegistry};

use crate::command::{Coracle, image, run};

/// Debian's.
fn skopeo(directory: &Path, arguments: &[&str]) -> String {
    run(Command::new("skopeo").arg("--insecure-policy").args(arguments).current_dir(directory))
}

/// Pinned in `tests/tools`.
fn umoci(directory: &Path, arguments: &[&str]) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/bin/umoci");
    run(Command::new(program).args(arguments).current_dir(directory))
}

/// What skopeo finds: id (by the configuration's digest) and the digests of the layers.
fn inspected(directory: &Path, from: &str) -> (String, Vec<String>) {
    let manifest: Value = serde_json::from_str(&skopeo(directory, &["inspect", "--raw", from])).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let digest = |value: &Value| value["digest"].as_str().unwrap().to_owned();
    (digest(&manifest["config"]), layers.map(digest).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn skopeo_reads_what_we_save_in_both_its_forms_and_copies_it_whole() {
    let coracle = Coracle::start();
    let directory = coracle.node.dir().to_owned();
    coracle.load(&image("one").archive("localhost/one:1"));
    coracle.load(&image("two").archive("localhost/two:1"));
    coracle.ok(&["save", "-o", "one.tar", "localhost/one:1"]);
    coracle.ok(&["save", "-o", "both.tar", "localhost/one:1", "localhost/two:1"]);
    let layers = |text: &str| image(text).layers.iter().map(|layer| testkit::digest_of(layer)).collect::<Vec<_>>();
    for from in ["oci-archive:one.tar", "oci-archive:one.tar:1", "docker-archive:one.tar"] {
        assert_eq!(inspected(&directory, from), (image("one").id(), layers("one")), "{from}");
    }
    for text in ["one", "two"] {
        for form in ["oci-archive", "docker-archive"] {
            let from = format!("{form}:both.tar:localhost/{text}:1");
            assert_eq!(inspected(&directory, &from), (image(text).id(), layers(text)), "{from}");
        }
    }
    // Copying reads and verifies every blob.
    skopeo(&directory, &["copy", "docker-archive:both.tar:localhost/two:1", "dir:copied"]);
    assert_eq!(fs::read(directory.join("copied").join(&image("two").id()[7..])).unwrap(), image("two").config);
    // Compressed as a whole, too; Debian's skopeo reads no docker archive so, whoever wrote it.
    coracle.ok(&["save", "--compress", "gzip", "-o", "one.tgz", "localhost/one:1"]);
    assert_eq!(inspected(&directory, "oci-archive:one.tgz").0, image("one").id());
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn what_skopeo_writes_is_loaded_archives_and_directories() {
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(Access::Open));
    let directory = coracle.node.dir().to_owned();
    registry.push("x", "1", &image("one"));
    let from = format!("docker://{}/x:1", registry.host());
    let id = image("one").id();
    for (to, input, name) in [
        ("docker-archive:d.tar:localhost/d:1", "d.tar", Some("localhost/d:1")),
        ("oci-archive:o.tar:localhost/o:1", "o.tar", Some("localhost/o:1")),
        ("oci-archive:n.tar", "n.tar", None),
        ("oci:layout:localhost/l:1", "layout", Some("localhost/l:1")),
        ("oci:zstd:localhost/z:1 --dest-compress-format zstd", "zstd", Some("localhost/z:1")),
    ] {
        let arguments: Vec<&str> = ["copy", "--src-tls-verify=false", &from].into_iter().chain(to.split(' ')).collect();
        skopeo(&directory, &arguments);
        let told = match name {
            Some(name) => format!("Loaded image: {name}\n"),
            None => format!("Loaded image ID: {id}\n"),
        };
        assert_eq!(coracle.ok(&["load", "-q", "-i", input]), told, "{to:?}");
        assert_eq!(coracle.ok(&["images", "-q", "--no-trunc"]).trim(), id, "{to:?}");
        coracle.ok(&["rmi", "-f", &id]);
    }
    coracle.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "needs root: runs a whole node"]
async fn umoci_unpacks_what_we_save_and_we_load_what_it_has_changed() {
    let (coracle, registry) = (Coracle::start(), TinyRegistry::http(Access::Open));
    let directory = coracle.node.dir().to_owned();
    registry.push("x", "1", &image("one"));
    let name = format!("{}/x:1", registry.host());
    coracle.ok(&["pull", "-q", &name]);
    coracle.ok(&["save", "-o", "one.tar", &name]);
    let layout: PathBuf = directory.join("layout");
    fs::create_dir(&layout).unwrap();
    run(Command::new("tar").args(["-xf", "one.tar", "-C", "layout"]).current_dir(&directory));
    assert_eq!(umoci(&directory, &["ls", "--layout", "layout"]).trim(), "1");
    umoci(&directory, &["unpack", "--image", "layout:1", "bundle"]);
    let rootfs = directory.join("bundle/rootfs");
    assert_eq!(fs::read_to_string(rootfs.join("etc/text")).unwrap(), "one");
    assert!(rootfs.join("etc/base").exists() && !rootfs.join("gone").exists(), "both layers, with the whiteout");

    fs::write(rootfs.join("etc/more"), "more").unwrap();
    umoci(&directory, &["repack", "--image", "layout:changed", "bundle"]);
    umoci(&directory, &["config", "--image", "layout:changed", "--config.user", "nobody"]);
    // umoci knows the tag alone, and copies the name that it comes from along.
    let changed = format!("{}/x:changed", registry.host());
    let told = coracle.ok(&["load", "-q", "-i", "layout"]);
    assert_eq!(told, format!("Loaded image: {name}\nLoaded image: {changed}\n"));
    coracle.ok(&["save", "-o", "changed.tar", &changed]);
    let config = skopeo(&directory, &["inspect", "--config", "oci-archive:changed.tar"]);
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["config"]["User"], "nobody");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    coracle.finish().await;
}
