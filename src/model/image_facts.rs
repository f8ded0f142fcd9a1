//! What an image says about the containers made from it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Digest, EnvVar, Signal};

/// The part of an image's configuration that shapes a container. Already checked: no NUL anywhere, paths absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<EnvVar>,
    /// Working directory, if it names one.
    pub working_dir: Option<PathBuf>,
    /// `user`, `user:group`, by name or number; empty is root.
    pub user: String,
    /// Paths that want storage of their own.
    pub volumes: Vec<PathBuf>,
    /// Signal of a polite stop.
    pub stop_signal: Option<Signal>,
}
