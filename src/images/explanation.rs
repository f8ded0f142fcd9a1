//! How a pull would go, told without doing it: data, for whoever puts it into words.

use std::{path::PathBuf, time::Duration};

use model::Digest;

use crate::Outcome;

/// Whether the hosts are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// No host: only what the files say.
    Nobody,
    /// Every host that a pull could ask, also those after the one that has it.
    Everybody,
}

/// How a pull would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The name in full.
    pub reference: String,
    /// The `hosts.toml`, or directory of certificates, that says whom to ask; none when the name alone does.
    pub from: Option<PathBuf>,
    /// Whom it would ask, in order.
    pub hosts: Vec<HostExplained>,
}

/// One host of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExplained {
    /// Host and port.
    pub host: String,
    /// Where its API begins.
    pub address: String,
    /// It may be asked for content.
    pub pull: bool,
    /// It may be asked what a tag points to.
    pub resolve: bool,
    /// Any certificate is taken.
    pub skip_verify: bool,
    /// Files of authorities that it may be signed by, besides the system's.
    pub authorities: Vec<PathBuf>,
    /// Files of our own certificates.
    pub certificates: Vec<PathBuf>,
    /// Names of the headers that are sent to it. Their values may be secrets.
    pub headers: Vec<String>,
    /// The proxy before it.
    pub proxy: Option<String>,
    /// What we would prove ourselves with.
    pub credentials: CredentialSource,
    /// What it answers; `None` when it was not asked.
    pub answer: Option<HostAnswer>,
}

/// Where credentials come from. Never what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// There are none for this host.
    None,
    /// The request.
    Request,
    /// The node's own file.
    Entry {
        /// The file.
        file: PathBuf,
        /// The key of the entry.
        key: String,
    },
    /// A credential helper that the node's own file names.
    Helper {
        /// The file.
        file: PathBuf,
        /// What comes after `docker-credential-`.
        name: String,
    },
}

/// What a host answers to the question what the name points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAnswer {
    /// The digest and the media type, or why not.
    pub found: Result<(Digest, Option<String>), Outcome>,
    /// How long it took, with all that was needed to be let in.
    pub took: Duration,
}
