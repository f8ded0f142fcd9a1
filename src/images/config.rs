//! What an operator may set about images.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{Error, Result, pinned::Pins};

/// The `[images]` part of the configuration. Every key has a default that works.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directories that hold `<host>/hosts.toml` and certificates, in the order they are tried. Read again at each
    /// pull.
    pub config_path: Vec<PathBuf>,
    /// The node's own credentials, in the form of Docker's `config.json`, for what a request brings none for. May be
    /// missing; read again at each pull.
    pub docker_config: PathBuf,
    /// Policy files (containers-policy.json(5)); the first that exists says which images may be pulled, and without any
    /// all may. `~` is the home of the daemon's user. Read again at each pull.
    pub policy: Vec<PathBuf>,
    /// What the kubelet's garbage collection must leave alone: references, as a pod spec would name them, and patterns
    /// of whole names, `beginning*` and `*part*`.
    pub pinned: Vec<String>,
    /// Blobs of one image that are fetched at the same time. Three is what registries expect of one client.
    pub parallel_fetches: usize,
    /// Seconds until a connection must stand.
    pub connect_timeout_s: u64,
    /// Seconds without a byte after which a connection is given up; one that brings less than 1 KiB a second over five
    /// times as long is given up too, and another goes on where it was. There is no limit on a whole pull.
    pub idle_timeout_s: u64,
    /// Bounds on what an image may make us do.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            config_path: vec![PathBuf::from("/etc/coracle/certs.d")],
            docker_config: PathBuf::from("/etc/coracle/docker.json"),
            policy: ["~/.config/containers/policy.json", "/etc/containers/policy.json"].map(PathBuf::from).into(),
            pinned: Vec::new(),
            parallel_fetches: 3,
            connect_timeout_s: 30,
            idle_timeout_s: 60,
            limits: Limits::default(),
        }
    }
}

/// A day: a longer wait than that is none, and a clock overflows somewhere above.
const LONGEST_WAIT_S: u64 = 86_400;
/// More at once helps nobody, and no registry bears it.
const MOST_FETCHES: u64 = 64;
/// Layers that the kernel's overlay takes.
const MOST_LAYERS: u64 = 500;

impl Config {
    /// Refuses what can never work, naming the setting.
    pub fn check(&self) -> Result<()> {
        let Limits { layers, layer_bytes, layer_entries, image_bytes, image_entries, archive_bytes, depth } =
            self.limits;
        for (key, value, most) in [
            ("parallel_fetches", self.parallel_fetches as u64, MOST_FETCHES),
            ("connect_timeout_s", self.connect_timeout_s, LONGEST_WAIT_S),
            ("idle_timeout_s", self.idle_timeout_s, LONGEST_WAIT_S),
            ("limits.layers", layers as u64, MOST_LAYERS),
            ("limits.layer_bytes", layer_bytes, i64::MAX as u64),
            ("limits.layer_entries", layer_entries, i64::MAX as u64),
            ("limits.image_bytes", image_bytes, i64::MAX as u64),
            ("limits.image_entries", image_entries, i64::MAX as u64),
            ("limits.archive_bytes", archive_bytes, i64::MAX as u64),
            ("limits.depth", depth as u64, i64::MAX as u64),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::Setting { key, value, most });
            }
        }
        Pins::check(self)
    }
}

/// Bounds on what one image may be. Far above any honest image; they end bombs before the disk is full.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Layers of an image. The kernel's overlay takes 500.
    pub layers: usize,
    /// Bytes of a layer after inflating, with its holes and what its hard links bring up from below.
    pub layer_bytes: u64,
    /// Entries of a layer, and what they make: one path may be that of many directories.
    pub layer_entries: u64,
    /// The same bytes of all layers of an image together. What its manifest says of its blobs is held against it before
    /// the first of them is asked for.
    pub image_bytes: u64,
    /// Files and directories of all layers of an image together.
    pub image_entries: u64,
    /// Bytes of an archive of images after inflating, where one is loaded.
    pub archive_bytes: u64,
    /// Directories above an entry. Deletion holds a descriptor for each level.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layers: 500,
            layer_bytes: 256 << 30,
            layer_entries: 5_000_000,
            image_bytes: 512 << 30,
            image_entries: 10_000_000,
            archive_bytes: 1 << 40,
            depth: 200,
        }
    }
}
