//! Who unpacks: this engine through the door by which archives enter, umoci, and containerd in both of its ways.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use images::{Config, Images};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use testkit::ImageBuilder;
use tokio::runtime::Runtime;

use crate::{
    corpus::Case,
    tree::{self, Tree},
};

const REFERENCE: &str = "localhost/corpus:1";

/// How a peer unpacks what is in the scratch directory.
type Unpack = fn(&Scratch) -> Result<Tree, String>;

/// Everybody else. `containerd` unpacks each layer into a directory of its own, as its overlay snapshots are made;
/// `containerd-onto` one layer onto the other, as it does for every other file system.
pub(crate) const PEERS: [(&str, Unpack); 3] =
    [("umoci", Scratch::umoci), ("containerd", Scratch::containerd), ("containerd-onto", Scratch::containerd_onto)];

/// An image in a directory, as an archive, as a layout and as loose layers.
pub(crate) struct Scratch {
    dir: TempDir,
    layers: usize,
}

impl Scratch {
    pub(crate) fn new(case: &Case) -> Scratch {
        let dir = tempfile::Builder::new().prefix("crt-unpackers-").tempdir().unwrap();
        let mut image = ImageBuilder::new();
        for (n, layer) in case.layers.iter().enumerate() {
            fs::write(dir.path().join(format!("layer-{n}")), &layer.blob).unwrap();
            image = image.layer_packed(&layer.tar, layer.blob.clone(), layer.media_type);
        }
        let archive = image.build().archive(REFERENCE);
        tar::Archive::new(archive.as_slice()).unpack(dir.path().join("layout")).unwrap();
        fs::write(dir.path().join("archive"), archive).unwrap();
        Scratch { dir, layers: case.layers.len() }
    }

    pub(crate) fn ours(&self) -> Result<Tree, String> {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let images = Images::open(Config::default(), &self.path("ours")).unwrap();
            let archive = File::open(self.path("archive")).unwrap();
            let made = images.import(archive).await.map_err(|error| chain(&error))?;
            let leased = images.lease(made[0].id.as_str()).unwrap();
            Ok(self.merged(&leased.layers))
        })
    }

    fn umoci(&self) -> Result<Tree, String> {
        let rootfs = self.path("umoci");
        let image = format!("{}:1", self.path("layout").display());
        let mut umoci = tool("umoci");
        umoci.args(["raw", "unpack", "--image", &image]).arg(&rootfs);
        run(umoci)?;
        Ok(tree::read(&rootfs))
    }

    fn containerd(&self) -> Result<Tree, String> {
        let mut layers: Vec<PathBuf> = Vec::new();
        for n in 0..self.layers {
            let target = self.path(&format!("containerd-{n}"));
            fs::create_dir(&target).unwrap();
            let mut unpack = tool("containerd-unpack");
            unpack.arg("overlay").arg(&target).args(&layers).stdin(self.layer(n));
            run(unpack)?;
            layers.insert(0, target);
        }
        Ok(self.merged(&layers))
    }

    fn containerd_onto(&self) -> Result<Tree, String> {
        let target = self.path("containerd-onto");
        fs::create_dir(&target).unwrap();
        for n in 0..self.layers {
            let mut unpack = tool("containerd-unpack");
            unpack.arg("onto").arg(&target).stdin(self.layer(n));
            run(unpack)?;
        }
        Ok(tree::read(&target))
    }

    /// What a container would see of these layers, topmost first.
    fn merged(&self, layers: &[PathBuf]) -> Tree {
        let (target, empty) = (self.path("merged"), self.path("empty"));
        fs::create_dir_all(&target).unwrap();
        // A lower layer alone is no overlay.
        fs::create_dir_all(&empty).unwrap();
        let layers: Vec<String> = layers.iter().chain([&empty]).map(|path| path.display().to_string()).collect();
        let options = format!("lowerdir={}", layers.join(":"));
        mount(Some("overlay"), &target, Some("overlay"), MsFlags::MS_RDONLY, Some(options.as_str())).unwrap();
        let seen = tree::read(&target);
        umount2(&target, MntFlags::empty()).unwrap();
        seen
    }

    fn layer(&self, n: usize) -> File {
        File::open(self.path(&format!("layer-{n}"))).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn tool(name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/tools/unpackers/build", path.display());
    Command::new(path)
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(said.lines().last().unwrap_or_default().to_owned())
}

/// An error with what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
