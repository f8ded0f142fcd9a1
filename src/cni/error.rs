//! What can go wrong between us and a plugin, each naming its object.

use std::{io, path::PathBuf};

use model::Class;

use crate::Command;

/// Shorthand of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// A configuration or a plugin that did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that does not parse or says something impossible.
    #[error("network configuration, {key}: {why}")]
    Conflist {
        /// Path of the offending key, `plugins[0].type`.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The plugin is in none of the directories.
    #[error("plugin type={plugin:?} is not in {}", listed(dirs))]
    Missing {
        /// Its type.
        plugin: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// The plugin said no.
    #[error("plugin type={plugin:?} failed ({command}): {said}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// The specification's number for it; `None` when it gave none.
        code: Option<u64>,
        /// Its own words: message and details, or what it wrote to its standard error.
        said: String,
    },
    /// The plugin did not come to an end in time.
    #[error("plugin type={plugin:?} failed ({command}): no end within {seconds} s, so it was killed{said}")]
    Late {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// How long it had.
        seconds: u64,
        /// What it had written to its standard error, after `: `.
        said: String,
    },
    /// What the plugin printed is no answer.
    #[error("plugin type={plugin:?} failed ({command}): its answer is none: {why}")]
    Answer {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// What is wrong with it.
        why: String,
    },
    /// The plugin does not know the version that its list is written in.
    #[error("plugin type={plugin:?} does not support config version {version:?}, only {}", supported.join(", "))]
    Version {
        /// Its type.
        plugin: String,
        /// The list's version.
        version: String,
        /// What it does know.
        supported: Vec<String>,
    },
    /// The plugin could not be run.
    #[error("plugin type={plugin:?} could not be run ({command})")]
    Run {
        /// Its type.
        plugin: String,
        /// What it was to do.
        command: Command,
        /// Why not.
        source: link::Error,
    },
    /// The cache of attachments, or the directory of configurations.
    #[error("{act} {}", path.display())]
    File {
        /// What was being done.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Conflist { .. } => Class::Invalid,
            // Code 11 is the specification's "try again later".
            Self::Plugin { code: Some(11), .. } | Self::Missing { .. } | Self::Late { .. } => Class::Unavailable,
            Self::Version { .. } => Class::Precondition,
            Self::Plugin { .. } | Self::Answer { .. } => Class::Internal,
            Self::Run { source, .. } => source.class(),
            Self::File { source, .. } => Class::of_kernel(source),
        }
    }
}

fn listed(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}
