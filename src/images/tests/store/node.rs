//! A store on a throwaway root, and the images that the tests pull.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use fault::Faults;
use images::{Config, Credentials, Error, Image, Images, Step};
use model::Digest;
use tempfile::TempDir;
use testkit::{BuiltImage, ImageBuilder, Layer, eventually};

/// How long anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) root: TempDir,
    pub(crate) images: Images,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// One with other settings; a restart takes them back.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(|_| (), change).0
    }

    /// One whose place is made ready before the store is.
    pub(crate) fn on<T>(prepare: impl FnOnce(&Path) -> T, change: impl FnOnce(&mut Config)) -> (Self, T) {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
        let prepared = prepare(root.path());
        let mut config = settings(&root);
        change(&mut config);
        let images = Images::open(config, &root.path().join("store")).unwrap();
        (Self { root, images }, prepared)
    }

    /// One with these faults to inject.
    pub(crate) fn with_faults(text: &str) -> Self {
        let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
        let faults = Faults::read(text, Step::ALL.iter().map(|step| step.name())).unwrap();
        let images = Images::open_with(settings(&root), &root.path().join("store"), faults).unwrap();
        Self { root, images }
    }

    /// What a restart of the daemon does to the store.
    pub(crate) fn restart(self) -> Self {
        let Node { root, images } = self;
        drop(images);
        let images = Images::open(settings(&root), &root.path().join("store")).unwrap();
        Node { root, images }
    }

    /// What a start would find that came now: by a store of its own, on another disk, of which nothing that still goes
    /// on here knows. Of what is half-made or on its way out a start keeps nothing, and no more is taken along.
    pub(crate) fn as_found(&self) -> Self {
        let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
        let (from, to) = (self.root.path().join("store"), root.path().join("store"));
        fs::create_dir(&to).unwrap();
        let kept = ["records", "blobs", "layers"].map(|directory| from.join(directory));
        assert!(Command::new("cp").arg("-a").args(kept).arg(to).status().unwrap().success());
        let images = Images::open(settings(&root), &root.path().join("store")).unwrap();
        Node { root, images }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Digest, Error> {
        self.images.pull(reference, None).await
    }

    /// Has every blob of the image named by a record, then gone with it.
    pub(crate) async fn pull_and_remove(&self, reference: &str) {
        self.pull(reference).await.unwrap();
        self.images.remove(reference).await.unwrap();
    }

    pub(crate) async fn pull_as(&self, reference: &str, credentials: Option<Credentials>) -> Result<Digest, Error> {
        self.images.pull(reference, credentials).await
    }

    pub(crate) fn found(&self, what: &str) -> Arc<Image> {
        self.images.find(what).unwrap().unwrap_or_else(|| panic!("{what} is not here"))
    }

    pub(crate) fn is_here(&self, what: &str) -> bool {
        self.images.find(what).unwrap().is_some()
    }

    /// Writes `certs.d/<host>/hosts.toml`.
    pub(crate) fn hosts(&self, host: &str, text: &str) -> PathBuf {
        let dir = self.root.path().join("certs.d").join(host);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("hosts.toml"), text).unwrap();
        dir
    }

    /// Writes the node's own credentials.
    pub(crate) fn docker_config(&self, content: &serde_json::Value) {
        fs::write(self.root.path().join("docker.json"), content.to_string()).unwrap();
    }

    /// How many things lie in a directory of the store.
    pub(crate) fn count(&self, directory: &str) -> usize {
        fs::read_dir(self.root.path().join("store").join(directory)).unwrap().count()
    }

    /// Waits until the trash is empty, and checks that nothing half-made lies about.
    pub(crate) fn settles(&self) {
        eventually(SOON, "the trash and the workplace are empty", || {
            let left = ["trash", "ingest"].map(|directory| {
                let entries = fs::read_dir(self.root.path().join("store").join(directory)).unwrap();
                entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
            });
            if left.iter().all(Vec::is_empty) { Ok(()) } else { Err(left) }
        });
    }
}

fn settings(root: &TempDir) -> Config {
    Config {
        config_path: vec![root.path().join("certs.d")],
        docker_config: root.path().join("docker.json"),
        policy: vec![root.path().join("policy.json")],
        ..Config::default()
    }
}

/// An image of two layers whose content is this text.
pub(crate) fn image(text: &str) -> BuiltImage {
    let base = Layer::new().directory("etc", 0o755).file("etc/base", 0o644, b"base").file("gone", 0o644, b"x");
    let top = Layer::new().file("etc/text", 0o640, text.as_bytes()).file(".wh.gone", 0o644, b"");
    ImageBuilder::new().layer(base).layer(top).set("Cmd", serde_json::json!(["sh"])).build()
}

/// An archive as `docker save` writes it, of one image with these tags.
pub(crate) fn docker_archive(built: &BuiltImage, tags: &[&str]) -> Vec<u8> {
    let layers: Vec<String> = (0..built.layers.len()).map(|n| format!("{n}.tar")).collect();
    let saved = serde_json::json!([{ "Config": "config.json", "RepoTags": tags, "Layers": layers }]);
    let mut archive = Layer::new().file("config.json", 0o644, &built.config);
    for (path, layer) in layers.iter().zip(&built.layers) {
        archive = archive.file(path, 0o644, layer);
    }
    archive.file("manifest.json", 0o644, saved.to_string().as_bytes()).tar()
}
