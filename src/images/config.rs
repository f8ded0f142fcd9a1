//! What an operator may set about images.

use std::path::PathBuf;

use serde::Deserialize;

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
    /// References that the kubelet's garbage collection must leave alone, as a pod spec would name them.
    pub pinned: Vec<String>,
    /// Blobs of one image that are fetched at the same time. Three is what registries expect of one client.
    pub parallel_fetches: usize,
    /// Seconds until a connection must stand.
    pub connect_timeout_s: u64,
    /// Seconds without a byte after which a connection is given up. There is no limit on a whole pull.
    pub idle_timeout_s: u64,
    /// Bounds on what an image may make us do.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            config_path: vec![PathBuf::from("/etc/coracle/certs.d")],
            docker_config: PathBuf::from("/etc/coracle/docker.json"),
            pinned: Vec::new(),
            parallel_fetches: 3,
            connect_timeout_s: 30,
            idle_timeout_s: 60,
            limits: Limits::default(),
        }
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
    /// Directories above an entry. Deletion holds a descriptor for each level.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layers: 500, layer_bytes: 256 << 30, layer_entries: 5_000_000, depth: 200 }
    }
}
