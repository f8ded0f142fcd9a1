//! A store on a throwaway root, and the images that the tests pull.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use images::{Config, Credentials, Error, Image, Images};
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
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let root = tempfile::Builder::new().prefix("crt-images-").tempdir().unwrap();
        let mut config = settings(&root);
        change(&mut config);
        let images = Images::open(config, &root.path().join("store")).unwrap();
        Self { root, images }
    }

    /// What a restart of the daemon does to the store.
    pub(crate) fn restart(self) -> Self {
        let Node { root, images } = self;
        drop(images);
        let images = Images::open(settings(&root), &root.path().join("store")).unwrap();
        Node { root, images }
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Digest, Error> {
        self.images.pull(reference, None).await
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
            let left = self.count("trash") + self.count("ingest");
            if left == 0 { Ok(()) } else { Err(left) }
        });
    }
}

fn settings(root: &TempDir) -> Config {
    Config {
        config_path: vec![root.path().join("certs.d")],
        docker_config: root.path().join("docker.json"),
        ..Config::default()
    }
}

/// An image of two layers whose content is this text.
pub(crate) fn image(text: &str) -> BuiltImage {
    let base = Layer::new().directory("etc", 0o755).file("etc/base", 0o644, b"base").file("gone", 0o644, b"x");
    let top = Layer::new().file("etc/text", 0o640, text.as_bytes()).file(".wh.gone", 0o644, b"");
    ImageBuilder::new().layer(base).layer(top).set("Cmd", serde_json::json!(["sh"])).build()
}
