//! What can go wrong with records, and what is wrong with a damaged one.

use std::{io, path::PathBuf};

use model::Class;

/// Why an act on records did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot be a record's: it would leave the directory or collide with our own files.
    #[error("{name:?} cannot name a record: want letters, digits, `.`, `_`, `-`, at most 200, no leading dot")]
    Name {
        /// The name that was given.
        name: String,
    },
    /// The value has no written form (a map with keys that are not text, for one), or is too large.
    #[error("encode a {kind} record: {why}")]
    Encode {
        /// Kind of the record.
        kind: String,
        /// What the value has that cannot be written.
        why: String,
    },
    /// The bytes are not a whole record.
    #[error("read a {kind} record")]
    Damaged {
        /// Kind that was asked for.
        kind: String,
        /// What is wrong with it.
        source: Damage,
    },
    /// The directory of the records could not be made, opened or listed.
    #[error("open the records in {}", dir.display())]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A record could not be written; what was there before still is.
    #[error("write record {name}")]
    Write {
        /// Name of the record.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A record could not be read.
    #[error("read record {name}")]
    Read {
        /// Name of the record.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A record could not be removed.
    #[error("remove record {name}")]
    Remove {
        /// Name of the record.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Another daemon holds the directory.
    #[error("another coracled{} uses {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Its process, when its lock file says so.
        pid: Option<i32>,
    },
    /// The lock of a directory could not be made.
    #[error("lock {}", dir.display())]
    Lock {
        /// The directory.
        dir: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Name { .. } | Error::Encode { .. } => Class::Invalid,
            Error::InUse { .. } => Class::Conflict,
            Error::Open { source, .. }
            | Error::Write { source, .. }
            | Error::Read { source, .. }
            | Error::Remove { source, .. }
            | Error::Lock { source, .. } => Class::of_kernel(source),
            Error::Damaged { .. } => Class::Internal,
        }
    }
}

/// What is wrong with the bytes of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It does not begin as our records do.
    #[error("it has no header of ours")]
    NoHeader,
    /// It ends before, or goes on after, the length its header tells.
    #[error("it has {found} bytes where its header says {told}")]
    Torn {
        /// Bytes that the header tells.
        told: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Its content is not what was written.
    #[error("its checksum is {found:08x} where its header says {told:08x}")]
    Checksum {
        /// Checksum in the header.
        told: u32,
        /// Checksum of what is there.
        found: u32,
    },
    /// It is whole, and of another kind.
    #[error("it is a {found} record")]
    WrongKind {
        /// The kind it is.
        found: String,
    },
    /// It is whole, and was written by a newer release. It must be left alone.
    #[error("it is of version {found}, and this release reads up to {newest}")]
    Newer {
        /// Its version.
        found: u32,
        /// The newest version that this release reads.
        newest: u32,
    },
    /// It is whole, and its content does not have the form of its kind and version.
    #[error("its content does not fit: {why}")]
    Form {
        /// What does not fit.
        why: String,
    },
    /// It is larger than any record of ours.
    #[error("it has more than {} bytes", crate::LARGEST)]
    TooLarge,
    /// It is not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
}
