//! What can be wrong with a layer.

use std::io;

use model::{Class, Digest};

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The kernel refused something.
    #[error("{act} {path:?}")]
    Kernel {
        /// What was done.
        act: &'static str,
        /// The entry it was done for.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The archive has an entry that is not for us.
    #[error("entry {path:?}: {why}")]
    Entry {
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The archive is not one.
    #[error("read the archive{at}: {why}")]
    Archive {
        /// What is wrong with it.
        why: &'static str,
        /// Where: ` in entry "a"`, ` after entry "a"`; empty at its beginning.
        at: String,
    },
    /// The stream could not be read or inflated.
    #[error("inflate")]
    Stream {
        /// What is wrong with it.
        source: io::Error,
    },
    /// Inflating it takes more memory than a layer gets at first; told to nobody, since it gets more then.
    #[error("inflate: a frame asks for more than 8 MiB of memory")]
    Window,
    /// It is larger than the configuration allows.
    #[error("it has more than {limit} {what} (images.limits){at}")]
    Budget {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// Where that was seen, as in an archive that is not one.
        at: String,
    },
    /// Its content is not what the image's configuration says.
    #[error("its diff id is {found}, the configuration says {expected}")]
    DiffId {
        /// As the configuration has it.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// Nobody wants it any more.
    #[error("cancelled")]
    Cancelled,
}

impl Fault {
    pub(crate) fn archive(why: &'static str) -> Self {
        Fault::Archive { why, at: String::new() }
    }

    pub(crate) fn budget(what: &'static str, limit: u64) -> Self {
        Fault::Budget { what, limit, at: String::new() }
    }

    /// Of the entry with this path, however long that is.
    pub(crate) fn entry(path: &[u8], why: &'static str) -> Self {
        Fault::Entry { path: shown(path), why }
    }

    /// Says where in the archive it was, unless it says so already.
    pub(crate) fn at(mut self, relation: &str, path: &[u8]) -> Self {
        if let Fault::Archive { at, .. } | Fault::Budget { at, .. } = &mut self
            && at.is_empty()
        {
            *at = format!(" {relation} entry {:?}", shown(path));
        }
        self
    }

    pub(super) fn class(&self) -> Class {
        match self {
            Fault::Kernel { source, .. } => Class::of_kernel(source),
            Fault::Entry { .. }
            | Fault::Archive { .. }
            | Fault::Stream { .. }
            | Fault::Window
            | Fault::DiffId { .. } => Class::Invalid,
            Fault::Budget { .. } => Class::Exhausted,
            Fault::Cancelled => Class::Cancelled,
        }
    }
}

/// The beginning of a path of an archive, for people.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}
