//! What this room must be told.

use std::path::PathBuf;

/// Places that verbose answers name. All else that could be set is a property of the host or not built yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of what survives a reboot.
    pub root: PathBuf,
    /// Directory of what does not. critest tries idmapped mounts beside it.
    pub state: PathBuf,
    /// Runtime handlers that pods may name, beside the default one.
    pub handlers: Vec<String>,
}
